"""How many jobs an hour does a sweep finish, one at a time and several, compared with papermill's command line?

    python benchmarks/jobs_per_hour.py [--paper baselines] [--jobs 6] [--at-once 1 2]

All ways run the same jobs: the demo of one paper, on as many classes of embedded digits as --jobs says. "Outside" is
the share of the time in which no cell of a notebook ran: kernels start, notebooks are written, or jobs wait.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

from repro import job as runner
from repro import register
from repro.sweep import reproduce


def command_line(jobs, folder):
    """Seconds for papermill's own command, one job after another, each in its own process."""
    environment = {**os.environ, **runner.environment(runner.cores())}
    started = time.perf_counter()
    for job in jobs:
        notebook = register.CHECKOUT / "notebooks" / f"{job['paper']}.ipynb"
        given = runner.job_parameters(job, "auto", folder, notebook)
        words = [word for name, value in given.items() for word in ("-y", f"{name}: {json.dumps(value)}")]
        subprocess.run(
            [
                sys.executable,
                "-m",
                "papermill",
                "--no-progress-bar",
                "-k",
                "python3",
                *words,
                str(notebook),
                f"{folder}/out.ipynb",
            ],
            check=True,
            env=environment,
            capture_output=True,
            cwd=notebook.parent,
        )
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paper", default="baselines")
    parser.add_argument("--jobs", type=int, default=6)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    jobs = [
        register.job(options.paper, "digits", str(number % 10), "official", number // 10, "demo", {})
        for number in range(options.jobs)
    ]
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        reproduce(jobs[:1], f"{folder}/first", 1)  # prepares the data that all jobs read, and warms the disk cache
        lines.append(("papermill's command, one after another", command_line(jobs, folder), None))
        for at_once in options.at_once:
            report = reproduce(jobs, f"{folder}/{at_once}", at_once)
            lines.append((f"make reproduce JOBS={at_once}", report["seconds"], report["outside"]))
    print(f"\n{len(jobs)} jobs of {options.paper}, {runner.cores()} cores")
    for name, seconds, outside in lines:
        share = "" if outside is None else f"  {100 * outside:3.0f} % of it outside the notebooks' cells"
        ratio = f"{lines[0][1] / seconds:5.2f} x"
        print(f"{name:42}{seconds:7.1f} s {3600 * len(jobs) / seconds:7.0f} jobs an hour {ratio}{share}")


if __name__ == "__main__":
    main()
