"""What a sweep shows: bars if stderr is a terminal, else a line for each job and a status line now and then.

A running job is a dict: number (of its slot), job, since (`time.monotonic()`), progress (of `rows.progress`, or None).
"""

import json
import shutil
import sys
import time
from concurrent.futures import Future, wait
from pathlib import Path

from repro.register import describe


STATUS_EVERY = 300  # seconds between two lines of status where there is no terminal
SHOWN = 16  # lines of running jobs below the bar, at most


class Display:
    """The display of one sweep; `total` jobs, `n_slots` at once."""

    def __init__(self, total: int, n_slots: int):
        from tqdm import tqdm

        self.total, self.started, self.said = total, time.monotonic(), time.monotonic()
        self.has_terminal = sys.stderr.isatty()
        options = {"disable": not self.has_terminal, "file": sys.stderr, "leave": False}
        bar_format = "{n:.1f}/{total} jobs |{bar:20}| {desc}"
        self.bar = tqdm(total=total, position=0, dynamic_ncols=True, bar_format=bar_format, **options)
        self.rows = [tqdm(position=1 + row, bar_format="{desc}", **options) for row in range(min(n_slots, SHOWN))]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for bar in [*self.rows[::-1], self.bar]:
            bar.close()

    def show(self, finished: int, failed: int, running: list[dict]) -> None:
        """Show the status: always on a terminal, else a line every few minutes."""
        if not self.has_terminal and time.monotonic() - self.said < STATUS_EVERY:
            return
        progress = [task["progress"] or {"done": 0, "total": 1} for task in running]
        share = finished + sum(min(told["done"] / max(1, told["total"]), 0.99) for told in progress)
        parts = [f"{finished} of {self.total} done", f"{failed} failed" * bool(failed), f"{len(running)} running"]
        text = ", ".join(filter(None, [*parts, self._left(share)]))
        running = sorted(running, key=lambda task: task["number"])[:SHOWN]
        if not self.has_terminal:
            print("; ".join([text, *map(doing, running)]), flush=True)
            self.said = time.monotonic()
            return
        self.bar.n = share
        self.bar.set_description_str(text)
        width = shutil.get_terminal_size().columns - 1  # a line that wraps would push the others down
        texts = ["  " + doing(task) for task in running] + [""] * len(self.rows)
        for row, text in zip(self.rows, texts, strict=False):
            row.set_description_str(text[:width])

    def line(self, text: str, finished: int) -> None:
        """Print a permanent line on stdout about a finished job, with the number of finished jobs."""
        about = ", ".join(filter(None, [f"{finished} of {self.total}", self._left(finished)]))
        self.bar.write(f"[{about}] {text}", file=sys.stdout)
        sys.stdout.flush()
        self.said = time.monotonic()

    def _left(self, share):
        """'about 25 min left', if the other jobs take as long as the first; '' at the start and at the end."""
        if not 0.05 <= share < self.total:
            return ""
        return f"about {duration((time.monotonic() - self.started) * (self.total - share) / share)} left"


def doing(task: dict) -> str:
    """A running job in one line: its name, its time so far, and the step and loss that it reports."""
    text = f"{describe(task['job'])}, {duration(time.monotonic() - task['since'])}"
    return f"{text}: {progress_text(task['progress'])}" if task["progress"] else text


def progress_text(progress: dict) -> str:
    """'decoder two_stage, 12 of 40, loss 0.0123', from what a progress file holds."""
    loss = progress.get("loss")
    text = f"{progress['what']}, {progress['done']} of {progress['total']}"
    return text if loss is None else f"{text}, loss {loss:.4g}"


def duration(seconds: float) -> str:
    """'40 s', '12 min', '3 h 05 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def follow(future: Future, work: str | Path) -> None:
    """Wait for a job that runs in the folder `work`, with a bar of the progress that it reports."""
    from adlib import machine

    with machine.progress(1, "starting", "steps") as bar:
        while not wait([future], timeout=0.5).done:
            try:
                told = json.loads(Path(work, "progress.json").read_text(encoding="utf-8"))
            except (OSError, ValueError):  # none yet
                continue
            bar.total = told["total"]
            bar.set_description_str(told["what"], refresh=False)
            bar.update(told["done"] - bar.n)
    future.result()
