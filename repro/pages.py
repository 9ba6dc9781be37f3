"""The pages that `make summary` writes beside the summary: tables of the README, results/classes.md, results/gaps.md.

pages.write_readme("README.md", pages.readme_tables())
pages.classes(records, alone), pages.gaps()                       # Markdown
"""

import json
import re
from pathlib import Path

from repro import claims, results, summary
from repro.results import markdown_table


START, END = "<!-- {}: written by make summary -->", "<!-- end of {} -->"


def gaps(notebooks=None):
    """What each paper leaves open and what is done here: section 8 of every notebook on one page, as Markdown."""
    folder = results.CHECKOUT / "notebooks" if notebooks is None else Path(notebooks)
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
    return "\n\n".join(parts) + "\n"


def headline(records, alone, claimed, register):
    """What each paper of the register asks, what it printed of its own method, what came out, and how it was run.

    records: those of `compare`; alone: those of `ours_alone`, of which the own method with another backbone than the
    printed one stands in where nothing else ran; claimed: those of `claims.check`. One line for each printed number
    with rows; the others are named below the table.
    """
    lines, not_run = [], []
    for paper, table in register.items():
        own = [record for record in records if record["paper"] == record["method"] == paper]
        here = f"[`{paper}`](notebooks/{paper}.ipynb)"
        asks = f"{table.get('asks', '')} {claims.answer(claimed, paper)}".strip()
        for record in own:
            ours, word, how = record, *_verdict(record)
            others = [
                one
                for one in alone
                if one["profile"] != "demo"
                and one["weights"] != ours["weights"]
                and all(one[name] == ours[name] for name in ("method", "dataset", "protocol", "metric"))
            ]
            is_alone = not any(one["n_seeds"] and one["dataset"] == record["dataset"] for one in own)
            if not record["n_seeds"] and others and is_alone:
                ours = {**others[0], "published_classes": record["published_classes"]}
                word = "indicative"
                how = f"{_verdict(ours)[1]}, {ours['weights'].split('/')[0]} in place of {record['weights']}"
            if not ours["n_seeds"]:
                backbone = f" with {record['weights']}" if record["weights"] else ""
                not_run.append(f"{paper}{backbone} on {_place(record)} ({summary.as_printed(record)})")
                continue
            these = summary.mean_of_these(ours)
            printed = summary.as_printed(record) + ("" if these is None else f" (for these {these:.3f})")
            link = f"[{word}](results/classes.md#{_anchor(ours)})"
            lines.append([here, asks, _place(record), printed, summary.as_ours(ours), link, how])
            here = asks = ""  # said once
    table = markdown_table(["paper", "asks, and what came out", "on", "printed", "ours", "verdict", "run"], lines)
    return summary.joined([table, f"Printed and not run: {'; '.join(not_run)}." if not_run else ""])


def _place(record):
    """'mnist', 'mvtec, pixel AUROC', 'coil100, 80-20': protocol and metric unless they are the usual ones."""
    metric = {"auroc": "", "balanced_accuracy": "balanced accuracy"}.get(record["metric"])
    metric = claims.NAMES[record["metric"]] if metric is None else metric
    protocol = record["protocol"] if record["protocol"] != "official" else ""
    return ", ".join(filter(None, [record["dataset"], protocol, metric]))


def _verdict(record):
    """(verdict in a word, how it was run) of a record."""
    word, _, how = record["verdict"].partition(": ")
    seeds = f"{record['n_seeds']} seed{'s' * (record['n_seeds'] > 1)}"
    return word, how or f"{record['n_classes']} of {record['n_expected']} classes, {record['profile']}, {seeds}"


def _heading(record):
    return f"{record['row_paper']} {record['dataset']} {record['protocol']} {record['metric']}"


def _anchor(record):
    """What a forge makes of `_heading`."""
    return _heading(record).replace(" ", "-")


def classes(records, alone):
    """Class by class, as Markdown: for each paper, dataset, protocol and metric a table and the command behind it."""
    parts = [
        "# Class by class\n\nThe rows behind each verdict: the mean over seeds, behind ± its standard deviation, "
        "*printed*: the paper's own method, where classes are printed. **mean** is over the classes that a column "
        "has here, the printed one over all of the paper's. A command runs what has no rows yet; with `FORCE=1` "
        "all of it; `make verify` with the same words sets old beside new."
    ]
    for figure in results.bars(records, alone):
        some = [one["record"] for one in figure["series"]]
        own = next((one for one in some if one["row_paper"] != "baselines"), some[0])
        printed = _printed(records, own)
        columns = {"printed": lambda name, of=printed: _number(of.get(name))} if printed else {}
        for one in some:
            head = f"**{one['method']}**" if one["method"] == own["row_paper"] else one["method"]
            columns[head] = lambda name, of=one: _of_class(of, name)
        lines = [
            ["**mean**" if name == "mean" else name, *(column(name) for column in columns.values())]
            for name in [*figure["class_names"], "mean"]
        ]
        commands = {}
        for one in some:
            commands.setdefault(_command(one), []).append(one["method"])
        parts += [
            f"## {_heading(own)}",
            markdown_table(["class", *columns], lines),
            "\n".join(f"- `{command}`: {', '.join(methods)}" for command, methods in commands.items()),
        ]
    return "\n\n".join(parts) + "\n"


def _printed(records, own):
    """What a paper prints of its own method, class -> value, and of its mean; {} where it prints no classes.

    Of the backbone that ran, else of the first.
    """
    some = [
        one
        for one in records
        if one["paper"] == one["method"] == own["row_paper"]
        and one["published_classes"]
        and all(one[name] == own[name] for name in ("dataset", "protocol", "metric"))
    ]
    some.sort(key=lambda one: one["weights"] != (own["row_weights"] or "").split("/")[0])
    return {**some[0]["published_classes"], "mean": some[0]["published"]} if some else {}


def _of_class(record, name):
    """'0.990 ± 0.001': our mean over seeds and its spread, of a class or of the mean over classes."""
    if name == "mean":
        return summary.as_ours(record)
    spread = record["spreads"].get(name)
    return _number(record["classes"].get(name)) + ("" if spread is None else f" ± {spread:.3f}")


def _number(value):
    return "" if value is None else f"{value:.3f}"


def _command(record):
    """The command that makes these rows."""
    backbone = f" BACKBONES={record['row_weights'].split('/')[0]}" if record["row_weights"] else ""
    some = "" if record["n_classes"] == record["n_expected"] else f" CLASSES={','.join(record['classes'])}"
    return (
        f"make reproduce PAPERS={record['row_paper']} DATASETS={record['dataset']} PROTOCOLS={record['protocol']}"
        f"{backbone}{some} SEEDS={','.join(map(str, record['seeds']))} PROFILE={record['profile']}"
    )


def write_readme(path, tables):
    """Put each table, name -> Markdown, between its marks in the README. Raises ValueError where marks are missing."""
    text = Path(path).read_text(encoding="utf-8")
    for name, table in tables.items():
        before, start, rest = text.partition(START.format(name))
        _, end, after = rest.partition(END.format(name))
        if not (start and end):
            raise ValueError(f"{path} has no place for {name}: between {START.format(name)} and {END.format(name)}")
        text = f"{before}{start}\n\n{table}\n\n{end}{after}"
    results.write_whole(path, text.encode())


def readme_tables(results_dir=None):
    """The tables of the README, name -> Markdown."""
    from repro import register

    book = register.load()
    records = results.compare(None, results_dir)
    return {
        "results": headline(
            records, results.ours_alone(records, results_dir), claims.check(claims.load(), results_dir), book
        ),
        "costs": costs(results.read_all(results_dir), book),
    }


def costs(rows, register):
    """What a job of each paper takes, from the rows: minutes, memory, device, as Markdown."""
    from repro import plan

    lines = []
    for paper in register:
        groups = {}
        for row in rows:
            if row["paper"] == paper and row["status"] == "ok" and row["profile"] != "demo" and row["train_seconds"]:
                groups.setdefault((row["dataset"], row["profile"]), {}).setdefault(row["job"], []).append(row)
        for (dataset, profile), runs in sorted(groups.items()):
            seconds = [cost for some in runs.values() if (cost := plan.run_seconds(some)) is not None]
            memory = [float(row["peak_memory_mb"]) for some in runs.values() for row in some if row["peak_memory_mb"]]
            devices = ", ".join(sorted({row["device"] for some in runs.values() for row in some if row["device"]}))
            lines.append(
                [
                    f"`{paper}`",
                    dataset,
                    profile,
                    _minutes(seconds),
                    f"{max(memory) / 1000:.1f} GB" if memory else "",
                    devices,
                ]
            )
    return markdown_table(["paper", "dataset", "profile", "minutes a class and seed", "memory", "on"], lines)


def _minutes(seconds):
    """'0.5 to 12' or '3.4': the least and the largest, in minutes."""
    low, high = (f"{one / 60:.0f}" if one > 600 else f"{one / 60:.1f}" for one in (min(seconds), max(seconds)))
    if high == "0.0":
        return "less than 0.1"
    return low if low == high else f"{low} to {high}"
