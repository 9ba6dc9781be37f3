"""Small files to read from: npz files, images and folders of them, MNIST's and CIFAR's own layouts."""

import gzip
import hashlib
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from adlib._torchvision import import_torchvision


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def write_npz(path, n=10, **changes):
    labels = np.arange(n, dtype=np.uint8) % 2
    arrays = {
        "train_images": pixels(n, 8, 8, 3),
        "train_labels": labels[:, None],
        "val_images": pixels(1),
        "test_images": pixels(n, 8, 8, 3),
        "test_labels": labels[:, None],
        **changes,
    }
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return f"npz:{path}"


def save_image(path, shape=(8, 8, 3), value=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = pixels(*shape) if value is None else np.full(shape, value, np.uint8)
    Image.fromarray(array).save(path)


def write_classes(root):
    """train/ and test/ with a folder of 4 and of 2 images for each of cat and dog."""
    for split, n in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            for i in range(n):
                save_image(root / split / name / f"{i}.png")
    return root


def write_category(root):
    """MVTec's layout: 4 good training images, a good test image and two defects, with masks of 2 x 3 pixels."""
    for i in range(4):
        save_image(root / "train" / "good" / f"{i}.png")
    save_image(root / "test" / "good" / "0.png")
    for kind, suffix in (("cut", "_mask"), ("bent", "")):
        save_image(root / "test" / kind / "0.png")
        mask = np.zeros((8, 8), np.uint8)
        mask[2:4, 3:6] = 255
        (root / "ground_truth" / kind).mkdir(parents=True)
        Image.fromarray(mask).save(root / "ground_truth" / kind / f"0{suffix}.png")
    return root


def write_mnist(raw, monkeypatch):
    raw.mkdir(parents=True)
    resources = []
    for prefix, n in (("train", 40), ("t10k", 20)):
        images, labels = pixels(n, 28, 28), np.arange(n, dtype=np.uint8) % 10
        for name, array in ((f"{prefix}-images-idx3-ubyte.gz", images), (f"{prefix}-labels-idx1-ubyte.gz", labels)):
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
            (raw / name).write_bytes(gzip.compress(header + array.tobytes()))
            resources.append((name, hashlib.md5((raw / name).read_bytes()).hexdigest()))
    monkeypatch.setattr(import_torchvision().datasets.MNIST, "resources", resources)


def write_cifar(folder, monkeypatch):
    """CIFAR-10's folder with one batch of 20 training images and 10 test images, all checksums right."""
    folder.mkdir(parents=True)
    cifar10 = import_torchvision().datasets.CIFAR10

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))  # as the real ones
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for name, attribute, n in (("data_batch_1", "train_list", 20), ("test_batch", "test_list", 10)):
        batch = {"data": pixels(n, 3 * 32 * 32), "labels": [i % 10 for i in range(n)]}
        monkeypatch.setattr(cifar10, attribute, [[name, write(name, batch)]])
    md5 = write("batches.meta", {"label_names": ["airplane"] * 10})
    monkeypatch.setattr(cifar10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5})


class Exploit:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def cache_files():
    return sorted(Path(os.environ["ADLIB_CACHE"]).glob("*.bin"))


def real(relative):
    """The path under ADLIB_DATA; skips the test if it is not there."""
    root = os.environ.get("ADLIB_DATA")
    if not root or not (Path(root) / relative).exists():
        pytest.skip(f"needs {relative} under ADLIB_DATA")
    return Path(root) / relative
