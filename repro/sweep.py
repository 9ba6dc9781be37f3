"""The sweep: jobs of the register -> workers -> result rows.

    register = load()
    report = reproduce(jobs(register, profile="quick"), "results", n_jobs=2)    # report["failed"]: what did not work

Each worker (`worker.py`) is an executor of its own, because one killed worker breaks every future of a pool; a job
whose worker died is submitted again to a new one. Only the parent writes under `out`. A notebook may leave a file
`checkpoint.pt` beside its rows, as often as it likes: it finds the newest one there when its job is run again. What is
shown meanwhile stands in `display.py`; the same is kept, job by job, in out/logs/.
"""

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import deque
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, wait
from datetime import UTC, datetime
from pathlib import Path

from repro import results
from repro.display import Display, progress_text
from repro.register import CHECKOUT, describe, place
from repro.worker import (
    cell_seconds,
    cores,
    job_parameters,
    last_line,
    leave_outcome,
    left_outcome,
    process_slot,
    whole_notebook,
)


ATTEMPTS = 3  # times that a job is submitted while its workers die
CHECKPOINT = "checkpoint.pt"  # in the work folder of a job
NOTE_EVERY = 60  # seconds between two lines of a log that say how far its job is


def notebook_path(out, job):
    """Where the executed notebook of a job stands under `out`."""
    dataset = job["dataset"]
    if ":" in dataset:  # folder:PATH: the last part of the path, and a hash, since many end alike
        kind, path = dataset.split(":", 1)
        dataset = f"{kind}-{Path(path).stem}-{hashlib.sha256(path.encode()).hexdigest()[:6]}"
    backbone = f"{job['settings']['backbone']}-" if "backbone" in job["settings"] else ""
    name = f"{backbone}{dataset}-{job['protocol']}-{job['class']}-seed{job['seed']}-{job['profile']}"
    return Path(out) / "notebooks" / job["paper"] / (re.sub(r"[^\w.-]+", "_", name) + ".ipynb")


def scores_path(out, job):
    """Where the per-image scores of a job stand under `out`."""
    return Path(out) / "scores" / f"{job['id']}.csv.gz"


def log_path(out, job):
    """Where the log of a job stands under `out`: when it began, what it did, and how it ended, in every run of it."""
    path = notebook_path(out, job).relative_to(Path(out) / "notebooks")
    return Path(out) / "logs" / path.with_suffix(".log")


def checkpoint_path(out, job):
    """Where the newest checkpoint of a job stands under `out` until its rows are in: beside its executed notebook.

    The job's id is in its name, so that it serves no job with other settings.
    """
    return notebook_path(out, job).with_suffix(f".{job['id']}.pt")


def rows_path(out, job):
    """Where the rows of a job's paper stand under `out`."""
    return Path(out) / f"{job['paper']}.csv"


def outstanding(jobs, out):
    """(jobs to run, jobs done, jobs whose place is taken by rows of other settings), by the rows under `out`."""
    taken = {}  # place -> ids of the ok rows there
    for path in {rows_path(out, job) for job in jobs}:
        for row in results.read(path):
            if row["status"] == "ok":
                taken.setdefault(place(row), set()).add(row["job"])
    done = [job for job in jobs if job["id"] in taken.get(place(job), ())]
    stale = [job for job in jobs if place(job) in taken and job not in done]
    return [job for job in jobs if job not in done and job not in stale], done, stale


def reproduce(jobs, out, n_jobs=None, device="auto", force=False, notebooks=None, gpus=(), new_slot=None, waits=False):
    """Run the jobs that have no rows under `out` yet; n_jobs at once (None: two for each GPU, or where there are none
    two, if there are as many cores).

    Says what it does on stdout, with bars on stderr where that is a terminal. gpus: what CUDA_VISIBLE_DEVICES may hold,
    one for each worker in turn, so that each sees its own and no other; (): workers see what this process sees. Returns
    a dict: ok and failed (lists of jobs), done and stale (not run, see `outstanding`; force=True runs them again),
    seconds, outside (share of the workers' time that no notebook cell was running). Raises ValueError before anything
    runs for a job that does not fit its notebook and for a damaged result file. new_slot(number): an executor for one
    job at a time, instead of a worker process; waits: it may keep its job waiting, as a cluster does, so that one runs
    only once it has told of itself.
    """
    out = Path(out).resolve()
    notebooks = CHECKOUT / "notebooks" if notebooks is None else Path(notebooks).resolve()
    for job in jobs:
        job_parameters(job, device, None, notebooks / f"{job['paper']}.ipynb")
    todo, done, stale = outstanding(jobs, out)
    if force:
        todo, done, stale = list(jobs), [], []
    report = {"ok": [], "failed": [], "done": done, "stale": stale, "seconds": 0.0, "outside": 0.0}
    for job in stale:
        print(f"stale, not run: the rows of {describe(job)} come from other settings; FORCE=1 runs it again")
    if done:
        print(f"{len(done)} of {len(jobs)} jobs have their rows already")
    if not todo:
        print("nothing to run")
        return report
    n_jobs = max(1, min(n_jobs or min(2 * max(1, len(gpus)), cores()), len(todo)))
    options = {"notebooks": str(notebooks), "device": device, "commit": commit()}
    started, inside, there = time.monotonic(), 0.0, 0.0
    with tempfile.TemporaryDirectory(prefix="adlib-", ignore_cleanup_errors=True) as root:

        def own_slot(number):
            return process_slot(max(1, cores() // n_jobs), root, gpus[number % len(gpus)] if gpus else None)

        with _Slots(n_jobs, new_slot or own_slot) as slots, Display(len(todo), n_jobs) as display:

            def show(finished, running):
                display.show(finished, len(report["failed"]), [one for one in running if one["progress"] or not waits])

            for job, outcome in slots.run(todo, options, root, out, show):
                inside, there = inside + outcome["cell_seconds"], there + outcome["seconds"]
                keep(out, job, outcome)
                report["failed" if outcome["error"] else "ok"].append(job)
                display.line(_line(job, outcome), len(report["ok"]) + len(report["failed"]))
                _note(out, job, _line(job, outcome), outcome.get("log", ""))
    report["seconds"] = time.monotonic() - started
    report["outside"] = max(0.0, 1 - inside / max(1e-9, there if waits else n_jobs * report["seconds"]))
    return report


class _Slots:
    """n executors for one job each; leaving the context ends their processes, whatever they do."""

    def __init__(self, n, make):
        self.others = set(multiprocessing.active_children())  # not ours
        self.make = make
        self.slots = [make(number) for number in range(n)]

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        ours = set(multiprocessing.active_children()) - self.others
        if kind is not None:  # an error or Ctrl-C: there may be jobs running
            for process in ours:
                process.terminate()
            for process in ours:
                process.join(10)
                process.kill()
        for slot in self.slots:
            slot.shutdown(wait=True, cancel_futures=True)

    def run(self, jobs, options, root, out, show):
        """Yield (job, outcome) as jobs finish, each job once; show(finished, running) about twice a second.

        As often, checkpoints are carried from work folders to `out`: the folders go when a worker or the parent dies.
        """
        queue, running, finished = deque((job, 1) for job in jobs), {}, 0
        free = list(range(len(self.slots)))[::-1]
        while queue or running:
            while queue and free:
                number, (job, attempt) = free.pop(), queue.popleft()
                # a folder for each attempt: the kernel of a killed worker may write for another second
                work = os.path.join(root, f"{job['id']}-{attempt}")
                _carry(checkpoint_path(out, job), os.path.join(work, CHECKPOINT))
                _note(out, job, f"{describe(job)}: attempt {attempt}, worker {number}, commit {options['commit']}")
                future = self._submit(number, job, {**options, "work": work})
                running[future] = {
                    "number": number,
                    "job": job,
                    "attempt": attempt,
                    "work": work,
                    "since": time.monotonic(),
                    "progress": None,
                    "noted": 0.0,
                }
            show(finished, list(running.values()))
            done = wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done
            for one in running.values():
                _carry(os.path.join(one["work"], CHECKPOINT), checkpoint_path(out, one["job"]))
                _follow(one, out)
            for future in done:
                one = running.pop(future)
                job, work = one["job"], one["work"]
                free.append(one["number"])
                error = future.exception()
                if isinstance(error, BrokenExecutor):
                    self._rebuild(one["number"])
                    if one["attempt"] < ATTEMPTS:
                        _note(out, job, "the worker died")
                        queue.appendleft((job, one["attempt"] + 1))
                        continue
                    outcome = _failure(f"the worker died {ATTEMPTS} times", work)
                elif error is not None:
                    outcome = _failure(last_line(error), work)
                else:
                    try:
                        outcome = future.result() or left_outcome(work)
                    except OSError as error:
                        outcome = _failure(last_line(error), work)
                finished += 1
                yield job, outcome
                shutil.rmtree(work, ignore_errors=True)

    def _submit(self, number, job, options):
        try:
            return self.slots[number].submit(leave_outcome, job, options)
        except BrokenExecutor:  # the worker died between two jobs
            self._rebuild(number)
            return self.slots[number].submit(leave_outcome, job, options)

    def _rebuild(self, number):
        self.slots[number].shutdown(wait=False)
        self.slots[number] = self.make(number)


def _follow(one, out):
    """Read what a running job says of itself; into its log once a minute, and when it begins something else."""
    try:
        progress = json.loads(Path(one["work"], "progress.json").read_text(encoding="utf-8"))
        text = progress_text(progress)
    except (OSError, ValueError, KeyError, TypeError):  # none yet
        return
    before, one["progress"] = one["progress"], progress
    if before is None or before["what"] != progress["what"] or time.monotonic() - one["noted"] >= NOTE_EVERY:
        _note(out, one["job"], text)
        one["noted"] = time.monotonic()


def _note(out, job, *texts):
    """Lines at the end of a job's log, the first with the time (UTC)."""
    lines = "\n".join(text.rstrip("\n") for text in texts if text)
    try:
        path = log_path(out, job)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {lines}\n")
    except OSError:  # no room, no right: a sweep goes on without its logs, and says what is wrong when it writes rows
        pass


def _failure(error, work):
    """The outcome of a job that gave back nothing; papermill saves after each cell, so there may be a notebook."""
    try:
        text = whole_notebook(Path(work, "executed.ipynb"))
    except OSError:  # it failed anyhow
        text = None
    return {
        "rows": [],
        "scores": None,
        "notebook": text,
        "error": error,
        "seconds": 0.0,
        "cell_seconds": cell_seconds(text),
    }


def _carry(source, target):
    """Put a copy of a checkpoint, if there is one, in place of another, whole or not at all."""
    try:
        written = os.stat(source).st_mtime_ns
        if os.path.exists(target) and os.stat(target).st_mtime_ns == written:
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy2(source, f"{target}.tmp")  # with its time, by which it is known
        os.replace(f"{target}.tmp", target)
    except OSError:  # none there, or no room: a job can do without
        pass


def keep(out, job, outcome):
    """Write what a job gave under `out`: notebook and scores first, the rows last, since they say that it is done.

    A failed job leaves a failed row and NAME.failed.ipynb; what an earlier success left stays as it is, and its
    checkpoint too. In results/ a job that was run on stand-ins counts as failed. Two sweeps that run the same job at
    once keep what they have one after the other: the rows that stand belong to the notebook that stands.
    """
    from filelock import FileLock  # only the sweep needs it

    lock = Path(out) / f"{job['paper']}.keep.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        _keep(out, job, outcome)


def _keep(out, job, outcome):
    path = notebook_path(out, job)
    failed = path.with_suffix(".failed.ipynb")
    if Path(out) == CHECKOUT / "results" and any(results.of_stand_ins(row) for row in outcome["rows"]):
        # their keys are those of the real rows, whose places they would take
        outcome["error"] = outcome["error"] or "measured on stand-ins, whose rows are not for results/: give OUT="
    if outcome["error"]:
        if outcome["notebook"]:
            results.write_whole(failed, outcome["notebook"].encode())
        names = ("paper", "dataset", "protocol", "class", "seed", "profile")
        row = results.row(
            **{name: job[name] for name in names},
            job=job["id"],
            status="failed",
            settings=json.dumps(job["settings"], sort_keys=True, separators=(",", ":")),
            error=outcome["error"],
        )
        results.merge(rows_path(out, job), [row])
        return
    results.write_whole(path, outcome["notebook"].encode())
    if outcome["scores"] is not None:
        results.write_whole(scores_path(out, job), outcome["scores"])
    results.merge(rows_path(out, job), outcome["rows"])
    failed.unlink(missing_ok=True)
    checkpoint = checkpoint_path(out, job)
    for leftover in (checkpoint, checkpoint.with_name(f"{checkpoint.name}.tmp")):
        leftover.unlink(missing_ok=True)


def commit():
    """The short hash of the checkout's commit, '+dirty' where code, notebooks or register differ; '' without git."""

    def git(*words):
        return subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--", "adlib", "repro", "notebooks", "experiments.toml")
        return git("rev-parse", "--short", "HEAD") + ("+dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _line(job, outcome):
    """A finished job in one line: its AUROCs and seconds, or what went wrong."""
    if outcome["error"]:
        return f"FAILED {describe(job)}: {outcome['error']}"
    scored = [row for row in outcome["rows"] if row["auroc"]]
    values = ", ".join(f"{row['method']} {float(row['auroc']):.4f}" for row in scored[:6])
    values += f" and {len(scored) - 6} more" if len(scored) > 6 else ""
    is_random = any(row["weights"].endswith("/random") for row in scored)
    warning = "; RANDOM backbone weights: its figures say nothing about the paper" * is_random
    return f"{describe(job)}: {values or 'no AUROC'} ({outcome['seconds']:.0f} s{warning})"
