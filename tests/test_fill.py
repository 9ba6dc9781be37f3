"""The script that fills rows which were written before rows said all that they say now."""

import importlib.util
from pathlib import Path

import pytest

from repro import rows


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("fill", ROOT / "results" / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_row_gets_the_settings_that_it_left_to_the_notebook_and_words_on_a_known_copy(script):
    row = {"settings": '{"epochs":5,"lr":0.1}', "data": "folder:2cf0b1e1", "job": "0123456789ab"}
    known = {"dataset": "mvtec", "seed": 0, "out_dir": None, "epochs": 10, "sigma": 4.0}
    done = script.filled(row, known)
    assert done == {
        **row,
        "settings": '{"epochs":5,"lr":0.1,"sigma":4.0}',
        "data": "folder:2cf0b1e1 (copy, 320 px JPEG)",
    }
    assert script.filled(done, known) == done  # again: nothing
    others = {**row, "data": "folder:01234567"}
    assert script.filled(others, None) == others


def test_only_a_whole_commit_of_this_history_tells_what_a_notebook_had(script):
    for commit in ("", "2f0e3c2+dirty", "0" * 40, "--help"):
        assert script.defaults("two_stage", commit) is None


def test_the_rows_of_the_checkout_are_filled(script):
    """After rows of an older version: python results/fill.py."""
    for path in (ROOT / "results").glob("*.csv"):
        for row in rows.read(path):
            assert script.filled(row, None) == row
