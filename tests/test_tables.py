"""The summary, the page of classes and the tables of the README, from rows made up here."""

import json
import os
import re
import subprocess
import sys

import pytest

from repro import compare, register, rows, tables


NOTEBOOK = compare.CHECKOUT / "notebooks" / "summary.ipynb"
BASELINES = [("baselines", "ocsvm"), ("baselines", "knn")]
OWN = [("two_stage", "two_stage"), ("two_stage", "two_stage_mse"), ("two_stage", "cae")]


def row(paper, method, name, auroc, dataset="mnist", **other):
    given = {
        "protocol": "official",
        "seed": 0,
        "profile": "quick",
        "train_seconds": 90,
        "ms_per_image": 1,
        "n_test": 1000,
        "peak_memory_mb": 1500,
        "device": "cpu",
        "data": "npz:01234567",
        "job": f"{paper}{name}{other.get('seed', 0)}",
    }
    return rows.row(paper=paper, method=method, dataset=dataset, class_=name, auroc=auroc, **{**given, **other})


def fill(folder, methods, dataset="mnist", classes="0123456789", seeds=(0,), profile="quick", **other):
    for paper, method in methods:
        made = [
            row(paper, method, name, 0.8 + 0.01 * (seed + index), dataset, seed=seed, profile=profile, **other)
            for seed in seeds
            for index, name in enumerate(classes)
        ]
        rows.merge(folder / f"{paper}.csv", made)


def failed(folder):
    where = {"paper": "two_stage", "dataset": "mnist", "protocol": "official", "seed": 1, "profile": "paper"}
    lost = rows.row(**where, class_="4", status="failed", job="f" * 12, error="RuntimeError: a | b <c>")
    rows.merge(folder / "two_stage.csv", [lost])


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


@pytest.fixture
def execute(monkeypatch, tmp_path):
    """execute(folder): (summary.md of the rows there, the figures), by the notebook's cells in this process."""
    import IPython.display
    import matplotlib

    matplotlib.use("Agg")
    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda *things: shown.extend(things))

    def execute(folder, known_jobs=None):
        notebook, names, figures = json.loads(NOTEBOOK.read_text()), {}, []
        if known_jobs is not None:
            monkeypatch.setattr(register, "all_ids", lambda book: known_jobs)
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                shown.clear()
                exec("".join(cell["source"]), names)
                if "parameters" in cell["metadata"].get("tags", []):
                    names["results_dir"] = str(folder)
                texts = [thing.data for thing in shown if isinstance(thing, IPython.display.Markdown)]
                cell["outputs"] = [{"data": {"text/markdown": text}} for text in texts]
                figures += [thing for thing in shown if hasattr(thing, "axes")]
        (tmp_path / "executed.ipynb").write_text(json.dumps(notebook))
        return tables.write_summary(tmp_path / "executed.ipynb", tmp_path / "out").read_text(), figures

    return execute


def section(text, title):
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def lines(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


# the summary


def test_without_rows_the_summary_lists_what_was_printed_as_not_run(tmp_path, execute):
    text, figures = execute(tmp_path)
    assert "No printed number has rows yet." in section(text, "Printed and ours") and figures == []
    assert "two_stage, fastener, official: printed ocsvm 0.874" in section(text, "Not run")
    assert "two_stage 0.750" in section(text, "Not run")  # as printed, 75.0
    assert section(text, "Failed jobs").strip().endswith("None.")


def test_one_row_stands_beside_its_printed_number_with_profile_and_what_is_missing(tmp_path, execute):
    one(tmp_path)
    text, figures = execute(tmp_path)
    assert (
        "| mnist | official | **two_stage** | auroc | 0.973 | 0.800 | quick | "
        "indicative: 1 of 10 classes, quick, 1 seed | data npz:01234567, 1 of 1 rows stale |"
    ) in text
    assert "two_stage, mnist, official: printed ocsvm 0.911, cae 0.926, deep_svdd" in section(text, "Not run")
    assert [figure.axes[0].get_title() for figure in figures][:1] == ["two_stage: mnist, official"]


def test_many_rows_give_mean_spread_and_verdict_and_every_table_names_its_profile(tmp_path, execute):
    many(tmp_path)
    text, figures = execute(tmp_path)
    # seed means 0.845, 0.855, 0.865, so 0.855 and s = 0.01; the half width of the interval is 0.0248
    assert "| mnist | official | **two_stage** | auroc | 0.973 | 0.855 ± 0.010 | paper | below |" in text
    assert "| `two_stage` | Two decoders on a frozen encoder" in section(text, "Claim by claim")
    others = section(text, "Other rows")
    assert "two_stage_mse" in others and "| demo |" in others and "knn" in others
    assert "RuntimeError: a \\| b &lt;c>" in section(text, "Failed jobs")
    for title in ("Printed and ours", "Other rows"):
        of_rows = [line for line in lines(section(text, title), "| ") if "---" not in line]
        for line in of_rows[1:]:
            assert any(f" | {profile} | " in line for profile in ("demo", "quick", "paper", "profile")), line
    titles = [figure.axes[0].get_title() for figure in figures[:3]]
    assert titles == [f"two_stage: {name}, official" for name in ("mnist", "fashion_mnist", "digits")]
    assert execute(tmp_path)[0] == text


def test_baselines_alone_stand_beside_the_papers_that_print_them(tmp_path, execute):
    only_baselines(tmp_path)
    text, figures = execute(tmp_path)
    assert "| mnist | official | ocsvm | auroc | 0.911 |" in section(text, "Printed and ours")
    assert figures[0].axes[0].get_title() == "baselines: mnist, official"


def test_a_failed_job_alone_breaks_nothing(tmp_path, execute):
    failed(tmp_path)
    assert "No printed number has rows yet." in execute(tmp_path)[0]


def test_stale_rows_are_listed_with_their_classes_and_jobs_without_rows_are_counted(tmp_path, execute):
    fill(tmp_path, OWN[:2], classes="358")
    fill(tmp_path, OWN[:1], dataset="coil100", classes=["obj1", "obj4", "obj7"])
    text, _ = execute(tmp_path, {"two_stage30", "two_stageobj40", "new"})
    assert "| two_stage | mnist | official | 0 | quick |  | 5, 8 |" in section(text, "Stale rows")
    assert "2 of 3 rows stale" in section(text, "Printed and ours")
    assert "1 of the register's 3 jobs (all profiles) have no rows." in section(text, "Not run")
    # objects that no mean is over are counted apart
    assert "| quick | 2 of 30 and 1 more | 1 | data npz:01234567, 2 of 3 rows stale |" in section(text, "Other rows")


def test_every_method_stands_on_every_dataset_with_the_classes_that_most_ran(tmp_path, execute):
    two_stage = [
        row("two_stage", "two_stage", "8", 0.9, train_seconds=20),
        row("two_stage", "two_stage", "2", 0.7),
        row("two_stage", "two_stage", "8", 0.99, profile="paper"),
        row("two_stage", "two_stage", "2", 0.99, profile="paper"),
        row("two_stage", "two_stage", "2", 0.1, seed=1),
        row("two_stage", "two_stage", "3", 0.1),  # a class that the others have not
        row("two_stage", "two_stage_mse", "8", 0.5),
        row("two_stage", "two_stage_mse", "2", 0.5),  # another setting
        row("two_stage", "cae", "8", 0.5),  # one class of two
        row("two_stage", "rotnet", "8", 0.6, profile="paper"),
        row("two_stage", "rotnet", "2", 0.4, profile="paper"),
        row("two_stage", "rotnet", "car", 0.6, "cifar10"),
    ]
    other = {"weights": "resnet18/random"}
    baselines = [
        *(row("baselines", "pca", name, 0.8, data="stand-in:01234567") for name in "82"),
        *(row("baselines", "knn", name, 0.3, **other) for name in "82"),
        *(row("baselines", "ocsvm", name, 0.3, train_seconds=0) for name in "82"),
        *(row("baselines", "mean_image", name, 0.3) for name in "82"),
    ]
    rows.merge(tmp_path / "two_stage.csv", two_stage)
    rows.merge(tmp_path / "baselines.csv", baselines)
    text, figures = execute(tmp_path)
    found = section(text, "Every method on every dataset")
    assert lines(found, "| paper | method | mnist")[0] == "| paper | method | mnist (2, 8) |"
    assert lines(found, "| two_stage |")[:2] == [
        "| two_stage | two_stage | 0.800 |",
        "| two_stage | rotnet | 0.500 p |",
    ]
    assert lines(found, "| baselines |")[:2] == ["| baselines | mean_image | 0.300 |", "| baselines | ocsvm | 0.300 |"]
    cost = "| two_stage | two_stage | 1 | 55 | 1 |  | cpu |"
    assert cost in found and "pca" not in found and "knn" not in found
    assert [text.get_text() for text in figures[-2].axes[0].texts] == ["0.800", "0.500 p", "0.300", "0.300"]
    left = {line.get_label(): line.get_xdata()[0] for line in figures[-1].axes[0].lines}
    assert left["two_stage"] == 55 and left["ocsvm"] == 1e-3  # what needs no training stands at the left edge


def test_tables_say_what_was_measured_on_copies(tmp_path, execute):
    methods = [("cbigan", "cbigan"), ("cbigan", "egbad")]
    trained = {"image_ratio": 0.5}
    fill(tmp_path, methods, "mvtec", ["bottle"], data="folder:01234567 (a copy)", diagnostics=trained)
    text, _ = execute(tmp_path)
    claims = section(text, "Claim by claim")
    assert "| mvtec, official (a copy) | cbigan minus egbad, AUROC |" in claims
    assert "| mvtec, official | its table's means, AUROC | printed:" in claims  # there nothing of ours was measured
    assert "| paper | method | mvtec (bottle) (a copy) |" in section(text, "Every method on every dataset")
    assert "data folder:01234567 (a copy)" in section(text, "Printed and ours")
    fill(tmp_path, methods, "mvtec", ["bottle"])  # nothing shows that these were trained
    text, _ = execute(tmp_path)
    assert "egbad" not in section(text, "Every method on every dataset")
    assert "| not trained |" in section(text, "Printed and ours")
    records = compare.compare(None, tmp_path)
    (figure,) = tables.figures(records, compare.ours_alone(records, tmp_path))
    assert all(one["label"].endswith(", not trained") for one in figure["series"])


def test_the_notebook_is_stored_without_outputs_and_in_short_cells():
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        assert len("".join(cell["source"]).splitlines()) <= 40
        assert "def " not in "".join(cell["source"]) or cell["cell_type"] == "markdown"


@pytest.mark.slow
def test_the_notebook_runs_under_papermill(tmp_path):
    one(tmp_path)
    done = tmp_path / "done.ipynb"
    command = [sys.executable, "-m", "papermill", str(NOTEBOOK), str(done), "-p", "results_dir", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert ran.returncode == 0, ran.stderr
    assert "indicative: 1 of 10 classes" in tables.write_summary(done, tmp_path).read_text()
    assert "image/png" in done.read_text()


# figures


def drawn(folder):
    records = compare.compare(None, folder)
    return {figure["title"]: figure for figure in tables.figures(records, compare.ours_alone(records, folder))}


def test_figures_hold_the_papers_method_first_and_the_baselines_last_and_one_color_per_method(tmp_path):
    many(tmp_path)
    figures = drawn(tmp_path)
    assert list(figures) == [f"two_stage: {name}, official" for name in ("mnist", "fashion_mnist", "digits")]
    mnist = figures["two_stage: mnist, official"]
    labels = ["two_stage, paper", "cae, paper", "ocsvm, quick", "knn, quick"]
    assert [series["label"] for series in mnist["series"]] == labels
    assert mnist["series"][0]["published"] == 0.973 and mnist["series"][-1]["published"] is None
    assert mnist["class_names"] == list("0123456789")
    assert mnist["series"][0]["classes"]["0"] == pytest.approx(0.81)  # the mean of 0.80, 0.81 and 0.82
    assert figures["two_stage: fashion_mnist, official"]["class_names"] == ["t_shirt", "ankle_boot"]
    colors = {(series["label"].split(",")[0], series["color"]) for one in figures.values() for series in one["series"]}
    assert len(colors) == len(dict(colors)) == 4


def test_what_a_method_does_where_its_paper_prints_nothing_but_others_do_has_no_figure(tmp_path):
    fill(tmp_path, OWN[:1], dataset="mvtec", classes=["bottle", "pill"])
    fill(tmp_path, OWN[:1], classes="8")
    assert list(drawn(tmp_path)) == ["two_stage: mnist, official"]


def test_other_settings_of_a_baseline_are_left_out_of_the_figures(tmp_path):
    methods = ("ocsvm", "ocsvm_nu0.1_gamma1", "ocsvm_oracle", "mean_image")
    fill(tmp_path, [("baselines", method) for method in methods], dataset="cifar100", classes=["cup"])
    (figure,) = drawn(tmp_path).values()
    assert [series["label"] for series in figure["series"]] == ["mean_image, quick", "ocsvm, quick"]


# classes, README


@pytest.fixture
def folder(tmp_path):
    backbone = {"weights": "resnet18/imagenet", "image_size": 256}
    words = {"data": "folder:01234567 (a copy)"}
    own = [row("patch_ae", "patch_ae", name, 0.75, "mvtec", **backbone, **words) for name in ("bottle", "pill")]
    rows.merge(tmp_path / "patch_ae.csv", own)
    rows.merge(tmp_path / "baselines.csv", [row("baselines", "pixel_ae_l2", "bottle", 0.9, "mvtec", image_size=128)])
    digits = [
        row("two_stage", "two_stage", str(i), 0.97 + 0.002 * seed, seed=seed, profile="paper", data="official")
        for i in range(10)
        for seed in (0, 1)
    ]
    rows.merge(tmp_path / "two_stage.csv", digits)
    return tmp_path


def test_the_headline_has_a_line_for_each_paper_with_what_was_asked_printed_measured_and_how(folder):
    table = tables.headline(register.load(), folder)
    questions = [line.partition("](notebooks/")[2].partition(".ipynb)")[0] for line in lines(table, "| [")]
    assert questions == ["two_stage", "feature_ae", "shared_ae", "cbigan", "patch_ae"]
    [digits] = lines(table, "| [Does a frozen encoder")
    link = "[0.971 ± 0.001, reproduced](results/classes.md#two_stage-mnist-official-auroc)"
    assert digits.endswith(f"| 0.973 | {link}. On mnist: 10 of 10 classes, paper, 2 seeds |")
    [own] = [line for line in lines(table, "| [") if "(notebooks/patch_ae.ipynb)" in line]
    printed = (1.0 + 0.982) / 2  # of these two classes
    assert f"| {printed:.3f} | [0.750, indicative](results/classes.md#patch_ae-mvtec-official-auroc). " in own
    assert own.endswith(
        ". On mvtec: 2 of 15 classes, quick, 1 seed, resnet18, another backbone than the paper's (a copy) |"
    )
    [missing] = [line for line in lines(table, "| [") if "(notebooks/cbigan.ipynb)" in line]
    assert missing.endswith("| not run |")


def test_classes_show_the_papers_own_printed_values_ours_with_spread_and_the_commands(folder):
    page = tables.write_classes(folder, folder).read_text()
    part = page.partition("## patch_ae mvtec official auroc\n")[2].partition("\n## ")[0]
    assert lines(part, "| class")[0] == "| class | printed | **patch_ae** | pixel_ae_l2 |"
    assert lines(part, "| bottle") == ["| bottle | 1.000 | 0.750 | 0.900 |"]
    assert lines(part, "| **mean**") == ["| **mean** | 0.995 | 0.750 | 0.900 |"]
    assert lines(part, "- `make")[0] == (
        "- `make reproduce PAPERS=patch_ae DATASETS=mvtec PROTOCOLS=official "
        "BACKBONES=resnet18 CLASSES=bottle,pill SEEDS=0 PROFILE=quick`: patch_ae"
    )
    digits = page.partition("## two_stage mnist official auroc\n")[2].partition("\n## ")[0]
    assert lines(digits, "| 3 ") == ["| 3 | 0.971 ± 0.001 |"]
    assert "SEEDS=0,1 PROFILE=paper`: two_stage" in digits


def test_classes_with_three_seeds_have_their_verdict_beside_the_printed_value(tmp_path):
    fill(tmp_path, [("feature_ae", "feature_ae")], "mvtec", ["bottle", "pill"], seeds=(0, 1, 2), profile="paper",
         weights="resnet18/imagenet", data="folder:01234567 (copy, 320 px JPEG)")  # fmt: skip
    page = tables.write_classes(tmp_path, tmp_path).read_text()
    part = page.partition("## feature_ae mvtec official auroc\n")[2].partition("\n## ")[0]
    assert lines(part, "| class")[0] == "| class | printed | verdict | **feature_ae** |"
    assert lines(part, "| pill")[0] == "| pill | 0.979 | below by 0.159 | 0.820 ± 0.010 |"
    assert "| indicative: 2 of 15 classes, paper, 3 seeds |" in lines(part, "| **mean**")[0]
    assert lines(part, "- data") == ["- data (copy, 320 px JPEG): feature_ae"]


def test_costs_are_minutes_and_memory_of_a_job(folder, tmp_path):
    table = tables.write_costs(tmp_path, folder).read_text()
    assert lines(table, "| `two_stage`") == ["| `two_stage` | mnist | paper | 1.5 | 1.5 GB | cpu |"]
    papers = [line.split("`")[1] for line in lines(table, "| `")]
    assert papers == [paper for paper in register.load() if paper in papers]


def test_the_readmes_table_is_written_between_its_marks_and_nowhere_else(folder, tmp_path):
    path = tmp_path / "README.md"
    path.write_text("\n".join(["before", tables.START, tables.END, "after"]))
    tables.write_readme(path, folder)
    text = path.read_text()
    assert re.match(r"(?s)before\n<!-- results: .*\| 0\.973 \|.*\nafter$", text)
    tables.write_readme(path, folder)
    assert path.read_text() == text
    path.write_text(text.replace(tables.END, ""))
    with pytest.raises(ValueError, match="has no place for the results"):
        tables.write_readme(path, folder)


def test_gaps_are_section_8_of_every_notebook(tmp_path):
    text = tables.write_gaps(tmp_path).read_text()
    for paper in register.load():
        part = text.partition(f"## `{paper}`: [")[2].partition("\n## ")[0]
        assert paper == "baselines" or len(lines(part, "| ")) > 10
