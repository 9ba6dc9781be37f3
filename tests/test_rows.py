"""Result rows: made, saved by a notebook, merged into a file, and read."""

import csv
import gzip
import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest

from adlib import metrics
from repro import rows


JOB = "0123456789ab"
MINIMAL = "paper='p', method='m', dataset='d', protocol='official', profile='demo', seed=0, class_='c'"


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


# rows


def test_a_row_has_all_columns_as_text_and_what_is_missing_stays_empty():
    row = made(auroc=0.9731234567, train_seconds=12.345, ms_per_image=0.12345, peak_memory_mb=99.7, steps=100)
    assert list(row) == rows.COLUMNS
    assert [row[name] for name in ("auroc", "train_seconds", "ms_per_image", "peak_memory_mb", "steps")] == [
        "0.973123",
        "12.3",
        "0.123",
        "100",
        "100",
    ]
    assert row["aupro"] == row["weights"] == row["error"] == ""


def test_a_row_says_when_it_finished_with_which_torch_and_that_all_went_well():
    import torch

    row = rows.row(paper="p", method="m", dataset="d", protocol="official", class_="c", seed=0, profile="demo")
    assert row["status"] == "ok" and row["class"] == "c"
    assert row["torch"] == torch.__version__
    assert len(row["finished"]) == len("2026-01-01T00:00:00Z") and row["finished"].endswith("Z")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"aucroc": 0.9}, "no column 'aucroc'; it has paper, method"),
        ({"auroc": 97.3}, r"auroc is '97.300000', not a number in \[0, 1\]"),
        ({"auroc": float("nan")}, "auroc is 'nan'"),
        ({"aupro": "high"}, "aupro is 'high', not a number"),
        ({"status": "done"}, "status is 'done'"),
        ({"method": None}, "method must not be empty"),
    ],
)
def test_a_bad_row_is_refused_with_the_name_of_what_is_bad(values, message):
    with pytest.raises(ValueError, match=message):
        made(**values)


def test_a_line_break_in_an_error_does_not_break_the_row():
    assert failure()["error"] == "RuntimeError: stopped"
    assert rows.row(status="failed", job=JOB, error="first\nsecond,\tthird")["error"] == "first second, third"


def test_diagnostics_are_compact_json_of_few_digits():
    row = made(diagnostics={"accuracy": np.float32(0.25), "ssim": {"8": 0.123456789}, "steps": 3}, job_seconds=83.26)
    assert row["diagnostics"] == '{"accuracy":0.25,"ssim":{"8":0.123457},"steps":3}' and row["job_seconds"] == "83.3"
    assert made()["diagnostics"] == made()["job_seconds"] == ""
    with pytest.raises(ValueError, match="diagnostics is 'much', not JSON"):
        made(diagnostics="much")


# what a notebook leaves


def test_save_leaves_rows_and_scores_from_which_the_auroc_can_be_computed_again(tmp_path):
    scores = np.random.default_rng(0).random(50).astype(np.float32)
    is_anomalous = np.arange(50) % 3 == 0
    row = made(auroc=metrics.auroc(scores, is_anomalous))
    columns = {"index": range(50), "kind": ["8"] * 50, "is_anomalous": is_anomalous, "two_stage": scores}
    rows.save(tmp_path / "new" / "folder", [row], columns)
    assert rows.read(tmp_path / "new" / "folder" / "rows.csv") == [row]
    with gzip.open(tmp_path / "new" / "folder" / "scores.csv.gz", "rt", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == list(columns)
    again = metrics.auroc([float(line["two_stage"]) for line in lines], [int(line["is_anomalous"]) for line in lines])
    assert f"{again:.6f}" == row["auroc"]


def test_keep_makes_a_row_of_each_method_and_saves_them_with_the_scores(tmp_path):
    import torch

    split = types.SimpleNamespace(
        train=torch.zeros(7, 1, 8, 8),
        test=torch.zeros(4, 1, 8, 8),
        is_anomalous=torch.tensor([False, False, True, True]),
    )
    split.kind, split.normal_class, split.source = ["3", "3", "8", "8"], "3", "embedded"
    scores = {"right": torch.tensor([0.0, 1, 2, 3]), "half": torch.tensor([0.0, 2, 1, 3])}
    labels = {"paper": "p", "dataset": "digits", "protocol": "official", "seed": 0, "profile": "demo"}
    per_method = {"pixel_metrics": {"right": {"pixel_auroc": 0.25, "aupro": 0.5}, "half": {}}}
    per_method |= {"diagnostics": {"right": {"loss": 0.5}, "half": None}}
    table = rows.keep(tmp_path, split, scores, torch.device("cpu"), **labels, **per_method, steps=9)
    assert table["auroc"].to_dict() == {"right": 1.0, "half": 0.75}
    assert "ms_per_image" not in table  # not given for any method
    assert table.index.name == "method"  # an index without a name is hidden in notebooks
    right, half = rows.read(tmp_path / "rows.csv")
    assert (right["class"], right["n_train"], right["n_test"], right["n_anomalous"]) == ("3", "7", "4", "2")
    assert (right["data"], right["steps"], right["diagnostics"]) == ("embedded", "9", '{"loss":0.5}')
    assert (half["balanced_accuracy"], half["pixel_auroc"], half["diagnostics"]) == ("0.750000", "", "")
    kept = gzip.decompress((tmp_path / "scores.csv.gz").read_bytes()).decode().splitlines()
    assert kept[0] == "index,kind,is_anomalous,right,half"
    assert kept[3] == "2,8,1,2.0,1.0"
    with pytest.raises(KeyError, match="half"):  # a method without its value
        rows.keep(None, split, scores, torch.device("cpu"), **labels, train_seconds={"right": 1.0})


def test_save_takes_tensors(tmp_path):
    import torch

    rows.save(tmp_path, [made()], {"is_anomalous": torch.tensor([True, False]), "m": torch.tensor([0.1, 0.25])})
    assert gzip.decompress((tmp_path / "scores.csv.gz").read_bytes()) == b"is_anomalous,m\n1,0.1\n0,0.25\n"


def test_the_same_run_saves_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        rows.save(tmp_path / name, [made()], {"index": [0, 1], "m": [0.5, 0.25]})
    for file in ("rows.csv", "scores.csv.gz"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_save_and_progress_do_nothing_without_a_folder():
    rows.save(None, ["nothing looks at this"], {})
    rows.progress(None, 1, 2, "training")


def test_columns_of_different_length_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(ValueError, match="differ in length.*'index': 2.*'m': 3"):
        rows.save(tmp_path, [made()], {"index": [0, 1], "m": [1, 2, 3]})
    assert list(tmp_path.iterdir()) == []


def test_progress_tells_the_first_and_the_last_step_and_a_new_stage_and_little_between(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(rows, "write_whole", lambda path, content, durable: written.append(json.loads(content)))
    for step in range(1001):
        rows.progress(tmp_path, step, 1000, "training" if step < 500 else "scoring")
    assert written[0] == {"done": 0, "total": 1000, "what": "training"}
    assert {"done": 500, "total": 1000, "what": "scoring"} in written
    assert written[-1] == {"done": 1000, "total": 1000, "what": "scoring"}
    assert len(written) < 100


# merging


def test_a_merged_file_holds_the_rows_sorted_by_key_with_seeds_as_numbers(tmp_path):
    path = tmp_path / "results" / "two_stage.csv"
    rows.merge(path, [made(seed=10), made(seed=2), made(seed=2, method="cae"), made(seed=2, **{"class": "1"})])
    assert [(row["method"], row["class"], row["seed"]) for row in rows.read(path)] == [
        ("cae", "8", "2"),
        ("two_stage", "1", "2"),
        ("two_stage", "8", "2"),
        ("two_stage", "8", "10"),
    ]


def test_the_newest_row_of_a_key_stands(tmp_path):
    path = tmp_path / "two_stage.csv"
    rows.merge(path, [made(auroc=0.5)])
    rows.merge(path, [made(auroc=0.6, job="other")])  # finished in the same second: the one that came later
    assert [row["auroc"] for row in rows.read(path)] == ["0.600000"]
    rows.merge(path, [made(auroc=0.7, finished="2026-01-02T00:00:00Z")])
    rows.merge(path, [made(auroc=0.8, finished="2025-12-31T00:00:00Z")])
    assert [row["auroc"] for row in rows.read(path)] == ["0.700000"]


def test_a_file_without_the_younger_columns_is_read_and_gets_them_at_the_next_merge(tmp_path):
    path = tmp_path / "two_stage.csv"
    rows.merge(path, [made(job_seconds=5, diagnostics={"a": 1}), made(seed=1)])
    lines = [line.rsplit(",", 2)[0] for line in path.read_text().replace('"{""a"":1}"', "").splitlines()]
    path.write_text("\n".join(lines) + "\n")
    assert lines[0].endswith(",commit,finished")
    assert [(row["seed"], row["job_seconds"], row["diagnostics"]) for row in rows.read(path)] == [
        ("0", "", ""),
        ("1", "", ""),
    ]
    rows.merge(path, [made(seed=2, job_seconds=7)])
    assert path.read_text().startswith(lines[0] + ",job_seconds,diagnostics\n")
    assert [row["job_seconds"] for row in rows.read(path)] == ["", "", "7.0"]


def at(second):
    return f"2026-01-01T00:00:{second:02}Z"


@pytest.mark.parametrize(
    "times, stands", [((10, 11), False), ((22, 28), False), ((30, 20), True), ((29, 30), True), ((40, 41), True)]
)
def test_the_rows_of_a_run_and_its_files_stand_together_or_not_at_all(tmp_path, times, stands):
    """One run makes its rows at 20 and 30 s; another run of the same job comes in later."""
    path, notebook = tmp_path / "two_stage.csv", tmp_path / "notebooks" / "a.ipynb"
    for run, seconds in (("first", (20, 30)), ("second", times)):
        lines = [
            made(method=method, finished=at(second), device=run)
            for method, second in zip(("cae", "rotnet"), seconds, strict=True)
        ]
        rows.merge(path, lines, {notebook: run.encode()})
    winner = "second" if stands else "first"
    assert notebook.read_text() == winner and [row["device"] for row in rows.read(path)] == [winner] * 2


def test_where_one_of_several_files_cannot_be_written_none_is(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    for bad in (tmp_path / "file" / "below", tmp_path / ("n" * 300)):
        with pytest.raises(OSError):
            rows.write_all({tmp_path / "file": b"new", tmp_path / "other": b"new", bad: b"new"})
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
        assert (tmp_path / "file").read_bytes() == b"old"


def test_merging_the_same_rows_twice_changes_no_byte(tmp_path):
    path = tmp_path / "two_stage.csv"
    rows.merge(path, [made(), failure(job="f" * 12)])
    once = path.read_bytes()
    rows.merge(path, rows.read(path))
    assert path.read_bytes() == once


def test_a_failed_row_is_replaced_by_a_newer_failure_of_its_job_and_goes_when_the_job_succeeds(tmp_path):
    path = tmp_path / "two_stage.csv"
    rows.merge(path, [failure(job="a" * 12), failure(job="b" * 12)])
    rows.merge(path, [failure(job="a" * 12, seed=1)])
    assert [(row["job"], row["seed"]) for row in rows.read(path)] == [("b" * 12, "0"), ("a" * 12, "1")]
    rows.merge(path, [made(job="a" * 12)])
    assert [(row["job"], row["status"]) for row in rows.read(path)] == [("b" * 12, "failed"), ("a" * 12, "ok")]


def test_a_failure_takes_no_ok_row_away_and_stays_beside_it(tmp_path):
    path = tmp_path / "two_stage.csv"
    rows.merge(path, [made()])
    rows.merge(path, [failure(finished="2026-01-02T00:00:00Z")])
    rows.merge(path, [made(seed=5, job="c" * 12)])  # of another job
    assert sorted(row["status"] for row in rows.read(path)) == ["failed", "ok", "ok"]


def test_a_crash_between_writing_and_renaming_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "two_stage.csv"
    rows.merge(path, [made()])
    old = path.read_bytes()
    script = (
        "import os, signal, sys\n"
        "from repro import rows\n"
        "rows.os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)\n"
        "rows.merge(sys.argv[1], [{**rows.read(sys.argv[1])[0], 'seed': '1'}])\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == -9
    assert path.read_bytes() == old
    rows.merge(path, [made(seed=2)])  # the lock died with its process, and what it left is no hindrance
    assert [row["seed"] for row in rows.read(path)] == ["0", "2"]


def test_processes_that_merge_at_once_lose_nothing(tmp_path):
    path = tmp_path / "two_stage.csv"
    script = (
        "import sys\n"
        "from repro import rows\n"
        f"row = rows.row({MINIMAL})\n"
        "for seed in range(25):\n"
        "    rows.merge(sys.argv[1], [{**row, 'class': sys.argv[2], 'seed': str(seed)}])\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(path), name]) for name in ("one", "two", "three")]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert [(row["class"], int(row["seed"])) for row in rows.read(path)] == [
        (name, seed) for name in ("one", "three", "two") for seed in range(25)
    ]


def test_a_missing_file_has_no_rows(tmp_path):
    assert rows.read(tmp_path / "none.csv") == []


def damaged(text, how):
    lines = text.splitlines(keepends=True)
    if how == "a cell less":
        return "".join(lines[:2]) + lines[2].replace(",", "", 1)
    if how == "a metric that is none":
        return "".join(lines[:2]) + lines[2].replace("0.900000", "0.9x")
    if how == "cut":
        return text[:-1]
    if how == "conflict":
        return lines[0] + lines[1] + "<<<<<<< HEAD\n" + lines[2]
    return text.replace("method", "methods", 1)


@pytest.mark.parametrize(
    "how, message",
    [
        ("a cell less", "line 3: 31 cells instead of 32"),
        ("a metric that is none", "line 3: auroc is '0.9x'"),
        ("cut", "line 3: the file ends in the middle"),
        ("conflict", "line 3: 1 cells instead of 32"),
        ("header", "line 1: the header is not paper,method"),
    ],
)
def test_a_damaged_file_is_named_with_the_line_and_left_as_it_is(tmp_path, how, message):
    path = tmp_path / "two_stage.csv"
    rows.merge(path, [made(seed=0), made(seed=1)])
    path.write_text(damaged(path.read_text(), how))
    broken = path.read_bytes()
    for attempt in (lambda: rows.read(path), lambda: rows.merge(path, [made(seed=2)])):
        with pytest.raises(ValueError, match=f"two_stage.csv, {message}"):
            attempt()
    assert path.read_bytes() == broken


def test_bytes_that_are_no_text_are_named_with_the_line(tmp_path):
    path = tmp_path / "two_stage.csv"
    rows.merge(path, [made()])
    path.write_bytes(path.read_bytes().replace(b"official", b"\xff\xfe", 1))
    with pytest.raises(ValueError, match="two_stage.csv, line 2: not text in UTF-8"):
        rows.read(path)


def test_a_row_that_is_not_whole_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "two_stage.csv"
    with pytest.raises(ValueError, match="columns: auroc"):
        rows.merge(path, [{name: value for name, value in made().items() if name != "auroc"}])
    assert not path.exists()


def test_reading_and_writing_rows_needs_no_torch_no_pandas_and_no_scikit_learn(tmp_path):
    script = (
        "import sys\n"
        "from repro import rows\n"
        f"row = rows.row({MINIMAL})\n"
        "rows.save(sys.argv[1], [row], {'m': [0.5]})\n"
        "heavy = ('torch', 'pandas', 'sklearn', 'scipy', 'matplotlib', 'filelock')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, env=os.environ)
    assert (done.stdout, done.stderr) == ("[]\n", "")
