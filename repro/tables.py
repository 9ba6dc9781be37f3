"""The pages that `make summary` writes: summary.md, classes.md, gaps.md and the tables of the README.

tables.write_summary("results/notebooks/summary.ipynb", "results")     # the executed notebook makes its tables itself
tables.write_classes("results"), tables.write_gaps("results"), tables.write_readme("README.md")
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from repro import claims, compare
from repro.rows import write_whole


START, END = "<!-- {}: written by make summary -->", "<!-- end of {} -->"
SAME = ["method", "dataset", "protocol", "metric"]  # what a record shares with another of its method


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, without its index; "None." where it has no line."""
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
    """'0.4 to 12': the least and the largest of numbers, two digits each, or one number; '' where there are none."""
    low, high = (f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in (values.min(), values.max()))
    return "" if values.isna().all() else low if low == high else f"{low} to {high}"


# ---- class by class ------------------------------------------------------------------------------------------------


def figures(records: pd.DataFrame, alone: pd.DataFrame) -> list[dict]:
    """What to draw per class: one figure per paper, dataset, protocol and metric with rows, for `plots.class_bars`.

    Takes what `compare.compare` and `ours_alone` give. Each is a dict: title, metric, class_names, and series, a list
    of {"label" (method and profile), "color" (a number, the same for a method in all figures), "classes" {class:
    value}, "published" (float or None), "record"}: the paper's own method first, then its others, then the baselines.
    Left to the tables are other settings and profiles of a method, and what a paper's methods do on a dataset of which
    it prints nothing, but others do.
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
    found = [(owner, place) for owner in owners for place in places if owner in places[place]]
    found += [("baselines", place) for place in places if [*places[place]] == ["baselines"]]
    for owner, place in found:
        series = {}
        own = sorted(places[place][owner], key=lambda line: line["method"] != owner)
        for line in [*own, *sorted(places[place].get("baselines", []), key=lambda line: line["paper"] != owner)]:
            series.setdefault((line["method"], line["row_weights"]), line)
        ran_classes = {name for line in series.values() for name in line["classes"]}
        names = [name for name in compare.class_names(place[0]) if name in ran_classes]
        series = [
            {
                "label": f"{line['label']}, {line['profile']}",
                "color": colors.setdefault(line["method"], len(colors)),
                "classes": line["classes"],
                "published": line["published"] if line["paper"] == owner and line["has_mean"] else None,
                "record": line,
            }
            for line in series.values()
        ]
        names += sorted(ran_classes - set(names))
        title = f"{owner}: {place[0]}, {place[1]}"
        drawn.append({"title": title, "metric": place[2], "class_names": names, "series": series})
    return drawn


def write_classes(out_dir: Path | str, results_dir: compare.Folder = None) -> Path:
    """Write out_dir/classes.md: for each figure of the summary a table and the commands behind it; returns its path."""
    records = compare.compare(None, results_dir)
    parts = [
        "# Class by class\n\nThe rows behind each verdict: the mean over seeds, behind ± its standard deviation, "
        "*printed*: the paper's own method, where classes are printed. **mean** is over the classes that a column "
        "has here, the printed one over all of the paper's. A command runs what has no rows yet; with `FORCE=1` "
        "all of it; `make verify` with the same words sets old beside new."
    ]
    for figure in figures(records, compare.ours_alone(records, results_dir)):
        names, own, commands = figure["class_names"], figure["series"][0]["record"], {}
        table = {"class": [*names, "**mean**"], "printed": _printed(records, own, names)}
        for line in (one["record"] for one in figure["series"]):
            head = f"**{line['method']}**" if line["method"] == own["row_paper"] else line["method"]
            table[head] = [*(_of_class(line, name) for name in names), line["ours"]]
            commands.setdefault(_command(line), []).append(line["method"])
        table = pd.DataFrame({head: column for head, column in table.items() if column})
        listed = "\n".join(f"- `{command}`: {', '.join(methods)}" for command, methods in commands.items())
        parts += [f"## {_heading(own)}", markdown(table), listed]
    return _write(Path(out_dir) / "classes.md", parts)


def _heading(record):
    return f"{record['row_paper']} {record['dataset']} {record['protocol']} {record['metric']}"


def _printed(records, own, names):
    """What a paper prints of its own method, for these classes and the mean: of the backbone that ran, else any; []."""
    same = records[(records["paper"] == own["row_paper"]) & (records["method"] == own["row_paper"])]
    same = [line for line in same.to_dict("records") if [line[n] for n in SAME[1:]] == [own[n] for n in SAME[1:]]]
    same = [line for line in same if line["published_classes"]]
    same.sort(key=lambda line: line["weights"] != own["row_weights"].split("/")[0])
    mean = {"mean": same[0]["published"]} if same and same[0]["has_mean"] else {}
    values = {**same[0]["published_classes"], **mean} if same else {}
    return [f"{values[name]:.3f}" if name in values else "" for name in [*names, "mean"]] if same else []


def _of_class(record, name):
    """'0.990 ± 0.001': our mean over seeds and its spread, of a class; '' where it did not run."""
    one = {"n_seeds": name in record["classes"], "ours_mean": record["classes"].get(name)}
    return compare.as_ours({**one, "ours_std": record["spreads"].get(name, np.nan)})


def _command(record):
    """The command that makes these rows."""
    backbone = f" BACKBONES={record['row_weights'].split('/')[0]}" if record["row_weights"] else ""
    some = "" if record["n_classes"] == record["n_expected"] else f" CLASSES={','.join(record['classes'])}"
    return (
        f"make reproduce PAPERS={record['row_paper']} DATASETS={record['dataset']} PROTOCOLS={record['protocol']}"
        f"{backbone}{some} SEEDS={','.join(map(str, record['seeds']))} PROFILE={record['profile']}"
    )


# ---- the README, and what papers leave open ------------------------------------------------------------------------


def write_readme(path: Path | str, results_dir: compare.Folder = None) -> None:
    """Write the tables of the README between their marks. Raises ValueError where marks are missing."""
    from repro import register

    text, book = Path(path).read_text(encoding="utf-8"), register.load()
    for name, table in {"results": headline(book, results_dir), "costs": costs(book, results_dir)}.items():
        before, start, rest = text.partition(START.format(name))
        _, end, after = rest.partition(END.format(name))
        if not (start and end):
            raise ValueError(f"{path} has no place for {name}: between {START.format(name)} and {END.format(name)}")
        text = f"{before}{start}\n\n{table}\n\n{end}{after}"
    write_whole(path, text.encode())


def headline(register: dict, results_dir: compare.Folder = None) -> str:
    """What each paper asks, what it printed of its own method, what came out, and how it was run, as Markdown.

    One line for each printed number with rows; the others are named below the table. Where nothing else ran of the own
    method on a dataset, the same with another backbone than the printed one stands in.
    """
    records = compare.compare(None, results_dir)
    alone = compare.ours_alone(records, results_dir)
    alone = alone[alone["profile"] != "demo"]
    checked, lines, not_run = claims.check(claims.load(), results_dir), [], []
    records = records[(records["method"] == records["paper"]) & records["paper"].isin(list(register))]
    ran = set(records.loc[records["n_seeds"] > 0, ["paper", "dataset"]].itertuples(index=False, name=None))
    for record in sorted(records.to_dict("records"), key=lambda record: list(register).index(record["paper"])):
        paper, ours = record["paper"], record
        others = alone[(alone[SAME] == [record[name] for name in SAME]).all(axis=1)].to_dict("records")
        if others and (paper, record["dataset"]) not in ran:
            ours = {**others[0], "published_classes": record["published_classes"]}
        if not ours["n_seeds"]:
            backbone = f" with {record['weights']}" if record["weights"] else ""
            not_run.append(f"{paper}{backbone} on {_place(record)} ({record['printed']})")
            continue
        word, _, run = ours["verdict"].partition(": ")
        run = run or compare.extent((ours["n_classes"], ours["n_expected"], 0), ours["profile"], ours["n_seeds"])
        if ours is not record:
            word, run = "indicative", f"{run}, {ours['weights'].split('/')[0]} in place of {record['weights']}"
        these = compare.mean_of_these(ours)
        asks = f"{register[paper].get('asks', '')} {claims.answer(checked, paper)}".strip()
        said = ["", ""] if any(line[0].startswith(f"[`{paper}`]") for line in lines) else [paper, asks]
        said[0] = said[0] and f"[`{paper}`](notebooks/{paper}.ipynb)"
        printed = record["printed"] + ("" if np.isnan(these) else f" (for these {these:.3f})")
        link = f"[{word}](results/classes.md#{_heading(ours).replace(' ', '-')})"
        lines.append([*said, _place(record), printed, ours["ours"], link, run])
    table = pd.DataFrame(lines, columns=["paper", "asks, and what came out", "on", "printed", "ours", "verdict", "run"])
    return markdown(table) + (f"\n\nPrinted and not run: {'; '.join(not_run)}." if not_run else "")


def _place(record):
    """'mnist', 'mvtec, pixel AUROC', 'coil100, 80-20': protocol and metric unless they are the usual ones."""
    metric = {"auroc": "", "balanced_accuracy": "balanced accuracy"}.get(
        record["metric"], claims.NAMES[record["metric"]]
    )
    return ", ".join(filter(None, [record["dataset"], record["protocol"].replace("official", ""), metric]))


def costs(register: dict, results_dir: compare.Folder = None) -> str:
    """What a job of each paper takes, from the rows: minutes, memory, device, as Markdown."""
    rows = compare.read_all(results_dir)
    rows = rows[(rows["status"] == "ok") & (rows["profile"] != "demo") & rows["paper"].isin(list(register))]
    rows = rows.join(compare.run_seconds(rows).rename("seconds"), on="job").dropna(subset="seconds")
    rows = rows.assign(minutes=(rows["seconds"] / 60).round(1).clip(0.1), gb=rows["peak_memory_mb"] / 1000)
    groups = rows.groupby(["paper", "dataset", "profile"], as_index=False)
    table = groups.agg(
        minutes=("minutes", span), gb=("gb", "max"), device=("device", lambda names: ", ".join(sorted({*names})))
    )
    table = table.sort_values("paper", key=lambda papers: papers.map(list(register).index), kind="stable")
    table = table.assign(paper="`" + table["paper"] + "`", gb=table["gb"].map("{:.1f} GB".format).replace("nan GB", ""))
    return markdown(table.rename(columns={"minutes": "minutes a class and seed", "gb": "memory", "device": "on"}))


def write_gaps(out_dir: Path | str, notebooks: Path | str = compare.CHECKOUT / "notebooks") -> Path:
    """Write out_dir/gaps.md, section 8 of every notebook on one page: what papers leave open, and what is done here."""
    parts = [
        "# What the papers leave open, and what we chose\n\nSection 8 of each notebook, on one page. *silent*: "
        "the paper says nothing; *measured difference*: the section or the method that shows it."
    ]
    for path in sorted(Path(notebooks).glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        section = re.search(r"(?ms)^## 8\. [^\n]*\n(.*?)(?=^## 9\. )", text)
        if section and (table := re.search(r"(?m)^\|.*(?:\n\|.*)*", section[1])):
            title = re.search(r"(?m)^# (.+)$", text)[1]
            before, after = section[1][: table.start()].strip(), section[1][table.end() :].strip()
            parts += [f"## `{path.stem}`: [{title}](../notebooks/{path.name})", before, table[0], after]
    return _write(Path(out_dir) / "gaps.md", parts)
