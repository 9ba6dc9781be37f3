"""What came out beside what the papers printed, as DataFrames: result rows, published cells, verdicts.

    printed = compare.published("two_stage")     # a line for each printed cell
    rows = compare.read_all()                    # a line for each result row that stands
    records = compare.compare(["two_stage"])     # a line for each printed number: ours beside it, and a verdict
    compare.verify(jobs, "results", "build/verify")     # jobs run again: old rows beside new ones

The CSVs are `rows.py`'s; what the papers printed stands in published/<paper>.csv, one cell a line.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from repro.rows import COLUMNS, KEY, METRICS, of_stand_ins, read, read_table, standing


CHECKOUT = Path(__file__).resolve().parents[1]
TOLERANCE = 0.01  # of a verdict
PUBLISHED_COLUMNS = ["paper", "table", "dataset", "protocol", "class", "method", "weights", "metric", "value", "note"]
PLACE = ["paper", "method", "weights", "dataset", "protocol", "metric"]  # what tells printed numbers from each other
RECORD = [*PLACE, "published", "published_classes", "unit", "note", "ours_mean", "ours_std", "classes", "spreads"]
RECORD += ["image_sizes", "image_size", "seeds", "n_classes", "n_expected", "n_others", "n_seeds", "n_stale"]
RECORD += ["profile", "data", "row_paper", "row_weights", "verdict"]
_NUMBERS = ["seed", *METRICS, "n_train", "n_test", "n_anomalous", "train_seconds", "job_seconds", "ms_per_image"]
_NUMBERS += ["n_parameters", "peak_memory_mb", "steps"]
_COPY_IN_PART = re.compile(r"\((\d+ of \d+ classes)\)$")  # what `repro.data` puts behind the source of such a copy
# Methods whose training is a part of what another method's row says already: train_seconds there are sums.
PART_OF = {"two_stage_mse": "two_stage", "two_stage_ssim": "two_stage", "rotnet": "two_stage", "ocsvm_oracle": "ocsvm"}


# ---- what there is -------------------------------------------------------------------------------------------------


def published(paper: str, folder: Path | str | None = None) -> pd.DataFrame:
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
    table = pd.DataFrame(rows, columns=list(dict.fromkeys([*COLUMNS, "job_seconds"])))
    return table.assign(**{name: pd.to_numeric(table[name]) for name in _NUMBERS})


def read_all(results_dir: Path | str | None = None) -> pd.DataFrame:
    """The rows of every results_dir/*.csv (None: the checkout's results/) that stand; checked as by `rows.read`."""
    folder = CHECKOUT / "results" if results_dir is None else Path(results_dir)
    return frame([cells for path in sorted(folder.glob("*.csv")) for cells in standing(read(path))])


def counted(rows: pd.DataFrame) -> pd.DataFrame:
    """Those rows that count for a comparison: `ok`, of real images, and of trained weights where there are any."""
    drawn = [of_stand_ins(cells) for cells in rows[["data", "weights"]].to_dict("records")]
    return rows[(rows["status"] == "ok") & ~np.array(drawn, bool) & ~rows["weights"].str.endswith("/random")]


def class_names(dataset: str, protocol: str = "official") -> list[str]:
    """The classes a mean over `dataset` is over, as `repro.data` names them; [] where that is not known.

    Of coil100 these are the 30 objects of `data.COIL100_OBJECTS`. In protocol superclass a paper takes some classes of
    CIFAR-100, and which they are it need not say.
    """
    from repro import data  # here, for it imports torch

    if protocol == "superclass":
        return []
    return list(data.COIL100_OBJECTS if dataset == "coil100" else data.CLASS_NAMES.get(dataset, []))


def is_variant(method: str, methods: set[str]) -> bool:
    """Whether a method is another setting of one of these, such as ocsvm_oracle of ocsvm."""
    return any(method.startswith(f"{other}_") for other in methods)


def run_seconds(rows: pd.DataFrame) -> pd.Series:
    """Seconds of each job, by its rows: job -> seconds; a job whose rows hold no times is not in it.

    job_seconds where it is there. Else training, once for all methods that share one, and scoring of each test image:
    that leaves out data, kernel, metrics and pictures.
    """
    training = ["job", "train_seconds", "n_parameters", "steps"]  # alike where methods share a training
    there = set(zip(rows["job"], rows["method"], strict=True))
    is_part = [(job, PART_OF.get(name)) in there for job, name in zip(rows["job"], rows["method"], strict=True)]
    trained = rows[~np.array(is_part, bool)].dropna(subset="train_seconds").drop_duplicates(training)
    scored = rows.dropna(subset=["ms_per_image", "n_test"]).drop_duplicates([*training, "ms_per_image"])
    scored = (scored["ms_per_image"] * scored["n_test"] / 1000).groupby(scored["job"]).sum()
    parts = trained.groupby("job")["train_seconds"].sum().add(scored, fill_value=0)
    return rows.groupby("job")["job_seconds"].max().dropna().combine_first(parts)


# ---- printed beside ours -------------------------------------------------------------------------------------------


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
    n_classes, n_expected, n_others = classes
    if profile != "paper" or n_classes != n_expected or n_others or copy:
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
    in_part = f"a copy of {copy}, " if copy else ""
    seeds = f"{n_seeds} seed{'s' * (n_seeds > 1)}"
    return f"{n_classes} of {n_expected or '?'} classes{others}, {in_part}{profile}, {seeds}"


def t_quantile(n: int) -> float:
    """Student's 97.5 % quantile for the mean of n values: n - 1 degrees of freedom."""
    from scipy.special import stdtrit  # here, for a job does not need SciPy

    return float(stdtrit(n - 1, 0.975))


def compare(
    papers: list[str] | None = None,
    results_dir: Path | str | None = None,
    published_dir: Path | str | None = None,
    register: set[str] | None = None,
) -> pd.DataFrame:
    """What was printed beside what came out: one line per printed (method, weights, dataset, protocol, metric).

    papers: their keys (None: all with a published table). register: job ids (None: nothing is stale). Columns: RECORD,
    of which published is the printed mean, else the mean of the printed classes; published_classes {class: value};
    ours_mean and ours_std over seeds (NaN: not run, one seed); classes, spreads and image_sizes {class: mean over
    seeds, standard deviation, size}; n_others: classes that ran and are not among the expected ones, nor in n_classes.

    Which rows count: those of `counted`, the paper's own, else those of baselines.csv; profile "paper", else "quick",
    never "demo"; the printed backbone; of several sources of weights the one with most rows, of several image sizes
    too, but for classes that have no row of that size. Of seeds with different classes, those with the largest set of
    classes. Classes that the printed mean is not over (see `class_names`) count only where not all of its own ran.
    """
    folder = CHECKOUT / "published" if published_dir is None else Path(published_dir)
    papers = sorted(path.stem for path in folder.glob("*.csv")) if papers is None else papers
    records = _printed_numbers(pd.concat([published(paper, folder) for paper in papers]))
    rows = counted(read_all(results_dir))
    rows = _by_metric(rows[rows["profile"].isin(["paper", "quick"])]).rename(columns={"paper": "row_paper"})
    rows = rows.assign(row_weights=rows["weights"], weights=rows["weights"].str.split("/").str[0])
    rows = records[[*PLACE, "in_mean"]].rename_axis("of").reset_index().merge(rows, on=PLACE[1:])
    is_own = rows["row_paper"] == rows["paper"]
    is_asked = [asked is None or name in asked for asked, name in zip(rows["in_mean"], rows["class"], strict=True)]
    rows = rows[(is_own | (rows["row_paper"] == "baselines")) & np.array(is_asked, bool)]
    rank = 2 * ~is_own[rows.index] + (rows["profile"] != "paper")  # own rows before baselines, then paper before quick
    rows = rows[rank == rank.groupby(rows["of"]).transform("min")]
    return _with_ours(records, largest_variant(rows), register)


def ours_alone(
    records: pd.DataFrame, results_dir: Path | str | None = None, register: set[str] | None = None
) -> pd.DataFrame:
    """Rows that stand beside no printed number (other methods, profile demo, a user's images), in columns RECORD.

    records: those of `compare`. One line per paper, method, weights, dataset, protocol, image size, profile and metric
    (AUROC, and the pixel metrics where there are any); the verdict is "not printed".
    """
    key = ["row_paper", "method", "row_weights", "dataset", "protocol", "metric", "profile", "image_size"]
    shown = {
        (*(line[name] for name in key[:-1]), size, of_class)
        for line in records.to_dict("records")
        for of_class, size in line["image_sizes"].items()
    }
    rows = read_all(results_dir)
    rows = _by_metric(rows[rows["status"] == "ok"]).assign(row_paper=rows["paper"], row_weights=rows["weights"])
    is_shown = [cells in shown for cells in rows[[*key, "class"]].itertuples(index=False, name=None)]
    rows = rows[(rows["metric"] != "balanced_accuracy") & ~np.array(is_shown, bool)]
    rows = rows.assign(is_last=rows["paper"] == "baselines", of=rows.groupby(key, sort=False).ngroup())
    rows = rows.sort_values(["is_last", "paper", "dataset", "protocol"], kind="stable")
    alone = rows.drop_duplicates("of").set_index("of")[PLACE].assign(published=np.nan, unit=np.nan, note="")
    alone["expected"] = [class_names(*place) for place in zip(alone["dataset"], alone["protocol"], strict=True)]
    return _with_ours(alone.assign(published_classes=[{} for _ in alone.index]), rows, register)


def _by_metric(rows):
    """The rows once for each metric that they have, as `value` and `metric`, in the order of the rows."""
    names = [name for name in rows if name not in METRICS]
    return rows.melt(names, METRICS, "metric", ignore_index=False).dropna(subset="value").sort_index(kind="stable")


def _printed_numbers(cells):
    """One line per printed number: its value, unit and note, the classes of its mean, and those printed.

    `expected`: the classes of the mean, [] where not known; `in_mean`: what else may not count, None: nothing.
    """
    cells = cells.assign(is_mean=cells["class"] == "mean", is_class=~cells["class"].str.startswith("mean"))
    groups = cells.groupby(PLACE, sort=False)
    notes = groups["note"].agg(lambda notes: "; ".join(filter(None, dict.fromkeys("; ".join(notes).split("; ")))))
    has_mean = groups["is_mean"].transform("any")
    number = cells[np.where(has_mean, cells["is_mean"], cells["is_class"])].groupby(PLACE, sort=False)
    number = number.agg(published=("value", "mean"), unit=("unit", "first"), has_mean=("is_mean", "any"))
    records = notes.to_frame().join(number, how="inner")  # a mean over a part of the classes alone says nothing
    printed = {place: {} for place in records.index}
    for *place, name, value in cells.loc[cells["is_class"], [*PLACE, "class", "value"]].itertuples(index=False):
        printed[tuple(place)][name] = value
    records = records.assign(published_classes=list(printed.values())).reset_index()
    records["in_mean"] = records["published_classes"].where(~records["has_mean"], None)
    records["expected"] = [
        (class_names(line.dataset, line.protocol) if line.has_mean else [])
        # of a dataset that `repro.data` does not know, or of printed classes alone
        or ([] if line.has_mean and line.protocol == "superclass" else list(line.published_classes))
        for line in records.itertuples()
    ]
    return records


def _usual(rows, by, column):
    """The value of a column that most rows of a group have, of several such the newest, for each row."""
    found = rows.groupby([*by, column])["finished"].agg(["size", "max"]).sort_values(["size", "max"]).reset_index()
    return rows[by].merge(found.groupby(by)[column].last().reset_index(), "left", by)[column].to_numpy()


def largest_variant(rows):
    """Of rows that differ in weights or image size: one backbone's, and of each class those of one size.

    A class that lacks the size which most rows have counts with its own, for a paper may see objects at one size and
    textures at another.
    """
    rows = rows[rows["row_weights"] == _usual(rows, ["of"], "row_weights")]
    is_usual = rows["image_size"] == _usual(rows, ["of"], "image_size")
    is_lacking = ~is_usual.groupby([rows["of"], rows["class"]]).transform("any")
    return rows[is_usual | (is_lacking & (rows["image_size"] == _usual(rows, ["of", "class"], "image_size")))]


def _with_ours(records, rows, register):
    """The records with what their rows say, in columns RECORD; rows: `of` is the index of their record."""
    records = records.assign(n_expected=records["expected"].map(len))
    expected = zip(rows["of"].map(records["expected"]), rows["class"], strict=True)
    rows = rows.assign(is_expected=np.array([name in names for names, name in expected], bool))
    n_ran, n_expected = (
        rows.groupby(["of", "seed"])["is_expected"].transform("sum"),
        rows["of"].map(records["n_expected"]),
    )
    rows = rows[rows["is_expected"] | (n_ran < n_expected) | (n_expected == 0)]  # whole without the others
    seeds = rows.groupby(["of", "seed"]).agg(
        classes=("class", frozenset), n=("is_expected", "sum"), size=("class", "size"), mean=("value", "mean")
    )
    largest = seeds.sort_values(["n", "size"], ascending=False, kind="stable").groupby("of")["classes"].first()
    seeds = seeds[seeds["classes"] == largest.reindex(seeds.index.get_level_values("of")).to_numpy()].reset_index(
        "seed"
    )
    rows = rows.merge(seeds["seed"].reset_index(), on=["of", "seed"])
    rows["is_stale"] = False if register is None else ~rows["job"].isin(register)
    rows["copy"] = rows["data"].str.extract(_COPY_IN_PART, expand=False).fillna("")
    by_class = rows.groupby(["of", "class"], sort=False).agg(
        classes=("value", "mean"), spreads=("value", "std"), image_sizes=("image_size", "first")
    )
    groups, first = rows.groupby("of"), ["profile", "row_paper", "row_weights"]
    ours = (
        groups[first]
        .first()
        .assign(
            ours_mean=seeds.groupby("of")["mean"].mean(),
            ours_std=seeds.groupby("of")["mean"].std(),
            means=seeds.groupby("of")["mean"].agg(list),
            seeds=seeds.groupby("of")["seed"].agg(list),
            n_classes=seeds.groupby("of")["n"].first(),
            n_others=seeds.groupby("of")["size"].first() - seeds.groupby("of")["n"].first(),
            n_stale=groups["is_stale"].sum(),
            data=groups["data"].agg(_words, ", "),
            copy=groups["copy"].agg(_words, " and "),
            image_size=groups["image_size"].agg(_words, " and "),
        )
    )
    records = records.join(ours)
    for name in by_class:
        found = {of: part.droplevel(0).to_dict() for of, part in by_class[name].groupby("of")}
        records[name] = [found.get(of, {}) for of in records.index]
    records["n_seeds"] = [len(means) if isinstance(means, list) else 0 for means in records["means"]]
    counts = ["n_classes", "n_others", "n_stale"]
    records[counts] = records[counts].fillna(0).astype(int)
    is_known = records["n_expected"] > 0
    records["n_classes"] += records["n_others"].where(~is_known, 0)
    records["n_others"] = records["n_others"].where(is_known, 0)
    records["verdict"] = [
        "not printed"
        if np.isnan(line.published)
        else verdict(
            line.published,
            line.unit,
            line.means if line.n_seeds else [],
            (line.n_classes, line.n_expected, line.n_others),
            line.profile,
            line.copy,
        )
        for line in records.itertuples()
    ]
    return records.reset_index(drop=True)[RECORD]


def _words(texts, between):
    return between.join(sorted({*texts} - {""}, key=lambda text: (len(text), text)))


# ---- how it is shown -----------------------------------------------------------------------------------------------


def table(records: pd.DataFrame) -> pd.DataFrame:
    """The records of `compare` that ran, as text: printed, ours ± standard deviation over seeds, verdict, remarks."""
    ran = records[records["n_seeds"] > 0].to_dict("records")
    names = ["dataset", "protocol", "method", "metric", "printed", "ours", "profile", "verdict", "remarks"]
    lines = [
        {
            **line,
            "method": f"**{label(line)}**" if line["method"] == line["paper"] else label(line),
            "printed": as_printed(line),
            "ours": as_ours(line),
            "remarks": remarks(line),
        }
        for line in ran
    ]
    return pd.DataFrame(lines, columns=names)


def by_class(records: pd.DataFrame) -> pd.DataFrame:
    """Class by class: the place of a record, class, printed and ours (NaN where not), spread over seeds, image size."""
    lines = [
        {
            **{name: line[name] for name in (*PLACE, "profile")},
            "class": name,
            "printed": line["published_classes"].get(name),
            "ours": value,
            "spread": line["spreads"].get(name),
            "image_size": line["image_sizes"][name],
        }
        for line in records.to_dict("records")
        for name, value in line["classes"].items()
    ]
    names = [*PLACE, "profile", "class", "printed", "ours", "spread", "image_size"]
    return pd.DataFrame(lines, columns=names).astype(dict.fromkeys(["printed", "ours", "spread"], float))


def label(record: dict) -> str:
    """The method with its backbone: ours with the source of its weights where it ran, else the printed one."""
    weights = record["row_weights"] or record["weights"]
    return f"{record['method']} ({weights})" if weights else record["method"]


def as_printed(record: dict) -> str:
    """The printed value, to as many places as it was printed with."""
    return f"{record['published']:.{max(3, round(-np.log10(record['unit'])))}f}"


def as_ours(record: dict) -> str:
    """Our mean, and behind ± its standard deviation over seeds."""
    return f"{record['ours_mean']:.3f}" + ("" if np.isnan(record["ours_std"]) else f" ± {record['ours_std']:.3f}")


def mean_of_these(record: dict) -> float | None:
    """Where only some classes ran, what the paper prints for them: the mean over all would be no fair neighbour."""
    printed = record["published_classes"]
    if record["n_classes"] == record["n_expected"] or not record["classes"].keys() <= printed.keys():
        return None
    return float(np.mean([printed[name] for name in record["classes"]]))


def remarks(record: dict) -> str:
    """What else a reader must know of a record: printed values of these classes, image size, data, stale rows."""
    mean = mean_of_these(record)
    n_rows = len(record["classes"]) * record["n_seeds"]
    parts = [
        "" if mean is None else f"printed for {', '.join(record['classes'])}: {mean:.3f}",
        f"{record['image_size']} px" if record["image_size"] else "",
        f"data {record['data']}" if record["data"] not in ("", "official", "embedded") else "",
        f"{record['n_stale']} of {n_rows} rows stale" if record["n_stale"] else "",
    ]
    return ", ".join(filter(None, parts))


def styled(table: pd.DataFrame, places: int = 3):
    """A table for a notebook: whole texts, aligned left, numbers to so many places, nothing where there is nothing."""
    is_plain = isinstance(table.index, pd.RangeIndex)
    style = table.style.format(precision=places, na_rep="").set_uuid("table")
    style = style.set_properties(**{"text-align": "left"}).set_table_styles(
        [{"selector": "th", "props": "text-align: left"}]
    )
    return (style.hide() if is_plain else style).set_caption("" if len(table) else "no rows yet")


# ---- old beside new ------------------------------------------------------------------------------------------------


def committed(jobs: list[dict], folder: Path | str) -> list[dict]:
    """Those of the jobs that have rows under `folder`, with the settings that the register gives them now."""
    from repro.sweep import outstanding

    return outstanding(jobs, folder)[1]


def verify(jobs: list[dict], old_folder: Path | str, new_folder: Path | str) -> pd.DataFrame:
    """Old and new rows of the jobs, side by side: one line for each metric that an old row has.

    Columns: job, method, metric, old, new (NaN: no such row came out), difference (new - old), spread, n_seeds,
    verdict, and old_run and new_run: device, torch and commit. spread is what two seeds of the same method differ by,
    19 times in 20: t s sqrt(2), where s is the standard deviation over n_seeds committed seeds and t Student's 97.5 %
    quantile for n_seeds - 1; NaN where there is one seed. verdict: "same" to the last printed digit; "within" the
    spread, or, where there is none, the tolerance of a printed number; else "outside"; "missing" without a new row.
    """
    papers = dict.fromkeys(job["paper"] for job in jobs)
    old, new = (
        _by_metric(
            frame([row for paper in papers for row in read(Path(folder, f"{paper}.csv")) if row["status"] == "ok"])
        )
        for folder in (old_folder, new_folder)
    )
    for rows in (old, new):
        rows["run"] = rows["device"] + ", torch " + rows["torch"] + ", commit " + rows["commit"].replace("", "?")
    key = [*(name for name in KEY if name != "seed"), "metric"]  # what two seeds of a method share
    spread = old.groupby(key)["value"].agg(["std", "size"]).reset_index()
    spread["spread"] = [
        t_quantile(n) * std * 2**0.5 if n > 1 else np.nan for std, n in zip(spread["std"], spread["size"], strict=True)
    ]
    ids = [job["id"] for job in jobs]
    table = old[old["job"].isin(ids)].sort_values("job", key=lambda job: job.map(ids.index), kind="stable")
    table = table.merge(new[[*key, "job", "value", "run"]], "left", [*key, "job"], suffixes=("", "_new")).merge(
        spread, on=key
    )
    difference = (table["value_new"] - table["value"]).round(6)
    allowed = table["spread"].fillna(TOLERANCE)
    table["verdict"] = np.select(
        [difference.isna(), difference == 0, difference.abs() <= allowed], ["missing", "same", "within"], "outside"
    )
    names = {"value": "old", "value_new": "new", "size": "n_seeds", "run": "old_run", "run_new": "new_run"}
    table = table.assign(difference=difference).rename(columns=names)
    return table[
        ["job", "method", "metric", "old", "new", "difference", "spread", "n_seeds", "verdict", "old_run", "new_run"]
    ]


def verify_text(records: pd.DataFrame, jobs: list[dict]) -> str:
    """The records of `verify` as lines of text, below a line for each job."""
    from repro.register import describe

    jobs, lines = {job["id"]: job for job in jobs}, []
    for job, some in records.groupby("job", sort=False):
        runs = some.iloc[0][["old_run", "new_run"]].fillna("-")
        shown = some[["method", "metric", "old", "new", "difference", "spread", "n_seeds", "verdict"]]
        lines += ["", describe(jobs[job]), f"  old: {runs['old_run']}", f"  new: {runs['new_run']}"]
        lines.append(shown.to_string(index=False, na_rep="-", float_format="{:.6f}".format))
    counts = records["verdict"].value_counts(sort=False)
    return "\n".join([*lines, "", ", ".join(f"{count} {verdict}" for verdict, count in counts.items())])
