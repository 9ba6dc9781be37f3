"""The tables of the README and the page of classes, from rows made up here."""

import pytest

from repro import pages, register, results


def row(paper, method, name, auroc, dataset="mvtec", **other):
    given = {
        "protocol": "official",
        "seed": 0,
        "profile": "quick",
        "train_seconds": 90,
        "ms_per_image": 1,
        "n_test": 1000,
        "peak_memory_mb": 1500,
        "device": "cpu",
        "job": f"{paper}{name}{other.get('seed', 0)}",
    }
    return results.row(paper=paper, method=method, dataset=dataset, class_=name, auroc=auroc, **{**given, **other})


@pytest.fixture
def folder(tmp_path):
    backbone = {"weights": "resnet18/imagenet", "image_size": 256}
    results.merge(
        tmp_path / "patch_ae.csv", [row("patch_ae", "patch_ae", name, 0.75, **backbone) for name in ("bottle", "pill")]
    )
    results.merge(tmp_path / "baselines.csv", [row("baselines", "pixel_ae_l2", "bottle", 0.9, image_size=128)])
    digits = [
        row("two_stage", "two_stage", str(i), 0.97 + 0.002 * seed, "mnist", seed=seed, profile="paper")
        for i in range(10)
        for seed in (0, 1)
    ]
    results.merge(tmp_path / "two_stage.csv", digits)
    return tmp_path


def lines(text, start):
    return [line for line in text.splitlines() if line.startswith(start)]


def test_the_headline_says_what_was_asked_printed_measured_and_how(folder):
    table = pages.readme_tables(folder)["results"]
    [digits] = lines(table, "| [`two_stage`](notebooks/two_stage.ipynb) | Does an encoder")
    assert digits.endswith(
        "| mnist | 0.973 | 0.971 ± 0.001 | "
        "[reproduced](results/classes.md#two_stage-mnist-official-auroc) | "
        "10 of 10 classes, paper, 2 seeds |"
    )
    [own] = lines(table, "| [`patch_ae`]")
    printed = (1.0 + 0.982) / 2
    assert f"| 0.9948 (for these {printed:.3f}) | 0.750 |" in own
    assert own.endswith("| 2 of 15 classes, quick, 1 seed, resnet18 in place of wide_resnet101_2 |")
    assert "two_stage on fastener (0.987)" in lines(table, "Printed and not run: ")[0]


def test_classes_show_the_papers_own_printed_values_ours_with_spread_and_the_commands(folder):
    records = results.compare(None, folder)
    page = pages.classes(records, results.ours_alone(records, folder))
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


def test_costs_are_minutes_and_memory_of_a_job(folder):
    table = pages.costs(results.read_all(folder), register.load())
    assert lines(table, "| `two_stage`") == ["| `two_stage` | mnist | paper | 1.5 | 1.5 GB | cpu |"]
    assert pages._minutes([1, 2]) == "less than 0.1" and pages._minutes([30, 1200]) == "0.5 to 20"
