"""What every notebook needs from the machine: the device, one seed for everything, times and memory."""

import contextlib
import hashlib
import io
import os
import pickle
import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Self, TextIO

import torch
from torch import Tensor

from adlib.words import NO, YES


if TYPE_CHECKING:
    from tqdm import tqdm


SCORING_BATCH = 64  # images scored at once where ms_per_image is measured


def pick(device: str = "auto") -> torch.device:
    """ "auto" -> cuda, mps or cpu, whichever is there first; any other name as torch takes it. Raises ValueError."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used here ({reason}); try 'auto' or 'cpu'") from None
    return chosen


def says_yes(name: str) -> bool:
    """Whether an environment variable means yes: 1, true, yes, on; no, 0, false, off and nothing mean no.

    Raises ValueError for any other word.
    """
    word = os.environ.get(name, "").strip().lower()
    if word not in ("", *YES, *NO):
        raise ValueError(f"{name} is {os.environ[name]!r}: it is 1 (yes, true, on) or 0 (no, false, off)")
    return word in YES


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """ValueError, with the list of choices, unless `value` is one of them."""
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}: choose {', '.join(choices)}")


def check_counts(**counts: object) -> None:
    """ValueError unless each value (epochs, batch, methods) is a whole number from 1, or a list that is not empty."""
    for name, value in counts.items():
        if isinstance(value, (list, tuple, dict)) and value:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}: at least one is needed")


def batches(order: Tensor, size: int) -> list[Tensor]:
    """`order` split into batches; a last batch of a single image, too few for batch norm, joins another."""
    parts = list(order.split(size))
    if size > 1 and len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def progress(total: int, what: str, unit: str = "images", file: TextIO | None = None) -> "tqdm":
    """A bar for a `with` block, shown after five seconds, on `file` (None: stderr); its `update(n)` counts."""
    from tqdm import tqdm

    file = file or sys.stderr
    interval = 0.2 if file.isatty() else 2.0  # a notebook's page, or a file
    options = {"delay": 5, "mininterval": interval, "leave": False, "file": file}
    return tqdm(total=total, desc=what, unit=f" {unit}", dynamic_ncols=True, **options)


def seed_everything(seed: int, device: torch.device) -> torch.Generator:
    """Seeds torch on all devices, asks cuDNN for repeatable kernels, and returns a generator of its own on `device`."""
    torch.manual_seed(seed)
    torch.backends.cudnn.deterministic = True
    return torch.Generator(device).manual_seed(seed)


def autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """bfloat16 autocast on a GPU that computes in it; none on a CPU, where it can be far slower than float32."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    return contextlib.nullcontext()


def name(device: torch.device) -> str:
    """The device's name in result rows: the GPU's name, or "cpu (2 threads)"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type


def synchronize(device: torch.device) -> None:
    """Waits for the device, so that a clock read next is right."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Stopwatch:
    """`.seconds` is the time spent in its `with` block, including the device's pending work."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, 0.0

    def __enter__(self) -> Self:
        synchronize(self.device)
        self.start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        synchronize(self.device)
        self.seconds += time.perf_counter() - self.start


def ms_per_image(score: Callable[[Tensor], object], images: Tensor, batches: int = 4) -> float:
    """Milliseconds per image of (N, ...) that `score` takes in batches of 64 (or one of all), after a warm-up."""
    parts = images.split(SCORING_BATCH)[: batches + 1]
    timed = [part for part in parts if len(part) == len(parts[0])][:batches]
    score(parts[0])
    with Stopwatch(images.device) as watch:
        for part in timed:
            score(part)
    return 1000 * watch.seconds / sum(map(len, timed))


def peak_memory_mb(device: torch.device) -> float:
    """The device's peak in MB on a GPU, the process's peak resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # bytes on macOS, kB on Linux


def read_tensors(path: Path | str, device: torch.device | str = "cpu") -> object:
    """The plain tensors and values that `torch.save` wrote to a file. ValueError names any other file."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # other files raise many kinds of errors, IndexError among them
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "weights_only" in str(error) or "Weights only" in str(error):  # with advice to read it without that
            reason = "it holds more than tensors and plain values, or is damaged"
        raise ValueError(f"{path} cannot be read as a file of plain tensors: {reason}") from error


def pack(run: dict, state: dict) -> bytes:
    """A checkpoint: a checksum, then dicts of tensors, numbers, text: `run`, what is trained, and `state`, how far."""
    file = io.BytesIO()
    torch.save({"run": run, "state": state}, file)
    return hashlib.sha256(file.getvalue()).digest() + file.getvalue()


def unpack(content: bytes, run: dict, device: torch.device | str = "cpu") -> dict:
    """The state in the bytes of `pack`, tensors on `device`; ValueError for damaged bytes and those of another run."""
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise ValueError("it is damaged or cut off")
    try:
        saved = torch.load(io.BytesIO(content[32:]), map_location=device, weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("it holds more than numbers and text") from None
    different = [name for name in run | saved["run"] if run.get(name) != saved["run"].get(name)]
    if different:
        raise ValueError(f"it is of another run: {', '.join(different)} differ")
    return saved["state"]
