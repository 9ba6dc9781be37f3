"""Names of datasets and of their classes, the official ones too."""

import re

import pytest

from repro import data


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
    fives = data.SUPERCLASSES["cifar100"]
    assert len(fives) == 20 and {len(five) for five in fives} == {5}
    assert sorted(sum(fives, [])) == data.CLASS_NAMES["cifar100"] and len(set(data.CLASS_NAMES["cifar100"])) == 100
    for five in (
        "bottle bowl can cup plate",
        "clock keyboard lamp telephone television",
        "bee beetle butterfly caterpillar cockroach",
        "apple mushroom orange pear sweet_pepper",
        "lawn_mower rocket streetcar tank tractor",
    ):
        assert five.split() in fives


def test_the_normal_objects_of_coil100_are_30_of_its_classes():
    assert len(set(data.COIL100_OBJECTS)) == len(data.COIL100_OBJECTS) == 30
    assert set(data.COIL100_OBJECTS) < set(data.CLASS_NAMES["coil100"])
    assert data.COIL100_OBJECTS[:2] == ["obj79", "obj48"] and data.COIL100_OBJECTS[-1] == "obj55"
