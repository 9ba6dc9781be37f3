"""The plan of a sweep: which jobs are done and which are left, what is missing here, how long the jobs take."""

import functools
import os
import textwrap
from pathlib import Path

import pandas as pd

from repro.compare import frame, run_seconds
from repro.register import CHECKOUT, place
from repro.register import job as job_of
from repro.rows import of_stand_ins, read, standing
from repro.sweep import outstanding, rows_path


WIDTH = 120  # of what is printed below the table
N_DEVICES = 3  # columns of the table
N_NAMED = 8  # classes named on one line
KIND = ["paper", "dataset", "protocol", "profile", "backbone"]  # shared by jobs whose times can be compared


def missing(jobs: list[dict]) -> list[dict]:
    """What the jobs need and this machine lacks, in the order of the jobs that need it: a list of dicts.

    what ("mnist", "mvtec bottle", "weights of resnet18"); how, one sentence on how to get it; is_downloaded, whether a
    job downloads it by itself; n_jobs, how many need it. Raises ValueError for an unknown dataset or backbone.
    """
    from adlib import backbones  # these import torch, as `register.jobs` does
    from repro import data

    # looked up once for all jobs, and again by the next call, because files come and go
    there, lacking = functools.cache(data.there), {}
    for job in jobs:
        given = job["settings"]
        # 32 if the register says nothing: the default of `data.one_class`, and of notebooks without image_size
        images = data.missing(job["dataset"], job["class"], given.get("image_size", 32), there)
        weights = backbones.missing(given.get("backbone"), given.get("weights"))
        for what, how, is_downloaded in filter(None, (images, weights)):
            entry = {"what": what, "how": how, "is_downloaded": is_downloaded, "n_jobs": 0}
            lacking.setdefault(what, entry)["n_jobs"] += 1
    return list(lacking.values())


def seconds(jobs: list[dict], rows: list[dict]) -> pd.DataFrame:
    """How long each job should take, judged by the rows: columns device, job (its id), seconds, is_alike.

    One line for each device with runs of the job's KIND. Only runs with the job's own settings count, whatever their
    seed (then is_alike), or else all; among these only runs of its own class, or else all. The estimate is their mean:
    too low if only other seeds have run, and train less. Failed rows and stand-ins do not count.
    """
    counted = [row for row in rows if row["status"] == "ok" and row["device"] and not of_stand_ins(row)]
    runs = frame(counted).assign(backbone=[place(row)[-1] for row in counted])
    runs["seconds"] = runs["job"].map(run_seconds(runs))
    runs["is_cpu"] = runs["device"].str.startswith("cpu")  # a baseline on the CPU belongs to the run of a GPU
    runs = runs.sort_values(["is_cpu", "device"]).drop_duplicates("job").dropna(subset="seconds")
    runs = runs[[*KIND, "class", "seed", "job", "device", "seconds"]]
    wanted = [job | {"job": job["id"], "backbone": place(job)[-1]} for job in jobs]
    pairs = pd.DataFrame(wanted, columns=[*KIND, "class", "settings", "job"])
    pairs = pairs.merge(runs, on=KIND, suffixes=("", "_run"))
    names = ["paper", "dataset", "class_run", "protocol", "seed", "profile", "settings", "job_run"]
    pairs["is_alike"] = [job_of(*line)["id"] == job for *line, job in pairs[names].itertuples(index=False, name=None)]
    pairs["is_of_class"] = pairs["class"] == pairs["class_run"]
    for column in ("is_alike", "is_of_class"):
        pairs = pairs[pairs[column] == pairs.groupby(["device", "job"])[column].transform("max")]
    return pairs.groupby(["device", "job"], as_index=False).agg({"seconds": "mean", "is_alike": "all"})


def text(jobs: list[dict], out: str | Path, force: bool = False, command: str = "make reproduce") -> str:
    """The plan of these jobs, with rows under `out`, as text: under 80 lines for all jobs of a profile.

    Estimates come from the rows under `out` and in results/. force: done and stale jobs run too. command: runs the
    jobs. Raises ValueError for a damaged result file, and as `missing` does.
    """
    todo, done, stale = outstanding(jobs, out)
    todo = list(jobs) if force else todo
    paths = {rows_path(folder, job) for folder in (CHECKOUT / "results", Path(out).resolve()) for job in jobs}
    rows = standing([row for path in sorted(paths) for row in read(path)])  # if both hold a job, its newer rows
    known = seconds(todo, rows)
    devices = list(known["device"].value_counts().sort_index().sort_values(ascending=False, kind="stable").index)
    ids = {job["id"] for job in todo}
    n_unknown = len(ids - set(known["job"]))
    n_failed = len(ids & {row["job"] for row in rows if row["status"] == "failed"})
    notes = {
        "hours left: for one job at a time on that device, from the rows of such jobs. Rows without job_seconds cover "
        "only training and scoring; reading data, kernels and pictures come on top. Two jobs at once on two cores "
        "share them, one thread each; on one GPU they share it.": len(known),
        "~: in part from rows of other settings, such as more or fewer methods": not known["is_alike"].all(),
        f"unknown: {n_unknown} of {len(todo)} jobs have no row to estimate from (same paper, dataset, protocol, "
        "profile and backbone), and count in no sum of hours": n_unknown,
        f"the rows hold other devices too: {', '.join(devices[N_DEVICES:])}": devices[N_DEVICES:],
        f"{n_failed} of the jobs to run failed in their last run": n_failed,
    }
    notes = [note for note, applies in notes.items() if applies]
    last = [f"to run {'it' if len(todo) == 1 else f'these {len(todo)}'}: {command}" if todo else "nothing to run"]
    if stale and not force:
        last.append(f"{len(stale)} stale: their rows are of other settings; FORCE=1 (--force) runs them again")
    style = {"width": WIDTH, "subsequent_indent": "    ", "break_long_words": False, "break_on_hyphens": False}
    blocks = ["\n".join(textwrap.fill(text, **style) for text in block) for block in (notes, _needs(todo))]
    table = _table(jobs, done, stale, todo, known, devices[:N_DEVICES])
    return "\n\n".join(filter(None, [table, *blocks, "\n".join(last)]))


def _table(jobs, done, stale, todo, known, devices):
    """The table as text: paper (and backbone), dataset and protocol, counts of jobs, hours left on each device."""
    labels = ["paper", "dataset", "protocol"]
    frame = pd.DataFrame(jobs, columns=["paper", "dataset", "protocol", "settings", "id"]).rename(columns={"id": "job"})
    frame["paper"] += [f" {given.get('backbone', '')}".rstrip() for given in frame["settings"]]
    frame["dataset"] = frame["dataset"].str.replace("(?<=:).*/", "", regex=True)  # of a path only the last part
    for name, part in (("done", done), ("stale", stale), ("to run", todo)):
        frame[name] = frame["job"].isin([job["id"] for job in part])
    frame = pd.concat([frame, frame.assign(paper="all", dataset="", protocol="")])
    table = frame.assign(jobs=1).groupby(labels, sort=False)[["jobs", "done", "stale", "to run"]].sum()
    for device in devices:
        left = frame[frame["to run"]].merge(known[known["device"] == device], on="job", how="left")
        hours = {label: _hours(group) for label, group in left.groupby(labels)}
        table[device] = [hours.get(label, "-") for label in table.index]
    table = table.reset_index()
    for label in labels:
        table[label] = table[label].str.ljust(table[label].str.len().max())
    return table.to_string(index=False, justify="left")


def _hours(left):
    """'0.4 h', '~0.4 h for 9, 3 unknown' or '3 unknown', for jobs to run with their seconds; NaN is unknown."""
    known = left.dropna(subset="seconds")
    hours, n_unknown = known["seconds"].sum() / 3600, len(left) - len(known)
    text = f"{'' if known['is_alike'].all() else '~'}{'<0.1' if hours < 0.05 else f'{hours:.1f}'} h"
    text += f" for {len(known)}, " * bool(n_unknown)
    return text * bool(len(known)) + f"{n_unknown} unknown" * bool(n_unknown)


def _needs(todo):
    """The lines on data and weights that are missing, classes of one dataset together."""
    groups, root = {}, os.environ.get("ADLIB_DATA") or "not set"
    for entry in missing(todo):
        name, _, normal = entry["what"].partition(" ")
        groups.setdefault((name, entry["how"]), []).append((normal, entry["n_jobs"]))
    lines = [f"missing here, where $ADLIB_DATA is {root}:"] if groups else []
    for (name, how), entries in groups.items():
        n_jobs = sum(n for _, n in entries)
        more = f" and {len(entries) - N_NAMED} more" * (len(entries) > N_NAMED)
        name = f"{name} {', '.join(normal for normal, _ in entries[:N_NAMED])}{more}".strip()
        # the value of ADLIB_DATA is printed once, not with each
        lines.append(f"  {name}, for {n_jobs} job{'s' * (n_jobs > 1)}: {how.replace(f' (now {root})', '')}")
    return lines or ["data and weights are all here"] * bool(todo)
