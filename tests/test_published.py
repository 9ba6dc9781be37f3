"""The printed tables: whole, readable, without doubles, and with a note on every number that cannot be true.

The values themselves were parsed from the papers' texts; what is checked here is what the tables say about themselves.
"""
from collections import Counter

import pytest

from adlib import results


PAPERS = sorted(path.stem for path in (results.CHECKOUT / "published").glob("*.csv"))
FEATURE_AE = results.published("feature_ae")


def column_means():
    """Per column of a table of feature_ae: (table, method, weights) -> (the cell of the mean, the mean of its rows)."""
    columns = {}
    for cell in FEATURE_AE:
        if cell["dataset"] == "mvtec":
            columns.setdefault((cell["table"], cell["method"], cell["weights"]), {})[cell["class"]] = cell
    found = {}
    for key, cells in columns.items():
        mean = cells.pop("mean")
        assert sorted(cells) == sorted(results.class_names("mvtec"))
        found[key] = (mean, sum(cell["value"] for cell in cells.values()) / len(cells))
    return found


@pytest.mark.parametrize("paper", PAPERS)
def test_every_table_is_readable_and_prints_no_number_twice(paper):
    cells = results.published(paper)
    keys = Counter(tuple(cell[name] for name in ("dataset", "protocol", "class", "method", "weights", "metric"))
                   for cell in cells)  # fmt: skip
    assert [key for key, count in keys.items() if count > 1] == []
    for cell in cells:
        known = results.class_names(cell["dataset"])
        assert cell["class"].startswith("mean") or not known or cell["class"] in known, cell


def test_the_four_tables_of_feature_ae_are_whole():
    assert Counter(cell["table"] for cell in FEATURE_AE) == {
        "1": 16 * 7, "2": 3 * 7, "3": 16 * 8, "4": 16 * 8}  # fmt: skip
    # each of the 7 + 8 + 8 columns on MVTec AD has its 15 categories (checked there) and a mean
    assert len(column_means()) == 7 + 8 + 8
    assert Counter(cell["metric"] for cell in FEATURE_AE if cell["dataset"] == "mvtec") == {
        "auroc": 16 * 5, "balanced_accuracy": 16 * 2, "pixel_auroc": 16 * 8, "aupro": 16 * 8}  # fmt: skip


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
    assert above == noted == {
        ("metal_nut", "feature_ae", "resnet18"), ("metal_nut", "feature_ae", "wide_resnet50_2"),
        *((category, "pixel_ae_l2", "") for category in ("leather", "tile", "bottle", "pill", "zipper")),
    }  # fmt: skip
