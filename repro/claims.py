"""The papers' claims one by one: the sentence, its test, the result, and whether the claim holds.

The sentences and their tests are in published/claims.toml, which describes the kinds of tests.
"""

import tomllib
from pathlib import Path

import numpy as np
import pandas as pd

from repro import compare
from repro.compare import Folder


PATH = compare.CHECKOUT / "published" / "claims.toml"
KINDS = dict.fromkeys(["steadier", "printed", "cheaper", "cannot"], {"where"})
KINDS |= {"better": {"where", "metric", "least", "above", "answers"}}
KINDS |= {"in_print": {"where", "beside", "over", "least"}}
NAMES = {"auroc": "AUROC", "balanced_accuracy": "B", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
SLACK = 1.1  # for `cheaper`: times differ by a tenth from run to run


def load(path: Path | str = PATH) -> list[dict]:
    """The claims of a TOML file. Raises ValueError for a claim that lacks a key or has an extra one."""
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
    """One line for each claim, test and dataset: paper, place, says, where, test, ours (a phrase), verdict, answers.

    verdict: "holds", "does not hold" or "undecided" by `interval`, after "indicative: ..." unless all classes ran in
    profile `paper` with two seeds, before "in its own table" if our rows are not needed; or "not comparable: ..." if no
    rows pair; "not trained" if only untrained ones do; `verdict` of a printed mean; "not run"; "cannot be tested".
    """
    rows = compare.counted(compare.read_all(results_dir))
    records = compare.compare(sorted({claim["paper"] for claim in claims}) or None, results_dir, published_dir)
    lines = []
    for claim in claims:
        paper = claim["paper"]
        for test, place in ((one, where.split()) for one in claim["tests"] for where in one.get("where", [""])):
            if "better" in test:
                outcome = _better(paper, test, place, _at(rows, place))
            elif "steadier" in test:
                outcome = _steadier(paper, *test["steadier"], place, _at(rows, place))
            elif "cheaper" in test:
                outcome = _cheaper(paper, *test["cheaper"], _at(rows, place))
            elif "printed" in test:
                outcome = _printed(paper, test["printed"], _at(records, place))
            elif "in_print" in test:
                outcome = _in_print(paper, test, _at(compare.published(paper, published_dir), place))
            else:
                outcome = ("none", test["cannot"], "cannot be tested")
            lines.append((paper, claim["place"], claim["says"], ", ".join(place), *outcome, test.get("answers", False)))
    return pd.DataFrame(lines, columns=["paper", "place", "says", "where", "test", "ours", "verdict", "answers"])


def _at(table, place):
    return table[(table["dataset"] == place[0]) & (table["protocol"] == place[1])]


def answer(checked: pd.DataFrame, paper: str) -> str:
    """The answer of `check` to a paper's question: yes, no, mixed or cannot say, *so far* if indicative; '' if not run.

    The first figure of each kind of verdict follows; `table` has all figures.
    """
    asked = checked[(checked["paper"] == paper) & checked["answers"].astype(bool)]
    judged = asked[asked["ours"] != ""]
    if judged.empty:
        reasons = (asked["test"] + ", " + asked["verdict"])[asked["verdict"] != "not run"]
        return f"**Cannot say** ({'; '.join(reasons)})" if len(reasons) else ""
    judged = judged.assign(kind=judged["verdict"].str.extract("(does not hold|undecided|holds)")[0])
    kinds, said = set(judged["kind"]), {"does not hold": "no", "undecided": "cannot say", "holds": "yes"}
    if len(kinds) > 1:  # a claim that holds nowhere is not mixed
        said = dict.fromkeys(kinds, "mixed" if "holds" in kinds else "no or cannot say")
    word = said[min(kinds)]
    word = f"So far {word}" if judged["verdict"].str.startswith("indicative").any() else word.capitalize()
    first = judged.drop_duplicates("kind")
    places = first["where"].str.removesuffix(", official").str.replace(", ", " ")
    figures = first["ours"].str.partition(" points")[0] + " on " + places
    figures = figures.groupby(first["test"].str.removesuffix(", AUROC"), sort=False).agg(", ".join)
    return f"**{word}**: {'; '.join(figures.index + ' ' + figures)}"


def shown(checked: pd.DataFrame) -> pd.DataFrame:
    """The result of `check` as a table for readers; only the first line of a claim names it."""
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
    """Methods of a paper compared wherever both ran: (a, b) is a minus b; b alone: every other method minus b."""
    rows = compare.counted(compare.read_all(results_dir))
    rows = rows[rows["paper"] == paper]
    if isinstance(pairs, str):
        pairs = [(method, pairs) for method in rows["method"].unique() if method != pairs]
    lines = []
    for place, here in rows.groupby(["dataset", "protocol"], sort=False):
        for a, b in pairs:
            outcomes = {NAMES[metric]: _points(*differences(here, paper, a, b, metric)) for metric in metrics}
            if ran := [profile for _, profile, word in outcomes.values() if word]:
                texts = {name: ours.replace(" points", "") for name, (ours, _, _) in outcomes.items()}
                lines.append({"points": f"{a} minus {b}", "where": ", ".join(place), "profile": ran[0], **texts})
    return pd.DataFrame(lines)


def differences(rows: pd.DataFrame, paper: str, a: str, b: str, metric: str = "auroc") -> tuple[pd.DataFrame, str]:
    """(a minus b in points, one line per class and one column per seed; the profile), from the rows that pair.

    rows: of one dataset and protocol. Two rows pair if they share class, seed, profile, image size and, if both have
    one, backbone. Profile `paper` comes before `quick`, and the seeds with the most classes count. b may be a baseline
    (`baselines.csv`): then the mean over its seeds counts. An empty table and the reason, if nothing pairs.
    """
    rows = rows[rows[metric].notna()]
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
        differing = []
        for name in [*same, "weights"]:
            left, right = (sorted({*part[name].astype(str)} - {""}) for part in (ours, others))
            if left and right and not {*left} & {*right}:
                differing.append(f"{name.replace('_', ' ')} {', '.join(left)} against {', '.join(right)}")
        nothing = "no class, seed, profile, image size and backbone in common"
        return pairs, f"not comparable: {'; '.join(differing) or nothing}"
    profile = "paper" if (pairs["profile"] == "paper").any() else "quick"
    pairs = compare.largest_variant(pairs[pairs["profile"] == profile].assign(of=0, row_weights=pairs["weights"]))
    points = pairs.assign(points=100 * (pairs[metric] - pairs[f"{metric}_other"]))
    points = points.pivot(index="class", columns="seed", values="points").reindex(points["class"].unique())
    points = points[points[points.notna().sum().idxmax()].notna()]  # the classes of the seed that has the most
    return points.loc[:, points.notna().all()], profile


def interval(points: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean of differences (classes, seeds), by a bootstrap over classes and seeds within them.

    SciPy's percentile bootstrap draws the classes; the statistic draws their seeds. The random numbers are fixed.
    """
    from scipy.stats import bootstrap  # here, because the import takes seconds

    random = np.random.default_rng(0)
    n_seeds = points.shape[1]

    def mean(classes, axis):  # of (..., classes), by number
        seeds = random.integers(n_seeds, size=(*classes.shape, n_seeds))
        return points[classes[..., None], seeds].mean(axis=(-2, -1))

    numbers, given = (np.arange(len(points)),), {"vectorized": True, "method": "percentile", "random_state": random}
    low, high = bootstrap(numbers, mean, **given).confidence_interval
    return float(low), float(high)


def _points(points, profile, least=0.0):
    """(a phrase with mean, interval and classes above; the profile, or why there is none; "holds" or another word)."""
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
    name = f"{a} minus {b}, {NAMES[metric]}" + f", at least {least} points" * bool(least)
    points, profile = differences(compare.trained(rows), paper, a, b, metric)
    ours, profile, word = _points(points, profile, least)
    if least_above := test.get("above"):
        name += f", above in at least {least_above} classes"
        if word:  # classes that did not run may still be above
            n_above, n_open = (points.mean(axis=1) > 0).sum(), len(compare.class_names(*place)) - len(points)
            word = "undecided" if n_above + n_open >= least_above else "does not hold"
            word = "holds" if n_above >= least_above else word
    if not word and not differences(rows, paper, a, b, metric)[0].empty:
        profile = "not trained"
    return name, *_judged(points, ours, profile, word, place, len(points.columns))


def _steadier(paper, a, b, place, rows):
    name = f"standard deviation over seeds of {b} minus that of {a}, AUROC"
    rows = rows[rows["paper"] == paper]
    spreads = rows.pivot_table("auroc", ["profile", "class"], "method", aggfunc="std").reindex(columns=[a, b]).dropna()
    if spreads.empty:  # not run, or one seed
        return name, "", "not run"
    profile = spreads.index[0][0]  # paper comes before quick
    points = 100 * (spreads[b] - spreads[a]).loc[profile].to_frame()
    n_seeds = int(rows[(rows["profile"] == profile) & (rows["method"] == a)].groupby("class").size().min())
    return name, *_judged(points, *_points(points, profile), place, n_seeds)


def _judged(points, ours, profile, word, place, n_seeds):
    """(ours, verdict): only the word if all classes and two seeds ran in profile paper, else also what ran."""
    if not word:
        return ours, profile
    expected = set(compare.class_names(*place))
    n_others = len(set(points.index) - expected) if expected else 0
    if profile == "paper" and expected and expected <= set(points.index) and n_seeds > 1:
        return ours, word
    extent = compare.extent((len(points) - n_others, len(expected), n_others), profile, n_seeds)
    return ours, f"indicative: {word}; {extent}"


def _cheaper(paper, a, b, rows):
    name = f"milliseconds per image, {a} compared with {b}"
    same = ["class", "seed", "profile", "weights", "image_size", "device"]
    times = rows[rows["paper"] == paper].pivot_table("ms_per_image", same, "method").reindex(columns=[a, b]).dropna()
    if times.empty:
        return name, "", "not run"
    ratio, n = (times[a] / times[b]).median(), f"{len(times)} run{'s' * (len(times) > 1)}"
    word = "holds" if ratio <= SLACK else "does not hold"
    is_whole = set(times.index.get_level_values("profile")) == {"paper"}
    return name, f"{ratio:.2f} times, median of {n}", word if is_whole else f"indicative: {word}; {n}, quick"


def _printed(paper, metric, records):
    records = records[(records["paper"] == paper) & (records["method"] == paper) & (records["metric"] == metric)]
    record = records.sort_values("n_seeds", key=lambda n: n == 0, kind="stable").iloc[0]  # a backbone that ran
    backbone = f" ({record['weights']})" if record["weights"] else ""
    name = f"printed {NAMES[metric]}{backbone} {record['printed']}"
    return name, record["ours"], record["verdict"]


def _in_print(paper, test, cells):
    metric, over = test["in_print"], test.get("over", "mean")
    cells = cells[(cells["metric"] == metric) & (cells["class"] == over)]
    others = test.get("beside", {*cells["method"]} - {paper})
    own, best = (cells[cells["method"].isin(of)].nlargest(1, "value").iloc[0] for of in ([paper], others))
    who = "compared with" if "beside" in test else "best of the others"
    what = "means" if over == "mean" else over.replace("mean_", "means over ")
    least, lead = test.get("least", 0), own["value"] - best["value"]
    word = "holds" if lead > 0 and lead >= least / 100 - 1e-9 else "does not hold"
    backbone = f" ({own['weights']})" if own["weights"] else ""
    ours = f"printed: {own['value']:.4g}{backbone}, {who} {best['method']} {best['value']:.4g}"
    name = f"its table's {what}, {NAMES[metric]}" + f", at least {least} points ahead" * bool(least)
    return name, ours, f"{word} in its own table"
