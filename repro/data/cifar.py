"""CIFAR-10 and CIFAR-100 from the batches of their authors' Python versions. Part of `data.py`.

    train, test = read(root / "cifar-10-batches-py", torchvision.datasets.CIFAR10, names)    # or None: it is not there

A batch is a pickle of Python 2: a dict of images, uint8 (N, 3072), red, green and blue plane after another, and labels.
It is read by an unpickler that knows arrays of uint8, text, bytes, numbers, lists and dicts and nothing else, whatever
the checksum says: what asks for more is refused, and none of it runs.
"""

import hashlib
import io
import math
import pickle

import numpy as np
import torch

from repro.data import readers


def read(folder, dataset, names, stand_in=False):
    """Train and test `Images`, (N, 3, 32, 32), once the md5 of every file agrees; None if the folder is not there.

    dataset: torchvision's class, which knows the files and their checksums; names: the classes in the order of the
    labels. Source is "official", or with stand_in "stand-in:<sha8>", and checksums are not compared. Raises
    FileNotFoundError for a missing file, ValueError for an altered one and for what is no batch.
    """
    if not folder.is_dir() and not stand_in:
        return None
    files = dict([*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"])])
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {missing[0]}")
    for name, md5 in files.items():
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if found != md5 and not stand_in:
            raise ValueError(f"{folder / name} is truncated or altered: its md5 is {found}, not {md5}")
    source = readers.stand_in_source(folder / name for name in files) if stand_in else "official"
    splits = []
    for listed in (dataset.train_list, dataset.test_list):
        batches = [_read_batch(folder / name, len(names)) for name, _ in listed]
        images, labels = (torch.from_numpy(np.concatenate(part)) for part in zip(*batches, strict=True))
        kinds = [names[label] for label in labels.tolist()]
        splits.append(readers.Images(images, labels, names, None, kinds, None, source))
    return tuple(splits)


def _read_batch(path, n_classes):
    """Images, uint8 (N, 3, 32, 32), and labels, int64 (N,), of one batch."""
    try:
        # latin1: the strings of Python 2 are bytes, and this makes text of them one by one, arrays' contents included.
        batch = _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        if not isinstance(batch, dict):
            raise ValueError("it is no dict")
        batch = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
        images = batch.get("data")
        images = images.array if isinstance(images, _Piece) else None
        if images is None or images.ndim != 2 or images.shape[1] != 3 * 32 * 32:
            raise ValueError("its data are no array of uint8, (N, 3072)")
        labels = batch.get("labels", batch.get("fine_labels"))
        if (
            not isinstance(labels, list)
            or len(labels) != len(images)
            or not all(type(label) is int and 0 <= label < n_classes for label in labels)
        ):
            raise ValueError(f"its labels are no list of {len(images)} numbers from 0 to {n_classes - 1}")
    except Exception as error:  # a damaged pickle raises almost any kind: EOFError, KeyError, TypeError, ...
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be read as a batch of CIFAR: {reason}") from error
    return images.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


class _Unpickler(pickle.Unpickler):
    """Gives a `_Piece` for each name that an array needs, by the old and the new numpy, and refuses all others."""

    def find_class(self, module, name):
        if f"{module}.{name}" in (
            "numpy.core.multiarray._reconstruct",
            "numpy._core.multiarray._reconstruct",
            "numpy.ndarray",
            "numpy.dtype",
            "_codecs.encode",
        ):
            return _Piece(name)
        raise pickle.UnpicklingError(
            f"it asks for {module}.{name}, which is refused: a batch holds arrays of uint8, text and numbers"
        )


class _Piece:
    """What stands for a name of numpy, and for what is made of it, while a batch is read.

    numpy itself is not let near: a dtype takes any state that a pickle gives it, and one of objects with its flags
    cleared makes addresses of a file's bytes. So the bytes are put into an array here, as uint8 and nothing else. No
    attribute can be set from a pickle: there is no `__dict__`, and `__setstate__` takes two states.
    """

    __slots__ = ("name", "array")

    def __init__(self, name):
        self.name, self.array = name, None

    def __call__(self, *arguments):
        if self.name == "_reconstruct":  # an empty array, whose state comes next
            return _Piece("an array")
        if self.name == "dtype" and arguments[:1] == ("u1",):
            return _Piece("uint8")
        if self.name == "encode" and len(arguments) == 2 and arguments[1] == "latin1" and type(arguments[0]) is str:
            return arguments[0].encode("latin1")  # how Python 3 writes bytes for Python 2
        raise pickle.UnpicklingError(f"{self.name} is called otherwise than for an array of uint8")

    def __setstate__(self, state):
        if self.name == "uint8":  # byte order and alignment, which mean nothing where a number is a byte
            return
        if self.name != "an array":
            raise pickle.UnpicklingError(f"{self.name} is given a state")
        _, shape, dtype, is_fortran, content = state
        content = content.encode("latin1") if isinstance(content, str) else content
        if not (
            isinstance(dtype, _Piece)
            and dtype.name == "uint8"
            and type(content) is bytes
            and all(type(n) is int and n >= 0 for n in shape)
            and math.prod(shape) == len(content)
        ):
            raise pickle.UnpicklingError("an array is not of uint8, or its shape and its contents differ")
        self.array = np.frombuffer(content, np.uint8).reshape(shape, order="F" if is_fortran else "C")
