"""A rehearsal: every job of the register with the smallest settings, on stand-ins for its data and its weights.

    jobs, n = rehearsal.jobs(register)          # n: how many jobs of the register these are
    report = rehearsal.rehearse(jobs, "build/rehearsal")

So that no job meets its code for the first time after hours, on somebody's GPU. What comes out says nothing: its rows
are marked (`standins.py`). A job takes what the register gives it, cut down to the table [paper.rehearsal].
"""

import os
from pathlib import Path

from repro import register, sweep, worker
from repro.results import read


EMBEDDED = ("digits", "textures")  # these are what they are: no stand-ins


def jobs(book, papers=None, datasets=None):
    """(distinct jobs, how many jobs of the register they stand for): seed 0 of the profiles quick and paper.

    Where two jobs differ in their profile alone, once both are cut down, one of them is run. Raises what
    `register.jobs` and `worker.parameters_of` raise.
    """
    found, n = {}, 0
    for paper in papers or book:
        defaults = worker.parameters_of(register.CHECKOUT / "notebooks" / f"{paper}.ipynb")
        for profile in ("quick", "paper"):
            try:
                held = register.jobs(book, papers=[paper], datasets=datasets, seeds=[0], profile=profile)
            except ValueError:  # this paper has no such profile, or not these datasets
                continue
            for one in held:
                small = cut({**defaults, **one["settings"]}, book[paper].get("rehearsal", {}))
                given = {**one["settings"], **small}
                alike = register.job(paper, one["dataset"], one["class"], one["protocol"], 0, "", given)["id"]
                found.setdefault(
                    alike, register.job(paper, one["dataset"], one["class"], one["protocol"], 0, profile, given)
                )
                n += 1
    if not found:
        register.jobs(book, papers=papers, datasets=datasets, profile="quick")  # says what is wrong
    return list(found.values()), n


def cut(settings, caps):
    """The settings that `caps` changes: a number is a bound from above (None: all there is), anything else is taken."""
    found = {}
    for name, cap in caps.items():
        if isinstance(cap, (int, float)) and not isinstance(cap, bool) and settings.get(name) is not None:
            found[name] = min(settings[name], cap)
        else:
            found[name] = cap
    return found


def a_slice(jobs):
    """The first job of each paper, dataset and protocol."""
    found = {}
    for job in jobs:
        found.setdefault((job["paper"], job["dataset"], job["protocol"]), job)
    return list(found.values())


def rehearse(jobs, folder, **options):
    """Run these jobs under `folder`; options go to `sweep.reproduce`, whose report it returns.

    Stand-ins are written to folder/stand-ins where they are not there yet, and nothing is downloaded. What ran stays
    as long as no code, notebook or register changes, so a rehearsal that was stopped goes on. Changes this process's
    environment. Raises RuntimeError where a job read anything but stand-ins.
    """
    from repro import standins  # imports torch

    folder = Path(folder).resolve()
    standins.write(folder / "stand-ins")
    os.environ.update(ADLIB_DATA=str(folder / "stand-ins"), ADLIB_CACHE=str(folder / "cache"), ADLIB_OFFLINE="1")
    out = folder / register.fingerprint()
    report = sweep.reproduce(jobs, out, **options)
    for path in sorted(out.glob("*.csv")):
        for row in read(path):
            if row["status"] == "ok" and row["dataset"] not in EMBEDDED and not row["data"].startswith("stand-in:"):
                raise RuntimeError(
                    f"{register.describe({**row, 'settings': {}})} was measured on {row['data']}, which is no stand-in"
                )
    return report
