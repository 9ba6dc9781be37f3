"""What needs no files: digits, and drawn textures with exact masks, no two alike, the same every time."""

import numpy as np
import pytest
import torch

from repro import data
from repro.data import embedded


@pytest.fixture(scope="module")
def test_splits():
    return [embedded.draw_split(name, "test") for name in embedded.NAMES]


@pytest.mark.parametrize("defect", embedded.DEFECTS)
@pytest.mark.parametrize("texture", embedded.NAMES)
def test_the_mask_is_exactly_where_the_image_changed(texture, defect):
    for index in range(8):
        good, no_mask = embedded.draw(texture, (0, 1, index))
        damaged, mask = embedded.draw(texture, (0, 1, index), defect)
        assert not no_mask.any()
        assert np.array_equal(mask, (good != damaged).any(2))
        assert 10 < mask.sum() < mask.size / 4


def test_the_same_key_draws_the_same_image():
    first, second = (embedded.draw("weave", (0, 1, 2), "hole") for _ in range(2))
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])


def test_another_key_draws_another_image():
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    assert len({embedded.draw("stripes", key)[0].tobytes() for key in keys}) == len(keys)


def test_a_split_has_the_numbers_it_says(test_splits):
    for label, split in enumerate(test_splits):
        assert split.images.shape == (70, 3, 64, 64) and split.images.dtype == torch.uint8
        assert split.masks.shape == (70, 64, 64) and split.masks.dtype == torch.bool
        assert split.labels.dtype == torch.int64 and set(split.labels.tolist()) == {label}
        assert split.kinds.count("good") == 30 and all(split.kinds.count(defect) == 8 for defect in embedded.DEFECTS)


def test_just_the_defective_images_have_a_mask(test_splits):
    for split in test_splits:
        assert split.masks.flatten(1).any(1).tolist() == [kind != "good" for kind in split.kinds]


def test_training_and_test_images_are_all_different(test_splits):
    trained = [embedded.draw_split(name, "train") for name in embedded.NAMES]
    images = [image for split in [*trained, *test_splits] for image in split.images]
    assert len({image.numpy().tobytes() for image in images}) == len(images) == 3 * 150


def test_a_wrong_name_is_an_error_that_lists_the_choices():
    with pytest.raises(ValueError, match="stripes, checks, weave"):
        embedded.draw("paisley", (0, 0, 0))
    with pytest.raises(ValueError, match="scratch, stain, hole"):
        embedded.draw("weave", (0, 0, 0), "moth")


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
