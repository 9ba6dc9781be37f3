"""The plan of a sweep: which jobs are done and which are left, what they lack on this machine, how long they take.

    print(text(jobs(register, profile="quick"), "results"))     # runs nothing, downloads nothing, writes nothing

`missing`, `stand_ins` and `seconds` take the plain jobs of `register.jobs` and serve programs too; the first two look
at the machine they are called on, as ADLIB_DATA, ADLIB_CACHE and ADLIB_OFFLINE of that process say.
"""

import functools
import json
import os
import textwrap
from pathlib import Path

from repro.register import CHECKOUT, place
from repro.rows import of_stand_ins, read, standing


WIDTH = 120  # of what is printed below the table
N_DEVICES = 3  # columns of the table
N_NAMED = 8  # classes named on one line
# Methods whose training is a part of what another method's row says already: train_seconds there are sums.
PART_OF = {"two_stage_mse": "two_stage", "two_stage_ssim": "two_stage", "rotnet": "two_stage", "ocsvm_oracle": "ocsvm"}


# ---- what is not there ---------------------------------------------------------------------------------------------


def missing(jobs):
    """What the jobs need and this machine has not: a list of dicts, in the order of the jobs that need it.

    what: "mnist"; "mvtec bottle", a category; "cifar100 wolf", a class that the copy at hand lacks; "folder:PATH";
    "weights of resnet18", "weights PATH". how: one sentence on how to get it. is_downloaded: whether a job downloads it
    by itself. n_jobs: how many of the jobs need it. Found by names of files, of an npz by its labels: what is damaged
    counts as there. What just lies prepared counts at the size that a job asks for. Raises ValueError for an unknown
    dataset or backbone.
    """
    from adlib import backbones  # these import torch, as `register.jobs` does
    from repro import data  # these import torch, as `register.jobs` does

    # a few questions for all the jobs; asked anew by the next call, for files come and go
    classes, file = functools.cache(data.there), functools.cache(backbones.there)
    found = {}
    for job in jobs:
        for what, how, is_downloaded in [*_lacking_images(job, classes), *_lacking_weights(job, file)]:
            one = found.setdefault(what, {"what": what, "how": how, "is_downloaded": is_downloaded, "n_jobs": 0})
            one["n_jobs"] += 1
    return list(found.values())


def stand_ins(jobs):
    """What these jobs would read that is a stand-in, so that their rows count for nothing: a list of names."""
    from adlib import backbones
    from repro import data
    from repro.data import readers

    images = dict.fromkeys((job["dataset"], job["class"] if job["dataset"] == "mvtec" else None) for job in jobs)
    found = [name for name, category in images if data.stand_in(name, category)]
    for backbone in dict.fromkeys(_imagenet(job) for job in jobs):
        file = backbones.there(backbone) if backbone else None
        found += [f"weights of {backbone}"] if file and readers.is_stand_in(file.parent) else []
    return list(dict.fromkeys(found))


def _lacking_images(job, there):
    """[(what, how, is_downloaded)] of the images of a job, [] where they are there; there: `data.there`."""
    from repro import data
    from repro.data import coil100, mvtec

    name, normal = job["dataset"], job["class"]
    kind, colon, path = name.partition(":")
    if colon:
        return [] if Path(path).expanduser().exists() else [(name, f"there is no {kind} {path}", False)]
    # 32 where the register says nothing: what `data.one_class` takes, and the notebooks that have no image_size
    found = there(name, job["settings"].get("image_size", 32))
    if normal in found:
        return []
    root = os.environ.get("ADLIB_DATA")
    if root and not Path(root).expanduser().is_dir():
        return [(name, f"ADLIB_DATA names {root}, which is no folder", False)]
    parts = {
        "mvtec": f"mvtec/<category>/, or {mvtec.ARCHIVE} from {mvtec.PAGE} (5.3 GB, licence CC BY-NC-SA 4.0),",
        "coil100": f"{coil100.ARCHIVE} from {coil100.PAGE}, or its folder coil-100/,",
    }
    put = f"put {parts.get(name) or f'{data.FOLDERS[name]}/ or a whole {name}.npz'} into $ADLIB_DATA{_now()}"
    if found and name != "mvtec":
        how = f"not in the copy at hand: {put}, in place of that copy, and delete {name}-*.bin in the cache folder"
        return [(f"{name} {normal}", how, False)]
    return [(f"{name} {normal}" if name == "mvtec" else name, *_or_download(put, name != "coil100"))]


def _lacking_weights(job, there):
    """As `_lacking_images`, of pretrained weights; there: `backbones.there`."""
    from adlib.backbones import IMAGENET_SHA256

    backbone, weights = _imagenet(job), job["settings"].get("weights")
    if backbone is None:
        is_file = weights in (None, "random") or Path(weights).expanduser().is_file()
        return [] if is_file else [(f"weights {weights}", f"there is no file {weights}", False)]
    if there(backbone):
        return []
    file = f"{backbone}-{IMAGENET_SHA256[backbone][0]}.pth"
    put = f"put https://download.pytorch.org/models/{file} into $ADLIB_DATA/weights{_now()}"
    return [(f"weights of {backbone}", *_or_download(put))]


def _imagenet(job):
    """The backbone whose ImageNet weights a job takes, or None."""
    return job["settings"].get("backbone") if job["settings"].get("weights") == "imagenet" else None


def _now():
    return f" (now {os.environ.get('ADLIB_DATA') or 'not set'})"


def _or_download(put, can=True):
    """(how, is_downloaded), by what this process allows."""
    if can and os.environ.get("ADLIB_OFFLINE") == "1":
        return f"{put}, or allow its download by ADLIB_OFFLINE=0", False
    return (f"the first job downloads it; or {put}", True) if can else (put, False)


# ---- how long it takes ---------------------------------------------------------------------------------------------


def seconds(jobs, rows):
    """How long each job should take, by the rows there are: {device: {id of the job: (seconds, is_alike)}}.

    A job is in there where the rows hold a run of its paper, dataset, protocol, profile and backbone on that device;
    another dataset would be too far off. Of such runs those with the job's own settings count, whatever their seed
    (is_alike: there are any), else all of them; of these the runs of its own class, else all; of what is left the mean.
    So where the first seed trains more than the others, and only theirs has run, the estimate is too low, and is_alike
    False. Rows that failed and those of stand-ins do not count.

    A run takes what its rows say: train_seconds, once for all methods that share a training, and ms_per_image for each
    test image. That leaves out reading the data, the start of the kernel, metrics and pictures: a hundredth of a job
    of hours, a third of a job of a minute, and of the shortest, 7 s, nearly all. A baseline on the CPU beside others on
    a GPU counts to the GPU's run.
    """
    by_kind = {}
    for job in jobs:
        by_kind.setdefault(_kind(job), []).append(job)
    runs, by_job = {}, {}
    for row in rows:
        if row["status"] == "ok" and row["device"] and not of_stand_ins(row):
            by_job.setdefault(row["job"], []).append(row)
    for some in by_job.values():
        device = min((row["device"] for row in some), key=lambda name: (name.startswith("cpu"), name))
        if (cost := run_seconds(some)) is not None:
            run = (some[0]["settings"], some[0]["class"], cost)
            runs.setdefault((device, _kind(some[0])), []).append(run)
    found = {}
    for (device, kind), some in runs.items():
        for job in by_kind.get(kind, ()):
            settings = json.dumps(job["settings"], sort_keys=True, separators=(",", ":"))  # as in the rows
            alike = [run for run in some if run[0] == settings]
            near = [run for run in alike or some if run[1] == job["class"]] or alike or some
            mean = sum(run[2] for run in near) / len(near)
            found.setdefault(device, {})[job["id"]] = (mean, bool(alike))
    return found


def _kind(one):
    """What a job or row must share with another to tell its cost: its place, but for class and seed."""
    paper, dataset, protocol, _, _, profile, backbone = place(one)
    return paper, dataset, protocol, profile, backbone


def run_seconds(rows):
    """Seconds of one run, by its rows; None where they hold no times."""
    methods = {row["method"] for row in rows}
    trained, scored = {}, {}
    for row in rows:
        training = (row["train_seconds"], row["n_parameters"], row["steps"])  # alike where methods share a training
        if row["train_seconds"] and PART_OF.get(row["method"]) not in methods:
            trained[training] = float(row["train_seconds"])
        if row["ms_per_image"] and row["n_test"]:
            scored[training, row["ms_per_image"]] = float(row["ms_per_image"]) * int(row["n_test"]) / 1000
    return sum(trained.values()) + sum(scored.values()) if trained or scored else None


# ---- what is printed -----------------------------------------------------------------------------------------------


def text(jobs, out, force=False, words=""):
    """The plan of these jobs, with rows under `out`, as text of under 80 lines for all jobs of a profile.

    Estimates are from the rows under `out` and those of results/. force: done and stale jobs are to run too. words:
    what was given to make, to be shown in the command. Raises ValueError for a damaged result file, and as `missing`.
    """
    from repro.sweep import outstanding, rows_path

    todo, done, stale = outstanding(jobs, out)
    todo = list(jobs) if force else todo
    paths = {rows_path(folder, job) for folder in (CHECKOUT / "results", Path(out).resolve()) for job in jobs}
    rows = standing([row for path in sorted(paths) for row in read(path)])  # of a job in both places the newer ones
    known = seconds(todo, rows)
    devices = sorted(known, key=lambda device: (-len(known[device]), device))  # first what tells of most jobs
    notes = []
    if known:
        notes.append(
            "hours left: one job at a time on that device, by what the rows say of training and scoring; "
            "reading data, kernels and pictures come on top. Two jobs at once on two cores share them, one "
            "thread each; on one GPU they share it."
        )
    if any(not is_alike for some in known.values() for _, is_alike in some.values()):
        notes.append("~: in part from rows of other settings, such as more or fewer methods")
    if unknown := sum(all(job["id"] not in some for some in known.values()) for job in todo):
        notes.append(
            f"unknown: {unknown} of {len(todo)} jobs have no row to estimate from (same paper, dataset, "
            "protocol, profile and backbone)"
        )
    if devices[N_DEVICES:]:
        notes.append(f"the rows know of other devices too: {', '.join(devices[N_DEVICES:])}")
    failed = {row["job"] for row in rows if row["status"] == "failed"}
    if n_failed := sum(job["id"] in failed for job in todo):
        notes.append(f"{n_failed} of the jobs to run failed when last run")
    command = f"make reproduce {words}".strip() + " FORCE=1" * (force and "FORCE=" not in words)
    last = [f"to run {'it' if len(todo) == 1 else f'these {len(todo)}'}: {command}" if todo else "nothing to run"]
    if stale and not force:
        last.append(f"{len(stale)} stale: their rows are of other settings; FORCE=1 runs them again")
    table = _table(jobs, todo, done, stale, [known[device] for device in devices[:N_DEVICES]], devices[:N_DEVICES])
    blocks = [table, _wrapped(notes), _needs(todo), last]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _table(jobs, todo, done, stale, known, devices):
    """Its lines: paper (and backbone), dataset and protocol, counts of jobs, hours left on each device."""
    groups, parts = {}, [{job["id"] for job in some} for some in (jobs, done, stale, todo)]
    for job in jobs:
        kind, colon, path = job["dataset"].partition(":")
        paper = f"{job['paper']} {job['settings'].get('backbone', '')}".strip()
        label = (paper, f"{kind}:{Path(path).name}" if colon else kind, job["protocol"])
        groups.setdefault(label, []).append(job["id"])
    groups["all", "", ""] = [job["id"] for job in jobs]
    lines = [["paper", "dataset", "protocol", "jobs", "done", "stale", "to run", *devices]]
    for label, ids in groups.items():
        *counts, left = ([one for one in ids if one in part] for part in parts)
        lines.append(
            [
                *label,
                *(str(len(some)) for some in (*counts, left)),
                *(_hours([of_device.get(one) for one in left]) for of_device in known),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]


def _hours(found):
    """'0.4 h', '~0.4 h, 3 unknown', '3 unknown' or '-', of (seconds, is_alike) or None for each job to run."""
    known = [one for one in found if one]
    hours = sum(one[0] for one in known) / 3600
    sign = "" if all(is_alike for _, is_alike in known) else "~"
    shown = [f"{sign}{'<0.1' if hours < 0.05 else f'{hours:.1f}'} h"] if known else []
    return ", ".join(shown + [f"{len(found) - len(known)} unknown"] * (len(known) < len(found))) or "-"


def _needs(todo):
    """The lines on data and weights: what is missing, classes of one dataset together, and what is a stand-in."""
    from repro.data import CLASS_NAMES

    groups = {}
    for one in missing(todo):
        name, _, normal = one["what"].partition(" ")
        name, normal = (name, normal) if name in CLASS_NAMES else (one["what"], "")
        groups.setdefault((name, one["how"]), []).append((normal, one["n_jobs"]))
    lines = []
    for (name, how), some in groups.items():
        n_jobs, more = sum(n for _, n in some), f" and {len(some) - N_NAMED} more" * (len(some) > N_NAMED)
        name = f"{name} {', '.join(normal for normal, _ in some[:N_NAMED])}{more}".strip()
        lines.append(f"  {name}, for {n_jobs} job{'s' * (n_jobs > 1)}: {how.replace(_now(), '')}")
    if lines:
        lines.insert(0, f"missing here, where $ADLIB_DATA is {_now()[6:-1]}:")  # said once, not with each
    elif todo:
        lines.append("data and weights are all here")
    drawn = stand_ins(todo)
    return _wrapped(lines + [f"stand-ins, whose rows count for nothing: {', '.join(drawn)}"] * bool(drawn))


def _wrapped(paragraphs):
    return [
        line
        for text in paragraphs
        for line in textwrap.wrap(text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    ]
