"""The study behind the rate of cbigan: its rule by hand, a tiny run that is killed, its page with and without rows."""

import importlib.util
import json
import math
import sys

import matplotlib
import pandas as pd
import pytest

from repro import register


@pytest.fixture
def study():
    """studies/cbigan.py as a module."""
    spec = importlib.util.spec_from_file_location("study_of_cbigan", register.CHECKOUT / "studies" / "cbigan.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table_of(curves, networks="last"):
    """A table that `choose` takes: {rate: [R, ...]}, of rounds 1000, 2000, ..."""
    return pd.DataFrame(
        [
            {"lr": lr, "round": 1000 * number, "networks": networks, "image_ratio": ratio, "auroc": 1 - lr}
            for lr, ratios in curves.items()
            for number, ratio in enumerate(ratios, 1)
        ]
    )


def test_the_least_mean_of_the_last_checks_is_chosen_and_auroc_has_no_part(study):
    rows = table_of({1e-4: [9, 3, 2, 1], 5e-4: [0.1, 0.8, 0.9, 1.0], 1e-3: [0.1, 2, 0.1, 0.9]})
    rows = pd.concat([rows, table_of({1e-4: [0, 0, 0, 0]}, "average")])
    assert study.choose(rows, 4000, 3) == {"lr": 5e-4, "ratio": pytest.approx(0.9), "trained": True}
    assert study.choose(rows, 4000, 1)["lr"] == 1e-3
    assert not study.choose(table_of({lr: [1.5] for lr in study.RATES}), 1000, 5)["trained"]


def test_a_rate_whose_numbers_are_no_longer_finite_is_not_chosen(study):
    rows = table_of({1e-4: [2.0, 2.0], 5e-4: [0.5, math.nan], 1e-3: [0.1, math.inf]})
    assert study.choose(rows, 2000, 2)["lr"] == 1e-4
    with pytest.raises(
        ValueError, match=r"not all rates have run 3000 rounds: 0.0001 \(2000 rounds\), 0.0005 \(2000 ro"
    ):
        study.choose(rows, 3000, 2)
    with pytest.raises(ValueError, match=r"0.001 \(0 rounds\)"):
        study.choose(study.table(register.CHECKOUT / "nothing.csv"))


def test_a_killed_run_goes_on_where_it_was_and_gives_the_same_numbers(study, monkeypatch, tmp_path, capsys):
    def numbers(out):
        timed = {"seconds": ""}
        return [row | timed for row in study.read(out)]

    study.run(1e-3, tmp_path / "through.csv", tmp_path / "through", study.QUICK)
    through = numbers(tmp_path / "through.csv")
    assert [(row["round"], row["networks"]) for row in through] == [
        (n, networks) for n in "246" for networks in ("average", "last")
    ]
    assert [row["auroc"] != "" for row in through] == [False] * 2 + [True] * 4
    assert all(float(row["image_ratio"]) > 0 and row["alpha"] == "0.0002" for row in through)

    out, folder, adequacy, calls = tmp_path / "killed.csv", tmp_path / "killed", study.cbigan.adequacy, []

    def dies_at_the_second_check(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return adequacy(*given)

    monkeypatch.setattr(study.cbigan, "adequacy", dies_at_the_second_check)
    with pytest.raises(KeyboardInterrupt):
        study.run(1e-3, out, folder, study.QUICK)
    assert len(study.read(out)) == 2
    monkeypatch.setattr(study.cbigan, "adequacy", adequacy)
    study.run(1e-3, out, folder, study.QUICK)
    assert numbers(out) == through
    capsys.readouterr()
    study.run(1e-3, out, folder, study.QUICK)  # nothing is left to do
    assert capsys.readouterr().out == "" and numbers(out) == through
    kept = folder / "0.001.pt"
    kept.write_bytes(kept.read_bytes()[:-9])
    study.run(1e-3, out, folder, study.QUICK)
    assert "damaged or cut off; the run starts from the beginning" in capsys.readouterr().out
    assert numbers(out) == through


def test_the_choice_looks_at_no_test_image(study, monkeypatch, tmp_path):
    """With other test images only what is scored on them changes."""
    study.run(1e-3, tmp_path / "a.csv", tmp_path / "a", study.QUICK)
    whole = study.data.one_class

    def other_test_images(*arguments, **settings):
        split = whole(*arguments, **settings)
        split.test = 255 - split.test.flip(0)
        return split

    monkeypatch.setattr(study.data, "one_class", other_test_images)
    study.run(1e-3, tmp_path / "b.csv", tmp_path / "b", study.QUICK)
    changed = {"auroc", "balanced_accuracy", "seconds"}
    one, other = (
        [{name: value for name, value in row.items() if name not in changed} for row in study.read(tmp_path / name)]
        for name in ("a.csv", "b.csv")
    )
    assert one == other


def test_each_process_takes_its_rates(study, monkeypatch, capsys):
    done = []
    monkeypatch.setattr(study, "run", lambda lr, *_: done.append(lr))
    for part in ("2/3", "1/2"):
        monkeypatch.setattr(sys, "argv", ["", "--quick", "--part", part])
        study.main()
    assert done == [5e-4, 1e-4, 1e-3]


def cells():
    page = json.loads((register.CHECKOUT / "studies" / "cbigan.ipynb").read_text())
    return [cell for cell in page["cells"] if cell["cell_type"] == "code"]


def test_the_page_is_stored_without_output():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells())


@pytest.mark.parametrize("state", ["absent", "one rate, in part", "complete"])
def test_the_page_can_be_read_whatever_rows_there_are(study, state, monkeypatch, tmp_path, capsys):
    matplotlib.use("Agg")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "cbigan", study)  # what the page imports
    n_rounds = {"absent": {}, "one rate, in part": {5e-4: 3}, "complete": dict.fromkeys(study.RATES, 16)}[state]
    made = [
        {name: 0.5 for name in study.MEASURED}
        | {"lr": lr, "round": 500 * number, "networks": networks, "image_ratio": 1 + lr, "latent_zero": 51.0}
        | dict.fromkeys(["alpha", "n_train", "n_held_out", "device", "torch"], "1")
        for lr, last in n_rounds.items()
        for number in range(1, last + 1)
        for networks in ("last", "average")
    ]
    if made:
        study.add(made, tmp_path / "cbigan.csv")
    table = study.table
    monkeypatch.setattr(study, "table", lambda: table(tmp_path / "cbigan.csv"))
    space = {"display": lambda shown: None}
    for cell in cells():
        exec("".join(cell["source"]), space)
    said = capsys.readouterr().out
    assert ("There are no rows yet" in said) == (state == "absent")
    assert ("is not finished" in said) == (state == "one rate, in part")
    assert ("Nothing chosen yet" in said) == (state != "complete")
    assert ("rate 0.0001, R 1.000" in said and "No rate gets R below 1" in said) == (state == "complete")


def test_the_register_holds_what_the_study_chose(study):
    """As soon as the study is finished; until then the paper's rate."""
    held = register.load()["cbigan"]["profiles"]["quick"]
    for name, other in (("size", "image_size"), ("size", "patch"), ("width",) * 2, ("batch",) * 2, ("rounds", "steps")):
        assert held[other] == study.FIXED[name]
    try:
        assert held["lr"] == study.choose(study.table())["lr"]
    except ValueError:
        assert held["lr"] == 1e-4
