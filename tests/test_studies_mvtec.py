"""The studies behind `patch_ae` and `feature_ae`: their rules by hand, tiny runs, and the register."""

import functools
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_studies import module_of

from repro import data, register


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def few(monkeypatch):
    """No more than 24 training images."""
    monkeypatch.setattr(data, "one_class", functools.partial(data.one_class, n_train=24))


@pytest.fixture
def patches(few):
    """studies/patch_ae.py as a module, on drawn textures, with four networks a category."""
    study = module_of("patch_ae")
    study.FIXED.update(study.QUICK)
    study.CATEGORIES, study.COPIED, study.RATES, study.READ = ["weave", "checks"], ["weave"], [1e-5], [1, 2]
    return study


@pytest.fixture
def lengths(few):
    """studies/feature_ae.py as a module, on drawn textures."""
    study = module_of("feature_ae")
    study.FIXED.update(study.QUICK)
    study.CATEGORIES, study.LENGTHS, study.CHECKPOINT = ["weave"], [2, 3], 1
    return study


def readings(values, cutpaste=None, head="default"):
    """A table of {(reading, backbone rate, steps, alpha): AUROCs of a, b and c}."""
    lines = []
    for setting, aurocs in values.items():
        artificial = (cutpaste or {}).get(setting, aurocs)
        for category, auroc, other in zip("abc", aurocs, artificial, strict=True):
            line = dict(zip(["reading", "lr_backbone", "steps", "alpha"], setting, strict=True), head=head)
            lines.append({**line, "category": category, "auroc": auroc, "auroc_cutpaste": other})
    return pd.DataFrame(lines)


VALUES = {
    ("R", 1e-5, 40, 0.5): (0.90, 0.50, 0.60),
    ("R", 1e-5, 150, 0.0): (0.50, 0.80, 0.80),
    ("R_mean", 1e-4, 40, 0.5): (0.71, 0.70, 0.70),
    ("R", 0.0, 150, 0.5): (0.99, 0.99, 0.99),  # controls: never chosen
    ("patchcore", 1e-5, 40, 0.5): (0.99, 0.99, 0.99),
    ("R", 0.0, 0, 0.0): (0.6, 0.7, 0.8),
    ("R_mean", 0.0, 0, 0.0): (0.65, 0.7, 0.8),
    ("patchcore", 0.0, 0, 0.0): (0.95, 0.9, 0.99),
    ("patchcore_no_mean", 0.0, 0, 0.0): (0.8, 0.8, 0.8),
}


def test_each_category_takes_what_was_best_on_the_others_and_never_a_control(patches):
    rows = pd.concat([readings(VALUES), readings({("R", 1e-5, 40, 0.5): (1, 1, 1)}, head="he")])
    chosen = patches.choose(rows)
    assert list(chosen.index) == ["a", "b", "c", "others"]
    assert chosen["steps"].tolist() == [150, 40, 40, 40]  # seen by a: .55, .80, .70; by b: .75, .65, .705
    assert chosen["reading"].tolist() == ["R", "R", "R_mean", "R_mean"]
    assert chosen["auroc"].tolist()[:3] == [0.5, 0.5, 0.7] and pd.isna(chosen["auroc"]["others"])
    assert chosen["seen"].tolist() == pytest.approx([0.8, 0.75, 0.705, 2.11 / 3])
    gains = patches.helps(rows, chosen)
    assert gains.loc["a"].tolist() == pytest.approx([-10, -45, -30])
    assert gains.loc["c"].tolist() == pytest.approx([-10, -29, -10])
    assert "c: settings = { lr = 0.001, lr_backbone = 0.0001, alpha = 0.5, steps = 40, mean = true }" in (
        patches.register_lines(chosen)
    )


def test_a_categorys_own_labels_choose_nothing_for_it(patches):
    own = {setting: (1 - a, b, c) for setting, (a, b, c) in VALUES.items()}
    before, after = (patches.choose(readings(values)).loc["a", patches.SETTING] for values in (VALUES, own))
    assert before.tolist() == after.tolist()


def test_of_equal_candidates_the_plainest_is_chosen_and_what_one_category_lacks_is_none(patches):
    alike = [("R_mean", 1e-6, 40, 0.5), ("R", 1e-4, 40, 0.5), ("R", 1e-5, 150, 0.5), ("R", 1e-5, 40, 0.0)]
    alike += [("R", 1e-5, 40, 0.5)]
    rows = readings(dict.fromkeys(alike, (0.7, 0.7, 0.7)))
    assert patches.choose(rows).loc["a", patches.SETTING].tolist() == ["R", 1e-5, 40, 0.5]
    lacks = rows[~((rows["category"] == "b") & (rows["lr_backbone"] == 1e-5) & (rows["alpha"] == 0.5))]
    assert patches.choose(lacks).loc["a", patches.SETTING].tolist() == ["R", 1e-5, 40, 0.0]
    with pytest.raises(ValueError, match="no candidate is measured on every category"):
        patches.choose(rows[rows["steps"] == 0])
    with pytest.raises(ValueError, match="one category alone leaves none to choose by"):
        patches.choose(rows[rows["category"] == "a"])


def test_artificial_defects_choose_by_their_own_auroc_and_are_ranked_against_test(patches):
    artificial = {
        ("R", 1e-5, 40, 0.5): (0.1, 0.9, 0.1),
        ("R", 1e-5, 150, 0.0): (0.9, 0.1, 0.3),
        ("R_mean", 1e-4, 40, 0.5): (0.5, 0.5, 0.2),
    }
    found = patches.by_cutpaste(readings(VALUES, artificial))
    assert found["auroc"].tolist() == [0.5, 0.5, 0.8] and found["auroc_cutpaste"].tolist() == [0.9, 0.9, 0.3]
    assert found["rank_correlation"].tolist() == pytest.approx([-1, -1, 1])


def test_a_study_of_patches_holds_out_images_and_goes_on_where_it_was(patches, tmp_path, capsys):
    out, split = tmp_path / "rows.csv", patches.images_of("weave")
    trained = {image.numpy().tobytes() for image in split["train"]}
    assert len(split["flawless"]) == 8 and len(split["pasted"]) == 32
    assert not any(image.numpy().tobytes() in trained for image in split["flawless"])
    changed = (split["pasted"] != split["flawless"].repeat(4, 1, 1, 1)).flatten(1).any(1)
    assert changed.float().mean() > 0.9
    queue = patches.units()
    assert len(queue) == 2 + 2 * 2 + 2 * 2 and len(patches.left(queue, out)) == len(queue)
    for unit in (queue[0], queue[2]):
        patches.run(unit, out)
    rows = patches.read(out)
    assert [(row["steps"], row["reading"]) for row in rows] == [
        *(("0", name) for name in patches.READINGS),
        *((steps, name) for steps in "12" for name in patches.READINGS[:3]),
    ]
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("auroc", "auroc_cutpaste"))
    assert float(rows[-1]["error"]) < float(rows[0]["error"])  # it learns to rebuild
    assert len(capsys.readouterr().out.splitlines()) == 3
    patches.run(queue[0], out)
    patches.run(queue[2], out)
    assert patches.read(out) == rows and capsys.readouterr().out == ""
    assert len(patches.left(queue, out)) == len(queue) - 2


def test_the_backbone_moves_by_its_own_rate_or_not_at_all(patches):
    train = patches.images_of("weave")["train"]
    moved = {}
    for rate in (0.0, 1e-5):
        unit = {"head": "default", "lr_backbone": rate, "alpha": 0.5, "read": [0, 2]}
        weights = []
        for _, net, _ in patches.networks(unit, train):
            named = net.state_dict().items()
            weights.append({name: value.clone() for name, value in named if name.endswith("weight")})
        moved[rate] = {name: (weights[1][name] - weights[0][name]).abs().max().item() for name in weights[0]}
    for rate, changes in moved.items():
        of_backbone = [value for name, value in changes.items() if name.startswith("encoder.backbone.")]
        assert max(of_backbone) == pytest.approx(2 * rate, rel=0.1)  # Adam's first steps are as long as its rate
        assert max(value for name, value in changes.items() if "backbone" not in name) == pytest.approx(2e-3, rel=0.1)


def test_copies_are_stored_once_more_and_measured_once(patches, tmp_path, capsys):
    some = torch.randint(256, (2, 3, 40, 40), dtype=torch.uint8)
    assert torch.equal(patches.copied(some, None), patches.copied(some, None, 1.0))
    assert patches.copied(some, 95, 0.8).shape == (2, 3, 32, 32) and patches.copied(some[:, :1], 75).shape[1] == 1
    assert not torch.equal(patches.copied(some, 75), patches.copied(some, None))
    for _ in range(2):
        patches.measure_copies(tmp_path / "copies.csv")
    assert len(capsys.readouterr().out.splitlines()) == 4
    kinds = [row["copy"] for row in patches.read(tmp_path / "copies.csv", patches.COPY_COLUMNS)]
    assert kinds == ["as it is", "JPEG 95", "JPEG 75", "reduced and JPEG 95"]


def losses(values):
    """A table of {(category, length): held-out loss at the end}, and a reading on the way."""
    ends = [{"category": c, "epochs": n, "epoch": n, "loss_held_out": loss} for (c, n), loss in values.items()]
    return pd.DataFrame([*ends, {"category": "pill", "epochs": 400, "epoch": 100, "loss_held_out": 9.0}])


@pytest.mark.parametrize(
    "pill, screw, wanted",
    [
        ((1.00, 0.98, 0.97), (2.0, 1.96, 1.94), 100),
        ((1.00, 0.90, 0.89), (2.0, 1.80, 1.78), 200),
        ((1.00, 0.99, 0.90), (2.0, 1.98, 1.80), 400),  # 100 is as good as 200, and not as 400
        ((1.00, 1.04, 0.90), (2.0, 1.92, 2.20), 100),  # ratios count, not sums
    ],
)
def test_the_shortest_length_stays_that_no_longer_one_beats_by_more_than_a_twentieth(pill, screw, wanted):
    study, values = module_of("feature_ae"), {}
    for name, of in (("pill", pill), ("screw", screw)):
        values |= dict(zip([(name, n) for n in study.LENGTHS], of, strict=True))
    assert study.choose(losses(values)) == wanted
    del values["screw", 400]
    with pytest.raises(ValueError, match="not at their end: screw 400$"):
        study.choose(losses(values))


def test_a_study_of_lengths_goes_on_from_its_checkpoint_number_for_number(lengths, tmp_path, capsys):
    whole, broken, folder = tmp_path / "whole.csv", tmp_path / "broken.csv", tmp_path / "checkpoints"
    assert [unit["epochs"] for unit in lengths.units()] == [2, 3]
    unit = lengths.units()[1]
    lengths.run(unit, whole, tmp_path / "other")
    lengths.run(unit, broken, folder, stop=2)
    assert [path.name for path in folder.iterdir()] == ["feature_ae-weave-3.pt"]
    lengths.run(unit, broken, folder)
    rows, again = lengths.read(whole), lengths.read(broken)
    assert [row["epoch"] for row in rows] == ["0", "3"] and rows[0]["loss_train"] == "nan"
    assert [{**row, "seconds": ""} for row in rows] == [{**row, "seconds": ""} for row in again]
    assert float(rows[1]["loss_held_out"]) < 0.5 * float(rows[0]["loss_held_out"])
    assert not list(folder.iterdir())  # the checkpoint has done its duty
    capsys.readouterr()
    lengths.run(unit, broken, folder)
    assert capsys.readouterr().out == ""


def test_rows_of_a_study_hold_words_with_commas(patches, tmp_path):
    row = dict.fromkeys(patches.COPY_COLUMNS, "") | {"category": "pill", "copy": "as it is"}
    row["data"] = "folder:01234567 (copy, 320 px JPEG)"
    for _ in range(2):
        patches.store.add([row], tmp_path / "rows.csv", patches.COPY_COLUMNS, ["category", "copy"])
    assert patches.store.read(tmp_path / "rows.csv", patches.COPY_COLUMNS) == [row]


def test_a_checkpoint_of_other_settings_is_not_used(lengths, tmp_path, capsys):
    unit, folder = lengths.units()[0], tmp_path / "checkpoints"
    lengths.run(unit, tmp_path / "rows.csv", folder, stop=1)
    lengths.FIXED["lr"] = 0.1
    lengths.run(unit, tmp_path / "rows.csv", folder)
    assert "it is of another run: lr differ" in capsys.readouterr().out


def test_the_register_holds_what_the_studies_chose_or_what_they_try():
    book, study, length = register.load(), module_of("patch_ae"), module_of("feature_ae")
    rows, is_whole = study.table(), not study.left(study.units())
    chosen = study.choose(rows) if is_whole else None
    for job in register.jobs(book, ["patch_ae"], ["mvtec"], profile="quick"):
        given = job["settings"]
        setting = ["R_mean" if given["mean"] else "R", given["lr_backbone"], given["steps"], given["alpha"]]
        assert given["lr"] == study.LR
        if is_whole:
            name = job["class"] if job["class"] in chosen.index else "others"
            assert setting == chosen.loc[name, study.SETTING].tolist()
        else:
            assert given["lr_backbone"] in study.RATES and given["steps"] in study.READ
            assert given["alpha"] in study.ALPHAS
    epochs = {job["settings"]["epochs"] for job in register.jobs(book, ["feature_ae"], ["mvtec"], profile="paper")}
    try:
        assert epochs == {length.choose(length.table())}
    except ValueError:  # not yet
        assert len(epochs) == 1 and epochs <= {*length.LENGTHS}
