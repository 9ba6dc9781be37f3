import numpy as np
import pytest
import torch
from pytorch_msssim import ssim
from scipy.ndimage import gaussian_filter, rotate

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


@pytest.mark.parametrize("mode", ["constant", "reflect"])
def test_each_shifted_image_is_the_window_of_its_padded_image_that_its_offsets_name(mode):
    x, offsets = batch(n=3, size=6) - 0.5, torch.tensor([[0, 2, 3], [4, 2, 1]])
    out = images.shift(x, offsets, 2, mode, value=-1.0)
    fill = {"constant_values": -1} if mode == "constant" else {}
    padded = np.pad(x.numpy(), [(0, 0), (0, 0), (2, 2), (2, 2)], mode=mode, **fill)
    for image, whole, (top, left) in zip(out.numpy(), padded, offsets.T.tolist(), strict=True):
        np.testing.assert_array_equal(image, whole[:, top : top + 6, left : left + 6])
    assert torch.equal(out[1], x[1])  # in the middle it is where it was


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
@pytest.mark.parametrize("shape", [(2, 3, 40, 33), (1, 1, 5, 9)])  # the second smaller than the window
def test_gaussian_blur_is_scipys(sigma, shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    wanted = [[gaussian_filter(channel, sigma) for channel in image] for image in x.numpy()]
    torch.testing.assert_close(images.gaussian_blur(x, sigma), torch.tensor(np.array(wanted)), rtol=1e-4, atol=1e-5)


def places(n=1, height=64, width=64):
    """Images whose two channels are the column and the row of each pixel: what is interpolated says where it lay."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([columns, rows]).float().expand(n, 2, height, width)


def test_turning_by_quarter_turns_is_exact_and_positive_is_clockwise():
    x = batch(n=5, size=9)
    turned = images.rotate(x, torch.tensor([0.0, 90, -90, 180, 360]))
    expected = [x[0], x[1].rot90(-1, (1, 2)), x[2].rot90(1, (1, 2)), x[3].rot90(2, (1, 2)), x[4]]
    torch.testing.assert_close(turned, torch.stack(expected), rtol=0, atol=1e-5)


def test_turning_by_any_angle_interpolates_and_repeats_the_edge():
    """The reference is SciPy's rotation (which is counter-clockwise for positive angles, seen as an image)."""
    x = batch(n=2, channels=1, size=12, seed=3)
    turned = images.rotate(x, torch.tensor([30.0, -17.5]))
    for image, angle, ours in zip(x, (30.0, -17.5), turned, strict=True):
        wanted = rotate(image[0].double().numpy(), -angle, reshape=False, order=1, mode="nearest")
        torch.testing.assert_close(ours[0].double(), torch.from_numpy(wanted), rtol=0, atol=1e-5)
    assert images.rotate(torch.ones(1, 1, 20, 30), torch.tensor([40.0])).min() > 0.9999


def test_each_image_turns_by_an_angle_of_its_own():
    x = places(200, 21, 21)
    out = images.random_rotation(x, -45, 45, torch.Generator().manual_seed(0))
    right = out[:, :, 10, 11] - out[:, :, 10, 10]  # one step to the right in the result: (cos t, -sin t) in the source
    angle = torch.rad2deg(torch.atan2(-right[:, 1], right[:, 0]))
    assert -45 <= angle.min() < -42 and 42 < angle.max() <= 45 and abs(angle.mean()) < 4
    assert torch.equal(out, images.random_rotation(x, -45, 45, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(("low", "high", "height", "width"), [(0, 45, 32, 32), (0, 45, 23, 40), (0, 0, 16, 16)])
def test_turned_crops_are_whole_squares_within_their_image(low, high, height, width):
    """From where each pixel lay: steps of one pixel, turned clockwise by an angle in range, nothing from beyond."""
    stack = places(3, height, width) + 1000 * torch.arange(3).view(3, 1, 1, 1)
    index = torch.arange(300) % 3
    crops = images.random_rotated_crops(stack, index, 16, low, high, torch.Generator().manual_seed(0))
    assert crops.shape == (300, 2, 16, 16)
    place = crops - 1000 * index.view(-1, 1, 1, 1)
    x, y = place[:, 0], place[:, 1]
    assert x.min() > -0.01 and y.min() > -0.01 and x.max() < width - 0.99 and y.max() < height - 0.99
    right, down = place.diff(dim=3), place.diff(dim=2)
    angle = torch.rad2deg(torch.atan2(-right[:, 1], right[:, 0]))
    assert low - 0.1 < angle.min() and angle.max() < high + 0.1
    torch.testing.assert_close(right.square().sum(1), torch.ones(300, 16, 15), rtol=0, atol=2e-3)
    torch.testing.assert_close(down[:, 0, :, :15], -right[:, 1, :15], rtol=0, atol=1e-3)  # square, not mirrored
    torch.testing.assert_close(down[:, 1, :, :15], right[:, 0, :15], rtol=0, atol=1e-3)
    if high:  # all angles, and all places from edge to edge
        assert angle.min() < 1 and angle.max() > 44
        assert x.min() < 0.5 and y.min() < 0.5 and x.max() > width - 1.5 and y.max() > height - 1.5


def test_no_turned_crop_sees_a_black_corner():
    white = torch.full((2, 3, 24, 24), 255, dtype=torch.uint8)
    crops = images.random_rotated_crops(white, torch.arange(100) % 2, 16, 0, 45, torch.Generator().manual_seed(0))
    assert crops.dtype == torch.float32
    torch.testing.assert_close(crops, torch.full((100, 3, 16, 16), 255.0), rtol=0, atol=0.01)
    with pytest.raises(ValueError, match="images of 22 x 30 px have no room for 16 px turned by 0 to 45 degrees"):
        images.random_rotated_crops(torch.zeros(1, 1, 22, 30), torch.tensor([0]), 16, 0, 45, torch.Generator())
    images.random_rotated_crops(torch.zeros(1, 1, 22, 30), torch.tensor([0]), 16, 0, 35, torch.Generator())


def test_crops_that_are_not_turned_are_windows_of_whole_pixels_and_parts():
    crops = images.random_rotated_crops(
        places(1, 20, 20), torch.zeros(50).long(), 4, 0, 0, torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(crops - crops[:, :, :1, :1], places(50, 4, 4), rtol=0, atol=1e-4)
    first = crops[:, :, 0, 0]
    assert first.min() < 1 and first.max() > 15 and (first % 1).std() > 0.2


def test_patches_are_cut_row_by_row_and_joined_exactly():
    x = places(2, 512, 512) * torch.tensor([1, -1]).view(2, 1, 1, 1)
    patches = images.cut_patches(x, 64)
    assert patches.shape == (128, 2, 64, 64)
    for number in (0, 1, 8, 63, 64, 127):
        image, (row, column) = number // 64, divmod(number % 64, 8)
        assert torch.equal(patches[number], x[image, :, 64 * row : 64 * row + 64, 64 * column : 64 * column + 64])
    assert torch.equal(images.join_patches(patches, 512, 512), x)
    wide = batch(n=2, size=8)[:, :, :4]
    assert torch.equal(images.join_patches(images.cut_patches(wide, 2), 4, 8), wide)
    assert torch.equal(images.cut_patches(wide[..., :4], 4), wide[..., :4])
    with pytest.raises(ValueError, match="images of 4 x 8 px cannot be cut into patches of 3 px"):
        images.cut_patches(wide, 3)


def test_both_resamplings_differ_where_images_shrink():
    noise = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert not torch.equal(images.resize(noise, 8, "antialias"), images.resize(noise, 8, "bilinear"))


def test_resizing_a_constant_keeps_it():
    for value in (0, 77, 255):
        constant = torch.full((1, 1, 9, 13), value, dtype=torch.uint8)
        assert (images.resize(constant, 32, "antialias") == value).all()
