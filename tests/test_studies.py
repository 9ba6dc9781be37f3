"""The studies behind settings that a paper does not give: their rule by hand, a tiny run, and the register."""

import csv
import importlib.util
import math
import sys
from pathlib import Path

import pytest

from adlib import data, register, shared_ae


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def study():
    """studies/shared_ae.py as a module."""
    spec = importlib.util.spec_from_file_location("study_of_shared_ae", ROOT / "studies" / "shared_ae.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_register_holds_what_its_study_chose():
    """results/studies/shared_ae.csv, a study of one seed and three classes, and `shared_ae.choose`."""
    with open(ROOT / "results" / "studies" / "shared_ae.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names, omegas = ("distance", "alpha", "lr", "routing"), {"latent_2": 1.0, "score_8": 0.5, "latent_adv": 0.0}
    curves = {}
    for row in rows:
        if row["routing"] != "sum" and (row["latent"], row["floor"]) == ("64", "0.0"):
            for score in omegas:
                of_classes = curves.setdefault((*(row[name] for name in names), score), {})
                of_classes.setdefault((row["dataset"], row["class"]), []).append(float(row[f"auroc_{score}"]))
    assert len(curves) == 36 * 3 and all(len(v) == 10 for some in curves.values() for v in some.values())
    (distance, alpha, lr, routing, score), epochs, _ = shared_ae.choose({k: [*v.values()] for k, v in curves.items()})
    wanted = {"distance": distance, "alpha": float(alpha), "lr": float(lr), "routing": routing, "latent": 64,
              "floor": 0.0, "beta": 1.0, "width": 16, "batch": 64, "epochs": epochs,
              "omega": omegas[score]}  # fmt: skip
    for profile in ("quick", "paper"):
        held = register.load()["shared_ae"]["profiles"][profile]
        assert {name: held[name] for name in wanted} == wanted


def by_hand(study, routing, epoch, values, stop_gradient="no", batch_norm="running"):
    """Rows of one candidate: values is (class, seed) -> AUROC, but with omega one half .1 less."""
    rows = []
    for (normal, seed), value in values.items():
        row = {"dataset": "mnist", "class": normal, "seed": str(seed), "method": "shared_ae", "distance": "mean_l1"}
        row |= {"alpha": "1.0", "stop_gradient": stop_gradient, "routing": routing, "batch_norm": batch_norm}
        row |= {f"auroc_omega_{omega:g}": str(value - 0.1 * (omega == 0.5)) for omega in study.OMEGAS}
        rows.append({**dict.fromkeys(study.COLUMNS, ""), **row, "epoch": str(epoch)})
    return rows


def test_the_rule_by_hand(study):
    # means over the classes by seed: .9 and .7, mean .8, standard error .1
    lucky = by_hand(study, "sum", 3, {("8", 0): 1.0, ("2", 0): 0.8, ("8", 1): 0.7, ("2", 1): 0.7}, "yes")
    steady = by_hand(study, "sum", 3, {("8", 0): 0.8, ("2", 0): 0.7, ("8", 1): 0.75, ("2", 1): 0.75})
    game = by_hand(study, "separate", 2, {("8", 0): 0.7, ("2", 0): 0.6, ("8", 1): 0.65, ("2", 1): 0.65})
    no_game_yet = by_hand(study, "separate", 1, {("8", 0): 0.7, ("2", 0): 0.7, ("8", 1): 0.7, ("2", 1): 0.7})
    autoencoder = [{**row, "method": "ae"} for row in lucky]
    found = study.choose([*lucky, *steady, *game, *no_game_yet, *autoencoder])
    assert list(found.index) == ["chosen", "with the game", "literal"] and set(found["seeds"]) == {2}
    chosen, best_game, literal = (found.loc[name] for name in found.index)
    assert (chosen["routing"], chosen["stop_gradient"], chosen["epoch"], chosen["game"]) == ("sum", "no", 3, False)
    assert (chosen["mean"], chosen["se"], chosen["value"]) == pytest.approx((0.75, 0, 0.75), abs=1e-9)
    assert (best_game["routing"], best_game["epoch"]) == ("separate", 2) and best_game["omega"] != 0.5
    assert (literal["epoch"], literal["omega"]) == (2, 0.5) and literal["value"] == pytest.approx(0.55)
    of_lucky = study.table([*lucky, *steady]).query("stop_gradient == 'yes' and omega == 1").iloc[0]
    assert (of_lucky["mean"], of_lucky["se"], of_lucky["value"]) == pytest.approx((0.8, 0.1, 0.7))


def test_only_complete_seeds_count_and_one_has_no_standard_error(study):
    values = {("8", 0): 0.9, ("2", 0): 0.7, ("8", 1): 0.1}
    first = by_hand(study, "sum", 3, values)
    found = study.choose(first)
    assert list(found.index) == ["chosen"] and found["seeds"].item() == 1
    assert math.isnan(found["se"].item()) and found["value"].item() == pytest.approx(0.8)
    with pytest.raises(ValueError, match="no seed has every class"):
        study.choose(by_hand(study, "sum", 3, {("8", 0): 0.9, ("2", 1): 0.9}))
    with pytest.raises(ValueError, match="no rows to choose from"):
        study.choose([])


def test_a_run_of_the_study_sees_no_test_image_and_repeats_itself(study, monkeypatch):
    whole = data.one_class

    def without_test_images(*arguments, **settings):
        split = whole(*arguments, **settings)
        split.test = split.is_anomalous = split.kind = None
        return split

    monkeypatch.setattr(data, "one_class", without_test_images)
    todo = study.runs([("digits", "3")], [0])
    assert len(todo) == 2 + 16
    runs = [study.run(todo[2], study.FIXED | study.QUICK, [1, 2]) for _ in range(2)]
    assert [(row["epoch"], row["batch_norm"]) for row in runs[0]] == [
        (n, kind) for n in "12" for kind in study.BATCH_NORM
    ]
    for row in runs[0]:
        assert list(row) == study.COLUMNS
        assert all(0 <= float(row[f"auroc_{score}"]) <= 1 for score in study.SCORES)
    assert [{**row, "seconds": ""} for row in runs[0]] == [{**row, "seconds": ""} for row in runs[1]]
    (row, *_) = study.run(todo[0], study.FIXED | study.QUICK, [1])  # the autoencoder
    assert row["auroc_omega_1"] == row["error_2"] == "" and float(row["auroc_image_1"]) > 0


def test_the_study_goes_on_where_it_was(study, monkeypatch, tmp_path, capsys):
    done = []

    def run(asked, *_):
        done.append(study.key(asked))
        return [dict.fromkeys(study.COLUMNS, "0") | {name: str(asked[name]) for name in study.RUN}]

    monkeypatch.setattr(study, "run", run)
    for part in ("2/3", "1/1", "1/1"):
        monkeypatch.setattr(sys, "argv", ["", "--quick", "--part", part, "--out", str(tmp_path / "rows.csv")])
        study.main()
    assert len(done) == len(set(done)) == 36
    assert done[:12] == [study.key(one) for one in study.runs([("digits", "3")], [0, 1])][1::3]
    assert [study.key(row) for row in study.read(tmp_path / "rows.csv")] == done
