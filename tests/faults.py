"""What the tests of faults share: a notebook whose rows tell where they come from, sweeps to be disturbed, counts.

The notebook gives figures that follow from class and seed alone, and puts a mark of its own run into row, scores and
output. So a false row can be distinguished from a true row, and so can a row whose files are of another run.
"""

import builtins
import contextlib
import csv
import gzip
import hashlib
import inspect
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import psutil
import toy

from repro import register, rows, sweep
from repro.job import leave_outcome


DEADLINE = 1800  # seconds: ends a test that hangs, however busy the machine
POLL = 0.02
METHODS = ("mean", "toy")


# ---- the notebook --------------------------------------------------------------------------------------------------


def figure(method, normal, seed):
    """The AUROC that the notebook of a class and a seed gives."""
    digest = hashlib.sha256(f"{method} {normal} {seed}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


PARAMETERS = """\
dataset = "digits"
normal_class = "8"
protocol = "official"
seed = 0
profile = "demo"
device = "auto"
out_dir = None
log = ""
steps = 4
pace = 0.05
fails_once = False
chatter = 0
"""
BEGIN = f"""\
import hashlib, os, pathlib, time
from repro import rows
{inspect.getsource(figure)}
def note(event):
    with open(log, "a") as file:
        file.write(f"{{event}} {{normal_class}} {{seed}} {{os.getpid()}}\\n")
mark = f"{{os.getpid()}}-{{time.time_ns()}}"
note("begin")
"""
WORK = """\
checkpoint = pathlib.Path(out_dir, "checkpoint.pt")
if checkpoint.exists():
    assert checkpoint.read_text().split() == [normal_class, str(seed), "whole"], "a checkpoint torn or of another job"
if fails_once and not os.path.exists(log + ".failed"):
    pathlib.Path(log + ".failed").touch()
    raise RuntimeError("this cell fails")
for step in range(steps):
    rows.progress(out_dir, step, steps, f"step {step}")
    rows.write_whole(checkpoint, f"{normal_class} {seed} whole".encode())
    time.sleep(pace)
    if step == steps // 2:
        note("half")
"""
SAVE = """\
figures = {method: figure(method, normal_class, seed) for method in ("mean", "toy")}
lines = [rows.row(paper="toy", method=method, dataset=dataset, protocol=protocol, class_=normal_class, seed=seed,
                  profile=profile, image_size=8, auroc=auroc, n_test=2, device=mark, settings="{}")
         for method, auroc in figures.items()]
columns = {method: [0.0, auroc] for method, auroc in figures.items()}
rows.save(out_dir, lines, {"index": range(2), "kind": [mark, mark], "is_anomalous": [False, True], **columns})
print(normal_class, seed, mark, "." * chatter)
note("end")
"""
SOURCES = (PARAMETERS, BEGIN, WORK, SAVE)


def execute(notebook, output, parameters, *_, **__):
    """A stand-in for `job.execute`: what the notebook does, in this process and without a kernel.

    Papermill leaves the notebook also where a cell fails, so this does too.
    """
    said, scope = [], {}
    scope["print"] = lambda *words: said.append(" ".join(map(str, words)))  # sys.stdout is everybody's
    try:
        exec(PARAMETERS, scope)
        scope.update(parameters)
        for source in SOURCES[1:]:
            exec(source, scope)
    finally:
        text = [{"output_type": "stream", "name": "stdout", "text": "\n".join(said)}]
        cells = [{"cell_type": "code", "metadata": {}, "execution_count": 1, "source": "", "outputs": text}]
        Path(output).write_text(json.dumps({"cells": cells}))


def here(job, options, variables):
    """A `submit` that runs a job at once, in this process."""
    future = Future()
    try:
        future.set_result(leave_outcome(job, options))
    except Exception as error:
        future.set_exception(error)
    return future


# ---- what must hold ------------------------------------------------------------------------------------------------


def lines_of(path):
    """The lines of the `ok` rows of a result file as bytes, by what must be there once: method, class and seed."""
    text = Path(path).read_bytes() if Path(path).exists() else b""
    found = {}
    for line in text.splitlines(keepends=True)[1:]:
        row = dict(zip(rows.COLUMNS, next(csv.reader([line.decode()])), strict=True))
        if row["status"] == "ok":
            found.setdefault((row["method"], row["class"], row["seed"]), []).append(line)
    return found


def doubled(out):
    """What is there twice: rows of one key, failures of one job, a failure next to the rows of the same job."""
    twice = [key for key, copies in lines_of(out / "toy.csv").items() if len(copies) > 1]
    lines = rows.read(out / "toy.csv")
    good = {row["job"] for row in lines if row["status"] == "ok"}
    failed = [row["job"] for row in lines if row["status"] == "failed"]
    return twice + [job for job in set(failed) if failed.count(job) > 1 or job in good]


def false(out, jobs):
    """What is wrong with the rows under `out`: each has the figures of its job, its scores and its notebook."""
    known, lines, wrong = {job["id"]: job for job in jobs}, rows.read(out / "toy.csv"), []
    for row in lines:
        job, name = known.get(row["job"]), f"{row['method']} {row['class']} {row['seed']}"
        if job is None or register.place(row) != register.place(job):
            wrong.append(f"{name}: of another job")
        elif row["status"] == "failed":
            if any(row[metric] for metric in rows.METRICS) or not row["error"]:
                wrong.append(f"{name}: failed, but with figures or without a reason")
        else:
            wrong += [f"{name}: {what}" for what in _wrong_with(row, job, out)]
            if sum(other["job"] == row["job"] and other["status"] == "ok" for other in lines) != len(METHODS):
                wrong.append(f"{name}: only some of its job's rows are there")
    return wrong


def _wrong_with(row, job, out):
    truth = figure(row["method"], job["class"], job["seed"])
    if row["auroc"] != f"{truth:.6f}":
        yield f"auroc is {row['auroc']}, its job gives {truth:.6f}"
    try:
        with gzip.open(sweep.scores_path(out, job), "rt", newline="") as file:
            images = list(csv.DictReader(file))
        if [image[row["method"]] for image in images] != ["0.0", str(truth)]:
            yield "its scores are not its job's"
        if {image["kind"] for image in images} != {row["device"]}:
            yield "its scores are another run's"
    except (OSError, EOFError, KeyError) as error:
        yield f"its scores: {error}"
    try:
        text = sweep.notebook_path(out, job).read_text(encoding="utf-8")
        said = "".join(
            "".join(output.get("text", "")) for cell in json.loads(text)["cells"] for output in cell["outputs"]
        )
        if f"{job['class']} {job['seed']} {row['device']}" not in said:
            yield "its notebook is another run's"
    except (OSError, ValueError) as error:
        yield f"its notebook: {error}"


class Ledger:
    """Remembers the rows that stood, over the life of some results, and what became of them."""

    def __init__(self, out, jobs):
        self.out, self.jobs, self.stood, self.lost = out, jobs, {}, []

    def look(self):
        """The rows lost so far (a list of keys): gone, or other bytes than they were."""
        lines = lines_of(self.out / "toy.csv")
        self.lost += [key for key, line in self.stood.items() if lines.get(key, [])[:1] != line[:1]]
        self.stood.update(lines)
        return self.lost

    def check(self, count):
        """Count what is lost, doubled and false into a line of the table, and fail where there is anything."""
        found = {"lost": self.look(), "doubled": doubled(self.out), "false": false(self.out, self.jobs)}
        for name, what in found.items():
            count[name] += len(what)
        assert not any(found.values()), found


def half_written(out):
    """Files that a write left behind."""
    return [str(path.relative_to(out)) for path in out.rglob("*") if path.name.endswith(".tmp")]


def all_there(out, jobs):
    """Whether each job has its rows and nothing else is in the file."""
    lines = rows.read(out / "toy.csv")
    wanted = sorted((job["id"], method) for job in jobs for method in METHODS)
    return (
        sorted((row["job"], row["method"]) for row in lines if row["status"] == "ok")
        == wanted
        == sorted((row["job"], row["method"]) for row in lines)
    )


# ---- a sweep in a process of its own -------------------------------------------------------------------------------

PARENT = """\
import errno, json, os, sys
from pathlib import Path
from repro.sweep import reproduce

def fill_the_disk(n):
    there = os.replace
    def replace(source, target):
        nonlocal n
        n -= 1
        if n < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        there(source, target)
    os.replace = replace

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if sys.argv[2]:
        fill_the_disk(int(sys.argv[2]))
    jobs = json.loads((folder / "jobs.json").read_text())
    report = reproduce(jobs, folder / "out", n_jobs=2, notebooks=folder / "notebooks")
    text = json.dumps({name: [job["id"] for job in report[name]] for name in ("ok", "failed", "done", "stale")})
    Path(sys.argv[3]).write_text(text)
"""


class Arena:
    """Some jobs, their results, and sweeps of them in processes that no other test knows."""

    def __init__(self, folder, temporary, jobs):
        self.folder, self.temporary, self.jobs = folder, temporary, jobs
        self.out, self.log, self.parents = folder / "out", folder / "log", []
        self.notebooks = folder / "notebooks"
        self.notebooks.mkdir()
        (self.notebooks / "toy.ipynb").write_text(toy.notebook(*SOURCES))
        (folder / "parent.py").write_text(PARENT)
        for job in jobs:
            job["settings"]["log"] = str(self.log)
        self.jobs = [
            toy.job(*(job[name] for name in ("paper", "dataset", "class", "protocol", "seed", "profile", "settings")))
            for job in jobs
        ]
        (folder / "jobs.json").write_text(json.dumps(self.jobs))

    def start(self, full_after=""):
        """Start a sweep of all jobs, two at once; full_after: of how many files put in place the disk is full."""
        number = len(self.parents)
        # whatever a sweep starts inherits TMPDIR, by which it is known: nobody else has this one
        environment = {**os.environ, "TMPDIR": str(self.temporary), "PYTHONPATH": str(register.CHECKOUT)}
        command = [sys.executable, self.folder / "parent.py", self.folder, str(full_after), self.report_path(number)]
        with open(self.folder / f"said-{number}", "wb") as said:
            parent = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=environment)
        self.parents.append(parent)
        return parent

    def report_path(self, number):
        return self.folder / f"report-{number}.json"

    def said(self, parent):
        return (self.folder / f"said-{self.parents.index(parent)}").read_text()

    def report(self, parent):
        """What a sweep that was let run to its end reports: ids of jobs."""
        wait_for(lambda: parent.poll() is not None)
        assert parent.returncode == 0, self.said(parent)
        return json.loads(self.report_path(self.parents.index(parent)).read_text())

    def events(self):
        """What the notebooks noted so far: (begin, half or end; class, seed, pid of the kernel)."""
        return [line.split() for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def job_of(self, kernel):
        """(The job of a kernel, or None; whether it is in the midst of it). Call it on a kernel that is stopped."""
        try:
            words = " ".join(kernel.cmdline())  # the path of its connection file names the job
        except psutil.Error:
            return None, False
        job = next((job for job in self.jobs if job["id"] in words), None)
        noted = [event for event, _, _, pid in self.events() if int(pid) == kernel.pid]
        return job, bool(noted) and "end" not in noted

    def alive(self):
        """Processes that the sweeps started and that are alive, by the TMPDIR that they inherited."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get("TMPDIR") == str(self.temporary):
                    found.append(process)
        return found

    def check_nothing_left(self):
        """No process lives on, and no folder for temporary files."""
        wait_for(lambda: not self.alive(), lambda: f"alive: {[process.cmdline() for process in self.alive()]}")
        left = list(self.temporary.rglob("*"))
        assert not left, f"left behind: {[str(path) for path in left]}"

    def end(self):
        for process in self.alive():  # only where a test failed
            with contextlib.suppress(psutil.Error):
                process.kill()
        for parent in self.parents:
            parent.wait()


def wait_for(condition, otherwise=lambda: "the deadline has passed", deadline=DEADLINE):
    """Poll until it holds, or fail."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, otherwise()
        time.sleep(POLL)


def of_sweep(parent):
    """The processes of a sweep that are alive at this moment, by kind: kernel, worker (of a job), server."""
    alive = {"kernel": [], "worker": [], "server": [], "parent": [parent]}
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(parent.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                words = " ".join(process.cmdline())
                if "ipykernel_launcher" in words:
                    alive["kernel"].append(process)
                elif "forkserver" in words:
                    alive["server" if process.ppid() == parent.pid else "worker"].append(process)
    return alive


def stop(process):
    """Let a process stand still, so that what it is in the midst of does not change before it is killed."""
    with contextlib.suppress(psutil.Error):
        process.suspend()
        wait_for(lambda: process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE))


def kill(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)


# ---- calls that reach the disk -------------------------------------------------------------------------------------


class Touches:
    """Counts the calls of this thread that reach files under a folder; the n-th does something before it goes on.

    Writing counts: making a folder, opening (a lock file too), writing (half of it is written by then), fsync and
    rename; with reads=True also opening to read.
    """

    def __init__(self, monkeypatch, folder, reads=False):
        self.folder, self.reads, self.thread = str(folder), reads, threading.get_ident()
        self.count, self.act = 0, None
        self.open, self.os_open, self.mkdir, self.fsync, self.replace = open, os.open, os.mkdir, os.fsync, os.replace
        for module in (builtins, io):
            monkeypatch.setattr(module, "open", self._open)
        monkeypatch.setattr(os, "open", self._os_open)
        monkeypatch.setattr(os, "mkdir", self._mkdir)
        monkeypatch.setattr(os, "fsync", self._fsync)
        monkeypatch.setattr(os, "replace", self._replace)

    @contextlib.contextmanager
    def at(self, act):
        """Within: act(number of the call) at each call that counts."""
        self.count, self.act = 0, act
        try:
            yield self
        finally:
            self.act = None

    def step(self, path=None):
        if self.act is None or threading.get_ident() != self.thread:
            return
        if path is None or (isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self.folder)):
            self.count += 1
            self.act(self.count)

    def _open(self, file, mode="r", *args, **kwargs):
        writes = set(mode) & set("wax+")
        if writes or self.reads:
            self.step(file)
        opened = self.open(file, mode, *args, **kwargs)
        return Torn(opened, self, file) if writes and self.act is not None else opened

    def _os_open(self, path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self.step(path)
        return self.os_open(path, flags, *args, **kwargs)

    def _mkdir(self, path, *args, **kwargs):
        if not os.path.exists(path):
            self.step(path)
        self.mkdir(path, *args, **kwargs)

    def _fsync(self, number):
        self.step()
        self.fsync(number)

    def _replace(self, source, target, **kwargs):
        self.step(target)
        self.replace(source, target, **kwargs)


class Torn:
    """A file open for writing, of whose content half is there when the call counts."""

    def __init__(self, file, touches, path):
        self.file, self.touches, self.path = file, touches, path

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        self.touches.step(self.path)
        self.file.write(content[len(content) // 2 :])
        return len(content)


def failing(n, code, stays):
    """An `act` that lets the n-th call fail, and where it stays so all later ones; .fired tells whether one did."""

    def act(number):
        if number == n or (stays and number > n):
            act.fired = True
            raise OSError(code, os.strerror(code))

    act.fired = False
    return act


# ---- the table -----------------------------------------------------------------------------------------------------

COUNTED = ["injected", "running", "idle", "nothing", "lost", "doubled", "false", "sweeps", "finished"]
HEADS = ["injected", "hit a job", "idle", "nothing there", "rows lost", "doubled", "false", "sweeps", "finished"]


class Table:
    """The counts of all faults, by kind; a pytest plugin that prints them at the end."""

    def __init__(self):
        self.counts = {}

    def of(self, kind):
        """The counts of one kind of fault, to be added to."""
        return self.counts.setdefault(kind, dict.fromkeys(COUNTED, 0))

    def pytest_terminal_summary(self, terminalreporter):
        if not self.counts:
            return
        width = max(map(len, self.counts))
        terminalreporter.write_sep("-", "faults")
        terminalreporter.write_line("  ".join(["".ljust(width), *HEADS]))
        for kind, count in self.counts.items():
            cells = (str(count[name]).rjust(len(head)) for name, head in zip(COUNTED, HEADS, strict=True))
            terminalreporter.write_line("  ".join([kind.ljust(width), *cells]))
        kills = sum(count["injected"] for kind, count in self.counts.items() if kind.endswith("killed"))
        terminalreporter.write_line(f"{kills} processes killed; a kill that found nothing is not among them")
