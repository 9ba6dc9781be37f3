"""CutPaste (Li, Sohn, Yoon, Pfister 2021): artificial defects: a piece of an image is pasted elsewhere in it.

Comments say where the two public programs (Runinho/pytorch-cutpaste and LilitYolyan/CutPaste) differ from this.
"""

import math

import torch
from torch import Tensor


AREA = (0.02, 0.15)  # of a patch, as a share of the image
ASPECT = 0.3  # its width / height is within [0.3, 1 / 0.3]
SCAR_WIDTH, SCAR_HEIGHT = (2, 16), (10, 25)  # of a scar in px, before it is turned, in an image of 256 px
DEGREES = 45  # a scar is turned by at most so much, to either side: it stays more or less upright


def augment(
    x: Tensor, generator: torch.Generator, patch: float = 1 / 3, scar: float = 1 / 3, jitter: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Pastes a patch into each image with probability `patch`, a scar with probability `scar`, else nothing.

    x: float (N, C, H, W) in [-1, 1], not changed; `generator` is on its device. Returns the augmented images, of x's
    shape, dtype and range, and mask, bool (N, H, W), True where something was pasted. A patch is an upright rectangle,
    copied pixel by pixel. A scar is a thin one, turned (bilinear); its size scales with the shorter side of the image,
    one pixel at least. Both are cut anywhere in their image, get colors jittered by up to `jitter`, and go anywhere
    wholly inside it. Raises ValueError unless `patch` and `scar` are probabilities, together up to 1.
    """
    if not (patch >= 0 and scar >= 0 and patch + scar <= 1 + 1e-9):
        raise ValueError(f"patch = {patch} and scar = {scar}: two probabilities, together 1 at most, are needed")
    n, _, height, width = x.shape
    kind, area, aspect, angle, *places, brightness, contrast, saturation, hue = torch.rand(
        12, n, 1, 1, generator=generator, device=x.device
    )
    is_patch, is_scar = kind < patch, (kind >= patch) & (kind < patch + scar)

    # Log-uniform, as Runinho; LilitYolyan flips a coin between U(0.3, 1) and U(1, 3.3), and rounds sides down.
    share, ratio = _between(area, *AREA), torch.exp(_between(aspect, math.log(ASPECT), -math.log(ASPECT)))
    patch_w, patch_h = (
        (share * height * width * r).sqrt().round().clamp(1, side) for r, side in ((ratio, width), (1 / ratio, height))
    )
    # Real numbers, as Runinho; integers in LilitYolyan. Neither scales them with the image.
    scale = min(height, width) / 256
    scar_w, scar_h = (
        (_between(u, *sides) * scale).clamp(min=1) for u, sides in ((area, SCAR_WIDTH), (aspect, SCAR_HEIGHT))
    )
    w, h = torch.where(is_patch, patch_w, scar_w), torch.where(is_patch, patch_h, scar_h)
    turn = torch.where(is_patch, 0.0, _between(angle, -DEGREES, DEGREES)).deg2rad()
    cos, sin = turn.cos(), turn.sin()

    # A patch has its centre on or between pixels, a scar on a pixel: so a scar has at least one pixel. A turned scar is
    # wider than its source; LilitYolyan forgets that and cuts off what does not fit.
    lengths = (width, height, width, height)
    sides = (w, h, w * cos + h * sin.abs(), w * sin.abs() + h * cos)
    from_x, from_y, to_x, to_y = (
        _centre(u, torch.where(is_patch, side, 2 * (side / 2).ceil() + 1), length)
        for u, side, length in zip(places, sides, lengths, strict=True)
    )
    across = torch.arange(width, device=x.device) - to_x  # (N, 1, W)
    down = torch.arange(height, device=x.device)[:, None] - to_y  # (N, H, 1)
    right, below = across * cos + down * sin, down * cos - across * sin  # the same before the turn, (N, H, W)
    mask = (right.abs() < w / 2) & (below.abs() < h / 2) & (is_patch | is_scar)

    pasted = _look_up(x, from_y + below, from_x + right)
    if jitter:
        factors = [_between(u[..., None], 1 - jitter, 1 + jitter) for u in (brightness, contrast, saturation)]
        pasted = jittered(pasted, mask, *factors, _between(hue[..., None], -jitter, jitter))
    return torch.where(mask[:, None], pasted.to(x.dtype), x), mask


def jittered(x: Tensor, mask: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """The colors of x (N, C, H, W) in [-1, 1] changed as torchvision's ColorJitter does, in this order.

    Factors are around 1, and hue shifts are in turns, each (N, 1, 1, 1); contrast changes around the mean of the pixels
    in mask (N, H, W). Images without three channels change only brightness and contrast. ColorJitter, in both programs,
    also draws the order. Runinho also jitters the whole image before it cuts.
    """
    x = ((x + 1) / 2 * brightness).clamp(0, 1)
    mean = (_grey(x) * mask[:, None]).sum((2, 3), keepdim=True) / mask.sum((1, 2)).clamp(min=1).view(-1, 1, 1, 1)
    x = mean.lerp(x, contrast.to(x.dtype)).clamp(0, 1)
    if x.shape[1] == 3:
        x = _grey(x).lerp(x, saturation.to(x.dtype)).clamp(0, 1)
        high, low = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
        red, green, blue = (x / (high - low).clamp(min=1e-8)).split(1, 1)
        sixths = torch.where(high == x[:, 1:2], 2 + blue - red, 4 + red - green)
        sixths = torch.where(high == x[:, :1], green - blue, sixths) + 6 * hue
        # HSV to RGB in one formula: each channel falls from `high` by chroma as hue moves away from it
        k = (sixths + torch.arange(5, 0, -2, device=x.device).view(3, 1, 1)) % 6
        x = high - (high - low) * torch.minimum(k, 4 - k).clamp(0, 1)
    return 2 * x - 1


def _grey(x):
    """(N, C, H, W) -> (N, 1, H, W): ITU-R 601 luma of colors, as PIL; the mean of any other number of channels."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]


def _between(u, low, high):
    """u from U(0, 1) -> U(low, high)."""
    return low + (high - low) * u


def _centre(u, side, length):
    """Centre of `side` whole pixels, in px on an axis of `length`, drawn evenly from all places inside it."""
    return (u * (length - side + 1)).floor() + (side - 1) / 2


def _look_up(x, rows, columns):
    """x (N, C, H, W) at real-valued rows and columns (N, H, W), bilinear; at whole numbers exactly the pixel there."""
    _, channels, height, width = x.shape
    top, left = rows.floor(), columns.floor()

    def at(row, column):
        index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long().flatten(1)
        return x.flatten(2).gather(2, index[:, None].expand(-1, channels, -1)).view(x.shape)

    along, across = (rows - top)[:, None].to(x.dtype), (columns - left)[:, None].to(x.dtype)
    upper, lower = (torch.lerp(at(row, left), at(row, left + 1), across) for row in (top, top + 1))
    return torch.lerp(upper, lower, along)
