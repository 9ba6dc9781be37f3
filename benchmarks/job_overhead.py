"""What does a job cost besides its own training and scoring? Three ways to run the same empty job, in one run.

    python benchmarks/job_overhead.py [--jobs 4]
    python benchmarks/job_overhead.py results/notebooks/two_stage/*.ipynb      # of jobs that ran: seconds outside

command line, everything  `papermill` once per job, a notebook that imports what users commonly import
                          (torch, torchvision, pandas, pyplot, scikit-learn's metrics)
command line, lean        the same, importing what our notebooks import
live worker, lean         ours: papermill stays loaded, kernels talk over Unix sockets; the first job is not counted
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat

from repro import worker


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
from repro import data, results
from adlib import images, metrics, plots, two_stage
from adlib import device as machine"""


def notebook(folder, name, imports):
    """A notebook that imports and draws one small figure, as every job does."""
    cells = [nbformat.v4.new_code_cell(source) for source in (imports, "plt.plot([0, 1]);", "print(torch.__version__)")]
    path = Path(folder) / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def timed(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def outside(path):
    """(seconds of an executed notebook, seconds outside its cells that train or score)."""
    notebook = nbformat.read(path, as_version=4)
    marks = ("torch.randperm(", "SCORING_BATCH", "z_train =")
    busy = [cell for cell in notebook.cells if any(mark in cell.source for mark in marks)]
    work = [cell.metadata.papermill.duration for cell in busy]
    return notebook.metadata.papermill.duration, notebook.metadata.papermill.duration - sum(work)


def command_line(path, environment):
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "-k", "python3", str(path), str(path) + ".out"]
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
    n = options.jobs
    environment = {**os.environ, **worker.environment(1)}
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1) as pool:
        heavy, lean = notebook(folder, "heavy", HEAVY), notebook(folder, "lean", LEAN)
        os.environ.update(worker.environment(1))
        pool.submit(worker.execute, lean, f"{folder}/first.ipynb", {}).result()  # loads papermill
        ways = {
            "command line, everything": lambda: command_line(heavy, environment),
            "command line, lean": lambda: command_line(lean, environment),
            "live worker, lean": lambda: pool.submit(worker.execute, lean, f"{folder}/out.ipynb", {}).result(),
        }
        seconds = {name: [] for name in ways}
        for _ in range(n):
            for name, way in ways.items():
                seconds[name].append(timed(way))
    ours = statistics.median(seconds["live worker, lean"])
    for name, values in seconds.items():
        print(f"{name:26}{statistics.median(values):7.2f} s a job  {statistics.median(values) / ours:5.2f} x ours")


if __name__ == "__main__":
    main()
