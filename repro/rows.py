"""Result rows: one CSV per paper, one line per method and job; written whole or not at all, and merged under a lock.

In a notebook, at its end (does nothing where `out_dir` is None):

    rows = [results.row(paper="two_stage", method="cae", dataset="mnist", class_="8", seed=0, auroc=0.93, ...)]
    results.save(out_dir, rows, {"index": range(n), "kind": kind, "is_anomalous": is_anomalous, "cae": scores})

In the sweep: `merge("results/two_stage.csv", rows)`. What the papers printed stands in published/<paper>.csv
(`published`); `compare` sets the two side by side, `summary.write_summary` writes it down.
"""

import csv
import gzip
import io
import json
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from repro.files import read_table, write_whole


METRICS = ["auroc", "balanced_accuracy", "pixel_auroc", "aupro"]
KEY = ["paper", "method", "dataset", "protocol", "class", "seed", "profile", "weights", "image_size"]
COLUMNS = [
    *KEY,
    *METRICS,
    "n_train",
    "n_test",
    "n_anomalous",
    "train_seconds",
    "ms_per_image",
    "n_parameters",
    "peak_memory_mb",
    "device",
    "steps",
    "data",
    "settings",
    "job",
    "status",
    "error",
    "torch",
    "commit",
    "finished",
]

_NEVER_EMPTY = ["paper", "method", "dataset", "protocol", "class", "seed", "profile"]  # of a row that is `ok`
_DECIMALS = {**dict.fromkeys(METRICS, 6), "train_seconds": 1, "ms_per_image": 3, "peak_memory_mb": 0}
_NUMBERS = [
    "seed",
    "n_train",
    "n_test",
    "n_anomalous",
    "train_seconds",
    "ms_per_image",
    "n_parameters",
    "peak_memory_mb",
    "steps",
]
_last_progress = {}  # path -> (time, what) of the last progress written by this process


def row(**values):
    """A result row: a dict of text with all of COLUMNS; what is not given (or None) stays empty.

    Names are those of COLUMNS; `class` may be written `class_`. Filled in where not given: status "ok", torch's
    version, finished (UTC). Metrics are numbers in [0, 1]. Raises ValueError for an unknown name and a bad metric.
    """
    if "class_" in values:
        values["class"] = values.pop("class_")
    unknown = [name for name in values if name not in COLUMNS]
    if unknown:
        raise ValueError(f"a result row has no column {unknown[0]!r}; it has {', '.join(COLUMNS)}")
    from importlib.metadata import version  # the installed version, without the seconds that importing torch takes

    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    values = {"status": "ok", "torch": version("torch"), "finished": now, **values}
    cells = {name: _cell(name, values.get(name)) for name in COLUMNS}
    _check_row(cells, "a result row")
    return cells


def _cell(name, value):
    """The text of one value; line breaks become spaces, so that a row is one line of the file."""
    if value is None or value == "":
        return ""
    if name in _DECIMALS:
        try:
            return f"{float(value):.{_DECIMALS[name]}f}"
        except ValueError:
            raise ValueError(f"{name} is {value!r}, not a number") from None
    return " ".join(str(value).split())


def _is_number(text):
    try:
        return 0 <= float(text) < float("inf")
    except ValueError:
        return False


def _check_row(cells, where):
    """ValueError, beginning with `where`, unless the row is whole and its metrics are numbers in [0, 1]."""
    for metric in METRICS:
        if cells[metric] != "":
            try:
                good = 0 <= float(cells[metric]) <= 1
            except ValueError:
                good = False
            if not good:
                raise ValueError(f"{where}: {metric} is {cells[metric]!r}, not a number in [0, 1]")
    for name in _NUMBERS:
        if cells[name] != "" and not _is_number(cells[name]):
            raise ValueError(f"{where}: {name} is {cells[name]!r}, not a number from 0")
    if cells["status"] not in ("ok", "failed"):
        raise ValueError(f"{where}: status is {cells['status']!r}, neither 'ok' nor 'failed'")
    needed = _NEVER_EMPTY if cells["status"] == "ok" else ["job"]
    missing = [name for name in needed if cells[name] == ""]
    if missing:
        raise ValueError(f"{where}: {', '.join(missing)} must not be empty where status is {cells['status']!r}")


def of_stand_ins(cells):
    """Whether a row was measured on stand-ins, of images or of weights: then it says nothing."""
    return cells["data"].startswith("stand-in:") or "/stand-in:" in cells["weights"]


def save(out_dir, rows, scores):
    """What a notebook leaves for the sweep: out_dir/scores.csv.gz, then out_dir/rows.csv; None: nothing.

    rows: list of what `row` gives. scores: dict of columns of one length, one entry per test image: index or file,
    kind, is_anomalous, then one column of scores per method. rows.csv comes last: where it is, all is there.
    Raises ValueError for columns of different lengths and rows that are not whole.
    """
    if out_dir is None:
        return
    columns = {name: _column(values) for name, values in scores.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns of scores differ in length: {lengths}")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    table = _table(rows, "rows")
    # no time stamp in the gzip header: the same run leaves the same bytes
    write_whole(Path(out_dir) / "scores.csv.gz", gzip.compress(text.getvalue().encode(), mtime=0))
    write_whole(Path(out_dir) / "rows.csv", table)


def _column(values):
    """One column of scores as text: floats in the fewest digits that give them back, booleans as 0 and 1."""
    values = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    return [str(value) for value in (values.astype(int) if values.dtype == bool else values)]


def progress(out_dir, done, total, what, loss=None):
    """Leave out_dir/progress.json for the sweep's display: {"done", "total", "what", "loss"}; out_dir None: nothing.

    loss: a number, or a tensor of one, on any device. Cheap enough for every step of a loop: written at most twice a
    second, and when `what` changes or all is done; the loss is read off the device only then.
    """
    if out_dir is None:
        return
    path = Path(out_dir) / "progress.json"
    now = time.monotonic()
    last, last_what = _last_progress.get(path, (-1.0, None))
    if what == last_what and done < total and now - last < 0.5:
        return
    _last_progress[path] = (now, what)
    content = {"done": int(done), "total": int(total), "what": str(what)}
    if loss is not None:
        content["loss"] = float(loss)
    write_whole(path, json.dumps(content).encode(), durable=False)


def read(path):
    """The rows of a result file as dicts of text; [] where there is no such file.

    Raises ValueError, naming file and line, where the file is damaged: another header, a wrong number of cells, a
    metric that is no number in [0, 1], a count or time that is none, a row without its key or with another's, an end
    in the middle of a line.
    """
    path = Path(path)
    try:
        lines = read_table(path, COLUMNS)
    except FileNotFoundError:
        return []
    seen = set()
    for number, cells in lines:
        _check_row(cells, f"{path}, line {number}")
        key = tuple(cells[name] for name in KEY) if cells["status"] == "ok" else cells["job"]
        if key in seen:
            raise ValueError(f"{path}, line {number}: a second row of the same key")
        seen.add(key)
    return [cells for _, cells in lines]


def merge(path, new_rows):
    """Put rows into a result file: read, replace, sort, write, under a lock, so that nothing there is ever lost.

    A row takes the place of the one with its KEY unless it finished earlier. A failed row is known by its job: it
    replaces that job's earlier failure, and goes when an ok row of the job comes in. The file is written beside itself
    and renamed. Several processes may merge at once. Raises ValueError (and writes nothing) for a damaged file or row.
    """
    from filelock import FileLock  # only the sweep merges; a job does not need it

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        write_whole(path, _table(standing(read(path), new_rows), path))


def standing(rows, new_rows=()):
    """The rows that stand, sorted by key, once new rows have come in (the rules of `merge`)."""
    good, failed = {}, {cells["job"]: cells for cells in rows if cells["status"] == "failed"}
    for cells in [*(cells for cells in rows if cells["status"] == "ok"), *new_rows]:
        if cells["status"] == "failed":
            failed[cells["job"]] = cells
            continue
        key = tuple(cells[name] for name in KEY)
        if key not in good or cells["finished"] >= good[key]["finished"]:  # UTC in ISO 8601: text sorts as time does
            good[key] = cells
    for cells in new_rows:
        if cells["status"] == "ok":
            failed.pop(cells["job"], None)
    return sorted([*good.values(), *failed.values()], key=_order)


def _order(cells):
    """Sorts by KEY, numbers as numbers (class 2 before class 10), then by job."""
    return [
        (not cells[name].isdecimal(), cells[name].zfill(9) if cells[name].isdecimal() else cells[name])
        for name in [*KEY, "job"]
    ]


def _table(rows, where):
    """The bytes of a result file of these rows."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cells in rows:
        if set(cells) != set(COLUMNS):
            odd = sorted(set(cells) ^ set(COLUMNS))
            raise ValueError(f"{where}: a row lacks, or has beside the columns: {', '.join(odd)}")
        cells = {name: _cell(name, value) for name, value in cells.items()}
        _check_row(cells, where)
        writer.writerow(cells)
    return text.getvalue().encode()
