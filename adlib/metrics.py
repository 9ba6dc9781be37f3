"""How well scores separate anomalous and normal images. Scores are high for anomalous images, ties count one half.

All functions take NumPy arrays, torch tensors (on any device) and plain lists, and sort once.
"""

import math

import numpy as np
from numpy.typing import ArrayLike


def _arrays(scores, labels, names, axes):
    """Both as NumPy arrays, the labels as bool, or a ValueError that names the wrong one."""
    scores, labels = (np.asarray(_on_cpu(values)) for values in (scores, labels))
    if scores.ndim != len(axes) or labels.shape != scores.shape:
        wanted = str(axes).replace("'", "")
        raise ValueError(f"{names[0]} and {names[1]} must both be {wanted}, not {scores.shape} and {labels.shape}")
    if labels.dtype != bool and not np.isin(labels, (0, 1)).all():
        raise ValueError(f"{names[1]} must hold booleans (or 0 and 1), nothing else")
    if not np.issubdtype(scores.dtype, np.number) or np.iscomplexobj(scores):
        raise ValueError(f"{names[0]} must be real numbers, not {scores.dtype}")
    finite = np.isfinite(scores)
    if not finite.all():
        raise ValueError(f"{(~finite).sum()} of {scores.size} values in {names[0]} are not finite (NaN or infinite)")
    return scores, labels.astype(bool, copy=False)


def _on_cpu(values):
    """A tensor on the CPU, half precision as float32, because NumPy has no bfloat16; order and ties do not change."""
    if not hasattr(values, "detach"):
        return values
    values = values.detach().cpu()
    return values.float() if values.is_floating_point() and values.dtype.itemsize < 4 else values


def _counts(scores, is_anomalous):
    """Normal and anomalous images at or above each distinct score, from the highest down, after a leading 0: int64."""
    scores, is_anomalous = _arrays(scores, is_anomalous, ("scores", "is_anomalous"), ("N",))
    if is_anomalous.all() or not is_anomalous.any():
        absent = "normal" if len(is_anomalous) and is_anomalous.all() else "anomalous"
        raise ValueError(f"no {absent} image among the {len(scores)}: the metric is undefined")
    scores = scores.astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last image of each group of ties
    anomalous = np.append(0, np.cumsum(is_anomalous[order])[ends])
    return np.append(0, ends + 1) - anomalous, anomalous


def roc_curve(scores: ArrayLike, is_anomalous: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates in [0, 1], a point for each distinct score and (0, 0); raises as `auroc` does."""
    normal, anomalous = _counts(scores, is_anomalous)
    return normal / normal[-1], anomalous / anomalous[-1]


def auroc(scores: ArrayLike, is_anomalous: ArrayLike) -> float:
    """Area under the ROC curve in [0, 1]: the share of (normal, anomalous) pairs in right order, ties one half.

    scores: real, (N,), high = anomalous. is_anomalous: bool (or 0 and 1), (N,). Raises ValueError for shapes that
    differ, scores that are not finite, and if there are no normal or no anomalous images (then it is undefined).
    """
    normal, anomalous = _counts(scores, is_anomalous)
    # whole numbers until the last division: no rounding, so that the order of the images cannot change the result
    twice_pairs = (np.diff(normal) * (anomalous[1:] + anomalous[:-1])).sum()
    return float(twice_pairs / (2 * normal[-1] * anomalous[-1]))


def balanced_accuracy(scores: ArrayLike, is_anomalous: ArrayLike) -> float:
    """The largest (TPR + TNR) / 2 over all thresholds, chosen on the scores themselves, in [0.5, 1]; see `auroc`."""
    fpr, tpr = roc_curve(scores, is_anomalous)
    return float((1 + (tpr - fpr).max()) / 2)


def pixel_auroc(maps: ArrayLike, masks: ArrayLike) -> float:
    """AUROC of the pixels of all images together, in [0, 1]. Takes and raises what `localisation` does."""
    return localisation(maps, masks)["pixel_auroc"]


def aupro(maps: ArrayLike, masks: ArrayLike, max_fpr: float = 0.3) -> float:
    """Area under the per-region overlap curve, in [0, 1]: see `localisation`, whose arguments and errors it shares."""
    return localisation(maps, masks, max_fpr)["aupro"]


def localisation(maps: ArrayLike, masks: ArrayLike, max_fpr: float = 0.3) -> dict[str, float]:
    """Pixel AUROC and AUPRO from one sort: {"pixel_auroc": float, "aupro": float}, both in [0, 1].

    maps: real (N, H, W), high = anomalous. masks: bool (or 0 and 1) (N, H, W), True where a pixel is defective. AUPRO
    is MVTec's. Its curve is, for every threshold, the mean over connected regions (8-connected, all of the same weight)
    of a region's share at or above it, against the share of all defect-free pixels, also of good images, at or above
    it. AUPRO is the area up to `max_fpr`, interpolated there, divided by `max_fpr`. A perfect map gives 1, a constant
    one max_fpr / 2. Raises ValueError for shapes that differ, values that are not finite, masks that are not boolean,
    no defective or no defect-free pixel, and a max_fpr that is not in (0, 1].
    """
    from scipy import ndimage  # only jobs with masks need it

    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr is a false positive rate, 0 < max_fpr <= 1, not {max_fpr!r}")
    maps, masks = _arrays(maps, masks, ("maps", "masks"), ("N", "H", "W"))
    if masks.all() or not masks.any():
        absent = "defective" if not masks.any() else "defect-free"
        raise ValueError(f"no {absent} pixel in the masks: the metrics are undefined")

    # Both curves are weighted means of curves of one defective pixel each: 0 while the threshold is above its score, 1
    # when it is below, and in between a straight line over the defect-free pixels that tie with it. So two counts for
    # each are enough: the defect-free pixels above it and the defect-free pixels not below it.
    normal, scores = np.sort(maps[~masks]), maps[masks]
    above = len(normal) - np.searchsorted(normal, scores, side="right")
    not_below = len(normal) - np.searchsorted(normal, scores, side="left")
    # whole numbers until the division, as in `auroc`
    pixel_auroc = (2 * len(normal) - above - not_below).sum() / (2 * len(normal) * len(scores))

    # The line starts at the FPR `start` and ends at `end`, or is cut at max_fpr, at the height `top`.
    start, end = np.minimum(above / len(normal), max_fpr), not_below / len(normal)
    stop = np.minimum(end, max_fpr)
    top = np.divide(stop - start, end - start, out=np.ones_like(start), where=end > start)
    areas = top * (1 - (start + stop) / (2 * max_fpr))  # in units of max_fpr: 1 if every defect-free pixel is below

    within_an_image = np.zeros((3, 3, 3), bool)
    within_an_image[1] = True
    regions, n_regions = ndimage.label(masks, within_an_image)
    regions = regions[masks] - 1
    overlaps = np.bincount(regions, areas) / np.bincount(regions)  # the mean over each region
    # fsum rounds once: the order of the images, and so of the regions, changes nothing
    return {"pixel_auroc": float(pixel_auroc), "aupro": math.fsum(overlaps) / n_regions}
