"""Result rows: one CSV per paper, one line per method and job; written whole or not at all, and merged under a lock.

A row is a dict of text, empty where it does not apply. A notebook makes and leaves rows; the sweep merges them.
"""

import contextlib
import csv
import gzip
import io
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


METRICS = ["auroc", "balanced_accuracy", "pixel_auroc", "aupro"]
KEY = "paper method dataset protocol class seed profile weights image_size".split()
_MEASURED = "n_train n_test n_anomalous train_seconds ms_per_image n_parameters peak_memory_mb".split()
_YOUNGER = ["job_seconds", "diagnostics"]  # older files lack these
COLUMNS = [*KEY, *METRICS, *_MEASURED, *"device steps data settings job status error torch commit finished".split()]
COLUMNS += _YOUNGER
_NUMBERS = ["seed", *_MEASURED, "steps", "job_seconds"]
_DECIMALS = dict.fromkeys(METRICS, 6) | {"train_seconds": 1, "ms_per_image": 3, "peak_memory_mb": 0, "job_seconds": 1}
_bars = {}  # of a notebook read by hand: the one that is drawn
_last_progress = {}  # path -> (time, what) of the last progress written by this process


def row(**values: Any) -> dict[str, str]:
    """A result row: a dict of text with all of COLUMNS; what is not given (or None) stays empty.

    Names are those of COLUMNS; `class` may be written `class_`. Metrics are numbers in [0, 1]; diagnostics is a dict of
    numbers that tell whether a network was trained at all. Filled in where not given: status "ok", torch's version,
    finished (UTC). Raises ValueError for an unknown name and a bad value.
    """
    if "class_" in values:
        values["class"] = values.pop("class_")
    unknown = [name for name in values if name not in COLUMNS]
    if unknown:
        raise ValueError(f"a result row has no column {unknown[0]!r}; it has {', '.join(COLUMNS)}")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    values = {"status": "ok", "torch": version("torch"), "finished": now, **values}  # torch itself takes a second
    cells = {name: _cell(name, values.get(name)) for name in COLUMNS}
    _check(cells, "a result row")
    return cells


def _cell(name, value):
    """The text of one value; line breaks become spaces, so that a row is one line of the file."""
    if value is None or value == "":
        return ""
    if isinstance(value, dict):  # six digits of each number say enough
        text = json.dumps(value, default=float)
        return json.dumps(json.loads(text, parse_float=lambda x: float(f"{float(x):.6g}")), separators=(",", ":"))
    if name in _DECIMALS:
        with contextlib.suppress(ValueError):  # `_check` says what is wrong with it
            return f"{float(value):.{_DECIMALS[name]}f}"
    return " ".join(str(value).split())


def _check(cells, where):
    """ValueError, beginning with `where`, unless the row is whole and its values are what their columns hold."""
    checks = dict.fromkeys(_NUMBERS, ("a number from 0", lambda text: 0 <= float(text) < math.inf))
    checks |= dict.fromkeys(METRICS, ("a number in [0, 1]", lambda text: 0 <= float(text) <= 1))
    checks |= dict.fromkeys(["settings", "diagnostics"], ("JSON", lambda text: isinstance(json.loads(text), dict)))
    for name, (what, is_good) in checks.items():
        with contextlib.suppress(ValueError):
            if cells[name] == "" or is_good(cells[name]):
                continue
        raise ValueError(f"{where}: {name} is {cells[name]!r}, not {what}")
    if cells["status"] not in ("ok", "failed"):
        raise ValueError(f"{where}: status is {cells['status']!r}, neither 'ok' nor 'failed'")
    missing = [name for name in (KEY[:7] if cells["status"] == "ok" else ["job"]) if cells[name] == ""]
    if missing:
        raise ValueError(f"{where}: {', '.join(missing)} must not be empty where status is {cells['status']!r}")


def of_stand_ins(cells: Mapping[str, str]) -> bool:
    """Whether a row was measured on stand-ins, of images or of weights: then it says nothing."""
    return cells["data"].startswith("stand-in:") or "/stand-in:" in cells["weights"]


def is_untrained(cells: Mapping[str, str]) -> bool:
    """Whether a row's `cbigan.adequacy` says that what needs no network does better; also where cbigan's lacks it."""
    found = {"image_ratio": math.nan if cells["paper"] == "cbigan" else 0, "latent_error": 0, "latent_zero": 0}
    found |= json.loads(cells["diagnostics"] or "{}")
    return not (found["image_ratio"] <= 1 and found["latent_error"] <= found["latent_zero"])  # true of NaN, too


def save(out_dir: str | Path | None, rows: list[dict], scores: Mapping[str, Any]) -> None:
    """What a notebook leaves for the sweep: rows.csv and scores.csv.gz in out_dir; None: nothing.

    rows: what `row` gives. scores: columns of one length, one entry per image: index or file, kind, is_anomalous, then
    one per method. Raises ValueError for columns of different lengths and rows that are not whole.
    """
    if out_dir is None:
        return
    import numpy as np

    columns = {}
    for name, values in scores.items():
        values = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
        values = values.astype(int) if values.dtype == bool else values
        columns[name] = list(map(str, values))  # floats in the fewest digits that give them back
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns of scores differ in length: {lengths}")
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([columns, *zip(*columns.values(), strict=True)])
    packed = gzip.compress(text.getvalue().encode(), mtime=0)  # no time stamp: the same run leaves the same bytes
    write_all({Path(out_dir, "scores.csv.gz"): packed, Path(out_dir, "rows.csv"): _table(rows, "rows")})


def keep(out_dir: str | Path | None, split: Any, scores: Mapping[str, Any], device: Any, **columns: Any) -> Any:
    """Makes the rows of a run, one per method, saves them with the scores (`save`), and returns them as a DataFrame.

    split: a `data.OneClass`. scores: method -> anomaly score of each test image, (M,). device: a torch.device. columns:
    the other values of `row`; a dict gives one value per method (also `diagnostics`, `device`, and `pixel_metrics`,
    what `metrics.localisation` returns). Raises ValueError and KeyError for a value that is missing or bad.
    """
    import pandas as pd

    from adlib import machine, metrics  # import torch

    found = []
    for method, values in scores.items():
        own = {name: value[method] if isinstance(value, dict) else value for name, value in columns.items()}
        where = device[method] if isinstance(device, dict) else device
        own |= {metric: getattr(metrics, metric)(values, split.is_anomalous) for metric in METRICS[:2]}
        own |= {"n_train": len(split.train), "n_test": len(split.test), "n_anomalous": int(split.is_anomalous.sum())}
        own |= {"class": split.normal_class, "data": split.source, "device": machine.name(where)}
        own |= {"peak_memory_mb": machine.peak_memory_mb(where), **own.pop("pixel_metrics", {})}
        found.append(row(method=method, **own))
    of_images = {"index": range(len(split.test)), "kind": split.kind, "is_anomalous": split.is_anomalous}
    save(out_dir, found, of_images | dict(scores))
    shown = [*METRICS, "train_seconds", "ms_per_image", "n_parameters", "steps"]
    numbers = pd.DataFrame(found).set_index("method")[shown].replace("", None).dropna(axis=1, how="all")
    return numbers.apply(pd.to_numeric)


def progress(out_dir: str | Path | None, done: int, total: int, what: str, loss: Any = None) -> None:
    """Leave out_dir/progress.json for the sweep's display: {"done", "total", "what", "loss"}; out_dir None: draw a bar.

    loss: a number, or a tensor of one. Cheap: written, and read off the device, twice a second, or if `what` changes.
    """
    if out_dir is None:
        return _draw(done, total, what)
    path, now = Path(out_dir, "progress.json"), time.monotonic()
    last, last_what = _last_progress.get(path, (-1.0, None))
    if what == last_what and done < total and now - last < 0.5:
        return
    _last_progress[path] = (now, what)
    content = {"done": int(done), "total": int(total), "what": str(what)}
    content |= {} if loss is None else {"loss": float(loss)}
    write_whole(path, json.dumps(content).encode(), durable=False)


def _draw(done, total, what):
    """The bar of a notebook that is read by hand, once it takes more than seconds."""
    from adlib import machine  # imports torch

    bar = _bars.get("bar")
    if bar is None or bar.total != total or bar.n > done:
        bar = _bars["bar"] = machine.progress(total, what, "steps", sys.stdout)  # JupyterLab has stderr on red
    bar.set_description_str(what, refresh=False)
    bar.update(done - bar.n)
    if done >= total:
        _bars.pop("bar").close()


def read(path: str | Path) -> list[dict[str, str]]:
    """The rows of a result file as dicts of text, [] without one. Raises ValueError naming a line that is none."""
    rows = {}
    for number, cells in read_table(path, COLUMNS, COLUMNS[: -len(_YOUNGER)]) if os.path.exists(path) else []:
        _check(cells, f"{path}, line {number}")
        key = _key(cells) if cells["status"] == "ok" else cells["job"]
        if rows.setdefault(key, cells) is not cells:
            raise ValueError(f"{path}, line {number}: a second row of the same key")
    return list(rows.values())


def merge(path: str | Path, new_rows: list[dict], files: Mapping[Path, bytes] | None = None) -> None:
    """Put rows into a result file: read, replace, sort, write, under a lock, so that nothing there is ever lost.

    The `ok` rows of a job are one thing, and `files` (path -> content) belong to them: all take the place of those with
    their KEY, or, where one of these finished after all of them, none does. A failed row replaces its job's earlier
    failure, and goes when an ok row comes in. Several processes may merge at once. ValueError for damaged rows.
    """
    from filelock import FileLock  # only the sweep merges; a job does not need it

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        rows = standing(read(path), new_rows)
        files = files if files and all(cells in rows for cells in new_rows) else {}
        write_all({**files, path: _table(rows, path)})  # last the table: it says that all is there


def standing(rows: Sequence[dict], new_rows: Sequence[dict] = ()) -> list[dict[str, str]]:
    """The rows that stand, sorted by key, once new rows have come in (the rules of `merge`)."""
    good = {_key(cells): cells for cells in rows if cells["status"] == "ok"}
    failed = {cells["job"]: cells for cells in [*rows, *new_rows] if cells["status"] == "failed"}
    runs = {}
    for cells in new_rows:
        if cells["status"] == "ok":
            runs.setdefault(cells["job"], {})[_key(cells)] = cells
    for job, run in runs.items():
        failed.pop(job, None)
        rivals = [good[key]["finished"] for key in run if key in good]  # UTC in ISO 8601: text sorts as time does
        if max(cells["finished"] for cells in run.values()) >= max(rivals, default=""):
            good |= run

    def order(cells):  # numbers as numbers: class 2 before class 10
        texts = (*_key(cells), cells["job"])
        return [(not text.isdecimal(), text.zfill(9) if text.isdecimal() else text) for text in texts]

    return sorted([*good.values(), *failed.values()], key=order)


def _key(cells):
    return tuple(cells[name] for name in KEY)


def _table(rows, where):
    """The bytes of a result file of these rows."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cells in rows:
        if odd := sorted(set(cells) ^ set(COLUMNS)):
            raise ValueError(f"{where}: a row lacks, or has beside the columns: {', '.join(odd)}")
        cells = {name: _cell(name, value) for name, value in cells.items()}
        _check(cells, where)
        writer.writerow(cells)
    return text.getvalue().encode()


def read_table(path: str | Path, columns: list[str], *older: list[str]) -> list[tuple[int, dict[str, str]]]:
    """The (line number, row) of a CSV whose header is `columns`, or one of `older`: what that lacks is empty.

    Raises FileNotFoundError, and ValueError naming file and line, also of an end in its middle and of no UTF-8.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")  # some programs put a mark before the text
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not text in UTF-8 ({error.reason})") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        header = next(reader, [])
        if header not in (columns, *older):
            raise ValueError(f"{path}, line 1: the header is not {','.join(columns)}")
        for cells in reader:
            if len(cells) != len(header):
                raise ValueError(f"{path}, line {reader.line_num}: {len(cells)} cells instead of {len(header)}")
            rows.append((reader.line_num, dict.fromkeys(columns, "") | dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    if not text.endswith("\n"):
        raise ValueError(f"{path}, line {reader.line_num}: the file ends in the middle of a line")
    return rows


def write_whole(path: str | Path, content: bytes, durable: bool = True) -> None:
    """Write a file that is whole or not there: see `write_all`."""
    write_all({path: content}, durable)


def write_all(files: Mapping[str | Path, bytes], durable: bool = True) -> None:
    """Write files (path -> content) beside themselves, and, once all are whole, rename them in this order.

    A reader sees an old file or a new one, whole; where there is no room for all of them, all stay as they are.
    durable: also after a loss of power. Makes folders. Two writers of one path must hold a lock of their own.
    """
    try:
        for path, content in files.items():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with open(f"{path}.tmp", "wb") as file:
                file.write(content)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
        for path in files:
            os.replace(f"{path}.tmp", path)
    except OSError as error:  # no room: the half of it is of no use
        for beside in files:
            with contextlib.suppress(OSError):
                os.unlink(f"{beside}.tmp")
        raise type(error)(error.errno, error.strerror, str(path)) from error  # "no space left" names no place itself
