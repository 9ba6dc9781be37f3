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
