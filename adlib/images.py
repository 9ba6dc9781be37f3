"""Operations on a batch of images that several papers share, on any device."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(images: Tensor, size: int, resample: str = "antialias") -> Tensor:
    """uint8 (N, C, H, W) -> (N, C, size, size), plainly: the aspect is not kept, nothing is cropped.

    `resample` "antialias" averages over the area that a new pixel covers, "bilinear" takes the four nearest old pixels;
    for enlarging, both are the same. Computed in float32, rounded.
    """
    if images.shape[-2:] == (size, size):
        return images
    planes = images.flatten(0, 1)[:, None]  # each channel on its own: a photograph has 100 million pixels
    out = torch.empty(len(planes), 1, size, size, dtype=torch.uint8)
    step = max(1, (1 << 24) // max(1, planes[:1].numel()))  # chunks of at most 64 MB of float32, or of one channel
    for i in range(0, len(planes), step):
        chunk = planes[i : i + step].float()
        chunk = F.interpolate(chunk, (size, size), mode="bilinear", antialias=resample == "antialias")
        out[i : i + step] = chunk.round_().clamp_(0, 255).to(torch.uint8)
    return out.view(*images.shape[:2], size, size)


def resize_masks(masks: Tensor, size: int) -> Tensor:
    """bool (N, H, W) -> (N, size, size), by nearest neighbor."""
    if masks.shape[-2:] == (size, size):
        return masks
    return F.interpolate(masks[:, None].to(torch.uint8), size=(size, size), mode="nearest-exact")[:, 0].bool()


def to_float(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) in 0..255 -> float32 in [-1, 1], the range of a Tanh decoder."""
    return images.float().div_(127.5).sub_(1)


def rotations(x: Tensor) -> tuple[Tensor, Tensor]:
    """All four quarter turns of each image.

    x: (N, C, H, H). Returns (4N, C, H, H), the unturned images first, then those turned by 90, 180 and 270 degrees
    counter-clockwise, and the turns 0..3 as int64 (4N,). The turns are exact: pixels move, nothing is interpolated.
    """
    turned = torch.cat([torch.rot90(x, k, dims=(2, 3)) for k in range(4)])
    return turned, torch.arange(4, device=x.device).repeat_interleave(len(x))


def shift(x: Tensor, offsets: Tensor, reach: int, mode: str = "reflect", value: float = 0.0) -> Tensor:
    """Each image moved by a whole number of pixels along either axis, at most `reach`.

    x: (N, C, H, W); offsets: int64 (2, N) on its device, row and column, in 0..2 * reach, where an image's window
    begins in the image padded by `reach` pixels. mode: the padding, as in `F.pad`; "constant": `value`.
    """
    n, _, height, width = x.shape
    padded = F.pad(x, [reach] * 4, mode, **({"value": value} if mode == "constant" else {}))
    rows = offsets[0, :, None] + torch.arange(height, device=x.device)  # (N, H)
    columns = offsets[1, :, None] + torch.arange(width, device=x.device)  # (N, W)
    image = torch.arange(n, device=x.device)[:, None, None]
    # advanced indices around a slice put the channel last: (N, H, W, C)
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def rotate(x: Tensor, clockwise: Tensor) -> Tensor:
    """x (N, C, H, W) float, each turned by `clockwise` degrees (N,), bilinear; new pixels repeat its edge."""
    _, _, height, width = x.shape
    centre = ((width - 1) / 2, (height - 1) / 2)
    grid = _turned_grid((height, width), clockwise.to(x.dtype), centre, (height, width))
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=True)


def random_rotation(x: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """`rotate` each image by its own angle from U(low, high) degrees; `generator` is on x's device."""
    return rotate(x, low + (high - low) * torch.rand(len(x), generator=generator, device=x.device))


def random_rotated_crops(
    images: Tensor, index: Tensor, size: int, low: float, high: float, generator: torch.Generator
) -> Tensor:
    """A turned square of `size` px from each of images[index]: float (N, C, size, size) in the images' own scale.

    images: (M, C, H, W), bytes or floats; index: int64 (N,), on the same device. The image is turned by an angle from
    U(low, high), degrees clockwise (bilinear). The crop's place is drawn evenly from all places that see nothing
    outside the image. `generator` is on that device too. Raises ValueError if the images are too small for that.
    """
    height, width = images.shape[2:]
    diagonals = [angle for angle in range(-315, 360, 90) if low <= angle <= high]  # where a square reaches farthest
    reach = max(_reach(math.radians(angle), size, math) for angle in (low, high, *diagonals))
    if 2 * reach > min(height, width) - 1:
        turned = f"{size} px turned by {low} to {high} degrees"
        raise ValueError(f"images of {height} x {width} px have no room for {turned}")
    u = torch.rand(3, len(index), generator=generator, device=images.device)
    clockwise = low + (high - low) * u[0]
    least = _reach(clockwise.deg2rad(), size, torch)
    # Gather only the window that a crop can see: for 64 px out of 512 px, one pixel in thirty.
    windows, centre = [], []
    for drawn, length in ((u[1], width), (u[2], height)):
        side = min(math.ceil((size - 1) * math.sqrt(2)) + 2, length)
        place = least + drawn * (length - 1 - 2 * least)
        start = (place - (size - 1) / math.sqrt(2)).floor().long().clamp(0, length - side)
        windows.append(start[:, None] + torch.arange(side, device=images.device))
        centre.append((place - start)[:, None, None])
    columns, rows = windows
    window = images[index[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).float()
    grid = _turned_grid((size, size), clockwise, centre, window.shape[2:])
    # zeros, so that a crop which leaves its image would be visible
    return F.grid_sample(window, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def _reach(radians, size, of):
    """How far a square of `size` px, turned, reaches from its centre along either axis, in px between pixel centres."""
    return (size - 1) / 2 * (abs(of.cos(radians)) + abs(of.sin(radians)))


def _turned_grid(sides, clockwise, centre, source_sides):
    """For `grid_sample` with align_corners: where each pixel of a turned image is in its source, (N, H, W, 2).

    sides: (H, W), source_sides: those of the source; clockwise: degrees (N,); centre: its x and y in pixels of the
    source, two numbers or tensors (N, 1, 1).
    """
    cos, sin = (f(clockwise.deg2rad())[:, None, None] for f in (torch.cos, torch.sin))
    y, x = (torch.arange(side, device=clockwise.device) - (side - 1) / 2 for side in sides)
    y = y[:, None]
    # y points down: content turned clockwise by t is at (x, y) what it was at (x cos t + y sin t, y cos t - x sin t)
    place = (x * cos + y * sin + centre[0], y * cos - x * sin + centre[1])
    lengths = reversed(source_sides)
    return torch.stack([axis * (2 / max(1, side - 1)) - 1 for axis, side in zip(place, lengths, strict=True)], 3)


def cut_patches(x: Tensor, size: int) -> Tensor:
    """The tiles of `size` px of each image, row by row: (N, C, H, W) -> (N * P, C, size, size). Raises ValueError."""
    n, channels, height, width = x.shape
    if height % size or width % size:
        raise ValueError(f"images of {height} x {width} px cannot be cut into patches of {size} px")
    tiles = x.reshape(n, channels, height // size, size, width // size, size)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels, size, size)


def join_patches(patches: Tensor, height: int, width: int) -> Tensor:
    """The images that `cut_patches` cut: (N * P, C, size, size) -> (N, C, height, width)."""
    _, channels, size, _ = patches.shape
    tiles = patches.reshape(-1, height // size, width // size, channels, size, size)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, height, width)


def gaussian_window(size: int, sigma: float, device: torch.device | None = None) -> Tensor:
    """A normalised 1-d Gaussian of `size` taps, float32 (size,)."""
    taps = torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2
    window = torch.exp(-(taps**2) / (2 * sigma**2))
    return window / window.sum()


def gaussian_blur(x: Tensor, sigma: float, truncate: float = 4.0) -> Tensor:
    """Each image blurred by a Gaussian of `sigma` pixels, cut off at `truncate` sigmas; edges are mirrored.

    x: (N, C, H, W) float. The same as `scipy.ndimage.gaussian_filter` of each channel with its defaults, for images of
    any size, even smaller than the window: the blur of a row with its mirrored edges is one small matrix.
    """
    radius = int(truncate * sigma + 0.5)
    window = gaussian_window(2 * radius + 1, sigma, x.device)

    def blur(n):  # (n, n)
        source = torch.arange(n, device=x.device)[:, None] + torch.arange(-radius, radius + 1, device=x.device)
        source = source % (2 * n)  # mirrored: 0 1 2 | 2 1 0 | 0 1 2 ...
        source = torch.where(source < n, source, 2 * n - 1 - source)
        return torch.zeros(n, n, device=x.device).scatter_add_(1, source, window.expand(n, -1)).to(x.dtype)

    return blur(x.shape[2]) @ x @ blur(x.shape[3]).T


def ssim_map(
    x: Tensor, y: Tensor, data_range: float = 1.0, window_size: int = 11, sigma: float = 1.5, full: bool = False
) -> Tensor:
    """SSIM at each position where the window fits, averaged over channels (Wang et al. 2004, eq. 13).

    x, y: (N, C, H, W) float, both spanning `data_range`. Returns (N, H - window_size + 1, W - window_size + 1) in
    [-1, 1]; its mean over positions equals pytorch-msssim's `ssim`, which has no map. full: at every position, (N, H,
    W), with images mirrored at their edges (scikit-image's full map); window_size must then be odd.
    """
    if full:
        blur = lambda image: gaussian_blur(image, sigma, (window_size // 2) / sigma)  # noqa: E731
    else:
        window = gaussian_window(window_size, sigma, x.device).to(x.dtype)
        # (n, n - window_size + 1): the window at each place; with such matrices the gradient is far faster on a CPU
        places = [F.conv1d(torch.eye(n).to(window)[:, None], window[None, None])[:, 0] for n in x.shape[2:]]
        blur = lambda image: places[0].T @ image @ places[1]  # noqa: E731
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    contrast_structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * contrast_structure).mean(1)
