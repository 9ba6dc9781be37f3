"""A toy paper whose notebook does what a test asks of it, in no time and without torch: shared by the sweep's tests."""

import json

from repro.register import job


PARAMETERS = """\
dataset = "digits"
normal_class = "8"  # a comment with an = in it
protocol = "official"
seed = 0
profile = "demo"
device = "auto"
out_dir = None
trouble = "none"
log = ""
rate = 0.5
steps = 3
sizes = [1, 2]
shown = True
anything = None
"""
BODY = """\
import os, pathlib, signal, time
from repro import rows
if log:
    with open(log, "a") as file:
        file.write(f"{normal_class} {seed} {os.getpid()} {os.getppid()}\\n")
rows.progress(out_dir, 1, 2, "toying", 0.25)
count = len(pathlib.Path(log).read_text().splitlines()) if log else 0
"""
TROUBLE = """\
if trouble == "cell":
    raise RuntimeError("this cell fails\\nsecond line")
if trouble == "kernel":
    os.kill(os.getpid(), signal.SIGKILL)
if trouble == "crash":  # of the interpreter, which no exception tells of
    import faulthandler, resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler._sigsegv()
if trouble == "worker":
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
if trouble == "worker once" and not os.path.exists(log + ".once"):
    pathlib.Path(log + ".once").touch()
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
if trouble == "until told":
    while not os.path.exists(log + ".go"):
        time.sleep(0.05)
"""
SAVE = """\
lines = [rows.row(paper="toy", method=method, dataset=dataset, protocol=protocol, class_=normal_class, seed=seed,
                  profile=profile, image_size=8, auroc=0.75, n_test=4, diagnostics={"loss": 0.25},
                  device=os.environ.get("CUDA_VISIBLE_DEVICES", "cpu")) for method in ("toy", "mean")]
scores = {"index": range(2), "kind": ["a", "b"], "is_anomalous": [False, True], "toy": [0.1, 0.2]}
rows.save(out_dir, lines, scores)
"""


def notebook(*sources):
    """A notebook of code cells, the first tagged `parameters`, as text."""
    cells = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "metadata": {},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }
        for number, source in enumerate(sources)
    ]
    cells[0]["metadata"]["tags"] = ["parameters"]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def write_notebook(folder):
    """Leave toy.ipynb in `folder`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy.ipynb").write_text(notebook(PARAMETERS, BODY, TROUBLE, SAVE))
    return folder


def toy_job(normal="8", seed=0, **settings):
    """A job of the toy paper."""
    return job("toy", "digits", normal, "official", seed, "quick", settings)
