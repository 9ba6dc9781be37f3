"""results/gallery: one execution of each paper on real data, unchanged, but without traces of its machine."""

import ast
import base64
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from repro import rows
from repro.register import CHECKOUT, describe, jobs
from repro.sweep import notebook_path, rows_path, scores_path


RESULTS = CHECKOUT / "results"
LARGEST = 1_500_000  # bytes: code-hosting sites do not render more


def choose(register: dict, paper: str) -> dict:
    """The job of [paper.gallery]: of profile paper if that was executed, else quick. Raises ValueError."""
    if paper not in register or "gallery" not in register[paper]:
        known = ", ".join(name for name in register if "gallery" in register[name]) or "none"
        raise ValueError(f"no [{paper}.gallery] in experiments.toml; papers with one: {known}")
    wanted = register[paper]["gallery"]
    seed = wanted.get("seed", (register[paper].get("seeds") or [0])[0])
    given = [paper], [wanted["dataset"]], [str(wanted["class"])], [seed]
    for profile in ("paper", "quick"):
        job = jobs(register, *given, profile, protocols=[wanted.get("protocol", "official")])[0]  # of two backbones
        if notebook_path(RESULTS, job).is_file() or f": {describe(job)}, executed" in _header(_page(paper)):
            break
    return job


def is_there(job: dict) -> bool:
    """Whether the execution that gave the job's rows exists and has the code that its notebook holds today."""
    return _execution(job)[0] is not None


def hang(job: dict, licence: str) -> Path:
    """Write a job's cleaned notebook, its scores and its cell `cover`, unless its page already shows them.

    Returns the notebook's path. Raises ValueError if it is too big, and for a job without an execution (`is_there`).
    """
    path, (notebook, about) = _page(job["paper"]), _execution(job)
    if notebook is None:
        raise ValueError(f"{describe(job)} has no rows, or no notebook of today's code, under results/: run it first")
    if notebook == path:
        return path
    given = ", ".join(f"{name} = {value!r}" for name, value in job["settings"].items()) or "the notebook's defaults"
    _write(path, notebook, f"{about}  \nSettings of the profile: {given}.  \n{licence}".rstrip())
    for picture in pictures(path, tag="cover"):
        rows.write_whole(path.with_suffix(".png"), picture)
    rows.write_whole(path.with_suffix(".scores.csv.gz"), scores_path(RESULTS, job).read_bytes())
    return path


def hang_summary() -> Path:
    """Write the cleaned summary; returns its path."""
    header = "Executed on the rows under `results/`; each number has its profile next to it."
    return _write(_page("summary"), RESULTS / "notebooks" / "summary.ipynb", header)


def pictures(notebook: Path, tag: str | None = None) -> Iterator[bytes]:
    """The PNG outputs of an executed notebook (of the cells with `tag`, if one is given), in order."""
    for cell in _read(notebook)["cells"]:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}) and (tag is None or tag in cell["metadata"].get("tags", [])):
                yield base64.b64decode("".join(output["data"]["image/png"]))


def _execution(job):
    """(notebook, line about it): the execution, by today's code, that gave the job's rows; the run, or its page."""
    good = [row for row in rows.read(rows_path(RESULTS, job)) if (row["job"], row["status"]) == (job["id"], "ok")]
    if not good:
        return None, ""
    row = max(good, key=lambda row: row["finished"])
    about = (
        f"Profile **{job['profile']}**: {describe(job)}, executed on {row['device'] or 'a device not recorded'}, "
        f"commit {row['commit'] or 'not recorded'}, finished {row['finished']} (job {job['id']})."
    )
    code = _code(CHECKOUT / "notebooks" / f"{job['paper']}.ipynb")
    run, page = notebook_path(RESULTS, job), _page(job["paper"])
    if run.is_file() and _code(run) == code:
        papermill = _read(run)["metadata"]["papermill"]
        if papermill["start_time"][:19] <= row["finished"][:19] <= papermill["end_time"][:19]:  # all UTC, to the second
            return run, about
    return (page, about) if _header(page).startswith(about) and _code(page) == code else (None, "")


def _code(notebook):
    """The code of a notebook, cell by cell, as syntax trees: changed layout or comments need no new run."""
    cells = [cell for cell in _read(notebook)["cells"] if cell["cell_type"] == "code"]
    cells = [cell for cell in cells if "injected-parameters" not in cell["metadata"].get("tags", [])]
    return [ast.dump(ast.parse(re.sub("(?m)^%", "#%", "".join(cell["source"])))) for cell in cells]  # %: of IPython


def _read(notebook):
    return json.loads(notebook.read_text(encoding="utf-8"))


def _page(name):
    return RESULTS / "gallery" / f"{name}.ipynb"


def _header(page):
    return "".join(_read(page)["cells"][0]["source"]) if page.is_file() else ""


def _write(path, executed, header):
    content = cleaned(executed.read_text(encoding="utf-8"), header).encode()
    if len(content) > LARGEST:
        size = f"{len(content) / 1e6:.1f} MB, more than the gallery's {LARGEST / 1e6:.1f} MB"
        raise ValueError(f"the notebook {path.stem} is {size}: make its pictures smaller")
    rows.write_whole(path, content)
    return path


def cleaned(text: str, header: str) -> str:
    """The text of an executed notebook, with `header` as its first cell, without times, random ids and paths."""
    notebook = json.loads(text)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook["metadata"] = {"kernelspec": kernel, "language_info": {"name": "python"}}
    notebook["cells"].insert(0, {"cell_type": "markdown", "id": "header", "metadata": {}, "source": header})
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"]).replace("](../", "](../../")  # a page lies one folder deeper
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["source"] = re.sub(r"(?m)^(out_dir|results_dir) = .*$", r"\1 = None", cell["source"])
            cell["id"] = "injected-parameters"  # papermill gives it a random one
        for part in (cell, *cell.get("outputs", [])):
            for noise in ("papermill", "execution"):
                part.get("metadata", {}).pop(noise, None)
    text = json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    places = {tempfile.gettempdir(): "TEMPORARY", str(CHECKOUT): ".", os.path.expanduser("~"): "~"}
    names = [name for name in ("ADLIB_DATA", "ADLIB_CACHE") if os.environ.get(name)]
    places |= {os.path.abspath(os.environ[name]): f"${name}" for name in names}
    pieces = re.split(r'(?m)(^ *"image/.*$)', text)  # every second piece is a picture, not text
    for path, label in sorted(places.items(), key=lambda place: -len(place[0])):  # an inner folder before its parent
        inside = r"/[\w./-]*" if label == "TEMPORARY" else r"(?![\w.-])"
        if len(path) > 1:
            pieces[::2] = [re.sub(re.escape(path) + inside, label, piece) for piece in pieces[::2]]
    return "".join(pieces)
