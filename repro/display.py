"""What a sweep shows while it runs: bars where stderr is a terminal, else a line for each job and one now and then.

    with Display(total=len(jobs), n_slots=2) as display:
        display.show(finished=1, failed=0, running=[...])      # as often as one likes
        display.line("two_stage mnist 8 seed 0 quick: two_stage 0.93 (83 s)", finished=2)

What a running job does it says itself, in its progress file (`results.progress`); `running` is a list of dicts: number
of the slot, job, progress (what that file holds, or None) and since (`time.monotonic()` of its start).
"""

import shutil
import sys
import time

from repro.register import describe


STATUS_EVERY = 300  # seconds between two lines of status where there is no terminal
SHOWN = 16  # lines of running jobs below the bar, at most


class Display:
    """The display of one sweep; `total` jobs, `n_slots` at once."""

    def __init__(self, total, n_slots):
        from tqdm import tqdm

        self.total, self.started, self.said = total, time.monotonic(), time.monotonic()
        self.has_terminal = sys.stderr.isatty()
        how = {"disable": not self.has_terminal, "file": sys.stderr, "leave": False}
        bar_format = "{n:.1f}/{total} jobs |{bar:20}| {desc}"
        self.bar = tqdm(total=total, position=0, dynamic_ncols=True, bar_format=bar_format, **how)
        self.rows = [tqdm(position=1 + row, bar_format="{desc}", **how) for row in range(min(n_slots, SHOWN))]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for bar in [*self.rows[::-1], self.bar]:
            bar.close()

    def show(self, finished, failed, running):
        """How things stand: on a terminal always, else a line every few minutes."""
        if not self.has_terminal and time.monotonic() - self.said < STATUS_EVERY:
            return
        share = finished + sum(_share(one) for one in running)
        text = status(finished, failed, self.total, len(running), remaining(share, self.total, self.seconds()))
        if not self.has_terminal:
            print("; ".join([text, *map(doing, running[:SHOWN])]), flush=True)
            self.said = time.monotonic()
            return
        self.bar.n = share
        self.bar.set_description_str(text)
        width = shutil.get_terminal_size().columns - 1  # a line that wraps would push the others down
        texts = {one["number"]: "  " + doing(one) for one in running}
        for number, row in enumerate(self.rows):
            row.set_description_str(texts.get(number, "")[:width])

    def line(self, text, finished):
        """A line that stays, on stdout: of a job that finished, with how many have."""
        left = remaining(finished, self.total, self.seconds())
        about = f", about {duration(left)} left" if left else ""
        self.bar.write(f"[{finished} of {self.total}{about}] {text}", file=sys.stdout)
        sys.stdout.flush()
        self.said = time.monotonic()

    def seconds(self):
        """Seconds since the sweep began."""
        return time.monotonic() - self.started


def status(finished, failed, total, n_running, left):
    """'3 of 45 done, 1 failed, 2 running, about 25 min left'; left: seconds, or None."""
    parts = [
        f"{finished} of {total} done",
        f"{failed} failed" if failed else "",
        f"{n_running} running",
        "" if left is None else f"about {duration(left)} left",
    ]
    return ", ".join(filter(None, parts))


def doing(one):
    """A running job in a line: what it is, for how long, and the step and loss that it says."""
    text = f"{describe(one['job'])}, {duration(time.monotonic() - one['since'])}"
    progress = one["progress"]
    return text if progress is None else f"{text}: {progress_text(progress)}"


def progress_text(progress):
    """'decoder two_stage, step 12 of 40, loss 0.0123', from what a progress file holds."""
    loss = progress.get("loss")
    return f"{progress['what']}, {progress['done']} of {progress['total']}" + (
        f", loss {loss:.4g}" if loss is not None else ""
    )


def remaining(done, total, seconds):
    """Seconds that the rest of `total` jobs will take if they go on as the first `done` did; None before any news."""
    return seconds * (total - done) / done if done >= 0.05 else None


def duration(seconds):
    """'40 s', '12 min', '3 h 05 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def _share(one):
    """The share of a running job that is done, by its own account; below 1, since it is not finished."""
    progress = one["progress"]
    return min(progress["done"] / max(1, progress["total"]), 0.99) if progress else 0.0
