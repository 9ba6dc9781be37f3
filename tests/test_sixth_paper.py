"""A further paper costs a notebook, a module, a published table and a table in the register, and no edit elsewhere."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest


ROOT = Path(__file__).resolve().parents[1]
MODULE = '''
"""A toy paper: the anomaly score is the mean brightness."""


def build():
    return lambda x: x.float().flatten(1).mean(1)


def score(network, x):
    return network(x)
'''
PARAMETERS = """
dataset = "digits"
normal_class = "1"
protocol = "official"
seed = 0
profile = "demo"
device = "auto"
out_dir = None
factor = 1.0
"""
BODY = """
from repro import data, rows
from adlib import metrics, toy
split = data.one_class(dataset, normal_class, protocol, seed)
scores = factor * toy.score(toy.build(), split.test)
row = rows.row(paper="toy", method="toy", dataset=dataset, protocol=protocol, class_=normal_class, seed=seed,
               profile=profile, auroc=metrics.auroc(scores, split.is_anomalous))
rows.save(out_dir, [row], {"index": range(len(scores)), "is_anomalous": split.is_anomalous, "toy": scores})
"""


@pytest.mark.slow
def test_a_sixth_paper_is_found_run_compared_and_shown_without_an_edit_elsewhere(tmp_path):
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", ".data", "results", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    (copy / "results").mkdir()
    (copy / "adlib" / "toy.py").write_text(MODULE)
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(BODY)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), copy / "notebooks" / "toy.ipynb")
    (copy / "published" / "toy.csv").write_text(
        "paper,table,dataset,protocol,class,method,weights,metric,value,note\n"
        "toy,1,digits,official,mean,toy,,auroc,0.500,\n"
    )
    with open(copy / "experiments.toml", "a") as register:
        register.write(
            '\n[toy]\ntitle = "Toy"\n[toy.profiles.quick]\nfactor = 2.0\n'
            '[[toy.runs]]\ndatasets = ["digits"]\nclasses = ["1", "0"]\n'
        )

    def adlib(*words):
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        command = [sys.executable, "-m", "repro", *words]
        return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=300)

    done = adlib("run", "--papers", "toy", "--profile", "quick")
    assert done.returncode == 0, done.stdout + done.stderr
    with open(copy / "results" / "toy.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["0", "1"] and all(row["status"] == "ok" for row in rows)
    shown = adlib("summary")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "toy" in shown.stdout and "indicative: 2 of 10 classes, quick, 1 seed" in shown.stdout
