"""results/gallery: of each paper one executed notebook on real data, without the traces of the machine it ran on.

job = choose(register, "two_stage")     # of profile paper where it has been run, else quick
hang(job, licence="MNIST: ...")         # -> results/gallery/two_stage.ipynb and two_stage.scores.csv.gz
"""

import base64
import difflib
import json
import os
import re
import tempfile
from pathlib import Path

from repro import results, worker
from repro.register import CHECKOUT, describe, jobs
from repro.sweep import notebook_path, outstanding, rows_path, scores_path


RESULTS = CHECKOUT / "results"
LARGEST = 1_500_000  # bytes: more than that a forge does not render
ALIKE = 0.7  # of two versions of a code cell, as difflib counts
ROWS = "rows"  # the tag of cells that need nothing but each other: they read tables, result rows and code


def choose(register, paper):
    """The job of [paper.gallery]: profile paper if it has rows and a notebook, else quick. Raises ValueError."""
    if paper not in register or "gallery" not in register[paper]:
        known = ", ".join(name for name in register if "gallery" in register[name]) or "none"
        raise ValueError(f"no [{paper}.gallery] in experiments.toml; papers with one: {known}")
    wanted = register[paper]["gallery"]
    seeds = [wanted.get("seed", (register[paper].get("seeds") or [0])[0])]
    for profile in ("paper", "quick"):
        # the first, where a paper has two backbones
        job = jobs(
            register,
            [paper],
            [wanted["dataset"]],
            [str(wanted["class"])],
            seeds,
            profile,
            protocols=[wanted.get("protocol", "official")],
        )[0]
        if is_there(job):
            return job
    return job


def is_there(job):
    """Whether a job's rows, executed notebook and scores stand under results/, be it in the gallery."""
    _, done, _ = outstanding([job], RESULTS)
    return bool(done) and _executed(job) is not None


def _executed(job):
    """(executed notebook, scores), paths, of the run, else of the page of the gallery that shows it; None: neither."""
    run, page = (notebook_path(RESULTS, job), scores_path(RESULTS, job)), RESULTS / "gallery" / f"{job['paper']}.ipynb"
    shown = (page, page.with_name(f"{job['paper']}.scores.csv.gz"))
    if all(path.is_file() for path in run):
        return run
    if not all(path.is_file() for path in shown):
        return None
    header = "".join(json.loads(page.read_text(encoding="utf-8"))["cells"][0]["source"])
    return shown if f": {describe(job)}, executed" in header else None


def hang(job, licence):
    """Write the cleaned notebook of a job, its scores, and the picture of its cell tagged `cover` for the README.

    Its prose is that of the notebook's source now, its last section set anew from the rows there are (`renewed`).
    Returns the notebook's path. Raises ValueError if it is too big.
    """
    notebook, scores = _executed(job)
    row = next(row for row in results.read(rows_path(RESULTS, job)) if row["job"] == job["id"])
    given = ", ".join(f"{name} = {value!r}" for name, value in job["settings"].items()) or "the notebook's defaults"
    place = f"on `{row['device']}`" if row["device"] else "on a device not recorded"
    text = (
        f"Profile **{job['profile']}**: {describe(job)}, executed {place}.  \n"
        f"Settings of the profile: {given}. Code and outputs are of that run; prose and the last section, from the "
        f"rows under `results/`, are of when this page was hung.  \n{licence}"
    ).rstrip()
    source = CHECKOUT / "notebooks" / f"{job['paper']}.ipynb"
    executed = renewed(notebook.read_text(encoding="utf-8"), source)
    path = _write(job["paper"], executed, text)
    for picture in pictures(path, tag="cover"):
        results.write_whole(path.with_suffix(".png"), picture)
    results.write_whole(path.with_name(f"{job['paper']}.scores.csv.gz"), scores.read_bytes())
    return path


def pictures(notebook, tag=None):
    """The PNG outputs of an executed notebook (of the cells with `tag`, if one is given), in order, as bytes."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}) and (tag is None or tag in cell["metadata"].get("tags", [])):
                yield base64.b64decode("".join(output["data"]["image/png"]))


def hang_summary():
    """Write the cleaned summary; returns its path."""
    executed = (RESULTS / "notebooks" / "summary.ipynb").read_text(encoding="utf-8")
    return _write("summary", executed, "Executed on the rows under `results/`; each number stands beside its profile.")


def renewed(text, source):
    """The text of an executed notebook with the prose of `source`, its path, as it is now, and today's rows.

    A run knows neither the rows that came after it nor what was mended since. Code and outputs stay those of the run,
    found by their code or one much like it; cells of `source` tagged `rows` are executed anew, in a kernel of their
    own. A code cell that only one of the two has is left out, with the prose that is about it alone.
    """
    cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
    notebook = json.loads(text)
    fresh, kept = _fresh(notebook, cells), []
    run = {"".join(cell["source"]): cell for cell in notebook["cells"] if cell["cell_type"] == "code"}
    injected = [cell for cell in run.values() if "injected-parameters" in cell["metadata"].get("tags", [])]
    missing = [code for code in run if code not in {"".join(cell["source"]) for cell in cells}]  # from the source
    for cell in cells:
        code, tags = "".join(cell["source"]), cell["metadata"].get("tags", [])
        alike = difflib.get_close_matches(code, missing, 1, ALIKE) if cell["cell_type"] == "code" else []
        if cell["cell_type"] == "markdown":
            kept.append(cell)
        elif shown := fresh.get(cell["id"]) or run.get(code) or (alike and run[alike[0]]):
            kept += [shown, *(injected if "parameters" in tags else [])]
        elif kept and kept[-1]["cell_type"] == "markdown" and "## " not in "".join(kept[-1]["source"]):
            kept.pop()
    return json.dumps({**notebook, "cells": kept})


def _fresh(notebook, cells):
    """The cells tagged `rows`, executed now: id -> cell."""
    some = [cell for cell in cells if ROWS in cell["metadata"].get("tags", [])]
    if not some:
        return {}
    with tempfile.TemporaryDirectory(prefix="adlib-") as folder:
        small = Path(folder, "rows.ipynb")
        small.write_text(json.dumps({**notebook, "cells": some}), encoding="utf-8")
        worker.set_environment(worker.environment(worker.cores()))
        worker.execute(small, Path(folder, "executed.ipynb"), {})
        found = json.loads(Path(folder, "executed.ipynb").read_text(encoding="utf-8"))["cells"]
    return {cell["id"]: cell for cell in found if ROWS in cell["metadata"].get("tags", [])}


def _write(name, executed, header):
    content = cleaned(executed, header).encode()
    if len(content) > LARGEST:
        raise ValueError(
            f"the notebook {name} is {len(content) / 1e6:.1f} MB, more than the gallery's "
            f"{LARGEST / 1e6:.1f} MB: make its pictures smaller"
        )
    path = RESULTS / "gallery" / f"{name}.ipynb"
    results.write_whole(path, content)
    return path


def cleaned(text, header):
    """The text of an executed notebook with `header` as its first cell, without times, random ids and paths.

    The same run on another machine gives the same bytes as far as its outputs do.
    """
    notebook = json.loads(text)
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    cells = [{"cell_type": "markdown", "id": "header", "metadata": {}, "source": header}, *notebook["cells"]]
    for cell in cells:
        cell["source"] = "".join(cell["source"])
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["source"] = re.sub(r"(?m)^(out_dir|results_dir) = .*$", r"\1 = None", cell["source"])
            cell["id"] = "injected-parameters"  # papermill gives it a random one
        for noise in ("papermill", "execution"):
            cell["metadata"].pop(noise, None)
        for output in cell.get("outputs", []):
            output.get("metadata", {}).pop("papermill", None)
    notebook["cells"] = cells
    return json.dumps(_without_paths(notebook, _places()), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _places():
    """(regular expression, what a reader sees instead) of the folders of this machine, the longest first."""
    places = {str(CHECKOUT): ".", os.path.expanduser("~"): "~"}
    for name in ("ADLIB_DATA", "ADLIB_CACHE"):
        if os.environ.get(name):
            places[os.path.abspath(os.environ[name])] = f"${name}"
    found = [(re.escape(path) + r"(?![\w.-])", label) for path, label in places.items() if len(path) > 1]
    found.append((re.escape(tempfile.gettempdir()) + r"/[\w./-]*", "TEMPORARY"))
    return sorted(found, key=lambda place: -len(place[0]))


def _without_paths(value, places):
    """The same JSON value, paths replaced in all its texts but pictures."""
    if isinstance(value, str):
        for pattern, label in places:
            value = re.sub(pattern, label, value)
        return value
    if isinstance(value, list):
        return [_without_paths(item, places) for item in value]
    if isinstance(value, dict):
        return {key: item if key.startswith("image/") else _without_paths(item, places) for key, item in value.items()}
    return value
