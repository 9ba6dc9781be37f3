"""One job in a worker process: its notebook through papermill, in a kernel; what comes back is rows, scores, notebook.

    outcome = run_job(job, {"notebooks": "notebooks", "device": "cpu"})
    outcome["error"], outcome["rows"]              # None and the rows, or what went wrong and []

The only place that knows papermill. `run_job` is a plain function of plain values, all that a worker needs, so that
any `concurrent.futures.Executor` can run it; it writes nothing outside its work folder.
"""

import ast
import functools
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from repro import results
from repro.register import CHECKOUT, describe, place


START_TIMEOUT = 120  # seconds for a kernel to start, on a busy machine
OUTCOME = "outcome.json"  # in the work folder of a job
KERNEL_LOG = "kernel.log"  # beside an executed notebook: what the kernel's process printed that is no cell's output
LOG_MOST = 20_000  # characters of it, and of a traceback, that go into a job's log
# An interpreter that crashes says where, on the standard error that it was started with: ipykernel takes its place for
# the outputs of cells, and these are lost with it. And where Linux can do it (1 is PR_SET_PDEATHSIG), a kernel ends
# with its worker at once: ipykernel looks for it once a second, and writes meanwhile into folders that are to go.
_LAUNCH = """\
import ctypes, faulthandler, os, runpy, signal, sys
faulthandler.enable(os.dup(2))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
runpy.run_module("ipykernel_launcher", run_name="__main__")"""
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_live_kernels = set()  # kernel managers of this worker, so that a dying worker takes its kernel along


def parameters_of(notebook):
    """The parameters of a notebook and their defaults: name -> value, from the cell tagged `parameters`.

    Read from the syntax tree: papermill's own inspection skips lines whose comment holds an equals sign.
    Raises FileNotFoundError, and ValueError where there is no such cell or a default is no plain literal.
    """
    notebook = Path(notebook)
    if not notebook.is_file():
        known = ", ".join(sorted(path.stem for path in notebook.parent.glob("*.ipynb"))) or "none"
        raise FileNotFoundError(f"no notebook {notebook}; there are: {known}")
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if "parameters" in cell.get("metadata", {}).get("tags", []):
            break
    else:
        raise ValueError(f"{notebook} has no cell tagged 'parameters'")
    found = {}
    for line in ast.parse("".join(cell["source"])).body:
        if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
            continue  # a docstring
        targets = getattr(line, "targets", [getattr(line, "target", None)])
        try:
            if len(targets) > 1 or isinstance(line, ast.AugAssign):
                raise ValueError
            found[targets[0].id] = ast.literal_eval(line.value)
        except (ValueError, AttributeError):
            raise ValueError(
                f"{notebook}: only name = literal may stand in the cell tagged 'parameters', not {ast.unparse(line)!r}"
            ) from None
    return found


def job_parameters(job, device, out_dir, notebook):
    """What is injected into the notebook of a job, checked against the notebook's parameters cell.

    An int may stand for a float, anything for None, a list for a tuple; a bool is no int. Raises ValueError for a
    parameter that the notebook does not have or whose type differs from its default's.
    """
    given = {
        "dataset": job["dataset"],
        "normal_class": job["class"],
        "protocol": job["protocol"],
        "seed": job["seed"],
        "profile": job["profile"],
        "device": device,
        "out_dir": out_dir,
    }
    taken = [name for name in job["settings"] if name in given]
    if taken:
        raise ValueError(f"{taken[0]} is given by the job itself and cannot be a setting of {job['paper']}")
    given.update(job["settings"])
    check_parameters(given, notebook)
    return given


def check_parameters(given, notebook):
    """ValueError unless each given parameter is one of the notebook's and of its default's type."""
    defaults = parameters_of(notebook)
    for name, value in given.items():
        if name not in defaults:
            raise ValueError(f"{Path(notebook).name} has no parameter {name!r}; it has {', '.join(defaults)}")
        default = defaults[name]
        same = type(value) is type(default) or default is None
        near = (isinstance(default, float) and type(value) is int) or (
            isinstance(default, tuple) and isinstance(value, list)
        )
        if not (same or near or (value is None and name == "out_dir")):
            raise ValueError(
                f"parameter {name!r} of {Path(notebook).name} is of type {type(default).__name__} "
                f"(default {default!r}), not {type(value).__name__}: {value!r}"
            )


def run_job(job, options):
    """Run the notebook of a job: a dict of rows, scores, notebook, error, seconds, cell_seconds.

    options: notebooks (folder), device, commit, and work: the private folder in which the notebook leaves its files
    (None: a temporary one). rows: as in the CSV, [] where the job failed; scores: the bytes of scores.csv.gz or None;
    notebook: the executed notebook's text, also where a cell failed; error: None, or the last line of what went wrong;
    log: what the kernel's process printed outside of cells, and the traceback of what went wrong; cell_seconds: what
    the notebook's cells took. Success is: no exception, and rows that fit the job. Writes nothing
    outside `work`. Raises ValueError, before anything runs, for a parameter that does not fit the notebook.
    """
    started = time.monotonic()
    notebook = Path(options["notebooks"]) / f"{job['paper']}.ipynb"
    if options.get("work") is None:
        with tempfile.TemporaryDirectory(prefix="adlib-", ignore_cleanup_errors=True) as work:
            return run_job(job, {**options, "work": work})
    work = Path(options["work"])
    parameters = job_parameters(job, options.get("device", "auto"), str(work), notebook)
    work.mkdir(parents=True, exist_ok=True)
    outcome = {"rows": [], "scores": None, "notebook": None, "error": None, "log": ""}
    executed = work / "executed.ipynb"
    try:
        execute(notebook, executed, parameters)
        rows = _fitting_rows(job, work / "rows.csv")
        settings = json.dumps(job["settings"], sort_keys=True, separators=(",", ":"))
        extra = {"settings": settings, "job": job["id"], "commit": options.get("commit", "")}
        outcome["rows"] = [{**row, **extra} for row in rows]
        scores = work / "scores.csv.gz"
        outcome["scores"] = scores.read_bytes() if scores.is_file() else None
    except Exception as error:  # whatever a notebook, a kernel or papermill can raise makes a failed row, no more
        outcome["error"] = last_line(error)
        outcome["log"] = _ANSI.sub("", str(error))[-LOG_MOST:]
    try:
        log = work / KERNEL_LOG
        if log.is_file():
            outcome["log"] = log.read_bytes()[-LOG_MOST:].decode(errors="replace") + outcome["log"]
        outcome["notebook"] = whole_notebook(executed)
        if outcome["notebook"] is None and outcome["error"] is None:
            outcome["error"] = "the notebook ran to its end but is not to be found, or only half of it"
    except OSError as error:
        outcome["error"] = outcome["error"] or last_line(error)
    outcome["seconds"] = time.monotonic() - started
    outcome["cell_seconds"] = cell_seconds(outcome["notebook"])
    return outcome


def leave_outcome(job, options):
    """`run_job` for a worker that shares a disk with its parent: what comes out stays in the work folder, and None.

    A worker that is killed while it sends leaves half a message in the pipe, and whoever reads there waits for the rest
    for ever; so nothing that takes time to send goes that way.
    """
    outcome = run_job(job, options)
    del outcome["notebook"], outcome["scores"]  # are files there already
    results.write_whole(Path(options["work"], OUTCOME), json.dumps(outcome).encode(), durable=False)


def left_outcome(work):
    """What `leave_outcome` left in the folder `work`, as `run_job` gives it; raises OSError where it is not there."""
    work = Path(work)
    outcome = json.loads((work / OUTCOME).read_text(encoding="utf-8"))
    scores = work / "scores.csv.gz"
    return {
        **outcome,
        "notebook": whole_notebook(work / "executed.ipynb"),
        "scores": scores.read_bytes() if outcome["error"] is None and scores.is_file() else None,
    }


def whole_notebook(path):
    """The text of an executed notebook; None where there is none, or half of one: its writer died, or had no room.

    Raises OSError where it is there and cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        json.loads(text)
    except (FileNotFoundError, ValueError):
        return None
    return text


def execute(notebook, output, parameters):
    """Execute a notebook by papermill, in its own folder, with a kernel of this interpreter; raises what goes wrong."""
    import papermill  # 2 to 3 seconds, and only the workers need it

    _register_engine()
    # beside the output, to go with the work folder; but Unix socket paths end at 107 bytes, so it has to be short
    places = (os.path.dirname(output), tempfile.gettempdir(), "/tmp")
    parent = next((path for path in places if os.path.isdir(path) and len(path) < 70), None)
    with tempfile.TemporaryDirectory(prefix="adlib-k", dir=parent, ignore_cleanup_errors=True) as folder:
        try:
            papermill.execute_notebook(
                str(notebook),
                str(output),
                parameters=parameters,
                engine_name="adlib",
                kernel_name="python3",
                language="python",
                progress_bar=False,
                start_timeout=START_TIMEOUT,
                cwd=str(Path(notebook).parent),
                connection_folder=folder,
            )
        finally:
            log = Path(folder, KERNEL_LOG)
            if log.is_file() and log.stat().st_size:
                shutil.copyfile(log, Path(output).with_name(KERNEL_LOG))


@functools.cache
def _register_engine():
    """Give papermill the engine `adlib`, in this process: it works from a checkout that is not installed."""
    import socket

    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from papermill.engines import NBClientEngine, papermill_engines
    from traitlets.config import Config

    class Kernel(AsyncKernelManager):
        """A kernel of this interpreter, whatever a user's kernel named python3 may be."""

        def __init__(self, **options):
            super().__init__(**options)
            _live_kernels.add(self)

        @property
        def kernel_spec(self):
            command = [sys.executable, "-c", _LAUNCH, "-f", "{connection_file}"]
            return KernelSpec(argv=command, display_name="Python 3 (ipykernel)", language="python")

        async def start_kernel(self, **options):
            with open(os.path.join(os.path.dirname(self.connection_file), KERNEL_LOG), "ab") as file:
                await super().start_kernel(stdout=file, stderr=file, **options)

    class Engine(NBClientEngine):
        """Kernels talk over Unix sockets: eight starting at once race for TCP ports, and a lost race loses a job."""

        @classmethod
        def execute_managed_notebook(cls, nb_man, kernel_name, connection_folder, **options):
            has_ipc = hasattr(socket, "AF_UNIX") and len(connection_folder) < 90
            transports = ["ipc", "tcp", "tcp"] if has_ipc else ["tcp", "tcp"]
            while True:
                transport = transports.pop(0)
                file = os.path.join(connection_folder, f"{transport}{len(transports)}.json")
                config = Config(KernelManager={"transport": transport, "connection_file": file})
                try:
                    return super().execute_managed_notebook(
                        nb_man,
                        kernel_name,
                        kernel_manager_class=Kernel,
                        config=config,
                        shutdown_kernel="immediate",
                        **options,
                    )
                except Exception:
                    begun = any(cell.metadata.get("papermill", {}).get("start_time") for cell in nb_man.nb.cells)
                    if begun or not transports:  # only a kernel that never ran a cell is worth another try
                        raise
                finally:
                    _live_kernels.clear()  # nbclient has shut it down

    papermill_engines.register("adlib", Engine)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of parameters that its inspection overlooks


def _fitting_rows(job, path):
    """The rows that the notebook left, or a ValueError that says what is wrong with them."""
    if not path.is_file():
        raise ValueError("the notebook ran to its end but left no rows.csv")
    rows = results.read(path)
    if not rows:
        raise ValueError("the notebook left a rows.csv without rows")
    for row in rows:
        told = {**row, "settings": job["settings"]}  # these are noted later
        if row["status"] != "ok" or place(told) != place(job):
            raise ValueError(f"a row of the notebook says {describe(told)}, the job is {describe(job)}")
    if len({tuple(row[name] for name in results.KEY) for row in rows}) < len(rows):
        raise ValueError("two rows of the notebook have the same key")
    return rows


def last_line(error):
    """What went wrong, in one line, as the last line of a traceback says it."""
    if hasattr(error, "ename"):  # papermill's: of an error in a cell
        text = f"{error.ename}: {error.evalue}"
    else:
        text = f"{type(error).__name__}: {error}"
    text = _ANSI.sub("", text)
    return next(line.strip() for line in text.splitlines() if line.strip())[:300]


def cell_seconds(text):
    """Seconds that papermill counted inside the cells of an executed notebook."""
    cells = json.loads(text)["cells"] if text else []
    return sum(cell["metadata"].get("papermill", {}).get("duration") or 0.0 for cell in cells)


def _start_worker(variables, root):
    """First in each worker: what its kernels inherit, and that it does not outlive its parent."""
    set_environment(variables)
    # handlers, not SIG_IGN, which the kernels would inherit; Ctrl-C reaches workers too, and the parent decides
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: _die(None))
    threading.Thread(target=_follow_parent, args=(root,), daemon=True).start()


def _follow_parent(root):
    """End this worker, its kernel and the work folder when the parent is gone, be it by SIGKILL."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    _die(root)


def _die(root):
    for kernel in list(_live_kernels):
        process = getattr(kernel.provisioner, "process", None)
        if process is None:
            continue
        try:
            os.killpg(process.pid, signal.SIGKILL)  # a kernel leads a group of its own
        except (AttributeError, OSError):
            process.kill()
        shutil.rmtree(os.path.dirname(kernel.connection_file), ignore_errors=True)
    for _ in range(50):  # this worker's main thread, and its kernel until it is gone, may write there meanwhile
        if root is None or not os.path.exists(root):
            break
        shutil.rmtree(root, ignore_errors=True)
        time.sleep(0.02)
    os._exit(1)


def set_environment(variables):
    """Make this process's environment fit for starting kernels; `variables` as `environment` gives them."""
    os.environ.update(variables)
    os.environ.pop("MPLBACKEND", None)  # a user's choice for scripts would leave the notebooks without pictures
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each kernel compiles torch again, for seconds


def environment(threads, gpu=None):
    """What workers and their kernels find in their environment, besides what the user's holds.

    gpu: the one that they shall see, as CUDA_VISIBLE_DEVICES names it; None: those that this process sees.
    """
    # a user's own choice stands, for all: two libraries with different counts fight for the cores
    threads = os.environ.get("OMP_NUM_THREADS", str(threads))
    wanted = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    wanted["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    wanted["TQDM_DISABLE"] = "1"
    wanted["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"  # else each kernel warns of frozen modules
    if gpu is not None:
        wanted["CUDA_VISIBLE_DEVICES"] = gpu
        wanted["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order of nvidia-smi, from which the numbers are
    for name in ("ADLIB_DATA", "ADLIB_CACHE"):  # kernels run in notebooks/
        if os.environ.get(name):
            wanted[name] = os.path.abspath(os.path.expanduser(os.environ[name]))
    return wanted


def process_slot(threads, root, gpu=None):
    """One worker process, alive over many jobs."""
    return ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(environment(threads, gpu), root),
    )


def cores():
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus():
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, without importing torch; [] if none."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"(?m)^GPU (\d+):", listed.stdout) if listed.returncode == 0 else []
