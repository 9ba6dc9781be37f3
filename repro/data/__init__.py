"""Datasets by name: uint8 tensors, class names, masks, and the one-class splits of the papers.

    split = one_class("mnist", "8", protocol="official", seed=0, size=32)
    split.train, split.test, split.is_anomalous      # uint8 (N, 1, 32, 32), uint8 (M, 1, 32, 32), bool (M,)
    images = load("folder:screws", "test", size=128)

Names: digits and textures (always there), mnist, fashion_mnist, cifar10, cifar100 (found under $ADLIB_DATA in
torchvision's layout or as <name>.npz, else downloaded by torchvision), coil100 (found as a folder, as the official
archive or as coil100.npz, never downloaded; see `coil100.py`), mvtec (found as folders or as the official archive, else
downloaded; see `mvtec.py`), and one's own as folder:PATH and npz:PATH (`readers.py` says which layouts).
Prepared images are cached under $ADLIB_CACHE (default ~/.cache/adlib), one file per dataset, size and resampling, of
mvtec one per category, and a job that finds them there reads nothing else; so after other data of the same name are put
under $ADLIB_DATA, the cache file is to be deleted. ADLIB_OFFLINE=1 forbids downloads. Where a dataset's folder under
$ADLIB_DATA is marked as a stand-in (`standins.py`), that is what is read, whatever the cache holds; it is cached apart.
"""

import hashlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from adlib._torchvision import import_torchvision
from repro.data import cache, cifar, coil100, mvtec, readers, textures
from repro.data.readers import Images


# CIFAR-100's 20 superclasses and the five classes of each; the official labels of the 100 are in alphabetical order.
SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale".split(),
    "fish": "aquarium_fish flatfish ray shark trout".split(),
    "flowers": "orchid poppy rose sunflower tulip".split(),
    "food_containers": "bottle bowl can cup plate".split(),
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper".split(),
    "household_electrical_devices": "clock keyboard lamp telephone television".split(),
    "household_furniture": "bed chair couch table wardrobe".split(),
    "insects": "bee beetle butterfly caterpillar cockroach".split(),
    "large_carnivores": "bear leopard lion tiger wolf".split(),
    "large_man_made_outdoor_things": "bridge castle house road skyscraper".split(),
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea".split(),
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo".split(),
    "medium_mammals": "fox porcupine possum raccoon skunk".split(),
    "non_insect_invertebrates": "crab lobster snail spider worm".split(),
    "people": "baby boy girl man woman".split(),
    "reptiles": "crocodile dinosaur lizard snake turtle".split(),
    "small_mammals": "hamster mouse rabbit shrew squirrel".split(),
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree".split(),
    "vehicles_1": "bicycle bus motorcycle pickup_truck train".split(),
    "vehicles_2": "lawn_mower rocket streetcar tank tractor".split(),
}
# In the order of the official labels; the names are the papers' where they have one.
CLASS_NAMES = {
    "digits": list("0123456789"),
    "textures": list(textures.NAMES),
    "mnist": list("0123456789"),
    "fashion_mnist": "t_shirt trouser pullover dress coat sandal shirt sneaker bag ankle_boot".split(),
    "cifar10": "plane car bird cat deer dog frog horse ship truck".split(),
    "cifar100": sorted(name for five in SUPERCLASSES.values() for name in five),
    "coil100": list(coil100.NAMES),
    "mvtec": list(mvtec.NAMES),
}
# The 30 objects that PIAD's public code takes as normal, in its order: printed means over COIL-100 are taken to be over
# these. The anomalies come from all 100.
COIL100_OBJECTS = [
    f"obj{number}"
    for number in (
        79,
        48,
        65,
        98,
        73,
        13,
        14,
        39,
        57,
        28,
        42,
        75,
        44,
        24,
        82,
        56,
        7,
        47,
        68,
        30,
        33,
        90,
        70,
        87,
        12,
        91,
        4,
        22,
        71,
        55,
    )
]
# What files and other papers call them, after `_canonical` has put it in lower case with underscores.
ALIASES = {
    "airplane": "plane",
    "automobile": "car",
    "t_shirt_top": "t_shirt",
    "cups": "cup",
    "apples": "apple",
    **{
        f"{digit}_{word}": str(digit)
        for digit, word in enumerate("zero one two three four five six seven eight nine".split())
    },
}
# Here a class is a category with defects of its own: it is tested on its own good and defective images, never on other
# categories.
CATEGORY_DATASETS = ("textures", "mvtec")
GOOD = "good"
PROTOCOLS = ("official", "80-20")  # of every dataset without categories; cifar100 has superclass too
RESAMPLES = ("antialias", "bilinear")

_TORCHVISION = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
FOLDERS = {  # where torchvision puts their files
    "mnist": "MNIST/raw",
    "fashion_mnist": "FashionMNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
}


@dataclass
class OneClass:
    """One normal class: what to train on, what to test on."""

    train: torch.Tensor  # uint8 (N, C, H, W), normal only
    test: torch.Tensor  # uint8 (M, C, H, W)
    is_anomalous: torch.Tensor  # bool (M,)
    kind: list  # class or defect of each test image
    files: list | None  # path of each test image inside its folder
    masks: torch.Tensor | None  # bool (M, H, W)
    validation: torch.Tensor | None  # uint8 (V, C, H, W), from the train split, not in `train`
    validation_is_anomalous: torch.Tensor | None  # bool (V,)
    normal_class: str
    class_names: list
    source: str  # as in Images
    n_train_available: int  # normal training images before validation and n_train cut them


def class_names(name):
    """The classes of a dataset that can be normal: of a known dataset all (nothing is read), of folder: and npz: those
    with training images. Raises ValueError for an unknown name, FileNotFoundError for a missing path."""
    kind, path = _parse(name)
    if kind == "folder":
        return readers.folder_class_names(path)
    return readers.npz_class_names(path) if kind == "npz" else list(CLASS_NAMES[name])


def class_index(name, wanted):
    """The place of class `wanted` in `class_names(name)`; official names are accepted too ("airplane", "T-shirt/top",
    "0 - zero"), of coil100 plain numbers, upper and lower case alike. Raises ValueError listing the choices."""
    return _find(class_names(name), wanted, name)


def check_protocol(name, protocol):
    """ValueError listing the choices, unless dataset `name` can be split by `protocol`."""
    choices = ("official",) if name in CATEGORY_DATASETS else PROTOCOLS + ("superclass",) * (name == "cifar100")
    if protocol not in choices:
        *others, last = choices
        listed = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"unknown protocol {protocol!r} for {name}: choose {listed}")


def stand_in(name, category=None):
    """The folder that a known dataset, or a category of mvtec, would be read from, where it is marked as a stand-in.

    None where it is not, and for the other datasets; nothing is read. What is measured on it counts nowhere.
    """
    root = Path(os.environ["ADLIB_DATA"]).expanduser().resolve() if os.environ.get("ADLIB_DATA") else None
    folder = None
    if name == "mvtec":
        folder = mvtec.folder_of(category, root, _cache_folder() / "downloads")
    elif root and name == "coil100":
        folder = coil100.folder_of(root)
    elif root and name in FOLDERS:
        folder = root / FOLDERS[name]
    return folder if folder and readers.is_stand_in(folder) else None


def there(name, size=None):
    """The classes of a known dataset that a job at this size finds on this machine, in the order of `CLASS_NAMES`.

    Names of files are looked at, and of an npz the labels, no more: what is damaged counts as there, and the job will
    say so. Of what only lies prepared, at this size and antialiased, all classes count, for they are not looked up.
    Nothing is downloaded. [] where there is nothing, and also where ADLIB_DATA names no folder. Raises ValueError for
    an unknown name and a bad size.
    """
    names = CLASS_NAMES[_parse(name)[0]]
    if name in ("digits", "textures"):
        return list(names)
    try:
        found = set(_classes_of_source(name, _data_root(), _cache_folder() / "downloads"))
    except FileNotFoundError:
        found = set()
    if name == "mvtec":
        found |= {one for one in names if one not in found and _cache_path(name, size, RESAMPLES[0], one).is_file()}
    elif not found and _cache_path(name, size, RESAMPLES[0], None).is_file():
        found = set(names)
    return [one for one in names if one in found]


def load(name, split, size=None, resample="antialias") -> Images:
    """Returns the `Images` of one split, "train" or "test", resized to size x size (None: as they are).

    `resample` is "antialias" or "bilinear". Of mvtec it gives all categories that are there, prepared or not. Raises
    ValueError for a bad argument or a damaged source, each named, and FileNotFoundError where there is no source,
    saying what to put where. Where a copy of a known dataset lacks whole classes, its source says so, "npz:1a2b3c4d (17
    of 100 classes)", for whatever is measured on it is another task; counted are classes with training images.
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
    """Returns the `OneClass` split in which class `normal` is normal and the others are anomalous.

    protocol: "official" trains on the train split and tests on the whole test split. "80-20" pools both; of each class
    a permutation by `seed`, the same whichever class is normal, gives 80 % to a train part and the rest to a test part;
    tested are the normal test part and as many anomalies, drawn by `seed` from the others' test parts (all, if fewer).
    "superclass", of cifar100 alone, is official within the superclass of `normal`: tested are the test images of its
    five classes, and validation has no others either.
    n_train: at most so many normal training images, drawn by `seed`; None is all.
    validation: the share of the normal training images, 0 <= share < 1, to hold out; with them come as many anomalies
    from the other classes' train split (in 80-20 their train part; all, if fewer), none where a class is a category. 0
    is none. Raises ValueError for a bad argument, for a split without training, normal or anomalous test images, and
    for a validation in superclass of which no other class has training images, and what `load` raises; of mvtec only
    the category `normal` is read.
    """
    check_protocol(name, protocol)
    if not 0 <= validation < 1:
        raise ValueError(f"validation is a share of the training images, 0 <= share < 1, not {validation!r}")
    if n_train is not None and not (isinstance(n_train, int) and n_train >= 1):
        raise ValueError(f"n_train is a number of images from 1, or None for all, not {n_train!r}")
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is a whole number from 0, not {seed!r}")
    category = CLASS_NAMES[name][class_index(name, normal)] if name == "mvtec" else None
    train, test = _prepared(name, size, resample, category)
    names, target = train.class_names, _find(train.class_names, normal, name)

    def draw(purpose, label):  # a generator of its own for every purpose and class, so that none disturbs another
        return np.random.default_rng([seed, purpose, label])

    # Rows count through the train split and on through the test split.
    labels = torch.cat([train.labels, test.labels]).numpy()
    n_of_train = len(train.labels)
    is_good = np.array([kind == GOOD for kind in train.kinds + test.kinds]) if name in CATEGORY_DATASETS else None
    in_task = np.ones(len(labels), dtype=bool)
    if protocol == "superclass":
        siblings = next(five for five in SUPERCLASSES.values() if names[target] in five)
        in_task = np.isin(labels, [names.index(sibling) for sibling in siblings])
    if protocol == "80-20":
        in_train = np.zeros(len(labels), dtype=bool)
        for label in range(len(names)):
            rows = np.flatnonzero(labels == label)
            in_train[draw(0, label).permutation(rows)[: len(rows) * 4 // 5]] = True
        normals = np.flatnonzero(~in_train & (labels == target))
        others = draw(1, target).permutation(np.flatnonzero(~in_train & (labels != target)))
        test_rows = np.concatenate([normals, others[: len(normals)]])
    else:
        in_train = np.arange(len(labels)) < n_of_train
        test_rows = np.flatnonzero(~in_train & (in_task if is_good is None else labels == target))
    test_rows.sort()
    is_anomalous = (labels != target)[test_rows] if is_good is None else ~is_good[test_rows]

    normals = draw(2, target).permutation(np.flatnonzero(in_train & (labels == target)))
    held_out = max(1, round(validation * len(normals))) if validation else 0
    train_rows = np.sort(normals[held_out:][:n_train])
    others = np.flatnonzero(in_train & in_task & (labels != target)) if is_good is None else np.zeros(0, dtype=np.int64)
    validation_rows = np.sort(np.concatenate([normals[:held_out], draw(3, target).permutation(others)[:held_out]]))
    _check_split(name, train, names, target, protocol, len(train_rows), is_anomalous)
    if protocol == "superclass" and held_out and not len(others):
        raise ValueError(
            f"{name} ({train.source}) has no training images of the other classes in the superclass of "
            f"{names[target]} ({', '.join(siblings)}), so no anomalies to validate on: give validation=0"
        )

    source = train.source
    if protocol == "superclass" and set(siblings) <= set(test.kinds):
        source = source.partition(" (")[0]  # the copy may lack other classes: of this task it has all

    def take(rows, what):  # of sorted rows, from the one split and from the other
        parts = [
            (split, rows[(rows >= start) & (rows < start + len(split.labels))] - start)
            for split, start in ((train, 0), (test, n_of_train))
        ]
        if what == "images" or what == "masks":
            return torch.cat([getattr(split, what)[torch.from_numpy(part)] for split, part in parts if len(part)])
        return [getattr(split, what)[i] for split, part in parts for i in part]

    return OneClass(
        train=take(train_rows, "images"),
        test=take(test_rows, "images"),
        is_anomalous=torch.from_numpy(is_anomalous),
        kind=take(test_rows, "kinds"),
        files=take(test_rows, "files") if train.files is not None else None,
        masks=take(test_rows, "masks") if train.masks is not None else None,
        validation=take(validation_rows, "images") if held_out else None,
        validation_is_anomalous=torch.from_numpy(labels[validation_rows] != target) if held_out else None,
        normal_class=names[target],
        class_names=names,
        source=source,
        n_train_available=len(normals),
    )


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
        raise ValueError(
            f"{name} ({train.source}) has no training images of class {names[target]} in protocol "
            f"{protocol}, or all are held out: choose {', '.join(there)}"
        )
    for missing, there in (("anomalous", is_anomalous), ("normal", ~is_anomalous)):
        if not there.any():
            pooled = protocol == "official" and name not in CATEGORY_DATASETS
            hint = "; protocol 80-20 splits the training images" if pooled else ""
            raise ValueError(f"{name} has no {missing} test images where {names[target]} is normal{hint}")


def _canonical(name, dataset):
    plain = re.sub("[^a-z0-9]+", "_", str(name).lower()).strip("_")
    if dataset == "coil100":  # 7, "Object 7" and "obj07"; not in ALIASES, where 7 is a digit
        return re.sub("^(obj(ect)?)?_?0*(?=[1-9])", "obj", plain)
    return ALIASES.get(plain, plain)


def _find(names, wanted, dataset):
    """Index of the one name that `wanted` is exactly, or else is but for spelling."""
    if str(wanted) in names:
        return names.index(str(wanted))
    alike = [i for i, name in enumerate(names) if _canonical(name, dataset) == _canonical(wanted, dataset)]
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
    """The cache file of a dataset, or of one category of mvtec; of a stand-in one that changes with every file of it,
    so that neither passes for the other, nor one that was there before for what is there now."""
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise ValueError(f"size is a number of pixels from 1, or None, not {size!r}")
    if resample not in RESAMPLES:
        raise ValueError(f"unknown resample {resample!r}: choose {' or '.join(RESAMPLES)}")
    stem = f"{name}-{category}" if category else _stem(name)
    folder = stand_in(name, category)
    if folder:
        states = [_state(os.path.join(place, file)) for place, _, files in os.walk(folder) for file in files]
        stem += "-stand-in-" + hashlib.sha256("\n".join(sorted(states)).encode()).hexdigest()[:12]
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
    one category. Which classes a copy lacks is said here: a cache, also one of before, holds the plain source."""
    splits = _cached(name, size, resample, category)
    n, n_all = len(splits[0].labels.unique()), len(CLASS_NAMES.get(name, []))
    if n < n_all and name not in CATEGORY_DATASETS:
        for images in splits:
            images.source += f" ({n} of {n_all} classes)"
    return splits


def _cached(name, size, resample, category):
    path = _cache_path(name, size, resample, category)
    try:
        return cache.read(path)
    except (FileNotFoundError, ValueError):
        pass  # looked at again under the lock
    from filelock import FileLock  # only where something is to be prepared

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = name if category else _stem(name)  # one for all sizes and categories: they share downloads
    with FileLock(path.parent / f"{lock}.lock"):
        damage = ""
        try:
            return cache.read(path)  # another job prepared it meanwhile
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
        if path != _cache_path(name, size, resample, category):  # for it would be cached as what it was before
            raise ValueError(f"the images of {name} were changed while they were read: run this again")
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
    stat = os.stat(path)
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
    if name == "coil100":
        splits = (coil100.read(root, size, resample) or _read_copy(root, name)) if root else None
        if splits is None:
            raise FileNotFoundError(
                f"coil100 is not on this machine: put {coil100.ARCHIVE} from {coil100.PAGE}, or its folder coil-100/, "
                f"or coil100.npz, into the folder that ADLIB_DATA names (now {root or 'not set'})"
            )
        return splits

    dataset = getattr(import_torchvision().datasets, _TORCHVISION[name])
    reader = readers.read_mnist if "mnist" in name else cifar.read
    if root:
        splits = reader(root / FOLDERS[name], dataset, CLASS_NAMES[name], stand_in(name) is not None)
        if splits is None:
            splits = _read_copy(root, name)
        if splits is not None:
            return splits
    advice = f"put {FOLDERS[name]}/ or {name}.npz into the folder that ADLIB_DATA names (now {root or 'not set'})"
    if may_download:
        try:
            dataset(downloads, train=True, download=True)  # checks what it gets; does nothing where all is there
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(f"{name} could not be downloaded ({error}): {advice}") from error
    splits = reader(downloads / FOLDERS[name], dataset, CLASS_NAMES[name])
    if splits is None:
        raise FileNotFoundError(f"{name} is not on this machine: {advice}, or let it be downloaded (ADLIB_OFFLINE=0)")
    return splits


def _read_copy(root, name):
    """The two `Images` of `root`/<name>.npz, which may name and order the classes of a known dataset in its own way and
    name some that it has no images of; None if it is not there."""
    path = root / f"{name}.npz"
    if not path.is_file():
        return None
    splits = readers.read_npz(path, CLASS_NAMES[name])
    places = torch.full((len(splits[0].class_names),), -1)
    for label in torch.cat([images.labels for images in splits]).unique().tolist():
        places[label] = class_index(name, splits[0].class_names[label])
    for images in splits:
        images.labels, images.class_names = places[images.labels], CLASS_NAMES[name]
        images.kinds = [CLASS_NAMES[name][label] for label in images.labels.tolist()]
    if name == "coil100":
        coil100.check_views(splits, path)
    return splits


def _classes_of_source(name, root, downloads):
    """The classes that `_read_source` would find, without reading images, in its order of places."""
    if name == "mvtec":
        return mvtec.there(root, downloads)
    if name == "coil100":
        found = coil100.there(root) if root else []
        return found or (_classes_of_copy(root, name) if root else [])
    for place in filter(None, (root, downloads)):
        folder = place / FOLDERS[name]
        if folder.is_dir() and any(folder.iterdir()):
            return CLASS_NAMES[name]
        if place == root and (found := _classes_of_copy(root, name)):
            return found
    return []


def _classes_of_copy(root, name):
    """The classes that have training images in `root`/<name>.npz, [] where there is none; all where it is damaged."""
    path = root / f"{name}.npz"
    if not path.is_file():
        return []
    try:
        arrays = readers._npz_arrays(path, ["train_labels"])
        labels = np.unique(readers._npz_labels(path, "train", arrays))
        names = readers._npz_names(path, arrays, int(labels.max(initial=-1)) + 1, CLASS_NAMES[name])
        return [CLASS_NAMES[name][class_index(name, names[label])] for label in labels]
    except ValueError:
        return CLASS_NAMES[name]
