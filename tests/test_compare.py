"""Published cells, verdicts against hand-computed cases, comparisons, and old rows next to new rows."""

import numpy as np
import pandas as pd
import pytest
import toy

from repro import compare, data, rows, verdicts
from repro.sweep import outstanding
from repro.verify import verify, verify_text


JOB = "0123456789ab"


def made(**values):
    """A row of the method two_stage on MNIST's 8, profile paper, unless said otherwise."""
    return rows.row(
        **{
            "paper": "two_stage",
            "method": "two_stage",
            "dataset": "mnist",
            "class": "8",
            "protocol": "official",
            "seed": 0,
            "profile": "paper",
            "image_size": 32,
            "auroc": 0.9,
            "job": JOB,
            "data": "official",
            "finished": "2026-01-01T00:00:00Z",
            **values,
        }
    )


def failure(**values):
    return made(method="", auroc=None, status="failed", error="RuntimeError: stopped", **values)


# what was printed


def test_the_whole_table_of_two_stage_is_there():
    cells = compare.published("two_stage").to_dict("records")
    table = {(cell["method"], cell["dataset"]): cell["value"] for cell in cells}
    assert len(cells) == len(table) == 24
    assert {
        method: [table[method, name] for name in ("mnist", "cifar10", "fashion_mnist", "fastener")]
        for method in ("ocsvm", "cae", "deep_svdd", "ocgan", "rotnet", "two_stage")
    } == {
        "ocsvm": [0.911, 0.643, 0.909, 0.874],
        "cae": [0.926, 0.582, 0.923, 0.900],
        "deep_svdd": [0.948, 0.648, 0.924, 0.917],
        "ocgan": [0.975, 0.656, 0.923, 0.910],
        "rotnet": [0.949, 0.833, 0.924, 0.934],
        "two_stage": [0.973, 0.750, 0.940, 0.987],
    }
    assert {cell["unit"] for cell in cells} == {0.001}  # 75.0 is printed to the same place as 97.3
    assert {(cell["class"], cell["protocol"], cell["metric"]) for cell in cells} == {("mean", "official", "auroc")}


def test_every_published_file_of_the_checkout_can_be_read():
    for path in (compare.CHECKOUT / "published").glob("*.csv"):
        assert len(compare.published(path.stem))


def test_an_unknown_paper_lists_those_there_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.csv; there are: .*two_stage"):
        compare.published("nothing")


def write_published(folder, lines):
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"toy,1,{line}\n" for line in lines)
    (folder / "toy.csv").write_text(",".join(compare.PUBLISHED_COLUMNS) + "\n" + text)
    return folder


@pytest.mark.parametrize(
    "line, message",
    [
        ("mnist,official,mean,toy,,auroc,97.3,", "line 2: value is '97.3'"),
        ("mnist,official,mean,toy,,auroc,1.2,", "line 2: value is '1.2'"),
        ("mnist,official,mean,toy,,auc,0.973,", "line 2: metric is 'auc', none of auroc"),
        ("mnist,official,mean,toy,,auroc,0.973", "line 2: 9 cells instead of 10"),
    ],
)
def test_a_bad_published_cell_is_named_with_its_line(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        compare.published("toy", write_published(tmp_path, [line]))


# verdicts

TEN = (10, 10, 0)  # all of ten classes ran, and no others


def test_reproduced_is_within_one_point_and_half_a_unit_of_the_printed_rounding():
    # printed 97.3, so anything from 0.9725 to 0.9735 may be behind it: 0.9625 to 0.9835 is within 0.01 of that
    for ours, expected in [(0.9625, "reproduced"), (0.9624, "below"), (0.9835, "reproduced"), (0.9836, "above")]:
        assert compare.verdict(0.973, 0.001, [ours], TEN, "paper") == expected
    assert compare.verdict(0.84, 0.01, [0.855], (1, 1, 0), "paper") == "reproduced"  # printed to two places: 0.015
    assert compare.verdict(0.84, 0.01, [0.856], (1, 1, 0), "paper") == "above"


def test_within_noise_is_the_t_interval_of_three_seeds():
    # mean 0.94, s = 0.02, t(2, 0.975) = 4.302653: half width 4.302653 * 0.02 / sqrt(3) = 0.04968
    ours = [0.92, 0.94, 0.96]
    assert compare.verdict(0.989, 0.001, ours, (2, 2, 0), "paper") == "within noise"
    assert compare.verdict(0.990, 0.001, ours, (2, 2, 0), "paper") == "below"
    assert compare.verdict(0.891, 0.001, ours, (2, 2, 0), "paper") == "within noise"
    assert compare.verdict(0.890, 0.001, ours, (2, 2, 0), "paper") == "above"
    assert compare.verdict(0.989, 0.001, ours[:2], (2, 2, 0), "paper") == "below"  # two seeds make no interval


def test_anything_less_is_indicative_and_says_what_there_is():
    for means, classes, profile, expected in [
        ([0.97], (3, 10, 0), "quick", "3 of 10 classes, quick, 1 seed"),
        ([0.97] * 2, (9, 10, 0), "paper", "9 of 10 classes, paper, 2 seeds"),
        ([0.97], (10, 10, 0), "quick", "10 of 10 classes, quick, 1 seed"),
        ([0.97], (4, 0, 0), "paper", "4 of ? classes, paper, 1 seed"),
    ]:
        assert compare.verdict(0.973, 0.001, means, classes, profile) == f"indicative: {expected}"


def test_other_classes_and_copies_that_lack_classes_are_indicative_in_every_profile():
    for classes, copy, expected in [
        ((7, 30, 10), "", "7 of 30 classes and 10 others, paper, 2 seeds"),
        ((16, 30, 1), "", "16 of 30 classes and 1 other, paper, 2 seeds"),
        (
            (7, 30, 10),
            "17 of 100 classes",
            "7 of 30 classes and 10 others, a copy of 17 of 100 classes, paper, 2 seeds",
        ),
        ((30, 30, 0), "40 of 100 classes", "30 of 30 classes, a copy of 40 of 100 classes, paper, 2 seeds"),
        # as many others as are lacking make nothing complete
        ((20, 30, 10), "", "20 of 30 classes and 10 others, paper, 2 seeds"),
    ]:
        assert compare.verdict(1.0, 0.001, [1.0] * 2, classes, "paper", copy) == f"indicative: {expected}"
    assert compare.verdict(1.0, 0.001, [1.0], (30, 30, 0), "paper") == "reproduced"


def test_without_rows_it_is_not_run():
    assert compare.verdict(0.973, 0.001, [], (0, 10, 0), "") == "not run"


def test_a_class_with_three_seeds_has_a_verdict_of_its_own():
    seeds = {"a": [0.80, 0.81, 0.82], "b": [0.90] * 3, "c": [0.6, 0.7, 0.8], "d": [0.5] * 3, "e": [0.9] * 2}
    printed = {"a": 0.815, "b": 0.931, "c": 0.8, "e": 0.9}  # d is not printed, e has two seeds
    assert verdicts.of_classes(printed, 0.001, seeds) == {"a": "reproduced", "b": "below by 0.031", "c": "within noise"}


def test_a_mean_has_its_place_among_the_printed_ones():
    table = [(0.985, "small"), (0.987, "mkd"), (0.990, "wide"), (0.948, "svdd")]
    for ours, expected in [
        (0.9901, "between mkd's 0.987 and wide's 0.990"),  # level with one is not past it
        (0.9880, "between mkd's 0.987 and wide's 0.990"),
        (0.9861, "between small's 0.985 and mkd's 0.987"),
        (0.9800, "between svdd's 0.948 and small's 0.985"),
        (0.9950, "above wide's 0.990"),
        (0.9400, "below svdd's 0.948"),
        (0.9852, ""),  # as printed
    ]:
        assert verdicts.among(ours, 0.985, 0.001, table) == expected
    assert verdicts.among(0.994, 0.985, 0.001, [(0.985, "toy"), (0.95, "far")]) == ""  # no gap is that narrow


# comparisons


def records_of(*given, **more):
    return compare.compare(*given, **more).to_dict("records")


def alone_of(records, folder):
    return compare.ours_alone(pd.DataFrame(records), folder).to_dict("records")


def compared(folder, *made_rows, **more):
    """The records of two_stage, by (method, dataset), with these rows as results."""
    for row in made_rows:
        rows.merge(folder / f"{row['paper']}.csv", [row])
    records = records_of(["two_stage"], folder, **more)
    return {(record["method"], record["dataset"]): record for record in records}


def all_classes(**values):
    return [made(**{"class": str(digit), **values}) for digit in range(10)]


def test_every_printed_number_has_a_record_also_without_any_row(tmp_path):
    records = compared(tmp_path)
    assert len(records) == 24
    assert {record["verdict"] for record in records.values()} == {"not run"}
    assert np.isnan(records["two_stage", "mnist"]["ours_mean"]) and records["two_stage", "mnist"]["ours"] == ""


def test_all_classes_in_profile_paper_earn_a_verdict(tmp_path):
    record = compared(tmp_path, *all_classes(auroc=0.97))["two_stage", "mnist"]
    assert record["ours_mean"] == pytest.approx(0.97) and np.isnan(record["ours_std"]) and record["ours"] == "0.970"
    assert (record["n_classes"], record["n_expected"], record["n_seeds"]) == (10, 10, 1)
    assert (record["profile"], record["verdict"]) == ("paper", "reproduced")


def test_mean_and_spread_are_over_the_seeds_means(tmp_path):
    seeds = [row for seed, value in enumerate([0.92, 0.94, 0.96]) for row in all_classes(seed=seed, auroc=value)]
    record = compared(tmp_path, *seeds)["two_stage", "mnist"]
    assert (record["ours_mean"], record["ours_std"]) == (pytest.approx(0.94), pytest.approx(0.02))
    assert (record["n_seeds"], record["verdict"]) == (3, "within noise")


def test_a_seed_that_has_not_run_all_classes_yet_does_not_count_beside_one_that_has(tmp_path):
    record = compared(tmp_path, *all_classes(auroc=0.97), made(seed=1, auroc=0.1))["two_stage", "mnist"]
    assert (record["n_seeds"], record["ours_mean"]) == (1, pytest.approx(0.97))


def test_profile_paper_goes_before_quick_and_demo_never_counts(tmp_path):
    quick, demo = made(profile="quick", auroc=0.8), made(profile="demo", auroc=0.7)
    assert compared(tmp_path / "a", demo)["two_stage", "mnist"]["verdict"] == "not run"
    record = compared(tmp_path / "b", demo, quick)["two_stage", "mnist"]
    assert record["verdict"] == "indicative: 1 of 10 classes, quick, 1 seed"
    record = compared(tmp_path / "c", demo, quick, made(auroc=0.9))["two_stage", "mnist"]
    assert (record["profile"], record["ours_mean"]) == ("paper", 0.9)


def test_baselines_count_for_every_paper_that_prints_the_method_unless_it_has_rows_of_its_own(tmp_path):
    baseline = made(paper="baselines", method="cae", auroc=0.7)
    assert compared(tmp_path / "a", baseline)["cae", "mnist"]["ours_mean"] == 0.7
    assert compared(tmp_path / "b", baseline, made(method="cae", auroc=0.8))["cae", "mnist"]["ours_mean"] == 0.8


def test_failed_rows_and_other_protocols_and_other_papers_do_not_count(tmp_path):
    records = compared(tmp_path, failure(job="x"), made(protocol="80-20"), made(paper="another"))
    assert {record["verdict"] for record in records.values()} == {"not run"}


def test_stale_rows_count_and_are_marked(tmp_path):
    rows_ = [made(job="known"), made(job="gone", **{"class": "1"})]
    record = compared(tmp_path, *rows_, register={"known"})["two_stage", "mnist"]
    assert (record["n_classes"], record["n_stale"]) == (2, 1)
    assert record["remarks"].endswith("1 of 2 rows stale")


def test_rows_match_by_backbone_and_random_weights_never_count(tmp_path):
    folder = write_published(
        tmp_path / "published",
        ["mnist,official,mean,toy,resnet18,auroc,0.985,", "mnist,official,mean,toy,wide_resnet50_2,auroc,0.990,"],
    )
    mine = [
        made(paper="toy", method="toy", weights=f"resnet18/{source}", auroc=value)
        for source, value in (("random", 0.1), ("imagenet", 0.9))
    ]
    rows.merge(tmp_path / "toy.csv", mine)
    small, wide = records_of(["toy"], tmp_path, folder)
    assert (small["ours_mean"], small["row_weights"]) == (0.9, "resnet18/imagenet")
    assert wide["verdict"] == "not run"


@pytest.mark.parametrize(
    "values",
    [
        {"data": "stand-in:0123abcd"},
        {"data": "stand-in:0123abcd (3 of 10 classes)"},
        {"weights": "resnet18/stand-in:0123abcd"},
    ],
)
def test_rows_of_stand_ins_never_count(tmp_path, values):
    folder = write_published(tmp_path / "published", ["mnist,official,mean,toy,resnet18,auroc,0.985,"])
    drawn = made(**{"paper": "toy", "method": "toy", "weights": "resnet18/imagenet", **values})
    rows.merge(tmp_path / "toy.csv", [drawn])
    [record] = records_of(["toy"], tmp_path, folder)
    assert (record["verdict"], record["ours"], record["n_seeds"]) == ("not run", "", 0)
    real = made(**{"paper": "toy", "method": "toy", "weights": "resnet18/imagenet", "auroc": 0.7, "class": "9"})
    rows.merge(tmp_path / "toy.csv", [real])
    [record] = records_of(["toy"], tmp_path, folder)
    assert record["classes"] == {"9": 0.7} and record["data"] == "official"
    beside = [one for one in alone_of([record], tmp_path) if one["metric"] == "auroc"]
    assert [list(one["classes"]) for one in beside] == [["8"]]  # they are listed, with their label, among other rows


def test_where_no_mean_is_printed_that_of_the_printed_classes_stands_beside_ours_without_a_verdict(tmp_path):
    folder = write_published(
        tmp_path / "published",
        [f"mnist,official,{digit},toy,,auroc,{value}," for digit, value in (("0", 0.986), ("1", 0.996))],
    )
    rows.merge(tmp_path / "toy.csv", all_classes(paper="toy", method="toy", auroc=0.99))
    (record,) = records_of(["toy"], tmp_path, folder)
    assert record["published"] == pytest.approx(0.991)
    assert (record["n_classes"], record["n_expected"]) == (2, 2)
    assert record["printed"] == "0.991 over 2 legible columns"
    assert record["verdict"] == "not judged: no printed mean; 2 of 2 classes, paper, 1 seed"


def test_printed_classes_stand_beside_the_classes_that_ran(tmp_path):
    folder = write_published(
        tmp_path / "published",
        [
            "mvtec,official,bottle,toy,,aupro,0.914,",
            "mvtec,official,pill,toy,,aupro,0.931,",
            "mvtec,official,mean,toy,,aupro,0.906,",
        ],
    )
    mine = made(paper="toy", method="toy", dataset="mvtec", class_="pill", aupro=0.9)
    rows.merge(tmp_path / "toy.csv", [mine])
    (record,) = records_of(["toy"], tmp_path, folder)
    assert record["published"] == 0.906 and record["published_classes"] == {"bottle": 0.914, "pill": 0.931}
    assert record["verdict"] == "indicative: 1 of 15 classes, paper, 1 seed"
    assert (record["printed"], record["ours"]) == ("0.906", "0.900")
    assert record["remarks"].startswith("printed for pill: 0.931, ")


def test_printed_classes_with_three_seeds_are_judged_while_their_mean_is_indicative(tmp_path):
    cells = [f"mvtec,official,{name},toy,,auroc,{value}," for name, value in (("bottle", 0.998), ("pill", 0.979))]
    folder = write_published(tmp_path / "published", [*cells, "mvtec,official,mean,toy,,auroc,0.976,"])
    place = {"paper": "toy", "method": "toy", "dataset": "mvtec", "image_size": 256}
    words = {"data": "folder:1a2b3c4d (copy, 320 px JPEG)"}
    for seed in range(3):
        rows.merge(
            tmp_path / "toy.csv", [made(**place, class_="bottle", seed=seed, auroc=0.99 + 0.002 * seed, **words)]
        )
    given = {**place, "data": "folder:5e6f7a8b (copy, 320 px JPEG)"}
    rows.merge(tmp_path / "toy.csv", [made(**given, class_="pill", auroc=0.9)])
    (record,) = records_of(["toy"], tmp_path, folder)
    assert record["verdict"] == "indicative: 2 of 15 classes, paper, 1 seed"
    assert record["class_verdicts"] == {"bottle": "reproduced"}  # by its three seeds, of which the mean has one
    assert record["remarks"] == (
        "printed for bottle, pill: 0.988, bottle reproduced, 256 px, "
        "data folder:1a2b3c4d and folder:5e6f7a8b (copy, 320 px JPEG)"
    )
    for seed in (1, 2):
        rows.merge(tmp_path / "toy.csv", [made(**given, class_="pill", seed=seed, auroc=0.9)])
    (record,) = records_of(["toy"], tmp_path, folder)
    assert "bottle reproduced, pill below by 0.079" in record["remarks"]
    quick = [dict(row, profile="quick") for row in rows.read(tmp_path / "toy.csv")]
    rows.merge(tmp_path / "quick" / "toy.csv", quick)
    assert records_of(["toy"], tmp_path / "quick", folder)[0]["class_verdicts"] == {}


def test_what_is_reproduced_says_between_which_printed_methods_it_lies(tmp_path):
    cells = [("toy", 0.985), ("rival", 0.987), ("third", 0.990), ("old", 0.9)]
    lines = [f"mnist,official,mean,{method},,auroc,{value:.3f}," for method, value in cells]
    rows.merge(tmp_path / "toy.csv", all_classes(paper="toy", method="toy", auroc=0.9902))
    record = records_of(["toy"], tmp_path, write_published(tmp_path / "published", lines))[0]
    assert (record["verdict"], record["remarks"]) == ("reproduced", "between rival's 0.987 and third's 0.990, 32 px")
    rows.merge(tmp_path / "toy.csv", all_classes(paper="toy", method="toy", auroc=0.999))
    record = records_of(["toy"], tmp_path, tmp_path / "published")[0]
    assert (record["verdict"], record["remarks"]) == ("above", "32 px")


def test_words_that_sources_share_are_said_once_and_only_of_these(tmp_path):
    folder = write_published(tmp_path / "published", ["mnist,official,mean,toy,,auroc,0.900,"])
    said = ["folder:a", "folder:b (scans)", "folder:c (copy, 320 px)", "folder:d (copy, 320 px)", "official"]
    made_rows = [made(paper="toy", method="toy", class_=str(i), data=text) for i, text in enumerate(said)]
    rows.merge(tmp_path / "toy.csv", made_rows)
    (record,) = records_of(["toy"], tmp_path, folder)
    assert record["data"] == "folder:c and folder:d (copy, 320 px) and folder:b (scans) and folder:a and official"
    assert record["words"] == "scans and copy, 320 px"


def coil100(folder, names, seeds=(0,), auroc=1.0, **values):
    """The record of a paper that prints a mean over coil100, after these objects have run."""
    printed = write_published(folder / "published", ["coil100,80-20,mean,toy,,auroc,1.000,"])
    rows.merge(
        folder / "toy.csv",
        [
            made(
                paper="toy",
                method="toy",
                dataset="coil100",
                protocol="80-20",
                class_=name,
                seed=seed,
                auroc=auroc,
                **{"data": "zip:01234567", **values},
            )
            for seed in seeds
            for name in names
        ],
    )
    (record,) = records_of(["toy"], folder, printed)
    return record


AT_HAND = [f"obj{number}" for number in (1, 2, 4, 5, 7, 10, 14, 19, 28, 31, 33, 35, 37, 46, 47, 48, 49)]


def test_a_mean_over_coil100_is_over_the_30_objects(tmp_path):
    record = coil100(tmp_path, data.COIL100_OBJECTS, seeds=[0, 1])
    assert (record["n_classes"], record["n_expected"], record["n_others"]) == (30, 30, 0)
    assert record["verdict"] == "reproduced" and compare.class_names("coil100") == data.COIL100_OBJECTS
    assert coil100(tmp_path / "b", data.COIL100_OBJECTS[1:])["verdict"] == "indicative: 29 of 30 classes, paper, 1 seed"


def test_other_objects_of_coil100_stand_in_for_none_of_the_30(tmp_path):
    record = coil100(tmp_path, AT_HAND)
    assert record["verdict"] == "indicative: 7 of 30 classes and 10 others, paper, 1 seed"
    assert (record["n_classes"], record["n_others"], len(record["classes"])) == (7, 10, 17)
    others = [name for name in data.CLASS_NAMES["coil100"] if name not in data.COIL100_OBJECTS]
    record = coil100(tmp_path / "b", [*others[:10], *data.COIL100_OBJECTS[:20]])  # 30 in number
    assert record["verdict"] == "indicative: 20 of 30 classes and 10 others, paper, 1 seed"


def test_once_all_30_objects_ran_the_others_do_not_count(tmp_path):
    coil100(tmp_path, AT_HAND, auroc=0.5, seeds=[0, 1])  # seed 1 has others too, but not all of the 30
    record = coil100(tmp_path, data.COIL100_OBJECTS)
    assert (record["n_classes"], record["n_others"], record["n_seeds"]) == (30, 0, 1)
    assert (record["ours_mean"], record["verdict"]) == (1.0, "reproduced")
    assert record["classes"].keys() == set(data.COIL100_OBJECTS)


def test_of_two_seeds_the_one_with_more_of_the_30_objects_counts(tmp_path):
    coil100(tmp_path, AT_HAND, auroc=0.5)
    record = coil100(tmp_path, data.COIL100_OBJECTS[:10], seeds=[1])  # fewer classes, but more of the 30
    assert record["verdict"] == "indicative: 10 of 30 classes, paper, 1 seed"


def test_a_copy_that_lacks_classes_never_earns_a_verdict(tmp_path):
    record = coil100(tmp_path, data.COIL100_OBJECTS, data="zip:01234567 (40 of 100 classes)")
    assert record["verdict"] == "indicative: 30 of 30 classes, a copy of 40 of 100 classes, paper, 1 seed"
    # also where one class alone, or one seed, was measured on it
    record = coil100(tmp_path, data.COIL100_OBJECTS[1:])
    assert record["verdict"] == "indicative: 30 of 30 classes, a copy of 40 of 100 classes, paper, 1 seed"
    record = coil100(tmp_path, data.COIL100_OBJECTS[:1])
    assert record["verdict"] == "reproduced"
    record = coil100(tmp_path, AT_HAND, data="npz:1a2b3c4d (17 of 100 classes)")
    assert "npz:1a2b3c4d (17 of 100 classes)" in record["remarks"]


def test_the_source_that_data_gives_a_copy_is_known_for_one_that_lacks_classes(tmp_path, monkeypatch):
    np.savez(
        tmp_path / "cifar100.npz",
        **{
            f"{split}_{what}": array
            for split in ("train", "test")
            for what, array in (("images", np.zeros((20, 4, 4, 3), np.uint8)), ("labels", np.arange(20) % 10))
        },
    )
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path))
    source = data.one_class("cifar100", "apple").source
    folder = write_published(tmp_path / "published", ["cifar100,superclass,apple,toy,,auroc,0.872,"])
    mine = {"paper": "toy", "method": "toy", "dataset": "cifar100", "protocol": "superclass", "class": "apple"}
    for data_, expected in (
        (source, "not judged: no printed mean; 1 of 1 classes, a copy of 10 of 100 classes, paper, 1 seed"),
        (source.split()[0], "not judged: no printed mean; 1 of 1 classes, paper, 1 seed"),
    ):
        rows.merge(tmp_path / "toy.csv", [made(**mine, auroc=0.872, data=data_)])
        (record,) = records_of(["toy"], tmp_path, folder)
        assert record["verdict"] == expected


def test_what_several_cells_note_alike_is_said_once(tmp_path):
    cells = [f"mnist,official,{of},toy,,auroc,0.900,uncertain; of {of}" for of in ("mean", "3")]
    folder = write_published(tmp_path / "published", cells)
    (record,) = records_of(["toy"], tmp_path / "results", folder)
    assert record["note"] == "uncertain; of mean; of 3"


def test_what_a_mean_over_superclasses_is_over_is_not_known(tmp_path):
    mine = [
        made(paper="toy", method="toy", dataset="cifar100", protocol="superclass", class_=name, auroc=0.9)
        for name in ("cup", "apple")
    ]
    rows.merge(tmp_path / "toy.csv", mine)
    cells = [f"cifar100,superclass,{name},toy,,auroc,0.900," for name in ("cup", "apple")]
    (record,) = records_of(["toy"], tmp_path, write_published(tmp_path / "a", cells))
    assert record["verdict"] == "not judged: no printed mean; 2 of 2 classes, paper, 1 seed"
    cells.append("cifar100,superclass,mean,toy,,auroc,0.900,")
    (record,) = records_of(["toy"], tmp_path, write_published(tmp_path / "b", cells))
    assert record["verdict"] == "indicative: 2 of ? classes, paper, 1 seed"
    (record,) = alone_of([], tmp_path)
    assert (record["n_classes"], record["n_expected"]) == (2, 0)


def test_of_two_image_sizes_the_one_with_most_rows_counts(tmp_path):
    record = compared(tmp_path, *all_classes(auroc=0.97), made(image_size=64, auroc=0.1))["two_stage", "mnist"]
    assert (record["image_size"], record["n_classes"]) == ("32", 10)


def test_a_class_without_the_usual_image_size_counts_with_its_own(tmp_path):
    rows = [made(**{"class": name}, image_size=128) for name in "012345"]
    rows += [made(**{"class": name}, image_size=512, auroc=0.8) for name in "67"]
    rows += [made(**{"class": "5"}, image_size=512, auroc=0.3)]
    record = compared(tmp_path, *rows)["two_stage", "mnist"]
    assert record["image_sizes"] == dict.fromkeys("012345", "128") | {"6": "512", "7": "512"}
    assert (record["image_size"], record["n_classes"]) == ("128 and 512", 8)
    assert record["ours_mean"] == pytest.approx((6 * 0.9 + 2 * 0.8) / 8)
    (alone,) = alone_of([record], tmp_path)  # what is in no other table
    assert (alone["image_size"], alone["classes"]) == ("512", {"5": 0.3})


def test_rows_beside_no_printed_number_have_records_of_their_own(tmp_path):
    rows_ = [made(), made(method="two_stage_mse"), made(profile="quick"), made(dataset="digits", profile="demo")]
    records = list(compared(tmp_path, *rows_).values())
    alone = alone_of(records, tmp_path)
    assert {(one["method"], one["dataset"], one["profile"], one["verdict"]) for one in alone} == {
        ("two_stage_mse", "mnist", "paper", "not printed"),
        ("two_stage", "mnist", "quick", "not printed"),
        ("two_stage", "digits", "demo", "not printed"),
    }


def test_a_table_is_shown_with_whole_texts_and_without_what_is_not_there(tmp_path):
    rows.merge(tmp_path / "two_stage.csv", all_classes(auroc=0.97))
    table = compare.table(compare.compare(["two_stage"], tmp_path))
    shown = compare.styled(table).to_html()
    assert "**two_stage**" in table["method"].tolist() and "**" not in shown and ">reproduced<" in shown
    assert "no rows yet" in compare.styled(table[:0]).to_html()
    number = compare.styled(pd.DataFrame({"auroc": [0.97123, np.nan]}, index=pd.Index(["a", "b"], name="class")))
    assert "0.971" in number.to_html() and "nan" not in number.to_html() and number.to_html() == number.to_html()


def test_a_table_shows_what_its_lines_are_called_and_no_line_numbers():
    by_method = pd.DataFrame({"ae": {"spread": 0.2}}).T
    assert ">ae<" in compare.styled(by_method).to_html()
    lines = pd.DataFrame({"spread": [0.2, 0.3]})[1:]
    assert ">1<" not in compare.styled(lines).to_html() and "0.300" in compare.styled(lines).to_html()


# what a job took


def test_a_job_takes_what_its_rows_say_once_for_methods_that_share_a_training():
    times = {"ms_per_image": 10, "n_test": 100, "n_parameters": 5, "steps": 3}
    given = [
        made(job="old", train_seconds=60, **times),
        made(job="old", method="two_stage_mse", train_seconds=40, **times),  # a part of two_stage
        made(job="old", method="cae", train_seconds=20, n_test=100, ms_per_image=20),
        made(job="shared", method="a", train_seconds=7, **times),
        made(job="shared", method="b", train_seconds=7, **times),
        made(job="none"),
    ]
    table = compare.frame(given).assign(job_seconds=np.nan)
    # of two_stage_mse no training, but its own scoring; a and b are one run
    assert compare.run_seconds(table).to_dict() == {"old": 60 + 20 + 1 + 1 + 2, "shared": 7 + 1}
    table.loc[:2, "job_seconds"] = 100.0
    assert compare.run_seconds(table).to_dict() == {"old": 100, "shared": 8}


# old beside new


def leave(folder, *cells):
    """toy.csv of (job, method, auroc)."""
    names = ("paper", "dataset", "protocol", "class", "seed", "profile")
    other = {"settings": "{}", "device": "cpu (1 threads)", "commit": "abc"}
    left = [
        rows.row(method=method, auroc=auroc, job=job["id"], **other, **{name: job[name] for name in names})
        for job, method, auroc in cells
    ]
    rows.merge(folder / "toy.csv", left)


def verified(jobs, folders):
    return verify(jobs, *folders).to_dict("records")


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "old", tmp_path / "new"


def test_only_jobs_with_rows_of_these_settings_are_run_again(folders):
    job = toy.toy_job()
    leave(folders[0], (job, "toy", 0.75))
    assert outstanding([job, toy.toy_job("3")], folders[0])[1] == [job]
    assert outstanding([toy.toy_job(rate=0.1)], folders[0])[1] == []  # its place holds rows of other settings


@pytest.mark.parametrize("new, verdict", [(0.75, "same"), (0.757, "within"), (0.743, "within"), (0.77, "outside")])
def test_with_one_seed_the_tolerance_of_a_verdict_decides(folders, new, verdict):
    job = toy.toy_job()
    leave(folders[0], (job, "toy", 0.75))
    leave(folders[1], (job, "toy", new))
    (record,) = verified([job], folders)
    assert (record["verdict"], record["n_seeds"]) == (verdict, 1) and np.isnan(record["spread"])
    assert record["difference"] == pytest.approx(new - 0.75)
    assert record["old_run"].startswith("cpu (1 threads), torch ") and record["old_run"].endswith(", commit abc")


@pytest.mark.parametrize("new, verdict", [(0.80, "same"), (0.90, "within"), (0.70, "within"), (0.15, "outside")])
def test_with_more_seeds_their_spread_decides(folders, new, verdict):
    jobs = [toy.toy_job(seed=seed) for seed in range(3)]
    leave(folders[0], *((job, "toy", auroc) for job, auroc in zip(jobs, (0.7, 0.8, 0.9), strict=True)))
    leave(folders[1], (jobs[1], "toy", new))
    (record,) = verified(jobs[1:2], folders)
    assert record["spread"] == pytest.approx(4.302653 * 0.1 * 2**0.5, rel=1e-6) and record["n_seeds"] == 3
    assert record["verdict"] == verdict


def test_a_method_that_did_not_come_out_again_is_missing_and_the_table_tells_all(folders):
    job = toy.toy_job()
    leave(folders[0], (job, "toy", 0.75), (job, "mean", 0.5))
    leave(folders[1], (job, "toy", 0.76))
    records = verify([job], *folders)
    assert list(zip(records["method"], records["verdict"], strict=True)) == [("mean", "missing"), ("toy", "within")]
    shown = verify_text(records, [job]).splitlines()
    assert shown[1] == "toy digits 8 seed 0 quick" and shown[-1] == "1 missing, 1 within"
    (line,) = [line for line in shown if line.split()[:2] == ["toy", "auroc"]]
    assert line.split() == ["toy", "auroc", "0.750000", "0.760000", "0.010000", "-", "1", "within"]
    assert verify_text(records[:0], []).strip() == ""


def test_rows_of_another_job_under_the_new_folder_do_not_count(folders):
    job = toy.toy_job()
    leave(folders[0], (job, "toy", 0.75))
    leave(folders[1], (toy.toy_job(rate=0.1), "toy", 0.75))
    assert [record["verdict"] for record in verified([job], folders)] == ["missing"]
