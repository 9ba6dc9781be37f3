"""The rows of a study in its CSV file. One process or several read them and add to them."""

import csv
import io
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from repro.rows import read_table, write_whole


def read(path: Path, columns: list[str]) -> list[dict[str, str]]:
    """The rows of the file, dicts of text; none if there is no file. ValueError if it is damaged."""
    return [cells for _, cells in read_table(path, columns)] if path.is_file() else []


def add(
    texts: list[dict[str, str]], path: Path, columns: list[str], key: list[str], order: Callable | None = None
) -> None:
    """Write rows to the file. They replace rows of the same key. The file is always whole, for several processes too.

    texts: dicts of text. order: the key by which the rows are sorted; None: new rows come last.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        by_key = {tuple(row[name] for name in key): row for row in [*read(path, columns), *texts]}
        rows = sorted(by_key.values(), key=order) if order else by_key.values()
        text = io.StringIO(newline="")
        lines = [[row[name] for name in columns] for row in rows]
        csv.writer(text, lineterminator="\n").writerows([columns, *lines])
        write_whole(path, text.getvalue().encode())
