"""Files that are whole or not there: written beside themselves and renamed, and read with every line checked.

write_whole("results/two_stage.csv", b"paper,method\\n...")
for number, cells in read_table("results/two_stage.csv", ["paper", "method"]): ...
"""

import contextlib
import csv
import io
import os
from pathlib import Path


def write_whole(path, content, durable=True):
    """Write bytes to a temporary name beside `path` and rename it: a reader sees the old file or the new one, whole.

    durable: also after a loss of power (fsync). Makes the folder where it is missing. Two writers of one path must
    hold a lock of their own.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:  # no room: the half of it is of no use
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def read_table(path, columns):
    """The rows of a CSV whose header is `columns`: a list of (line number, dict of text).

    Raises FileNotFoundError, and ValueError naming file and line: another header, a wrong number of cells, an open
    quote, an end in the middle of a line, bytes that are no UTF-8.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not text in UTF-8 ({error.reason})") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        if next(reader, []) != columns:
            raise ValueError(f"{path}, line 1: the header is not {','.join(columns)}")
        for cells in reader:
            if len(cells) != len(columns):
                raise ValueError(f"{path}, line {reader.line_num}: {len(cells)} cells instead of {len(columns)}")
            rows.append((reader.line_num, dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    if not text.endswith("\n"):
        raise ValueError(f"{path}, line {reader.line_num}: the file ends in the middle of a line")
    return rows
