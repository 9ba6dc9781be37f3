"""Stand-ins: every dataset's layout, read as the real ones are, labelled, and never taken for them or they for it."""

import hashlib
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from adlib import backbones
from adlib._torchvision import import_torchvision
from repro import data, register, standins
from repro.data import coil100, mvtec, readers


OBJECTS = ["obj1", "obj47", "obj79"]  # of the 100: drawing and reading all takes seconds
CLASSES = ["mnist", "fashion_mnist", "cifar10", "cifar100"]
LABEL = "stand-in:[0-9a-f]{8}"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """All stand-ins, with three objects of coil100; left as they are by the tests that use them."""
    root = tmp_path_factory.mktemp("stand-ins")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coil100, "NAMES", OBJECTS)
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


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """ADLIB_DATA is an empty folder."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def cache_files():
    return sorted(path.name for path in Path(os.environ["ADLIB_CACHE"]).glob("*.bin"))


def splits_of_the_register():
    """(dataset, protocol, class, n_train, validation) of all jobs in profiles quick and paper."""
    book, found = register.load(), {}
    for profile in ("quick", "paper"):
        for job in register.jobs(book, profile=profile):
            given = [job["settings"].get(name) for name in ("n_train", "validation")]
            found[(job["dataset"], job["protocol"], job["class"], *given)] = None
    return list(found)


# ---- every dataset is read as the register asks for it


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "coil100", "mvtec"])
def test_every_split_of_the_register_has_images_to_train_and_to_test_on_and_is_labelled(root, name):
    wanted = [one for one in splits_of_the_register() if one[0] == name]
    if name == "coil100":
        wanted = [one for one in wanted if one[2] in OBJECTS]
        assert len(wanted) >= 3
    for _, protocol, normal, n_train, validation in wanted:
        split = data.one_class(name, normal, protocol, size=16, n_train=n_train, validation=validation or 0.0)
        assert re.fullmatch(LABEL if name != "coil100" else rf"{LABEL} \(3 of 100 classes\)", split.source)
        assert len(split.train) >= 4 and len(split.test) >= 4 and 0 < int(split.is_anomalous.sum()) < len(split.test)
        assert (split.validation is not None) == bool(validation)
        if validation:
            assert 0 < int(split.validation_is_anomalous.sum()) < len(split.validation)
    assert wanted or name not in {one[0] for one in splits_of_the_register()}


@pytest.mark.parametrize("name", CLASSES)
def test_images_are_those_of_their_class(root, name):
    for split, n in (("train", 5), ("test", 2)):
        images = data.load(name, split)
        assert images.labels.bincount().tolist() == [n] * len(data.CLASS_NAMES[name])
        for label in (0, 3, len(data.CLASS_NAMES[name]) - 1):
            found = images.images[images.labels == label].permute(0, 2, 3, 1).numpy()
            there = standins.draw(name, label, split, n)
            assert sorted(one.tobytes() for one in found) == sorted(one.tobytes() for one in there)
    assert images.images.shape[1:] == ((1, 28, 28) if "mnist" in name else (3, 32, 32))


def test_objects_have_72_views_of_128_px_each_unlike_the_others(root):
    images = data.load("coil100", "train")
    assert images.images.shape == (3 * 72, 3, 128, 128) and set(images.kinds) == set(OBJECTS)
    assert len({one.numpy().tobytes() for one in images.images}) == 3 * 72
    assert len(data.load("coil100", "test").images) == 0


def test_categories_have_their_defects_with_masks_where_the_image_differs(root):
    test = data.load("mvtec", "test", size=64)
    assert re.fullmatch(LABEL, test.source) and set(test.labels.tolist()) == set(range(15))
    is_good = torch.tensor([kind == "good" for kind in test.kinds])
    assert torch.equal(test.masks.flatten(1).any(1), ~is_good)
    for number, category in enumerate(mvtec.NAMES):
        of_category = {kind for kind, label in zip(test.kinds, test.labels.tolist(), strict=True) if label == number}
        assert of_category == {"good", *standins.MVTEC[category][1].split()}
    sides = {category: data.one_class("mvtec", category, size=None).train.shape[1:] for category in ("pill", "screw")}
    assert sides == {"pill": (3, 80, 80), "screw": (1, 102, 102)}


def test_the_defects_are_the_73_of_mvtec():
    assert list(standins.MVTEC) == mvtec.NAMES and sum(len(one.split()) for _, one in standins.MVTEC.values()) == 73


# ---- marks and checksums


@pytest.mark.parametrize("name", CLASSES)
def test_without_its_mark_a_stand_in_fails_the_official_checksum(mine, name):
    [folder] = standins.write(mine, [name], per_class=5)
    assert data.load(name, "test").source.startswith("stand-in:")
    (folder / readers.STAND_IN).unlink()
    with pytest.raises(ValueError, match=f"{folder}/.* is truncated or altered: its md5 is"):
        data.load(name, "test")
    assert len(cache_files()) == 1


@pytest.mark.parametrize("name, file", [("mnist", "t10k-labels-idx1-ubyte.gz"), ("cifar10", "data_batch_4")])
def test_a_marked_folder_that_lacks_a_file_is_an_error_and_nothing_else_is_read_in_its_place(mine, name, file):
    np.savez(
        mine / f"{name}.npz",
        **{
            f"{split}_{what}": np.zeros((9, 8, 8) if what == "images" else 9, np.uint8)
            for split in ("train", "test")
            for what in ("images", "labels")
        },
    )
    [folder] = standins.write(mine, [name], per_class=5)
    (folder / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"{folder} lacks {file}"):
        data.load(name, "test")
    shutil.rmtree(folder)
    assert data.load(name, "test").source.startswith("npz:")


def test_the_label_follows_the_contents_and_not_the_place(drawn, mine, monkeypatch):
    standins.write(mine, ["mnist"], per_class=5)
    here = data.load("mnist", "test").source
    monkeypatch.setenv("ADLIB_DATA", str(drawn))
    assert data.load("mnist", "test").source == here
    shutil.rmtree(mine / "MNIST")
    standins.write(mine, ["mnist"], per_class=6)
    monkeypatch.setenv("ADLIB_DATA", str(mine))
    assert data.load("mnist", "test").source != here


def test_which_data_are_stand_ins_is_known_before_anything_is_read(root, monkeypatch):
    assert data.stand_in("mnist") == root / "MNIST" / "raw" and data.stand_in("coil100") == root / "coil-100"
    assert data.stand_in("mvtec", "pill") == root / "mvtec" / "pill"
    assert data.stand_in("digits") is data.stand_in("textures") is data.stand_in(f"folder:{root}/mvtec/pill") is None
    monkeypatch.setenv("ADLIB_DATA", str(root / "nowhere"))
    assert data.stand_in("mnist") is data.stand_in("mvtec", "pill") is None


# ---- the cache


@pytest.fixture
def real(tmp_path, monkeypatch):
    """Puts MNIST files without a mark into a folder, whose checksums are made the official ones."""
    [source] = standins.write(tmp_path / "real", ["mnist"], per_class=8)
    (source / readers.STAND_IN).unlink()
    monkeypatch.setattr(
        import_torchvision().datasets.MNIST,
        "resources",
        [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in sorted(source.iterdir())],
    )
    return lambda folder: shutil.copytree(source, folder, dirs_exist_ok=True)


def test_what_was_prepared_of_a_stand_in_never_passes_for_the_real_data(mine, real):
    [folder] = standins.write(mine, ["mnist"], per_class=5)
    before = data.load("mnist", "train", size=8)
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match="mnist is not on this machine"):
        data.load("mnist", "train", size=8)
    real(folder)
    after = data.load("mnist", "train", size=8)
    assert (len(before.images), len(after.images), after.source) == (50, 80, "official")


def test_what_was_prepared_of_the_real_data_never_passes_for_a_stand_in(mine, real):
    real(mine / "MNIST" / "raw")
    assert data.load("mnist", "train", size=8).source == "official"
    [before] = cache_files()
    shutil.rmtree(mine / "MNIST")
    [folder] = standins.write(mine, ["mnist"], per_class=5)
    for _ in range(2):  # prepared, and read from the cache
        split = data.one_class("mnist", "3", size=8)
        assert len(split.train) == 5 and re.fullmatch(LABEL, split.source)
    assert len(cache_files()) == 2
    shutil.rmtree(folder)
    again = data.load("mnist", "train", size=8)  # from the cache of before, which is still called so
    assert len(again.images) == 80 and again.source == "official" and before in cache_files()


def test_real_files_put_over_marked_ones_are_read_but_stay_labelled(mine, real):
    [folder] = standins.write(mine, ["mnist"], per_class=5)
    first = data.load("mnist", "train", size=8).source
    real(folder)
    images = data.load("mnist", "train", size=8)
    assert len(images.images) == 80 and re.fullmatch(LABEL, images.source) and images.source != first


def test_data_that_change_while_they_are_read_are_not_cached(mine, real, monkeypatch):
    [folder] = standins.write(mine, ["mnist"], per_class=5)
    plainly = readers.read_mnist

    def read_and_change(*arguments):
        splits = plainly(*arguments)
        (folder / readers.STAND_IN).unlink()
        return splits

    monkeypatch.setattr(readers, "read_mnist", read_and_change)
    with pytest.raises(ValueError, match="images of mnist were changed while they were read: run this again"):
        data.load("mnist", "train")
    assert cache_files() == []


def test_a_category_of_stand_ins_beside_real_ones_labels_them_all_and_its_own_rows_alone(mine, drawn):
    for category in ("bottle", "pill"):
        shutil.copytree(drawn / "mvtec" / category, mine / "mvtec" / category)
    (mine / "mvtec" / "pill" / readers.STAND_IN).unlink()
    assert re.fullmatch(LABEL, data.one_class("mvtec", "bottle", size=8).source)
    assert re.fullmatch("folder:[0-9a-f]{8}", data.one_class("mvtec", "pill", size=8).source)
    assert re.fullmatch(LABEL, data.load("mvtec", "test", size=8).source)
    (mine / "mvtec" / "bottle" / readers.STAND_IN).unlink()
    assert data.one_class("mvtec", "bottle", size=8).source.startswith("folder:")
    assert data.load("mvtec", "test", size=8).source.startswith("folder:")
    assert [re.sub("[0-9a-f]{12}", "#", name) for name in cache_files()] == [
        "mvtec-bottle-8-antialias.bin",
        "mvtec-bottle-stand-in-#-8-antialias.bin",
        "mvtec-pill-8-antialias.bin",
    ]


def test_objects_of_stand_ins_are_not_taken_for_real_ones(mine, drawn):
    shutil.copytree(drawn / "coil-100", mine / "coil100")
    for path in (mine / "coil100").glob("obj[47]*.png"):  # one object is enough here
        path.unlink()
    assert data.load("coil100", "train", size=8).source.startswith("stand-in:")
    (mine / "coil100" / readers.STAND_IN).unlink()
    assert data.load("coil100", "train", size=8).source.startswith("folder:")


# ---- writing


def contents(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def test_the_same_bytes_are_written_each_time(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(coil100, "NAMES", ["obj47"])
    monkeypatch.setattr(standins, "MVTEC", {"zipper": standins.MVTEC["zipper"]})
    folders = standins.write(tmp_path, per_class=5)
    assert [str(folder.relative_to(tmp_path)) for folder in folders] == [
        "MNIST/raw",
        "FashionMNIST/raw",
        "cifar-10-batches-py",
        "cifar-100-python",
        "coil-100",
        "mvtec/zipper",
        "weights",
    ]
    first = contents(drawn)
    assert all(first[name] == content for name, content in contents(tmp_path).items())
    assert "stand-ins for mvtec" in (tmp_path / "mvtec" / "zipper" / readers.STAND_IN).read_text()


def test_what_is_there_already_is_left_as_it_is(tmp_path):
    folder = standins.write(tmp_path, ["mnist"], per_class=5)[0]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    (tmp_path / "FashionMNIST" / "raw.unfinished").mkdir(parents=True)  # of a process that was killed
    assert standins.write(tmp_path, ["mnist", "fashion_mnist"], per_class=5)[0] == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert [path.name for path in (tmp_path / "FashionMNIST").iterdir()] == ["raw"]
    with pytest.raises(ValueError, match=f"{folder} holds other stand-ins, and nothing is overwritten"):
        standins.write(tmp_path, ["mnist"], per_class=6)
    first = standins.write(tmp_path, ["weights"], per_class=5)
    assert standins.write(tmp_path, ["weights"], per_class=6) == first  # of them there are no more and no fewer


@pytest.mark.parametrize(
    "relative",
    ["FashionMNIST/raw/train-images-idx3-ubyte.gz", "mvtec/wood/readme.txt", "weights/resnet18-f37072fd.pth"],
)
def test_real_data_are_never_touched(tmp_path, relative):
    path = tmp_path / relative
    path.parent.mkdir(parents=True)
    path.write_text("real")
    with pytest.raises(ValueError, match=f"{path.parent} holds files that are no stand-ins"):
        standins.write(tmp_path, ["mnist", "fashion_mnist", "mvtec", "weights"])
    assert contents(tmp_path) == {relative: b"real"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"names": ["digits"]}, "no stand-ins for 'digits': choose mnist, fashion_mnist"),
        ({"per_class": 4}, "whole number from 5, not 4"),
        ({"per_class": 5.0}, "from 5, not 5.0"),
    ],
)
def test_a_bad_argument_is_an_error_that_shows_it(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        standins.write(tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


# ---- weights


@pytest.mark.parametrize("backbone", backbones.CHANNELS)
def test_weights_are_found_as_imagenets_are_and_labelled(root, backbone):
    encoder, label = backbones.load(backbone, "imagenet")
    path = root / "weights" / f"{backbone}-stand-in.pth"
    assert label == f"{backbone}/stand-in:{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"
    assert path.stat().st_size < 500_000
    for maps in encoder(torch.rand(2, 3, 32, 32) * 2 - 1):
        assert maps.isfinite().all() and 0.1 < maps.std() < 20 and not torch.equal(maps[0], maps[1])


def test_weights_without_their_mark_are_none_of_imagenets_and_real_ones_beside_stand_ins_win(mine, drawn, monkeypatch):
    shutil.copytree(drawn / "weights", mine / "weights")
    path = mine / "weights" / "resnet18-stand-in.pth"
    assert "/stand-in:" in backbones.load("resnet18", str(path))[1]
    known = path.read_bytes()
    shutil.copy(mine / "weights" / "wide_resnet50_2-stand-in.pth", mine / "weights" / "resnet18-another.pth")
    with monkeypatch.context() as patch:
        patch.setitem(backbones.IMAGENET_SHA256, "resnet18", [hashlib.sha256(known).hexdigest()])
        assert backbones.load("resnet18", "imagenet")[1] == "resnet18/imagenet"
    (mine / "weights" / readers.STAND_IN).unlink()
    assert "/local:" in backbones.load("resnet18", str(path))[1]
    with pytest.raises(FileNotFoundError, match="resnet18-stand-in.pth has another checksum"):
        backbones.load("resnet18", "imagenet")
