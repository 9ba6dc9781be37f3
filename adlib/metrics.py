"""How well scores tell anomalous images from normal ones. Scores are high for anomalous images, ties count one half.

    auroc(scores, is_anomalous)              # 0.973
    fpr, tpr = roc_curve(scores, is_anomalous)

NumPy arrays, torch tensors (on any device) and plain lists are taken alike. Everything sorts once.
"""
import numpy as np


def _checked(scores, is_anomalous):
    """Scores as float64 (N,) and labels as bool (N,), or a ValueError that says which of the two is wrong."""
    scores, is_anomalous = (np.asarray(_on_cpu(values)) for values in (scores, is_anomalous))
    if scores.ndim != 1 or is_anomalous.shape != scores.shape:
        raise ValueError(
            f"scores and is_anomalous must be two sequences of one length, not {scores.shape} and {is_anomalous.shape}"
        )
    if is_anomalous.dtype != bool and not np.isin(is_anomalous, (0, 1)).all():
        raise ValueError("is_anomalous must hold booleans (or 0 and 1), nothing else")
    if not np.issubdtype(scores.dtype, np.number) or np.iscomplexobj(scores):
        raise ValueError(f"scores must be real numbers, not {scores.dtype}")
    scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        raise ValueError(f"{(~np.isfinite(scores)).sum()} of {len(scores)} scores are not finite (NaN or infinite)")
    is_anomalous = is_anomalous.astype(bool)
    if is_anomalous.all() or not is_anomalous.any():
        absent = "normal" if len(is_anomalous) and is_anomalous.all() else "anomalous"
        raise ValueError(f"no {absent} image among the {len(scores)}: the metric is undefined")
    return scores, is_anomalous


def _on_cpu(values):
    """A tensor on the CPU, floats as float64: half precision has no NumPy type; order and ties stay as they are."""
    if not hasattr(values, "detach"):
        return values
    values = values.detach().cpu()
    return values.double() if values.is_floating_point() else values


def _counts(scores, is_anomalous):
    """Normal and anomalous images at or above each distinct score, from the highest down, after a leading 0: int64."""
    scores, is_anomalous = _checked(scores, is_anomalous)
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last image of each group of ties
    anomalous = np.append(0, np.cumsum(is_anomalous[order])[ends])
    return np.append(0, ends + 1) - anomalous, anomalous


def roc_curve(scores, is_anomalous):
    """The ROC curve: false and true positive rates, float64 in [0, 1], from (0, 0) to (1, 1).

    One point per distinct score (an image is called anomalous when its score is at least the threshold), so that tied
    images are passed in one straight step. Raises ValueError as `auroc` does.
    """
    normal, anomalous = _counts(scores, is_anomalous)
    return normal / normal[-1], anomalous / anomalous[-1]


def auroc(scores, is_anomalous):
    """Area under the ROC curve in [0, 1]: the share of (normal, anomalous) pairs in right order, ties one half.

    scores: real, (N,), high = anomalous. is_anomalous: bool (or 0 and 1), (N,). Raises ValueError for shapes that
    differ, scores that are not finite, and where the normal or the anomalous images are absent (then it is undefined).
    """
    normal, anomalous = _counts(scores, is_anomalous)
    # whole numbers until the last division: no rounding, so that the order of the images cannot change the result
    twice_pairs = (np.diff(normal) * (anomalous[1:] + anomalous[:-1])).sum()
    return float(twice_pairs / (2 * normal[-1] * anomalous[-1]))


def balanced_accuracy(scores, is_anomalous):
    """The largest (TPR + TNR) / 2 over all thresholds, in [0.5, 1]: the threshold is chosen on the scores themselves.

    Takes and raises what `auroc` does. With B this number, 2B - 1 <= AUROC <= 1 - 2(1 - B)^2.
    """
    fpr, tpr = roc_curve(scores, is_anomalous)
    return float((1 + (tpr - fpr).max()) / 2)


def pixel_auroc(maps, masks):
    """AUROC of the pixels of all images together, in [0, 1]. Takes and raises what `localisation` does."""
    return localisation(maps, masks)["pixel_auroc"]


def aupro(maps, masks, max_fpr=0.3):
    """Area under the per-region overlap curve, in [0, 1]: see `localisation`, whose arguments and errors it shares."""
    return localisation(maps, masks, max_fpr)["aupro"]


def localisation(maps, masks, max_fpr=0.3):
    """Pixel AUROC and AUPRO from one sort of all pixels: {"pixel_auroc": float, "aupro": float}.

    maps: real (N, H, W), high = anomalous. masks: bool (or 0 and 1) (N, H, W), True where a pixel is defective. AUPRO
    is MVTec's: for every threshold the mean over connected regions (8-connected, over all masks, each weighing the same)
    of the share of the region at or above it, against the share of all defect-free pixels, those of good images
    included, at or above it; the area up to `max_fpr`, interpolated there, divided by `max_fpr`. A perfect map gives
    1, a constant one max_fpr / 2. Raises ValueError for shapes that differ, values that are not finite, masks that are
    not boolean, no defective or no defect-free pixel, and a max_fpr that is not in (0, 1].
    """
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr is a false positive rate, 0 < max_fpr <= 1, not {max_fpr!r}")
    maps, masks = (np.asarray(_on_cpu(values)) for values in (maps, masks))
    if maps.ndim != 3 or masks.shape != maps.shape:
        raise ValueError(f"maps and masks must both be (N, H, W), not {maps.shape} and {masks.shape}")
    if masks.dtype != bool and not np.isin(masks, (0, 1)).all():
        raise ValueError("masks must hold booleans (or 0 and 1), nothing else")
    if not np.issubdtype(maps.dtype, np.number) or np.iscomplexobj(maps):
        raise ValueError(f"maps must be real numbers, not {maps.dtype}")
    if not np.isfinite(maps).all():
        raise ValueError(f"{(~np.isfinite(maps)).sum()} of {maps.size} pixels of the maps are not finite")
    masks = masks.astype(bool)
    if masks.all() or not masks.any():
        absent = "defective" if not masks.any() else "defect-free"
        raise ValueError(f"no {absent} pixel in the masks: the metrics are undefined")
    weights = _region_weights(masks)

    scores = maps.ravel()
    order = np.argsort(scores)[::-1]   # ties may come in any order: they are merged
    scores = scores[order]
    ends = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    defective = np.append(0, np.cumsum(masks.ravel()[order])[ends])
    normal = np.append(0, ends + 1) - defective
    twice_pairs = (np.diff(normal) * (defective[1:] + defective[:-1])).sum()   # exact, as in `auroc`
    overlap = np.append(0, np.cumsum(weights.ravel()[order])[ends])
    overlap /= overlap[-1]   # the number of regions, but for rounding
    fpr = normal / normal[-1]
    inside = int(np.searchsorted(fpr, max_fpr, side="right"))   # points up to and at max_fpr
    limit = np.interp(max_fpr, fpr[inside - 1:inside + 1], overlap[inside - 1:inside + 1])
    area = np.trapezoid(np.append(overlap[:inside], limit), np.append(fpr[:inside], max_fpr))
    auroc_of_pixels = twice_pairs / (2 * normal[-1] * defective[-1])
    return {"pixel_auroc": float(auroc_of_pixels), "aupro": float(min(area / max_fpr, 1))}


def _region_weights(masks):
    """1 / (pixels of its region) for each defective pixel, 0 elsewhere: float64 (N, H, W); they sum to the regions."""
    from scipy import ndimage  # only jobs with masks need it

    weights = np.zeros(masks.shape)
    for i in np.flatnonzero(masks.any((1, 2))):
        regions, _ = ndimage.label(masks[i], structure=np.ones((3, 3)))
        sizes = np.bincount(regions.ravel()).astype(np.float64)
        weights[i] = np.where(masks[i], 1 / sizes[regions], 0)
    return weights
