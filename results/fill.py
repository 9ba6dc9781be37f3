"""Fill the rows under results/ with what is known of them, though they were written before rows said it.

    python results/fill.py          # in a clone with its history; what is filled already stays as it is

- settings: all that the notebook had at the row's commit, by its cell `parameters`, and what the register gave over it.
  A commit that this clone does not hold, or that was not all ("+dirty"), tells nothing: its rows keep what they have.
- data: what kind of copy of MVTec AD was measured, by the checksums of the four categories that were at hand.

Keys, jobs and numbers stay. Rows of the studies are filled alike, as far as they say what they were measured on.
"""

import functools
import json
import re
import subprocess
import tempfile
from pathlib import Path

from repro import rows
from repro.job import parameters_of, settings_text


RESULTS = Path(__file__).resolve().parent
WORDS = "copy, 320 px JPEG"
COPIES = ["folder:2cf0b1e1", "folder:8d9af169", "folder:cc018eae", "folder:ec86182d"]  # bottle transistor screw pill


@functools.cache
def defaults(paper: str, commit: str) -> dict | None:
    """The parameters of a paper's notebook at a commit; None where nobody knows them."""
    found = subprocess.run(["git", "show", f"{commit}:notebooks/{paper}.ipynb"], cwd=RESULTS, capture_output=True)
    if not re.fullmatch("[0-9a-f]{7,40}", commit) or found.returncode:
        return None
    with tempfile.TemporaryDirectory() as folder:
        notebook = Path(folder, f"{paper}.ipynb")
        notebook.write_bytes(found.stdout)
        return parameters_of(notebook)


def filled(row: dict[str, str], known: dict | None) -> dict[str, str]:
    """A row with all its settings, where the notebook's parameters are `known`, and with the words on a copy."""
    given = {"settings": json.loads(row["settings"] or "{}")}
    settings = row["settings"] if known is None else settings_text(given, known)
    return {**row, "settings": settings, "data": row["data"] + f" ({WORDS})" * (row["data"] in COPIES)}


def main() -> None:
    """Fill all files, and say how many rows there are whose settings stay as they are."""
    left = {}
    for path in sorted(RESULTS.glob("*.csv")):
        before = rows.read(path)
        after = [filled(row, defaults(row["paper"], row["commit"])) for row in before]
        if after != before:
            rows.merge(path, after)
        for row in before:
            if defaults(row["paper"], row["commit"]) is None:
                left[row["paper"], row["commit"]] = left.get((row["paper"], row["commit"]), 0) + 1
    for path in sorted(RESULTS.glob("studies/*.csv")):
        text = path.read_text(encoding="utf-8")
        after = re.sub(rf"(?m)(?<=,)({'|'.join(COPIES)})(?=,|$)", rf'"\1 ({WORDS})"', text)
        if after != text:
            rows.write_whole(path, after.encode())
    for (paper, commit), n in left.items():
        print(f"{n} rows of {paper} keep their settings: commit {commit or 'not recorded'} does not tell")
    print(f"{sum(left.values())} rows keep their settings")


if __name__ == "__main__":
    main()
