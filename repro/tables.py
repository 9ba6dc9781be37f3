"""What `make summary` writes: results/summary.md, classes.md and gaps.md, and the tables of the README.

tables.write_summary("results")         # and write_classes, write_gaps
tables.write_readme("README.md")
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from repro import claims, compare
from repro.compare import CHECKOUT, as_ours, as_printed, label
from repro.rows import write_whole


START, END = "<!-- {}: written by make summary -->", "<!-- end of {} -->"
CLAIMS = """\
Each claim of a paper in a sentence of ours, what tests it, and what came out: points are hundredths of AUROC or of
balanced accuracy (B), the mean difference of two methods over classes and seeds, and in brackets its 95 % interval. How
a verdict is reached stands in the last section."""

CROSSED = """\
No paper runs on all datasets of the others. Here each method on those classes of a dataset that most methods ran, seed
0: the mean AUROC. Profile `quick` where it has rows, else `paper`, marked **p**. It says what one gets for so little
training, not what a method could do; the second table says how little it was."""

DEFINITIONS = """\
- **ours**: the mean over seeds of the mean over classes, and behind ± the standard deviation over seeds (n - 1), where
  there are two or more. Where seeds ran different classes, those with the largest set of classes count.
- **auroc**: the share of pairs of a normal and an anomalous test image in which the anomalous one has the higher score;
  ties count one half; 0.5 is chance. **balanced_accuracy**: the largest (TPR + TNR) / 2 over all thresholds.
- **profile**: `paper` is what the paper says, or the best reading of it; `quick` is real data with less training, and
  its numbers say little about the paper; `demo` is embedded data and is never set beside a printed number.
- **verdict** on a number, in profile `paper` with every class run: *reproduced*, at most 0.01 and half a unit of the
  printed rounding away; *within noise*, three or more seeds whose 95 % t-interval holds the printed value; else *above*
  or *below*. *indicative*: anything less than that, and what there is. So is every number measured on a copy that lacks
  whole classes ("17 of 100 classes" behind its checksum): fewer classes to tell apart are another task.
- **verdict** on a claim that one method does better than another: the difference is taken class by class and seed by
  seed, between rows of the same profile, image size and backbone; where there are none, it says what differs (*not
  comparable*). Its 95 % interval is a bootstrap's: classes are drawn with replacement, for each of them its seeds, 9,999
  times, always with the same random numbers. *holds* where the whole interval lies above zero (or above the points that
  are claimed), *does not hold* where it lies below, *undecided* where it holds zero and where there is only one class.
  *above in 8 of 10*: in so many classes the mean over seeds is above zero. *indicative* stands before it unless every
  class ran in profile `paper` with two seeds or more: an interval from two or three classes says little about the rest.
- **printed**: the mean that the paper prints, or, where it prints none, the mean of the classes that it prints. A mean
  over coil100 is taken to be over the 30 objects of PIAD's public code; of other objects it says "and 10 others"."""


def write_summary(
    out_dir: Path | str,
    results_dir: Path | str | None = None,
    published_dir: Path | str | None = None,
    register: set[str] | None = None,
) -> Path:
    """Write out_dir/summary.md from the rows in results_dir (None: out_dir itself); returns its path.

    register: job ids, to tell stale rows and jobs without any (None: neither is told).
    """
    parts = sections(out_dir if results_dir is None else results_dir, published_dir, register)
    title = "# What the papers print, and what came out here\n\nWritten from the result rows; no number here is typed."
    path = Path(out_dir) / "summary.md"
    write_whole(path, (joined([title, *(f"## {name}\n\n{text}" for name, text in parts.items())]) + "\n").encode())
    return path


def sections(results_dir=None, published_dir=None, register: set[str] | None = None) -> dict[str, str]:
    """The parts of the summary, title -> Markdown; each says so where there is nothing."""
    rows = compare.read_all(results_dir)
    records = compare.compare(None, results_dir, published_dir, register)
    alone = compare.ours_alone(records, results_dir, register)
    ran, good = records[records["n_seeds"] > 0], rows[rows["status"] == "ok"]
    stale = good[~good["job"].isin(good["job"] if register is None else register)]
    # the claims are those of the checkout's printed numbers
    is_claimed = published_dir in (None, CHECKOUT / "published") and len(ran) > 0
    own = sorted(dict.fromkeys(ran["paper"]), key=lambda paper: paper not in set(ran["row_paper"]))
    beside = [part for paper in own for part in _beside(paper, ran[ran["paper"] == paper])]
    crossed = matrix(rows)
    stale_text = (
        "The register does not hold the jobs of these rows, or not with these settings (any more). They are kept and "
        "counted above, and run again only when asked for with `FORCE=1`."
    )
    alone_text = (
        "Methods that the paper does not print, embedded data and one's own, and rows for which those of another "
        "profile, image size or backbone stand above."
    )
    checked = claims.shown(claims.check(claims.load(), results_dir)) if is_claimed else pd.DataFrame()
    return {
        "Printed beside ours": joined(beside) or "No row stands beside a printed number yet.",
        "Claim by claim": _or_none(CLAIMS, checked),
        "Every method on every dataset": joined([_or_none(CROSSED, grid(crossed)), markdown(costs(crossed))]),
        "Other rows": _or_none(alone_text, _alone(alone)),
        "Not run": joined([_missing(good, register), _not_run(records[records["n_seeds"] == 0])]),
        "Failed jobs": _or_none("", _listed(rows[rows["status"] == "failed"], ["job", "error", "finished"])),
        "Stale rows": _or_none(stale_text, _listed(stale, ["settings"])),
        "What the numbers are": DEFINITIONS,
    }


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, without its index; '' where it has no line."""
    lines = [[str(cell).replace("|", "\\|").replace("<", "&lt;") for cell in line] for line in table.to_numpy()]
    header = [list(table), ["---"] * len(table.columns)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [*header, *lines]) if lines else ""


def joined(parts: list[str]) -> str:
    """Paragraphs, the empty ones left out."""
    return "\n\n".join(part for part in parts if part)


def _or_none(text, table):
    return joined([text, markdown(table)]) if len(table) else "None."


def _beside(paper, ran):
    table = compare.table(ran)
    notes = dict.fromkeys(f"- {r.method}: {r.note}" for r in ran.itertuples() if r.note)
    return [f"### {paper}", markdown(table), "\n".join(notes)]


def _alone(alone):
    lines = [
        {
            **{name: line[name] for name in ("paper", "dataset", "protocol")},
            "method": label(line),
            "metric": line["metric"],
            "ours": as_ours(line),
            "profile": line["profile"],
            "classes": f"{line['n_classes']} of {line['n_expected'] or '?'}"
            + f" and {line['n_others']} more" * (line["n_others"] > 0),
            "seeds": line["n_seeds"],
            "remarks": compare.remarks(line),
        }
        for line in alone.to_dict("records")
    ]
    return pd.DataFrame(lines)


def _missing(good, register):
    if register is None:
        return ""
    n_missing = len(register - set(good["job"]))
    return f"{n_missing} of the register's {len(register)} jobs (all profiles) have no rows."


def _not_run(records):
    places = {}
    for line in records.to_dict("records"):
        metric = f" ({line['metric']})" * (line["metric"] != "auroc")
        place = f"- {line['paper']}, {line['dataset']}, {line['protocol']}: printed "
        places.setdefault(place, []).append(f"{label(line)} {as_printed(line)}{metric}")
    lines = [place + ", ".join(values) for place, values in places.items()]
    return "\n".join(lines) or "Every printed number has at least a partial run."


def _listed(rows, more):
    """Rows as a table, one line for all classes and methods that agree in the rest."""
    names = ["paper", "dataset", "protocol", "seed", "profile", *more]
    if rows.empty:
        return rows
    listed = rows.groupby(names, sort=False)["class"].agg(lambda names: ", ".join(dict.fromkeys(names)))
    return listed.rename("classes").reset_index()


# ---- every method on every dataset ---------------------------------------------------------------------------------


def matrix(rows: pd.DataFrame) -> pd.DataFrame:
    """Every method on every dataset, on equal terms: one line for each, with mean AUROC, times and parameters.

    Of a dataset the protocol and the classes that most methods ran, where at least half of them did; seed 0; of several
    profiles quick, which most methods have, else paper; a method counts that has all of these classes. Left out are
    other settings of a method (two_stage_mse beside two_stage). Methods in the order of their papers, baselines last.
    """
    from repro import data

    rows = compare.counted(rows)
    rows = rows[(rows["seed"] == 0) & rows["profile"].isin(["quick", "paper"]) & rows["auroc"].notna()]
    methods = rows.groupby("paper")["method"].agg(set)
    pairs = zip(rows["paper"], rows["method"], strict=True)
    rows = rows[[not compare.is_variant(method, methods[paper]) for paper, method in pairs]]
    n = rows.groupby(["dataset", "protocol", "class"])["method"].nunique()
    n = n[(n == n.groupby("dataset").transform("max")) & (n >= rows["method"].nunique() / 2)]
    rows = rows.join(n.rename("n_methods"), on=n.index.names, how="inner")
    rows = rows[rows["protocol"] == rows.groupby("dataset")["protocol"].transform("min")]
    rows["n_classes"] = rows.groupby("dataset")["class"].transform("nunique")
    means = {name: (name, "mean") for name in ("auroc", "train_seconds", "ms_per_image", "n_parameters", "n_classes")}
    cell = ["paper", "method", "dataset", "profile", "weights", "image_size"]
    words = {"classes": ("class", ", ".join), "device": ("device", lambda names: ", ".join(sorted({*names})))}
    cells = rows.groupby(cell).agg(**means, **words, n=("class", "size"), finished=("finished", "max")).reset_index()
    cells = cells[cells["n"] == cells["n_classes"]].sort_values(["profile", "finished"], ascending=False, kind="stable")
    cells = cells.drop_duplicates(cell[:3])
    order = {"is_last": cells["paper"] == "baselines", "is_other": cells["method"] != cells["paper"]}
    cells = cells.assign(**order, place=cells["dataset"].map(list(data.CLASS_NAMES).index))
    return cells.sort_values(["is_last", "paper", "is_other", "method", "place"]).reset_index(drop=True)


def grid(cells: pd.DataFrame) -> pd.DataFrame:
    """The AUROCs of `matrix` as text, a line for each method, a column for each dataset; p: profile paper."""
    texts = cells["auroc"].map("{:.3f}".format) + np.where(cells["profile"] == "paper", " p", "")
    columns = cells["dataset"] + " (" + cells["classes"] + ")"
    name = cells["method"].where(cells["method"] != cells["paper"], "**" + cells["method"] + "**")
    table = cells.assign(text=texts, column=columns, name=name)
    wide = table.pivot(index=["name", "paper"], columns="column", values="text").fillna("")
    wide = wide.reindex(index=pd.MultiIndex.from_frame(table[["name", "paper"]].drop_duplicates()))
    order = table.sort_values("place")["column"].unique()
    return wide[order].reset_index().rename(columns={"name": "method", "paper": "of"})


def costs(cells: pd.DataFrame) -> pd.DataFrame:
    """What the methods of `matrix` cost, the least and the most of the datasets, as text."""
    groups = cells.groupby(["is_last", "paper", "is_other", "method"])
    names = {"train_seconds": "seconds to train", "ms_per_image": "ms an image", "n_parameters": "parameters"}
    table = pd.DataFrame({"datasets": groups.size()})
    for name, title in names.items():
        table[title] = groups[name].agg(lambda values: span(values.dropna()))
    table["device"] = groups["device"].agg(lambda devices: ", ".join(dict.fromkeys(devices)))
    return table.reset_index("method").reset_index(drop=True)


def span(values) -> str:
    """'0.4 to 12': the least and the largest of numbers, two digits each, or one number; '' where there are none."""
    if not len(values):
        return ""
    low, high = (f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


# ---- class by class ------------------------------------------------------------------------------------------------


def figures(records: pd.DataFrame, alone: pd.DataFrame) -> list[dict]:
    """What to draw per class: one figure per paper, dataset, protocol and metric that have rows, for `plots.class_bars`.

    Takes what `compare.compare` and `ours_alone` give. Each is a dict: title, metric, class_names, and series, a list
    of {"label" (method and profile), "color" (a number, the same for a method in all figures), "classes" {class:
    value}, "published" (float or None), "record"}, the paper's own method first and the baselines last, which stand
    in the figures of every paper that has the dataset. Left to the tables are other settings of a method, and a paper's
    methods on a dataset of which it prints nothing, but others do.
    """
    prints = set(zip(records["paper"], records["dataset"], strict=True))
    ran = [line for line in [*records.to_dict("records"), *alone.to_dict("records")] if line["n_seeds"]]
    baselines = {line["method"] for line in ran if line["row_paper"] == "baselines"}
    drawn, places, colors = [], {}, {}
    for line in ran:
        owner, place = line["row_paper"], tuple(line[name] for name in ("dataset", "protocol", "metric"))
        is_left = owner != "baselines" and (owner, place[0]) not in prints and place[0] in set(records["dataset"])
        if not is_left and not compare.is_variant(line["method"], baselines if owner == "baselines" else {owner}):
            places.setdefault(place, {}).setdefault(owner, []).append(line)
    owners = {line["row_paper"]: None for line in ran if line["row_paper"] != "baselines"}
    figures = [(owner, place) for owner in owners for place in places if owner in places[place]]
    figures += [("baselines", place) for place in places if [*places[place]] == ["baselines"]]
    for owner, place in figures:
        own = sorted(places[place][owner], key=lambda line: line["method"] != owner)
        others = sorted(places[place].get("baselines", []), key=lambda line: line["paper"] != owner)
        series = {}
        for line in [*own, *others]:  # a second profile or image size of a method is left to the tables
            series.setdefault((line["method"], line["row_weights"]), line)
        ran_classes = {name for line in series.values() for name in line["classes"]}
        names = [name for name in compare.class_names(place[0]) if name in ran_classes]
        drawn.append(
            {
                "title": f"{owner}: {place[0]}, {place[1]}",
                "metric": place[2],
                "class_names": names + sorted(ran_classes - set(names)),
                "series": [
                    {
                        "label": f"{label(line)}, {line['profile']}",
                        "color": colors.setdefault(line["method"], len(colors)),
                        "classes": line["classes"],
                        "published": line["published"] if line["paper"] == owner and line["unit"] > 0 else None,
                        "record": line,
                    }
                    for line in series.values()
                ],
            }
        )
    return drawn


def write_classes(out_dir: Path | str, results_dir: Path | str | None = None) -> Path:
    """Write out_dir/classes.md: for each figure of the summary a table and the commands behind it; returns its path."""
    records = compare.compare(None, out_dir if results_dir is None else results_dir)
    alone = compare.ours_alone(records, out_dir if results_dir is None else results_dir)
    parts = [
        "# Class by class\n\nThe rows behind each verdict: the mean over seeds, behind ± its standard deviation, "
        "*printed*: the paper's own method, where classes are printed. **mean** is over the classes that a column "
        "has here, the printed one over all of the paper's. A command runs what has no rows yet; with `FORCE=1` "
        "all of it; `make verify` with the same words sets old beside new."
    ]
    for figure in figures(records, alone):
        lines = [one["record"] for one in figure["series"]]
        own, printed = lines[0], _printed(records, lines[0])
        columns = {"class": [*figure["class_names"], "**mean**"]}
        if printed:
            columns["printed"] = [_number(printed.get(name)) for name in [*figure["class_names"], "mean"]]
        commands = {}
        for line in lines:
            head = f"**{line['method']}**" if line["method"] == own["row_paper"] else line["method"]
            of_classes = [
                _number(line["classes"].get(name), line["spreads"].get(name)) for name in figure["class_names"]
            ]
            columns[head] = [*of_classes, as_ours(line)]
            commands.setdefault(_command(line), []).append(line["method"])
        listed = "\n".join(f"- `{command}`: {', '.join(methods)}" for command, methods in commands.items())
        parts += [f"## {_heading(own)}", markdown(pd.DataFrame(columns)), listed]
    path = Path(out_dir) / "classes.md"
    write_whole(path, (joined(parts) + "\n").encode())
    return path


def _heading(record):
    return f"{record['row_paper']} {record['dataset']} {record['protocol']} {record['metric']}"


def _printed(records, own):
    """What a paper prints of its own method, class -> value, and of its mean; {} where it prints no classes.

    Of the backbone that ran, else of the first.
    """
    is_place = (records[["dataset", "protocol", "metric"]] == [own[n] for n in ("dataset", "protocol", "metric")]).all(
        axis=1
    )
    is_own = (records["paper"] == own["row_paper"]) & (records["method"] == own["row_paper"])
    lines = [line for line in records[is_place & is_own].to_dict("records") if line["published_classes"]]
    lines.sort(key=lambda line: line["weights"] != own["row_weights"].split("/")[0])
    return {**lines[0]["published_classes"], "mean": lines[0]["published"]} if lines else {}


def _number(value, spread=np.nan):
    return "" if value is None else f"{value:.3f}" + ("" if np.isnan(spread) else f" ± {spread:.3f}")


def _command(record):
    """The command that makes these rows."""
    backbone = f" BACKBONES={record['row_weights'].split('/')[0]}" if record["row_weights"] else ""
    some = "" if record["n_classes"] == record["n_expected"] else f" CLASSES={','.join(record['classes'])}"
    return (
        f"make reproduce PAPERS={record['row_paper']} DATASETS={record['dataset']} PROTOCOLS={record['protocol']}"
        f"{backbone}{some} SEEDS={','.join(map(str, record['seeds']))} PROFILE={record['profile']}"
    )


# ---- the README, and what papers leave open ------------------------------------------------------------------------


def write_readme(path: Path | str, results_dir: Path | str | None = None) -> None:
    """Write the tables of the README between their marks. Raises ValueError where marks are missing."""
    from repro import register

    text, book = Path(path).read_text(encoding="utf-8"), register.load()
    for name, table in {"results": headline(book, results_dir), "costs": job_costs(book, results_dir)}.items():
        before, start, rest = text.partition(START.format(name))
        _, end, after = rest.partition(END.format(name))
        if not (start and end):
            raise ValueError(f"{path} has no place for {name}: between {START.format(name)} and {END.format(name)}")
        text = f"{before}{start}\n\n{table}\n\n{end}{after}"
    write_whole(path, text.encode())


def headline(register: dict, results_dir: Path | str | None = None) -> str:
    """What each paper asks, what it printed of its own method, what came out, and how it was run, as Markdown.

    Where nothing else ran of the own method, the same with another backbone than the printed one stands in. One line
    for each printed number with rows; the others are named below the table.
    """
    records = compare.compare(None, results_dir)
    alone = compare.ours_alone(records, results_dir).to_dict("records")
    checked = claims.check(claims.load(), results_dir)
    lines, not_run = [], []
    for paper in register:
        own = records[(records["paper"] == paper) & (records["method"] == paper)].to_dict("records")
        here, asks = f"[`{paper}`](notebooks/{paper}.ipynb)", register[paper].get("asks", "")
        asks = f"{asks} {claims.answer(checked, paper)}".strip()
        for record in own:
            ours, word, run = record, *_verdict(record)
            is_alone = not any(line["n_seeds"] and line["dataset"] == record["dataset"] for line in own)
            place = [record[name] for name in ("method", "dataset", "protocol", "metric")]
            others = [
                line
                for line in alone
                if [line[name] for name in ("method", "dataset", "protocol", "metric")] == place
                and line["profile"] != "demo"
                and line["weights"] != record["weights"]
            ]
            if not record["n_seeds"] and others and is_alone:
                ours, word = {**others[0], "published_classes": record["published_classes"]}, "indicative"
                run = f"{_verdict(ours)[1]}, {ours['weights'].split('/')[0]} in place of {record['weights']}"
            if not ours["n_seeds"]:
                backbone = f" with {record['weights']}" if record["weights"] else ""
                not_run.append(f"{paper}{backbone} on {_place(record)} ({as_printed(record)})")
                continue
            these = compare.mean_of_these(ours)
            printed = as_printed(record) + ("" if these is None else f" (for these {these:.3f})")
            link = f"[{word}](results/classes.md#{_heading(ours).replace(' ', '-')})"
            lines.append([here, asks, _place(record), printed, as_ours(ours), link, run])
            here = asks = ""  # said once
    table = pd.DataFrame(lines, columns=["paper", "asks, and what came out", "on", "printed", "ours", "verdict", "run"])
    return joined([markdown(table), f"Printed and not run: {'; '.join(not_run)}." if not_run else ""])


def _place(record):
    """'mnist', 'mvtec, pixel AUROC', 'coil100, 80-20': protocol and metric unless they are the usual ones."""
    metric = {"auroc": "", "balanced_accuracy": "balanced accuracy"}.get(
        record["metric"], claims.NAMES[record["metric"]]
    )
    return ", ".join(filter(None, [record["dataset"], record["protocol"].replace("official", ""), metric]))


def _verdict(record):
    """(verdict in a word, how it was run) of a record."""
    word, _, run = record["verdict"].partition(": ")
    classes = (record["n_classes"], record["n_expected"], 0)
    return word, run or compare.extent(classes, record["profile"] or "", record["n_seeds"])


def job_costs(register: dict, results_dir: Path | str | None = None) -> str:
    """What a job of each paper takes, from the rows: minutes, memory, device, as Markdown."""
    rows = compare.read_all(results_dir)
    rows = rows[(rows["status"] == "ok") & (rows["profile"] != "demo") & rows["paper"].isin(list(register))]
    rows = rows.join(compare.run_seconds(rows).rename("seconds"), on="job").dropna(subset="seconds")
    rows["paper"] = pd.Categorical(rows["paper"], list(register))
    groups = rows.groupby(["paper", "dataset", "profile"], observed=True)
    table = pd.DataFrame(
        {
            "minutes a class and seed": groups["seconds"].agg(_minutes),
            "memory": groups["peak_memory_mb"].max().map(lambda mb: "" if np.isnan(mb) else f"{mb / 1000:.1f} GB"),
            "on": groups["device"].agg(lambda devices: ", ".join(sorted({*devices} - {""}))),
        }
    ).reset_index()
    return markdown(table.assign(paper="`" + table["paper"].astype(str) + "`"))


def _minutes(seconds):
    """'0.5 to 12' or '3.4': the least and the largest, in minutes."""
    low, high = (f"{one / 60:.0f}" if one > 600 else f"{one / 60:.1f}" for one in (min(seconds), max(seconds)))
    if high == "0.0":
        return "less than 0.1"
    return low if low == high else f"{low} to {high}"


def write_gaps(out_dir: Path | str, notebooks: Path | str | None = None) -> Path:
    """Write out_dir/gaps.md, section 8 of every notebook on one page: what papers leave open, and what is done here."""
    folder = CHECKOUT / "notebooks" if notebooks is None else Path(notebooks)
    parts = [
        "# What the papers leave open, and what we chose\n\nSection 8 of each notebook, on one page. *silent*: "
        "the paper says nothing; *measured difference*: the section or the method that shows it."
    ]
    for path in sorted(folder.glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        section = re.search(r"(?ms)^## 8\. [^\n]*\n(.*?)(?=^## 9\. )", text)
        if section and (table := re.search(r"(?m)^\|.*(?:\n\|.*)*", section[1])):
            title = re.search(r"(?m)^# (.+)$", text)[1]
            link = f"[{title}](../notebooks/{path.name})"
            rest = [section[1][: table.start()].strip(), table[0], section[1][table.end() :].strip()]
            parts += [f"## `{path.stem}`: {link}", *filter(None, rest)]
    path = Path(out_dir) / "gaps.md"
    write_whole(path, ("\n\n".join(parts) + "\n").encode())
    return path
