import json

import pytest
import toy

from repro import gallery, rows
from repro.sweep import reproduce


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


def test_a_link_out_of_the_notebooks_leads_to_the_same_file_from_the_gallery():
    notebook = executed()
    notebook["cells"].append(
        {"cell_type": "markdown", "id": "l", "metadata": {}, "source": ["[a](../studies/a.ipynb)"]}
    )
    assert json.loads(gallery.cleaned(json.dumps(notebook), "x"))["cells"][-1]["source"] == "[a](../../studies/a.ipynb)"


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """A toy paper in a checkout of its own: its job, and what makes a run of it, without a kernel."""
    monkeypatch.setattr(gallery, "CHECKOUT", tmp_path)
    monkeypatch.setattr(gallery, "RESULTS", tmp_path / "results")
    toy.write_notebook(tmp_path / "notebooks")
    return Paper(tmp_path, toy.toy_job(rate=0.25))


class Paper:
    def __init__(self, folder, job):
        self.folder, self.job, self.source = folder, job, folder / "notebooks" / "toy.ipynb"
        self.run, self.page = gallery.notebook_path(folder / "results", job), folder / "results/gallery/toy.ipynb"

    def execute(self, finished="2026-01-31T12:00:30Z", prose="as it was"):
        """What a sweep keeps of a run from 12:00 to 12:01."""
        content = json.loads(self.source.read_text())
        tags = {"tags": ["injected-parameters"]}
        given = {"cell_type": "code", "id": "x", "metadata": tags, "source": ["rate = 1\n"], "outputs": []}
        content["cells"].insert(1, {**given, "execution_count": 1})
        content["cells"].append({"cell_type": "markdown", "id": "y", "metadata": {}, "source": prose})
        times = [f"2026-01-31T12:0{minute}:00.250000+00:00" for minute in (0, 1)]
        content["metadata"]["papermill"] = dict(zip(("start_time", "end_time"), times, strict=True))
        for path, text in ((self.run, json.dumps(content)), (gallery.scores_path(gallery.RESULTS, self.job), "s")):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.keep_row(finished)

    def keep_row(self, finished):
        names = ("paper", "dataset", "protocol", "class", "seed", "profile")
        row = rows.row(**{name: self.job[name] for name in names}, method="toy", job=self.job["id"], finished=finished)
        rows.merge(gallery.rows_path(gallery.RESULTS, self.job), [{**row, "device": "cpu", "commit": "abc"}])

    def edit(self, old, new):
        text = self.source.read_text()
        assert old in text
        self.source.write_text(text.replace(old, new))


def test_a_sweep_gives_what_the_gallery_hangs(paper):
    assert not gallery.is_there(paper.job)
    assert reproduce([paper.job], gallery.RESULTS, n_jobs=1, notebooks=paper.source.parent)["ok"]
    assert gallery.is_there(paper.job)
    cells = json.loads(gallery.hang(paper.job, "Images: drawn.").read_text())["cells"]
    assert "executed on cpu" in cells[0]["source"] and "rate = 0.25" in cells[2]["source"]
    assert "out_dir = None" in cells[2]["source"]
    assert paper.page.with_suffix(".scores.csv.gz").read_bytes()[:2] == b"\x1f\x8b"


def test_a_page_says_what_was_executed_and_shows_it_as_it_was(paper):
    paper.execute()
    paper.edit("# a comment with an = in it", "# a better comment")
    cells = json.loads(gallery.hang(paper.job, "Images: drawn.").read_text())["cells"]
    assert cells[0]["source"] == (
        "Profile **quick**: toy digits 8 seed 0 quick, executed on cpu, commit abc, finished 2026-01-31T12:00:30Z "
        f"(job {paper.job['id']}).  \nSettings of the profile: rate = 0.25.  \nImages: drawn."
    )
    assert "# a comment with" in cells[1]["source"] and cells[-1]["source"] == "as it was"


def test_layout_comments_and_prose_make_no_other_run_but_code_does(paper):
    paper.execute()
    paper.edit("rate = 0.5", "rate  =  0.5  # of learning")
    assert gallery.is_there(paper.job)
    paper.edit("steps = 3", "steps = 4")
    assert not gallery.is_there(paper.job)
    with pytest.raises(ValueError, match="no notebook of today's code"):
        gallery.hang(paper.job, "")


def test_a_page_stays_as_it_is_where_its_run_is_gone_or_has_other_code(paper):
    paper.execute()
    before = gallery.hang(paper.job, "Images: drawn.").read_bytes()
    paper.run.write_text(paper.run.read_text().replace("steps = 3", "steps = 2"))
    for _ in range(2):
        assert gallery.is_there(paper.job)
        assert gallery.hang(paper.job, "other").read_bytes() == before
        paper.run.unlink(missing_ok=True)
    paper.edit("steps = 3", "steps = 4")
    assert not gallery.is_there(paper.job)


def test_rows_of_another_execution_are_not_set_over_a_notebook(paper):
    paper.execute()
    gallery.hang(paper.job, "")
    paper.keep_row("2026-02-01T09:00:00Z")  # run elsewhere, and merged
    assert not gallery.is_there(paper.job)
    paper.execute("2026-02-02T09:00:00Z")
    assert not gallery.is_there(paper.job)


def test_other_settings_are_another_job(paper):
    paper.execute()
    gallery.hang(paper.job, "")
    assert not gallery.is_there(toy.toy_job(rate=0.125))


def test_profile_paper_is_chosen_where_it_was_executed_be_it_with_other_code(paper):
    runs = [{"datasets": ["digits"], "classes": ["8"]}]
    book = {"toy": {"gallery": {"dataset": "digits", "class": "8"}, "runs": runs}}
    assert gallery.choose(book, "toy")["profile"] == "quick"
    paper.page.parent.mkdir(parents=True)
    header = "Profile **paper**: toy digits 8 seed 0 paper, executed on `cpu`."
    paper.page.write_text(gallery.cleaned(json.dumps(executed()), header))
    job = gallery.choose(book, "toy")
    assert job["profile"] == "paper" and not gallery.is_there(job)
    paper.page.unlink()
    run = gallery.notebook_path(gallery.RESULTS, job)
    run.parent.mkdir(parents=True)
    run.touch()
    assert gallery.choose(book, "toy")["profile"] == "paper"


def test_a_notebook_that_is_too_large_is_an_error(paper, monkeypatch):
    paper.execute()
    monkeypatch.setattr(gallery, "LARGEST", 100)
    with pytest.raises(ValueError, match="the notebook toy is .* make its pictures smaller"):
        gallery.hang(paper.job, "")
    assert not paper.page.exists()


def test_the_picture_of_the_cell_tagged_cover_hangs_beside_the_page(paper):
    paper.execute()
    content = json.loads(paper.run.read_text())
    png = {"output_type": "display_data", "metadata": {}, "data": {"image/png": "UE5H\n"}}
    content["cells"][2]["outputs"] = [{**png, "data": {"image/png": "b3RoZXI="}}]
    content["cells"][3] |= {"outputs": [png], "metadata": {"tags": ["cover"]}}
    paper.run.write_text(json.dumps(content))
    gallery.hang(paper.job, "")
    assert paper.page.with_suffix(".png").read_bytes() == b"PNG"
    assert list(gallery.pictures(paper.page)) == [b"other", b"PNG"]


def test_the_summary_has_a_page_too(paper):
    path = gallery.RESULTS / "notebooks" / "summary.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(executed()))
    cells = json.loads(gallery.hang_summary().read_text())["cells"]
    assert cells[0]["source"].startswith("Executed on the rows") and len(cells) == 3


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
