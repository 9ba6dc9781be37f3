"""The records of `results.compare` as Markdown: results/summary.md.

summary.write_summary("results")                                  # results/summary.md
"""

from pathlib import Path

import numpy as np

from repro import claims, cross, results
from repro.results import markdown_table, method_label


def sections(records, alone=(), failed=(), stale=(), n_missing=None, claimed=(), crossed=()):
    """The parts of the summary, title -> Markdown; each says so where there is nothing.

    records: those of `compare`; alone: those of `ours_alone`; failed: rows with status failed; stale: rows whose job
    the register does not hold; n_missing: (jobs of the register without rows, all its jobs), None where not known;
    claimed: those of `claims.check`; crossed: those of `cross.matrix`.
    """
    ran = [record for record in records if record["n_seeds"]]
    parts = []
    own = {record["row_paper"] for record in ran}  # papers of which not only a baseline ran come first
    for paper in sorted(dict.fromkeys(record["paper"] for record in ran), key=lambda paper: paper not in own):
        some = [record for record in ran if record["paper"] == paper]
        notes = dict.fromkeys(f"- {r['method']}: {r['note']}" for r in some if r["note"])
        parts += [f"### {paper}", _compared(some), "\n".join(notes)]
    not_run = {}
    for record in records:
        if not record["n_seeds"]:
            place = f"{record['paper']}, {record['dataset']}, {record['protocol']}"
            value = f"{method_label(record)} {as_printed(record)}"
            not_run.setdefault(place, []).append(value + (f" ({record['metric']})" * (record["metric"] != "auroc")))
    missing = [f"- {place}: printed {', '.join(values)}" for place, values in not_run.items()]
    jobs = f"{n_missing[0]} of the register's {n_missing[1]} jobs (all profiles) have no rows." if n_missing else ""
    return {
        "Printed beside ours": joined(parts) or "No row stands beside a printed number yet.",
        "Claim by claim": joined([CLAIMS, claims.table(claimed)]) if claimed else "None.",
        "Every method on every dataset": joined([CROSSED, cross.table(crossed), cross.costs(crossed)])
        if crossed
        else "None.",
        "Other rows": joined(
            [
                "Methods that the paper does not print, embedded data and one's own, and rows for which those of "
                "another profile, image size or backbone stand above.",
                _alone(alone),
            ]
        )
        if alone
        else "None.",
        "Not run": joined([jobs, "\n".join(missing) or "Every printed number has at least a partial run."]),
        "Failed jobs": _listed(failed, ["job", "error", "finished"]) if failed else "None.",
        "Stale rows": joined(
            [
                "The register does not hold the jobs of these rows, or not with these settings (any more). They are "
                "kept and counted above, and run again only when asked for with `FORCE=1`.",
                _listed(stale, ["settings"]),
            ]
        )
        if stale
        else "None.",
        "What the numbers are": DEFINITIONS,
    }


def _compared(records):
    header = ["dataset", "protocol", "method", "metric", "printed", "ours", "profile", "verdict", "remarks"]
    return markdown_table(
        header,
        [
            [
                r["dataset"],
                r["protocol"],
                f"**{method_label(r)}**" if r["method"] == r["paper"] else method_label(r),
                r["metric"],
                as_printed(r),
                as_ours(r),
                r["profile"],
                r["verdict"],
                _remarks(r),
            ]
            for r in records
        ],
    )


def _alone(records):
    header = ["paper", "dataset", "protocol", "method", "metric", "ours", "profile", "classes", "seeds", "remarks"]
    return markdown_table(
        header,
        [
            [
                r["paper"],
                r["dataset"],
                r["protocol"],
                method_label(r),
                r["metric"],
                as_ours(r),
                r["profile"],
                f"{r['n_classes']} of {r['n_expected'] or '?'}"
                + (f" and {r['n_others']} more" if r["n_others"] else ""),
                str(r["n_seeds"]),
                _remarks(r),
            ]
            for r in records
        ],
    )


def _listed(rows, more):
    """Rows as a table, one line for all classes and methods that agree in the rest."""
    names = ["paper", "dataset", "protocol", "seed", "profile", *more]
    lines = {}
    for line in rows:
        lines.setdefault(tuple(line[name] for name in names), {})[line["class"]] = None  # a dict: in order, each once
    return markdown_table([*names, "classes"], [[*key, ", ".join(classes)] for key, classes in lines.items()])


def as_printed(record):
    """The printed value, to as many places as it was printed with."""
    return f"{record['published']:.{max(3, round(-np.log10(record['unit'])))}f}"


def as_ours(record):
    """Our mean, and behind ± its standard deviation over seeds."""
    spread = "" if record["ours_std"] is None else f" ± {record['ours_std']:.3f}"
    return f"{record['ours_mean']:.3f}{spread}"


def _remarks(record):
    size = f"{record['image_size']} px" if record["image_size"] else ""
    data = f"data {record['data']}" if record["data"] not in (None, "official", "embedded") else ""
    n_rows = len(record["classes"]) * record["n_seeds"]
    stale = f"{record['n_stale']} of {n_rows} rows stale" if record["n_stale"] else ""
    return ", ".join(part for part in (_printed_for_these(record), size, data, stale) if part)


def _printed_for_these(record):
    mean = mean_of_these(record)
    return "" if mean is None else f"printed for {', '.join(record['classes'])}: {mean:.3f}"


def mean_of_these(record):
    """Where only some classes ran, what the paper prints for them: the mean over all would be no fair neighbour."""
    printed = record["published_classes"]
    if record["n_classes"] == record["n_expected"] or not record["classes"].keys() <= printed.keys():
        return None
    return float(np.mean([printed[name] for name in record["classes"]]))


def joined(parts):
    """Paragraphs, the empty ones left out."""
    return "\n\n".join(part for part in parts if part)


CLAIMS = """\
Each claim of a paper in a sentence of ours, what tests it, and what came out: points are hundredths of AUROC or of
balanced accuracy (B), the mean over classes of the difference of two methods on the same images with the same seed, ±
its standard deviation over seeds. *holds* and *does not hold*: by the sign of the mean, and where there are seeds only
if its 95 % t-interval leaves out zero, else *undecided*; *indicative* stands before it unless every class ran in
profile `paper` with two seeds or more."""

CROSSED = """\
No paper runs on all datasets of the others. Here each method on two classes of each dataset, as far as it ran, seed 0:
AUROC, mean over the two. Protocol `80-20` for COIL-100 (a copy of 17 objects), `superclass` for CIFAR-100, else
`official`. Profile `quick` where it has rows, else `paper`, marked **p**. It says what one gets for so little training,
not what a method could do; the second table says how little it was."""

DEFINITIONS = """\
- **ours**: the mean over seeds of the mean over classes, and behind ± the standard deviation over seeds (n - 1), where
  there are two or more. Where seeds ran different classes, those with the largest set of classes count.
- **auroc**: the share of pairs of a normal and an anomalous test image in which the anomalous one has the higher score;
  ties count one half; 0.5 is chance. **balanced_accuracy**: the largest (TPR + TNR) / 2 over all thresholds.
- **profile**: `paper` is what the paper says, or the best reading of it; `quick` is real data with less training, and
  its numbers say little about the paper; `demo` is embedded data and is never set beside a printed number.
- **verdict**, in profile `paper` with every class run: *reproduced*, at most 0.01 and half a unit of the printed
  rounding away; *within noise*, three or more seeds whose 95 % t-interval holds the printed value; else *above* or
  *below*. *indicative*: anything less than that, and what there is. So is every number measured on a copy that lacks
  whole classes ("17 of 100 classes" behind its checksum): fewer classes to tell apart are another task.
- **printed**: the mean that the paper prints, or, where it prints none, the mean of the classes that it prints. A mean
  over coil100 is taken to be over the 30 objects of PIAD's public code; of other objects it says "and 10 others"."""


def summary_markdown(records, **parts):
    """The whole summary as Markdown; takes what `sections` takes."""
    title = "# What the papers print, and what came out here\n\nWritten from the result rows; no number here is typed."
    return joined([title, *(f"## {name}\n\n{text}" for name, text in sections(records, **parts).items())]) + "\n"


def collect(results_dir=None, published_dir=None, register=None):
    """What `sections` takes, as a dict; the claims where a row stands beside one of the checkout's printed numbers."""
    parts = results.collect(results_dir, published_dir, register)
    ours = published_dir in (None, results.CHECKOUT / "published") and any(one["n_seeds"] for one in parts["records"])
    return {
        **parts,
        "claimed": claims.check(claims.load(), results_dir) if ours else [],
        "crossed": cross.matrix(results.read_all(results_dir)),
    }


def write_summary(out_dir, results_dir=None, published_dir=None, register=None):
    """Write out_dir/summary.md from the rows in results_dir (None: out_dir itself); returns its path."""
    path = Path(out_dir) / "summary.md"
    parts = collect(out_dir if results_dir is None else results_dir, published_dir, register)
    results.write_whole(path, summary_markdown(**parts).encode())
    return path
