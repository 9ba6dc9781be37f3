"""Stand-ins: each dataset's are read by its ordinary reader, labelled, and written once."""

import hashlib
import os
import re

import pytest
import torch

from adlib import backbones
from repro import data, register
from repro.data import mvtec
from repro.data.sources import STAND_IN
from tests import standins


LABEL = "stand-in:[0-9a-f]{8}"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """All stand-ins; left as they are by the tests that use them."""
    root = tmp_path_factory.mktemp("stand-ins") / "data"
    standins.write(root, per_class=5)
    return root


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def root(drawn, shared_cache, monkeypatch):
    """ADLIB_DATA is all stand-ins, and what one test prepares of them the next finds in the cache."""
    monkeypatch.setenv("ADLIB_DATA", str(drawn))
    monkeypatch.setenv("ADLIB_CACHE", shared_cache)
    return drawn


def splits_of_the_register():
    """(dataset, protocol, class, n_train, validation) of all jobs in profiles quick and paper."""
    book, found = register.load(), {}
    for profile in ("quick", "paper"):
        for job in register.jobs(book, profile=profile):
            given = [job["settings"].get(name) for name in ("n_train", "validation")]
            found[(job["dataset"], job["protocol"], job["class"], *given)] = None
    return list(found)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "coil100", "mvtec"])
def test_every_split_of_the_register_has_images_to_train_and_to_test_on_and_is_labelled(root, name):
    wanted = [split for split in splits_of_the_register() if split[0] == name]
    for _, protocol, normal, n_train, validation in wanted[:: 20 if name == "coil100" else 1]:
        split = data.one_class(name, normal, protocol, size=16, n_train=n_train, validation=validation or 0.0)
        assert re.fullmatch(LABEL, split.source)
        assert len(split.train) >= 4 and len(split.test) >= 4 and 0 < int(split.is_anomalous.sum()) < len(split.test)
        assert (split.validation is not None) == bool(validation)
        if validation:
            assert 0 < int(split.validation_is_anomalous.sum()) < len(split.validation)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_images_are_those_of_their_class(root, name):
    for split, n in (("train", 5), ("test", 2)):
        images = data.load(name, split)
        assert images.labels.bincount().tolist() == [n] * len(data.CLASS_NAMES[name])
        for label in (0, 3, len(data.CLASS_NAMES[name]) - 1):
            found = images.images[images.labels == label].permute(0, 2, 3, 1).numpy()
            there = standins.draw(name, label, split, n)
            assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in there)
    assert images.images.shape[1:] == ((1, 28, 28) if "mnist" in name else (3, 32, 32))


def test_objects_have_72_views_each_unlike_the_others(root):
    images = data.load("coil100", "train")
    assert images.images.shape == (7200, 3, 32, 32) and images.labels.bincount().tolist() == [72] * 100
    assert len({image.numpy().tobytes() for image in images.images[images.labels < 3]}) > 3 * 60
    assert len(data.load("coil100", "test").images) == 0


def test_categories_have_their_defects_with_masks_where_the_image_differs(root):
    for category in mvtec.NAMES:
        test = data.one_class("mvtec", category, size=64)
        assert re.fullmatch(LABEL, test.source)
        assert torch.equal(test.masks.flatten(1).any(1), test.is_anomalous)
        assert set(test.kind) == {"good", *standins.MVTEC[category][1].split()}
    sides = {category: data.one_class("mvtec", category, size=None).train.shape[1:] for category in ("pill", "screw")}
    assert sides == {"pill": (3, 80, 80), "screw": (1, 102, 102)}


def test_the_defects_are_the_73_of_mvtec():
    assert list(standins.MVTEC) == mvtec.NAMES
    assert sum(len(defects.split()) for _, defects in standins.MVTEC.values()) == 73


@pytest.mark.parametrize("backbone", backbones.CHANNELS)
def test_weights_are_read_from_their_path_and_are_none_of_imagenets(root, backbone):
    path = root / "weights" / f"{backbone}.pth"
    encoder, label = backbones.load(backbone, str(path))
    assert label == f"{backbone}/local:{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    assert path.stat().st_size < 500_000
    for maps in encoder(torch.rand(2, 3, 32, 32) * 2 - 1):
        assert maps.isfinite().all() and 0.1 < maps.std() < 20 and not torch.equal(maps[0], maps[1])
    with pytest.raises(FileNotFoundError, match=f"{backbone}.pth has another checksum"):
        backbones.load(backbone, "imagenet")


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_same_bytes_are_written_each_time_and_what_is_there_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(standins, "MVTEC", {"zipper": standins.MVTEC["zipper"]})
    for place in ("a", "b"):
        (tmp_path / f"{place}.unfinished").mkdir()  # of a process that was killed
        standins.write(tmp_path / place, ["mnist", "mvtec", "weights"], per_class=5)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(
        ["mnist.npz", "mvtec", "weights", STAND_IN]
    )
    assert "stand-ins for mnist, mvtec, weights" in (tmp_path / "a" / STAND_IN).read_text()
    before = os.stat(tmp_path / "a" / "mnist.npz").st_mtime_ns
    standins.write(tmp_path / "a", ["mnist", "mvtec", "weights"], per_class=5)
    assert os.stat(tmp_path / "a" / "mnist.npz").st_mtime_ns == before
    with pytest.raises(ValueError, match="holds other files, and nothing is overwritten"):
        standins.write(tmp_path / "a", ["mnist"], per_class=5)


def test_real_data_are_never_touched(tmp_path):
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "resnet18-f37072fd.pth").write_text("real")
    with pytest.raises(ValueError, match=f"{tmp_path} holds other files"):
        standins.write(tmp_path)
    assert contents(tmp_path) == {"weights/resnet18-f37072fd.pth": b"real"}
