"""Datasets, one-class splits, the cache of prepared images, and every way a file can be wrong."""

import gzip
import hashlib
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adlib._torchvision import import_torchvision
from repro import data
from repro.data import cache, readers


MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


# ---- small trees to read from


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def mnist_tree(tmp_path, monkeypatch):
    """MNIST/raw with 40 train and 20 test images under ADLIB_DATA, whose checksums torchvision is made to expect."""
    raw = tmp_path / "tree" / "MNIST" / "raw"
    write_mnist(raw, monkeypatch)
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path / "tree"))
    return raw


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


@pytest.fixture
def class_folders(tmp_path):
    root = tmp_path / "pets"
    for split, n in (("train", 4), ("test", 2)):
        for name in ("cat", "dog"):
            for i in range(n):
                save_image(root / split / name / f"{i}.png")
    return root


@pytest.fixture
def mvtec_folders(tmp_path):
    root = tmp_path / "screw"
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


def cache_files():
    return sorted(Path(os.environ["ADLIB_CACHE"]).glob("*.bin"))


# ---- names


def test_an_unknown_dataset_is_an_error_that_lists_the_choices():
    with pytest.raises(ValueError, match="unknown dataset 'minst': choose digits, textures, mnist.*npz:PATH"):
        data.load("minst", "test")


def test_names_of_classes_are_plain_words():
    for names in data.CLASS_NAMES.values():
        assert len(set(names)) == len(names)
        assert all(re.fullmatch("[a-z0-9_]+", name) for name in names)
    sizes = [len(data.CLASS_NAMES[name]) for name in ("mnist", "fashion_mnist", "cifar10", "cifar100", "coil100")]
    assert sizes == [10, 10, 10, 100, 100]


@pytest.mark.parametrize(
    "name, wanted, index",
    [
        ("cifar10", "airplane", 0),
        ("cifar10", "automobile", 1),
        ("cifar10", "plane", 0),
        ("fashion_mnist", "T-shirt/top", 0),
        ("fashion_mnist", "Ankle boot", 9),
        ("mnist", "8 - eight", 8),
        ("mnist", 8, 8),
        ("cifar100", "cups", 28),
        ("cifar100", "aquarium fish", 1),
        ("cifar100", "bee", 6),
        ("cifar100", "clock", 22),
        ("cifar100", "pickup_truck", 58),
        ("cifar100", "worm", 99),
        ("coil100", "obj1", 0),
        ("coil100", "1", 0),
        ("coil100", 100, 99),
        ("coil100", "Object 7", 6),
        ("coil100", "obj07", 6),
    ],
)
def test_official_names_of_classes_are_accepted(name, wanted, index):
    assert data.class_index(name, wanted) == index


def test_an_unknown_class_is_an_error_that_lists_the_choices():
    with pytest.raises(ValueError, match="unknown class 'cow' of cifar10: choose plane, car, bird"):
        data.class_index("cifar10", "cow")


@pytest.mark.parametrize("wanted", ["obj0", "0", "101", "obj", "1.5", "obj1__0"])
def test_what_is_no_object_of_coil100_is_an_unknown_class(wanted):
    with pytest.raises(ValueError, match=f"unknown class '{wanted}' of coil100: choose obj1, obj2"):
        data.class_index("coil100", wanted)


def test_the_superclasses_of_cifar100_are_20_times_5_and_hold_every_class_once():
    assert len(data.SUPERCLASSES) == 20 and {len(five) for five in data.SUPERCLASSES.values()} == {5}
    assert sorted(sum(data.SUPERCLASSES.values(), [])) == sorted(data.CLASS_NAMES["cifar100"])
    assert len(set(data.CLASS_NAMES["cifar100"])) == 100
    for name, five in (
        ("food_containers", "bottle bowl can cup plate"),
        ("household_electrical_devices", "clock keyboard lamp telephone television"),
        ("insects", "bee beetle butterfly caterpillar cockroach"),
        ("fruit_and_vegetables", "apple mushroom orange pear sweet_pepper"),
        ("vehicles_2", "lawn_mower rocket streetcar tank tractor"),
    ):
        assert data.SUPERCLASSES[name] == five.split()


def test_the_normal_objects_of_coil100_are_30_of_its_classes():
    assert len(set(data.COIL100_OBJECTS)) == len(data.COIL100_OBJECTS) == 30
    assert set(data.COIL100_OBJECTS) < set(data.CLASS_NAMES["coil100"])
    assert data.COIL100_OBJECTS[:2] == ["obj79", "obj48"] and data.COIL100_OBJECTS[-1] == "obj55"


@pytest.mark.parametrize(
    "arguments",
    [
        {"protocol": "70-30"},
        {"size": 0},
        {"size": 32.0},
        {"resample": "nearest"},
        {"n_train": 0},
        {"n_train": 2.5},
        {"validation": 1.0},
        {"validation": -0.1},
        {"seed": -1},
        {"seed": 0.5},
    ],
)
def test_a_bad_argument_of_one_class_is_an_error_that_shows_it(arguments):
    with pytest.raises(ValueError, match=re.escape(repr(*arguments.values()))):
        data.one_class("digits", "8", **arguments)


def test_a_bad_split_is_an_error():
    with pytest.raises(ValueError, match="unknown split 'val'"):
        data.load("digits", "val")


# ---- digits and textures


def test_digits_are_split_in_file_order_and_use_the_whole_range():
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert train.images.shape[1:] == (1, 8, 8) and len(train.images) + len(test.images) == 1797
    for label in range(10):
        n, m = int((train.labels == label).sum()), int((test.labels == label).sum())
        assert m == (n + m) // 3
    assert train.images.min() == 0 and train.images.max() == 255
    assert train.kinds == [str(label) for label in train.labels.tolist()] and train.source == "embedded"


def test_images_are_resized_to_the_size_asked_for():
    for size in (16, 32):
        images = data.load("digits", "test", size=size).images
        assert images.shape[1:] == (1, size, size) and images.dtype == torch.uint8


def test_both_resamplings_differ_where_images_shrink():
    images = torch.from_numpy(pixels(2, 3, 32, 32))
    assert not torch.equal(readers.resize(images, 8, "antialias"), readers.resize(images, 8, "bilinear"))


def test_resizing_a_constant_keeps_it():
    for value in (0, 77, 255):
        images = torch.full((1, 1, 9, 13), value, dtype=torch.uint8)
        assert (readers.resize(images, 32, "antialias") == value).all()


def test_a_texture_is_tested_on_its_own_good_and_defective_images_only():
    split = data.one_class("textures", "checks", size=None)
    assert len(split.train) == 80 and len(split.test) == 70 and int(split.is_anomalous.sum()) == 40
    assert {kind for kind, bad in zip(split.kind, split.is_anomalous.tolist(), strict=True) if not bad} == {"good"}
    assert torch.equal(split.masks.flatten(1).any(1), split.is_anomalous)
    every = data.load("textures", "test")
    assert torch.equal(split.test, every.images[every.labels == 1])


def test_textures_know_no_other_protocol_than_official():
    with pytest.raises(ValueError, match="unknown protocol '80-20' for textures: choose official"):
        data.one_class("textures", "checks", protocol="80-20")


def test_validation_of_a_category_holds_normals_only():
    split = data.one_class("textures", "weave", validation=0.25)
    assert len(split.train) == 60 and len(split.validation) == 20 and not split.validation_is_anomalous.any()


# ---- one-class splits: every image of this file is its own number, so that rows can be told apart


@pytest.fixture
def numbered(tmp_path):
    """60 train and 40 test images of 4 classes; pixel (0, 0) of an image is its number, its class that modulo 4."""
    images = np.zeros((100, 2, 2), np.uint8)
    images[:, 0, 0] = np.arange(100)
    labels = np.arange(100, dtype=np.uint8) % 4
    return write_npz(
        tmp_path / "numbered.npz",
        train_images=images[:60],
        train_labels=labels[:60],
        test_images=images[60:],
        test_labels=labels[60:],
        class_names=np.array(["a", "b", "c", "d"]),
    )


def numbers(images):
    return images[:, 0, 0, 0].tolist()


def test_official_trains_on_the_train_split_and_tests_on_the_whole_test_split(numbered):
    split = data.one_class(numbered, "b", size=None)
    assert numbers(split.train) == list(range(1, 60, 4)) and numbers(split.test) == list(range(60, 100))
    assert split.is_anomalous.tolist() == [n % 4 != 1 for n in range(60, 100)]
    assert split.kind == ["abcd"[n % 4] for n in range(60, 100)]
    assert split.normal_class == "b" and split.n_train_available == 15 and split.validation is None


def test_80_20_pools_both_splits_and_tests_half_and_half(numbered):
    split = data.one_class(numbered, "b", protocol="80-20", size=None)
    train, test = numbers(split.train), numbers(split.test)
    normal = [n for n, bad in zip(test, split.is_anomalous.tolist(), strict=True) if not bad]
    assert len(train) == 20 and len(normal) == 5 and sorted(train + normal) == list(range(1, 100, 4))
    assert len(test) == 10 and len(set(test)) == 10 and all(n % 4 == 1 for n in normal)
    assert split.kind == ["abcd"[n % 4] for n in test]


def test_80_20_never_tests_what_another_class_trains_on(numbered):
    splits = [data.one_class(numbered, name, protocol="80-20", seed=3, size=None) for name in "abcd"]
    trained = {n for split in splits for n in numbers(split.train)}
    tested = {n for split in splits for n in numbers(split.test)}
    assert len(trained) == 80 and not trained & tested


def test_80_20_depends_on_the_seed_alone(numbered):
    first, again, other = (data.one_class(numbered, "a", protocol="80-20", seed=seed, size=None) for seed in (0, 0, 1))
    assert numbers(first.train) == numbers(again.train) and numbers(first.test) == numbers(again.test)
    assert numbers(first.train) != numbers(other.train) and numbers(first.test) != numbers(other.test)


@pytest.mark.parametrize("protocol", data.PROTOCOLS)
def test_validation_comes_from_training_images_that_are_not_trained_on(numbered, protocol):
    whole = data.one_class(numbered, "c", protocol, size=None)
    split = data.one_class(numbered, "c", protocol, size=None, validation=0.2)
    train, validation = numbers(split.train), numbers(split.validation)
    held_out = [n for n, bad in zip(validation, split.validation_is_anomalous.tolist(), strict=True) if not bad]
    assert sorted(train + held_out) == sorted(numbers(whole.train))
    assert len(validation) == 2 * len(held_out) == 2 * round(0.2 * len(whole.train))
    assert numbers(split.test) == numbers(whole.test)
    # No test of any class, whatever is drawn, touches an image of the validation part.
    for name in "abcd":
        assert not set(validation) & set(numbers(data.one_class(numbered, name, protocol, size=None).test))


def test_a_subset_of_the_training_images_is_drawn_by_the_seed(numbered):
    whole = numbers(data.one_class(numbered, "a", size=None).train)
    first, again, other = (data.one_class(numbered, "a", size=None, seed=seed, n_train=6) for seed in (0, 0, 1))
    assert numbers(first.train) == numbers(again.train) != numbers(other.train)
    assert len(first.train) == 6 and set(numbers(first.train)) < set(whole) and first.n_train_available == 15
    assert numbers(data.one_class(numbered, "a", size=None, n_train=1000).train) == whole


def test_a_class_without_training_images_is_an_error_that_lists_the_others(tmp_path):
    name = write_npz(tmp_path / "part.npz", class_names=np.array(["cup", "bee", "plate"]))
    assert data.class_names(name) == ["cup", "bee"]
    with pytest.raises(ValueError, match="no training images of class plate.*choose cup, bee"):
        data.one_class(name, "plate")


def test_a_test_split_without_anomalies_is_an_error(tmp_path):
    name = write_npz(tmp_path / "one.npz", train_labels=np.zeros(10, int), test_labels=np.zeros(10, int))
    with pytest.raises(ValueError, match="no anomalous test images where 0 is normal"):
        data.one_class(name, "0")


# ---- copies in part, and superclasses


def write_cifar100(folder, trained, tested=None, n_train=4):
    """cifar100.npz of n_train training images of the classes `trained` and 2 test images of `tested` (None: all).

    Every pixel of an image is 1 (train) or 2 (test), its class, 0.
    """
    names, arrays = data.CLASS_NAMES["cifar100"], {}
    for split, some, n in (("train", trained, n_train), ("test", tested or names, 2)):
        labels = np.repeat([names.index(name) for name in some], n)
        images = np.zeros((len(labels), 4, 4, 3), np.uint8)
        images[..., 0], images[..., 1] = 1 if split == "train" else 2, labels[:, None, None]
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    write_npz(folder / "cifar100.npz", class_names=np.array(names), **arrays)


def classes_of(images):
    return [data.CLASS_NAMES["cifar100"][label] for label in images[:, 1, 0, 0].tolist()]


FOOD = ["bottle", "bowl", "can", "cup", "plate"]


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    """The folder that ADLIB_DATA names, with a stand-in of CIFAR-100 in which no class is absent."""
    write_cifar100(tmp_path, data.CLASS_NAMES["cifar100"])
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path))
    return tmp_path


def test_a_copy_that_lacks_classes_says_so_in_its_source_and_a_whole_one_does_not(cifar100):
    assert re.fullmatch("npz:[0-9a-f]{8}", data.one_class("cifar100", "cup", size=None).source)
    write_cifar100(cifar100, ["apple", "cup", "bee"])
    for _ in range(2):  # prepared, and read from the cache
        split = data.one_class("cifar100", "cup", size=8)
        assert re.fullmatch(r"npz:[0-9a-f]{8} \(3 of 100 classes\)", split.source)
        assert data.load("cifar100", "test", size=8).source == split.source
    with pytest.raises(ValueError, match="3 of 100 classes.*no training images of class bear.*choose apple, bee, cup$"):
        data.one_class("cifar100", "bear", size=8)


def test_a_cache_holds_the_plain_source_so_that_one_of_before_is_labelled_too(cifar100):
    write_cifar100(cifar100, ["apple", "cup"])
    label = data.one_class("cifar100", "cup").source
    assert cache.read(cache_files()[0])[0].source + " (2 of 100 classes)" == label


def test_superclass_is_official_among_the_five_classes_of_a_superclass(cifar100):
    split = data.one_class("cifar100", "cups", protocol="superclass", size=None)
    assert len(split.train) == split.n_train_available == 4 and split.validation is None
    assert split.kind == [name for name in FOOD for _ in range(2)] and split.normal_class == "cup"
    assert split.is_anomalous.tolist() == [kind != "cup" for kind in split.kind]
    assert (split.train[:, 0] == 1).all() and (split.test[:, 0] == 2).all()
    assert classes_of(split.train) == ["cup"] * 4 and classes_of(split.test) == split.kind


def test_a_copy_that_lacks_other_classes_alone_has_the_whole_task_of_a_superclass(cifar100):
    write_cifar100(cifar100, ["cup"], FOOD)
    assert re.fullmatch("npz:[0-9a-f]{8}", data.one_class("cifar100", "cup", "superclass", size=None).source)
    write_cifar100(cifar100, ["cup"], FOOD[1:])
    assert data.one_class("cifar100", "cup", "superclass", size=8).source.endswith(" (1 of 100 classes)")


def test_every_class_of_cifar100_can_be_normal_in_its_superclass(cifar100):
    for normal in data.CLASS_NAMES["cifar100"]:
        split = data.one_class("cifar100", normal, protocol="superclass", size=None)
        assert len(split.train) == 4 and len(split.test) == 10 and int(split.is_anomalous.sum()) == 8
        assert set(split.kind) in [set(five) for five in data.SUPERCLASSES.values()]


def test_validation_in_a_superclass_comes_from_the_train_split_of_its_classes(cifar100):
    for seed in range(3):
        split = data.one_class("cifar100", "cup", "superclass", seed=seed, size=None, validation=0.5)
        assert len(split.train) == 2 and len(split.test) == 10 and (split.validation[:, 0] == 1).all()
        assert [kind != "cup" for kind in classes_of(split.validation)] == split.validation_is_anomalous.tolist()
        assert len(split.validation) == 4 and int(split.validation_is_anomalous.sum()) == 2
        assert set(classes_of(split.validation)) < set(FOOD)


def test_validation_in_a_superclass_takes_as_many_anomalies_as_there_are(cifar100):
    write_cifar100(cifar100, ["apple"] + ["cup"] * 10 + ["plate"], n_train=1)
    split = data.one_class("cifar100", "cup", protocol="superclass", size=None, validation=0.5)
    assert classes_of(split.validation) == ["cup"] * 5 + ["plate"] and len(split.train) == 5


def test_validation_without_siblings_to_train_on_is_an_error_that_says_the_way_out(cifar100):
    write_cifar100(cifar100, ["apple", "cup", "bee"])
    assert len(data.one_class("cifar100", "cup", protocol="superclass").test) == 10
    with pytest.raises(ValueError, match="superclass of cup .bottle, bowl, can, cup, plate.*give validation=0"):
        data.one_class("cifar100", "cup", protocol="superclass", validation=0.2)


def test_a_superclass_without_test_images_of_its_other_classes_is_an_error(cifar100):
    write_cifar100(cifar100, ["apple", "cup"], ["apple", "cup", "bee"])
    with pytest.raises(ValueError, match="no anomalous test images where cup is normal$"):
        data.one_class("cifar100", "cup", protocol="superclass")


@pytest.mark.parametrize(
    "name, choices",
    [
        ("digits", "official or 80-20"),
        ("cifar10", "official or 80-20"),
        ("coil100", "official or 80-20"),
        ("textures", "official"),
        ("mvtec", "official"),
    ],
)
def test_superclass_is_a_protocol_of_cifar100_alone(name, choices):
    with pytest.raises(ValueError, match=f"unknown protocol 'superclass' for {name}: choose {choices}$"):
        data.one_class(name, data.CLASS_NAMES[name][0], protocol="superclass")


def test_the_choices_of_cifar100_name_superclass():
    with pytest.raises(ValueError, match="protocol '70-30' for cifar100: choose official, 80-20 or superclass$"):
        data.one_class("cifar100", "cup", protocol="70-30")


# ---- the cache


def test_the_cache_gives_what_was_prepared(mvtec_folders):
    name = f"folder:{mvtec_folders}"
    prepared, read = data.load(name, "test", size=5), data.load(name, "test", size=5)
    assert torch.equal(prepared.images, read.images) and torch.equal(prepared.masks, read.masks)
    assert torch.equal(prepared.labels, read.labels) and read.labels.dtype == torch.int64
    assert (prepared.kinds, prepared.files, prepared.source, prepared.class_names) == (
        read.kinds,
        read.files,
        read.source,
        read.class_names,
    )


def test_the_cache_is_read_in_place_of_the_source(mnist_tree):
    before = data.load("mnist", "test", size=32)
    shutil.rmtree(mnist_tree)
    assert torch.equal(data.load("mnist", "test", size=32).images, before.images)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-100],
        lambda content: b"",
        lambda content: content[:30],
        lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
        lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
        lambda content: content.replace(b"adlib-cache 1", b"adlib-cache 0"),
    ],
)
def test_a_damaged_cache_is_named_and_prepared_again(damage, capfd):
    before = data.load("digits", "test", size=16)
    [file] = cache_files()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert torch.equal(data.load("digits", "test", size=16).images, before.images)
    message = capfd.readouterr().err
    assert message.count("\n") == 1 and str(file) in message and "preparing it again" in message
    assert file.read_bytes() == whole


def test_a_damaged_cache_without_a_source_names_both(mnist_tree):
    data.load("mnist", "test")
    [file] = cache_files()
    file.write_bytes(file.read_bytes()[:-1])
    shutil.rmtree(mnist_tree)
    with pytest.raises(FileNotFoundError) as error:
        data.load("mnist", "test")
    assert str(file) in str(error.value) and "MNIST/raw" in str(error.value)


def test_two_processes_that_find_a_damaged_cache_prepare_it_once():
    before = data.load("textures", "train", size=16)
    [file] = cache_files()
    file.write_bytes(b"damaged")
    code = "from repro import data; print(data.load('textures', 'train', size=16).images.sum().item())"
    jobs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [job.communicate(timeout=120) for job in jobs]
    assert [out for out, _ in outputs] == [f"{before.images.sum().item()}\n"] * 2
    assert "".join(err for _, err in outputs).count("preparing it again") == 1
    assert [path.name for path in file.parent.iterdir() if path.suffix not in (".bin", ".lock")] == []


def test_a_job_that_reads_the_cache_imports_no_reader_library(class_folders):
    names = ["digits", "textures", f"folder:{class_folders}"]
    for name in names:
        data.load(name, "train", size=16)
    code = (
        f"import sys; from repro import data\nfor name in {names}: data.load(name, 'train', size=16)\n"
        "print([m for m in ('torchvision', 'sklearn', 'PIL', 'pandas', 'scipy', 'filelock') if m in sys.modules])"
    )
    job = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (job.stdout, job.stderr) == ("[]\n", "")


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


def test_a_gz_file_with_the_right_md5_that_does_not_unpack_is_named(mnist_tree, monkeypatch):
    path = mnist_tree / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-10])
    resources = [
        (name, hashlib.md5((mnist_tree / name).read_bytes()).hexdigest())
        for name, _ in import_torchvision().datasets.MNIST.resources
    ]
    monkeypatch.setattr(import_torchvision().datasets.MNIST, "resources", resources)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte.gz cannot be unpacked"):
        data.load("mnist", "test")


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


def test_cifar10_is_read_from_its_batches(tmp_path, monkeypatch):
    write_cifar(tmp_path / "cifar-10-batches-py", monkeypatch)
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path))
    split = data.one_class("cifar10", "airplane")
    assert split.train.shape == (2, 3, 32, 32) and split.test.shape == (10, 3, 32, 32) and split.source == "official"
    assert np.array_equal(split.test.numpy(), pixels(10, 3, 32, 32)) and split.kind[:2] == ["plane", "car"]


class Exploit:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_an_altered_cifar_batch_is_named_and_not_unpickled(tmp_path, monkeypatch):
    write_cifar(tmp_path / "cifar-10-batches-py", monkeypatch)
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path))
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(Exploit(tmp_path / "executed")))
    with pytest.raises(ValueError, match="test_batch is truncated or altered"):
        data.load("cifar10", "test")
    assert not (tmp_path / "executed").exists()


def test_a_cifar_batch_with_the_right_md5_is_not_executed_either(tmp_path, monkeypatch):
    write_cifar(tmp_path / "cifar-10-batches-py", monkeypatch)
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path))
    content = pickle.dumps(Exploit(tmp_path / "executed"), protocol=2)
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(content)
    monkeypatch.setattr(
        import_torchvision().datasets.CIFAR10, "test_list", [["test_batch", hashlib.md5(content).hexdigest()]]
    )
    with pytest.raises(ValueError, match="test_batch cannot be read as a batch of CIFAR: it asks for .*open, which"):
        data.load("cifar10", "test")
    assert not (tmp_path / "executed").exists() and cache_files() == []


def test_a_missing_cifar_batch_is_named(tmp_path, monkeypatch):
    write_cifar(tmp_path / "cifar-10-batches-py", monkeypatch)
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path))
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").unlink()
    with pytest.raises(FileNotFoundError, match="cifar-10-batches-py lacks data_batch_1"):
        data.load("cifar10", "test")


# ---- no data: what to put where, and downloads


def test_offline_the_error_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"put cifar-10-batches-py/ or cifar10.npz into.*{tmp_path}"):
        data.load("cifar10", "test")


def test_a_data_folder_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="ADLIB_DATA names .*nowhere, which is no folder"):
        data.load("mnist", "test")


def test_a_download_lands_in_the_cache_and_is_read_from_there(monkeypatch):
    def download(self):
        write_mnist(Path(self.raw_folder), monkeypatch)
        for path in list(Path(self.raw_folder).iterdir()):
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))

    monkeypatch.delenv("ADLIB_DATA", raising=False)
    monkeypatch.setenv("ADLIB_OFFLINE", "0")
    monkeypatch.setattr(import_torchvision().datasets.MNIST, "download", download)
    assert len(data.load("mnist", "train").images) == 40
    assert (Path(os.environ["ADLIB_CACHE"]) / "downloads" / "MNIST" / "raw").is_dir()


def test_a_download_that_fails_is_one_sentence_with_the_way_out(monkeypatch):
    def download(self):
        raise OSError("no route to host")

    monkeypatch.delenv("ADLIB_DATA", raising=False)
    monkeypatch.setenv("ADLIB_OFFLINE", "0")
    monkeypatch.setattr(import_torchvision().datasets.MNIST, "download", download)
    with pytest.raises(FileNotFoundError, match="mnist could not be downloaded .no route to host.: put MNIST/raw/ or"):
        data.load("mnist", "train")


# ---- npz


def test_npz_takes_labels_of_either_shape_and_grey_images(tmp_path):
    name = write_npz(
        tmp_path / "grey.npz",
        train_images=pixels(10, 8, 8),
        test_images=pixels(10, 8, 8),
        test_labels=np.arange(10) % 2,
    )
    split = data.one_class(name, "1", size=None)
    assert split.train.shape == (5, 1, 8, 8) and int(split.is_anomalous.sum()) == 5
    assert re.fullmatch("npz:[0-9a-f]{8}", split.source) and split.class_names == ["0", "1"]


def test_npz_of_a_known_dataset_may_name_and_order_its_classes_otherwise(tmp_path, monkeypatch):
    write_npz(tmp_path / "cifar10.npz", class_names=np.array(["automobile", "airplane"]))
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path))
    test = data.load("cifar10", "test")
    assert test.kinds[:2] == ["car", "plane"] and test.labels[:2].tolist() == [1, 0]
    assert len(test.class_names) == 10 and re.fullmatch(r"npz:[0-9a-f]{8} \(2 of 10 classes\)", test.source)


def test_npz_of_a_known_dataset_may_name_classes_that_nothing_is_of(tmp_path, monkeypatch):
    write_npz(
        tmp_path / "cifar10.npz",
        train_labels=np.full(10, 2),
        test_labels=np.full(10, 1),
        class_names=np.array(["background", "ship", "frog"]),
    )
    monkeypatch.setenv("ADLIB_DATA", str(tmp_path))
    assert set(data.load("cifar10", "train").kinds) == {"frog"} and set(data.load("cifar10", "test").kinds) == {"ship"}
    write_npz(tmp_path / "cifar10.npz", class_names=np.array(["background", "ship"]))
    with pytest.raises(ValueError, match="unknown class 'background' of cifar10"):
        data.load("cifar10", "train", size=8)


@pytest.mark.parametrize("key", ["train_images", "test_labels", "class_names"])
def test_npz_with_a_pickled_object_is_refused_and_not_executed(tmp_path, key):
    name = write_npz(tmp_path / "evil.npz", **{key: np.array([Exploit(tmp_path / "executed")] * 10, dtype=object)})
    with pytest.raises(ValueError, match="evil.npz cannot be read as npz: Object arrays cannot be loaded"):
        data.load(name, "test")
    assert not (tmp_path / "executed").exists()


def test_a_pickle_in_place_of_an_npz_is_refused_and_not_executed(tmp_path):
    (tmp_path / "evil.npz").write_bytes(pickle.dumps(Exploit(tmp_path / "executed")))
    with pytest.raises(ValueError, match="evil.npz cannot be read as npz"):
        data.load(f"npz:{tmp_path / 'evil.npz'}", "test")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("keep", [0, 100, 2000, -1])
def test_a_truncated_npz_is_named(tmp_path, keep):
    name = write_npz(tmp_path / "cut.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:keep])
    with pytest.raises(ValueError, match="cut.npz cannot be read as npz"):
        data.load(name, "test")


def test_a_single_array_in_place_of_an_npz_is_named(tmp_path):
    np.save(tmp_path / "array.npy", pixels(10, 8, 8))
    with pytest.raises(ValueError, match="array.npy cannot be read as npz"):
        data.load(f"npz:{tmp_path / 'array.npy'}", "test")


def test_an_npz_with_a_flipped_bit_is_named(tmp_path):
    name = write_npz(tmp_path / "flip.npz")
    content = bytearray((tmp_path / "flip.npz").read_bytes())
    content[600] ^= 1
    (tmp_path / "flip.npz").write_bytes(content)
    with pytest.raises(ValueError, match="flip.npz cannot be read as npz"):
        data.load(name, "test")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"test_labels": None}, "it lacks test_labels; it holds"),
        ({"train_images": np.zeros((10, 8, 8, 3))}, "train_images is float64"),
        ({"train_images": pixels(10, 8, 8, 2)}, "with 1 or 3 channels"),
        ({"test_images": pixels(9, 8, 8, 3)}, "9 test_images but 10 test_labels"),
        ({"test_images": pixels(10, 9, 9, 3)}, "differ in size or channels"),
        ({"train_labels": np.zeros((10, 14), int)}, "train_labels is int64 .10, 14., not whole numbers"),
        ({"train_labels": np.zeros(10)}, "train_labels is float64"),
        ({"train_labels": np.full(10, -1)}, "not whole numbers from 0 to 65535"),
        ({"test_labels": np.full(10, 1 << 40)}, "not whole numbers from 0 to 65535"),
        ({"class_names": np.array(["a"])}, "labels up to 1 but 1 different class names"),
        ({"class_names": np.array(["a", "a"])}, "labels up to 1 but 1 different class names"),
    ],
)
def test_an_npz_of_the_wrong_kind_is_an_error_that_says_what_is_wrong(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        data.load(write_npz(tmp_path / "wrong.npz", **changes), "test")


def test_a_changed_npz_is_read_anew(tmp_path):
    name = write_npz(tmp_path / "x.npz")
    before = data.load(name, "test").source
    write_npz(tmp_path / "x.npz", n=12)
    assert len(data.load(name, "test").images) == 12 and data.load(name, "test").source != before


# ---- folders


def test_class_folders_are_classes(class_folders):
    split = data.one_class(f"folder:{class_folders}", "dog", size=None)
    assert split.train.shape == (4, 3, 8, 8) and split.kind == ["cat", "cat", "dog", "dog"]
    assert split.is_anomalous.tolist() == [True, True, False, False] and split.masks is None
    assert split.files[0] == "test/cat/0.png" and re.fullmatch("folder:[0-9a-f]{8}", split.source)
    assert data.class_names(f"folder:{class_folders}") == ["cat", "dog"]


def test_a_relative_path_is_the_same_dataset(class_folders, monkeypatch):
    data.load(f"folder:{class_folders}", "test")
    monkeypatch.chdir(class_folders.parent)
    data.load("folder:pets", "test")
    assert len(cache_files()) == 1


def test_mvtec_folders_have_masks_of_both_names(mvtec_folders):
    split = data.one_class(f"folder:{mvtec_folders}", "good", size=None)
    assert split.kind == ["bent", "cut", "good"] and split.is_anomalous.tolist() == [True, True, False]
    assert split.masks.flatten(1).sum(1).tolist() == [6, 6, 0] and split.masks[0, 2:4, 3:6].all()
    assert data.class_names(f"folder:{mvtec_folders}") == ["good"]


def test_masks_are_resized_by_nearest_neighbor(mvtec_folders):
    small = data.load(f"folder:{mvtec_folders}", "test", size=16)
    assert small.masks.dtype == torch.bool and small.masks.flatten(1).sum(1).tolist() == [24, 24, 0]


def test_a_missing_mask_is_an_error_that_names_it(mvtec_folders):
    (mvtec_folders / "ground_truth" / "cut" / "0_mask.png").unlink()
    with pytest.raises(FileNotFoundError, match="test/cut/0.png has no mask .*ground_truth/cut/0_mask.png"):
        data.load(f"folder:{mvtec_folders}", "test")


def test_a_mask_of_another_size_is_an_error_that_names_it(mvtec_folders):
    save_image(mvtec_folders / "ground_truth" / "cut" / "0_mask.png", (9, 9))
    with pytest.raises(ValueError, match="0_mask.png is not of the size of its image"):
        data.load(f"folder:{mvtec_folders}", "test")


def test_a_changed_mask_is_read_anew(mvtec_folders):
    name, path = f"folder:{mvtec_folders}", mvtec_folders / "ground_truth" / "cut" / "0_mask.png"
    before = data.load(name, "test").source
    save_image(path, (8, 8), 255)
    assert data.load(name, "test").masks[1].all() and data.load(name, "test").source != before


@pytest.mark.parametrize("content", [b"", b"no image at all", None])
def test_an_unreadable_image_is_an_error_that_names_it(class_folders, content):
    path = class_folders / "train" / "cat" / "1.png"
    path.write_bytes(path.read_bytes()[:-60] if content is None else content)
    with pytest.raises(ValueError, match="train/cat/1.png cannot be read as an image"):
        data.load(f"folder:{class_folders}", "test")


def test_images_of_16_bit_are_refused_and_not_clipped(class_folders):
    Image.fromarray(np.full((8, 8), 3000, np.uint16)).save(class_folders / "train" / "cat" / "1.png")
    with pytest.raises(ValueError, match="1.png cannot be read as an image: its pixels are of Pillow's mode I;16"):
        data.load(f"folder:{class_folders}", "test")


def test_mixed_sizes_need_a_size(class_folders):
    save_image(class_folders / "test" / "dog" / "wide.jpg", (10, 30, 3))
    name = f"folder:{class_folders}"
    assert data.load(name, "test", size=16).images.shape == (5, 3, 16, 16)
    with pytest.raises(ValueError, match="wide.jpg is not of the size of the images before it: give a size"):
        data.load(name, "test")


def test_grey_images_have_one_channel_and_mixed_ones_three(class_folders):
    for path in class_folders.rglob("*.png"):
        save_image(path, (8, 8))
    save_image(class_folders / "train" / "cat" / "as_color.bmp", (8, 8, 3), 90)
    assert data.load(f"folder:{class_folders}", "train").images.shape == (5 + 4, 1, 8, 8)
    save_image(class_folders / "train" / "cat" / "color.webp", (8, 8, 3))
    assert data.load(f"folder:{class_folders}", "train").images.shape == (6 + 4, 3, 8, 8)


def test_other_files_and_hidden_ones_are_no_images(class_folders):
    (class_folders / "train" / "cat" / "notes.txt").write_text("not an image")
    (class_folders / "train" / "cat" / "._0.png").write_text("a shadow of a Mac")
    assert len(data.load(f"folder:{class_folders}", "train").images) == 8


def test_a_folder_without_images_is_an_error_that_says_the_layout(tmp_path):
    with pytest.raises(ValueError, match="holds no images under train/<class>/ .*png"):
        data.load(f"folder:{tmp_path}", "test")


def test_an_image_outside_a_class_folder_is_an_error_that_names_it(class_folders):
    save_image(class_folders / "test" / "loose.png")
    with pytest.raises(ValueError, match="test/loose.png lies in no class folder"):
        data.load(f"folder:{class_folders}", "test")


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_a_path_that_is_not_there_is_named(tmp_path, kind):
    for call in (data.class_names, lambda name: data.load(name, "test")):
        with pytest.raises(FileNotFoundError, match=f"there is no .*{tmp_path / 'nowhere'}"):
            call(f"{kind}:{tmp_path / 'nowhere'}")


# ---- real data, where there are any


def real(relative):
    """The path under ADLIB_DATA; skips the test if it is not there."""
    root = os.environ.get("ADLIB_DATA")
    if not root or not (Path(root) / relative).exists():
        pytest.skip(f"needs {relative} under ADLIB_DATA")
    return Path(root) / relative


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("real-cache"))


def test_mnist_has_the_official_numbers_of_every_class(monkeypatch, shared_cache):
    real("MNIST/raw")
    monkeypatch.setenv("ADLIB_CACHE", shared_cache)
    train, test = data.load("mnist", "train"), data.load("mnist", "test")
    assert train.labels.bincount().tolist() == MNIST_TRAIN and test.labels.bincount().tolist() == MNIST_TEST
    assert train.source == "official" and train.images.shape == (60000, 1, 28, 28)


def test_mnist_8_official_trains_on_5851_and_tests_on_10000(monkeypatch, shared_cache):
    real("MNIST/raw")
    monkeypatch.setenv("ADLIB_CACHE", shared_cache)
    split = data.one_class("mnist", "8", size=None)
    assert len(split.train) == split.n_train_available == 5851
    assert len(split.test) == 10000 and int(split.is_anomalous.sum()) == 10000 - 974


def test_mnist_8_in_80_20_pools_6825_images(monkeypatch, shared_cache):
    real("MNIST/raw")
    monkeypatch.setenv("ADLIB_CACHE", shared_cache)
    split = data.one_class("mnist", "8", protocol="80-20", size=None)
    assert len(split.train) == 5460 and len(split.test) == 2 * 1365 and int(split.is_anomalous.sum()) == 1365


def test_fashion_mnist_has_6000_and_1000_of_every_class():
    real("FashionMNIST/raw")
    train, test = data.load("fashion_mnist", "train"), data.load("fashion_mnist", "test")
    assert train.labels.bincount().tolist() == [6000] * 10 and test.labels.bincount().tolist() == [1000] * 10


def test_cifar100_with_some_classes_lists_them_when_another_is_asked_for():
    real("cifar100.npz")
    split = data.one_class("cifar100", "cups")
    if len(set(data.load("cifar100", "train", size=32).kinds)) == 100:
        pytest.skip("cifar100.npz is whole")
    assert len(split.train) == 500
    with pytest.raises(ValueError, match="no training images of class plate.*choose apple, bee, clock, cup"):
        data.one_class("cifar100", "plate")


@pytest.mark.parametrize(
    "normal, siblings",
    [
        ("cup", FOOD),
        ("apple", "apple mushroom orange pear sweet_pepper".split()),
        ("clock", "clock keyboard lamp telephone television".split()),
        ("bee", "bee beetle butterfly caterpillar cockroach".split()),
    ],
)
def test_a_superclass_of_cifar100_has_500_to_train_on_and_5_times_100_to_test(
    monkeypatch, shared_cache, normal, siblings
):
    real("cifar100.npz")
    monkeypatch.setenv("ADLIB_CACHE", shared_cache)
    split = data.one_class("cifar100", normal, protocol="superclass", size=None)
    assert len(split.train) == 500 and len(split.test) == 500 and int(split.is_anomalous.sum()) == 400
    assert split.kind.count(normal) == 100 and sorted(set(split.kind)) == siblings


@pytest.mark.parametrize("category, n_train, n_good, n_bad", [("bottle", 209, 20, 63), ("screw", 320, 41, 119)])
def test_a_category_of_mvtec_is_read_as_a_folder(category, n_train, n_good, n_bad):
    split = data.one_class(f"folder:{real(f'mvtec/{category}')}", "good", size=64)
    assert len(split.train) == n_train and len(split.test) == n_good + n_bad
    assert int(split.is_anomalous.sum()) == n_bad and split.test.shape[1] == (1 if category == "screw" else 3)
    assert (~split.masks[~split.is_anomalous]).all() and split.masks[split.is_anomalous].flatten(1).any(1).any()


def test_the_examples_shown_are_two_normal_images_and_the_middle_one_of_each_kind():
    split = data.one_class("textures", "weave", size=None)
    shown = data.examples(split)
    kinds = [split.kind[i] for i in shown]
    assert kinds[:2] == ["good", "good"] and sorted(kinds[2:]) == sorted(set(split.kind) - {"good"})
    of_third = [i for i, kind in enumerate(split.kind) if kind == kinds[2]]
    assert shown[2] == of_third[len(of_third) // 2] and shown[0] != shown[1]
    assert len(data.examples(split, most=1)) == 3
    digits = data.one_class("digits", "3", size=None)
    assert [digits.kind[i] == "3" for i in data.examples(digits)] == [True] * 2 + [False] * 5
