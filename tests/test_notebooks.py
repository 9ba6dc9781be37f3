"""What every notebook's source keeps to; `make test` also executes each with nbval (its path stands in testpaths)."""
import ast
import json
import tomllib
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
REGISTER = tomllib.loads((ROOT / "experiments.toml").read_text())
PAPERS = [paper for paper in REGISTER if (ROOT / "published" / f"{paper}.csv").exists()]


def cells(path, kind="code"):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_sources_are_stored_without_output_and_no_cell_is_longer_than_a_screen(path):
    for cell in cells(path):
        assert cell["outputs"] == [] and cell["execution_count"] is None
        assert len(source(cell).splitlines()) <= 40
        assert not any(isinstance(node, ast.ClassDef | ast.FunctionDef) for node in ast.walk(ast.parse(source(cell))))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_parameters_cell_holds_literals_alone(path):
    """Papermill injects values after this cell: anything derived here would keep the default's value."""
    tagged = [cell for cell in cells(path) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    for node in ast.parse(source(tagged[0])).body:
        assert isinstance(node, ast.Assign)
        ast.literal_eval(node.value)


@pytest.mark.parametrize("paper", REGISTER)
def test_a_papers_notebook_takes_what_a_job_is_and_every_setting_of_the_register(paper):
    path = ROOT / "notebooks" / f"{paper}.ipynb"
    tagged = next(cell for cell in cells(path) if "parameters" in cell["metadata"].get("tags", []))
    names = {node.targets[0].id for node in ast.parse(source(tagged)).body}
    table = REGISTER[paper]
    settings = [*table["profiles"].values(), *(run.get("settings", {}) for run in table["runs"])]
    job = {"dataset", "normal_class", "protocol", "seed", "profile", "device", "out_dir"}
    assert job.union(*settings) <= names


@pytest.mark.parametrize("paper", REGISTER)
def test_a_papers_notebook_has_the_nine_headings(paper):
    text = "\n".join(source(cell) for cell in cells(ROOT / "notebooks" / f"{paper}.ipynb", "markdown"))
    numbers = [line.split(".")[0].removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert numbers == [str(i) for i in range(1, 10)]
