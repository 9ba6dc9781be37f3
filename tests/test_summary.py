"""The summary, in Markdown and as a notebook, for whatever rows there are."""

import json
import os

import pytest

from repro import results, summary


NOTEBOOK = results.CHECKOUT / "notebooks" / "summary.ipynb"
BASELINES = [("baselines", "ocsvm"), ("baselines", "knn")]
OWN = [("two_stage", "two_stage"), ("two_stage", "two_stage_mse"), ("two_stage", "cae")]


def fill(folder, methods, dataset="mnist", classes="0123456789", seeds=(0,), profile="quick"):
    for paper, method in methods:
        results.merge(
            folder / f"{paper}.csv",
            [
                results.row(
                    paper=paper,
                    method=method,
                    dataset=dataset,
                    protocol="official",
                    class_=name,
                    seed=seed,
                    profile=profile,
                    auroc=0.8 + 0.01 * seed + 0.01 * index,
                    data="npz:01234567",
                    job=f"{name}{seed}",
                )
                for seed in seeds
                for index, name in enumerate(classes)
            ],
        )


def failed(folder):
    results.merge(
        folder / "two_stage.csv",
        [
            results.row(
                paper="two_stage",
                dataset="mnist",
                protocol="official",
                class_="4",
                seed=1,
                profile="paper",
                status="failed",
                job="f" * 12,
                error="RuntimeError: a | b <c>",
            )
        ],
    )


def none(folder):
    pass


def one(folder):
    fill(folder, OWN[:1], classes="8")


def many(folder):
    fill(folder, OWN, seeds=(0, 1, 2), profile="paper")
    fill(folder, OWN, dataset="fashion_mnist", classes=["t_shirt", "ankle_boot"])
    fill(folder, OWN, dataset="digits", classes="8", profile="demo")
    fill(folder, BASELINES)
    failed(folder)


def only_baselines(folder):
    fill(folder, BASELINES)


def written(folder, **more):
    folder.mkdir(exist_ok=True)
    return summary.write_summary(folder, **more).read_text()


def section(text, title):
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_without_rows_the_summary_lists_what_was_printed_as_not_run(tmp_path):
    text = written(tmp_path)
    assert "No row stands beside a printed number yet." in section(text, "Printed beside ours")
    assert "two_stage, fastener, official: printed ocsvm 0.874" in section(text, "Not run")
    assert "two_stage 0.750" in section(text, "Not run")  # as printed, 75.0


def test_one_row_stands_beside_its_printed_number_with_profile_and_what_is_missing(tmp_path):
    one(tmp_path)
    text = written(tmp_path)
    assert (
        "| mnist | official | **two_stage** | auroc | 0.973 | 0.800 | quick | "
        "indicative: 1 of 10 classes, quick, 1 seed | data npz:01234567 |"
    ) in text
    assert "two_stage, mnist, official: printed ocsvm 0.911, cae 0.926, deep_svdd" in section(text, "Not run")


def test_many_rows_give_mean_spread_and_verdict(tmp_path):
    many(tmp_path)
    text = written(tmp_path)
    # seed means 0.845, 0.855, 0.865, so 0.855 and s = 0.01; the half width of the interval is 0.0248
    assert "| mnist | official | **two_stage** | auroc | 0.973 | 0.855 ± 0.010 | paper | below |" in text
    assert "two_stage_mse" in section(text, "Other rows") and "| demo |" in section(text, "Other rows")
    assert "knn" in section(text, "Other rows")


def test_objects_that_no_mean_is_over_are_counted_apart(tmp_path):
    fill(tmp_path, [("two_stage", "two_stage")], dataset="coil100", classes=["obj1", "obj4", "obj7"])
    text = written(tmp_path, register={"obj10", "obj40"})
    assert "| quick | 2 of 30 and 1 more | 1 | data npz:01234567, 1 of 3 rows stale |" in section(text, "Other rows")


def test_baselines_alone_stand_beside_the_papers_that_print_them(tmp_path):
    only_baselines(tmp_path)
    assert "| mnist | official | ocsvm | auroc | 0.911 |" in section(written(tmp_path), "Printed beside ours")


def test_failed_jobs_are_listed_and_cannot_break_the_table(tmp_path):
    failed(tmp_path)
    assert "RuntimeError: a \\| b &lt;c>" in section(written(tmp_path), "Failed jobs")
    assert "No row stands beside" in written(tmp_path)


def test_stale_rows_are_listed_with_their_classes_and_jobs_without_rows_are_counted(tmp_path):
    fill(tmp_path, OWN[:2], classes="358")
    text = written(tmp_path, register={"30", "new"})
    assert "| two_stage | mnist | official | 0 | quick |  | 5, 8 |" in section(text, "Stale rows")
    assert "2 of 3 rows stale" in section(text, "Printed beside ours")
    assert "1 of the register's 2 jobs (all profiles) have no rows." in section(text, "Not run")


def test_the_same_rows_write_the_same_summary(tmp_path):
    many(tmp_path)
    assert written(tmp_path) == written(tmp_path)


def test_every_table_row_names_its_profile(tmp_path):
    many(tmp_path)
    text = written(tmp_path)
    for title in ("Printed beside ours", "Other rows"):
        lines = [line for line in section(text, title).splitlines() if line.startswith("| ") and "---" not in line]
        for line in lines[1:]:
            assert any(f" | {profile} | " in line for profile in ("demo", "quick", "paper", "profile")), line


def test_bars_hold_the_papers_method_first_and_the_baselines_last_and_one_color_per_method(tmp_path):
    many(tmp_path)
    parts = results.collect(tmp_path)
    figures = {figure["title"]: figure for figure in results.bars(parts["records"], parts["alone"])}
    assert list(figures) == [
        "two_stage: mnist, official",
        "two_stage: fashion_mnist, official",
        "two_stage: digits, official",
    ]
    mnist = figures["two_stage: mnist, official"]
    assert [series["label"] for series in mnist["series"]] == [
        "two_stage, paper",
        "cae, paper",
        "ocsvm, quick",
        "knn, quick",
    ]
    assert mnist["series"][0]["published"] == 0.973 and mnist["series"][-1]["published"] is None
    assert mnist["class_names"] == list("0123456789")
    assert mnist["series"][0]["classes"]["0"] == pytest.approx(0.81)  # the mean of 0.80, 0.81 and 0.82
    assert figures["two_stage: fashion_mnist, official"]["class_names"] == ["t_shirt", "ankle_boot"]
    colors = {(series["label"].split(",")[0], series["color"]) for one in figures.values() for series in one["series"]}
    assert len(colors) == len(dict(colors)) == 4


def test_bars_are_drawn_from_chance_with_the_printed_mean_dashed():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from adlib import plots

    series = [{"label": "m, quick", "color": 0, "classes": {"a": 0.9, "c": 0.4}, "published": 0.95}]
    figure = plots.class_bars("title", "auroc", ["a", "b", "c"], series)
    (axis,) = figure.axes
    tops = [(bar.get_y(), bar.get_height()) for bar in axis.patches]
    assert tops[0] == (0.5, pytest.approx(0.4)) and tops[2] == (0.5, pytest.approx(-0.1))
    assert axis.lines[0].get_ydata()[0] == 0.95 and axis.lines[0].get_linestyle() == "--"
    assert axis.get_ylim()[0] <= 0.4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["m, quick (printed 0.950)"]
    pyplot.close(figure)


@pytest.mark.parametrize("rows", [none, one, many, only_baselines, failed], ids=lambda rows: rows.__name__)
def test_the_notebook_renders(tmp_path, rows, monkeypatch):
    # its cells in this process: a kernel is started by the run of the notebook itself and by the sweep's tests
    import IPython.display
    import matplotlib

    matplotlib.use("Agg")
    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda *things: shown.extend(things))
    folder = tmp_path / "rows"
    folder.mkdir()
    rows(folder)
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            if "parameters" in cell["metadata"].get("tags", []):
                names.update(results_dir=str(folder), out_dir=str(tmp_path / "out"))
    figures = [thing for thing in shown if hasattr(thing, "axes")]
    is_crossed = rows in (many, only_baselines)  # with both classes of the matrix
    assert len(figures) == {none: 0, one: 1, many: 3, only_baselines: 1, failed: 0}[rows] + is_crossed
    assert len(shown) - len(figures) == 8 + is_crossed  # the sections, and what the matrix cost
    assert (tmp_path / "out" / "summary.md").read_text().startswith("# What the papers print")


def test_the_notebook_is_stored_without_outputs_and_in_short_cells():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    for cell in cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert len("".join(cell["source"]).splitlines()) <= 40
        assert "def " not in "".join(cell["source"]) or cell["cell_type"] == "markdown"


def test_the_notebook_runs_under_papermill(tmp_path):
    import subprocess
    import sys

    one(tmp_path)
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(NOTEBOOK),
        str(tmp_path / "done.ipynb"),
        "-p",
        "results_dir",
        str(tmp_path),
        "-p",
        "out_dir",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "indicative: 1 of 10 classes" in (tmp_path / "summary.md").read_text()
    outputs = json.dumps(json.loads((tmp_path / "done.ipynb").read_text()))
    assert "image/png" in outputs and "indicative: 1 of 10 classes" in outputs
