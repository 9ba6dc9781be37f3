"""A real scheduler and real workers, on this machine."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import toy
from faults import DEADLINE, wait_for

from repro import cluster, register, rows, sweep


distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def start():
    """start(folder, program, *words): a process of a cluster, ended with all that it started when the tests are over.

    It has a cache of its own, and nothing of this process's data.
    """
    processes = []

    def begin(folder, program, *words):
        environment = {**os.environ, "PYTHONPATH": str(register.CHECKOUT), "ADLIB_CACHE": str(folder / "cache")}
        environment |= {"ADLIB_OFFLINE": "1", "ADLIB_DATA": "", "PYTHONWARNINGS": ""}
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *words]
        with open(folder / "cluster.log", "a") as log:
            processes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment))
        return processes[-1]

    yield begin
    for process in processes[::-1]:
        end(process)


def end(process):
    """Kill a process and all that it started."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.wait()
    for child in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def start_scheduler(start, folder):
    """(its process, its address)."""
    file = folder / "scheduler.json"
    words = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    process = start(folder, "scheduler", *words)
    wait_for(lambda: file.exists() and file.read_text().endswith("}"))
    return process, json.loads(file.read_text())["address"]


@pytest.fixture(scope="module")
def head(start, tmp_path_factory):
    """(address of a scheduler, start a worker of it)."""
    folder = tmp_path_factory.mktemp("cluster")
    _, address = start_scheduler(start, folder)

    def worker(*words):
        return start(folder, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard", *words)

    return address, worker


def test_without_a_scheduler_or_a_worker_it_says_so(head, monkeypatch):
    def none_comes(self, n, timeout):
        raise TimeoutError

    monkeypatch.setattr(distributed.Client, "wait_for_workers", none_comes)
    with pytest.raises(ValueError, match="no scheduler answers at tcp://127.0.0.1:9"):
        with cluster.connect("tcp://127.0.0.1:9", [], timeout=1):
            pass
    with pytest.raises(ValueError, match=f"the scheduler at {head[0]} has no workers"):
        with cluster.connect(head[0], [], timeout=DEADLINE):
            pass


def test_a_killed_worker_costs_nothing_and_the_rows_are_those_of_a_local_sweep(head, tmp_path, monkeypatch):
    address, worker = head
    workers = {process.pid: process for process in (worker(), worker("--resources", "GPU=1"))}
    notebooks, log = toy.write_notebook(tmp_path / "notebooks"), tmp_path / "log"
    jobs = [toy.toy_job(str(number), trouble="until told", log=str(log)) for number in range(3)]
    killed, told, follow = [], {}, sweep._follow

    def kill_one(task, out):  # once two jobs have begun, and told of it
        follow(task, out)
        told[task["job"]["id"]] = task["progress"]
        toying = [progress for progress in told.values() if progress and progress["what"] == "toying"]
        if len(toying) == 2 and not killed:
            killed.append(int(log.read_text().split()[3]))
            os.kill(killed[0], signal.SIGKILL)
            Path(f"{log}.go").touch()

    monkeypatch.setattr(sweep, "_follow", kill_one)
    with cluster.connect(address, jobs, timeout=DEADLINE) as (n_now, submit):
        assert n_now in (1, 2)  # the other may join while jobs run
        report = sweep.reproduce(jobs, tmp_path / "out", notebooks=notebooks, submit=submit)
    monkeypatch.undo()
    assert killed and killed[0] in workers and report["ok"] and not report["failed"]
    sweep.reproduce(jobs, tmp_path / "local", 1, notebooks=notebooks)

    def lines(folder):
        names = (*rows.KEY, *rows.METRICS, "job", "status", "diagnostics")
        return [[row[name] for name in names] for row in rows.read(tmp_path / folder / "toy.csv")]

    assert len(lines("out")) == 6 and lines("out") == lines("local")
    for job in jobs:
        assert (
            sweep.scores_path(tmp_path / "out", job).read_bytes()
            == sweep.scores_path(tmp_path / "local", job).read_bytes()
        )
        assert sweep.notebook_path(tmp_path / "out", job).exists()


def test_what_no_worker_offers_and_what_one_lacks_is_said_before_anything_runs(head, monkeypatch):
    address, worker = head
    worker("--resources", "GPU=1")
    with distributed.Client(address, set_as_default=False) as client:
        wait_for(lambda: any(info["resources"] for info in client.scheduler_info(n_workers=-1)["workers"].values()))
    job = toy.toy_job()
    with cluster.connect(address, [job], {"GPU": 1}, DEADLINE) as (n_now, _):
        assert n_now >= 1
    with pytest.raises(ValueError, match="no worker at .* offers GPU=4; they offer GPU=1"):
        with cluster.connect(address, [job], {"GPU": 4}, DEADLINE):
            pass
    lacking = register.job("two_stage", "mnist", "8", "official", 0, "quick", {})
    with pytest.raises(ValueError, match="worker tcp://.* lacks mnist: put MNIST/raw"):
        with cluster.connect(address, [lacking], timeout=DEADLINE):
            pass
    monkeypatch.setattr(cluster, "fingerprint", lambda: "of another code")
    with pytest.raises(ValueError, match="worker tcp://.* has another version of the code"):
        with cluster.connect(address, [job], timeout=DEADLINE):
            pass


def test_a_scheduler_that_is_lost_ends_the_sweep_with_a_sentence(start, tmp_path, monkeypatch):
    scheduler, address = start_scheduler(start, tmp_path)
    start(tmp_path, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
    log = tmp_path / "log"
    jobs = [toy.toy_job(trouble="until told", log=str(log))]
    follow = sweep._follow

    def lose(task, out):
        follow(task, out)
        if log.exists() and scheduler.poll() is None:
            end(scheduler)

    monkeypatch.setattr(sweep, "_follow", lose)
    with pytest.raises(RuntimeError, match=f"the scheduler at {address} is gone; what was finished is kept"):
        with cluster.connect(address, jobs, timeout=DEADLINE) as (_, submit):
            notebooks = toy.write_notebook(tmp_path / "notebooks")
            sweep.reproduce(jobs, tmp_path / "out", notebooks=notebooks, submit=submit)
