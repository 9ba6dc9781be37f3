"""Every method on every dataset: the matrix that none of the papers has, from the result rows.

    cells = cross.matrix(results.read_all())           # a list of dicts, one for each method and dataset
    print(cross.table(cells), cross.costs(cells))      # Markdown
    plots.heat_map(*cross.grid(cells))

Each dataset in its first protocol, over two of its classes (`register.CROSS`), seed 0. No verdict hangs on it: it is
not what the papers print.
"""

import statistics

from repro.register import CROSS
from repro.results import markdown_table
from repro.rows import of_stand_ins


def matrix(rows):
    """The mean over the two classes of each dataset, for each method that has rows of both: a list of dicts.

    Keys: paper, method, dataset, profile, weights, image_size, auroc, train_seconds, ms_per_image, n_parameters,
    device; numbers are floats, None where a row has none. Of two profiles quick counts, which all methods have, else
    paper; never random weights, nor stand-ins. Left out are other settings of a method (two_stage_mse beside
    two_stage). Methods in the order of their papers, baselines last, the paper's own method first.
    """
    good = [
        row
        for row in rows
        if row["status"] == "ok"
        and row["seed"] == "0"
        and row["auroc"]
        and not of_stand_ins(row)
        and row["dataset"] in CROSS
        and row["protocol"] == CROSS[row["dataset"]][0]
        and row["class"] in CROSS[row["dataset"]][1]
        and not row["weights"].endswith("/random")
    ]
    methods = {(row["paper"], row["method"]) for row in good}
    groups = {}
    for row in good:
        if not any(row["method"].startswith(f"{other}_") for paper, other in methods if paper == row["paper"]):
            key = (row["paper"], row["method"], row["dataset"], row["profile"], row["weights"], row["image_size"])
            groups.setdefault(key, {})[row["class"]] = row
    cells = {}
    for (paper, method, dataset, *how), found in sorted(groups.items()):
        if len(found) == len(CROSS[dataset][1]):
            cells.setdefault((paper, method, dataset), []).append((how, list(found.values())))
    order = list(CROSS)
    return sorted(
        (_cell(key, some) for key, some in cells.items()),
        key=lambda one: (
            one["paper"] == "baselines",
            one["paper"],
            one["method"] != one["paper"],
            one["method"],
            order.index(one["dataset"]),
        ),
    )


def _cell(key, some):
    """The cell of one method and dataset: of several profiles and settings the quick one, then the newest."""
    (profile, weights, image_size), rows = max(
        some, key=lambda one: (one[0][0] == "quick", max(row["finished"] for row in one[1]))
    )

    def mean(name):
        values = [float(row[name]) for row in rows if row[name] != ""]
        return statistics.fmean(values) if len(values) == len(rows) else None

    return {
        **dict(zip(("paper", "method", "dataset"), key, strict=True)),
        "profile": profile,
        "weights": weights,
        "image_size": image_size,
        "device": ", ".join(sorted({row["device"] for row in rows})),
        **{name: mean(name) for name in ("auroc", "train_seconds", "ms_per_image", "n_parameters")},
    }


def grid(cells):
    """(methods, datasets, auroc: {(method, dataset): value}, marks: those that are not of profile quick)."""
    methods = list(dict.fromkeys(cell["method"] for cell in cells))
    datasets = [name for name in CROSS if any(cell["dataset"] == name for cell in cells)]
    auroc = {(cell["method"], cell["dataset"]): cell["auroc"] for cell in cells}
    return methods, datasets, auroc, {(c["method"], c["dataset"]): "p" for c in cells if c["profile"] == "paper"}


def table(cells):
    """The AUROCs as Markdown, a line for each method, a column for each dataset; p: profile paper, else quick."""
    methods, datasets, auroc, marks = grid(cells)
    papers = {cell["method"]: cell["paper"] for cell in cells}
    header = ["method", "of", *(f"{name} ({', '.join(CROSS[name][1])})" for name in datasets)]
    return markdown_table(
        header,
        [
            [
                f"**{method}**" if method == papers[method] else method,
                papers[method],
                *(
                    f"{auroc[method, name]:.3f} {marks.get((method, name), '')}".strip()
                    if (method, name) in auroc
                    else ""
                    for name in datasets
                ),
            ]
            for method in methods
        ],
    )


def costs(cells):
    """What they cost as Markdown: seconds to train and milliseconds an image, over the datasets; parameters."""
    lines = []
    for method in dict.fromkeys(cell["method"] for cell in cells):
        some = [cell for cell in cells if cell["method"] == method]
        lines.append(
            [
                method,
                str(len(some)),
                *(
                    span([cell[name] for cell in some if cell[name] is not None])
                    for name in ("train_seconds", "ms_per_image", "n_parameters")
                ),
                ", ".join(dict.fromkeys(cell["device"] for cell in some)),
            ]
        )
    return markdown_table(["method", "datasets", "seconds to train", "ms an image", "parameters", "device"], lines)


def span(values):
    """'0.4 to 12': the least and the largest of numbers, two digits each, or one number; '' where there are none."""
    if not values:
        return ""
    low, high = (f"{value:,.0f}" if value >= 10 else f"{value:.2g}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def against_cost(cells):
    """(method, mean AUROC, mean seconds to train, mean ms an image) of each method with all datasets of the cells."""
    _, datasets, _, _ = grid(cells)
    found = []
    for method in dict.fromkeys(cell["method"] for cell in cells):
        some = [cell for cell in cells if cell["method"] == method]
        if {cell["dataset"] for cell in some} == set(datasets) and all(cell["ms_per_image"] for cell in some):
            found.append(
                (
                    method,
                    *(
                        statistics.fmean(cell[name] for cell in some)
                        for name in ("auroc", "train_seconds", "ms_per_image")
                    ),
                )
            )
    return found
