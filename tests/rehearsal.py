"""A rehearsal: every job of the register with the smallest settings, on stand-ins for its data and its weights.

    python -m tests.rehearsal --papers two_stage,cbigan --datasets mnist --jobs 2 --device cpu

So that no job meets its code for the first time after hours, on somebody's GPU. What comes out says nothing: its rows
are marked (`standins.py`). A job takes what the register gives it, cut down to the table [paper.rehearsal]. Rows go to
build/rehearsal.
"""

import argparse
import os
import sys
from pathlib import Path

from repro import register, sweep
from repro.job import gpus, parameters_of
from repro.rows import read


EMBEDDED = ("digits", "textures")  # these are what they are: no stand-ins


def jobs(book, papers=None, datasets=None):
    """(distinct jobs, how many jobs of the register they stand for): seed 0 of the profiles quick and paper.

    Where two jobs differ in their profile alone, once both are cut down, one of them is run. Raises what
    `register.jobs` and `parameters_of` raise.
    """
    distinct, n = {}, 0
    for paper in papers or book:
        defaults = parameters_of(register.CHECKOUT / "notebooks" / f"{paper}.ipynb")
        for profile in ("quick", "paper"):
            try:
                held = register.jobs(book, papers=[paper], datasets=datasets, seeds=[0], profile=profile)
            except ValueError:  # this paper has no such profile, or not these datasets
                continue
            for job in held:
                small = cut({**defaults, **job["settings"]}, book[paper].get("rehearsal", {}))
                given = {**job["settings"], **small}
                place = (paper, job["dataset"], job["class"], job["protocol"], 0)
                alike = register.job(*place, "", given)["id"]
                distinct.setdefault(alike, register.job(*place, profile, given))
                n += 1
    if not distinct:
        register.jobs(book, papers=papers, datasets=datasets, profile="quick")  # says what is wrong
    return list(distinct.values()), n


def cut(settings, caps):
    """The settings that `caps` changes: a number is a bound from above (None: all there is), anything else is taken."""
    small = {}
    for name, cap in caps.items():
        is_bound = isinstance(cap, (int, float)) and not isinstance(cap, bool) and settings.get(name) is not None
        small[name] = min(settings[name], cap) if is_bound else cap
    return small


def a_slice(jobs):
    """A few jobs: each paper with each protocol, each paper on MVTec AD and on small images, and each dataset."""
    seen, chosen = set(), []
    for job in jobs:
        paper, dataset = job["paper"], job["dataset"]
        new = {(paper, job["protocol"]), (paper, dataset == "mvtec"), dataset} - seen
        seen |= new
        chosen += [job] * bool(new)
    return chosen


def on_stand_ins(jobs, data):
    """These jobs with the drawn weights under `data` in place of ImageNet's."""
    changed = []
    for job in jobs:
        settings = dict(job["settings"])
        if settings.get("weights") == "imagenet":
            settings["weights"] = str(data / "weights" / f"{settings['backbone']}.pth")
        place = (job["paper"], job["dataset"], job["class"], job["protocol"], job["seed"], job["profile"])
        changed.append(register.job(*place, settings))
    return changed


def rehearse(jobs, folder, **options):
    """Run these jobs under `folder`; options go to `sweep.reproduce`, whose report it returns.

    Stand-ins are written to folder/stand-ins where they are not there yet, and nothing is downloaded. What ran stays
    as long as no code, notebook or register changes, so a rehearsal that was stopped goes on. Changes this process's
    environment. Raises RuntimeError where a job read anything but stand-ins.
    """
    from tests import standins  # imports torch

    folder = Path(folder).resolve()
    data = folder / "stand-ins"
    standins.write(data)
    # what is prepared of stand-ins goes when they go
    os.environ.update(ADLIB_DATA=str(data), ADLIB_CACHE=str(data / "cache"), ADLIB_OFFLINE="1")
    out = folder / register.fingerprint()
    report = sweep.reproduce(on_stand_ins(jobs, data), out, **options)
    for path in sorted(out.glob("*.csv")):
        for row in read(path):
            if row["status"] == "ok" and row["dataset"] not in EMBEDDED and not row["data"].startswith("stand-in:"):
                name = register.describe({**row, "settings": {}})
                raise RuntimeError(f"{name} was measured on {row['data']}, which is no stand-in")
    return report


def main(arguments=None):
    """The command line; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.rehearsal", description=__doc__.partition("\n")[0])
    names = lambda text: [name for name in text.split(",") if name]  # noqa: E731
    parser.add_argument("--papers", type=names, help="all by default, separated by commas")
    parser.add_argument("--datasets", type=names, help="all by default, separated by commas")
    parser.add_argument("--jobs", type=int, help="so many at once")
    parser.add_argument("--gpus", type=names, help="spread the jobs over these (all there are)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:0, ...")
    given = parser.parse_args(arguments)
    folder = register.CHECKOUT / "build" / "rehearsal"
    try:
        small, n = jobs(register.load(), given.papers, given.datasets)
        print(f"{n} jobs of the register (seed 0, profiles quick and paper), {len(small)} different when cut down")
        seen = given.gpus or (gpus() if given.device in ("auto", "cuda") else [])
        report = rehearse(small, folder, n_jobs=given.jobs, device=given.device, gpus=seen)
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    print(f"{len(report['ok'])} jobs done, {len(report['done'])} before, {len(report['failed'])} failed: {folder}")
    for job in report["failed"]:
        print(f"failed: {register.describe(job)} (its notebook, as far as it came: *.failed.ipynb)")
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
