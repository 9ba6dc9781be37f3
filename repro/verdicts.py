"""Phrases that compare a printed number with ours."""

import numpy as np


TOLERANCE = 0.01  # of a verdict


def verdict(
    published: float, unit: float, means: list[float], classes: tuple[int, int, int], profile: str, copy: str = ""
) -> str:
    """One phrase that compares a printed number with ours.

    published: the printed value; unit: one unit of its last place. means: for each seed, the mean over its classes.
    classes: how many of the printed number's classes ran, how many it has (0: unknown), how many other classes ran.
    copy: "17 of 100 classes" if the images come from a copy that lacks classes, so that another task was measured.
    "not run" without means; "indicative: 3 of 10 classes, quick, 1 seed" unless exactly its classes ran in profile
    "paper" on complete data; else "reproduced" (off by at most 0.01 and half a unit), "within noise" (the printed value
    is in the 95 % t-interval of three or more seeds), "above" or "below".
    """
    if not len(means):
        return "not run"
    if profile != "paper" or classes[0] != classes[1] or classes[2] or copy:
        return f"indicative: {extent(classes, profile, len(means), copy)}"
    means, rounding = np.array(means), 1e-9  # a difference equal to the tolerance is within it, despite rounding
    difference = means.mean() - published
    if abs(difference) <= TOLERANCE + unit / 2 + rounding:
        return "reproduced"
    if len(means) >= 3 and abs(difference) <= t_quantile(len(means)) * means.std(ddof=1) / len(means) ** 0.5 + rounding:
        return "within noise"
    return "above" if difference > 0 else "below"


def extent(classes: tuple[int, int, int], profile: str, n_seeds: int, copy: str = "") -> str:
    """What was run, in words: '7 of 30 classes and 10 others, paper, 2 seeds'; arguments as in `verdict`."""
    n_classes, n_expected, n_others = classes
    others = f" and {n_others} other{'s' * (n_others > 1)}" if n_others else ""
    parts = [f"{n_classes} of {n_expected or '?'} classes{others}", f"a copy of {copy}" if copy else "", profile]
    return ", ".join(filter(None, [*parts, f"{n_seeds} seed{'s' * (n_seeds > 1)}"]))


def t_quantile(n: int) -> float:
    """Student's 97.5 % quantile for the mean of n values: n - 1 degrees of freedom."""
    from scipy.special import stdtrit  # here, because a job does not need SciPy

    return float(stdtrit(n - 1, 0.975))


def of_classes(printed: dict[str, float], unit: float, ours: dict[str, list[float]]) -> dict[str, str]:
    """{class: "reproduced", "within noise" or "below by 0.031"}, for printed classes with three or more seeds here."""
    judged = {}
    for name in [name for name in ours if name in printed and len(ours[name]) >= 3]:
        word, off = verdict(printed[name], unit, ours[name], (1, 1, 0), "paper"), np.mean(ours[name]) - printed[name]
        judged[name] = f"{word} by {abs(off):.3f}" if word in ("above", "below") else word
    return judged


def among(ours: float, own: float, unit: float, printed: list[tuple[float, str]]) -> str:
    """The position of our mean among a table's printed means, with their labels: "between mkd's 0.987 and lsa's 0.990".

    own: the printed value that is compared with ours. "" if ours, rounded as in print, equals it, or if no other value
    is within the tolerance of it: then "reproduced" does not change the order of the methods.
    """
    steps = round(ours / unit) - round(own / unit)
    if not steps or not any(0 < abs(value - own) <= TOLERANCE + unit / 2 for value, _ in printed):
        return ""
    mark = own + (steps + (0.5 if steps < 0 else -0.5)) * unit  # ours is level with a value that it equals, not past it
    below, above = ([one for one in sorted(printed) if (one[0] < mark) == is_below] for is_below in (True, False))
    nearest = " and ".join(f"{label}'s {value:.3f}" for value, label in (*below[-1:], *above[:1]))
    return f"{'between' if below and above else 'above' if below else 'below'} {nearest}"
