"""Patch-wise Auto-Encoder for Visual Anomaly Detection (Cui, Liu, Lian): networks, loss, distances to scores.

    model = patch_ae.build(backbone)                                        # model.encoder, model.decoder
    x, _ = cutpaste.augment(x, generator)                                   # section 2.1; the target is x as it is now
    patch_ae.loss(model(x), x, alpha=0.5).backward()                        # eq. (3)
    bank = patch_ae.vectors(model.encoder(train))                           # section 2.6, or a coreset of them
    R = model.encoder(test)                                                 # (N, c_3, h, w); mean=True: of 3x3 means
    distances, indices = neighbours.nearest(patch_ae.vectors(R), bank)      # (N * h * w, 1), back to (N, h, w):
    distances, indices = (x.view(len(R), *R.shape[2:]) for x in (distances, indices))
    s = patch_ae.score(distances)                                           # (N,), high = anomalous
    s = patch_ae.reweighted(R, distances, indices, bank)                    # as PatchCore's paper has it
    anomaly_map = patch_ae.anomaly_map(distances, size=256)

Images are float in [-1, 1]. Their sides are multiples of 8 px, the stride of layer2 and of R; see `backbones`.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adlib import machine, neighbours
from adlib.images import cut_patches, gaussian_blur, to_float


PATCH = 8  # px that one vector of R rebuilds: the stride of layer2
GREY = 127.5  # grey levels of 255 in one unit of images in [-1, 1]
# how the 1x1 convolutions before R are initialised: torch's default, or these weights with biases of 0
HEADS = {"default": None, "he": nn.init.kaiming_normal_, "orthogonal": nn.init.orthogonal_}


class Encoder(nn.Module):
    """f^e: image (N, 1 or 3, H, W) in [-1, 1] -> R (N, channels, H / 8, W / 8), none of it below 0.

    The backbone's layer2 and layer3, the paper's conv3 and conv4, on layer2's grid, then two (1x1 convolution, ReLU)
    initialised by `head`, one of HEADS. The backbone stays in evaluation mode: batch norm keeps its statistics while
    its weights are trained. mean: R from PatchCore's 3x3 means, for distances; training does not use them.
    """

    def __init__(self, backbone: nn.Module, channels: int, head: str = "default"):
        super().__init__()
        self.backbone = backbone
        first, second = nn.Conv2d(width(backbone), channels, 1), nn.Conv2d(channels, channels, 1)
        self.reduce = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        for layer in (first, second) if HEADS[head] else ():
            HEADS[head](layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, mean: bool = False) -> Tensor:
        return self.reduce(features(self.backbone(x), mean))


class Decoder(nn.Sequential):
    """f^d: R (N, channels, h, w) -> image (N, image_channels, 8 h, 8 w), each vector its own patch of 8 x 8 px.

    1x1 convolution, ReLU (paper: "activation"), 1x1 convolution; the image is not bounded.
    """

    def __init__(self, channels: int, hidden: int = 256, image_channels: int = 3):
        first, last = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, image_channels * PATCH**2, 1)
        super().__init__(first, nn.ReLU(), last, nn.PixelShuffle(PATCH))


class ImagewiseDecoder(nn.Sequential):
    """The kind of decoder that the paper avoids: shapes as in `Decoder`, but neighbours' vectors also rebuild a pixel.

    Thrice upsampled by 2 (bilinear), 3x3 convolution to hidden, hidden / 2, hidden / 4, ReLU; a last 3x3 convolution.
    """

    def __init__(self, channels: int, hidden: int = 256, image_channels: int = 3):
        layers, below = [], channels
        for halved in range(3):
            inner = max(1, hidden >> halved)
            doubled = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            layers += [doubled, nn.Conv2d(below, inner, 3, padding=1), nn.ReLU()]
            below = inner
        super().__init__(*layers, nn.Conv2d(below, image_channels, 3, padding=1))


class PatchAE(nn.Module):
    """Encoder and decoder: x -> x^, eq. (1)."""

    def __init__(self, encoder: Encoder, decoder: nn.Module):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def build(
    backbone: nn.Module,
    channels: int | None = None,
    hidden: int = 256,
    imagewise: bool = False,
    trained: bool = True,
    image_channels: int = 3,
    head: str = "default",
) -> PatchAE:
    """The `PatchAE` on a copy of `backbone`, a `backbones.Backbone`, which is not changed.

    channels: c_3 of R; the paper says c_3 < c_1 + c_2, else ValueError; None takes half of c_1 + c_2. hidden: channels
    within the decoder. imagewise: with the control `ImagewiseDecoder`. trained: the backbone's weights get gradients,
    "in an end-to-end manner"; False freezes them. head: one of HEADS, else ValueError.
    """
    machine.check_choice("head", head, HEADS)
    full = width(backbone)
    channels = full // 2 if channels is None else channels
    if not 0 < channels < full:
        raise ValueError(f"channels is {channels}: R has fewer channels than layer2 and layer3 together, {full}")
    backbone = copy.deepcopy(backbone).requires_grad_(trained)
    decoder = (ImagewiseDecoder if imagewise else Decoder)(channels, hidden, image_channels)
    return PatchAE(Encoder(backbone, channels, head), decoder)


def width(backbone: nn.Module) -> int:
    """c_1 + c_2: the channels of layer2 and layer3 together."""
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, 32, 32, device=next(backbone.parameters()).device))
    return maps[1].shape[1] + maps[2].shape[1]


def features(maps: Sequence[Tensor], mean: bool = False) -> Tensor:
    """layer2 and layer3 of a backbone's maps, concatenated on layer2's grid, layer3 upsampled (bilinear).

    maps: (N, c, H / s, W / s) with s = 4, 8, 16; returns (N, c_1 + c_2, H / 8, W / 8). mean: each map is first averaged
    over 3x3 (zeros outside the edge count), which gives PatchCore's features (Roth et al. 2022), as in anomalib.
    amazon-science/patchcore-inspection pools the 3x3 values of all channels to 1024 dimensions per layer, then both
    layers to 1024, and squares its distances.
    """
    second, third = (F.avg_pool2d(f, 3, 1, 1) for f in maps[1:]) if mean else maps[1:]
    return torch.cat([second, F.interpolate(third, size=second.shape[2:], mode="bilinear", align_corners=False)], 1)


def patch_norm(x: Tensor, patch: int = PATCH, eps: float = 1e-6) -> Tensor:
    """norm of eq. (3): (N, C, H, W) -> the patches (N, P, C * patch^2), each with mean 0 and variance 1.

    As in MAE's code: over all values of a patch, channels together, by the unbiased variance plus eps, so that a patch
    without any contrast becomes 0. (MAE normalises the target alone, eq. (3) also the reconstruction.)
    """
    values = _patches(x, patch)
    return (values - values.mean(2, keepdim=True)) / (values.var(2, keepdim=True) + eps).sqrt()


def loss(rebuilt: Tensor, x: Tensor, alpha: float = 0.5, patch: int = PATCH) -> Tensor:
    """Eq. (3): alpha sum_p |norm(x^_p) - norm(x_p)|_2 + (1 - alpha) sum_p |x^_p - x_p|_2, mean over images, a scalar.

    rebuilt, x: (N, C, H, W), x in [-1, 1]. As printed, norms are not squared, and patches are summed: the loss grows
    with the image. Raises ValueError for alpha outside [0, 1], and images that are no multiple of `patch`.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}: it must lie in [0, 1]")
    rebuilt = rebuilt.to(x.dtype)  # float32, even under autocast
    contrast = torch.linalg.vector_norm(patch_norm(rebuilt, patch) - patch_norm(x, patch), dim=2)  # (N, P)
    plain = torch.linalg.vector_norm(_patches(rebuilt, patch) - _patches(x, patch), dim=2)
    return (alpha * contrast + (1 - alpha) * plain).sum(1).mean()


def statistics(x: Tensor, alpha: float = 0.5) -> dict[str, float]:
    """Statistics of eq. (3) for images x (N, C, H, W) in [-1, 1], if each patch is rebuilt as its mean alone.

    flat_patches: the share of patches whose standard deviation is below 3 grey levels; error_of_means: the mean
    absolute error of that reconstruction, in grey levels; contrast_share: the normalised term's share of its loss.
    """
    patches = _patches(x, PATCH)
    off = patches - patches.mean(2, keepdim=True)
    contrast = alpha * torch.linalg.vector_norm(patch_norm(x), dim=2).sum()
    plain = (1 - alpha) * torch.linalg.vector_norm(off, dim=2).sum()
    return {
        "flat_patches": (GREY * patches.std(2) < 3).float().mean().item(),
        "error_of_means": GREY * off.abs().mean().item(),
        "contrast_share": (contrast / (contrast + plain).clamp_min(1e-12)).item(),
    }


def vectors(features: Tensor) -> Tensor:
    """(N, C, h, w) -> (N * h * w, C), contiguous: image by image, row by row."""
    return features.permute(0, 2, 3, 1).flatten(0, 2).contiguous()


class Detector(nn.Module):
    """The method as one network: bytes (N, 1 or 3, size, size) -> scores (N,) and anomaly maps (N, size, size).

    backbone: a `backbones.Backbone`; channels: c_3 of R, or None for PatchCore's features, without training; n_vectors:
    of the memory bank; reweight: the score is `reweighted`; mean: as in `features`; None: only without R.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int | None = None,
        n_vectors: int = 1,
        reweight: bool = False,
        sigma: float = 4.0,
        mean: bool | None = None,
    ):
        super().__init__()
        self.is_plain, self.reweight, self.sigma = channels is None, reweight, sigma
        self.mean = self.is_plain if mean is None else mean
        self.encoder = backbone if self.is_plain else Encoder(backbone, channels)
        self.register_buffer("bank", torch.zeros(n_vectors, width(backbone) if self.is_plain else channels))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = to_float(images)
        f = features(self.encoder(x), self.mean) if self.is_plain else self.encoder(x, self.mean)
        distances, indices = (x.view(len(f), *f.shape[2:]) for x in neighbours.nearest(vectors(f), self.bank))
        scores = reweighted(f, distances, indices, self.bank) if self.reweight else score(distances)
        return scores, anomaly_map(distances, images.shape[-1], self.sigma)


def score(distances: Tensor) -> Tensor:
    """Section 2.6: the maximum of each image's distances to the nearest vector of the bank (N, h, w), (N,)."""
    return distances.amax((1, 2))


def reweighted(features: Tensor, distances: Tensor, indices: Tensor, bank: Tensor, k: int = 9) -> Tensor:
    """`score` times PatchCore's weight, its eq. (7), a possible meaning of "the same distance calculation": (N,).

    features (N, C, h, w); distances and indices, int64, of the nearest vector in bank (M, C), each (N, h, w). The
    weight is 1 - exp|m - m*| / sum_b exp|m - m_b|, where m is the vector with the largest distance, m* its nearest in
    the bank, m_b the k vectors of the bank nearest to m*, including m*. The farther m* is from the others, the larger
    the weight. k is at most M; at k = 1 the weight would be 0 and is left out, as in anomalib. ValueError for k < 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}: at least one neighbour is needed")
    k = min(k, len(bank))
    largest, place = distances.flatten(1).max(1)
    if k == 1:
        return largest
    image = torch.arange(len(features), device=features.device)
    m = features.flatten(2)[image, :, place]  # (N, C)
    star = bank[indices.flatten(1)[image, place]]  # (N, C)
    _, around = neighbours.nearest(star, bank, k)  # (N, k), m* first
    apart = torch.linalg.vector_norm(bank[around] - m[:, None], dim=2)
    return largest * (1 - apart.softmax(1)[:, 0])


def anomaly_map(distances: Tensor, size: int, sigma: float = 4.0) -> Tensor:
    """Distances (N, h, w), upsampled (bilinear) to size x size and blurred by `sigma` px (0: not): (N, size, size)."""
    maps = F.interpolate(distances[:, None], size=(size, size), mode="bilinear", align_corners=False)
    return gaussian_blur(maps, sigma)[:, 0] if sigma else maps[:, 0]


def _patches(x, patch):
    """(N, C, H, W) -> (N, P, C * patch^2), row by row."""
    return cut_patches(x, patch).reshape(len(x), -1, x.shape[1] * patch**2)
