"""Our results compared with the papers' printed numbers, as DataFrames: result rows, published cells, verdicts."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from repro.register import CHECKOUT
from repro.rows import COLUMNS, METRICS, is_untrained, of_stand_ins, read, read_table, standing
from repro.verdicts import among, extent, of_classes, verdict


PUBLISHED_COLUMNS = ["paper", "table", "dataset", "protocol", "class", "method", "weights", "metric", "value", "note"]
PLACE = ["paper", "method", "weights", "dataset", "protocol", "metric"]  # these columns identify a printed number
TABLE = ["paper", "table", "dataset", "protocol", "metric"]  # the same for all numbers of one printed table
TIMES = ["train_seconds", "job_seconds", "ms_per_image"]
NUMBERS = ["seed", *METRICS, "n_train", "n_test", "n_anomalous", *TIMES, "n_parameters", "peak_memory_mb", "steps"]
# Methods whose training is already counted in the row of another method, whose train_seconds is a sum.
PART_OF = {"two_stage_mse": "two_stage", "two_stage_ssim": "two_stage", "rotnet": "two_stage", "ocsvm_oracle": "ocsvm"}
Folder = Path | str | None


def published(paper: str, folder: Folder = None) -> pd.DataFrame:
    """The printed cells of a paper, from published/<paper>.csv: its columns, `value` a float, and `unit` added.

    folder: where the file is (None: the checkout's published/). `unit` is one unit in the last printed place: 0.001
    for the text 0.750, so trailing zeros matter. Raises FileNotFoundError, and ValueError with file and line.
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
    """The valid rows (`rows.standing`) of every results_dir/*.csv (None: the checkout's results/); see `rows.read`."""
    folder = CHECKOUT / "results" if results_dir is None else Path(results_dir)
    return frame([cells for path in sorted(folder.glob("*.csv")) for cells in standing(read(path))])


def counted(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that count in a comparison: `ok`, quick or paper, real images, no random weights, no stand-ins."""
    rows = rows[(rows["status"] == "ok") & (rows["profile"] != "demo") & ~rows["weights"].str.endswith("/random")]
    drawn = [of_stand_ins(cells) for cells in rows[["data", "weights"]].to_dict("records")]
    return rows[~np.array(drawn, bool)]


def trained(rows: pd.DataFrame) -> pd.DataFrame:
    """All rows except those of networks that learned nothing (`rows.is_untrained`)."""
    found = [is_untrained(cells) for cells in rows[["paper", "diagnostics"]].to_dict("records")]
    return rows[~np.array(found, bool)]


def class_names(dataset: str, protocol: str = "official") -> list[str]:
    """The classes that a mean over `dataset` covers (coil100: `data.COIL100_OBJECTS`); [] if they are not known."""
    from repro import data  # here, because it imports torch

    if protocol == "superclass":
        return []
    return list(data.COIL100_OBJECTS if dataset == "coil100" else data.CLASS_NAMES.get(dataset, []))


def is_variant(method: str, methods: set[str]) -> bool:
    """Whether a method is another setting of one of `methods`, as ocsvm_oracle is of ocsvm."""
    return any(method.startswith(f"{other}_") for other in methods)


def run_seconds(rows: pd.DataFrame) -> pd.Series:
    """The seconds of each job from its rows: job -> seconds; jobs whose rows hold no times are left out.

    job_seconds if the rows have it; else only training, counted once for all methods that share it, and scoring.
    """
    training = ["job", "train_seconds", "n_parameters", "steps"]  # equal if methods share a training
    methods = set(zip(rows["job"], rows["method"], strict=True))
    is_part = [(job, PART_OF.get(name)) in methods for job, name in zip(rows["job"], rows["method"], strict=True)]
    trained = rows[~np.array(is_part, bool)].dropna(subset="train_seconds").drop_duplicates(training)
    scored = rows.dropna(subset=["ms_per_image", "n_test"]).drop_duplicates([*training, "ms_per_image"])
    scored = (scored["ms_per_image"] * scored["n_test"] / 1000).groupby(scored["job"]).sum()
    parts = trained.groupby("job")["train_seconds"].sum().add(scored, fill_value=0)
    return rows.groupby("job")["job_seconds"].max().dropna().combine_first(parts)


def compare(
    papers: list[str] | None = None,
    results_dir: Folder = None,
    published_dir: Folder = None,
    register: set[str] | None = None,
) -> pd.DataFrame:
    """Printed numbers next to ours: one line per printed (paper, method, weights, dataset, protocol, metric).

    papers: their keys (None: all with a published table). register: job ids (None: nothing is stale). Columns: PLACE;
    published, the printed mean or else the mean of the printed classes, and printed, the same as text;
    published_classes {class: value}; ours_mean and ours_std over seeds (NaN: not run, one seed), and ours, both as
    text; classes, spreads and image_sizes {class: mean over seeds, standard deviation, size}; class_verdicts, from all
    seeds of a class; seeds; n_classes, n_expected, n_others (classes that ran and are not expected), n_seeds, n_stale;
    profile, data, words (the part of data in brackets), row_paper, row_weights ('': not run); label, remarks, verdict.

    Rows of `counted` count, with the printed backbone: the paper's own, or else those of baselines.csv; profile
    "paper", or else "quick"; `largest_variant` chooses weights and image size. If seeds differ in their classes, the
    seeds with most classes count. Classes outside the printed mean count only if not all of its own classes ran.
    """
    folder = CHECKOUT / "published" if published_dir is None else Path(published_dir)
    papers = sorted(path.stem for path in folder.glob("*.csv")) if papers is None else papers
    records = _printed_numbers(pd.concat([published(paper, folder) for paper in papers]))
    rows = by_metric(counted(read_all(results_dir))).rename(columns={"paper": "row_paper"})
    rows = rows.assign(row_weights=rows["weights"], weights=rows["weights"].str.split("/").str[0])
    rows = records.rename_axis("of").reset_index().drop(columns="note").merge(rows, on=PLACE[1:])
    asked = zip(rows["has_mean"], rows["published_classes"], rows["class"], strict=True)
    is_asked = np.array([has_mean or name in printed for has_mean, printed, name in asked], bool)
    rows = rows[is_asked & ((rows["row_paper"] == rows["paper"]) | (rows["row_paper"] == "baselines"))]
    # own rows before baselines, then profile paper before quick
    rank = 2 * (rows["row_paper"] != rows["paper"]) + (rows["profile"] != "paper")
    return _with_ours(records, largest_variant(rows[rank == rank.groupby(rows["of"]).transform("min")]), register)


def ours_alone(records: pd.DataFrame, results_dir: Folder = None, register: set[str] | None = None) -> pd.DataFrame:
    """Rows without a printed number (other methods, profile demo, a user's images), in the same columns.

    records: from `compare`. One line per paper, method, weights, dataset, protocol, image size, profile and metric
    (AUROC, and pixel metrics if there are any); the verdict is "not printed".
    """
    key = ["row_paper", "method", "row_weights", "dataset", "protocol", "metric", "profile"]
    shown = {
        (*(line[name] for name in key), size, of_class)
        for line in records.to_dict("records")
        for of_class, size in line["image_sizes"].items()
    }
    rows = read_all(results_dir).query("status == 'ok'")
    rows = by_metric(rows.assign(row_paper=rows["paper"], row_weights=rows["weights"]))
    is_shown = [cells in shown for cells in rows[[*key, "image_size", "class"]].itertuples(index=False, name=None)]
    rows = rows[(rows["metric"] != "balanced_accuracy") & ~np.array(is_shown, bool)]
    rows = rows.assign(is_last=rows["paper"] == "baselines")
    rows["of"] = rows.groupby([*key, "image_size"], sort=False).ngroup()
    rows = rows.sort_values(["is_last", "paper", "dataset", "protocol"], kind="stable")
    alone = rows.drop_duplicates("of").set_index("of")[PLACE]
    alone = alone.assign(published=np.nan, unit=np.nan, table="", note="", has_mean=False)
    alone["expected"] = [class_names(*place) for place in zip(alone["dataset"], alone["protocol"], strict=True)]
    return _with_ours(alone.assign(published_classes=[{} for _ in alone.index]), rows, register)


def by_metric(rows: pd.DataFrame) -> pd.DataFrame:
    """Each row repeated for every metric that it has, as `value` and `metric`, in the order of the rows."""
    names = [name for name in rows if name not in METRICS]
    return rows.melt(names, METRICS, "metric", ignore_index=False).dropna(subset="value").sort_index(kind="stable")


def _printed_numbers(cells):
    """One line per printed number: value, unit, note, the printed classes, the classes of the mean ([]: unknown)."""
    cells = cells.assign(is_mean=cells["class"] == "mean", is_class=~cells["class"].str.startswith("mean"))
    notes = cells.groupby(PLACE, sort=False)["note"].agg("; ".join)
    has_mean = cells.groupby(PLACE)["is_mean"].transform("any")
    number = cells[np.where(has_mean, cells["is_mean"], cells["is_class"])].groupby(PLACE)
    first = {name: (name, "first") for name in ("table", "unit")}
    number = number.agg(published=("value", "mean"), **first, has_mean=("is_mean", "any"))
    records = notes.to_frame().join(number, how="inner")  # a mean over a part of the classes is not enough
    records["note"] = ["; ".join(filter(None, dict.fromkeys(note.split("; ")))) for note in records["note"]]
    by_class = cells[cells["is_class"]].groupby(PLACE)
    records["published_classes"] = _dicts(by_class, "class", "value", records.index)
    records, expected = records.reset_index(), []
    for line in records.itertuples():
        known = class_names(line.dataset, line.protocol) if line.has_mean else []
        is_open = line.has_mean and line.protocol == "superclass"
        expected.append(known or ([] if is_open else list(line.published_classes)))
    return records.assign(expected=expected)


def _dicts(groups, key, value, index):
    """For each entry of `index`, the dict key -> value of that group; {} if there is no such group."""
    found = {place: dict(zip(part[key], part[value], strict=True)) for place, part in groups}
    return [found.get(place, {}) for place in index]


def _usual(rows, by, column):
    """For each row, the most frequent value of a column in its group; among equally frequent values, the newest."""
    found = rows.groupby([*by, column])["finished"].agg(["size", "max"]).sort_values(["size", "max"]).reset_index()
    return rows[by].merge(found.groupby(by)[column].last().reset_index(), "left", by)[column].to_numpy()


def largest_variant(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one row_weights per record (`of`) and one image size per class: the most frequent ones.

    A class without rows of the usual size keeps its own size: a paper may use one size for objects, one for textures.
    """
    rows = rows[rows["row_weights"] == _usual(rows, ["of"], "row_weights")]
    is_usual = rows["image_size"] == _usual(rows, ["of"], "image_size")
    is_lacking = ~is_usual.groupby([rows["of"], rows["class"]]).transform("any")
    return rows[is_usual | (is_lacking & (rows["image_size"] == _usual(rows, ["of", "class"], "image_size")))]


def _with_ours(records, rows, register):
    """The records with the results of their rows; column `of` of the rows is the index of their record."""
    records = records.assign(n_expected=records["expected"].map(len))
    expected = zip(rows["of"].map(records["expected"]), rows["class"], strict=True)
    reported = rows[["row_paper", "diagnostics"]].set_axis(["paper", "diagnostics"], axis=1).to_dict("records")
    rows = rows.assign(
        is_expected=np.array([not names or name in names for names, name in expected], bool),
        is_untrained=np.array(list(map(is_untrained, reported)), bool),
        words=rows["data"].str.extract(r" \((.+)\)$", expand=False).fillna(""),
        copy=lambda rows: rows["words"].where(rows["words"].str.fullmatch(r"\d+ of \d+ classes"), ""),
    )
    n_ran = rows.groupby(["of", "seed"])["is_expected"].transform("sum")
    rows = rows[rows["is_expected"] | (n_ran < rows["of"].map(records["n_expected"]))]  # complete without the others
    judged = rows[(rows["profile"] == "paper") & (rows["copy"] == "") & ~rows["is_untrained"]]
    judged = judged.groupby(["of", "class"])["value"].agg(list).reset_index("class").groupby("of")
    judged = records["published_classes"], records["unit"], _dicts(judged, "class", "value", records.index)
    records["class_verdicts"] = list(map(of_classes, *judged))
    seeds = rows.groupby(["of", "seed"]).agg(
        names=("class", frozenset), n=("is_expected", "sum"), n_ran=("class", "size"), mean=("value", "mean")
    )
    largest = seeds.sort_values(["n", "n_ran"], ascending=False, kind="stable").groupby("of")["names"].first()
    seeds = seeds[seeds["names"] == largest.reindex(seeds.index.get_level_values("of")).to_numpy()].reset_index()
    rows = rows.merge(seeds[["of", "seed"]], on=["of", "seed"])
    rows["is_stale"] = False if register is None else ~rows["job"].isin(register)
    firsts = {name: (name, "first") for name in ("profile", "row_paper", "row_weights")}
    texts = {name: (name, _words) for name in ("words", "copy", "image_size")} | {"data": ("data", _sources)}
    ours = rows.groupby("of").agg(**firsts, **texts, n_stale=("is_stale", "sum"), n_untrained=("is_untrained", "sum"))
    numbers = {"ours_mean": ("mean", "mean"), "ours_std": ("mean", "std"), "n_classes": ("n", "first")}
    lists = {"means": ("mean", list), "seeds": ("seed", list), "n_seeds": ("seed", "size"), "n_ran": ("n_ran", "first")}
    records = records.join(ours).join(seeds.groupby("of").agg(**numbers, **lists))
    by_class = rows.groupby(["of", "class"], sort=False).agg(
        classes=("value", "mean"), spreads=("value", "std"), image_sizes=("image_size", "first")
    )
    for name in by_class:
        records[name] = _dicts(by_class.reset_index("class").groupby("of"), "class", name, records.index)
    counts = ["n_classes", "n_ran", "n_seeds", "n_stale", "n_untrained"]
    records = records.fillna({**dict.fromkeys([*firsts, *texts], ""), **dict.fromkeys(counts, 0)})
    records = records.astype(dict.fromkeys(counts, int)).assign(n_others=lambda one: one["n_ran"] - one["n_classes"])
    weights = records["row_weights"].where(records["row_weights"] != "", records["weights"])
    records["label"] = records["method"] + (" (" + weights + ")").where(weights != "", "")
    records["ours"] = list(map(as_text, records["ours_mean"], records["ours_std"]))
    for name, say in {"printed": _as_printed, "verdict": _verdict}.items():
        records[name] = [say(line) for line in records.to_dict("records")]
    means = records[records["has_mean"]].groupby(TABLE)
    tables = {place: list(zip(part["published"], part["label"], strict=True)) for place, part in means}
    lines = records.to_dict("records")
    records["remarks"] = [_remarks(line, tables.get(tuple(line[name] for name in TABLE), [])) for line in lines]
    return records.reset_index(drop=True)


def _words(texts):
    return " and ".join(sorted({*texts} - {""}, key=lambda text: (len(text), text)))


def _sources(texts):
    """Words that several checksums share are written once, after them: "folder:1a2b and folder:3c4d (a copy)"."""
    by_words = sorted({*texts}, key=lambda text: (" (" not in text, text.partition(" (")[2], text))
    return re.sub(r"( \(.+?\))(?= and \S+\1)", "", " and ".join(by_words))


def _verdict(line):
    if np.isnan(line["published"]):
        return "not printed"
    if line["n_untrained"]:
        return "not trained"
    classes, means = (line["n_classes"], line["n_expected"], line["n_others"]), line["means"] if line["n_seeds"] else []
    if means and not line["has_mean"]:  # the mean of its legible columns is not the paper's
        return f"not judged: no printed mean; {extent(classes, line['profile'], len(means), line['copy'])}"
    return verdict(line["published"], line["unit"], means, classes, line["profile"], line["copy"])


def _as_printed(line):
    """The printed value, with as many decimals as in print; '' if there is none."""
    places = 0 if np.isnan(line["unit"]) else max(3, round(-np.log10(line["unit"])))
    over = "" if line["has_mean"] else f" over {len(line['published_classes'])} legible columns"
    return f"{line['published']:.{places}f}{over}" if places else ""


def as_text(mean: float, spread: float) -> str:
    """'0.990 ± 0.001': a mean and its standard deviation over seeds; if NaN, the deviation is left out, or all ('')."""
    return "" if np.isnan(mean) else f"{mean:.3f}" + ("" if np.isnan(spread) else f" ± {spread:.3f}")


def mean_of_these(record: dict) -> float:
    """If only some classes ran, the printed mean over these, else NaN: a mean over all is no fair comparison."""
    printed, names = record["published_classes"], record["classes"].keys()
    is_part = names and record["n_classes"] != record["n_expected"] and names <= printed.keys()
    return float(np.mean([printed[name] for name in names])) if is_part else np.nan


def _remarks(line, printed):
    """What else a reader must know; printed: the means of the same table with their labels, to place ours there."""
    mean, n_rows = mean_of_these(line), len(line["classes"]) * line["n_seeds"]
    is_part, is_close = line["n_classes"] != line["n_expected"], line["verdict"] in ("reproduced", "within noise")
    parts = [
        "" if np.isnan(mean) else f"printed for {', '.join(line['classes'])}: {mean:.3f}",
        *(f"{name} {word}" for name, word in line["class_verdicts"].items() if is_part),
        among(line["ours_mean"], line["published"], line["unit"], printed) if is_close else "",
        f"{line['image_size']} px" if line["image_size"] else "",
        f"data {line['data']}" if line["data"] not in ("", "official", "embedded") else "",
        f"{line['n_stale']} of {n_rows} rows stale" if line["n_stale"] else "",
    ]
    return ", ".join(filter(None, parts))


def table(records: pd.DataFrame) -> pd.DataFrame:
    """The records of `compare` that ran, as text for readers, with the paper's own method in bold."""
    ran = records[records["n_seeds"] > 0]
    method = ran["label"].where(ran["method"] != ran["paper"], "**" + ran["label"] + "**")
    names = ["dataset", "protocol", "method", "metric", "printed", "ours", "profile", "verdict", "remarks"]
    return ran.assign(method=method)[names]


def styled(table: pd.DataFrame) -> "pd.io.formats.style.Styler":
    """A table for a notebook: complete texts, aligned left; numbers with three decimals; missing values blank."""
    plain = table.replace(r"\*\*|`", "", regex=True)  # bold is for Markdown
    style = plain.style.format(precision=3, na_rep="").set_uuid("table")  # the default is random
    style = style.set_table_styles([{"selector": "th, td", "props": "text-align: left"}])
    style = style.hide() if table.index.names == [None] and is_numeric_dtype(table.index) else style  # line numbers
    return style.set_caption("" if len(table) else "no rows yet: make reproduce runs what the register holds")
