"""What came out beside what the papers printed, as DataFrames: result rows, published cells, verdicts."""

import re
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd

from repro.register import CHECKOUT
from repro.rows import COLUMNS, METRICS, of_stand_ins, read, read_table, standing


TOLERANCE = 0.01  # of a verdict
PUBLISHED_COLUMNS = ["paper", "table", "dataset", "protocol", "class", "method", "weights", "metric", "value", "note"]
PLACE = ["paper", "method", "weights", "dataset", "protocol", "metric"]  # what tells printed numbers from each other
TIMES = ["train_seconds", "job_seconds", "ms_per_image"]
NUMBERS = ["seed", *METRICS, "n_train", "n_test", "n_anomalous", *TIMES, "n_parameters", "peak_memory_mb", "steps"]
# Methods whose training is a part of what another method's row says already: train_seconds there are sums.
PART_OF = {"two_stage_mse": "two_stage", "two_stage_ssim": "two_stage", "rotnet": "two_stage", "ocsvm_oracle": "ocsvm"}
Folder = Path | str | None


def published(paper: str, folder: Folder = None) -> pd.DataFrame:
    """The printed cells of a paper, from published/<paper>.csv: its columns, `value` a float, and `unit` added.

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
    return pd.DataFrame(cells, columns=[*PUBLISHED_COLUMNS, "unit"])


def frame(rows: list[dict]) -> pd.DataFrame:
    """Result rows, dicts of text, as a DataFrame: seeds, metrics, counts and times as numbers, NaN where empty."""
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.assign(**{name: pd.to_numeric(table[name]) for name in NUMBERS})


def read_all(results_dir: Folder = None) -> pd.DataFrame:
    """The rows of every results_dir/*.csv (None: the checkout's results/) that stand; checked as by `rows.read`."""
    folder = CHECKOUT / "results" if results_dir is None else Path(results_dir)
    return frame([cells for path in sorted(folder.glob("*.csv")) for cells in standing(read(path))])


def counted(rows: pd.DataFrame) -> pd.DataFrame:
    """Those rows that count in a comparison: `ok`, quick or paper, real images, no random weights, no stand-ins."""
    rows = rows[(rows["status"] == "ok") & (rows["profile"] != "demo") & ~rows["weights"].str.endswith("/random")]
    drawn = [of_stand_ins(cells) for cells in rows[["data", "weights"]].to_dict("records")]
    return rows[~np.array(drawn, bool)]


def class_names(dataset: str, protocol: str = "official") -> list[str]:
    """The classes a mean over `dataset` is over, of coil100 `data.COIL100_OBJECTS`; [] where that is not known."""
    from repro import data  # here, for it imports torch

    if protocol == "superclass":
        return []
    return list(data.COIL100_OBJECTS if dataset == "coil100" else data.CLASS_NAMES.get(dataset, []))


def is_variant(method: str, methods: set[str]) -> bool:
    """Whether a method is another setting of one of these, as ocsvm_oracle is of ocsvm."""
    return any(method.startswith(f"{other}_") for other in methods)


def run_seconds(rows: pd.DataFrame) -> pd.Series:
    """Seconds of each job, by its rows: job -> seconds; a job whose rows hold no times is not in it.

    job_seconds where it is there. Else training, once for all methods that share one, and scoring of each test image:
    that leaves out data, kernel, metrics and pictures.
    """
    training = ["job", "train_seconds", "n_parameters", "steps"]  # alike where methods share a training
    methods = set(zip(rows["job"], rows["method"], strict=True))
    is_part = [(job, PART_OF.get(name)) in methods for job, name in zip(rows["job"], rows["method"], strict=True)]
    trained = rows[~np.array(is_part, bool)].dropna(subset="train_seconds").drop_duplicates(training)
    scored = rows.dropna(subset=["ms_per_image", "n_test"]).drop_duplicates([*training, "ms_per_image"])
    scored = (scored["ms_per_image"] * scored["n_test"] / 1000).groupby(scored["job"]).sum()
    parts = trained.groupby("job")["train_seconds"].sum().add(scored, fill_value=0)
    return rows.groupby("job")["job_seconds"].max().dropna().combine_first(parts)


def verdict(
    published: float, unit: float, means: list[float], classes: tuple[int, int, int], profile: str, copy: str = ""
) -> str:
    """One phrase on a printed number beside ours.

    published: the printed value; unit: one unit of its last place. means: of each seed the mean over its classes.
    classes: how many ran of those the printed number is over, how many it is over (0: not known), how many others ran.
    copy: "17 of 100 classes" where the images are of a copy that lacks classes, so that another task was measured.
    "not run" without means; "indicative: 3 of 10 classes, quick, 1 seed" unless just these classes ran in profile
    "paper" on whole data; else "reproduced" (off by at most 0.01 and half a unit), "within noise" (the printed value
    lies in the 95 % t-interval of three or more seeds), "above" or "below".
    """
    if not len(means):
        return "not run"
    if profile != "paper" or classes[0] != classes[1] or classes[2] or copy:
        return f"indicative: {extent(classes, profile, len(means), copy)}"
    means, rounding = np.array(means), 1e-9  # a difference of just the tolerance is within it, whatever fractions do
    difference = means.mean() - published
    if abs(difference) <= TOLERANCE + unit / 2 + rounding:
        return "reproduced"
    if len(means) >= 3 and abs(difference) <= t_quantile(len(means)) * means.std(ddof=1) / len(means) ** 0.5 + rounding:
        return "within noise"
    return "above" if difference > 0 else "below"


def extent(classes: tuple[int, int, int], profile: str, n_seeds: int, copy: str = "") -> str:
    """What was run, in words: '7 of 30 classes and 10 others, paper, 2 seeds'; arguments as of `verdict`."""
    n_classes, n_expected, n_others = classes
    others = f" and {n_others} other{'s' * (n_others > 1)}" if n_others else ""
    parts = [f"{n_classes} of {n_expected or '?'} classes{others}", f"a copy of {copy}" if copy else "", profile]
    return ", ".join(filter(None, [*parts, f"{n_seeds} seed{'s' * (n_seeds > 1)}"]))


def t_quantile(n: int) -> float:
    """Student's 97.5 % quantile for the mean of n values: n - 1 degrees of freedom."""
    from scipy.special import stdtrit  # here, for a job does not need SciPy

    return float(stdtrit(n - 1, 0.975))


def compare(
    papers: list[str] | None = None,
    results_dir: Folder = None,
    published_dir: Folder = None,
    register: set[str] | None = None,
) -> pd.DataFrame:
    """What was printed beside what came out: one line per printed (paper, method, weights, dataset, protocol, metric).

    papers: their keys (None: all with a published table). register: job ids (None: nothing is stale). Columns: PLACE;
    published, the printed mean, else the mean of the printed classes, and printed, as text; published_classes {class:
    value}; ours_mean and ours_std over seeds (NaN: not run, one seed), and ours, as text; classes, spreads and
    image_sizes {class: mean over seeds, standard deviation, size}; seeds; n_classes, n_expected, n_others (that ran and
    are not expected), n_seeds, n_stale; profile, data, row_paper, row_weights ('': not run); label, remarks, verdict.

    Which rows count: those of `counted`, the paper's own, else those of baselines.csv; profile "paper", else "quick";
    the printed backbone; then `largest_variant`. Of seeds with different classes, those with the largest set of them.
    Classes that the printed mean is not over (see `class_names`) count only where not all of its own ran.
    """
    folder = CHECKOUT / "published" if published_dir is None else Path(published_dir)
    papers = sorted(path.stem for path in folder.glob("*.csv")) if papers is None else papers
    rows = by_metric(counted(read_all(results_dir)))
    groups = _grouped(rows.assign(backbone=rows["weights"].str.split("/").str[0]), ["method", "backbone", *PLACE[3:]])
    lines = []
    for line in _printed_numbers(pd.concat([published(paper, folder) for paper in papers])):
        ran = {}  # by what goes before what: the paper's own rows, profile paper
        for row in groups.get(tuple(line[name] for name in PLACE[1:]), []):
            is_asked = line["has_mean"] or row["class"] in line["published_classes"]
            if is_asked and row["paper"] in (line["paper"], "baselines"):
                ran.setdefault((row["paper"] != line["paper"], row["profile"] != "paper"), []).append(row)
        lines.append(_with_ours(line, largest_variant(ran[min(ran)]) if ran else [], register))
    return pd.DataFrame(lines)


def ours_alone(records: pd.DataFrame, results_dir: Folder = None, register: set[str] | None = None) -> pd.DataFrame:
    """Rows that stand beside no printed number (other methods, profile demo, a user's images), in the same columns.

    records: those of `compare`. One line per paper, method, weights, dataset, protocol, image size, profile and metric
    (AUROC, and the pixel metrics where there are any); the verdict is "not printed".
    """
    key = ["paper", "weights", "method", *PLACE[3:], "profile", "image_size"]
    shown = set()
    for line in records.to_dict("records"):
        of_record = line["row_paper"], line["row_weights"], *(line[name] for name in key[2:-1])
        shown |= {(*of_record, size, of_class) for of_class, size in line["image_sizes"].items()}
    rows = read_all(results_dir)
    rows = by_metric(rows[rows["status"] == "ok"])
    rows = rows.assign(is_last=rows["paper"] == "baselines")[rows["metric"] != "balanced_accuracy"]
    rows, lines = rows.sort_values(["is_last", "paper", "dataset", "protocol"], kind="stable"), []
    for place, part in _grouped(rows, key).items():
        if left := [row for row in part if (*place, row["class"]) not in shown]:
            line = {name: left[0][name] for name in PLACE} | dict(published=np.nan, note="", published_classes={})
            line["expected"] = class_names(line["dataset"], line["protocol"])
            lines.append(_with_ours(line, left, register))
    return pd.DataFrame(lines, columns=None if lines else records.columns)


def _grouped(rows, key):
    """The values of the columns `key` -> the rows that have them, as dicts."""
    groups = {}
    for row in rows.to_dict("records"):
        groups.setdefault(tuple(row[name] for name in key), []).append(row)
    return groups


def by_metric(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows once for each metric that they have, as `value` and `metric`, in the order of the rows."""
    names = [name for name in rows if name not in METRICS]
    return rows.melt(names, METRICS, "metric", ignore_index=False).dropna(subset="value").sort_index(kind="stable")


def _printed_numbers(cells):
    """A dict for each printed number: PLACE, value, unit, note, printed classes, those of the mean ([]: not known)."""
    for place, part in cells.groupby(PLACE, sort=False):
        is_mean, is_class = part["class"] == "mean", ~part["class"].str.startswith("mean")
        has_mean, by_class = is_mean.any(), part[is_class].set_index("class")["value"].to_dict()
        number = part[is_mean if has_mean else is_class]
        if number.empty:  # a mean over a part of the classes says nothing alone
            continue
        line = dict(zip(PLACE, place, strict=True))
        expected = class_names(line["dataset"], line["protocol"]) if has_mean else []
        if not expected and not (has_mean and line["protocol"] == "superclass"):
            expected = list(by_class)
        notes = dict.fromkeys(note for text in part["note"] for note in text.split("; ") if note)
        line |= {"published": float(number["value"].mean()), "unit": number["unit"].iloc[0], "has_mean": has_mean}
        yield line | {"note": "; ".join(notes), "published_classes": by_class, "expected": expected}


def largest_variant(rows: list[dict]) -> list[dict]:
    """Of rows that differ in weights or image size those of one backbone, and of each class those of one size.

    What most rows have counts, of several such the newest. A class that lacks the usual size counts with its own, for
    a paper may see objects at one size and textures at another.
    """

    def usual(rows, name):
        times = {}
        for row in rows:
            times.setdefault(row[name], []).append(row["finished"])
        return max(times, key=lambda value: (len(times[value]), max(times[value]), value))

    weights, classes = usual(rows, "weights"), {}
    rows = [row for row in rows if row["weights"] == weights]
    size = usual(rows, "image_size")
    for row in rows:
        classes.setdefault(row["class"], []).append(row)
    for name, part in classes.items():
        of_class = size if any(row["image_size"] == size for row in part) else usual(part, "image_size")
        classes[name] = [row for row in part if row["image_size"] == of_class]
    return [row for part in classes.values() for row in part]


def _with_ours(line, rows, register):
    """The record of a number: with what its rows, of one paper, backbone and profile, say beside it."""
    deviation = lambda values: float(np.std(values, ddof=1)) if len(values) > 1 else np.nan  # noqa: E731
    expected, seeds = line["expected"], {}
    for row in sorted(rows, key=lambda row: row["seed"]):
        seeds.setdefault(row["seed"], {})[row["class"]] = row
    for seed, ran in seeds.items():
        own = {name: row for name, row in ran.items() if name in expected}
        seeds[seed] = own if expected and len(own) == len(expected) else ran  # whole without the others
    names = list(max(seeds.values(), key=lambda ran: (len(ran.keys() & expected), len(ran)), default=[]))
    seeds = {seed: ran for seed, ran in seeds.items() if ran.keys() == set(names)}
    rows = [row for ran in seeds.values() for row in ran.values()]
    values = {name: [ran[name]["value"] for ran in seeds.values()] for name in names}
    means = [fmean(row["value"] for row in ran.values()) for ran in seeds.values()]
    n_classes = len({*names} & {*expected}) if expected else len(names)
    record = line | {f"row_{name}": rows[0][name] if rows else "" for name in ("paper", "weights")}
    for name in ("profile", "data", "image_size"):
        texts = {row[name] for row in rows} - {""}
        record[name] = " and ".join(sorted(texts, key=lambda text: (len(text), text)))
    record["classes"] = {name: fmean(of_class) for name, of_class in values.items()}
    record["spreads"] = {name: deviation(of_class) for name, of_class in values.items()}
    record |= {"image_sizes": {row["class"]: row["image_size"] for row in rows}, "seeds": list(seeds)}
    record |= {"ours_mean": fmean(means) if means else np.nan, "ours_std": deviation(means), "n_seeds": len(seeds)}
    record |= {"n_classes": n_classes, "n_expected": len(expected), "n_others": len(names) - n_classes}
    record["n_stale"] = 0 if register is None else sum(row["job"] not in register for row in rows)
    weights, printed = record["row_weights"] or line["weights"], mean_of_these(record)
    remarks = [
        "" if np.isnan(printed) else f"printed for {', '.join(names)}: {printed:.3f}",
        f"{record['image_size']} px" * bool(record["image_size"]),
        f"data {record['data']}" * (record["data"] not in ("", "official", "embedded")),
        f"{record['n_stale']} of {len(rows)} rows stale" * bool(record["n_stale"]),
    ]
    record |= {"label": line["method"] + f" ({weights})" * bool(weights), "remarks": ", ".join(filter(None, remarks))}
    record |= {"ours": as_text(record["ours_mean"], record["ours_std"]), "printed": "", "verdict": "not printed"}
    if not np.isnan(line["published"]):
        places = max(3, round(-np.log10(line["unit"])))  # as many as it was printed with
        record["printed"] = f"{line['published']:.{places}f}"
        copy = " and ".join(re.findall(r"\((\d+ of \d+ classes)\)", record["data"]))
        classes = (n_classes, len(expected), record["n_others"])
        record["verdict"] = verdict(line["published"], line["unit"], means, classes, record["profile"], copy)
    return record


def as_text(mean: float, spread: float) -> str:
    """'0.990 ± 0.001': a mean and its standard deviation over seeds; without the one, or '', where they are NaN."""
    return "" if np.isnan(mean) else f"{mean:.3f}" + ("" if np.isnan(spread) else f" ± {spread:.3f}")


def mean_of_these(record: dict) -> float:
    """Where only some classes ran, what the paper prints for them, else NaN: the mean over all is no fair neighbour."""
    printed, names = record["published_classes"], record["classes"].keys()
    is_part = names and record["n_classes"] != record["n_expected"] and names <= printed.keys()
    return fmean(printed[name] for name in names) if is_part else np.nan


def table(records: pd.DataFrame) -> pd.DataFrame:
    """The records of `compare` that ran, as text to be read, the paper's own method in bold."""
    ran = records[records["n_seeds"] > 0]
    method = ran["label"].where(ran["method"] != ran["paper"], "**" + ran["label"] + "**")
    names = ["dataset", "protocol", "method", "metric", "printed", "ours", "profile", "verdict", "remarks"]
    return ran.assign(method=method)[names]


def styled(table: pd.DataFrame) -> "pd.io.formats.style.Styler":
    """A table for a notebook: whole texts, aligned left, numbers to three places, nothing where there is nothing."""
    plain = table.replace(r"\*\*|`", "", regex=True)  # bold is for Markdown
    style = plain.style.format(precision=3, na_rep="").set_uuid("table")  # without it a random one
    style = style.set_table_styles([{"selector": "th, td", "props": "text-align: left"}])
    style = style if table.index.names != [None] else style.hide()
    return style.set_caption("" if len(table) else "no rows yet: make reproduce runs what the register holds")
