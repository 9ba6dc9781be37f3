"""A Two-Stage Autoencoder for Visual Anomaly Detection (Zhu, Wang, Zhang, Li): networks, losses and scores.

    encoder, head, decoders = two_stage.build(channels=1, stem="imagenet")
    loss = two_stage.rotation_loss(head(encoder(x4)), turns)                 # stage 1
    loss = two_stage.mse(x, decoders["mse"](z)).mean()                       # stage 2
    s = two_stage.score(x, x1, x2, lam=1.0)                                  # high = anomalous

Images are float in [-1, 1], latents z are (N, 512), or (N, 1024) if z is the map of layer3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adlib import machine
from adlib.images import ssim_map, to_float


IMAGE_SIZE = 32  # what the decoder makes
LATENT = 512  # ResNet18 after global average pooling
STAGES = [(64, 1), (128, 2), (256, 2), (512, 2)]  # channels and stride of the four stages


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` without groups and dilation; one matrix product if the output of a square map is one position.

    There most of a 3x3 kernel meets only padding: its gradient is 0, and slow on a CPU. Equal except for rounding.
    """

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _), (padding, _), size = self.kernel_size, self.stride, self.padding, x.shape[-1]
        if x.shape[-2] != size or not 0 <= size + 2 * padding - kernel < stride:
            return super().forward(x)
        met = min(size, kernel - padding)  # pixels on a side
        taps = self.weight[..., padding : padding + met, padding : padding + met]
        return F.linear(x[..., :met, :met].flatten(1), taps.flatten(1), self.bias)[..., None, None]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; `pre_activation` moves norm and ReLU before each convolution."""

    def __init__(self, in_channels: int, channels: int, stride: int, pre_activation: bool):
        super().__init__()
        self.pre_activation = pre_activation
        self.conv1 = Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels if pre_activation else channels)
        self.conv2 = Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(Conv2d(in_channels, channels, 1, stride, bias=False))
            if not pre_activation:
                self.downsample.append(nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.pre_activation:
            y = F.relu(self.bn1(x))
            shortcut = x if self.downsample is None else self.downsample(y)
            return self.conv2(F.relu(self.bn2(self.conv1(y)))) + shortcut
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)


class ResNet18(nn.Module):
    """ResNet18 up to its global average pooling: (N, C, H, W) -> z (N, 512).

    With latent "layer3" it stops after layer3: z is its map, flat, of 32 px (N, 1024), with stem "cifar" 16,384.

    stem: "imagenet" (7x7 convolution of stride 2, then 3x3 max pooling of stride 2) or "cifar" (3x3 convolution of
    stride 1, no pooling: 16 times as many positions). pre_activation: the variant of "Identity mappings in deep
    residual networks", the paper's reference for its ResNet18. Layers and names are torchvision's, which has neither
    setting. Raises ValueError for another stem.
    """

    def __init__(self, channels: int = 3, stem: str = "imagenet", pre_activation: bool = False):
        super().__init__()
        machine.check_choice("stem", stem, ("imagenet", "cifar"))
        large = stem == "imagenet"
        self.conv1 = Conv2d(channels, 64, *((7, 2, 3) if large else (3, 1, 1)), bias=False)
        self.bn1 = nn.BatchNorm2d(64) if not pre_activation else nn.Identity()
        self.relu = nn.ReLU() if not pre_activation else nn.Identity()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        width = 64
        for index, (stage_width, stride) in enumerate(STAGES, start=1):
            first = BasicBlock(width, stage_width, stride, pre_activation)
            second = BasicBlock(stage_width, stage_width, 1, pre_activation)
            self.add_module(f"layer{index}", nn.Sequential(first, second))
            width = stage_width
        self.last = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU()) if pre_activation else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, latent: str = "pooled") -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return x.flatten(1) if latent == "layer3" else self.last(self.layer4(x)).mean((2, 3))


class Decoder(nn.Sequential):
    """GANomaly's decoder: z (N, latent) -> image (N, channels, 32, 32) in [-1, 1].

    Transposed 4x4 convolutions without bias, 1 -> 4 -> 8 -> 16 -> 32 px, 256, 128 and 64 channels, each with batch norm
    and ReLU, then Tanh; as in GANomaly, weights are from N(0, 0.02), batch norm scales from N(1, 0.02).
    """

    def __init__(self, channels: int = 3, latent: int = LATENT):
        layers, width = [nn.Unflatten(1, (latent, 1, 1))], latent
        for next_width, stride, padding in [(256, 1, 0), (128, 2, 1), (64, 2, 1)]:
            layers.append(nn.ConvTranspose2d(width, next_width, 4, stride, padding, bias=False))
            layers += [nn.BatchNorm2d(next_width), nn.ReLU()]
            width = next_width
        super().__init__(*layers, nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=False), nn.Tanh())
        for module in self:
            if isinstance(module, nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, z: Tensor) -> Tensor:
        """The same numbers as its layers give one by one, except for rounding, in about half the time on a CPU.

        The first transposed convolution, from 1 x 1, is one matrix product; the last, to few channels, one and a fold.
        """
        _, first, *middle, last, squash = self
        y = (z @ first.weight.flatten(1)).unflatten(1, first.weight.shape[1:])
        for module in middle:
            y = module(y)
        parts = last.weight.flatten(1).T @ y.flatten(2)
        return squash(F.fold(parts, (2 * y.shape[2], 2 * y.shape[3]), 4, padding=1, stride=2))


def build(
    channels: int = 3, stem: str = "imagenet", pre_activation: bool = False, latent: str = "pooled"
) -> tuple[ResNet18, nn.Linear, dict[str, Decoder]]:
    """The encoder F, its four-way rotation head, and the two decoders G1 ("mse") and G2 ("ssim"), untrained.

    The decoders take z from `latent`, "pooled" or "layer3"; raises ValueError for another, and as `ResNet18`.
    """
    encoder = ResNet18(channels, stem, pre_activation)
    sizes = {"pooled": LATENT, "layer3": 256 * (2 if stem == "imagenet" else 8) ** 2}
    machine.check_choice("latent", latent, sizes)
    return encoder, nn.Linear(LATENT, 4), {loss: Decoder(channels, sizes[latent]) for loss in ("mse", "ssim")}


class Detector(nn.Module):
    """The method as one network: bytes (N, channels, 32, 32) -> scores (N,), eq. (10), and anomaly maps (N, 32, 32).

    The maps are ours: (x - x1)^2 / 4 - lambda SSIM at each pixel, the terms that (10) averages. At the edges, where the
    score's window does not fit, the images are mirrored. network: arguments of `build`.
    """

    def __init__(self, lam: float = 1.0, latent: str = "pooled", **network: int | str | bool):
        super().__init__()
        self.encoder, _, decoders = build(latent=latent, **network)
        self.decoders, self.lam, self.latent = nn.ModuleDict(decoders), lam, latent

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = to_float(images)
        z = self.encoder(x, self.latent)
        x1, x2 = self.decoders["mse"](z), self.decoders["ssim"](z)
        similarity = ssim_map((x + 1) / 2, (x2 + 1) / 2, full=True)
        return score(x, x1, x2, self.lam), (x - x1).square().mean(1) / 4 - self.lam * similarity


def rate(step: int, steps: int, lr: float = 0.1) -> float:
    """The learning rate of a step, from 0, in a run of `steps`: lr, from 60 % a fifth, from 80 % a 25th of it.

    These are shares of the steps, not of the epochs: even one epoch starts at lr. RotNet also steps down at 30 %.
    """
    return lr * 0.2 ** sum(step >= round(share * steps) for share in (0.6, 0.8))


def rotation_loss(logits: Tensor, turns: Tensor) -> Tensor:
    """Eq. (2): cross-entropy, mean over the images and their four rotations. logits (4N, 4), turns (4N,)."""
    return F.cross_entropy(logits, turns)


def mse(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Eq. (8) for each image, (N,): the mean squared error on (x + 1) / 2, so in [0, 1]."""
    return (x - reconstruction).square().flatten(1).mean(1) / 4


def ssim(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Eq. (3) for each image, (N,) in [-1, 1]: window 11, sigma 1.5, on (x + 1) / 2; the mean over all windows."""
    return ssim_map((x + 1) / 2, (reconstruction + 1) / 2).mean((1, 2))


def score(x: Tensor, x1: Tensor, x2: Tensor, lam: float = 1.0) -> Tensor:
    """Eq. (10) for each image, (N,), high = anomalous: AS(x) = MSE(x, x1) - lambda SSIM(x, x2). Images in [-1, 1]."""
    return mse(x, x1) - lam * ssim(x, x2)


def rotation_score(logits: Tensor, log: bool = False) -> Tensor:
    """RotNet's own score, (N,), high = anomalous: minus the probabilities of the right rotation, summed over all four.

    logits: (4N, 4) of `images.rotations`. log: sum log-probabilities instead, as others do.
    """
    probability = F.log_softmax(logits, 1) if log else F.softmax(logits, 1)
    per_turn = probability.view(4, -1, 4)  # (turn given, image, turn guessed)
    return -torch.einsum("tnt->n", per_turn)
