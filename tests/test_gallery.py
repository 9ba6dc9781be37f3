import json

import pytest

from repro import gallery, register


def executed(**changes):
    cells = [
        {
            "cell_type": "code",
            "id": "a1b2c3",
            "execution_count": 1,
            "outputs": [],
            "metadata": {"tags": ["injected-parameters"], "papermill": {"duration": 1}},
            "source": 'seed = 0\nout_dir = "/tmp/adlib-xyz/1"\n',
        },
        {
            "cell_type": "code",
            "id": "d4e5f6",
            "metadata": {"execution": {"iopub.status": "now"}},
            "source": "plot()",
            "execution_count": 2,
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": [f"read {gallery.CHECKOUT}/notebooks/x\n"]},
                {"output_type": "display_data", "metadata": {}, "data": {"image/png": "iVBOR/tmp/abc"}},
            ],
        },
    ]
    metadata = {"papermill": {"input_path": "/somewhere"}, "language_info": {"version": "3.11.7"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5, **changes}


def test_the_gallery_shows_its_header_first_and_no_trace_of_the_machine():
    text = gallery.cleaned(json.dumps(executed()), "Profile **quick**")
    notebook = json.loads(text)
    assert notebook["cells"][0]["source"] == "Profile **quick**"
    assert notebook["cells"][1]["source"] == "seed = 0\nout_dir = None\n"
    assert notebook["cells"][2]["outputs"][0]["text"] == ["read ./notebooks/x\n"]
    assert notebook["cells"][2]["outputs"][1]["data"]["image/png"] == "iVBOR/tmp/abc"  # a picture is no text
    for trace in ("papermill", "iopub", "/somewhere", "adlib-xyz", "3.11.7"):
        assert trace not in text


def test_random_ids_and_times_make_no_difference():
    other = executed()
    other["cells"][0]["id"] = "zzz"
    other["cells"][0]["metadata"]["papermill"]["duration"] = 2
    assert gallery.cleaned(json.dumps(other), "x") == gallery.cleaned(json.dumps(executed()), "x")


def test_a_cleaned_notebook_is_a_valid_notebook():
    import nbformat

    notebook = nbformat.reads(gallery.cleaned(json.dumps(executed()), "x"), as_version=4)
    nbformat.validate(notebook)


def cell(name, source, kind="code", tags=(), output=None):
    outputs = [{"output_type": "stream", "name": "stdout", "text": [output]}] if output else []
    code = {"outputs": outputs, "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "id": name, "metadata": {"tags": list(tags)}, "source": source, **code}


@pytest.mark.parametrize("ids", ["of the source", "of a page"])
def test_code_and_outputs_are_of_the_run_prose_and_rows_of_today(tmp_path, ids):
    run = [
        cell("imports", "x = 1", output="old"),
        cell("parameters", "a = 1", tags=["parameters"]),
        cell("random", "a = 3", tags=["injected-parameters"]),
        cell("five", "## 5. Trainig", "markdown"),
        cell("training", "train(better=False)", output="of the run"),
        cell("nine", "## 9. Claims, as they were", "markdown"),
        cell("of-rows", "print(x)", output="old"),
        cell("of-run", "print(residuals)", output="of the run"),
    ]
    if ids == "of a page":  # hung by an earlier version: ids were numbers, and its header is the first cell
        run = [cell("x", "Profile **quick**", "markdown"), *run]
        run = [{**one, "id": f"cell-{number}"} for number, one in enumerate(run)]
    source = [
        cell("imports", "x = 2", tags=["rows"]),
        cell("parameters", "a = 1", tags=["parameters"]),
        cell("five", "## 5. Training", "markdown"),
        cell("training", "train(better=True)"),
        cell("about", "The detector.", "markdown"),
        cell("detector", "save()"),
        cell("nine", "## 9. Claims", "markdown"),
        cell("of-rows", "print(f'{x} rows')", tags=["rows"]),
        cell("of-run", "print(residuals)"),
        cell("last", "What we make of it.", "markdown"),
    ]
    whole = {"metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path = tmp_path / "toy.ipynb"
    path.write_text(json.dumps({**whole, "cells": source}))
    cells = json.loads(gallery.renewed(json.dumps({**whole, "cells": run}), path))["cells"]
    assert ["".join(one["source"]) for one in cells] == [
        "x = 2",
        "a = 1",
        "a = 3",
        "## 5. Training",
        "train(better=False)",
        "## 9. Claims",
        "print(f'{x} rows')",
        "print(residuals)",
        "What we make of it.",
    ]
    assert [one["outputs"][0]["text"] for one in (cells[4], cells[7])] == [["of the run"]] * 2
    assert "".join(cells[6]["outputs"][0]["text"]) == "2 rows\n" and not cells[0]["outputs"]


def test_a_notebook_without_cells_on_rows_starts_no_kernel(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery.worker, "execute", None)
    path = tmp_path / "toy.ipynb"
    path.write_text(json.dumps({"cells": [cell("nine", "## 9. Claims", "markdown")]}))
    cells = json.loads(gallery.renewed(json.dumps(executed()), path))["cells"]
    assert [one["source"] for one in cells] == ["## 9. Claims"]


def test_a_job_whose_run_is_gone_is_hung_again_from_its_page(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "RESULTS", tmp_path)
    job = gallery.jobs(register.load(), ["two_stage"], ["mnist"], ["8"], [0], "quick")[0]
    page = tmp_path / "gallery" / "two_stage.ipynb"
    page.parent.mkdir()
    header = "Profile **quick**: two_stage mnist 8 seed 0 quick, executed on `cpu`."
    page.write_text(gallery.cleaned(json.dumps(executed()), header))
    assert gallery._executed(job) is None  # without scores
    page.with_name("two_stage.scores.csv.gz").write_bytes(b"scores")
    assert gallery._executed(job)[0] == page
    assert gallery._executed(gallery.jobs(register.load(), ["two_stage"], ["mnist"], ["2"], [0], "quick")[0]) is None
    own = gallery.notebook_path(tmp_path, job), gallery.scores_path(tmp_path, job)
    for path in own:
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    assert gallery._executed(job) == own


def test_a_notebook_that_is_too_large_is_an_error(monkeypatch):
    monkeypatch.setattr(gallery, "LARGEST", 100)
    with pytest.raises(ValueError, match="make its pictures smaller"):
        gallery._write("big", json.dumps(executed()), "x")


def test_a_paper_without_a_place_in_the_gallery_is_an_error():
    with pytest.raises(ValueError, match="papers with one: alpha"):
        gallery.choose({"alpha": {"gallery": {}}, "beta": {}}, "beta")


def test_of_two_backbones_the_registers_first_is_shown():
    run = {"datasets": ["mnist"], "classes": ["8"]}
    book = {
        "alpha": {
            "gallery": {"dataset": "mnist", "class": "8"},
            "runs": [{**run, "settings": {"backbone": "small"}}, {**run, "settings": {"backbone": "large"}}],
        }
    }
    assert gallery.choose(book, "alpha")["settings"] == {"backbone": "small"}
