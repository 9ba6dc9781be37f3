"""The drawn dataset: exact masks, no two images alike, the same images every time."""

import numpy as np
import pytest

from repro.data import textures


@pytest.fixture(scope="module")
def test_split():
    return textures.draw_split("test")


@pytest.mark.parametrize("defect", textures.DEFECTS)
@pytest.mark.parametrize("texture", textures.NAMES)
def test_the_mask_is_exactly_where_the_image_changed(texture, defect):
    for index in range(8):
        good, no_mask = textures.draw(texture, (0, 1, index))
        damaged, mask = textures.draw(texture, (0, 1, index), defect)
        assert not no_mask.any()
        assert np.array_equal(mask, (good != damaged).any(2))
        assert 10 < mask.sum() < mask.size / 4


def test_the_same_key_draws_the_same_image():
    first, second = (textures.draw("weave", (0, 1, 2), "hole") for _ in range(2))
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])


def test_another_key_draws_another_image():
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    assert len({textures.draw("stripes", key)[0].tobytes() for key in keys}) == len(keys)


def test_a_split_has_the_numbers_it_says(test_split):
    images, masks, labels, kinds = test_split
    assert images.shape == (3 * 70, 64, 64, 3) and images.dtype == np.uint8
    assert masks.shape == (3 * 70, 64, 64) and masks.dtype == bool
    assert labels.dtype == np.int64 and np.bincount(labels).tolist() == [70, 70, 70]
    assert kinds.count("good") == 90 and all(kinds.count(defect) == 24 for defect in textures.DEFECTS)


def test_just_the_defective_images_have_a_mask(test_split):
    _, masks, _, kinds = test_split
    assert (masks.any((1, 2)) == (np.array(kinds) != "good")).all()


def test_training_and_test_images_are_all_different(test_split):
    images = [*textures.draw_split("train")[0], *test_split[0]]
    assert len({image.tobytes() for image in images}) == len(images) == 3 * 150


def test_a_wrong_name_is_an_error_that_lists_the_choices():
    with pytest.raises(ValueError, match="stripes, checks, weave"):
        textures.draw("paisley", (0, 0, 0))
    with pytest.raises(ValueError, match="scratch, stain, hole"):
        textures.draw("weave", (0, 0, 0), "moth")
