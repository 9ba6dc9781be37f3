"""What came out beside what the papers printed: result rows, published tables, verdicts (`summary.py` writes it down).

    results.save(out_dir, [results.row(paper="two_stage", method="cae", ...)], scores)     # in a notebook, at its end
    results.merge("results/two_stage.csv", rows)                                           # in the sweep
    for record in results.compare(["two_stage"]):                                          # in a notebook
        print(record["method"], record["published"], record["ours_mean"], record["profile"], record["verdict"])

Rows are dicts of text (`rows.py`); what the papers printed stands in published/<paper>.csv, one cell a line.
"""

import re
from pathlib import Path

import numpy as np

from repro.files import read_table, write_whole
from repro.rows import COLUMNS, KEY, METRICS, merge, of_stand_ins, progress, read, row, save, standing


__all__ = [
    "COLUMNS",
    "KEY",
    "METRICS",
    "row",
    "save",
    "progress",
    "read",
    "merge",
    "of_stand_ins",
    "published",
    "verdict",
    "TOLERANCE",
    "t_quantile",
    "read_all",
    "compare",
    "ours_alone",
    "bars",
    "method_label",
    "markdown_table",
    "collect",
    "write_whole",
]

TOLERANCE = 0.01  # of a verdict
PUBLISHED_COLUMNS = ["paper", "table", "dataset", "protocol", "class", "method", "weights", "metric", "value", "note"]
CHECKOUT = Path(__file__).resolve().parents[1]
_COPY_IN_PART = re.compile(r"\((\d+ of \d+ classes)\)$")  # what data.py puts behind the source of such a copy


def published(paper, folder=None):
    """The printed cells of a paper, from published/<paper>.csv: dicts of text, `value` a float, and `unit` added.

    folder: where the file is (None: the checkout's published/). `unit` is one unit in the last printed place: 0.001
    for the text 0.750, so trailing zeros matter. Raises FileNotFoundError, and ValueError naming file and line.
    """
    folder = CHECKOUT / "published" if folder is None else Path(folder)
    path = folder / f"{paper}.csv"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.csv"))) or "none"
        raise FileNotFoundError(f"no published table {path}; there are: {known}")
    cells = []
    for number, line in read_table(path, PUBLISHED_COLUMNS):
        where = f"{path}, line {number}"
        if line["paper"] != paper:
            raise ValueError(f"{where}: paper is {line['paper']!r}, not {paper!r}")
        if line["metric"] not in METRICS:
            raise ValueError(f"{where}: metric is {line['metric']!r}, none of {', '.join(METRICS)}")
        whole, _, decimals = line["value"].partition(".")
        if not (whole in ("0", "1") and decimals.isdecimal() and 0 <= float(line["value"]) <= 1):
            raise ValueError(f"{where}: value is {line['value']!r}, not a number in [0, 1] such as 0.973")
        cells.append({**line, "value": float(line["value"]), "unit": 10.0 ** -len(decimals)})
    return cells


def verdict(published, unit, ours, n_expected, profile, n_others=0, copy=""):
    """One phrase on a printed number beside ours, the mean over seeds of the mean over classes.

    published: the printed value; unit: one unit of its last place. ours: per seed a list of values, one per class, the
    same classes for each seed; n_expected: classes the printed number is over (0: not known); n_others: how many of
    ours are none of these. copy: "17 of 100 classes" where the images are of a copy that lacks classes, so that another
    task was measured. "not run" without values; "indicative: 3 of 10 classes, quick, 1 seed" unless just the expected
    classes ran in profile "paper" on whole data; else "reproduced" (off by at most 0.01 and half a unit), "within
    noise" (the printed value lies in the 95 % t-interval of three or more seeds), "above" or "below".
    """
    if not ours:
        return "not run"
    n_classes = len(ours[0]) - n_others
    if profile != "paper" or n_classes != n_expected or n_others or copy:
        others = f" and {n_others} other{'s' * (n_others > 1)}" if n_others else ""
        seeds = f"{len(ours)} seed{'s' * (len(ours) > 1)}"
        in_part = f"a copy of {copy}, " if copy else ""
        return f"indicative: {n_classes} of {n_expected or '?'} classes{others}, {in_part}{profile}, {seeds}"
    means = np.array([np.mean(values) for values in ours])
    difference = float(means.mean() - published)
    rounding = 1e-9  # so that a difference of just the tolerance counts as within it, whatever binary fractions do
    if abs(difference) <= TOLERANCE + unit / 2 + rounding:
        return "reproduced"
    if len(means) >= 3:
        half_width = t_quantile(len(means)) * means.std(ddof=1) / np.sqrt(len(means))
        if abs(difference) <= half_width + rounding:
            return "within noise"
    return "above" if difference > 0 else "below"


def t_quantile(n):
    """Student's 97.5 % quantile for the mean of n values: n - 1 degrees of freedom."""
    from scipy.special import stdtrit  # here, for a job does not need SciPy

    return float(stdtrit(n - 1, 0.975))


def read_all(results_dir=None):
    """The rows of every results_dir/*.csv (None: the checkout's results/), those that stand; checked as by `read`."""
    folder = CHECKOUT / "results" if results_dir is None else Path(results_dir)
    return [cells for path in sorted(folder.glob("*.csv")) for cells in standing(read(path))]


def compare(papers=None, results_dir=None, published_dir=None, register=None):
    """What was printed beside what came out: one dict per printed (method, weights, dataset, protocol, metric).

    papers: list of keys (None: all with a published table). register: set of job ids (None: nothing is stale).
    Keys: paper, method, weights, dataset, protocol, metric, published (the printed mean, else the mean of the printed
    classes), published_classes ({class: value} where the paper prints classes), unit, note, ours_mean, ours_std (over
    seeds; None for one), classes {class: mean over seeds}, spreads {class: standard deviation over seeds} ({} for one),
    seeds (their numbers), n_classes, n_expected, n_others (classes that ran and are
    not among those expected, so not in n_classes either), n_seeds, n_stale, profile, data, image_sizes ({class: size}),
    image_size (all of them: "128 and 512"), row_paper, verdict; the middle ones None where not run.

    Which rows count: `ok`, the paper's own, else those of baselines.csv; profile "paper", else "quick", never "demo";
    the printed backbone, with trained weights, never random ones; never those of stand-ins (`rows.of_stand_ins`); of
    several sources of weights the one with most rows, of several image sizes too, but for classes that have no row of
    that size. Of seeds with different classes, those with the largest set of classes. Classes that the printed mean is
    not over (see `class_names`) count only where not all of its own ran.
    """
    folder = CHECKOUT / "published" if published_dir is None else Path(published_dir)
    papers = sorted(path.stem for path in folder.glob("*.csv")) if papers is None else papers
    rows = [cells for cells in read_all(results_dir) if cells["status"] == "ok" and not of_stand_ins(cells)]
    records = []
    for paper in papers:
        groups = {}
        for cell in published(paper, folder):
            key = tuple(cell[name] for name in ("paper", "method", "weights", "dataset", "protocol", "metric"))
            groups.setdefault(key, []).append(cell)
        records += [
            _compare_group(cells, rows, register)
            for cells in groups.values()
            if not all(cell["class"].startswith("mean_") for cell in cells)  # a mean over a part says nothing alone
        ]
    return records


def _compare_group(cells, rows, register):
    """The record of `compare` for the printed cells of one group."""
    record = {name: cells[0][name] for name in ("paper", "method", "weights", "dataset", "protocol", "metric")}
    means = [cell for cell in cells if cell["class"] == "mean"]
    means = means or [cell for cell in cells if not cell["class"].startswith("mean_")]
    classes = {cell["class"]: cell["value"] for cell in cells if not cell["class"].startswith("mean")}
    record["published_classes"], printed = classes, list(classes)
    record["published"] = float(np.mean([cell["value"] for cell in means]))
    record["unit"] = means[0]["unit"]
    notes = [part for cell in cells for part in cell["note"].split("; ") if part]
    record["note"] = "; ".join(dict.fromkeys(notes))
    over_all = means[0]["class"] == "mean"
    expected = class_names(record["dataset"], record["protocol"]) if over_all else printed
    if not expected and record["protocol"] != "superclass":
        expected = printed  # of a dataset that data.py does not know
    rows = [
        line
        for line in rows
        if all(line[name] == record[name] for name in ("method", "dataset", "protocol"))
        and line["weights"].split("/")[0] == record["weights"]
        and not line["weights"].endswith("/random")
        and line[record["metric"]] != ""
        and (over_all or line["class"] in printed)
    ]
    for source in (record["paper"], "baselines"):
        for profile in ("paper", "quick"):
            mine = [line for line in rows if line["paper"] == source and line["profile"] == profile]
            if mine:
                return _with_ours(record, _largest_variant(mine), expected, register)
    return _with_ours(record, [], expected, register)


def _largest_variant(rows):
    """Of rows that differ in weights or image size: one backbone's, and of each class those of one size.

    The weights with the most rows, then the newest, and so with the size; a class that lacks the size which most rows
    have counts with its own, for a paper may see objects at one size and textures at another.
    """

    def largest(rows, column):
        variants = {}
        for line in rows:
            variants.setdefault(line[column], []).append(line)
        return max(variants.values(), key=lambda some: (len(some), max(line["finished"] for line in some)))

    rows = largest(rows, "weights")
    usual = {line["image_size"] for line in largest(rows, "image_size")}
    by_class = {}
    for line in rows:
        by_class.setdefault(line["class"], []).append(line)
    chosen = []
    for some in by_class.values():
        chosen += [line for line in some if line["image_size"] in usual] or largest(some, "image_size")
    return chosen


def _with_ours(record, rows, expected, register):
    """The record with what these rows, of one method and one profile, say; its verdict where a number was printed.

    expected: the classes that a mean is over, [] where that is not known.
    """
    seeds, expected = {}, set(expected)
    for line in rows:
        seeds.setdefault(int(line["seed"]), {})[line["class"]] = float(line[record["metric"]])
    for seed, values in seeds.items():
        if expected and expected <= values.keys():
            seeds[seed] = {name: value for name, value in values.items() if name in expected}
    seeds = dict(sorted(seeds.items()))
    # the first of them, where several are as large
    largest = max(seeds.values(), key=lambda one: (len(one.keys() & expected), len(one))).keys() if seeds else set()
    seeds = {seed: values for seed, values in seeds.items() if values.keys() == largest}
    rows = [line for line in rows if line["class"] in seeds.get(int(line["seed"]), {})]
    classes = {line["class"]: np.mean([values[line["class"]] for values in seeds.values()]) for line in rows}
    ours = [list(values.values()) for values in seeds.values()]
    means = [np.mean(values) for values in ours]
    sizes = {line["class"]: line["image_size"] for line in rows}
    one = {
        "profile": rows[0]["profile"] if rows else None,
        "image_sizes": sizes,
        "image_size": " and ".join(sorted({*sizes.values()}, key=lambda size: (len(size), size))) if rows else None,
    }
    n_others = len(classes.keys() - expected) if expected else 0
    copies = {found[1] for line in rows if (found := _COPY_IN_PART.search(line["data"]))}
    return (
        record
        | one
        | {
            "row_paper": rows[0]["paper"] if rows else None,
            "row_weights": rows[0]["weights"] if rows else None,
            "ours_mean": float(np.mean(means)) if rows else None,
            "ours_std": float(np.std(means, ddof=1)) if len(means) > 1 else None,
            "classes": {name: float(value) for name, value in classes.items()},
            "seeds": list(seeds),
            "spreads": {name: float(np.std([values[name] for values in seeds.values()], ddof=1)) for name in classes}
            if len(seeds) > 1
            else {},
            "n_classes": len(classes) - n_others,
            "n_expected": len(expected),
            "n_others": n_others,
            "n_seeds": len(seeds),
            "n_stale": sum(register is not None and line["job"] not in register for line in rows),
            "data": ", ".join(sorted({line["data"] for line in rows if line["data"]})) or None,
            "verdict": verdict(
                record["published"],
                record["unit"],
                ours,
                len(expected),
                one["profile"],
                n_others,
                " and ".join(sorted(copies)),
            )
            if record["published"] is not None
            else "not printed",
        }
    )


def class_names(dataset, protocol="official"):
    """The classes a mean over `dataset` is over, as data.py names them; [] where that is not known.

    Of coil100 these are the 30 objects of `data.COIL100_OBJECTS`. In protocol superclass a paper takes some classes of
    CIFAR-100, and which they are it need not say.
    """
    from repro import data  # here, for it imports torch

    if protocol == "superclass":
        return []
    return list(data.COIL100_OBJECTS if dataset == "coil100" else data.CLASS_NAMES.get(dataset, []))


def ours_alone(records, results_dir=None, register=None):
    """Rows that stand beside no printed number (other methods, profile demo, a user's images), as `compare`'s records.

    records: those of `compare`. One record per paper, method, weights, dataset, protocol, image size, profile and
    metric (AUROC, and the pixel metrics where there are any); `published` is None and the verdict "not printed".
    """
    shown = {
        (
            r["metric"],
            r["row_paper"],
            r["method"],
            r["row_weights"],
            r["dataset"],
            r["protocol"],
            size,
            r["profile"],
            name,
        )
        for r in records
        for name, size in r["image_sizes"].items()
    }
    groups = {}
    for line in read_all(results_dir):
        key = tuple(line[c] for c in ("paper", "method", "weights", "dataset", "protocol", "image_size", "profile"))
        for metric in ("auroc", "pixel_auroc", "aupro"):
            if line["status"] == "ok" and line[metric] != "" and (metric, *key, line["class"]) not in shown:
                groups.setdefault((metric, *key), []).append(line)
    records = [
        _with_ours(
            {name: rows[0][name] for name in ("paper", "method", "weights", "dataset", "protocol")}
            | {"metric": metric, "published": None, "published_classes": {}, "unit": None, "note": ""},
            rows,
            class_names(rows[0]["dataset"], rows[0]["protocol"]),
            register,
        )
        for (metric, *_), rows in groups.items()
    ]
    return sorted(records, key=lambda r: (r["paper"] == "baselines", r["paper"], r["dataset"], r["protocol"]))


def bars(records, alone=()):
    """What to draw per class: a list of figures, one per paper, dataset, protocol and metric that have any rows.

    Takes the records of `compare` and `ours_alone`. Each figure is a dict: title, metric, class_names, and series, a
    list of {"label" (method and profile), "color" (a number, the same for a method in all figures), "classes" {class:
    value}, "published" (float or None), "record" (as given)}, the paper's own method first and the baselines last.
    Baselines without a printed number stand in the figures of every paper that has the dataset; other settings of a
    method (ocsvm_oracle beside ocsvm, two_stage_mse beside two_stage) are left to the tables, and to the cross matrix
    what a paper's method does on a dataset of which the paper prints nothing. A paper without rows of its own has no
    figure.
    """
    from repro.register import CROSS

    prints = {(one["paper"], one["dataset"]) for one in records}
    figures, colors, drawn = {}, {}, []
    ran = [one for one in [*records, *alone] if one["n_seeds"]]
    baselines = {one["method"] for one in ran if one["row_paper"] == "baselines"}
    own = {one["row_paper"] for one in ran}
    # the papers' own rows first, then what each prints of the baselines, then what is printed elsewhere or nowhere
    for record in sorted(ran, key=lambda one: (one["row_paper"] == "baselines", one["paper"] not in own)):
        if record["row_paper"] == "baselines" and record["method"].split("_")[0] in baselines - {record["method"]}:
            continue
        if record["method"].startswith(f"{record['row_paper']}_"):
            continue
        place = (record["row_paper"], record["dataset"])
        if place not in prints and place[0] != "baselines" and record["dataset"] in CROSS:
            continue
        key = (
            record["row_paper"] if record["paper"] not in own else record["paper"],
            *(record[name] for name in ("dataset", "protocol", "metric")),
        )
        of_papers = [series for other, series in figures.items() if other[0] != "baselines" and other[1:] == key[1:]]
        for series in (key[0] == "baselines" and of_papers) or [figures.setdefault(key, [])]:
            # a second profile or image size of a method is left to the tables
            if all((one["method"], one["row_weights"]) != (record["method"], record["row_weights"]) for one in series):
                elsewhere = bool(series) and record["paper"] != series[0]["row_paper"]
                series.append(record | {"published": None} if elsewhere else record)
    for key, series in figures.items():
        series = sorted(series, key=lambda one, own=key[0]: (one["method"] != own, one["row_paper"] != own))
        names = class_names(key[1])
        classes = {name for record in series for name in record["classes"]}
        names = [name for name in names if name in classes] + sorted(classes - set(names))
        drawn.append(
            {
                "title": f"{key[0]}: {key[1]}, {key[2]}",
                "metric": key[3],
                "class_names": names,
                "series": [
                    {
                        "label": f"{method_label(record)}, {record['profile']}",
                        "classes": record["classes"],
                        "color": colors.setdefault(record["method"], len(colors)),
                        "published": record["published"],
                        "record": record,
                    }
                    for record in series
                ],
            }
        )
    return drawn


def method_label(record):
    """The method with its backbone: ours with the source of its weights where it ran, else the printed one."""
    weights = record["row_weights"] or record["weights"]
    return f"{record['method']} ({weights})" if weights else record["method"]


def markdown_table(header, lines):
    """A table in Markdown: header, a list of words, and lines of as many cells."""
    cells = [[str(cell).replace("|", "\\|").replace("<", "&lt;") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *cells])


def collect(results_dir=None, published_dir=None, register=None):
    """What `summary.sections` takes, as a dict. register: set of job ids; None: nothing is stale or missing."""
    rows = read_all(results_dir)
    records = compare(None, results_dir, published_dir, register)
    good = [line for line in rows if line["status"] == "ok"]
    missing = None if register is None else (len(register - {line["job"] for line in good}), len(register))
    return {
        "records": records,
        "alone": ours_alone(records, results_dir, register),
        "failed": [line for line in rows if line["status"] == "failed"],
        "stale": [] if register is None else [line for line in good if line["job"] not in register],
        "n_missing": missing,
    }
