"""A sweep on the workers of a Dask cluster: the same jobs, rows and notebooks, through its executor.

    with cluster.connect("tcp://head:8786", jobs, {"GPU": 1}) as (n_now, new_slot):
        sweep.reproduce(jobs, "results", n_jobs=len(jobs), new_slot=new_slot, waits=True)

All jobs are with the scheduler at once, so that workers which join later find theirs. A worker needs this checkout on
its path, and the data; what a job gives comes back through the scheduler, so that no disk is shared. Where a job runs,
and that one whose worker died runs again elsewhere, is the scheduler's affair: it gives a job up once four workers died
of it. Checkpoints stay on the worker and go with it.
"""

import contextlib
import json
import tempfile
import threading
from concurrent.futures import CancelledError, Executor
from pathlib import Path

from repro import worker
from repro.files import write_whole
from repro.register import CHECKOUT, fingerprint


TOPIC = "adlib"  # of the events by which workers tell how far their jobs are
TELL_EVERY = 2  # seconds


@contextlib.contextmanager
def connect(address, jobs, resources=None, timeout=30):
    """Connect to the scheduler at `address` and look at its workers; gives (n_now, new_slot) for `sweep.reproduce`.

    n_now: how many jobs its workers of now take at once. resources: what each job takes of a worker, {"GPU": 1}, as
    workers offer it with --resources. Raises ValueError, in one sentence and before anything runs: no scheduler there
    or no worker within `timeout` seconds, no worker that offers the resources, another version of the code on one, data
    that one lacks. RuntimeError where the scheduler is lost meanwhile.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("SCHEDULER= needs the package distributed: install the extra `cluster`") from None
    resources, folders = resources or {}, {}
    try:
        client = Client(address, timeout=timeout, set_as_default=False)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise ValueError(f"no scheduler answers at {address} ({str(error).partition(chr(10))[0]})") from None
    try:
        n_now = _check(client, address, jobs, resources, timeout)
        client.subscribe_topic(TOPIC, lambda event: _told(event, folders))
        executor = client.get_executor(pure=False, **({"resources": resources} if resources else {}))
        yield n_now, lambda number: _Slot(executor, folders)
    except CancelledError:
        raise RuntimeError(
            f"the scheduler at {address} is gone; what was finished is kept, and the same command goes on from there"
        ) from None
    finally:
        client.close(timeout=5)


def _check(client, address, jobs, resources, timeout):
    """How many jobs the workers take at once; a ValueError where one of them would fail, or none take any."""
    try:
        client.wait_for_workers(1, timeout=timeout)
    except TimeoutError:
        raise ValueError(f"the scheduler at {address} has no workers") from None
    workers = client.scheduler_info(n_workers=-1)["workers"]
    able = {
        name: info
        for name, info in workers.items()
        if all(info["resources"].get(one, 0) >= amount for one, amount in resources.items())
    }
    if not able:
        offered = sorted(
            {f"{one}={amount:g}" for info in workers.values() for one, amount in info["resources"].items()}
        )
        wanted = ",".join(f"{one}={amount:g}" for one, amount in resources.items())
        raise ValueError(f"no worker at {address} offers {wanted}; they offer {', '.join(offered) or 'no resources'}")
    told = client.run(examine, jobs, workers=list(able), on_error="return")
    for name, one in told.items():
        if isinstance(one, Exception):
            raise ValueError(
                f"worker {name} cannot look at the jobs ({worker.last_line(one)}): it needs this checkout on its path"
            ) from None
        if one["code"] != fingerprint():
            raise ValueError(f"worker {name} has another version of the code ({one['code']}, here {fingerprint()})")
        lacking = [thing for thing in one["missing"] if not thing["is_downloaded"]]
        if lacking:
            raise ValueError(f"worker {name} lacks {lacking[0]['what']}: {lacking[0]['how']}")
    return sum(
        min([info["nthreads"], *(int(info["resources"][one] // amount) for one, amount in resources.items())])
        for info in able.values()
    )


class _Slot(Executor):
    """Room for one job. All slots share the scheduler's executor, which finds the worker."""

    def __init__(self, executor, folders):
        self.executor, self.folders = executor, folders

    def submit(self, function, job, options):
        # a worker takes its own notebooks, and a work folder of its own; only a test has others
        own = {} if options["notebooks"] == str(CHECKOUT / "notebooks") else {"notebooks": options["notebooks"]}
        self.folders[job["id"]] = options["work"]
        return self.executor.submit(run_job, job, {"device": options["device"], "commit": options["commit"], **own})

    def shutdown(self, wait=True, cancel_futures=False):
        pass  # `connect` closes the client, and with it goes what still waits


def _told(event, folders):
    """Put what a worker tells of a job where the sweep looks for it."""
    _, told = event
    if told.get("job") in folders:
        with contextlib.suppress(OSError):  # no room: then it is not shown
            write_whole(Path(folders[told["job"]]) / "progress.json", told["progress"].encode(), durable=False)


# ---- on the worker -------------------------------------------------------------------------------------------------


def run_job(job, options):
    """`worker.run_job` on a worker of the cluster, telling how far it is."""
    from distributed import get_worker

    worker.set_environment(worker.environment(worker.cores()))
    me = get_worker()
    # in the worker's own folder: what a killed one leaves there goes when the next worker of this machine starts
    with tempfile.TemporaryDirectory(prefix="adlib-", dir=me.local_directory, ignore_cleanup_errors=True) as work:
        over = threading.Event()
        teller = threading.Thread(target=_tell, args=(me, job, work, over), daemon=True)
        teller.start()
        try:
            return worker.run_job(job, {"notebooks": str(CHECKOUT / "notebooks"), **options, "work": work})
        finally:
            over.set()
            teller.join()


def _tell(me, job, work, over):
    me.log_event(TOPIC, {"job": job["id"], "progress": json.dumps({"done": 0, "total": 1, "what": "kernel"})})
    before = None
    while not over.wait(TELL_EVERY):
        with contextlib.suppress(OSError):  # no progress yet
            content = Path(work, "progress.json").read_text(encoding="utf-8")
            if content != before:
                me.log_event(TOPIC, {"job": job["id"], "progress": content})
                before = content


def examine(jobs):
    """What a worker has: {"code": `fingerprint()`, "missing": what the jobs need and it lacks (`plan.missing`)}."""
    from repro import plan

    return {"code": fingerprint(), "missing": plan.missing(jobs)}
