"""A real scheduler and real workers, on this machine."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import toy
from faults import wait_for

from repro import cluster, register, results, sweep


distributed = pytest.importorskip("distributed")


def start(folder, program, *words):
    """A process of the cluster, with a cache of its own and nothing of this process's data."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(register.CHECKOUT),
        "ADLIB_CACHE": str(folder / "cache"),
        "ADLIB_OFFLINE": "1",
        "ADLIB_DATA": "",
        "PYTHONWARNINGS": "",
    }
    with open(folder / "cluster.log", "a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{program}", *words],
            stdout=log,
            stderr=log,
            cwd=folder,
            env=environment,
        )


def end(process):
    """Kill a process and all that it started."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for child in family:
        if child.is_running():
            child.kill()


def start_scheduler(folder):
    """(its process, its address)."""
    file = folder / "scheduler.json"
    process = start(
        folder, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)
    )
    wait_for(lambda: file.exists() and file.read_text().endswith("}"))
    return process, json.loads(file.read_text())["address"]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """(address of a scheduler, start a worker of it)."""
    folder = tmp_path_factory.mktemp("cluster")
    process, address = start_scheduler(folder)
    processes = [process]

    def worker(*words):
        processes.append(start(folder, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard", *words))
        return processes[-1]

    yield address, worker
    for process in processes[::-1]:
        if process.poll() is None:
            end(process)


def test_without_a_scheduler_or_a_worker_it_says_so(head):
    with pytest.raises(ValueError, match="no scheduler answers at tcp://127.0.0.1:9"):
        with cluster.connect("tcp://127.0.0.1:9", [], timeout=1):
            pass
    with pytest.raises(ValueError, match=f"the scheduler at {head[0]} has no workers"):
        with cluster.connect(head[0], [], timeout=1):
            pass


def test_a_killed_worker_costs_nothing_and_the_rows_are_those_of_a_local_sweep(head, tmp_path, monkeypatch):
    address, worker = head
    workers = {process.pid: process for process in (worker(), worker("--resources", "GPU=1"))}
    notebooks, log = toy.write_notebook(tmp_path / "notebooks"), tmp_path / "log"
    jobs = [toy.toy_job(str(number), trouble="until told", log=str(log)) for number in range(3)]
    killed, told, follow = [], {}, sweep._follow

    def kill_one(one, out):  # once two jobs have begun, and told of it
        follow(one, out)
        told[one["job"]["id"]] = one["progress"]
        toying = [progress for progress in told.values() if progress and progress["what"] == "toying"]
        if len(toying) == 2 and not killed:
            killed.append(int(log.read_text().split()[3]))
            os.kill(killed[0], signal.SIGKILL)
            Path(f"{log}.go").touch()

    monkeypatch.setattr(sweep, "_follow", kill_one)
    with cluster.connect(address, jobs) as (n_now, new_slot):
        assert n_now in (1, 2)  # the other may join while jobs run
        how = {"n_jobs": len(jobs), "new_slot": new_slot, "waits": True}
        report = sweep.reproduce(jobs, tmp_path / "out", notebooks=notebooks, **how)
    monkeypatch.undo()
    assert killed and killed[0] in workers and report["ok"] and not report["failed"]
    sweep.reproduce(jobs, tmp_path / "local", 1, notebooks=notebooks)

    def rows(folder):
        found = results.read(tmp_path / folder / "toy.csv")
        return [[row[name] for name in (*results.KEY, *results.METRICS, "job", "status")] for row in found]

    assert len(rows("out")) == 6 and rows("out") == rows("local")
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
    with cluster.connect(address, [job], {"GPU": 1}) as (n_now, _):
        assert n_now >= 1
    with pytest.raises(ValueError, match="no worker at .* offers GPU=4; they offer GPU=1"):
        with cluster.connect(address, [job], {"GPU": 4}):
            pass
    lacking = register.job("two_stage", "mnist", "8", "official", 0, "quick", {})
    with pytest.raises(ValueError, match="worker tcp://.* lacks mnist: put MNIST/raw"):
        with cluster.connect(address, [lacking]):
            pass
    monkeypatch.setattr(cluster, "fingerprint", lambda: "of another code")
    with pytest.raises(ValueError, match="worker tcp://.* has another version of the code"):
        with cluster.connect(address, [job]):
            pass


def test_a_scheduler_that_is_lost_ends_the_sweep_with_a_sentence(tmp_path, monkeypatch):
    scheduler, address = start_scheduler(tmp_path)
    worker = start(tmp_path, "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
    log = tmp_path / "log"
    jobs = [toy.toy_job(trouble="until told", log=str(log))]
    follow = sweep._follow

    def lose(one, out):
        follow(one, out)
        if log.exists() and scheduler.poll() is None:
            end(scheduler)

    monkeypatch.setattr(sweep, "_follow", lose)
    with pytest.raises(RuntimeError, match=f"the scheduler at {address} is gone; what was finished is kept"):
        with cluster.connect(address, jobs) as (_, new_slot):
            sweep.reproduce(
                jobs,
                tmp_path / "out",
                1,
                notebooks=toy.write_notebook(tmp_path / "notebooks"),
                new_slot=new_slot,
                waits=True,
            )
    Path(f"{log}.go").touch()
    end(worker)
