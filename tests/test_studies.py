"""The studies behind settings that a paper does not give: their rule by hand, a tiny run, and the register."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from adlib import images, two_stage
from repro import data, register


ROOT = Path(__file__).resolve().parents[1]


def module_of(paper):
    spec = importlib.util.spec_from_file_location(f"study_of_{paper}", ROOT / "studies" / f"{paper}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def study():
    """studies/shared_ae.py as a module."""
    return module_of("shared_ae")


@pytest.fixture
def stages(monkeypatch):
    """studies/two_stage.py as a module, with settings that train in a second."""
    module = module_of("two_stage")
    monkeypatch.setattr(module, "READ", [1, 2])
    monkeypatch.setitem(module.FIXED, "n_train", 24)
    monkeypatch.setitem(module.FIXED, "validation", 8)
    monkeypatch.setitem(module.FIXED, "rotation_batch", 4)
    return module


def test_the_register_holds_what_its_study_chose(study):
    """While it is not finished: settings of its grid, the same in both profiles."""
    quick, paper = (dict(register.load()["shared_ae"]["profiles"][profile]) for profile in ("quick", "paper"))
    assert quick.pop("n_train") == study.FIXED["n_train"] and quick == paper
    assert all(paper[name] == study.FIXED[name] for name in ("beta", "lr", "latent", "width", "batch", "epoch_steps"))
    literal = {
        "distance": "mean_l1",
        "stop_gradient": False,
        "routing": "separate",
        "omega": 0.5,
        "batch_norm": "running",
    }
    held = {
        "with the game": paper,
        "literal": {**paper, **literal, **paper["literal"]},
        "chosen": {**paper, "routing": "sum", **paper["without_game"]},
    }
    words = {True: "yes", False: "no"}
    held = {kind: {**one, "stop_gradient": words[one["stop_gradient"]]} for kind, one in held.items()}
    for one in held.values():
        assert all(one[name] in [*map(type(one[name]), values)] for name, values in study.GRID.items())
        assert (
            one["batch_norm"] in study.BATCH_NORM and one["omega"] in study.OMEGAS and one["epochs"] in study.READ_OFF
        )
    if {study.key(one) for one in study.runs()} <= {study.key(row) for row in study.read()}:
        choice = study.choose(study.read())
        for kind in ("with the game", "literal", *(["chosen"] if not choice.loc["chosen", "game"] else [])):
            wanted = {**choice.loc[kind, [*study.SETTING, "omega"]], "epochs": choice.loc[kind, "epoch"]}
            wanted["alpha"] = float(wanted["alpha"])
            assert {name: held[kind][name] for name in wanted} == wanted


def test_the_page_of_the_study_is_stored_without_output_and_takes_the_rows_that_there_are(study):
    """`make test` executes it by nbval, too."""
    page = json.loads((ROOT / "studies" / "shared_ae.ipynb").read_text())["cells"]
    code = [cell for cell in page if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert max(len(cell["source"]) for cell in code) <= 40 and page[0]["cell_type"] == "markdown"
    for document in (study.__doc__, "".join(page[0]["source"])):  # the rule, in both places
        assert "mean over the seeds minus one standard error" in " ".join(document.replace("\n", " ").split())


def test_what_is_complete_has_all_runs_of_its_class_and_seed(study):
    todo = study.runs([("mnist", "8"), ("mnist", "2")], [0, 1], {"distance": ["mean_l1"], "alpha": [1.0]})
    rows = [
        {**dict.fromkeys(study.COLUMNS, ""), **{name: str(one.get(name, "")) for name in study.RUN}} for one in todo
    ]
    todo = [{**dict.fromkeys(study.RUN, ""), **one} for one in todo]
    assert study.complete(rows, todo) == rows
    found = study.complete(rows[:-1], todo)
    assert {(row["class"], row["seed"]) for row in found} == {("8", "0"), ("2", "0"), ("8", "1")}
    assert study.complete([], todo) == []


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


def table_of(settings):
    """A table that `choose` takes, of {(rotation epochs, shift, z, decoder epochs): (AUROC by place, seconds)}."""
    places = [("mnist", "8", 0), ("mnist", "2", 0), ("mnist", "8", 1), ("mnist", "2", 1)]
    names = ["rotation_epochs", "shift", "z", "decoder_epochs", "dataset", "class", "seed", "auroc"]
    rows = []
    for setting, (values, cost) in settings.items():
        for place, value in zip(places, values, strict=False):
            row = dict(zip(names, (*setting, *place, value), strict=True))
            rows.append(row | {"seconds_encoder": cost, "seconds_decoders": 1.0})
    return pd.DataFrame(rows).assign(stem="imagenet", range="-1..1", beta1=0.9)


def test_the_cheapest_within_a_standard_error_is_chosen_and_never_the_control(stages):
    settings = {
        (0, 0, "pooled", 10): ([0.99, 0.99, 0.99, 0.99], 0.0),  # the control
        (1, 0, "pooled", 10): ([0.90, 0.60, 0.90, 0.60], 10.0),  # cheap, and surely worse
        (3, 4, "pooled", 10): ([0.95, 0.68, 0.93, 0.71], 30.0),  # not surely worse than the best
        (6, 4, "pooled", 10): ([0.94, 0.70, 0.95, 0.70], 60.0),  # the best
        (3, 0, "probabilities", 10): ([0.99, 0.99, 0.99, 0.99], 1.0),
    }
    chosen = stages.choose(table_of(settings))
    assert [chosen[name] for name in stages.SETTING] == [3, 4, "pooled", 10]
    assert chosen["auroc"] == pytest.approx(0.8175) and chosen["seconds"] == 31.0
    # surely worse, also if by little: the differences count, not the spread over classes
    settings[(3, 4, "pooled", 10)] = ([0.92, 0.68, 0.93, 0.68], 30.0)
    assert stages.choose(table_of(settings))["rotation_epochs"] == 6


def test_a_setting_that_some_classes_have_is_compared_on_those_alone(stages):
    settings = {(3, 4, "pooled", 10): ([0.90, 0.70, 0.90, 0.70], 30.0), (15, 4, "pooled", 10): ([0.91, 0.71], 150.0)}
    assert stages.choose(table_of(settings))["rotation_epochs"] == 15
    settings[(15, 4, "pooled", 10)] = ([0.95, 0.67], 150.0)  # higher in the mean of two, but not surely
    assert stages.choose(table_of(settings))["rotation_epochs"] == 3
    settings[(15, 4, "pooled", 10)] = ([0.99], 150.0)  # one place has no standard error
    assert stages.choose(table_of(settings))["rotation_epochs"] == 3
    with pytest.raises(ValueError, match="every class and seed"):
        stages.choose(table_of({(0, 0, "pooled", 10): ([0.9], 1.0)}))


def test_a_unit_of_two_stage_sees_no_test_image_and_goes_on_where_it_was(stages, tmp_path, monkeypatch, capsys):
    whole = data.one_class

    def without_test_images(*arguments, **settings):
        split = whole(*arguments, **settings)
        split.test = split.is_anomalous = split.kind = None
        return split

    monkeypatch.setattr(data, "one_class", without_test_images)
    out, unit = tmp_path / "rows.csv", stages.quick_units()[0]
    stages.run(unit, out)
    rows = stages.read(out)
    points = [(row["rotation_epochs"], row["z"], row["decoder_epochs"]) for row in rows]
    assert points == [(n, *of) for n in "01" for of in (("pooled", "1"), ("pooled", "2"), ("layer3", "1"))]
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in stages.MEASURED if name.startswith("auroc"))
    assert len(capsys.readouterr().out.splitlines()) == 4
    stages.run(unit, out)
    assert stages.read(out) == rows and capsys.readouterr().out == ""
    out.write_text("".join(out.read_text().splitlines(keepends=True)[:-1]))  # the last z of the last encoder is lost
    stages.run(unit, out)
    again = stages.read(out)
    timed = {"seconds_encoder": "", "seconds_decoders": ""}
    assert [row | timed for row in again] == [row | timed for row in rows]
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_length_that_leaves_the_common_part_is_the_run_of_that_length_alone(stages):
    unit = stages.quick_units()[0]
    x = stages.images_of(unit)["train"]
    shared = [(encoder, head) for _, encoder, head, _ in stages.encoders(unit, x, [1, 3])]
    for epochs, networks in zip((1, 3), shared, strict=True):
        torch.manual_seed(unit["seed"])
        encoder, head, _ = two_stage.build(1)
        encoder = encoder.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(
            [*encoder.parameters(), *head.parameters()],
            lr=0.1,
            momentum=0.9,
            weight_decay=5e-4,
            nesterov=True,
            fused=True,
        )
        steps = epochs * 6
        stages.rotation_steps((encoder, head, optimizer), x, 0, steps, steps, unit)
        for one, other in zip(networks, (encoder, head), strict=True):
            assert all(torch.equal(one.state_dict()[name], value) for name, value in other.state_dict().items())


def test_the_study_computes_what_the_method_does(stages):
    torch.manual_seed(0)
    encoder, head, decoders = two_stage.build(3)
    x = torch.rand(4, 3, 32, 32) * 2 - 1
    found = stages.representations(encoder.eval(), head, x)
    torch.testing.assert_close(found["pooled"], encoder(x))
    torch.testing.assert_close(found["layer3"], encoder(x, "layer3"))
    assert found["probabilities"].sum(1).allclose(torch.ones(4))
    y = decoders["mse"](found["pooled"])
    assert torch.equal(stages.rebuild(decoders["mse"], found["pooled"]), y)
    decoders["mse"][-1] = torch.nn.Sigmoid()  # of images in [0, 1]
    torch.testing.assert_close(stages.rebuild(decoders["mse"], found["pooled"]), ((y.atanh()).sigmoid() * 2 - 1))


def whole_rows(stages, settings):
    """`table_of` these settings with every column of the study's rows."""
    rows = table_of(settings).assign(n_train=2000, **{name: 0.5 for name in stages.MEASURED if name != "auroc"})
    return rows[[name for name in stages.COLUMNS if name in rows]]


def test_differences_are_paired_by_everything_else_and_take_the_seeds_with_the_most_classes(stages):
    settings = {
        (0, 0, "pooled", 10): ([0.90, 0.70, 0.91, 0.71], 0.0),
        (0, 0, "layer3", 10): ([0.80, 0.60], 0.0),  # seed 0 alone
        (3, 4, "pooled", 10): ([0.92, 0.71, 0.95], 30.0),  # not class 2 with seed 1
        (3, 4, "layer3", 10): ([0.84, 0.63], 30.0),
        (3, 4, "pooled", 30): ([0.10, 0.10, 0.10, 0.10], 30.0),  # pairs with nothing
    }
    rows = whole_rows(stages, settings)
    points = stages.differences(rows, *stages.TRAINED["rotation epochs 3, shifts of up to 4 px"])
    assert list(points.columns) == [0]  # seed 1 lacks a class
    assert points[0].to_dict() == pytest.approx({("mnist", "8"): 3.0, ("mnist", "2"): 2.0})  # means over z
    found = stages.effects(rows, stages.TRAINED | stages.OPTIONS).set_index("what")
    line = found.loc["rotation epochs 3, shifts of up to 4 px"]
    assert line["mean"] == pytest.approx(2.5) and line["low"] <= 2.5 <= line["high"]
    assert (line["points"], line["above"], line["seeds"]) == ("+2.5 [+2.0, +3.0]", "2 of 2", 1)
    assert "6 rotation epochs minus 3" not in found.index
    assert found.loc["score (10) minus its SSIM alone", "above"] == "1 of 2"


def test_the_turn_is_told_by_the_place_where_all_images_are_off_the_middle_alike(stages):
    x = -torch.ones(8, 1, 32, 32)
    x[:6, :, 4:8, 20:24] = 1.0  # at the upper right
    x[6:, :, 20:24, 4:8] = 1.0
    assert stages.turns_by_place(x) == stages.turns_by_place(images.rotations(x)[0][8:16]) == 0.75
    assert stages.turns_by_place(images.rotations(x)[0]) == 0.25


def test_the_register_holds_what_the_study_of_two_stage_chose():
    """Once all of its rows are there; until then it holds a provisional choice."""
    stages = module_of("two_stage")
    rows = stages.table()
    assert len(rows) <= stages.planned() == 246
    held = register.load()["two_stage"]["profiles"]["paper"]
    if len(rows) == stages.planned():
        chosen = stages.choose(rows)
        assert [held["latent" if name == "z" else name] for name in stages.SETTING] == [
            chosen[name] for name in stages.SETTING
        ]
    assert (held["rotation_batch"], held["decoder_batch"]) == (32, 64) and held["backbone"] == "resnet18"


@pytest.mark.parametrize("n", [None, 5])
def test_the_page_of_two_stage_reads_the_rows_there_are(n, tmp_path, monkeypatch, capsys):
    """Each of its cells, in one namespace; with a few rows too. Of the images the embedded digits alone are here."""
    from studies import two_stage as stages

    lines = stages.RESULTS.read_text().splitlines(keepends=True)
    (tmp_path / "rows.csv").write_text("".join(lines[: n and n + 1]))
    monkeypatch.setattr(stages.table, "__defaults__", (tmp_path / "rows.csv",))
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path))
    monkeypatch.setenv("ADLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: plt.close("all"))
    page = json.loads((ROOT / "studies" / "two_stage.ipynb").read_text())
    namespace = {}
    for cell in page["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
            exec(compile("".join(cell["source"]), cell["id"], "exec"), namespace)
    said = capsys.readouterr().out
    assert f"{n or len(lines) - 1} of 246 planned rows are there" in said
    assert "mnist is not on this machine" in said
