"""What does a job cost besides its own training and scoring? Three ways to run the same empty job, in one run.

    python benchmarks/job_overhead.py [--jobs 4]
    python benchmarks/job_overhead.py results/notebooks/two_stage/*.ipynb      # jobs that ran: seconds outside

command line, everything  `papermill` once per job, a notebook that imports what users commonly import
                          (torch, torchvision, pandas, pyplot, scikit-learn's metrics)
command line, lean        the same, importing what our notebooks import
fresh process, lean       ours: forked from a process that has papermill loaded; kernels talk over Unix sockets. The
                          first job, which waits for papermill, is reported separately
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import nbformat

from repro import job as runner
from repro import register


HEAVY = """\
import matplotlib.pyplot as plt
import pandas
import sklearn.metrics
import torch
from adlib._torchvision import import_torchvision
import_torchvision()"""
LEAN = """\
import matplotlib.pyplot as plt
import torch
from repro import data, rows
from adlib import images, machine, metrics, plots, two_stage"""
PARAMETERS = ["dataset", "normal_class", "protocol", "seed", "profile", "device", "out_dir"]


def notebook(folder, name, imports):
    """A notebook that takes the parameters of a job, imports modules, and draws one small figure, as every job does."""
    parameters = "\n".join(f"{parameter} = None" for parameter in PARAMETERS)
    cells = [nbformat.v4.new_code_cell(source) for source in (parameters, imports, "plt.plot([0, 1]);")]
    cells[0].metadata["tags"] = ["parameters"]
    path = Path(folder, f"{name}.ipynb")
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def outside(path):
    """(seconds of an executed notebook, seconds of it outside the cells that train or score)."""
    notebook = nbformat.read(path, as_version=4)
    marks = ("torch.randperm(", "SCORING_BATCH", "z_train =")
    busy = [cell for cell in notebook.cells if any(mark in cell.source for mark in marks)]
    work = [cell.metadata.papermill.duration for cell in busy]
    return notebook.metadata.papermill.duration, notebook.metadata.papermill.duration - sum(work)


def command_line(path, environment):
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "-k", "python3", str(path), f"{path}.out"]
    subprocess.run(command, check=True, env=environment, capture_output=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("notebooks", nargs="*", help="executed notebooks of a sweep")
    options = parser.parse_args()
    for path in options.notebooks:
        print("{1:7.1f} of {0:7.1f} s outside training and scoring: {2}".format(*outside(path), path))
    if options.notebooks:
        return
    variables = runner.environment(1)
    with tempfile.TemporaryDirectory() as folder, runner.processes(folder) as submit:
        heavy, lean = notebook(folder, "heavy", HEAVY), notebook(folder, "lean", LEAN)
        job = register.job("lean", "digits", "8", "official", 0, "demo", {})
        begun = []  # seconds from submitting a job to its first cell

        def fresh_process():
            submitted, work = time.time(), f"{folder}/{len(begun)}"
            submit(job, {"notebooks": folder, "work": work}, variables).result()
            cell = json.loads(runner.left_outcome(work)["notebook"])["cells"][0]
            started = datetime.fromisoformat(cell["metadata"]["papermill"]["start_time"])
            begun.append(started.timestamp() - submitted)

        ways = {
            "command line, everything": lambda: command_line(heavy, os.environ | variables),
            "command line, lean": lambda: command_line(lean, os.environ | variables),
            "fresh process, lean": fresh_process,
        }
        first = timed(fresh_process)
        seconds = {name: [timed(way) for _ in range(options.jobs)] for name, way in ways.items()}
    ours = statistics.median(seconds["fresh process, lean"])
    for name, values in seconds.items():
        print(f"{name:26}{statistics.median(values):7.2f} s a job  {statistics.median(values) / ours:5.2f} x ours")
    print(f"fresh process: first cell after {statistics.median(begun[1:]):.2f} s; the first job took {first:.2f} s")


if __name__ == "__main__":
    main()
