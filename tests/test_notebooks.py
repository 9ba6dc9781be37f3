"""What every notebook's source keeps to; `make test` also executes each with nbval (its path is in testpaths)."""

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
def test_no_display_has_two_numbers(path):
    """MathJax refuses a second \\tag in one display, and shows an error in place of both equations."""
    for cell in cells(path, "markdown"):
        for display in source(cell).split("$$")[1::2]:
            assert display.count("\\tag") <= 1, display


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


def test_the_same_seed_gives_the_same_row_and_the_same_scores_and_another_seed_does_not(tmp_path):
    """The whole chain on a few images: training, scoring and metrics of a real notebook, twice in fresh kernels."""
    from repro import register, sweep
    from repro.rows import KEY, METRICS, read

    small = {"n_train": 16, "rotation_epochs": 1, "decoder_epochs": 1}
    outcomes = []
    for run, seeds in enumerate([[0, 1], [0]]):
        jobs = register.jobs(register.load(), ["two_stage"], seeds=seeds, profile="demo", settings=small)
        assert not sweep.reproduce(jobs, tmp_path / str(run), n_jobs=1)["failed"]
        rows = read(tmp_path / str(run) / "two_stage.csv")
        chosen = [{name: row[name] for name in (*KEY, *METRICS, "job")} for row in rows]
        outcomes.append((chosen, [sweep.scores_path(tmp_path / str(run), job).read_bytes() for job in jobs]))
    (both, both_scores), (again, again_scores) = outcomes
    assert [row for row in both if row["seed"] == "0"] == again and len(again) == 7
    assert both_scores[0] == again_scores[0] and both_scores[0] != both_scores[1]
