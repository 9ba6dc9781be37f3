"""One job: papermill runs its notebook in a kernel, and gives back rows, scores and the executed notebook.

outcome = run_job(job, {"notebooks": "notebooks", "work": "/tmp/work"})    # writes into its work folder alone
with processes() as submit:                # the same in a fresh process, after which `left_outcome` has it
    submit(job, options).result()
"""

import ast
import contextlib
import ctypes
import json
import logging
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import forkserver, util
from pathlib import Path

from repro import rows
from repro.register import CHECKOUT, describe, place


LABELS = ["dataset", "normal_class", "protocol", "seed", "profile", "device", "out_dir"]  # these are no settings
SHORT = 66  # characters of a folder for sockets: the paths of these end at 104
START_TIMEOUT = 120  # seconds for a kernel to start, on a busy machine
OUTCOME = "outcome.pickle"  # in the work folder of a job
KERNEL_LOG = "kernel.log"  # next to an executed notebook: what the kernel's process printed outside of cells
LOG_MOST = 20_000  # at most so many characters of it, and of a traceback, go into a job's log
# A crashing interpreter must report on the standard error that it was started with: what goes to ipykernel's substitute
# is lost. On Linux (1 is PR_SET_PDEATHSIG) a kernel ends at once with its parent: ipykernel checks for it only once a
# second, and meanwhile writes into folders that are to be removed.
_LAUNCH = """\
import ctypes, faulthandler, os, runpy, signal, sys
faulthandler.enable(os.dup(2))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
runpy.run_module("ipykernel_launcher", run_name="__main__")"""
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_EMPTY = dict(rows=[], scores=None, notebook=None, error=None, log="", seconds=0.0, cell_seconds=0.0)  # an outcome
_kernels = []  # kernels that this process started, and must end when it ends


def parameters_of(notebook: str | Path) -> dict:
    """The parameters of a notebook and their defaults: name -> value, from the cell tagged `parameters`.

    This reads the syntax tree, because papermill's own inspection skips lines whose comment holds an equals sign.
    Raises FileNotFoundError, and ValueError if there is no such cell or a default is no plain literal.
    """
    notebook = Path(notebook)
    if not notebook.is_file():
        known = ", ".join(sorted(path.stem for path in notebook.parent.glob("*.ipynb"))) or "none"
        raise FileNotFoundError(f"no notebook {notebook}; there are: {known}")
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = [cell["source"] for cell in cells if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if not tagged:
        raise ValueError(f"{notebook} has no cell tagged 'parameters'")
    defaults = {}
    for line in ast.parse("".join(tagged[0])).body:
        match line:
            case ast.Expr(ast.Constant()):  # a docstring
                continue
            case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, ast.expr() as value):
                with contextlib.suppress(ValueError):
                    defaults[name] = ast.literal_eval(value)
                    continue
        only = "the cell tagged 'parameters' may hold only name = literal"
        raise ValueError(f"{notebook}: {only}, not {ast.unparse(line)!r}")
    return defaults


def job_parameters(job: dict, device: str, out_dir: str | None, notebook: str | Path) -> dict:
    """The parameters injected into a job's notebook; ValueError if it lacks one, or has one of another type."""
    given = {name: job[name] for name in ("dataset", "protocol", "seed", "profile")}
    given |= {"normal_class": job["class"], "device": device, "out_dir": out_dir}  # LABELS
    if taken := [name for name in job["settings"] if name in given]:
        raise ValueError(f"{taken[0]} is given by the job itself and cannot be a setting of {job['paper']}")
    given |= job["settings"]
    check_parameters(given, notebook)
    return given


def check_parameters(given: dict, notebook: str | Path) -> None:
    """ValueError unless the notebook has each given parameter, with a default of the same type.

    An int may replace a float, a list a tuple, anything None; a bool is no int. No count is 0, and no list is empty.
    """
    defaults, where = parameters_of(notebook), Path(notebook).name
    for name, value in given.items():
        if name not in defaults:
            raise ValueError(f"{where} has no parameter {name!r}; it has {', '.join(defaults)}")
        default, is_type = defaults[name], type(defaults[name])
        fitting = {float: (float, int), tuple: (tuple, list)}.get(is_type, (is_type,))
        if default is not None and type(value) not in fitting and (name, value) != ("out_dir", None):
            wanted, is_given = f"{is_type.__name__} (default {default!r})", type(value).__name__
            raise ValueError(f"parameter {name!r} of {where} is of type {wanted}, not {is_given}: {value!r}")
        if default and is_type in (int, list, tuple) and (not value or (is_type is int and value < 0)):
            raise ValueError(f"parameter {name!r} of {where} is {value!r}: at least one is needed")


def run_job(job: dict, options: dict) -> dict:
    """Run the notebook of a job: a dict of rows, scores, notebook, error, log, seconds, cell_seconds.

    options: notebooks (their folder), device, commit, work (a private folder). rows: as in the CSV, [] if the job
    failed; scores: the bytes of scores.csv.gz or None; notebook: the executed notebook's text, even if a cell failed;
    error: None, or one line about what went wrong; log: the traceback, and what the kernel's process printed outside of
    cells; cell_seconds: the part of `seconds` in cells. Raises ValueError for a parameter that does not fit.
    """
    started, work, outcome = time.monotonic(), Path(options["work"]), _EMPTY.copy()
    notebook, executed = Path(options["notebooks"], f"{job['paper']}.ipynb"), work / "executed.ipynb"
    parameters = job_parameters(job, options.get("device", "auto"), str(work), notebook)
    work.mkdir(parents=True, exist_ok=True)
    rows.progress(work, 0, 1, "starting")
    try:
        execute(notebook, executed, parameters)
        extra = {"settings": settings_text(job, parameters_of(notebook)), "job": job["id"]}
        extra |= {"commit": options.get("commit", ""), "job_seconds": f"{time.monotonic() - started:.1f}"}
        outcome["rows"] = [row | extra for row in _fitting_rows(job, work / "rows.csv")]
        scores = work / "scores.csv.gz"
        outcome["scores"] = scores.read_bytes() if scores.is_file() else None
    except Exception as error:  # any error of a notebook, a kernel or papermill only makes a failed row
        outcome |= {"rows": [], "error": last_line(error), "log": _ANSI.sub("", str(error))[-LOG_MOST:]}
    with contextlib.suppress(OSError):
        outcome["log"] = (work / KERNEL_LOG).read_bytes()[-LOG_MOST:].decode(errors="replace") + outcome["log"]
    known = {"error": outcome["error"]} if outcome["error"] else {}
    return outcome | _of_notebook(executed) | known | {"seconds": time.monotonic() - started}


def settings_text(job: dict, defaults: dict) -> str:
    """A job's settings as its rows hold them: all parameters of its notebook except LABELS, as compact JSON."""
    settings = {name: value for name, value in (defaults | job["settings"]).items() if name not in LABELS}
    return json.dumps(settings, sort_keys=True, separators=(",", ":"))


def _fitting_rows(job, path):
    """The rows that the notebook left; a ValueError says what is wrong with them."""
    if not path.is_file():
        raise ValueError("the notebook ran to its end but left no rows.csv")
    if not (lines := rows.read(path)):
        raise ValueError("the notebook left a rows.csv without rows")
    for row in lines:
        claimed = row | {"settings": job["settings"]}  # these are added later
        if row["status"] != "ok" or place(claimed) != place(job):
            raise ValueError(f"a row of the notebook says {describe(claimed)}, the job is {describe(job)}")
    return lines


def execute(notebook: str | Path, output: str | Path, parameters: dict) -> None:
    """Execute a notebook with papermill, in its own folder, with a kernel of this interpreter; raises any error."""
    import papermill  # takes seconds
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from traitlets.config import Config

    class Kernel(AsyncKernelManager):  # of this interpreter, whatever a user's kernel named python3 may be
        @property
        def kernel_spec(self):
            command = [sys.executable, "-c", _LAUNCH, "-f", "{connection_file}"]
            return KernelSpec(argv=command, display_name="Python 3 (ipykernel)", language="python")

        async def start_kernel(self, **options):
            with open(Path(output).with_name(KERNEL_LOG), "ab") as file:
                await super().start_kernel(stdout=file, stderr=file, **options)
            _kernels.append(self.provisioner.process)

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of parameters that its inspection overlooks
    # Kernels use Unix sockets: eight that start at once race for TCP ports, and a lost race loses a job.
    transports = ["ipc", "tcp", "tcp"] if hasattr(socket, "AF_UNIX") else ["tcp", "tcp"]
    # next to the output, to be removed together with the work folder
    parents = [os.path.dirname(os.path.abspath(output)), tempfile.gettempdir()]
    parent = next((path for path in parents if len(path) < SHORT), "/tmp")
    options = {"parameters": parameters, "cwd": str(Path(notebook).parent), "progress_bar": False}
    options |= {"kernel_name": "python3", "language": "python", "kernel_manager_class": Kernel}
    options |= {"start_timeout": START_TIMEOUT, "shutdown_kernel": "immediate"}
    with tempfile.TemporaryDirectory(prefix=f"adlib-k{os.getpid()}-", dir=parent, ignore_cleanup_errors=True) as folder:
        for attempt, transport in enumerate(transports, 1):
            manager = {"transport": transport, "connection_file": os.path.join(folder, f"{attempt}.json")}
            try:
                config = Config(KernelManager=manager)
                papermill.execute_notebook(str(notebook), str(output), config=config, **options)
                return
            except Exception:
                left = _of_notebook(output)
                if attempt == len(transports) or left.get("cell_seconds") != 0:
                    raise  # only a kernel that never ran a cell is worth another try


def _of_notebook(path):
    """An executed notebook's text and papermill's seconds in cells; an error if it is incomplete or missing."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        cells = json.loads(text)["cells"]
    except (OSError, ValueError) as error:
        return {"error": f"the notebook ran to its end but cannot be read: {last_line(error)}"}
    seconds = sum(cell["metadata"].get("papermill", {}).get("duration") or 0.0 for cell in cells)
    return {"notebook": text, "cell_seconds": seconds}


def failure(error: str, work: str | Path) -> dict:
    """The outcome, as from `run_job`, of a job that gave nothing back, except perhaps a notebook."""
    return _EMPTY | _of_notebook(Path(work, "executed.ipynb")) | {"error": error}


def last_line(error: BaseException) -> str:
    """An error in one line, like the last line of its traceback."""
    name, said = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", error)  # of papermill's errors
    return next(line.strip() for line in _ANSI.sub("", f"{name}: {said}").splitlines() if line.strip())[:300]


@contextlib.contextmanager
def processes(root: str | None = None) -> Iterator[Callable[..., Future]]:
    """Gives submit(job, options, variables={}): a future of `run_job` in a fresh process with these in its environment.

    The future gives None once `left_outcome` finds the outcome in the job's work folder; it raises BrokenExecutor if
    the process died. Processes are forked from a server that has imported papermill. Leaving the context ends running
    processes and their kernels. If this process is killed, they end too, and remove the folder `root`.
    """
    context, executors = multiprocessing.get_context("forkserver"), {}
    context.set_forkserver_preload(["papermill", "repro.preload"])
    if len(tempfile.gettempdir()) > SHORT:  # the server's socket is put there once, and its path would be too long
        usual, tempfile.tempdir = tempfile.tempdir, "/tmp"
        util.get_temp_dir()
        tempfile.tempdir = usual
    forkserver.ensure_running()
    others = set(multiprocessing.active_children())

    def submit(job, options, variables=None):
        # not as soon as a job is done: its process still watches this one, which stores the outcome
        for future in [future for future in executors if future.done()]:
            executors.pop(future).shutdown()
        executor = ProcessPoolExecutor(1, context, _begin, (root, variables or {}))
        future = executor.submit(leave_outcome, job, options)
        executors[future] = executor
        return future

    try:
        yield submit
    finally:
        if is_main := threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not cut this short
        for process in (killed := set(multiprocessing.active_children()) - others):
            process.kill()
        for executor in executors.values():
            executor.shutdown()
        for folder in [path for one in killed for path in Path(tempfile.gettempdir()).glob(f"adlib-k{one.pid}-*")]:
            shutil.rmtree(folder, ignore_errors=True)
        if is_main:
            signal.signal(signal.SIGINT, before)


def _begin(root, variables):
    """Runs first in each job's process: sets what its kernel inherits, and makes it end with its parents."""
    set_environment(variables)
    # Ctrl-C reaches this process too, but the parent decides; a handler, because the kernel would inherit SIG_IGN
    signal.signal(signal.SIGINT, lambda *_: None)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with the process that it was forked from, see _LAUNCH
    threading.Thread(target=_follow_parent, args=(root,), daemon=True).start()


def _follow_parent(root):
    """When the parent is gone, even by SIGKILL, end this process and its kernel, and remove the temporary folders."""
    multiprocessing.parent_process().join()
    for kernel in _kernels:
        kernel.kill()
    folders = [root or "", util.get_temp_dir()]  # the second belongs to the parent's forkserver
    for _ in range(250):  # the main thread and the kernel may write there until they are gone
        for folder in filter(os.path.exists, folders):
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.02)
    os._exit(1)


def leave_outcome(job: dict, options: dict) -> None:
    """Write the outcome of `run_job` to a file: with a pipe, a process killed while sending would block its parent."""
    rows.write_whole(Path(options["work"], OUTCOME), pickle.dumps(run_job(job, options)), durable=False)


def left_outcome(work: str | Path) -> dict:
    """The outcome of `run_job` that a job's process left in its work folder; raises OSError if there is none."""
    return pickle.loads(Path(work, OUTCOME).read_bytes())


def set_environment(variables: dict[str, str]) -> None:
    """Prepare this process's environment for starting kernels; `variables` come from `environment`."""
    os.environ.update(variables)
    os.environ.pop("MPLBACKEND", None)  # a user's choice for scripts would leave the notebooks without pictures
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each kernel spends seconds compiling torch again


def environment(threads: int, gpu: str | None = None) -> dict[str, str]:
    """The environment variables of jobs and kernels; gpu: the one that they see (None: as this process does)."""
    # a user's own choice holds for all libraries: two with different counts would fight for the cores
    threads = os.environ.get("OMP_NUM_THREADS", str(threads))
    wanted = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads)
    wanted["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    wanted |= {"TQDM_DISABLE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}  # else each kernel warns of frozen modules
    if gpu is not None:  # numbered in the order of nvidia-smi
        wanted |= {"CUDA_VISIBLE_DEVICES": gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    for name in ("ADLIB_DATA", "ADLIB_CACHE"):  # kernels run in notebooks/
        if os.environ.get(name):
            wanted[name] = os.path.abspath(os.path.expanduser(os.environ[name]))
    return wanted


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them, without importing torch; [] if none."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return re.findall(r"(?m)^GPU (\d+):", listed)
