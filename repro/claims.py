"""The papers' claims, one by one: the sentence, what tests it, what came out, whether it holds.

    checked = claims.check(claims.load())                        # a line for each claim, test and dataset
    claims.table("two_stage")                                    # those of one paper, to be read in its notebook
    claims.gains("patch_ae", "patchcore", ["auroc", "aupro"])    # its methods, each less this one

The sentences and their tests stand in published/claims.toml, which says what kinds of tests there are. All figures come
from the rows under results/ and from the printed tables.
"""

import tomllib
from pathlib import Path

import numpy as np
import pandas as pd

from repro import compare
from repro.compare import Folder


PATH = compare.CHECKOUT / "published" / "claims.toml"
KINDS = {
    "better": {"where", "metric", "least", "above", "answers"},
    "steadier": {"where"},
    "printed": {"where"},
    "in_print": {"where", "beside", "over", "least"},
    "cheaper": {"where"},
    "cannot": {"where"},
}
NAMES = {"auroc": "AUROC", "balanced_accuracy": "B", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
SLACK = 1.1  # of `cheaper`: clocks differ by a tenth from run to run


def load(path: Path | str = PATH) -> list[dict]:
    """The claims of a TOML file. Raises ValueError for one that lacks or has a key too many."""
    claims = tomllib.loads(Path(path).read_text(encoding="utf-8"))["claim"]
    for claim in claims:
        if set(claim) != {"paper", "place", "says", "tests"}:
            raise ValueError(f"{path}: a claim has paper, place, says and tests, not {', '.join(claim)}")
        for test in claim["tests"]:
            kinds = [kind for kind in KINDS if kind in test]
            if len(kinds) != 1 or not set(test) <= {kinds[0]} | KINDS[kinds[0]]:
                raise ValueError(f"{path}: {claim['says']!r} has a test that is none: {test}")
    return claims


def check(claims: list[dict], results_dir: Folder = None, published_dir: Folder = None) -> pd.DataFrame:
    """One line for each claim, test and dataset: paper, place, says, where, test, ours (a phrase), verdict, answers
    (whether it answers what the paper asks).

    verdict: "holds", "does not hold" or "undecided" by `interval`, with "in its own table" behind it where nothing of
    ours was asked; "indicative: ..." before it unless all classes ran in profile `paper` with two seeds; "not
    comparable: ..." where no rows pair; that of a printed mean by `compare.verdict`; "not run"; "cannot be tested".
    """
    rows = compare.counted(compare.read_all(results_dir))
    records = compare.compare(sorted({claim["paper"] for claim in claims}) or None, results_dir, published_dir)
    lines = []
    for claim in claims:
        paper = claim["paper"]
        for test in claim["tests"]:
            for where in test.get("where", [""]):
                place = tuple(where.split()) or ("", "")
                if "better" in test:
                    outcome = _better(paper, test, place, rows)
                elif "steadier" in test:
                    outcome = _steadier(paper, *test["steadier"], place, rows)
                elif "cheaper" in test:
                    outcome = _cheaper(paper, *test["cheaper"], place, rows)
                elif "printed" in test:
                    outcome = _printed(paper, test["printed"], place, records)
                elif "in_print" in test:
                    outcome = _in_print(paper, test, place, compare.published(paper, published_dir))
                else:
                    outcome = ("none", test["cannot"], "cannot be tested")
                line = (paper, claim["place"], claim["says"], ", ".join(filter(None, place)), *outcome)
                lines.append((*line, test.get("answers", False)))
    return pd.DataFrame(lines, columns=["paper", "place", "says", "where", "test", "ours", "verdict", "answers"])


def answer(checked: pd.DataFrame, paper: str) -> str:
    """What came out on the question that a paper asks: yes, no, mixed or undecided, and the figures; '' without any.

    checked: what `check` gives. *So far* stands before it unless all of them ran as the paper has it.
    """
    asked = checked[(checked["paper"] == paper) & checked["answers"].astype(bool)]
    judged = asked[asked["ours"] != ""]
    if judged.empty:
        reasons = [
            f"{test}, {why}" for test, why in zip(asked["test"], asked["verdict"], strict=True) if why != "not run"
        ]
        return f"**Open** ({'; '.join(reasons)})" if reasons else ""
    words = {next(w for w in ("does not hold", "undecided", "holds") if w in verdict) for verdict in judged["verdict"]}
    if "holds" in words:
        word = "yes" if len(words) == 1 else "mixed"
    else:  # what nowhere holds is not mixed
        word = " or ".join(filter(None, ["no" * ("does not hold" in words), "undecided" * ("undecided" in words)]))
    word = f"So far {word}" if judged["verdict"].str.startswith("indicative").any() else word.capitalize()
    figures = {}
    for line in judged.itertuples():
        place = line.where.removesuffix(", official").replace(", ", " ")
        figures.setdefault(line.test, []).append(f"{line.ours.partition(' points')[0]} on {place}")
    parts = [f"{test.replace(', ', ', points of ')}: {', '.join(those)}" for test, those in figures.items()]
    return f"**{word}** ({'; '.join(parts)})"


def shown(checked: pd.DataFrame) -> pd.DataFrame:
    """What `check` gives as a table to be read; a claim is named in its first line alone."""
    claim = checked["says"] + " (" + checked["place"] + ")"
    is_new = (checked["paper"] + claim).ne((checked["paper"] + claim).shift())
    table = checked.assign(claim=claim.where(is_new, ""), paper=("`" + checked["paper"] + "`").where(is_new, ""))
    return table[["paper", "claim", "where", "test", "ours", "verdict"]]


def table(paper: str, results_dir: Folder = None) -> "pd.io.formats.style.Styler":
    """The claims of one paper, styled for its notebook."""
    checked = check([claim for claim in load() if claim["paper"] == paper], results_dir)
    return compare.styled(shown(checked).drop(columns="paper"))


def gains(
    paper: str, pairs: str | list[tuple[str, str]], metrics: tuple[str, ...] = ("auroc",), results_dir: Folder = None
) -> pd.DataFrame:
    """Methods of a paper beside each other wherever both ran: mean difference, its interval, in how many classes above.

    pairs: (a, b) for a less b; or b alone: each other method of the paper less b.
    """
    rows = compare.counted(compare.read_all(results_dir))
    rows = rows[rows["paper"] == paper]
    if isinstance(pairs, str):
        pairs = [(method, pairs) for method in rows["method"].unique() if method != pairs]
    lines = []
    for place in rows[["dataset", "protocol"]].drop_duplicates().itertuples(index=False, name=None):
        for a, b in pairs:
            outcomes = {NAMES[metric]: _points(*differences(rows, paper, a, b, place, metric)) for metric in metrics}
            if ran := [profile for _, profile, word in outcomes.values() if word]:
                texts = {name: ours.replace(" points", "") for name, (ours, _, _) in outcomes.items()}
                lines.append({"points": f"{a} less {b}", "where": ", ".join(place), "profile": ran[0], **texts})
    return pd.DataFrame(lines)


def differences(
    rows: pd.DataFrame, paper: str, a: str, b: str, place: tuple[str, str], metric: str = "auroc"
) -> tuple[pd.DataFrame, str]:
    """(a less b in points, a line for each class and a column for each seed; the profile) by the rows that pair.

    Two rows pair that have class, seed, profile, image size and, where both have one, backbone in common; `paper` comes
    before `quick`, and of seeds those count that have the most classes. b may be a baseline (`baselines.csv`): of it
    the mean over its seeds counts. An empty table, and why, where nothing pairs.
    """
    rows = rows[(rows["dataset"] == place[0]) & (rows["protocol"] == place[1]) & rows[metric].notna()]
    same = ["class", "profile", "image_size"]
    ours = rows[(rows["paper"] == paper) & (rows["method"] == a)]
    others = rows[(rows["paper"] == paper) & (rows["method"] == b)]
    if others.empty:
        others = rows[(rows["paper"] == "baselines") & (rows["method"] == b)]
        others = others.groupby([*same, "weights"], as_index=False)[[metric]].mean()
    else:
        same = [*same, "seed"]
    if ours.empty or others.empty:
        return pd.DataFrame(), "not run"
    pairs = ours.merge(others, on=same, suffixes=("", "_other"))
    both = (pairs["weights"] != "") & (pairs["weights_other"] != "")
    pairs = pairs[~both | (pairs["weights"] == pairs["weights_other"])]
    if pairs.empty:
        return pairs, f"not comparable: {_what_differs(ours, others, [*same, 'weights'])}"
    profile = "paper" if (pairs["profile"] == "paper").any() else "quick"
    pairs = pairs[pairs["profile"] == profile]
    pairs = compare.largest_variant(pairs.assign(of=0, row_weights=pairs["weights"]))
    pairs["points"] = 100 * (pairs[metric] - pairs[f"{metric}_other"])
    points = pairs.pivot(index="class", columns="seed", values="points").reindex(pairs["class"].unique())
    points = points[points[points.notna().sum().idxmax()].notna()]  # the classes of the seed that has the most
    return points.loc[:, points.notna().all()], profile


def _what_differs(ours, others, names):
    """In which of these columns no row of the one has what a row of the others has, in words."""
    parts = []
    for name in names:
        left, right = (sorted(map(str, set(rows[name]) - {""})) for rows in (ours, others))
        if left and right and not set(left) & set(right):
            parts.append(f"{name.replace('_', ' ')} {', '.join(left)} against {', '.join(right)}")
    return "; ".join(parts) or "no class, seed, profile, image size and backbone in common"


def interval(points: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of differences (classes, seeds), by a bootstrap over classes and seeds within them.

    SciPy's percentile bootstrap draws the classes. It has no second level, so the statistic draws the seeds of each
    drawn class. The random numbers are the same each time.
    """
    from scipy.stats import bootstrap  # here, for it takes seconds to import

    random = np.random.default_rng(0)
    n_seeds = points.shape[1]

    def mean(classes, axis):  # of (..., classes), by number
        seeds = random.integers(n_seeds, size=(*classes.shape, n_seeds))
        return points[classes[..., None], seeds].mean(axis=(-2, -1))

    numbers = (np.arange(len(points)),)
    found = bootstrap(numbers, mean, vectorized=True, method="percentile", random_state=random).confidence_interval
    return float(found.low), float(found.high)


def _points(points, profile, least=0.0):
    """(mean, interval and classes above as a phrase, profile or why there is none, "holds" or what else it is)."""
    if points.empty:
        return "", profile, ""
    above = f"above in {(points.mean(axis=1) > 0).sum()} of {len(points)}"
    mean = points.to_numpy().mean()
    if len(points) == 1:
        return f"{mean:+.1f} points; {above}", profile, "undecided"
    low, high = interval(points.to_numpy())
    word = "holds" if low > least + 1e-9 else "does not hold" if high < least - 1e-9 else "undecided"
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}] points; {above}", profile, word


def _better(paper, test, place, rows):
    (a, b), metric, least = test["better"], test.get("metric", "auroc"), test.get("least", 0)
    name = f"{a} less {b}, {NAMES[metric]}" + f", at least {least} points" * bool(least)
    points, profile = differences(rows, paper, a, b, place, metric)
    ours, profile, word = _points(points, profile, least)
    if least_above := test.get("above"):
        name += f", above in at least {least_above} classes"
        if word:  # classes that did not run may yet be above
            n_above, n_open = (points.mean(axis=1) > 0).sum(), len(compare.class_names(*place)) - len(points)
            word = "undecided" if n_above + n_open >= least_above else "does not hold"
            word = "holds" if n_above >= least_above else word
    return name, *_judged(points, ours, profile, word, place, len(points.columns))


def _steadier(paper, a, b, place, rows):
    name = f"standard deviation over seeds of {b} less that of {a}, AUROC"
    rows = rows[(rows["paper"] == paper) & (rows["dataset"] == place[0]) & (rows["protocol"] == place[1])]
    spreads = rows.pivot_table("auroc", ["profile", "class"], "method", aggfunc="std").reindex(columns=[a, b]).dropna()
    if spreads.empty:  # or one seed
        return name, "", "not run"
    profile = spreads.index[0][0]  # paper comes before quick
    points = 100 * (spreads[b] - spreads[a]).loc[profile].to_frame()
    n_seeds = int(rows[(rows["profile"] == profile) & (rows["method"] == a)].groupby("class").size().min())
    return name, *_judged(points, *_points(points, profile), place, n_seeds)


def _judged(points, ours, profile, word, place, n_seeds):
    """(ours, verdict): the word alone where all classes and two seeds ran in profile paper, else what was run too."""
    if not word:
        return ours, profile
    expected = set(compare.class_names(*place))
    n_others = len(set(points.index) - expected) if expected else 0
    if profile == "paper" and expected and expected <= set(points.index) and n_seeds > 1:
        return ours, word
    classes = (len(points) - n_others, len(expected), n_others)
    return ours, f"indicative: {word}; {compare.extent(classes, profile, n_seeds)}"


def _cheaper(paper, a, b, place, rows):
    name = f"milliseconds an image of {a} beside {b}"
    rows = rows[(rows["paper"] == paper) & (rows["dataset"] == place[0]) & (rows["protocol"] == place[1])]
    same = ["class", "seed", "profile", "weights", "device"]
    times = rows.pivot_table("ms_per_image", same, "method").reindex(columns=[a, b]).dropna()
    if times.empty:
        return name, "", "not run"
    ratio, n = (times[a] / times[b]).median(), f"{len(times)} run{'s' * (len(times) > 1)}"
    word = "holds" if ratio <= SLACK else "does not hold"
    is_whole = set(times.index.get_level_values("profile")) == {"paper"}
    return name, f"{ratio:.2f} times, median of {n}", word if is_whole else f"indicative: {word}; {n}, quick"


def _printed(paper, metric, place, records):
    records = records[(records["paper"] == paper) & (records["method"] == paper) & (records["metric"] == metric)]
    records = records[(records["dataset"] == place[0]) & (records["protocol"] == place[1])]
    record = records.sort_values("n_seeds", key=lambda n: n == 0, kind="stable").iloc[0]  # a backbone that ran
    backbone = f" ({record['weights']})" if record["weights"] else ""
    name = f"printed {NAMES[metric]}{backbone} {record['printed']}"
    return name, compare.as_ours(record) if record["n_seeds"] else "", record["verdict"]


def _in_print(paper, test, place, cells):
    metric, over = test["in_print"], test.get("over", "mean")
    cells = cells[(cells["metric"] == metric) & (cells["class"] == over)]
    cells = cells[(cells["dataset"] == place[0]) & (cells["protocol"] == place[1])]
    own = cells[cells["method"] == paper].nlargest(1, "value").iloc[0]
    best = cells[cells["method"].isin(test.get("beside", {*cells["method"]} - {paper}))].nlargest(1, "value").iloc[0]
    backbone = f" ({own['weights']})" if own["weights"] else ""
    who = "beside it" if "beside" in test else "best of the others"
    what = "means" if over == "mean" else over.replace("mean_", "means over ")
    least, lead = test.get("least", 0), own["value"] - best["value"]
    word = "holds" if lead > 0 and lead >= least / 100 - 1e-9 else "does not hold"
    ours = f"printed: {own['value']:.4g}{backbone}, {who} {best['method']} {best['value']:.4g}"
    name = f"its table's {what}, {NAMES[metric]}" + f", at least {least} points ahead" * bool(least)
    return name, ours, f"{word} in its own table"
