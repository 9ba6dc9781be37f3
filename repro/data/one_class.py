"""The one-class splits of the papers: one class is normal; the others, or its own defects, are anomalous."""

from dataclasses import dataclass

import numpy as np
import torch

from repro.data.names import CATEGORY_DATASETS, SUPERCLASSES, category_of, check_protocol, find
from repro.data.sources import prepared


GOOD = "good"  # the kind of a category's images without defects


@dataclass
class OneClass:
    """The images of one normal class for training and for testing."""

    train: torch.Tensor  # uint8 (N, C, H, W), normal only
    test: torch.Tensor  # uint8 (M, C, H, W)
    is_anomalous: torch.Tensor  # bool (M,)
    kind: list[str]  # class or defect of each test image
    files: list[str] | None  # path of each test image inside its folder
    masks: torch.Tensor | None  # bool (M, H, W)
    validation: torch.Tensor | None  # uint8 (V, C, H, W), from the train split, not in `train`
    validation_is_anomalous: torch.Tensor | None  # bool (V,)
    normal_class: str
    class_names: list[str]
    source: str  # as in Images
    n_train_available: int  # normal training images before validation and n_train cut them


def one_class(
    name: str,
    normal: object,
    protocol: str = "official",
    seed: int = 0,
    size: int | None = 32,
    resample: str = "antialias",
    n_train: int | None = None,
    validation: float = 0.0,
) -> OneClass:
    """Returns the `OneClass` split in which class `normal` is normal and the others are anomalous.

    protocol: "official" trains on the train split and tests on the whole test split. "80-20" pools both: a permutation
    of each class by `seed`, whichever class is normal, gives 80 % to a train part and the rest to a test part. The test
    images are the normal test part and as many anomalies, drawn by `seed` from the others' test parts (all, if fewer).
    "superclass", only for cifar100, is official within the five classes of `normal`'s superclass, also for validation.
    n_train: at most so many normal training images, drawn by `seed`; None is all.
    validation: the share of the normal training images, 0 <= share < 1, to hold out; as many anomalies are added from
    the other classes' train split (in 80-20 their train part; all, if fewer), or none if a class is a category. Raises
    ValueError for a bad argument, for a split without training, normal or anomalous test images, for a validation in a
    superclass without training images of another class, and as `load` does.
    """
    check_protocol(name, protocol)
    if not 0 <= validation < 1:
        raise ValueError(f"validation is a share of the training images, 0 <= share < 1, not {validation!r}")
    if n_train is not None and not (isinstance(n_train, int) and n_train >= 1):
        raise ValueError(f"n_train is a number of images from 1, or None for all, not {n_train!r}")
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is a whole number from 0, not {seed!r}")
    train, test = prepared(name, size, resample, category_of(name, normal))
    names, target = train.class_names, find(train.class_names, normal, name)

    def draw(purpose: int, label: int, rows: np.ndarray) -> np.ndarray:
        """The rows in random order, from a generator for each purpose and class, so that none affects another."""
        return np.random.default_rng([seed, purpose, label]).permutation(rows)

    # Row numbers run through the train split and then through the test split.
    labels = torch.cat([train.labels, test.labels]).numpy()
    is_category = name in CATEGORY_DATASETS
    is_normal = np.array([kind == GOOD for kind in train.kinds + test.kinds]) if is_category else labels == target
    in_task = np.ones(len(labels), dtype=bool)
    if protocol == "superclass":
        siblings = next(classes for classes in SUPERCLASSES[name] if names[target] in classes)
        in_task = np.isin(labels, [names.index(sibling) for sibling in siblings])
    in_train = np.arange(len(labels)) < len(train.labels)
    test_rows = np.flatnonzero(~in_train & in_task)
    if protocol == "80-20":
        for label in range(len(names)):
            rows = draw(0, label, np.flatnonzero(labels == label))
            in_train[rows] = np.arange(len(rows)) < len(rows) * 4 // 5
        normals = np.flatnonzero(~in_train & is_normal)
        anomalies = draw(1, target, np.flatnonzero(~in_train & ~is_normal))[: len(normals)]
        test_rows = np.sort(np.concatenate([normals, anomalies]))
    is_anomalous = ~is_normal[test_rows]

    normals = draw(2, target, np.flatnonzero(in_train & is_normal))
    anomalies = draw(3, target, np.flatnonzero(in_train & in_task & ~is_normal))
    held_out = max(1, round(validation * len(normals))) if validation else 0
    train_rows = np.sort(normals[held_out:][:n_train])
    validation_rows = np.sort(np.concatenate([normals[:held_out], anomalies[:held_out]]))

    # Fail before the training, not after it.
    if not len(train_rows):
        none = f"no training images of class {names[target]} in protocol {protocol}, or all are held out"
        trained = ", ".join(names[label] for label in train.labels.unique().tolist())
        raise ValueError(f"{name} ({train.source}) has {none}" + f": choose {trained}" * bool(trained))
    for kind, is_of_kind in (("anomalous", is_anomalous), ("normal", ~is_anomalous)):
        if not is_of_kind.any():
            has_any = kind == "normal" or not is_normal.all()  # else pooling gives none either
            can_be_pooled = protocol == "official" and not is_category and has_any
            hint = "; protocol 80-20 splits the training images" * can_be_pooled
            raise ValueError(f"{name} has no {kind} test images where {names[target]} is normal{hint}")
    if protocol == "superclass" and held_out and not len(anomalies):
        none = f"no training images of the other classes in the superclass of {names[target]} ({', '.join(siblings)})"
        raise ValueError(f"{name} ({train.source}) has {none}, so no anomalies to validate on: give validation=0")
    source = train.source
    if protocol == "superclass" and set(siblings) <= set(test.kinds):
        source = source.partition(" (")[0]  # the copy may lack other classes, but it has all classes of this task

    def take(what: str, rows: np.ndarray) -> torch.Tensor | list | None:
        """The attribute `what` of train and test for sorted rows; the two are never concatenated as a whole."""
        n, both = len(train.labels), (getattr(train, what), getattr(test, what))
        if both[0] is None:
            return None
        parts = zip(both, (rows[rows < n], rows[rows >= n] - n), strict=True)
        if isinstance(both[0], list):
            return [values[row] for values, of_split in parts for row in of_split]
        return torch.cat([values[torch.from_numpy(of_split)] for values, of_split in parts])

    return OneClass(
        train=take("images", train_rows),
        test=take("images", test_rows),
        is_anomalous=torch.from_numpy(is_anomalous),
        kind=take("kinds", test_rows),
        files=take("files", test_rows),
        masks=take("masks", test_rows),
        validation=take("images", validation_rows) if held_out else None,
        validation_is_anomalous=torch.from_numpy(~is_normal[validation_rows]) if held_out else None,
        normal_class=names[target],
        class_names=names,
        source=source,
        n_train_available=len(normals),
    )


def examples(split: OneClass, most: int = 5) -> list[int]:
    """Indices of test images to show: two normal ones, the middle one of each of the first `most` kinds of anomaly."""
    rows = {}
    for index, (kind, is_anomalous) in enumerate(zip(split.kind, split.is_anomalous.tolist(), strict=True)):
        rows.setdefault(kind if is_anomalous else None, []).append(index)
    normal = rows.pop(None)
    return [normal[0], *(of_kind[len(of_kind) // 2] for of_kind in [normal, *rows.values()][: most + 1])]
