"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 in torchvision's layout, checked and, where allowed, downloaded.

No file is parsed before its checksum agrees. CIFAR's files need this most: they are pickles, which can hold any code.
"""

import gzip
import hashlib
import math
import warnings
from pathlib import Path

import numpy as np
import torch

from adlib._torchvision import import_torchvision
from repro.data import cache
from repro.data.splits import Images, plain


# The five classes of each of CIFAR-100's 20 superclasses; the official labels of the 100 are in alphabetical order.
_FIVES = """
    beaver dolphin otter seal whale | aquarium_fish flatfish ray shark trout | orchid poppy rose sunflower tulip |
    bottle bowl can cup plate | apple mushroom orange pear sweet_pepper | clock keyboard lamp telephone television |
    bed chair couch table wardrobe | bee beetle butterfly caterpillar cockroach | bear leopard lion tiger wolf |
    bridge castle house road skyscraper | cloud forest mountain plain sea |
    camel cattle chimpanzee elephant kangaroo | fox porcupine possum raccoon skunk |
    crab lobster snail spider worm | baby boy girl man woman | crocodile dinosaur lizard snake turtle |
    hamster mouse rabbit shrew squirrel | maple_tree oak_tree palm_tree pine_tree willow_tree |
    bicycle bus motorcycle pickup_truck train | lawn_mower rocket streetcar tank tractor
"""
SUPERCLASSES = {"cifar100": [five.split() for five in _FIVES.split("|")]}
# The papers' names, if they have one.
CLASSES = {
    "mnist": list("0123456789"),
    "fashion_mnist": "t_shirt trouser pullover dress coat sandal shirt sneaker bag ankle_boot".split(),
    "cifar10": "plane car bird cat deer dog frog horse ship truck".split(),
    "cifar100": sorted(name for five in SUPERCLASSES["cifar100"] for name in five),
}
_LAYOUT = {  # torchvision's class, and where it puts the files
    "mnist": ("MNIST", "MNIST/raw"),
    "fashion_mnist": ("FashionMNIST", "FashionMNIST/raw"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py"),
    "cifar100": ("CIFAR100", "cifar-100-python"),
}


def put(name: str) -> str:
    return f"{_LAYOUT[name][1]}/ or {name}.npz"


def here(name: str, folder: Path) -> list[str]:
    """All classes if the dataset's own folder holds any files, else none."""
    return CLASSES[name] if any((folder / _LAYOUT[name][1]).glob("[!.]*")) else []


def fetch(name: str) -> None:
    """Downloads missing files, which torchvision checks. Raises OSError or RuntimeError."""
    _dataset(name)(cache.downloads(), train=True, download=True)


def read(name: str, folder: Path, category: None, size: int | None, resample: str) -> tuple[Images, Images]:
    """Train and test, (N, 1, 28, 28) or (N, 3, 32, 32), once the md5 of every file agrees with torchvision's list.

    MNIST's files may also be unpacked; then their length is checked. Source is "official". Raises FileNotFoundError for
    a missing file, ValueError for an altered one, with its name.
    """
    dataset, files = _dataset(name), folder / _LAYOUT[name][1]
    if hasattr(dataset, "resources"):
        parts = [[_read_idx(files / file, md5) for file, md5 in dataset.resources[i : i + 2]] for i in (0, 2)]
        if any(len(images) != len(labels) for images, labels in parts):
            raise ValueError(f"{files} holds other numbers of labels than of images")
    else:
        listed = [*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])]
        for file, md5 in listed:  # all of them before torchvision unpickles the first
            _content(files / file, md5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the batches call numpy by names of 2009
            both = [dataset(folder, train=is_train) for is_train in (True, False)]
        parts = [(torch.from_numpy(part.data).permute(0, 3, 1, 2), torch.tensor(part.targets)) for part in both]
    return tuple(plain(images.contiguous(), labels, CLASSES[name], "official") for images, labels in parts)


def _dataset(name: str) -> type:
    return getattr(import_torchvision().datasets, _LAYOUT[name][0])


def _content(path: Path, md5: str) -> bytes:
    """The content of a file, after its md5 was checked."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} lacks {path.name}")
    content = path.read_bytes()
    actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if actual != md5:
        raise ValueError(f"{path} is truncated or altered: its md5 is {actual}, not {md5}")
    return content


def _read_idx(path: Path, md5: str) -> torch.Tensor:
    """Images, uint8 (N, 1, 28, 28), or labels, int64 (N,), of an idx file, packed as .gz or not."""
    unpacked = path.with_suffix("")
    is_packed = path.is_file() or not unpacked.is_file()
    content = gzip.decompress(_content(path, md5)) if is_packed else unpacked.read_bytes()
    n, shape = int.from_bytes(content[4:8], "big"), (-1, 1, 28, 28) if "images" in path.name else (-1,)
    start = 16 if "images" in path.name else 8
    if len(content) != start + n * math.prod(map(abs, shape)):
        raise ValueError(f"{path if is_packed else unpacked} is truncated or no idx file")
    array = torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).copy()).view(shape)
    return array if "images" in path.name else array.long()
