"""CutPaste: where something was pasted, where it came from, its size, its turn and its colors."""

import numpy as np
import pytest
import torch
from scipy.ndimage import label

from adlib import cutpaste
from adlib._torchvision import import_torchvision


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(n=8, channels=3, size=32, seed=0):
    return torch.rand(n, channels, size, size, generator=rng(seed)) * 2 - 1


def places(n, size):
    """Images that hold in each pixel its column, its row and the number of its image, exactly."""
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    coordinates = torch.stack([column, row, torch.zeros_like(row)]).float().repeat(n, 1, 1, 1)
    coordinates[:, 2] = torch.arange(n).view(-1, 1, 1)
    return coordinates


def boxes(mask):
    """Left, top, width and height of what is True in each mask, int64 (N, 4)."""
    found = []
    for along in (mask.any(1), mask.any(2)):
        first = along.int().argmax(1)
        found.append((first, along.shape[1] - along.flip(1).int().argmax(1) - first))
    (left, width), (top, height) = found
    return torch.stack([left, top, width, height], 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["patch", "scar"])
def test_the_mask_is_true_exactly_where_pixels_changed(kind, channels):
    x = noise(60, channels)
    before = x.clone()
    augmented, mask = cutpaste.augment(x, rng(), **{"patch": 0, "scar": 0, kind: 1})
    assert augmented.shape == x.shape and augmented.dtype == x.dtype
    assert mask.shape == (60, 32, 32) and mask.dtype == torch.bool
    assert torch.equal((augmented != x).any(1), mask) and mask.any((1, 2)).all() and not mask.all((1, 2)).any()
    assert torch.equal(x, before)
    assert augmented.min() >= -1 and augmented.max() <= 1


def test_each_image_takes_a_patch_a_scar_or_nothing_with_the_given_probabilities():
    """In 64 px a scar has 16 x 25 / 16 = 25 pixels and a few at its edges, a patch 82 at least, less rounding."""
    _, mask = cutpaste.augment(torch.zeros(1000, 1, 64, 64), rng(), patch=0.5, scar=0.2, jitter=0)
    area = mask.sum((1, 2))
    assert (area == 0).float().mean().item() == pytest.approx(0.3, abs=0.05)
    assert ((area > 0) & (area < 50)).float().mean().item() == pytest.approx(0.2, abs=0.05)
    assert (area > 60).float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert not ((area >= 50) & (area <= 60)).any()
    _, mask = cutpaste.augment(torch.zeros(900, 1, 64, 64), rng(), jitter=0)
    assert mask.any((1, 2)).float().mean().item() == pytest.approx(2 / 3, abs=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_images_keep_their_precision(dtype):
    x = noise(20).to(dtype)
    augmented, mask = cutpaste.augment(x, rng(), patch=0.5, scar=0.5)
    assert augmented.dtype == dtype and torch.equal(augmented.movedim(1, 3)[~mask], x.movedim(1, 3)[~mask])


def test_with_neither_patch_nor_scar_nothing_changes():
    x = noise()
    augmented, mask = cutpaste.augment(x, rng(), patch=0, scar=0)
    assert torch.equal(augmented, x) and not mask.any()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96)])
def test_patches_are_upright_rectangles_within_their_bounds_of_area_and_aspect(height, width):
    _, mask = cutpaste.augment(torch.zeros(800, 1, height, width), rng(), patch=1, scar=0, jitter=0)
    left, top, w, h = boxes(mask).unbind(1)
    assert torch.equal(w * h, mask.sum((1, 2)))  # full rectangles
    w, h = w.double(), h.double()  # each rounded to whole pixels
    total = height * width
    assert ((w + 0.5) * (h + 0.5) / total).min() >= 0.02 and ((w - 0.5) * (h - 0.5) / total).max() <= 0.15
    assert ((w + 0.5) / (h - 0.5)).min() >= 0.3 and ((w - 0.5) / (h + 0.5)).max() <= 1 / 0.3
    area, aspect = w * h / total, (w / h).log()
    assert area.min() < 0.024 and area.max() > 0.146 and area.mean().item() == pytest.approx(0.085, abs=0.005)
    assert aspect.min() < -1.05 and aspect.max() > 1.05 and abs(aspect.mean()) < 0.1  # log 0.3 is -1.2
    assert left.min() == 0 and top.min() == 0 and (left + w).max() == width and (top + h).max() == height


def test_a_patch_is_copied_from_another_place_of_its_own_image():
    """Every pixel by the same whole shift, exactly; from anywhere within the image, one side to the other."""
    x = places(400, 32)
    augmented, mask = cutpaste.augment(x, rng(), patch=1, scar=0, jitter=0)
    shifts, sources = [], []
    for before, after, where in zip(x, augmented, mask, strict=True):
        shift = (after - before)[:, where]
        assert torch.equal(shift, shift[:, :1].expand_as(shift)) and torch.equal(shift, shift.round())
        shifts.append(shift[:, 0])
        sources.append(after[:2, where])
    shifts, sources = torch.stack(shifts), torch.cat(sources, 1)
    assert (shifts[:, 2] == 0).all()
    assert (shifts[:, :2].std(0) > 4).all() and abs(torch.corrcoef(shifts[:, :2].T)[0, 1]) < 0.2
    assert (sources.amin(1) == 0).all() and (sources.amax(1) == 31).all()


def test_a_scar_is_turned_and_its_content_with_it():
    """From where each pixel came: steps of one pixel, all turned alike, out of an upright strip of the image."""
    size = 128
    augmented, mask = cutpaste.augment(places(120, size), rng(), patch=0, scar=1, jitter=0)
    augmented = augmented.double()
    angles, directions = [], []
    for number, (left, top, w, h) in enumerate(boxes(mask).tolist()):
        after, where = (of[number, ..., top : top + h, left : left + w] for of in (augmented, mask))
        pairs = where[:, 1:] & where[:, :-1]
        right = (after[:2, :, 1:] - after[:2, :, :-1])[:, pairs]
        torch.testing.assert_close(right.square().sum(0), torch.ones(right.shape[1]).double(), rtol=0, atol=1e-4)
        source = after[:2, where]
        assert source.min() >= 0 and source.max() <= size - 1
        w, h = source.amax(1) - source.amin(1)
        assert w <= 16 * size / 256 and h <= 25 * size / 256
        assert (after[2, where] == number).all()
        if right.shape[1]:
            angle = torch.rad2deg(torch.atan2(-right[1], right[0]))
            assert angle.max() - angle.min() < 0.01
            angles.append(angle.mean())
            if h > 3 * w:  # long enough to see in the mask how it lies: at `angle` clockwise of upright
                row, column = where.nonzero().double().T
                slope = torch.cov(torch.stack([column, row]))
                directions.append((slope[0, 1] / slope[1, 1], -torch.tan(torch.deg2rad(angle.mean()))))
    angles = torch.stack(angles)
    assert angles.abs().max() <= 45 and angles.min() < -40 and angles.max() > 40 and abs(angles.mean()) < 5
    seen, wanted = torch.tensor(directions).T
    assert len(seen) > 20 and torch.corrcoef(torch.stack([seen, wanted]))[0, 1] > 0.9


@pytest.mark.parametrize("size", [96, 160])
def test_a_scars_size_goes_with_the_image(size):
    """Its area is U(2, 16) x U(10, 25), 157.5 on average, of 256 x 256 px."""
    _, mask = cutpaste.augment(torch.zeros(240, 1, size, size), rng(), patch=0, scar=1, jitter=0)
    scale = size / 256
    assert mask.sum((1, 2)).double().mean().item() / scale**2 == pytest.approx(157.5, rel=0.1)
    left, top, w, h = boxes(mask).unbind(1)
    assert max(w.max(), h.max()) <= (16 + 25) * scale * 0.5**0.5 + 1  # turned by 45 degrees
    assert min(w.max(), h.max()) > 20 * scale and h.double().mean() > 1.2 * w.double().mean()
    assert left.min() < 0.1 * size and top.min() < 0.1 * size
    assert (left + w).max() > 0.9 * size and (top + h).max() > 0.9 * size


def test_scars_are_whole_however_small_and_never_cut_off_by_the_edge():
    """Of a rectangle centred on a pixel the mask is the same upside down; cut off it would not be."""
    for size in (8, 64, 128):
        _, mask = cutpaste.augment(torch.zeros(300, 1, size, size), rng(), patch=0, scar=1, jitter=0)
        assert mask.any((1, 2)).all()
        for where, (left, top, w, h) in zip(mask, boxes(mask).tolist(), strict=True):
            box = where[top : top + h, left : left + w]
            assert torch.equal(box, box.flip(0, 1)) and label(box.numpy(), np.ones((3, 3)))[1] == 1


def test_the_generator_decides():
    x = noise()
    first, again, other = (cutpaste.augment(x, rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    _, mask = cutpaste.augment(noise(1).expand(20, -1, -1, -1), rng(), patch=1, scar=0)
    assert len({tuple(box) for box in boxes(mask).tolist()}) > 15  # every image draws for itself


def factors(*values):
    return [torch.tensor(value).view(-1, 1, 1, 1) for value in values]


def test_jitter_is_torchvisions_in_its_order():
    x = noise(4, size=12)
    x[0, :, :3] = 0.25  # without saturation
    x[1, :, :3] = -1.0
    given = ([0.9, 1.1, 1.04, 1.0], [1.1, 0.93, 1.0, 0.9], [0.92, 1.08, 1.1, 1.0], [-0.1, 0.1, 0.03, 0.0])
    ours = cutpaste.jittered(x, torch.ones(4, 12, 12, dtype=torch.bool), *factors(*given))
    functional = import_torchvision().transforms.functional
    for image, jittered, brightness, contrast, saturation, hue in zip(x, ours, *given, strict=True):
        wanted = functional.adjust_contrast(functional.adjust_brightness((image + 1) / 2, brightness), contrast)
        wanted = functional.adjust_hue(functional.adjust_saturation(wanted, saturation), hue)
        torch.testing.assert_close((jittered + 1) / 2, wanted, rtol=0, atol=5e-4)  # torchvision rounds its weights


def test_neutral_jitter_changes_nothing():
    x = noise(2)
    same = cutpaste.jittered(x, torch.ones(2, 32, 32, dtype=torch.bool), *factors(*[[1.0, 1.0]] * 3, [0.0, 0.0]))
    torch.testing.assert_close(same, x, rtol=0, atol=1e-5)


def test_contrast_is_that_around_the_mean_of_what_is_pasted():
    """Grey values 0.2 and 0.4 are pasted, 1.0 is not: around 0.3, 1.5 times as far, that is 0.15 and 0.45."""
    x = torch.tensor([0.2, 0.4, 1.0, 1.0]).view(1, 1, 2, 2) * 2 - 1
    mask = torch.tensor([[[True, True], [False, False]]])
    ours = cutpaste.jittered(x, mask, *factors([1.0], [1.5], [0.0], [0.5]))  # of grey images nothing else is changed
    torch.testing.assert_close((ours[0, 0, 0] + 1) / 2, torch.tensor([0.15, 0.45]))


def test_jitter_is_drawn_up_to_its_strength_to_both_sides():
    """Of a uniform grey image brightness alone can be seen."""
    augmented, mask = cutpaste.augment(torch.zeros(400, 3, 16, 16), rng(), patch=1, scar=0, jitter=0.2)
    value = torch.stack([image[:, where].mean() for image, where in zip(augmented, mask, strict=True)]) / 2 + 0.5
    assert 0.4 <= value.min() < 0.405 and 0.595 < value.max() <= 0.6 + 1e-6
    assert value.mean().item() == pytest.approx(0.5, abs=0.01)
    red, *_ = cutpaste.augment(torch.tensor([1.0, -1, -1]).view(1, 3, 1, 1).expand(200, 3, 16, 16).clone(), rng(), 1, 0)
    assert red[:, 1].max() > 0 and red[:, 2].max() > 0 and red.min() >= -1 and red.max() <= 1  # hue, to both sides


@pytest.mark.parametrize(("patch", "scar"), [(0.7, 0.4), (-0.1, 0.5), (0.5, -0.1), (float("nan"), 0.1)])
def test_probabilities_that_are_none_are_refused(patch, scar):
    with pytest.raises(ValueError, match=f"patch = {patch} and scar = {scar}: two probabilities"):
        cutpaste.augment(noise(), rng(), patch, scar)
    cutpaste.augment(noise(), rng(), 0.9, 0.1)
