"""A Hierarchically Feature Reconstructed Autoencoder (Chen, Chen, Mao, Jiang): decoder, residuals, loss, map, score.

    decoder = feature_ae.build(channels=[64, 128, 256])
    maps = feature_ae.residuals(features, decoder(features[-1]))      # phi_1..phi_3, eq. (5), (6)
    feature_ae.loss(maps).backward()                                  # eq. (7), (8)
    anomaly_map = feature_ae.anomaly_map(maps, size=256)              # eq. (9), (10)
    s = feature_ae.score(anomaly_map)                                 # eq. (11), high = anomalous

Features come from `backbones`: maps (N, c_k, h_k, w_k) from the finest level, 1, each twice as large as the next.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adlib import machine
from adlib.images import gaussian_blur, to_float


SLOPE = 0.1  # of LeakyReLU


def block(in_channels: int, channels: int, kernel: int) -> nn.Sequential:
    """Convolution, batch norm, LeakyReLU. No bias, because batch norm removes it."""
    convolution = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.LeakyReLU(SLOPE))


class Decoder(nn.Module):
    """Rebuilds the features of all levels from those of the deepest: (N, c_K, h, w) -> [f_dec^1, ..., f_dec^K].

    Each level has three blocks, 1x1, 3x3 and 1x1, of `width` times its channels, then a 1x1 convolution to f_dec^k (eq.
    3); f_dec^k, upsampled by nearest neighbour (eq. 4), feeds the next finer level. Here the upsampling follows the
    first block, which treats every location alike: the same result at a quarter of the cost.
    """

    def __init__(self, channels: Sequence[int], width: float = 1.0):
        super().__init__()
        self.levels = nn.ModuleList()  # deepest first
        below = channels[-1]
        for out in reversed(channels):
            inner = max(1, round(width * out))
            level = nn.Module()
            level.first, level.second = block(below, inner, 1), block(inner, inner, 3)
            level.third = block(inner, inner, 1)
            level.last = nn.Conv2d(inner, out, 1)
            self.levels.append(level)
            below = out

    def forward(self, deepest: Tensor) -> list[Tensor]:
        f, decoded = deepest, []
        for index, level in enumerate(self.levels):
            f = level.first(f)
            if index:
                f = F.interpolate(f, scale_factor=2, mode="nearest")
            f = level.last(level.third(level.second(f)))
            decoded.append(f)
        return decoded[::-1]


def build(channels: Sequence[int] = (64, 128, 256), width: float = 1.0) -> Decoder:
    """The decoder for an encoder whose K levels have these `channels`, finest first."""
    return Decoder(list(channels), width)


def residuals(encoded: Sequence[Tensor], decoded: Sequence[Tensor], norm: str = "location") -> list[Tensor]:
    """Eq. (5), (6): phi_k at each location, summed over channels, of every level: [(N, h_k, w_k), ...].

    Half the squared distance of the two feature vectors, each divided by its L2 norm over channels: this is 1 minus
    their scalar product, which is many times faster, with its gradient too. If a vector is zero, which (6) leaves
    undefined, phi_k is 1. norm "map" divides by the root mean square over the locations of the map instead of each
    location's own norm, so that the mean of phi_k is 1 minus the cosine of the whole maps: (6) can also be read so,
    except for a factor h_k w_k. Raises ValueError for another norm.
    """
    machine.check_choice("norm", norm, ("location", "map"))
    maps = []
    for e, d in zip(encoded, decoded, strict=True):
        e, d = e.permute(0, 2, 3, 1), d.permute(0, 2, 3, 1)  # channels last, as in memory
        squares = [torch.linalg.vecdot(f, f) for f in (e, d)]
        means = [s.mean((1, 2), keepdim=True) if norm == "map" else s for s in squares]
        phi = 1 - torch.linalg.vecdot(e, d) * (means[0] * means[1]).clamp_min(1e-30).rsqrt()
        for square, mean in zip(squares, means, strict=True) if norm == "map" else ():
            phi = phi + (square / mean.clamp_min(1e-30) - 1) / 2
        maps.append(phi)
    return maps


def loss(maps: Sequence[Tensor]) -> Tensor:
    """Eq. (7), (8): the mean over levels of the mean over locations (and images), a scalar. maps: of `residuals`."""
    return torch.stack([phi.mean() for phi in maps]).mean()


def anomaly_map(maps: Sequence[Tensor], size: int, sigma: float = 4.0, weighted: bool = False) -> Tensor:
    """Eq. (9), (10): the residual maps resized to size x size, summed, and blurred: (N, size, size).

    maps: any levels of `residuals`. sigma: of the Gaussian in pixels of the result; 0: no blur. weighted: level k is
    divided by h_k * w_k, as printed in (9): four times the weight of the next finer level; else the sum is plain.
    """
    total = 0
    for phi in maps:
        share = 1 / (phi.shape[1] * phi.shape[2]) if weighted else 1
        total = total + share * F.interpolate(phi[:, None], size=(size, size), mode="bilinear", align_corners=False)
    return gaussian_blur(total, sigma)[:, 0] if sigma else total[:, 0]


class Detector(nn.Module):
    """The method as one network: bytes (N, 1 or 3, size, size) -> scores (N,) and anomaly maps (N, size, size).

    backbone: a `backbones.Backbone`; channels: those of its levels.
    """

    def __init__(
        self, backbone: nn.Module, channels: Sequence[int] = (64, 128, 256), width: float = 1.0, sigma: float = 4.0
    ):
        super().__init__()
        self.encoder, self.decoder, self.sigma = backbone, build(channels, width), sigma

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        f = self.encoder(to_float(images))
        maps = anomaly_map(residuals(f, self.decoder(f[-1])), images.shape[-1], self.sigma)
        return score(maps), maps


def score(anomaly_map: Tensor) -> Tensor:
    """Eq. (11): the maximum of each anomaly map (N, H, W), (N,), high = anomalous."""
    return anomaly_map.amax((1, 2))
