"""The printed tables: whole, readable, without doubles, and with a note on every number that cannot be true.

The values themselves were parsed from the papers' texts; what is checked here is what the tables say about themselves.
"""

from collections import Counter
from statistics import correlation

import pytest

from repro import compare


def published(paper):
    return compare.published(paper).to_dict("records")


PAPERS = sorted(path.stem for path in (compare.CHECKOUT / "published").glob("*.csv"))
FEATURE_AE = published("feature_ae")
SHARED_AE = published("shared_ae")


def column_means():
    """Per column of a table of feature_ae: (table, method, weights) -> (the cell of the mean, the mean of its rows)."""
    columns = {}
    for cell in FEATURE_AE:
        if cell["dataset"] == "mvtec":
            columns.setdefault((cell["table"], cell["method"], cell["weights"]), {})[cell["class"]] = cell
    found = {}
    for key, cells in columns.items():
        mean = cells.pop("mean")
        assert sorted(cells) == sorted(compare.class_names("mvtec"))
        found[key] = (mean, sum(cell["value"] for cell in cells.values()) / len(cells))
    return found


@pytest.mark.parametrize("paper", PAPERS)
def test_every_table_is_readable_and_prints_no_number_twice(paper):
    cells = published(paper)
    keys = Counter(
        tuple(cell[name] for name in ("dataset", "protocol", "class", "method", "weights", "metric")) for cell in cells
    )
    assert [key for key, count in keys.items() if count > 1] == []
    for cell in cells:
        known = compare.class_names(cell["dataset"])
        assert cell["class"].startswith("mean") or not known or cell["class"] in known, cell


def test_the_four_tables_of_feature_ae_are_whole():
    assert Counter(cell["table"] for cell in FEATURE_AE) == {"1": 16 * 7, "2": 3 * 7, "3": 16 * 8, "4": 16 * 8}
    # each of the 7 + 8 + 8 columns on MVTec AD has its 15 categories (checked there) and a mean
    assert len(column_means()) == 7 + 8 + 8
    assert Counter(cell["metric"] for cell in FEATURE_AE if cell["dataset"] == "mvtec") == {
        "auroc": 16 * 5,
        "balanced_accuracy": 16 * 2,
        "pixel_auroc": 16 * 8,
        "aupro": 16 * 8,
    }


def test_columns_that_are_no_auroc_say_so():
    balanced = [cell for cell in FEATURE_AE if cell["metric"] == "balanced_accuracy"]
    assert {cell["method"] for cell in balanced} == {"cavga_du", "vae_grad"}
    assert all("headed AUROC" in cell["note"] for cell in balanced)


def test_a_printed_mean_is_that_of_its_rows_or_its_note_gives_theirs():
    """Rounding explains less than one unit: at most half for the rows, at most half for the mean."""
    off = {}
    for key, (mean, of_rows) in column_means().items():
        if abs(mean["value"] - of_rows) > mean["unit"]:
            off[key] = round(of_rows, 3)
            assert f"its rows give {of_rows:.3f}" in mean["note"], key
        else:
            assert "rows" not in mean["note"], key
    assert off == {("3", "spade", ""): 0.960, ("4", "stpm", ""): 0.924}


def test_an_aupro_above_the_pixel_auroc_of_the_same_column_is_noted():
    value = {(cell["metric"], cell["class"], cell["method"], cell["weights"]): cell["value"] for cell in FEATURE_AE}
    above, noted = set(), set()
    for cell in FEATURE_AE:
        if cell["metric"] == "aupro":
            name = (cell["class"], cell["method"], cell["weights"])
            above |= {name} if cell["value"] > value["pixel_auroc", *name] else set()
            noted |= {name} if "pixel AUROC of Table 3" in cell["note"] else set()
    assert (
        above
        == noted
        == {
            ("metal_nut", "feature_ae", "resnet18"),
            ("metal_nut", "feature_ae", "wide_resnet50_2"),
            *((category, "pixel_ae_l2", "") for category in ("leather", "tile", "bottle", "pill", "zipper")),
        }
    )


def column(table, dataset, name):
    """The column of a class in a table of shared_ae: {method: value}."""
    return {
        cell["method"]: cell["value"]
        for cell in SHARED_AE
        if (cell["table"], cell["dataset"], cell["class"]) == (table, dataset, name)
    }


def lead(column):
    """Points by which shared_ae is ahead of the best other method of a column."""
    best = max(value for method, value in column.items() if method != "shared_ae")
    return round(100 * (column["shared_ae"] - best), 1)


def test_of_shared_ae_stands_what_is_legible():
    # of Table 4's four legible columns two, for there is no name to put the others under
    assert Counter(cell["table"] for cell in SHARED_AE) == {"1": 5 * 3, "2": 12 * 4, "3": 12 * 4, "4": 12 * 2, "5": 4}
    columns = Counter((cell["table"], cell["dataset"], cell["protocol"], cell["class"]) for cell in SHARED_AE)
    assert columns == {
        **{("1", dataset, "80-20", "mean"): 5 for dataset in ("mnist", "fashion_mnist", "coil100")},
        **{("2", "mnist", "official", digit): 12 for digit in "0123"},
        **{("3", "cifar10", "official", name): 12 for name in ("plane", "car", "bird", "cat")},
        **{("4", "cifar100", "superclass", name): 12 for name in ("cup", "apple")},
        ("5", "mnist", "official", "mean"): 4,
    }
    assert {(cell["weights"], cell["metric"], cell["unit"]) for cell in SHARED_AE} == {("", "auroc", 0.001)}


def test_what_is_read_from_damaged_text_is_uncertain():
    doubtful = {
        table: {
            (cell["class"], cell["method"])
            for cell in SHARED_AE
            if cell["table"] == table and "uncertain" in cell["note"]
        }
        for table in "12345"
    }
    assert doubtful["1"] == set()
    assert doubtful["3"] == {
        ("bird", "anogan"),
        ("bird", "deep_svdd"),
        ("cat", "anogan"),
        ("cat", "deep_svdd"),
        ("cat", "addpa"),
    }
    assert [len(doubtful[table]) for table in "245"] == [12 * 4, 12 * 2, 4]


def test_shared_ae_leads_where_its_text_says_so():
    assert lead(column("1", "mnist", "mean")) == 0.7
    assert lead(column("1", "fashion_mnist", "mean")) == 0.2
    assert column("1", "coil100", "mean")["shared_ae"] == 1
    # "8 of 10" digits: on 0 it is fourth from below; "obvious" on cat; and of the four CIFAR-10 columns on cat alone
    assert [lead(column("2", "mnist", digit)) for digit in "0123"] == [-1.2, 0.0, 1.2, 1.3]
    assert sorted(column("2", "mnist", "0").values()).index(0.986) == 3
    assert [lead(column("3", "cifar10", name)) for name in ("plane", "car", "bird", "cat")] == [-3.7, -5.5, -1.1, 25.1]


def test_what_contradicts_shared_ae_stands_in_its_notes():
    note = {(cell["table"], cell["class"], cell["method"]): cell["note"] for cell in SHARED_AE}
    assert "fourth lowest" in note["2", "0", "shared_ae"] and "0.942" in note["2", "2", "ocgan"]
    assert "0.924600" in note["3", "plane", "shared_ae"] and "neither clock nor bee" in note["4", "cup", "shared_ae"]
    assert all("score (8)" in note["5", "mean", method] for method in ("ae", "ede_one"))
    # of the columns of another dataset, car's alone goes with apple's that closely
    apple = column("4", "cifar100", "apple")
    r = {
        name: correlation(list(apple.values()), [column("3", "cifar10", name)[method] for method in apple])
        for name in ("plane", "car", "bird", "cat")
    }
    assert f"r = {r['car']:.2f}" in note["4", "apple", "shared_ae"]
    assert max(r["plane"], r["bird"], r["cat"]) < 0.9


def test_single_classes_of_the_baselines_agree_with_the_means_of_other_papers():
    """The six classes that are lost here would have to have a mean that is possible, and better than guessing."""
    assert [column("2", "mnist", digit)["ocsvm"] for digit in "0123"] == [0.988, 0.999, 0.902, 0.950]
    legible = {"mnist": ("2", "0123"), "cifar10": ("3", ("plane", "car", "bird", "cat"))}
    of_six = {}
    for cell in [*published("two_stage"), *FEATURE_AE]:
        table, names = legible.get(cell["dataset"], ("", ""))
        columns = [column(table, cell["dataset"], name) for name in names]
        if columns and cell["class"] == "mean" and cell["method"] in columns[0]:
            lost = 10 * cell["value"] - sum(one[cell["method"]] for one in columns)
            of_six[cell["paper"], cell["dataset"], cell["method"]] = lost / 6
    assert all(0.5 < value < 1 for value in of_six.values()), of_six
    assert of_six.keys() == {
        *(("two_stage", dataset, method) for dataset in legible for method in ("ocsvm", "deep_svdd", "ocgan")),
        *(("feature_ae", dataset, method) for dataset in legible for method in ("ocsvm", "deep_svdd")),
    }


CBIGAN = published("cbigan")
OF_CBIGAN = {(cell["metric"], cell["class"], cell["method"]): cell for cell in CBIGAN}
IN_BOTH_TABLES = ("egbad", "cbigan", "pixel_ae_l2")


def breaks_the_bound(name, method):
    """Whether no pair of numbers that round to B and AUROC as printed keeps 2B - 1 <= AUROC <= 1 - 2(1 - B)^2."""
    b, auroc = (OF_CBIGAN[metric, name, method]["value"] for metric in ("balanced_accuracy", "auroc"))
    least, most = 2 * (b - 0.005) - 1, 1 - 2 * (1 - min(1, b + 0.005)) ** 2
    return auroc + 0.005 < least or auroc - 0.005 > most


def test_both_tables_of_cbigan_are_whole():
    assert len(CBIGAN) == 288
    columns = Counter((cell["table"], cell["metric"], cell["method"]) for cell in CBIGAN)
    methods = {
        "II": (
            "anogan",
            "vae_grad",
            "pixel_ae_ssim",
            "pixel_ae_l2",
            "avid",
            "lsa",
            "egbad",
            "cbigan",
            "cavga_du",
            "cavga_ru",
        ),
        "III": ("pixel_ae_l2", "geotrans", "ganomaly", "itae", "egbad", "cbigan"),
    }
    metric = {"II": "balanced_accuracy", "III": "auroc"}
    assert columns == {(table, metric[table], name): 18 for table, names in methods.items() for name in names}
    rows = Counter(cell["class"] for cell in CBIGAN)
    assert rows == dict.fromkeys([*compare.class_names("mvtec"), "mean_textures", "mean_objects", "mean"], 10 + 6)
    assert {(cell["dataset"], cell["protocol"], cell["weights"], cell["unit"]) for cell in CBIGAN} == {
        ("mvtec", "official", "", 0.01)
    }
    # whatever is quoted says of whom; of the authors' own two columns EGBAD's says how it was made
    assert all(cell["note"] for cell in CBIGAN if cell["method"] != "cbigan")


def test_printed_means_of_cbigan_are_those_of_their_rows():
    """Within one unit: at most half of it comes from rounding the rows, at most half from rounding the mean."""
    names = compare.class_names("mvtec")
    for mean, rows in (("mean_textures", names[:5]), ("mean_objects", names[5:]), ("mean", names)):
        for (metric, name, method), cell in OF_CBIGAN.items():
            if name == mean:
                of_rows = sum(OF_CBIGAN[metric, row, method]["value"] for row in rows) / len(rows)
                assert abs(cell["value"] - of_rows) < 0.01, (metric, name, method, of_rows)


def test_balanced_accuracies_below_one_half_are_noted():
    below = {
        (cell["class"], cell["method"])
        for cell in CBIGAN
        if cell["metric"] == "balanced_accuracy" and cell["value"] < 0.5
    }
    noted = {(cell["class"], cell["method"]) for cell in CBIGAN if "below 0.5" in cell["note"]}
    assert (
        below
        == noted
        == {
            ("carpet", "anogan"),
            ("screw", "anogan"),
            ("leather", "pixel_ae_ssim"),
            ("leather", "pixel_ae_l2"),
            ("toothbrush", "egbad"),
        }
    )


def test_pairs_that_no_scores_can_give_are_noted():
    names = [*compare.class_names("mvtec"), "mean_textures", "mean_objects", "mean"]
    broken = {(name, method) for method in IN_BOTH_TABLES for name in names if breaks_the_bound(name, method)}
    assert broken == {
        ("grid", "egbad"),
        ("toothbrush", "egbad"),
        # its two columns are quoted from two sources
        *(
            (name, "pixel_ae_l2")
            for name in (
                "carpet",
                "leather",
                "wood",
                "cable",
                "hazelnut",
                "pill",
                "screw",
                "toothbrush",
                "mean_textures",
            )
        ),
    }
    for metric in ("balanced_accuracy", "auroc"):
        assert broken == {
            (cell["class"], cell["method"])
            for cell in CBIGAN
            if cell["metric"] == metric and "1 - 2(1 - B)^2" in cell["note"]
        }


def test_two_columns_of_feature_ae_are_balanced_accuracies_of_cbigans_table():
    """Cell for cell, the mean too: they are headed AUROC there."""
    quoted = [cell for cell in FEATURE_AE if cell["metric"] == "balanced_accuracy"]
    assert Counter(cell["method"] for cell in quoted) == {"cavga_du": 16, "vae_grad": 16}
    for cell in quoted:
        assert cell["value"] == OF_CBIGAN["balanced_accuracy", cell["class"], cell["method"]]["value"], cell


def test_what_cbigan_says_of_its_lead_over_egbad():
    """ "At most 49 %", "+15 %" overall, and "consistently" but for zipper: where carpet does not move either."""
    lead = {
        name: round(
            100
            * (
                OF_CBIGAN["balanced_accuracy", name, "cbigan"]["value"]
                - OF_CBIGAN["balanced_accuracy", name, "egbad"]["value"]
            )
        )
        for name in [*compare.class_names("mvtec"), "mean"]
    }
    assert max(lead.values()) == lead["grid"] == lead["toothbrush"] == 49 and lead["mean"] == 15
    assert {name for name, points in lead.items() if points <= 0} == {"carpet", "zipper"}
    assert "zipper as the only exception" in OF_CBIGAN["balanced_accuracy", "carpet", "cbigan"]["note"]


PATCH_AE = published("patch_ae")
OF_PATCH_AE = {(cell["class"], cell["method"]): cell for cell in PATCH_AE}
MVTEC = compare.class_names("mvtec")
PIXEL_COLUMNS = ("pixel_ae_l2", "pixel_ae_ssim", "vae_grad")
IMAGE_COLUMNS = ("riad", "cutpaste", "cs_flow", "sspcab", "ast", "cfa", "patchcore", "patch_ae")


def test_the_table_of_patch_ae_is_whole():
    """Of PatchCore's multi-model version the paper prints the average alone."""
    assert len(PATCH_AE) == len(OF_PATCH_AE) == 15 * 11 + 12
    assert {(cell["class"], cell["method"]) for cell in PATCH_AE} == {
        ("mean", "patchcore_multi"),
        *((name, method) for name in [*MVTEC, "mean"] for method in (*PIXEL_COLUMNS, *IMAGE_COLUMNS)),
    }
    assert {(cell["table"], cell["dataset"], cell["protocol"]) for cell in PATCH_AE} == {("1", "mvtec", "official")}
    for cell in PATCH_AE:
        assert cell["metric"] == ("pixel_auroc" if cell["method"] in PIXEL_COLUMNS else "auroc"), cell
        assert cell["weights"] == ("wide_resnet101_2" if cell["method"] == "patch_ae" else ""), cell
    in_part = ("cutpaste", "sspcab", "patchcore", "patchcore_multi", "patch_ae")
    assert all(("not given" in cell["note"]) == (cell["method"] in in_part) for cell in PATCH_AE)


def test_patch_aes_percents_keep_the_places_they_are_printed_with():
    """99.56 is 0.9956, 98.2 is 0.982 and 100, without a decimal, 1.00."""
    units = {method: {OF_PATCH_AE[name, method]["unit"] for name in MVTEC} for method in IMAGE_COLUMNS}
    assert units == {**dict.fromkeys(IMAGE_COLUMNS, {0.01, 0.001}), "patch_ae": {0.01, 0.001, 0.0001}}
    assert {OF_PATCH_AE[name, method]["unit"] for name in MVTEC for method in PIXEL_COLUMNS} == {0.01}
    assert {cell["unit"] for cell in PATCH_AE if cell["value"] == 1} == {0.01}
    coarse = {cell["method"] for cell in PATCH_AE if cell["class"] == "mean" and cell["unit"] != 0.0001}
    assert coarse == {"pixel_ae_ssim", "vae_grad", "patchcore_multi"}


def test_printed_means_of_patch_ae_are_those_of_their_rows_rounded():
    """Without exception, and as if 100 were 100.00; SSIM-AE's with the 82 for toothbrush that another paper lacks."""
    off = {}
    for method in (*PIXEL_COLUMNS, *IMAGE_COLUMNS):
        mean, of_rows = OF_PATCH_AE["mean", method], sum(OF_PATCH_AE[name, method]["value"] for name in MVTEC) / 15
        if abs(mean["value"] - of_rows) > mean["unit"] / 2:
            off[method] = round(of_rows, 4)
    assert off == {}
    noted = {method for (name, method), cell in OF_PATCH_AE.items() if name == "mean" and "its rows" in cell["note"]}
    assert noted == {"pixel_ae_ssim"}


def test_two_columns_of_patch_ae_are_the_pixel_aurocs_of_feature_aes_table():
    """Cell for cell, though headed as detection; one cell differs, and with it the mean of its column."""
    there = {(cell["class"], cell["method"]): cell for cell in FEATURE_AE if cell["metric"] == "pixel_auroc"}
    differ = {}
    for key, cell in OF_PATCH_AE.items():
        if key[1] in ("pixel_ae_l2", "pixel_ae_ssim"):
            assert "headed AUROC of anomaly detection" in cell["note"], key
            assert there[key]["unit"] == 0.01
            if round(cell["value"], 2) != there[key]["value"]:
                differ[key] = (cell["value"], there[key]["value"])
    assert differ == {("toothbrush", "pixel_ae_ssim"): (0.82, 0.92), ("mean", "pixel_ae_ssim"): (0.862, 0.87)}
    uncertain = {key for key, cell in OF_PATCH_AE.items() if "uncertain" in cell["note"]}
    assert uncertain == {("toothbrush", "pixel_ae_ssim")}
    with_the_other = sum(there[name, "pixel_ae_ssim"]["value"] for name in MVTEC) / 15
    assert f"its rows give {with_the_other:.3f}" in OF_PATCH_AE["mean", "pixel_ae_ssim"]["note"]


def test_patch_aes_vae_grad_cannot_be_the_image_auroc_of_the_scores_cbigan_quotes():
    """That is at most 1 - 2(1 - B)^2, whatever the scores; rounding is allowed for on both sides."""
    above = set()
    for name in [*MVTEC, "mean"]:
        most = OF_CBIGAN["balanced_accuracy", name, "vae_grad"]["value"] + 0.005
        cell = OF_PATCH_AE[name, "vae_grad"]
        above |= {name} if cell["value"] - cell["unit"] / 2 > 1 - 2 * (1 - most) ** 2 else set()
    assert above == {"cable", "grid", "hazelnut", "leather", "pill", "screw", "transistor", "zipper"}
    listed = ", ".join(sorted(above)).replace(", zipper", " and zipper")
    for name in [*MVTEC, "mean"]:
        note = OF_PATCH_AE[name, "vae_grad"]["note"]
        assert "headed AUROC of anomaly detection" in note and f"; {listed}: above 1 - 2(1 - B)^2" in note


def test_what_patch_ae_says_of_its_lead():
    """ "Outperforms Patchcore on 5 classes": and is below it on 6. "More than 10 %" over AEs is over pixel AUROCs."""
    points = {
        name: round(100 * (OF_PATCH_AE[name, "patch_ae"]["value"] - OF_PATCH_AE[name, "patchcore"]["value"]), 2)
        for name in [*MVTEC, "mean"]
    }
    assert points.pop("mean") == 0.12
    assert {name for name in points if points[name] > 0} == {"capsule", "carpet", "pill", "tile", "wood"}
    assert {name for name in points if points[name] < 0} == {
        "cable",
        "grid",
        "metal_nut",
        "screw",
        "transistor",
        "zipper",
    }
    assert {name for name in points if points[name] == 0} == {"bottle", "hazelnut", "leather", "toothbrush"}
    mean = {method: cell["value"] for (name, method), cell in OF_PATCH_AE.items() if name == "mean"}
    # as the text repeats them; "outperforming all of the tested methods", among which the last is
    assert [(method, mean[method]) for method in sorted(mean, key=mean.get)[-3:]] == [
        ("patchcore", 0.9936),
        ("patch_ae", 0.9948),
        ("patchcore_multi", 0.996),
    ]
    assert "patchcore_multi" in OF_PATCH_AE["mean", "patch_ae"]["note"]
    assert round(100 * (mean["patch_ae"] - max(mean[method] for method in PIXEL_COLUMNS)), 2) == 10.08
