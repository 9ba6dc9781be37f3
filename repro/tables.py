"""The pages that `make summary` writes: summary.md, classes.md, gaps.md, costs.md and the table of the README."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from repro import claims, compare, register
from repro.rows import write_whole


START, END = "<!-- results: written by make summary -->", "<!-- end of results -->"
SAME = ["method", "dataset", "protocol", "metric"]  # equal in two records of one method


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, without its index; "None." if it has no lines."""
    lines = [[str(cell).replace("|", "\\|").replace("<", "&lt;") for cell in line] for line in table.to_numpy()]
    header = [list(table), ["---"] * len(table.columns)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [*header, *lines]) if lines else "None."


def write_summary(executed: Path | str, out_dir: Path | str) -> Path:
    """Write out_dir/summary.md: the executed summary.ipynb without code, pictures and steps; returns its path."""
    parts = []
    for cell in json.loads(Path(executed).read_text(encoding="utf-8"))["cells"]:
        is_text = cell["cell_type"] == "markdown" and "steps" not in cell["metadata"].get("tags", [])
        parts += ["".join(cell["source"])] * is_text
        parts += ["".join(output.get("data", {}).get("text/markdown", "")) for output in cell.get("outputs", [])]
    return _write(Path(out_dir) / "summary.md", parts)


def _write(path, paragraphs):
    write_whole(path, ("\n\n".join(filter(None, paragraphs)) + "\n").encode())
    return path


def span(values: pd.Series) -> str:
    """'0.4 to 12': the smallest and largest of numbers, two digits each, or one number; '' if there are none."""
    low, high = (f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in (values.min(), values.max()))
    return "" if values.isna().all() else low if low == high else f"{low} to {high}"


def figures(records: pd.DataFrame, alone: pd.DataFrame) -> list[dict]:
    """The figures per class, for `plots.class_dots`: one per paper, dataset, protocol and metric with rows.

    Takes the tables of `compare.compare` and `ours_alone`. Each is a dict: title, metric, class_names, and series, a
    list of {"label" (method and profile), "color" (a number, the same for a method in all figures), "classes" {class:
    value}, "published" (float or None), "record"}: the paper's own method first, then its others, then the baselines.
    Only the tables show other settings and profiles of a method, and a paper's methods on data for which others print.
    """
    prints = set(zip(records["paper"], records["dataset"], strict=True))
    ran = [line for line in pd.concat([records, alone]).to_dict("records") if line["n_seeds"]]
    baselines = {line["method"] for line in ran if line["row_paper"] == "baselines"}
    places, colors, drawn = {}, {}, []  # (dataset, protocol, metric) -> whose -> records
    for line in ran:
        owner, place = line["row_paper"], (line["dataset"], line["protocol"], line["metric"])
        is_left = owner != "baselines" and (owner, place[0]) not in prints and place[0] in set(records["dataset"])
        if not is_left and not compare.is_variant(line["method"], baselines if owner == "baselines" else {owner}):
            places.setdefault(place, {}).setdefault(owner, []).append(line)
    owners = dict.fromkeys(line["row_paper"] for line in ran if line["row_paper"] != "baselines")
    shown = [(owner, place) for owner in owners for place in places if owner in places[place]]
    shown += [("baselines", place) for place in places if [*places[place]] == ["baselines"]]
    for owner, place in shown:
        lines, series = {}, []
        own = sorted(places[place][owner], key=lambda line: line["method"] != owner)
        for line in [*own, *sorted(places[place].get("baselines", []), key=lambda line: line["paper"] != owner)]:
            lines.setdefault((line["method"], line["row_weights"]), line)
        for line in lines.values():
            label = f"{line['label']}, {line['profile']}" + ", not trained" * bool(line["n_untrained"])
            one = {"label": label, "classes": line["classes"], "record": line}
            one["color"] = colors.setdefault(line["method"], len(colors))
            one["published"] = line["published"] if line["paper"] == owner and line["has_mean"] else None
            series.append(one)
        names = {name for line in lines.values() for name in line["classes"]}
        known = [name for name in compare.class_names(place[0]) if name in names]
        title, names = f"{owner}: {place[0]}, {place[1]}", known + sorted(names - {*known})
        drawn.append({"title": title, "metric": place[2], "class_names": names, "series": series})
    return drawn


def write_classes(out_dir: Path | str, results_dir: compare.Folder = None) -> Path:
    """Write out_dir/classes.md: for each figure of the summary a table and the commands behind it; returns its path."""
    records = compare.compare(None, results_dir)
    parts = [
        "# Class by class\n\nThe rows behind each verdict. A cell is the mean over seeds ± its standard deviation. "
        "*Printed* is the paper's own method, if its classes are printed. A class with three seeds in profile `paper` "
        "has a *verdict*, from all of its seeds. **mean** is over the classes of the column; the printed one is over "
        "all classes of the paper. Each command runs the jobs that have no rows yet, or with `FORCE=1` all of them; "
        "`make verify` with the same words compares old and new rows. Below them is what was measured on copies."
    ]
    for figure in figures(records, compare.ours_alone(records, results_dir)):
        names, own, listed = figure["class_names"], figure["series"][0]["record"], {}
        table = pd.DataFrame({"class": [*names, "**mean**"]})
        if printed := _printed(records, own):
            table["printed"] = [f"{printed[name]:.3f}" if name in printed else "" for name in [*names, "mean"]]
        if verdicts := own["class_verdicts"]:
            table["verdict"] = [*(verdicts.get(name, "") for name in names), own["verdict"]]
        for line in (one["record"] for one in figure["series"]):
            head = f"**{line['method']}**" if line["method"] == own["row_paper"] else line["method"]
            head += " (not trained)" * bool(line["n_untrained"])
            cells = [(line["classes"].get(name, np.nan), line["spreads"].get(name, np.nan)) for name in names]
            table[head] = [*(compare.as_text(*cell) for cell in cells), line["ours"]]
            for what in [f"`{_command(line)}`", *([f"data ({line['words']})"] if line["words"] else [])]:
                listed.setdefault(what, []).append(line["method"])
        listed = "\n".join(f"- {what}: {', '.join(methods)}" for what, methods in listed.items())
        parts += [f"## {_heading(own)}", markdown(table), listed]
    return _write(Path(out_dir) / "classes.md", parts)


def _heading(record):
    return f"{record['row_paper']} {record['dataset']} {record['protocol']} {record['metric']}"


def _printed(records, own):
    """A paper's values of its own method, {class or "mean": value}: of the backbone that ran, else any; else {}."""
    place = [own["row_paper"], own["row_paper"], *(own[name] for name in SAME[1:])]
    same = records[(records[["paper", *SAME]] == place).all(axis=1) & records["published_classes"].astype(bool)]
    if same.empty:
        return {}
    is_other = same["weights"] != own["row_weights"].split("/")[0]
    line = same.loc[is_other.idxmin()]  # the first of that backbone, else the first
    return line["published_classes"] | ({"mean": line["published"]} if line["has_mean"] else {})


def _command(record):
    """The command that produces these rows."""
    backbone = f" BACKBONES={record['row_weights'].split('/')[0]}" if record["row_weights"] else ""
    some = "" if record["n_classes"] == record["n_expected"] else f" CLASSES={','.join(record['classes'])}"
    return (
        f"make reproduce PAPERS={record['row_paper']} DATASETS={record['dataset']} PROTOCOLS={record['protocol']}"
        f"{backbone}{some} SEEDS={','.join(map(str, record['seeds']))} PROFILE={record['profile']}"
    )


def write_readme(path: Path | str, results_dir: compare.Folder = None) -> None:
    """Write `headline` between its marks in the README. Raises ValueError if the marks are missing."""
    text, marks = Path(path).read_text(encoding="utf-8"), (START, END)
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"{path} has no place for the results: between {' and '.join(marks)}")
    write_whole(path, f"{before}{start}\n\n{headline(register.load(), results_dir)}\n\n{end}{after}".encode())


def headline(register: dict, results_dir: compare.Folder = None) -> str:
    """One line for each paper, as Markdown: its question with the answer, printed, and ours with how it was run.

    The numbers are for the first dataset that the question names and that ran; printed and ours cover the same classes.
    If the printed backbone did not run, another one replaces it, and the line says so.
    """
    records = compare.compare(None, results_dir)
    alone = compare.ours_alone(records, results_dir)
    alone = alone[(alone["profile"] != "demo") & (alone["metric"] == "auroc")]
    checked, lines = claims.check(claims.load(), results_dir), []
    for paper in register:
        own = records[(records["paper"] == paper) & (records["method"] == paper) & (records["metric"] == "auroc")]
        asked = [*checked.loc[(checked["paper"] == paper) & checked["answers"].astype(bool), "where"]]
        ran = []
        for record in own.to_dict("records"):
            others = alone[(alone[SAME] == [record[name] for name in SAME]).all(axis=1)].to_dict("records")
            stand_in = [{**other, "published_classes": record["published_classes"]} for other in others[:1]]
            place = f"{record['dataset']}, {record['protocol']}"
            rank = asked.index(place) if place in asked else len(asked)
            ran += [(rank, record, ours) for ours in ([record] if record["n_seeds"] else stand_in)]
        if own.empty:
            continue
        question = f"[{register[paper].get('asks', paper)}](notebooks/{paper}.ipynb)"
        if not ran:
            lines.append([question, own.iloc[0]["printed"], "not run"])
            continue
        rank, record, ours = min(ran, key=lambda line: (line[0], line[2] is not line[1]))
        word, _, run = ours["verdict"].partition(": ")
        run = run or compare.extent((ours["n_classes"], ours["n_expected"], 0), ours["profile"], ours["n_seeds"])
        if ours is not record:
            word, run = "indicative", f"{run}, {ours['weights'].split('/')[0]}, another backbone than the paper's"
        these = compare.mean_of_these(ours)
        printed = record["printed"] if np.isnan(these) else f"{these:.3f}"
        link = f"[{ours['ours']}, {word}](results/classes.md#{_heading(ours).replace(' ', '-')})"
        place = ", ".join(filter(None, [record["dataset"], record["protocol"].replace("official", "")]))
        run = f"On {place}: {run}" + f" ({ours['words']})" * bool(ours["words"])
        lines.append([f"{question} {claims.answer(checked, paper)}", printed, f"{link}. {run}"])
    return markdown(pd.DataFrame(lines, columns=["question and answer", "printed", "ours"]))


def write_costs(out_dir: Path | str, results_dir: compare.Folder = None) -> Path:
    """Write out_dir/costs.md: minutes, memory and device of a job of each paper, from the rows; returns its path."""
    rows, papers = compare.read_all(results_dir), list(register.load())
    rows = rows[(rows["status"] == "ok") & (rows["profile"] != "demo") & rows["paper"].isin(papers)]
    rows = rows.join(compare.run_seconds(rows).rename("seconds"), on="job").dropna(subset="seconds")
    rows = rows.assign(minutes=(rows["seconds"] / 60).round(1).clip(0.1), gb=rows["peak_memory_mb"] / 1000)
    groups = rows.groupby(["paper", "dataset", "profile"], as_index=False)
    devices = ("device", lambda names: ", ".join(sorted({*names})))
    table = groups.agg(minutes=("minutes", span), gb=("gb", "max"), device=devices)
    table = table.sort_values("paper", key=lambda column: column.map(papers.index), kind="stable")
    table = table.assign(paper="`" + table["paper"] + "`", gb=table["gb"].map("{:.1f} GB".format).replace("nan GB", ""))
    table = table.rename(columns={"minutes": "minutes a class and seed", "gb": "memory", "device": "on"})
    text = "# Cost of one job\n\nOne class, one seed, all methods of the notebook, from recorded runs."
    return _write(Path(out_dir) / "costs.md", [text, markdown(table)])


def write_gaps(out_dir: Path | str, notebooks: Path | str = compare.CHECKOUT / "notebooks") -> Path:
    """Write out_dir/gaps.md, section 8 of every notebook on one page: what papers leave open, and what we chose."""
    parts = [
        "# What the papers leave open, and what we chose\n\nSection 8 of each notebook, on one page. *silent*: "
        "the paper says nothing; *measured difference*: the section or the method that shows it."
    ]
    for path in sorted(Path(notebooks).glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        section = re.search(r"(?ms)^## 8\. [^\n]*\n(.*?)(?=^## 9\. )", text)
        if section and re.search(r"(?m)^\|", section[1]):
            title = re.search(r"(?m)^# (.+)$", text)[1]
            parts += [f"## `{path.stem}`: [{title}](../notebooks/{path.name})", section[1].strip()]
    return _write(Path(out_dir) / "gaps.md", parts)
