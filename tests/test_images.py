import numpy as np
import pytest
import torch
from pytorch_msssim import ssim
from scipy.ndimage import gaussian_filter

from adlib import images


def batch(n=3, channels=2, size=8, seed=0):
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def test_bytes_become_floats_between_minus_one_and_one():
    x = images.to_float(torch.tensor([0, 51, 255], dtype=torch.uint8))
    torch.testing.assert_close(x, torch.tensor([-1.0, -0.6, 1.0]))


def test_rotations_are_the_four_exact_quarter_turns_of_every_image():
    x = torch.tensor([[1, 2], [3, 4]])[None, None]
    turned, turns = images.rotations(torch.cat([x, 10 * x]))
    assert turns.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert turned[::2, 0].tolist() == [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]]
    assert torch.equal(turned[1::2], 10 * turned[::2])


def test_each_crop_is_a_window_of_its_own_padded_image_mirrored_or_not():
    x = batch(n=40, size=6)
    out = images.random_crop_flip(x, padding=2, generator=torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(x, [2] * 4)
    seen = set()
    for original, crop in zip(padded, out, strict=True):
        found = [
            (top, left, mirrored)
            for top in range(5) for left in range(5) for mirrored in (False, True)
            if torch.equal(crop.flip(2) if mirrored else crop, original[:, top : top + 6, left : left + 6])
        ]  # fmt: skip
        assert len(found) == 1
        seen.update(found)
    assert len(seen) > 20 and {mirrored for *_, mirrored in seen} == {False, True}


def test_crops_of_bytes_stay_bytes_and_follow_the_generator():
    x = (255 * batch()).to(torch.uint8)
    draw = lambda seed: images.random_crop_flip(x, 4, torch.Generator().manual_seed(seed))  # noqa: E731
    assert draw(0).dtype == torch.uint8 and torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))


@pytest.mark.parametrize(("channels", "size"), [(1, 11), (1, 32), (3, 20)])
def test_the_mean_of_the_ssim_map_is_what_pytorch_msssim_gives(channels, size):
    x, y = batch(4, channels, size, 0), batch(4, channels, size, 1)
    y = 0.7 * x + 0.3 * y
    ours = images.ssim_map(x, y)
    assert ours.shape == (4, size - 10, size - 10)
    torch.testing.assert_close(ours.mean((1, 2)), ssim(x, y, data_range=1.0, size_average=False), rtol=1e-4, atol=1e-5)


def test_the_ssim_map_is_one_for_equal_images_and_low_where_they_differ():
    x = batch(1, 1, 40)
    y = x.clone()
    y[..., 25:] = 1 - y[..., 25:]
    ssim_map = images.ssim_map(x, y)[0]
    torch.testing.assert_close(ssim_map[:, :15], torch.ones(30, 15))
    assert ssim_map[:, 25:].max() < 0


@pytest.mark.parametrize("size", [11, 24])
def test_the_full_ssim_map_has_the_images_size_and_mirrors_them_at_their_edges(size):
    """The reference is written with SciPy's Gaussian, whose edges are mirrored too: scikit-image's full map."""
    x, y = batch(3, 2, size, 0), batch(3, 2, size, 1)
    full = images.ssim_map(x, y, full=True)
    blur = lambda a: gaussian_filter(a, 1.5, axes=(2, 3), radius=5)  # noqa: E731
    a, b = x.double().numpy(), y.double().numpy()
    mean_a, mean_b, covariance = blur(a), blur(b), blur(a * b) - blur(a) * blur(b)
    variances = blur(a * a) - mean_a**2 + blur(b * b) - mean_b**2
    ssim_of = (2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)
    expected = ssim_of / ((mean_a**2 + mean_b**2 + 1e-4) * (variances + 9e-4))
    torch.testing.assert_close(full, torch.from_numpy(expected.mean(1)).float(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(full[:, 5:-5, 5:-5], images.ssim_map(x, y), rtol=1e-3, atol=1e-4)
    assert full.shape == (3, size, size) and images.ssim_map(x, x, full=True).min() > 0.9999


@pytest.mark.parametrize("sigma", [0.7, 4.0])
@pytest.mark.parametrize("shape", [(2, 3, 40, 33), (1, 1, 5, 9)])   # the second smaller than the window
def test_gaussian_blur_is_scipys(sigma, shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    wanted = [[gaussian_filter(channel, sigma) for channel in image] for image in x.numpy()]
    torch.testing.assert_close(images.gaussian_blur(x, sigma), torch.tensor(np.array(wanted)), rtol=1e-4, atol=1e-5)
