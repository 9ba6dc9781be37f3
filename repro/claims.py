"""The papers' claims, one by one: the sentence, what tests it, what came out, whether it holds.

    for record in claims.check(claims.load()):
        print(record["says"], record["test"], record["ours"], record["verdict"])

The sentences and their tests stand in published/claims.toml, which says what kinds of tests there are. All figures come
from the rows under results/ and from the printed tables.
"""

import tomllib
from pathlib import Path

import numpy as np

from repro import results


PATH = results.CHECKOUT / "published" / "claims.toml"
KINDS = {
    "better": {"where", "metric", "least", "answers"},
    "printed": {"where"},
    "in_print": {"where", "beside", "over"},
    "cheaper": {"where"},
    "cannot": {"where"},
}
NAMES = {"auroc": "AUROC", "balanced_accuracy": "B", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}
SLACK = 1.1  # of `cheaper`: clocks differ by a tenth from run to run


def load(path=PATH):
    """The claims of a TOML file: a list of dicts. Raises ValueError for one that lacks or has a key too many."""
    found = tomllib.loads(Path(path).read_text(encoding="utf-8"))["claim"]
    for claim in found:
        if set(claim) != {"paper", "place", "says", "tests"}:
            raise ValueError(f"{path}: a claim has paper, place, says and tests, not {', '.join(claim)}")
        for test in claim["tests"]:
            kinds = [kind for kind in KINDS if kind in test]
            if len(kinds) != 1 or not set(test) <= {kinds[0]} | KINDS[kinds[0]]:
                raise ValueError(f"{path}: {claim['says']!r} has a test that is none: {test}")
    return found


def check(found, results_dir=None, published_dir=None):
    """One record for each claim, test and dataset: paper, place, says, test, where, ours (a phrase), verdict, answers
    (whether it answers what the paper asks).

    verdict: "holds", "does not hold", "undecided" (seeds disagree), with "in its own table" behind it where nothing of
    ours was asked; "indicative: ..." before it unless all classes ran in profile `paper`; what `results.verdict` says
    of a printed mean; "not run"; "cannot be tested".
    """
    rows = [row for row in results.read_all(results_dir) if row["status"] == "ok" and not results.of_stand_ins(row)]
    records = results.compare(None, results_dir, published_dir)
    checked = []
    for claim in found:
        for test in claim["tests"]:
            for where in test.get("where", [""]):
                place = tuple(where.split()) or ("", "")
                if "better" in test:
                    told = _better(claim["paper"], test, place, rows)
                elif "cheaper" in test:
                    told = _cheaper(claim["paper"], test, place, rows)
                elif "printed" in test:
                    told = _printed(claim["paper"], test, place, records)
                elif "in_print" in test:
                    told = _in_print(claim["paper"], test, place, published_dir)
                else:
                    told = {"test": "none", "ours": test["cannot"], "verdict": "cannot be tested"}
                kept = {name: claim[name] for name in ("paper", "place", "says")}
                checked.append(
                    {**kept, "where": ", ".join(filter(None, place)), **told, "answers": test.get("answers", False)}
                )
    return checked


def answer(checked, paper):
    """What came out on the question that a paper asks, in a phrase: yes, no or mixed, and the figures; '' without any.

    checked: the records of `check`. *So far* stands before it unless all of them ran as the paper has it.
    """
    some = [one for one in checked if one["paper"] == paper and one["answers"] and one["ours"]]
    if not some:
        return ""
    words = {next(w for w in ("does not hold", "undecided", "holds") if w in one["verdict"]) for one in some}
    word = {"holds": "yes", "does not hold": "no"}.get(words.pop(), "mixed") if len(words) == 1 else "mixed"
    word = f"So far {word}" if any(one["verdict"].startswith("indicative") for one in some) else word.capitalize()
    figures = {}
    for one in some:
        points = one["ours"].partition(" points")[0]
        where = one["where"].removesuffix(", official").replace(", ", " ")
        figures.setdefault(one["test"], []).append(f"{points} on {where}")
    told = "; ".join(f"{test.replace(', ', ', points of ')}: {', '.join(those)}" for test, those in figures.items())
    return f"**{word}** ({told})"


def table(checked):
    """The records as a table in Markdown; what a line shares with the one before it is left out."""
    header, lines, before = ["paper", "claim", "where", "test", "ours", "verdict"], [], None
    for one in checked:
        claim = [f"`{one['paper']}`", f"{one['says']} ({one['place']})"]
        shown = claim if claim != before else ["", ""]
        lines.append([*shown, one["where"], one["test"], one["ours"], one["verdict"]])
        before = claim
    return results.markdown_table(header, lines)


def differences(paper, a, b, place, metric, rows):
    """(profile of a, {seed: {class: a - b}}) by the rows of two methods on the same images; (None, {}) where none pair.

    Rows of profile `paper` come before those of `quick`; of several backbones the one with most rows counts. b may be a
    baseline (`baselines.csv`): then it is paired by class, with the mean over its seeds.
    """

    def of(method, owners):
        return [
            row
            for row in rows
            if row["method"] == method
            and row["paper"] in owners
            and row[metric]
            and (row["dataset"], row["protocol"]) == place
            and not row["weights"].endswith("/random")
        ]

    ours = of(a, [paper])
    others = of(b, [paper]) or of(b, ["baselines"])
    for profile in ("paper", "quick"):
        some = [row for row in ours if row["profile"] == profile]
        weights = [row["weights"] for row in some]
        some = [row for row in some if row["weights"] == max(sorted(set(weights)), key=weights.count)]
        found = {}
        for row in some:
            beside = [o for o in others if o["class"] == row["class"]]
            if beside and beside[0]["paper"] == paper:
                beside = [o for o in beside if all(o[name] == row[name] for name in ("seed", "profile", "weights"))]
            elif beside:  # a baseline: the better profile
                best = "paper" if any(o["profile"] == "paper" for o in beside) else "quick"
                beside = [o for o in beside if o["profile"] == best]
            if beside:
                value = float(row[metric]) - np.mean([float(o[metric]) for o in beside])
                found.setdefault(int(row["seed"]), {})[row["class"]] = float(value)
        if found:
            return profile, found
    return None, {}


def _better(paper, test, place, rows):
    (a, b), metric, least = test["better"], test.get("metric", "auroc"), test.get("least", 0)
    name = f"{a} less {b}, {NAMES[metric]}" + f", at least {least} points" * bool(least)
    profile, found = differences(paper, a, b, place, metric, rows)
    if not found:
        return {"test": name, "ours": "", "verdict": "not run"}
    largest = max(found.values(), key=len).keys()  # seeds with other classes have other means
    found = {seed: values for seed, values in found.items() if values.keys() == largest}
    means = np.array([100 * np.mean(list(values.values())) for _, values in sorted(found.items())])
    higher = sum(np.mean([values[one] for values in found.values()]) > 0 for one in largest)
    spread = f" ± {means.std(ddof=1):.1f}" if len(means) > 1 else ""
    ours = f"{means.mean():+.1f}{spread} points; above in {higher} of {len(largest)}"
    return {"test": name, "ours": ours, "verdict": _indicative(_decided(means - least), place, largest, profile, means)}


def _decided(margins):
    """ "holds", "does not hold" or "undecided", by the mean of margins over seeds and its 95 % t-interval."""
    mean = margins.mean()
    if len(margins) > 1:
        half = results.t_quantile(len(margins)) * margins.std(ddof=1) / np.sqrt(len(margins))
        if abs(mean) <= half:
            return "undecided"
    return "holds" if mean > 0 else "does not hold"


def _indicative(verdict, place, classes, profile, seeds):
    expected = set(results.class_names(*place))
    if profile == "paper" and expected and expected <= set(classes) and len(seeds) > 1:
        return verdict
    others = len(set(classes) - expected) if expected else 0
    n = f"{len(classes) - others} of {len(expected) or '?'} classes" + f" and {others} others" * bool(others)
    return f"indicative: {verdict}; {n}, {profile}, {len(seeds)} seed{'s' * (len(seeds) > 1)}"


def _cheaper(paper, test, place, rows):
    a, b = test["cheaper"]
    name = f"milliseconds an image of {a} beside {b}"
    times = {}
    for row in rows:
        if row["paper"] == paper and row["method"] in (a, b) and (row["dataset"], row["protocol"]) == place:
            key = tuple(row[one] for one in ("class", "seed", "profile", "weights", "device"))
            times.setdefault(key, {})[row["method"]] = float(row["ms_per_image"])
    ratios = [one[a] / one[b] for one in times.values() if len(one) == 2]
    if not ratios:
        return {"test": name, "ours": "", "verdict": "not run"}
    ratio = float(np.median(ratios))
    n = f"{len(ratios)} run{'s' * (len(ratios) > 1)}"
    verdict = "holds" if ratio <= SLACK else "does not hold"
    if any(key[2] != "paper" for key, one in times.items() if len(one) == 2):
        verdict = f"indicative: {verdict}; {n}, quick"
    return {"test": name, "ours": f"{ratio:.2f} times, median of {n}", "verdict": verdict}


def _printed(paper, test, place, records):
    metric = test["printed"]
    some = [
        one
        for one in records
        if one["paper"] == one["method"] == paper
        and one["metric"] == metric
        and (one["dataset"], one["protocol"]) == place
    ]
    one = min(some, key=lambda one: (not one["n_seeds"], some.index(one)))  # a backbone that ran, else the first
    label = f" ({one['weights']})" if one["weights"] else ""
    name = f"printed {NAMES[metric]}{label} {one['published']:.3f}"
    if not one["n_seeds"]:
        return {"test": name, "ours": "", "verdict": "not run"}
    spread = "" if one["ours_std"] is None else f" ± {one['ours_std']:.3f}"
    return {"test": name, "ours": f"{one['ours_mean']:.3f}{spread}", "verdict": one["verdict"]}


def _in_print(paper, test, place, folder):
    metric = test["in_print"]
    over = test.get("over", "mean")
    cells = [
        one
        for one in results.published(paper, folder)
        if one["metric"] == metric and one["class"] == over and (one["dataset"], one["protocol"]) == place
    ]
    own = max((one for one in cells if one["method"] == paper), key=lambda one: one["value"])
    beside = test.get("beside") or {one["method"] for one in cells} - {paper}
    best = max((one for one in cells if one["method"] in beside), key=lambda one: one["value"])
    label = f" ({own['weights']})" if own["weights"] else ""
    who = "beside it" if "beside" in test else "best of the others"
    ours = f"printed: {own['value']:.4g}{label}, {who} {best['method']} {best['value']:.4g}"
    holds = "holds" if own["value"] > best["value"] else "does not hold"
    what = "means" if over == "mean" else over.replace("mean_", "means over ")
    return {"test": f"its table's {what}, {NAMES[metric]}", "ours": ours, "verdict": f"{holds} in its own table"}
