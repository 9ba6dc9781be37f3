import json

import pytest

from adlib import gallery


def executed(**changes):
    cells = [
        {"cell_type": "code", "id": "a1b2c3", "execution_count": 1, "outputs": [],
         "metadata": {"tags": ["injected-parameters"], "papermill": {"duration": 1}},
         "source": 'seed = 0\nout_dir = "/tmp/adlib-xyz/1"\n'},
        {"cell_type": "code", "id": "d4e5f6", "metadata": {"execution": {"iopub.status": "now"}}, "source": "plot()",
         "execution_count": 2, "outputs": [
             {"output_type": "stream", "name": "stdout", "text": [f"read {gallery.CHECKOUT}/notebooks/x\n"]},
             {"output_type": "display_data", "metadata": {}, "data": {"image/png": "iVBOR/tmp/abc"}}]},
    ]  # fmt: skip
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


def test_a_notebook_that_is_too_large_is_an_error(tmp_path, monkeypatch):
    source = tmp_path / "big.ipynb"
    source.write_text(json.dumps(executed()))
    monkeypatch.setattr(gallery, "LARGEST", 100)
    with pytest.raises(ValueError, match="make its pictures smaller"):
        gallery._write("big", source, "x")


def test_a_paper_without_a_place_in_the_gallery_is_an_error():
    with pytest.raises(ValueError, match="papers with one: alpha"):
        gallery.choose({"alpha": {"gallery": {}}, "beta": {}}, "beta")


def test_of_two_backbones_the_registers_first_is_shown():
    run = {"datasets": ["mnist"], "classes": ["8"]}
    book = {"alpha": {"gallery": {"dataset": "mnist", "class": "8"}, "runs": [
        {**run, "settings": {"backbone": "small"}}, {**run, "settings": {"backbone": "large"}}]}}  # fmt: skip
    assert gallery.choose(book, "alpha")["settings"] == {"backbone": "small"}
