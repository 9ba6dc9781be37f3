"""Datasets by name: uint8 tensors, class names, masks, and the one-class splits of the papers.

    split = one_class("mnist", "8", protocol="official", seed=0, size=32)
    split.train, split.test, split.is_anomalous      # uint8 (N, 1, 32, 32), uint8 (M, 1, 32, 32), bool (M,)
    images = load("folder:screws", "test", size=128)

Names: digits and textures (always there), mnist, fashion_mnist, cifar10, cifar100 (found under $ADLIB_DATA in
torchvision's layout or as <name>.npz, else downloaded by torchvision), mvtec (found as folders or as the official
archive, else downloaded; see `mvtec.py`), and one's own as folder:PATH and npz:PATH (`readers.py` says which layouts).
Prepared images are cached under $ADLIB_CACHE (default ~/.cache/adlib), one file per dataset, size and resampling, of
mvtec one per category, and a job that finds them there reads nothing else; so after other data of the same name are put
under $ADLIB_DATA, the cache file is to be deleted. ADLIB_OFFLINE=1 forbids downloads.
"""
import hashlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from adlib import cache, mvtec, readers, textures
from adlib._torchvision import import_torchvision
from adlib.readers import Images


_CIFAR100 = """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel
    can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man
    maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
    plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail
    snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout
    tulip turtle wardrobe whale willow_tree wolf woman worm"""

# In the order of the official labels; the names are the papers' where they have one.
CLASS_NAMES = {
    "digits": list("0123456789"),
    "textures": list(textures.NAMES),
    "mnist": list("0123456789"),
    "fashion_mnist": "t_shirt trouser pullover dress coat sandal shirt sneaker bag ankle_boot".split(),
    "cifar10": "plane car bird cat deer dog frog horse ship truck".split(),
    "cifar100": _CIFAR100.split(),
    "mvtec": list(mvtec.NAMES),
}
# What files and other papers call them, after `_canonical` has put it in lower case with underscores.
ALIASES = {"airplane": "plane", "automobile": "car", "t_shirt_top": "t_shirt", "cups": "cup", "apples": "apple",
           **{f"{digit}_{word}": str(digit) for digit, word in
              enumerate("zero one two three four five six seven eight nine".split())}}
# Here a class is a category with defects of its own: it is tested on its own good and defective images, never on other
# categories.
CATEGORY_DATASETS = ("textures", "mvtec")
GOOD = "good"
PROTOCOLS = ("official", "80-20")
RESAMPLES = ("antialias", "bilinear")

_TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}


@dataclass
class OneClass:
    """One normal class: what to train on, what to test on."""
    train: torch.Tensor                             # uint8 (N, C, H, W), normal only
    test: torch.Tensor                              # uint8 (M, C, H, W)
    is_anomalous: torch.Tensor                      # bool (M,)
    kind: list                                      # class or defect of each test image
    files: list | None                              # path of each test image inside its folder
    masks: torch.Tensor | None                      # bool (M, H, W)
    validation: torch.Tensor | None                 # uint8 (V, C, H, W), from the train split, not in `train`
    validation_is_anomalous: torch.Tensor | None    # bool (V,)
    normal_class: str
    class_names: list
    source: str                                     # as in Images
    n_train_available: int                          # normal training images before validation and n_train cut them


def class_names(name):
    """The classes of a dataset that can be normal: of a known dataset all (nothing is read), of folder: and npz: those
    with training images. Raises ValueError for an unknown name, FileNotFoundError for a missing path."""
    kind, path = _parse(name)
    if kind == "folder":
        return readers.folder_class_names(path)
    return readers.npz_class_names(path) if kind == "npz" else list(CLASS_NAMES[name])


def class_index(name, wanted):
    """The place of class `wanted` in `class_names(name)`; official names are accepted too ("airplane", "T-shirt/top",
    "0 - zero"), upper and lower case alike. Raises ValueError listing the choices."""
    return _find(class_names(name), wanted, name)


def load(name, split, size=None, resample="antialias") -> Images:
    """Returns the `Images` of one split, "train" or "test", resized to size x size (None: as they are).

    `resample` is "antialias" or "bilinear". Of mvtec it gives all categories that are there, prepared or not. Raises
    ValueError for a bad argument or a damaged source, each named, and FileNotFoundError where there is no source,
    saying what to put where.
    """
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}: choose train or test")
    if name == "mvtec":
        unpacked = mvtec.there(_data_root(), _cache_folder() / "downloads")
        there = [one for one in mvtec.NAMES if one in unpacked or _cache_path(name, size, resample, one).is_file()]
        return mvtec.join([_prepared(name, size, resample, one)[split == "test"] for one in there or mvtec.NAMES])
    train, test = _prepared(name, size, resample)
    return train if split == "train" else test


def one_class(name, normal, protocol="official", seed=0, size=32, resample="antialias", n_train=None, validation=0.0):
    """Returns the `OneClass` split in which class `normal` is normal and all others are anomalous.

    protocol: "official" trains on the train split and tests on the whole test split. "80-20" pools both; of each class
    a permutation by `seed`, the same whichever class is normal, gives 80 % to a train part and the rest to a test part;
    tested are the normal test part and as many anomalies, drawn by `seed` from the others' test parts (all, if fewer).
    n_train: at most so many normal training images, drawn by `seed`; None is all.
    validation: the share of the normal training images, 0 <= share < 1, to hold out; with them come as many anomalies
    from the other classes' train split (in 80-20 their train part), none where a class is a category. 0 is none.
    Raises ValueError for a bad argument and for a split without training, normal or anomalous test images, and what
    `load` raises; of mvtec only the category `normal` is read.
    """
    if protocol not in PROTOCOLS or (protocol != "official" and name in CATEGORY_DATASETS):
        choices = ("official",) if name in CATEGORY_DATASETS else PROTOCOLS
        raise ValueError(f"unknown protocol {protocol!r} for {name}: choose {' or '.join(choices)}")
    if not 0 <= validation < 1:
        raise ValueError(f"validation is a share of the training images, 0 <= share < 1, not {validation!r}")
    if n_train is not None and not (isinstance(n_train, int) and n_train >= 1):
        raise ValueError(f"n_train is a number of images from 1, or None for all, not {n_train!r}")
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is a whole number from 0, not {seed!r}")
    category = CLASS_NAMES[name][class_index(name, normal)] if name == "mvtec" else None
    train, test = _prepared(name, size, resample, category)
    names, target = train.class_names, _find(train.class_names, normal, name)

    def draw(purpose, label):   # a generator of its own for every purpose and class, so that none disturbs another
        return np.random.default_rng([seed, purpose, label])

    # Rows count through the train split and on through the test split.
    labels = torch.cat([train.labels, test.labels]).numpy()
    n_of_train = len(train.labels)
    is_good = np.array([kind == GOOD for kind in train.kinds + test.kinds]) if name in CATEGORY_DATASETS else None
    if protocol == "80-20":
        in_train = np.zeros(len(labels), dtype=bool)
        for label in range(len(names)):
            rows = np.flatnonzero(labels == label)
            in_train[draw(0, label).permutation(rows)[:len(rows) * 4 // 5]] = True
        normals = np.flatnonzero(~in_train & (labels == target))
        others = draw(1, target).permutation(np.flatnonzero(~in_train & (labels != target)))
        test_rows = np.concatenate([normals, others[:len(normals)]])
    else:
        in_train = np.arange(len(labels)) < n_of_train
        test_rows = np.flatnonzero(~in_train if is_good is None else ~in_train & (labels == target))
    test_rows.sort()
    is_anomalous = (labels != target)[test_rows] if is_good is None else ~is_good[test_rows]

    normals = draw(2, target).permutation(np.flatnonzero(in_train & (labels == target)))
    held_out = max(1, round(validation * len(normals))) if validation else 0
    train_rows = np.sort(normals[held_out:][:n_train])
    others = np.flatnonzero(in_train & (labels != target)) if is_good is None else np.zeros(0, dtype=np.int64)
    validation_rows = np.sort(np.concatenate([normals[:held_out], draw(3, target).permutation(others)[:held_out]]))
    _check_split(name, train, names, target, protocol, len(train_rows), is_anomalous)

    def take(rows, what):   # of sorted rows, from the one split and from the other
        parts = [(split, rows[(rows >= start) & (rows < start + len(split.labels))] - start)
                 for split, start in ((train, 0), (test, n_of_train))]
        if what == "images" or what == "masks":
            return torch.cat([getattr(split, what)[torch.from_numpy(part)] for split, part in parts if len(part)])
        return [getattr(split, what)[i] for split, part in parts for i in part]

    return OneClass(
        train=take(train_rows, "images"), test=take(test_rows, "images"), is_anomalous=torch.from_numpy(is_anomalous),
        kind=take(test_rows, "kinds"), files=take(test_rows, "files") if train.files is not None else None,
        masks=take(test_rows, "masks") if train.masks is not None else None,
        validation=take(validation_rows, "images") if held_out else None,
        validation_is_anomalous=torch.from_numpy(labels[validation_rows] != target) if held_out else None,
        normal_class=names[target], class_names=names, source=train.source, n_train_available=len(normals))


def examples(split, most=5):
    """Indices of test images to show: two normal ones and the middle one of each of at most so many kinds of anomaly.

    split: a `OneClass`. Kinds in the order of the test images; chosen by no score.
    """
    rows = {}
    for index, (kind, is_anomalous) in enumerate(zip(split.kind, split.is_anomalous.tolist(), strict=True)):
        rows.setdefault((is_anomalous, kind if is_anomalous else GOOD), []).append(index)
    normal = rows.pop((False, GOOD))
    return [normal[0], normal[len(normal) // 2], *(some[len(some) // 2] for some in list(rows.values())[:most])]


def _check_split(name, train, names, target, protocol, n_train, is_anomalous):
    """What would fail after the training fails before it, in one sentence."""
    if not n_train:
        there = [names[i] for i in train.labels.unique().tolist()]
        raise ValueError(f"{name} ({train.source}) has no training images of class {names[target]} in protocol "
                         f"{protocol}, or all are held out: choose {', '.join(there)}")
    for missing, there in (("anomalous", is_anomalous), ("normal", ~is_anomalous)):
        if not there.any():
            pooled = protocol == "official" and name not in CATEGORY_DATASETS
            hint = "; protocol 80-20 splits the training images" if pooled else ""
            raise ValueError(f"{name} has no {missing} test images where {names[target]} is normal{hint}")


def _canonical(name):
    plain = re.sub("[^a-z0-9]+", "_", str(name).lower()).strip("_")
    return ALIASES.get(plain, plain)


def _find(names, wanted, dataset):
    """Index of the one name that `wanted` is exactly, or else is but for spelling."""
    if str(wanted) in names:
        return names.index(str(wanted))
    alike = [i for i, name in enumerate(names) if _canonical(name) == _canonical(wanted)]
    if len(alike) != 1:
        raise ValueError(f"unknown class {str(wanted)!r} of {dataset}: choose {', '.join(names)}")
    return alike[0]


def _parse(name):
    """("folder" or "npz", absolute path), or (name, None) for a known dataset."""
    kind, colon, path = str(name).partition(":")
    if kind in ("folder", "npz") and path:
        return kind, Path(path).expanduser().resolve()
    if name not in CLASS_NAMES:
        raise ValueError(f"unknown dataset {name!r}: choose {', '.join(CLASS_NAMES)}, folder:PATH or npz:PATH")
    return name, None


def _cache_folder():
    return Path(os.environ.get("ADLIB_CACHE") or "~/.cache/adlib").expanduser().resolve()


def _cache_path(name, size, resample, category):
    """The cache file of a dataset, or of one category of mvtec."""
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise ValueError(f"size is a number of pixels from 1, or None, not {size!r}")
    if resample not in RESAMPLES:
        raise ValueError(f"unknown resample {resample!r}: choose {' or '.join(RESAMPLES)}")
    stem = f"{name}-{category}" if category else _stem(name)
    return _cache_folder() / f"{stem}-{f'{size}-{resample}' if size else 'native'}.bin"


def _data_root():
    """The folder that ADLIB_DATA names, or None where it is not set."""
    if not os.environ.get("ADLIB_DATA"):
        return None
    root = Path(os.environ["ADLIB_DATA"]).expanduser().resolve()
    if not root.is_dir():
        raise FileNotFoundError(f"ADLIB_DATA names {root}, which is no folder")
    return root


def _prepared(name, size, resample, category=None):
    """Train and test `Images` from the cache, which is prepared first if it is missing or damaged; of mvtec those of
    one category."""
    path = _cache_path(name, size, resample, category)
    try:
        return cache.read(path)
    except (FileNotFoundError, ValueError):
        pass   # looked at again under the lock
    from filelock import FileLock  # only where something is to be prepared

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = name if category else _stem(name)   # one for all sizes and categories: they share downloads
    with FileLock(path.parent / f"{lock}.lock"):
        damage = ""
        try:
            return cache.read(path)   # another job prepared it meanwhile
        except FileNotFoundError:
            pass
        except ValueError as error:
            damage = f"{error}, and "
            print(f"adlib: {error}; preparing it again", file=sys.stderr)
        try:
            splits = _read_source(name, size, resample, path.parent / "downloads", category)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{damage}{error}") from error
        for images in splits:
            if size is not None:
                images.images = readers.resize(images.images, size, resample)
                images.masks = None if images.masks is None else readers.resize_masks(images.masks, size)
        cache.write(path, splits)
    return splits


def _stem(name):
    """The part of the cache file's name that says which data these are: if they change, so does it."""
    kind, path = _parse(name)
    if path is None:
        state = Path(textures.__file__).read_text() if name == "textures" else ""
    elif kind == "npz":
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        state = _state(path)
    else:
        masks = sorted((path / "ground_truth").rglob("*.png"))
        state = "\n".join(_state(file) for file in [*(path / file for file in readers.list_images(path)), *masks])
    safe = re.sub("[^A-Za-z0-9_]+", "_", path.stem)[:40] if path else ""
    return "-".join(filter(None, [kind, safe, hashlib.sha256(state.encode()).hexdigest()[:12] if state else ""]))


def _state(path):
    stat = path.stat()
    return f"{path} {stat.st_size} {stat.st_mtime_ns}"


def _read_source(name, size, resample, downloads, category):
    """The two `Images` of a dataset from where they come from; only folders are resized here, image by image."""
    kind, path = _parse(name)
    if kind == "folder":
        return readers.read_folder(path, size, resample)
    if kind == "npz":
        return readers.read_npz(path)
    if name in ("digits", "textures"):
        return readers.read_digits() if name == "digits" else readers.read_textures()
    root, may_download = _data_root(), os.environ.get("ADLIB_OFFLINE") != "1"
    if name == "mvtec":
        return mvtec.read(category, root, downloads, may_download, size, resample)

    dataset = getattr(import_torchvision().datasets, _TORCHVISION[name])
    layout = f"{_TORCHVISION[name]}/raw" if "mnist" in name else dataset.base_folder

    def read_official(root):
        if "mnist" in name:
            return readers.read_mnist(root / layout, dataset, CLASS_NAMES[name])
        return readers.read_cifar(root, dataset, CLASS_NAMES[name])

    if root:
        splits = read_official(root)
        if splits is None and (root / f"{name}.npz").is_file():
            splits = _relabel(readers.read_npz(root / f"{name}.npz", CLASS_NAMES[name]), name)
        if splits is not None:
            return splits
    advice = f"put {layout}/ or {name}.npz into the folder that ADLIB_DATA names (now {root or 'not set'})"
    if may_download:
        try:
            dataset(downloads, train=True, download=True)   # checks what it gets; does nothing where all is there
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(f"{name} could not be downloaded ({error}): {advice}") from error
    splits = read_official(downloads)
    if splits is None:
        raise FileNotFoundError(f"{name} is not on this machine: {advice}, or let it be downloaded (ADLIB_OFFLINE=0)")
    return splits


def _relabel(splits, name):
    """The splits of a file that may name and order the classes of a known dataset in its own way."""
    places = torch.tensor([class_index(name, their_name) for their_name in splits[0].class_names])
    for images in splits:
        images.labels, images.class_names = places[images.labels], CLASS_NAMES[name]
        images.kinds = [CLASS_NAMES[name][label] for label in images.labels.tolist()]
    return splits
