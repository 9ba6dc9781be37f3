"""MNIST and CIFAR in torchvision's layout: nothing is looked into before its checksum agrees."""

import gzip
import hashlib
import pickle

import numpy as np
import pytest
from trees import Exploit, cache_files, pixels, real, write_cifar, write_mnist

from adlib._torchvision import import_torchvision
from repro import data


MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.fixture
def mnist_tree(tmp_path, monkeypatch):
    """MNIST/raw with 40 train and 20 test images under ADLIB_DATA, whose checksums torchvision is made to expect."""
    raw = tmp_path / "tree" / "MNIST" / "raw"
    write_mnist(raw, monkeypatch)
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path / "tree"))
    return raw


# ---- MNIST and CIFAR in torchvision's layout


def test_mnist_is_read_from_its_gz_files(mnist_tree):
    test = data.load("mnist", "test")
    assert test.images.shape == (20, 1, 28, 28) and test.source == "official"
    assert np.array_equal(test.images[:, 0].numpy(), pixels(20, 28, 28))
    assert test.kinds == [str(n % 10) for n in range(20)]


def test_mnist_is_read_from_unpacked_files(mnist_tree):
    for path in list(mnist_tree.iterdir()):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert np.array_equal(data.load("mnist", "test").images[:, 0].numpy(), pixels(20, 28, 28))


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"])
def test_a_truncated_gz_file_is_named(mnist_tree, name):
    (mnist_tree / name).write_bytes((mnist_tree / name).read_bytes()[:-10])
    with pytest.raises(ValueError, match=f"{name} is truncated or altered: its md5"):
        data.load("mnist", "test")
    assert cache_files() == []


def test_a_truncated_unpacked_file_is_named(mnist_tree):
    path = mnist_tree / "train-images-idx3-ubyte.gz"
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes())[:-1])
    path.unlink()
    with pytest.raises(ValueError, match="train-images-idx3-ubyte is truncated"):
        data.load("mnist", "test")


def test_a_missing_file_among_the_four_is_named(mnist_tree):
    (mnist_tree / "t10k-images-idx3-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="MNIST/raw lacks t10k-images-idx3-ubyte.gz"):
        data.load("mnist", "test")


def test_cifar10_is_read_from_its_batches(tmp_path, monkeypatch):
    write_cifar(tmp_path / "cifar-10-batches-py", monkeypatch)
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path))
    split = data.one_class("cifar10", "airplane")
    assert split.train.shape == (2, 3, 32, 32) and split.test.shape == (10, 3, 32, 32) and split.source == "official"
    assert np.array_equal(split.test.numpy(), pixels(10, 3, 32, 32)) and split.kind[:2] == ["plane", "car"]


def test_an_altered_cifar_batch_is_named_and_not_unpickled(tmp_path, monkeypatch):
    write_cifar(tmp_path / "cifar-10-batches-py", monkeypatch)
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path))
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(Exploit(tmp_path / "executed")))
    with pytest.raises(ValueError, match="test_batch is truncated or altered"):
        data.load("cifar10", "test")
    assert not (tmp_path / "executed").exists()


def test_no_batch_is_unpickled_before_all_checksums_agree(tmp_path, monkeypatch):
    """The trap is a real one: torchvision would run it, were the checksums its own."""
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar(folder, monkeypatch)
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path))
    cifar10 = import_torchvision().datasets.CIFAR10
    content = pickle.dumps(Exploit(tmp_path / "executed"))
    (folder / "data_batch_1").write_bytes(content)
    listed = [["data_batch_1", hashlib.md5(content).hexdigest()]]
    with monkeypatch.context() as patch:  # the first file agrees, the last one does not
        patch.setattr(cifar10, "train_list", listed)
        meta = (folder / "batches.meta").read_bytes()
        (folder / "batches.meta").write_bytes(meta + b"altered")
        with pytest.raises(ValueError, match="batches.meta is truncated or altered"):
            data.load("cifar10", "test")
        assert not (tmp_path / "executed").exists() and cache_files() == []
        (folder / "batches.meta").write_bytes(meta)
        with pytest.raises(TypeError):
            cifar10(tmp_path, train=True)
    assert (tmp_path / "executed").exists()


def test_a_missing_cifar_batch_is_named(tmp_path, monkeypatch):
    write_cifar(tmp_path / "cifar-10-batches-py", monkeypatch)
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path))
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").unlink()
    with pytest.raises(FileNotFoundError, match="cifar-10-batches-py lacks data_batch_1"):
        data.load("cifar10", "test")


def test_labels_of_another_number_than_images_are_an_error(mnist_tree):
    path = mnist_tree / "t10k-labels-idx1-ubyte.gz"
    content = gzip.decompress(path.read_bytes())
    path.with_suffix("").write_bytes(content[:7] + bytes([19]) + content[8:-1])
    path.unlink()
    with pytest.raises(ValueError, match="raw holds other numbers of labels than of images"):
        data.load("mnist", "test")


# ---- real data, where there are any


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("real-cache"))


def test_mnist_has_the_official_numbers_of_every_class(monkeypatch, shared_cache):
    real("MNIST/raw")
    monkeypatch.setenv("ADLIB_CACHE", shared_cache)
    train, test = data.load("mnist", "train"), data.load("mnist", "test")
    assert train.labels.bincount().tolist() == MNIST_TRAIN and test.labels.bincount().tolist() == MNIST_TEST
    assert train.source == "official" and train.images.shape == (60000, 1, 28, 28)


def test_fashion_mnist_has_6000_and_1000_of_every_class():
    real("FashionMNIST/raw")
    train, test = data.load("fashion_mnist", "train"), data.load("fashion_mnist", "test")
    assert train.labels.bincount().tolist() == [6000] * 10 and test.labels.bincount().tolist() == [1000] * 10
