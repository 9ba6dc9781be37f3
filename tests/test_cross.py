import pytest

from adlib import plots
from repro import cross, register, results


BOOK = register.load()


def row(method, name, auroc, paper="two_stage", dataset="mnist", **other):
    names = {
        "protocol": register.CROSS[dataset][0],
        "seed": 0,
        "profile": "quick",
        "train_seconds": 10,
        "ms_per_image": 2,
        "n_parameters": 7,
        "device": "cpu",
        "job": name * 3,
        "finished": "2026-01-01T00:00:00Z",
    }
    return results.row(paper=paper, method=method, dataset=dataset, class_=name, auroc=auroc, **{**names, **other})


@pytest.mark.parametrize("dataset", register.CROSS)
def test_the_register_has_a_job_of_every_paper_for_every_cell(dataset):
    protocol, classes = register.CROSS[dataset]
    for paper in BOOK:
        for profile in ("quick", "paper"):
            jobs = register.jobs(BOOK, [paper], [dataset], classes, [0], profile, protocols=[protocol])
            assert {job["class"] for job in jobs} == set(classes), (paper, profile)


def test_a_run_with_cross_is_over_the_two_classes_in_the_first_protocol(tmp_path):
    path = tmp_path / "register.toml"
    path.write_text('[a]\n[[a.runs]]\ndatasets = ["coil100", "mnist"]\ncross = true\n')
    jobs = register.jobs(register.load(path))
    assert [(job["dataset"], job["protocol"], job["class"]) for job in jobs] == [
        ("coil100", "80-20", "obj7"),
        ("coil100", "80-20", "obj28"),
        ("mnist", "official", "8"),
        ("mnist", "official", "2"),
    ]
    path.write_text('[a]\n[[a.runs]]\ndatasets = ["digits"]\ncross = true\n')
    with pytest.raises(ValueError, match="dataset of a run of .*a.runs.* with cross: 'digits'"):
        register.load(path)


def test_the_fields_of_the_matrix_are_chosen_by_a_word():
    found = register.jobs(BOOK, ["cbigan", "baselines"], profile="quick", cross=True)
    assert len(found) == 2 * 2 * len(register.CROSS) and {job["seed"] for job in found} == {0}
    assert {(j["dataset"], j["protocol"]) for j in found} == {(name, one[0]) for name, one in register.CROSS.items()}
    again = register.jobs(BOOK, ["shared_ae"], ["mnist"], ["8"], [1, 2], "quick", cross=True)
    assert [job["seed"] for job in again] == [1, 2]
    with pytest.raises(ValueError, match="cross matrix is over mnist.*none of its fields"):
        register.jobs(BOOK, ["two_stage"], ["mnist"], ["3"], profile="quick", cross=True)


def test_a_cell_is_the_mean_over_both_classes_of_the_quick_rows():
    rows = [
        row("two_stage", "8", 0.9, train_seconds=20),
        row("two_stage", "2", 0.7, n_parameters=""),
        row("two_stage", "8", 0.99, profile="paper"),
        row("two_stage", "2", 0.99, profile="paper"),
        row("two_stage", "2", 0.1, seed=1),
        row("two_stage", "3", 0.1),
        row("two_stage_mse", "8", 0.5),
        row("two_stage_mse", "2", 0.5),  # another setting
        row("cae", "8", 0.5),  # one class of two
        row("rotnet", "8", 0.6, profile="paper"),
        row("rotnet", "2", 0.4, profile="paper"),
        row("pca", "8", 0.8, paper="baselines", data="stand-in:01234567"),
        row("pca", "2", 0.8, paper="baselines", data="stand-in:01234567"),
        row("knn", "8", 0.3, paper="baselines", weights="resnet18/random"),
        row("knn", "2", 0.3, paper="baselines", weights="resnet18/random"),
    ]
    first, second = cells = cross.matrix(rows)
    assert (first["method"], first["profile"], first["auroc"]) == ("two_stage", "quick", pytest.approx(0.8))
    assert (first["train_seconds"], first["n_parameters"]) == (15.0, None)
    assert (second["method"], second["profile"], second["auroc"]) == ("rotnet", "paper", pytest.approx(0.5))
    assert cross.table(cells).splitlines()[2:] == [
        "| **two_stage** | two_stage | 0.800 |",
        "| rotnet | two_stage | 0.500 p |",
    ]
    assert cross.costs(cells).splitlines()[2] == "| two_stage | 1 | 15 | 2 |  | cpu |"
    assert cross.against_cost(cells) == [
        ("two_stage", pytest.approx(0.8), 15.0, 2.0),
        ("rotnet", pytest.approx(0.5), 10.0, 2.0),
    ]


def test_only_methods_with_every_dataset_stand_against_their_cost_and_empty_fields_are_drawn():
    rows = [
        row(method, name, 0.6, dataset=dataset)
        for method, dataset, names in (
            ("two_stage", "mnist", "82"),
            ("rotnet", "mnist", "82"),
            ("rotnet", "cifar10", ("plane", "car")),
        )
        for name in names
    ]
    cells = cross.matrix(rows)
    assert [method for method, *_ in cross.against_cost(cells)] == ["rotnet"]
    methods, datasets, auroc, marks = cross.grid(cells)
    assert datasets == ["mnist", "cifar10"] and ("two_stage", "cifar10") not in auroc
    figure = plots.heat_map(methods, datasets, auroc, marks)
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.600"] * 3
    assert cross.matrix([]) == []


def test_what_a_method_does_where_its_paper_prints_nothing_is_left_to_the_matrix(tmp_path):
    rows = [
        row("two_stage", name, 0.6, dataset=dataset, image_size=32)
        for dataset, names in (("mvtec", ("bottle", "pill")), ("mnist", "8"))
        for name in names
    ]
    results.merge(tmp_path / "two_stage.csv", rows)
    records = results.compare(None, tmp_path)
    drawn = results.bars(records, results.ours_alone(records, tmp_path))
    assert [figure["title"] for figure in drawn] == ["two_stage: mnist, official"]
