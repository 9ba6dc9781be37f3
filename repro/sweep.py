"""The sweep: each job of the register runs in its own process (`job.py`); only the parent writes the result rows.

If a job's process dies, the job is submitted again, and finds the newest `checkpoint.pt` that it left.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from repro import rows
from repro.display import Display, progress_text
from repro.job import cores, environment, failure, job_parameters, last_line, left_outcome, processes, settings_text
from repro.register import CHECKOUT, describe, place


ATTEMPTS = 3  # how often a job is submitted if its processes die
CHECKPOINT = "checkpoint.pt"  # in the work folder of a job
NOTE_EVERY = 60  # seconds between two lines of progress in a job's log
LONGEST = 150  # bytes of a file's name, of the 255 that file systems take, because suffixes follow


def notebook_path(out: str | Path, job: dict) -> Path:
    """The path of a job's executed notebook under `out`; it gets a hash if the name does not identify the job."""
    dataset = job["dataset"]
    if ":" in dataset:  # the last part of the path and a hash, since many paths end alike
        kind, path = dataset.split(":", 1)
        dataset = f"{kind}-{Path(path).stem}-{_digest(path)}"
    backbone = f"{job['settings']['backbone']}-" if "backbone" in job["settings"] else ""
    name = f"{backbone}{dataset}-{job['protocol']}-{job['class']}-seed{job['seed']}-{job['profile']}"
    safe = re.sub(r"[^\w.-]+", "_", name).encode()[:LONGEST].decode(errors="ignore")
    return Path(out, "notebooks", job["paper"], (safe if safe == name else f"{safe}-{_digest(name)}") + ".ipynb")


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def scores_path(out: str | Path, job: dict) -> Path:
    """The path of a job's per-image scores under `out`."""
    return Path(out, "scores", f"{job['id']}.csv.gz")


def log_path(out: str | Path, job: dict) -> Path:
    """The path of a job's log under `out`: when the job began, what it did and how it ended, in each of its runs."""
    return Path(out, "logs", job["paper"], notebook_path(out, job).with_suffix(".log").name)


def checkpoint_path(out: str | Path, job: dict) -> Path:
    """The path of a job's newest checkpoint until its rows are written; its id is in the name: no other job uses it."""
    return notebook_path(out, job).with_suffix(f".{job['id']}.pt")


def rows_path(out: str | Path, job: dict) -> Path:
    """The path of the rows of a job's paper under `out`."""
    return Path(out, f"{job['paper']}.csv")


def outstanding(jobs: Iterable[dict], out: str | Path) -> tuple[list, list, list]:
    """(jobs to run, jobs done, jobs whose place is taken by rows of other settings), from the rows under `out`.

    Rows of a user's own images do not count once the images have changed: their jobs run again.
    """
    read, sources = [row for path in {rows_path(out, job) for job in jobs} for row in rows.read(path)], {}
    good = [row for row in read if row["status"] == "ok" and _is_of_these_images(row, sources)]
    ids, places = {row["job"] for row in good}, {place(row) for row in good}
    todo, done, stale = [], [], []
    for job in jobs:
        (done if job["id"] in ids else stale if place(job) in places else todo).append(job)
    return todo, done, stale


def _is_of_these_images(row, sources):
    """Whether a user's own images are unchanged since a row was measured, or gone; True for other datasets."""
    name = row["dataset"]
    if not name.startswith(("folder:", "npz:")):
        return True
    from adlib import pictures  # these import torch
    from repro import data

    with contextlib.suppress(FileNotFoundError):
        sources[name] = sources.get(name) or data.source(name)
    if name in sources and sources[name] != row["data"].partition(" (")[0]:  # without the words of a COPY.txt
        pictures.say(f"the images of {name} have changed since its rows were measured: it is to run again")
        return False
    return True


def reproduce(
    jobs: Sequence[dict],
    out: str | Path,
    n_jobs: int | None = None,
    device: str = "auto",
    force: bool = False,
    notebooks: str | Path | None = None,
    gpus: Sequence[str] = (),
    submit: Callable[..., Future] | None = None,
) -> dict[str, Any]:
    """Run the jobs that have no rows under `out` yet; n_jobs at once (None: two, or two a GPU, if the cores suffice).

    Reports on stdout, with bars on stderr if that is a terminal. gpus: values for CUDA_VISIBLE_DEVICES, given to the
    jobs in turn, so that each job sees only its own GPU; (): jobs see what this process sees. Returns a dict: ok and
    failed (lists of jobs), done and stale (not run, see `outstanding`; force=True runs them again), seconds, outside
    (share of the time that no notebook cell was running). Raises ValueError before anything runs for a job that does
    not fit its notebook and for a damaged result file. submit(job, options, variables): replaces the processes of this
    machine, as that of `cluster.connect` does: all jobs wait there, and a job runs once it reports progress.
    """
    out = Path(out).resolve()
    notebooks = CHECKOUT / "notebooks" if notebooks is None else Path(notebooks).resolve()
    for job in jobs:
        job_parameters(job, device, None, notebooks / f"{job['paper']}.ipynb")
    todo, done, stale = (list(jobs), [], []) if force else outstanding(jobs, out)
    report = {"ok": [], "failed": [], "done": done, "stale": stale, "seconds": 0.0, "outside": 0.0}
    for job in stale:
        print(f"stale, not run: the rows of {describe(job)} come from other settings; FORCE=1 runs it again")
    if done:
        print(f"{len(done)} of {len(jobs)} jobs have their rows already")
    if not todo:
        print("nothing to run")
        return report
    usual = len(todo) if submit else min(2 * max(1, len(gpus)), cores())
    n_jobs = max(1, min(n_jobs or usual, len(todo)))
    options = {"notebooks": str(notebooks), "device": device, "commit": commit()}
    variables = [environment(max(1, cores() // n_jobs), gpu) for gpu in gpus or [None]]
    started, inside, spent, is_local = time.monotonic(), 0.0, 0.0, submit is None
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(tempfile.TemporaryDirectory(prefix="adlib-", ignore_cleanup_errors=True))
        display = stack.enter_context(Display(len(todo), n_jobs))
        submit = stack.enter_context(processes(root)) if is_local else submit

        def begin(job, attempt, number):
            """Start a job."""
            # a folder for each attempt, because the kernel of a killed process may write for another second
            work = Path(root, f"{job['id']}-{attempt}")
            _carry(checkpoint_path(out, job), work / CHECKPOINT)
            _note(out, job, f"{describe(job)}: attempt {attempt}, worker {number}, commit {options['commit']}")
            future = submit(job, options | {"work": str(work)}, variables[number % len(variables)])
            task = {"job": job, "attempt": attempt, "number": number, "work": work, "future": future}
            return task | {"progress": None, "noted": 0.0, "since": time.monotonic()}

        def show(running):
            for task in running:
                _carry(task["work"] / CHECKPOINT, checkpoint_path(out, task["job"]))
                _follow(task, out)
            shown = [task for task in running if task["progress"] or is_local]
            display.show(len(report["ok"]) + len(report["failed"]), len(report["failed"]), shown)

        for job, outcome in _run(todo, n_jobs, begin, show, out):
            inside, spent = inside + outcome["cell_seconds"], spent + outcome["seconds"]
            keep(out, job, outcome)
            report["failed" if outcome["error"] else "ok"].append(job)
            _say_again(outcome)
            display.line(_line(job, outcome), len(report["ok"]) + len(report["failed"]))
            _note(out, job, _line(job, outcome), outcome["log"])
    report["seconds"] = time.monotonic() - started
    report["outside"] = max(0.0, 1 - inside / max(1e-9, n_jobs * report["seconds"] if is_local else spent))
    return report


def _run(jobs, n_jobs, begin, show, out):
    """Yield (job, outcome) as jobs finish, each job once, n_jobs at once; show(running) twice a second."""
    queue, running, free = deque((job, 1) for job in jobs), {}, list(range(n_jobs))[::-1]
    while queue or running:
        while queue and free:
            task = begin(*queue.popleft(), free.pop())
            running[task["future"]] = task
        finished = wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done
        show(list(running.values()))
        for future in finished:
            task = running.pop(future)
            job, work = task["job"], task["work"]
            free.append(task["number"])
            try:
                outcome = future.result() or left_outcome(work)
            except CancelledError:  # the scheduler is lost
                raise
            except BrokenExecutor:
                if task["attempt"] < ATTEMPTS:
                    _note(out, job, "the worker died")
                    queue.appendleft((job, task["attempt"] + 1))
                    continue
                outcome = failure(f"the worker died {ATTEMPTS} times", work)
            except Exception as error:
                outcome = failure(last_line(error), work)
            yield job, outcome
            shutil.rmtree(work, ignore_errors=True)


def _follow(task, out):
    """Read a running job's progress; add it to its log once a minute, and when the job begins something else."""
    try:
        progress = json.loads(Path(task["work"], "progress.json").read_text(encoding="utf-8"))
        text, before = progress_text(progress), task["progress"]
    except (OSError, ValueError, KeyError, TypeError):  # none yet
        return
    task["progress"] = progress
    if before is None or before["what"] != progress["what"] or time.monotonic() - task["noted"] >= NOTE_EVERY:
        _note(out, task["job"], text)
        task["noted"] = time.monotonic()


def _note(out, job, *texts):
    """Append lines to a job's log, the first with the time (UTC)."""
    lines, path = "\n".join(text.rstrip("\n") for text in texts if text), log_path(out, job)
    with contextlib.suppress(OSError):  # a sweep goes on without its logs, and reports the error when it writes rows
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {lines}\n")


def _carry(source, target):
    """Copy a checkpoint, if there is one, over an older copy, completely or not at all."""
    with contextlib.suppress(OSError):  # no checkpoint, or disk full: a job can do without
        if target.exists() and target.stat().st_mtime_ns == source.stat().st_mtime_ns:
            return
        beside = target.with_name(f"{target.name}.tmp")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, beside)  # with its time, which identifies it
        os.replace(beside, target)


def keep(out: str | Path, job: dict, outcome: dict[str, Any]) -> None:
    """Write a job's notebook, scores and rows under `out`, all of them or none (see `rows.merge`).

    A failed job leaves a failed row, NAME.failed.ipynb and its checkpoint; so does a job on stand-ins in results/.
    """
    path = notebook_path(out, job)
    failed, checkpoint = path.with_suffix(".failed.ipynb"), checkpoint_path(out, job)
    if Path(out) == CHECKOUT / "results" and any(rows.of_stand_ins(row) for row in outcome["rows"]):
        # they have the keys of the real rows, and would replace them
        outcome["error"] = outcome["error"] or "measured on stand-ins, whose rows are not for results/: give OUT="
    if outcome["error"]:
        row = {name: job[name] for name in ("paper", "dataset", "protocol", "class", "seed", "profile")}
        row |= {"settings": settings_text(job, {}), "job": job["id"], "status": "failed", "error": outcome["error"]}
        files = {failed: outcome["notebook"].encode()} if outcome["notebook"] else {}
        rows.merge(rows_path(out, job), [rows.row(**row)], files)
        return
    scores = {} if outcome["scores"] is None else {scores_path(out, job): outcome["scores"]}
    rows.merge(rows_path(out, job), outcome["rows"], {path: outcome["notebook"].encode(), **scores})
    for leftover in (failed, checkpoint, checkpoint.with_name(f"{checkpoint.name}.tmp")):
        leftover.unlink(missing_ok=True)


def commit() -> str:
    """The short hash of the checkout's commit, '+dirty' if code, notebooks or register differ; '' without git."""

    def git(*words):
        return subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--", "adlib", "repro", "notebooks", "experiments.toml")
        return git("rev-parse", "--short", "HEAD") + ("+dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _say_again(outcome):
    """Repeat once what a job's notebook told its user on stderr, "adlib: ...", such as which files it did not read."""
    outputs = [
        out for cell in json.loads(outcome["notebook"] or '{"cells": []}')["cells"] for out in cell.get("outputs", [])
    ]
    texts = ["".join(out["text"]) for out in outputs if out.get("name") == "stderr"]
    for line in [line for text in texts for line in text.splitlines() if line.startswith("adlib: ")]:
        from adlib import pictures  # imports torch

        pictures.say(line.removeprefix("adlib: "))


def _line(job, outcome):
    """A finished job in one line: its AUROCs and seconds, or its error."""
    if outcome["error"]:
        return f"FAILED {describe(job)}: {outcome['error']}"
    scored = [row for row in outcome["rows"] if row["auroc"]]
    values = ", ".join(f"{row['method']} {float(row['auroc']):.4f}" for row in scored[:6]) or "no AUROC"
    values += f" and {len(scored) - 6} more" * (len(scored) > 6)
    is_random = any(row["weights"].endswith("/random") for row in scored)
    warning = "; RANDOM backbone weights: its figures say nothing about the paper" * is_random
    return f"{describe(job)}: {values} ({outcome['seconds']:.0f} s{warning})"
