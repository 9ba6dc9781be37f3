"""Processes killed, a full disk, two sweeps at once, damaged results: no row lost, doubled or false, nothing left.

    make faults          # all of them, and a table of what was injected and what became of it

The quick suite holds five kills and what needs no processes. Kills come at moments drawn from a fixed seed: so many
events of the jobs after the last one, and so many polls more.
"""

import csv
import errno
import itertools
import os
import shutil
import signal
import tempfile
import threading
import time
from datetime import datetime
from pathlib import Path
from random import Random

import faults
import pytest
import toy
from faults import Ledger, Touches, failing, kill, of_sweep, stop, wait_for

from repro import job as runner
from repro import rows, sweep


TABLE = faults.Table()


@pytest.fixture(scope="module", autouse=True)
def table(request):
    """Printed at the end of the run, with what was counted by then."""
    request.config.pluginmanager.register(TABLE)


@pytest.fixture
def arena(tmp_path):
    """arena(jobs): a place for sweeps of these jobs, after which nothing may be left."""
    temporary = Path(tempfile.mkdtemp())  # not below tmp_path, which is too long for the names of sockets
    made = []

    def make(jobs):
        made.append(faults.Arena(tmp_path, temporary, jobs))
        return made[0]

    yield make
    for one in made:
        one.end()
    shutil.rmtree(temporary)


@pytest.fixture
def here(arena, tmp_path, monkeypatch):
    """here(jobs): the same without processes; .sweep(jobs) runs the notebook's code in this process."""
    monkeypatch.setattr(runner, "execute", faults.execute)
    monkeypatch.setattr(sweep, "commit", str)  # git takes longer than all the rest
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))

    def make(jobs):
        one = arena(jobs)

        def run(some=one.jobs, out=one.out, n_jobs=1):
            return sweep.reproduce(some, out, n_jobs=n_jobs, notebooks=one.notebooks, submit=faults.here)

        one.sweep, one.temporary = run, tmp_path / "temporary"
        return one

    return make


def small_jobs(n, **settings):
    return [toy.toy_job(str(number), number % 2, **settings) for number in range(n)]


def ids(jobs):
    return [job["id"] for job in jobs]


def nothing_runs(one):
    """A call that has nothing to run, or fails before it runs anything."""
    return sweep.reproduce(one.jobs, one.out, notebooks=one.notebooks, submit=lambda *_: pytest.fail("ran"))


def check_finished(one, ledger, call, *counts):
    """The rows that exist are right; the next call finishes the sweep, and a further call runs nothing."""
    for count in counts:
        count["sweeps"] += 1
    ledger.check(counts[0])
    call()
    ledger.check(counts[0])
    assert faults.all_there(one.out, one.jobs)
    before = (one.out / "toy.csv").read_bytes()
    report = nothing_runs(one)
    assert ids(report["done"]) == ids(one.jobs) and (one.out / "toy.csv").read_bytes() == before
    assert faults.half_written(one.out) == []
    for count in counts:
        count["finished"] += 1


# ---- SIGKILL -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seed, kills",
    [
        (0, ["kernel", "worker", "parent", "worker", "kernel"]),
        pytest.param(1, ["parent", "kernel", "parent", "worker", "parent"], marks=pytest.mark.slow),
        pytest.param(2, ["kernel", "kernel", "worker", "worker", "parent", "kernel"], marks=pytest.mark.slow),
        pytest.param(3, ["worker", "parent", "kernel", "parent", "worker", "kernel"], marks=pytest.mark.slow),
        pytest.param(4, ["server", "kernel", "server"], marks=pytest.mark.slow),
    ],
)
def test_kills_at_any_moment_cost_no_row(arena, seed, kills):
    one, random = arena(small_jobs(7, steps=8, pace=0.1)), Random(seed)
    ledger, waiting, calls = Ledger(one.out, one.jobs), list(kills), 0
    counts = [TABLE.of(f"{kind} killed") for kind in dict.fromkeys(kills)]
    while waiting:
        calls += 1
        parent, ended, must_fail, may_fail = one.start(), False, set(), set()
        while waiting and not ended:
            wait_for_moment(one, parent, random, ledger)
            ended = parent.poll() is not None
            if ended and not sweep.outstanding(one.jobs, one.out)[0]:
                for kind in waiting:  # all was done before
                    TABLE.of(f"{kind} killed")["nothing"] += 1
                waiting.clear()
            elif not ended:
                kind = waiting.pop(0)
                ended = strike(one, parent, kind, random, must_fail, may_fail)
                ledger.check(TABLE.of(f"{kind} killed"))
        if parent.returncode != -signal.SIGKILL:
            report = one.report(parent)
            assert must_fail <= set(report["failed"]) <= may_fail, one.said(parent)
        one.check_nothing_left()
        ledger.check(counts[0])
        assert calls <= len(kills) + 1

    check_finished(one, ledger, lambda: finish(one), *counts)


def finish(one):
    """A sweep in a process of its own that nothing disturbs."""
    assert one.report(one.start())["failed"] == []
    one.check_nothing_left()


def wait_for_moment(one, parent, random, ledger):
    """Until one to three more things have happened in the jobs and a few polls have gone by, or the sweep has ended."""
    target = sum(event[0] != "end" for event in one.events()) + random.randrange(1, 4)

    def is_reached():
        assert not ledger.look()
        return parent.poll() is not None or sum(event[0] != "end" for event in one.events()) >= target

    wait_for(is_reached)
    for _ in range(random.randrange(6)):
        time.sleep(faults.POLL)


def strike(one, parent, kind, random, must_fail, may_fail):
    """Kill one process of a sweep, and count what it was in the midst of; True where that ended the sweep.

    must_fail, may_fail: ids of the jobs whose kernel was killed in this call: in the midst of it, and at any moment.
    """
    count = TABLE.of(f"{kind} killed")
    if kind == "parent":
        stop(faults.psutil.Process(parent.pid))
    alive = of_sweep(parent)
    kernels, victims = alive["kernel"], alive[kind]
    if not victims or not alive["worker"]:  # while no job runs, nobody would tidy up behind a parent
        parent.send_signal(signal.SIGCONT)
        count["nothing"] += 1
        return False
    victim = random.choice(victims)
    own = kernels
    if kind in ("kernel", "worker"):
        stop(victim)
        own = [victim] if kind == "kernel" else [kernel for kernel in kernels if parent_of(kernel) == victim.pid]
    jobs = [one.job_of(kernel) for kernel in own]
    hit = any(midst for _, midst in jobs)
    if kind == "kernel":
        may_fail.update(job["id"] for job, _ in jobs if job)
        must_fail.update(job["id"] for job, midst in jobs if job and midst)
    else:  # of a kernel killed a moment ago its worker may not know yet: then the job runs again
        must_fail &= {row["job"] for row in rows.read(one.out / "toy.csv") if row["status"] == "failed"}
    kill(victim)
    count["injected"] += 1
    count["running" if hit else "idle"] += 1
    if kind == "parent":
        parent.wait()
    return kind == "parent"


def parent_of(process):
    try:
        return process.ppid()
    except faults.psutil.Error:
        return None


@pytest.mark.slow
@pytest.mark.parametrize("times", [sweep.ATTEMPTS - 1, sweep.ATTEMPTS])
def test_a_job_has_three_attempts_while_its_workers_are_killed(arena, times):
    one, count = arena(small_jobs(1, steps=60)), TABLE.of("worker killed")
    parent = one.start()
    for number in range(times):
        wait_for(lambda n=number: len(begun(one)) > n)
        kernel = faults.psutil.Process(begun(one)[-1])
        if number == times - 1:
            stop(kernel)  # as one that is in the midst of a long call does not see that its worker is gone
        [victim] = [worker for worker in of_sweep(parent)["worker"] if worker.pid == parent_of(kernel)]
        kill(victim)
        count["injected"] += 1
        count["running"] += 1
    failed = one.report(parent)["failed"]
    one.check_nothing_left()
    assert failed == (ids(one.jobs) if times == sweep.ATTEMPTS else [])
    said = [row["error"] for row in rows.read(one.out / "toy.csv") if row["status"] == "failed"]
    assert said == ["the worker died 3 times"] * len(failed)
    check_finished(one, Ledger(one.out, one.jobs), lambda: finish(one), count)


def begun(one):
    """Kernels (pids) that began a job, in order."""
    return [int(event[3]) for event in one.events() if event[0] == "begin"]


def set_clock(monkeypatch, second_finishes):
    """Let the test say when the two rows of each of two runs finish: of one in this thread, and of one in another."""
    seconds = {"earlier": (10, 11), "between": (22, 28), "later": (40, 41), "at once": (20, 30)}[second_finishes]
    here, runs = threading.current_thread(), {True: itertools.cycle((20, 30)), False: itertools.cycle(seconds)}

    class Clock:
        def now(zone):
            return datetime(2026, 1, 1, 12, 0, next(runs[threading.current_thread() is here]), tzinfo=zone)

    monkeypatch.setattr(rows, "datetime", Clock)


# ---- two sweeps at once --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_sweeps_of_the_same_jobs_at_once(arena):
    one, count = arena(small_jobs(5)), TABLE.of("two sweeps at once")
    ledger = Ledger(one.out, one.jobs)
    pair = [one.start(), one.start()]
    count["injected"] += 1
    wait_for(lambda: faults.doubled(one.out) or all(parent.poll() is not None for parent in pair))
    for parent in pair:
        assert one.report(parent)["failed"] == [], one.said(parent)
    count["running" if len(begun(one)) > len(one.jobs) else "idle"] += 1
    one.check_nothing_left()
    check_finished(one, ledger, lambda: finish(one), count)


@pytest.mark.parametrize("second_finishes", ["earlier", "between", "later", "at once"])
def test_a_second_sweep_may_come_between_any_two_touches_of_the_disk(here, monkeypatch, second_finishes):
    """The whole of another sweep of the same job, from another thread, before each call that writes results."""
    set_clock(monkeypatch, second_finishes)
    one, count, n = here(small_jobs(1, steps=1, pace=0.0)), TABLE.of("a sweep within another"), 0
    touches = Touches(monkeypatch, one.out)
    while n == 0 or touches.count >= n:
        n += 1
        out, errors = one.folder / "out", []
        shutil.rmtree(out, ignore_errors=True)

        def second(out=out, errors=errors):
            try:
                one.sweep(out=out)
            except Exception as error:
                errors.append(error)

        other = threading.Thread(target=second)

        def between(number, n=n, other=other):
            if number == n:
                other.start()
                other.join(0.5)  # it may wait for a lock that is held at this moment: then it goes on later

        with touches.at(between):
            second()
        if touches.count >= n:
            other.join()
            count["injected"] += 1
            count["running"] += 1
            assert errors == [], n
            check_finished(one, Ledger(out, one.jobs), one.sweep, count)


# ---- a full disk, and results that cannot be written or read -------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("stays", [True, False])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_fails_at_any_touch_costs_no_row(here, monkeypatch, code, stays):
    """The n-th call fails (where it stays: and all after it), for every n until a sweep goes through untouched."""
    jobs = small_jobs(3, steps=1, pace=0.0)
    one = here([*jobs[:2], toy.toy_job("2", fails_once=True, steps=1, pace=0.0)])
    count = TABLE.of(f"{errno.errorcode[code]} {'from a call on' if stays else 'once'}")
    before, n, act = one.folder / "before", 0, None
    one.sweep(one.jobs[:1], out=before)  # a row that stands
    touches = Touches(monkeypatch, one.folder, reads=code == errno.EACCES)
    while act is None or act.fired:
        n += 1
        shutil.rmtree(one.out, ignore_errors=True)
        shutil.copytree(before, one.out)
        Path(f"{one.log}.failed").unlink(missing_ok=True)
        ledger, act = Ledger(one.out, one.jobs), failing(n, code, stays)
        ledger.look()
        with touches.at(act):
            try:
                one.sweep()
            except OSError as error:
                assert error.errno == code
        assert list(one.temporary.iterdir()) == []
        told = [row["error"] for row in rows.read(one.out / "toy.csv") if row["status"] == "failed"]
        told = [error for error in told if error != "RuntimeError: this cell fails"]
        assert all(os.strerror(code) in error for error in told)  # the reason, not what came of it
        if act.fired:
            count["injected"] += 1
            count["running" if told else "idle"] += 1
            Path(f"{one.log}.failed").touch()
            check_finished(one, ledger, one.sweep, count)
    assert n > 40 and len(faults.lines_of(one.out / "toy.csv")) == 2 * len(faults.METHODS)


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 4])
def test_where_the_disk_is_full_a_sweep_ends_with_all_its_processes(arena, after):
    one, count = arena(small_jobs(5)), TABLE.of("ENOSPC in a sweep of workers")
    ledger, parent = Ledger(one.out, one.jobs), one.start(full_after=after)
    wait_for(lambda: ledger.look() or parent.poll() is not None)
    count["injected"] += 1
    count["running" if len(begun(one)) > sum(event[0] == "end" for event in one.events()) else "idle"] += 1
    assert parent.returncode == 1 and "No space left on device" in one.said(parent)
    one.check_nothing_left()
    check_finished(one, ledger, lambda: finish(one), count)


# ---- damaged results -----------------------------------------------------------------------------------------------


def files_of(out):
    """The files under `out`, except logs and lock files."""
    return {
        path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.suffix not in (".log", ".lock")
    }


def test_a_result_file_cut_anywhere_is_named_and_left_as_it_is(here):
    one, count = here(small_jobs(3, steps=1, pace=0.0)), TABLE.of("results cut off")
    one.sweep()
    path = one.out / "toy.csv"
    whole, before = path.read_bytes(), files_of(one.out)
    ends = [number + 1 for number, byte in enumerate(whole) if byte == ord("\n")]
    cuts = {*range(0, len(whole), 11), *(end - 1 for end in ends), *(end + 1 for end in ends[:-1])}
    for cut in sorted(cuts - set(ends)):  # at the end of a line it is a whole file with fewer rows
        path.write_bytes(whole[:cut])
        count["injected"] += 1
        count["idle"] += 1
        with pytest.raises(ValueError, match=r"toy\.csv, line \d+"):
            nothing_runs(one)
        assert files_of(one.out) == {**before, path: whole[:cut]}
    path.write_bytes(whole)
    for job in one.jobs:  # mended by hand: the lines of one job are deleted
        kept = [line for line in path.read_bytes().splitlines(keepends=True) if job["id"].encode() not in line]
        path.write_bytes(b"".join(kept))
        check_finished(one, Ledger(one.out, one.jobs), one.sweep, count)


QUOTE = '"'
EDITS = {
    "a metric above 1": lambda line: line.replace(b",0.", b",1.", 1),
    "a metric that is no number": lambda line: line.replace(b",0.", b",O.", 1),
    "a metric nan": lambda line: edited(line, "auroc", b"nan"),
    "a decimal comma": lambda line: line.replace(b",0.", b",0,", 1),
    "a cell deleted": lambda line: line.replace(b",digits", b"", 1),
    "no class": lambda line: edited(line, "class", b""),
    "another status": lambda line: edited(line, "status", b"good"),
    "settings that are no JSON": lambda line: edited(line, "settings", b"lr"),
    "a quote that stays open": lambda line: edited(line, "data", b'"official'),
    "not UTF-8": lambda line: edited(line, "data", b"\xe9"),
    "an empty line": lambda line: line + b"\n",
    "a conflict of git": lambda line: b"<<<<<<< HEAD\n" + line,
    "seconds that are no number": lambda line: edited(line, "train_seconds", b"soon"),
    "a count that is no number": lambda line: edited(line, "n_test", b"two"),
    "a seed that is no number": lambda line: edited(line, "seed", b"zero"),
    "a line copied": lambda line: line + line,
}


def edited(line, column, value):
    """A line of a result file with another value in one column."""
    cells = [f'"{cell.replace(QUOTE, 2 * QUOTE)}"'.encode() for cell in next(csv.reader([line.decode()]))]
    cells[rows.COLUMNS.index(column)] = value
    return b",".join(cells) + b"\n"


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_a_bad_value_set_by_hand_is_named_and_the_file_left_as_it_is(here, monkeypatch, edit, moment):
    """Before a call, and while a sweep runs; mended, nothing is missing and the sweep goes on."""
    one, count = here(small_jobs(3, steps=1, pace=0.0)), TABLE.of("results edited by hand")
    one.sweep(one.jobs[:2])
    path = one.out / "toy.csv"
    good = path.read_bytes()
    lines = good.splitlines(keepends=True)
    bad = b"".join([*lines[:2], EDITS[edit](lines[2]), *lines[3:]])
    assert bad != good
    count["injected"] += 1
    if moment == "before":
        path.write_bytes(bad)
        count["idle"] += 1
        with pytest.raises(ValueError, match=r"toy\.csv, line [34]"):
            nothing_runs(one)
    else:
        keep = sweep.keep

        def edit_first(*args):
            path.write_bytes(bad)
            keep(*args)

        monkeypatch.setattr(sweep, "keep", edit_first)
        count["running"] += 1
        with pytest.raises(ValueError, match=r"toy\.csv, line [34]"):
            one.sweep()
        monkeypatch.setattr(sweep, "keep", keep)
    assert path.read_bytes() == bad and list(one.temporary.iterdir()) == []
    path.write_bytes(good)
    check_finished(one, Ledger(one.out, one.jobs), one.sweep, count)
