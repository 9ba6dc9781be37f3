"""One-class splits: what is trained and tested on, in each protocol, and what cannot be split."""

import re

import numpy as np
import pytest
import torch
from trees import cache_files, real, write_npz

from repro import data
from repro.data import cache


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


def test_a_texture_is_tested_on_its_own_good_and_defective_images_only():
    split = data.one_class("textures", "checks", size=None)
    assert len(split.train) == 80 and len(split.test) == 70 and int(split.is_anomalous.sum()) == 40
    assert {kind for kind, bad in zip(split.kind, split.is_anomalous.tolist(), strict=True) if not bad} == {"good"}
    assert torch.equal(split.masks.flatten(1).any(1), split.is_anomalous)
    assert torch.equal(split.test, data.load("textures", "test", of="Checks").images)


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
        assert set(split.kind) in [set(five) for five in data.SUPERCLASSES["cifar100"]]


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


# ---- real data, where there are any


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("real-cache"))


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


def test_cifar100_with_some_classes_lists_them_when_another_is_asked_for():
    real("cifar100.npz")
    absent = sorted(set(data.CLASS_NAMES["cifar100"]) - set(data.there("cifar100")))
    if not absent:
        pytest.skip("cifar100.npz is whole")
    assert len(data.one_class("cifar100", "cups").train) == 500
    with pytest.raises(
        ValueError, match=f"no training images of class {absent[0]}.*choose {data.there('cifar100')[0]}, "
    ):
        data.one_class("cifar100", absent[0])


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
