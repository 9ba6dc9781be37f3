"""A sweep on the workers of a Dask cluster: the same jobs, rows and notebooks, through its executor.

    with cluster.connect("tcp://head:8786", jobs, {"GPU": 1}) as (n_now, submit):
        sweep.reproduce(jobs, "results", submit=submit)

The scheduler gets all jobs at once. A worker needs this checkout on its path, and the data. Results come back through
the scheduler, so no shared disk is needed. If a worker dies, its job runs again elsewhere, four times at most.
"""

import contextlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path

from repro import job as runner
from repro import rows
from repro.register import CHECKOUT, fingerprint


TOPIC = "adlib"  # of the events with which workers report progress
TELL_EVERY = 2  # seconds


@contextlib.contextmanager
def connect(
    address: str, jobs: list[dict], resources: dict[str, float] | None = None, timeout: float = 30
) -> Iterator[tuple[int, Callable[..., Future]]]:
    """Connect to the scheduler at `address` and look at its workers; gives (n_now, submit) for `sweep.reproduce`.

    n_now: how many jobs the present workers run at once. resources: what each job takes from a worker, {"GPU": 1}, as
    workers offer it with --resources. Raises ValueError before anything runs: no scheduler or worker within `timeout`
    seconds, resources not offered, other code or missing data on a worker. RuntimeError: the scheduler is lost later.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("SCHEDULER= needs the package distributed: install the extra `cluster`") from None
    try:
        client = Client(address, timeout=timeout, set_as_default=False)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise ValueError(f"no scheduler answers at {address} ({str(error).partition(chr(10))[0]})") from None
    works = {}  # job id -> the folder in which the sweep looks for its progress

    def submit(job, options, variables):
        works[job["id"]] = options["work"]
        options = {name: value for name, value in options.items() if name != "work"}
        if options["notebooks"] == str(CHECKOUT / "notebooks"):  # else it is a test
            del options["notebooks"]  # a worker has its own, like its work folder and environment
        return executor.submit(run, job, options)

    def hear(event):
        told = event[1]
        if told.get("job") in works:
            with contextlib.suppress(OSError):  # disk full: then it is not shown
                rows.write_whole(Path(works[told["job"]], "progress.json"), told["progress"].encode(), durable=False)

    try:
        n_now = _check(client, address, jobs, resources or {}, timeout)
        client.subscribe_topic(TOPIC, hear)
        executor = client.get_executor(pure=False, **({"resources": resources} if resources else {}))
        yield n_now, submit
    except CancelledError:
        kept = "what was finished is kept, and the same command goes on from there"
        raise RuntimeError(f"the scheduler at {address} is gone; {kept}") from None
    finally:
        client.close(timeout=5)


def _check(client, address, jobs, resources, timeout):
    """How many jobs the workers run at once; ValueError if a worker would fail, or if none takes a job."""
    try:
        client.wait_for_workers(1, timeout=timeout)
    except TimeoutError:
        raise ValueError(f"the scheduler at {address} has no workers") from None
    room, offers = {}, set()  # worker -> the jobs it takes at once; "GPU=1"
    for name, info in client.scheduler_info(n_workers=-1)["workers"].items():
        offered = info["resources"]
        offers |= {f"{thing}={amount:g}" for thing, amount in offered.items()}
        shares = [int(offered.get(thing, 0) // amount) for thing, amount in resources.items()]
        room[name] = min([info["nthreads"], *shares])
    able = [name for name in room if room[name]]
    if not able:
        wanted = ",".join(f"{thing}={amount:g}" for thing, amount in resources.items())
        there = ", ".join(sorted(offers)) or "no resources"
        raise ValueError(f"no worker at {address} offers {wanted}; they offer {there}")
    for name, answer in client.run(examine, jobs, workers=able, on_error="return").items():
        if isinstance(answer, Exception):
            why = f"({runner.last_line(answer)}): it needs this checkout on its path"
            raise ValueError(f"worker {name} cannot look at the jobs {why}") from None
        code, missing = answer
        if code != fingerprint():
            raise ValueError(f"worker {name} has another version of the code ({code}, here {fingerprint()})")
        for thing in missing:
            if not thing["is_downloaded"]:
                raise ValueError(f"worker {name} lacks {thing['what']}: {thing['how']}")
    return sum(room.values())


def examine(jobs: list[dict]) -> tuple[str, list[dict]]:
    """On a worker: its code's `fingerprint()`, and what the jobs need and it lacks (`plan.missing`)."""
    from repro import plan

    return fingerprint(), plan.missing(jobs)


def run(job: dict, options: dict) -> dict:
    """On a worker: `job.run_job`, with reports of its progress."""
    from distributed import get_worker

    runner.set_environment(runner.environment(runner.cores()))
    me, over = get_worker(), threading.Event()
    # in the worker's own folder: the next worker on this machine removes what a killed worker left there
    with tempfile.TemporaryDirectory(prefix="adlib-", dir=me.local_directory, ignore_cleanup_errors=True) as work:

        def tell():
            content = json.dumps({"done": 0, "total": 1, "what": "kernel"})
            while not over.wait(TELL_EVERY):
                me.log_event(TOPIC, {"job": job["id"], "progress": content})
                with contextlib.suppress(OSError):  # no progress yet
                    content = Path(work, "progress.json").read_text(encoding="utf-8")

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        try:
            return runner.run_job(job, {"notebooks": str(CHECKOUT / "notebooks"), **options, "work": work})
        finally:
            over.set()
            teller.join()
