"""The datasets and the names of their classes.

    class_names("cifar10")                 # ["plane", "car", ...], in the order of the labels
    class_index("cifar10", "airplane")     # 0

`_MODULES` lists all datasets; docs/adding-a-dataset.md says what a dataset's module holds.
"""

import importlib
import re
from pathlib import Path

from repro.data import own


_MODULES = {
    "digits": "embedded",
    "textures": "embedded",
    "mnist": "torchvision_sets",
    "fashion_mnist": "torchvision_sets",
    "cifar10": "torchvision_sets",
    "cifar100": "torchvision_sets",
    "coil100": "coil100",
    "mvtec": "mvtec",
}
DATASETS = {name: importlib.import_module(f"repro.data.{module}") for name, module in _MODULES.items()}
CLASS_NAMES = {name: module.CLASSES[name] for name, module in DATASETS.items()}
CATEGORY_DATASETS = tuple(name for name, module in DATASETS.items() if name in getattr(module, "CATEGORIES", ()))
SUPERCLASSES = {name: getattr(module, "SUPERCLASSES", {}).get(name, []) for name, module in DATASETS.items()}
PROTOCOLS = ("official", "80-20")  # of every dataset without categories; those with superclasses also have superclass
# Class names of files and other papers, after `_canonical` has made them lower case with underscores.
ALIASES = {"airplane": "plane", "automobile": "car", "t_shirt_top": "t_shirt", "cups": "cup", "apples": "apple"}
ALIASES |= {f"{i}_{word}": str(i) for i, word in enumerate("zero one two three four five six seven eight nine".split())}


def parse(name: str) -> tuple[str, Path | None]:
    """("folder" or "npz", absolute path), or (name, None) for a known dataset; ValueError for an unknown one."""
    kind, _, path = str(name).partition(":")
    if kind in ("folder", "npz") and path:
        return kind, Path(path).expanduser().resolve()
    if name not in DATASETS:
        of = "npz" if str(name).endswith(".npz") else "folder"
        hint = f"; your own images are {of}:{name}" * (Path(name).suffix == ".npz" or "/" in str(name))
        raise ValueError(f"unknown dataset {name!r}: choose {', '.join(DATASETS)}, folder:PATH or npz:PATH{hint}")
    return name, None


def source(name: str) -> str:
    """The present state of a user's own images, as in the column data of a result row: "folder:1a2b3c4d"."""
    return own.source(*parse(name))


def class_names(name: str) -> list[str]:
    """The classes of a dataset that can be normal: all of a known dataset; of your own, those with training images."""
    kind, path = parse(name)
    return own.class_names(kind, path) if path else list(CLASS_NAMES[name])


def class_index(name: str, wanted: object) -> int:
    """The index of class `wanted`, under any of its names ("airplane"), in `class_names(name)`. Raises ValueError."""
    return find(class_names(name), wanted, name)


def category_of(name: str, wanted: object) -> str | None:
    """The name of class `wanted` in a dataset of categories, which are read one by one; None for other datasets."""
    return CLASS_NAMES[name][class_index(name, wanted)] if name in CATEGORY_DATASETS else None


def find(names: list[str], wanted: object, dataset: str) -> int:
    """Index of the name that equals `wanted`, or else of the only name that differs just in spelling."""
    if str(wanted) in names:
        return names.index(str(wanted))
    alike = [i for i, name in enumerate(names) if _canonical(name, dataset) == _canonical(wanted, dataset)]
    if len(alike) != 1:
        raise ValueError(f"unknown class {str(wanted)!r} of {dataset}: choose {', '.join(names)}")
    return alike[0]


def check_protocol(name: str, protocol: str) -> None:
    """ValueError listing the choices, unless dataset `name` can be split by `protocol`."""
    choices = PROTOCOLS[:1] if name in CATEGORY_DATASETS else PROTOCOLS
    choices += ("superclass",) if SUPERCLASSES.get(name) else ()
    if protocol not in choices:
        listed = " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]]))
        raise ValueError(f"unknown protocol {protocol!r} for {name}: choose {listed}")


def _canonical(name: object, dataset: str) -> str:
    plain = re.sub("[^a-z0-9]+", "_", str(name).lower()).strip("_")
    alias = getattr(DATASETS.get(dataset), "alias", None)
    return alias(plain) if alias else ALIASES.get(plain, plain)
