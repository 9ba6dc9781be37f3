"""The studies behind settings that a paper does not give: what stands in the register is what their rule chooses."""

import importlib.util
import itertools
from pathlib import Path

import pytest

from repro import data, register


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def study():
    """studies/shared_ae.py as a module."""
    spec = importlib.util.spec_from_file_location("study_of_shared_ae", ROOT / "studies" / "shared_ae.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_run_of_the_grid_is_there_with_every_epoch(study):
    epochs = {}
    for row in study.read():
        run = tuple(row[name] for name in ("dataset", "class", *study.SETTING))
        epochs.setdefault(run, []).append(int(row["epoch"]))
    settings = list(itertools.product(*study.GRID.values()))
    wanted = {(*place, *map(str, values)) for place in study.CLASSES for values in settings}
    assert wanted <= set(epochs)
    assert all(found == list(range(1, study.FIXED["epochs"] + 1)) for found in epochs.values())


def test_the_register_holds_what_the_rule_chooses(study):
    best = study.chosen(study.read())
    omega = {"latent_2": 1.0, "score_8": 0.5, "latent_adv": 0.0}[best["score"]]
    wanted = {
        "distance": best["distance"],
        "alpha": float(best["alpha"]),
        "beta": study.FIXED["beta"],
        "lr": float(best["lr"]),
        "routing": best["routing"],
        "latent": int(best["latent"]),
        "floor": float(best["floor"]),
        "epochs": best["epochs"],
        "omega": omega,
        "width": study.FIXED["width"],
        "batch": study.FIXED["batch"],
    }
    for profile in ("quick", "paper"):
        held = register.load()["shared_ae"]["profiles"][profile]
        assert {name: held[name] for name in wanted} == wanted


def test_a_run_of_the_study_sees_no_test_image_and_repeats_itself(study, monkeypatch):
    monkeypatch.setitem(study.FIXED, "epochs", 2)
    monkeypatch.setitem(study.FIXED, "width", 2)
    whole = data.one_class

    def without_test_images(*arguments, **settings):
        split = whole(*arguments, **settings)
        split.test = split.is_anomalous = split.kind = None
        return split

    monkeypatch.setattr(data, "one_class", without_test_images)
    setting = {name: values[0] for name, values in study.GRID.items()}
    runs = [study.run("digits", "3", setting) for _ in range(2)]
    for rows in runs:
        assert [row["epoch"] for row in rows] == [1, 2] and set(rows[0]) == set(study.COLUMNS)
        assert rows[0]["mean_image_adv"] == "" and float(rows[1]["mean_image_adv"]) > 0  # epoch 1 plays no game
        assert all(0 <= float(row[f"auroc_{score}"]) <= 1 for row in rows for score in study.SCORES)
    assert [{**row, "seconds": ""} for row in runs[0]] == [{**row, "seconds": ""} for row in runs[1]]
