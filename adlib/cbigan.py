"""Combining GANs and AutoEncoders for Efficient Anomaly Detection (Carrara et al.): networks, losses, steps, score.

    settings = cbigan.PRESETS["text"] | {"alpha": 1e-4}                    # alpha 0 is EGBAD
    nets = cbigan.build(channels=3, size=128, **settings)                  # nets.encoder, nets.generator, nets.critic
    of_critic, of_generator = cbigan.optimizers(nets, settings)
    x, z, epsilon = cbigan.batch(train, 128, (-45, 45), settings, rng)
    cbigan.critic_step(nets, of_critic, x, z, epsilon, settings)           # eq. (6) and the gradient penalty
    cbigan.generator_step(nets, of_generator, x, z, settings)              # eq. (13)
    s = cbigan.score(nets, test, settings)                                 # eq. (7), (N,), high = anomalous

train and test are bytes; images x are float, in [0, 1] for output "sigmoid" and in [-1, 1] for "tanh"; z: (N, latent).
PRESETS holds four readings: the paper ("text"), and its authors' code as it was in October 2020 ("october"), in the
notebook that they uploaded a month later ("tables") and a year after that ("rewrite").
"""

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from adlib import machine
from adlib.images import cut_patches, join_patches, random_rotated_crops, random_rotation


Pair = tuple[Tensor, Tensor]  # images and their latents
Terms = dict[str, Tensor]
SLOPE = 0.2  # of LeakyReLU; Fig. 3
CHOICES = {
    "init": ("he_normal", "glorot_uniform"),
    "output": ("sigmoid", "tanh"),
    "critic": ("wasserstein", "hinge"),
    "penalty": ("matched", "crossed", "squared"),
    "over_batch": ("mean", "sum"),
    "feature": ("dense", "conv1"),
    "resample": ("antialias", "bilinear"),
    "crops": ("random", "tiles"),
}

# The paper as printed. Where it is silent, the networks come from the notebook, WGAN-GP from the reference that it
# gives (Gulrajani et al. 2017, its [32]), and the batch size from the authors' code.
_TEXT = {
    "width": 16,  # silent: the numbers of Fig. 3 are not in its text; the notebook's
    "latent": 64,  # section V-B
    "bias": True,  # silent; the notebook's, in every layer
    "init": "he_normal",  # silent; the notebook's
    "output": "sigmoid",  # silent; the notebook's: images in [0, 1]
    "critic": "wasserstein",  # eq. (6)
    "penalty": "matched",  # section III-B: "the norm of the gradient of D with respect to its inputs", [32]
    "penalty_weight": 10.0,  # silent; that of [32]
    "critic_steps": 1,  # section IV: "once G and E, once D"
    "alpha": 1e-4,  # section V-B: objects; textures 1e-4 to 1e-5
    "over_batch": "mean",  # of (11) and (12), each a sum over all elements; eq. (5), (6): 1/N
    "lr": 1e-4,  # section V-B, Adam
    "beta1": 0.0,  # silent; that of [32], and of the authors' code
    "beta2_critic": 0.9,  # silent; that of [32]
    "beta2_generator": 0.9,  # silent; that of [32]
    "adam_eps": 1e-8,  # silent; PyTorch's
    "batch": 32,  # silent; that of the authors' code
    "feature": "dense",  # eq. (9): "feature vector extracted from an intermediate output"; the notebook's
    "lam": 0.1,  # section V-B
    "resample": "antialias",  # silent; the notebook's, by PIL
    "crops": "random",  # section V-B: random crops, turned
}
PRESETS = {"text": _TEXT}
PRESETS["tables"] = _TEXT | {  # branch paper, 2020-11-26: the notebook that its README calls the paper's code
    "critic": "hinge",  # not the Wasserstein critic of the text
    "penalty": "squared",  # squared norm of the gradient at G(z) alone; no norm is driven to 1
    "penalty_weight": 2.5,  # 5, halved
    "over_batch": "sum",  # with alpha 1e-4, as in "october"; as it is stored, alpha is 1e-7
    "beta2_critic": 0.909,
    "beta2_generator": 0.099,
    "adam_eps": 1e-7,  # Keras's
    "crops": "tiles",  # the 64 patches that do not overlap, unturned as it is stored
}
PRESETS["october"] = PRESETS["tables"] | {  # branch tf2, commit 4d4614c, 2020-10-21: the defaults of its command line
    "width": 3,
    "output": "tanh",  # images in [-1, 1]
    "resample": "bilinear",  # without antialiasing
    "crops": "random",
}  # this code trains but does not score: f_D and lambda are those of "text"
PRESETS["rewrite"] = _TEXT | {  # branch tf2, 2021-11-02: the defaults of its command line
    "width": 3,
    "bias": False,  # except in each block's 1x1 convolution and in the three last layers
    "init": "glorot_uniform",  # Keras's default
    "output": "tanh",  # images in [-1, 1]
    "penalty": "crossed",  # interpolates (x, z) to (G(z), E(x)), neither of which is a real or a fake pair
    "critic_steps": 5,
    "alpha": 1e-5,
    "beta2_generator": 0.1,
    "adam_eps": 1e-7,  # Keras's
    "feature": "conv1",  # discriminator.layers[-65]
    "resample": "bilinear",  # without antialiasing
}


class Block(nn.Module):
    """Residual block of Fig. 3: (N, in_channels, H, H) -> (N, channels, H', H').

    resample: "up" doubles the side first (bilinear), "down" halves it last (2x2 means). bias: `third` always has one.
    """

    def __init__(self, in_channels: int, channels: int, bias: bool, resample: str | None):
        super().__init__()
        self.resample = resample
        self.skip = nn.Conv2d(in_channels, channels, 1, bias=bias)
        self.first = nn.Conv2d(in_channels, channels, 3, padding=1, bias=bias)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.third = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.resample == "up":
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        y = F.leaky_relu(self.first(x), SLOPE)
        y = F.leaky_relu(self.second(y), SLOPE)
        y = F.leaky_relu(self.third(y) + self.skip(x), SLOPE)
        return F.avg_pool2d(y, 2) if self.resample == "down" else y


def trunk(channels: int, width: int, size: int, bias: bool) -> tuple[nn.Sequential, int]:
    """The layers for an image in encoder and critic, (N, channels, size, size) -> (N, M), and M."""
    widths = pairwise([channels, *(factor * width for factor in (1, 2, 3, 4, 8, 16))])
    blocks = [Block(*pair, bias, "down" if index < 5 else None) for index, pair in enumerate(widths)]
    return nn.Sequential(*blocks, nn.Flatten()), 16 * width * (size // 32) ** 2


class Encoder(nn.Sequential):
    """E: image (N, channels, size, size) -> latent (N, latent), unbounded."""

    def __init__(self, channels: int, width: int, latent: int, size: int, bias: bool):
        path, length = trunk(channels, width, size, bias)
        dense = nn.Linear(length, 16 * width, bias=bias)
        super().__init__(path, dense, nn.LeakyReLU(SLOPE), nn.Linear(16 * width, latent))


class Generator(nn.Sequential):
    """G: latent (N, latent) -> image (N, channels, size, size) in [0, 1] ("sigmoid") or [-1, 1] ("tanh")."""

    def __init__(self, channels: int, width: int, latent: int, size: int, bias: bool, output: str):
        start = max(2, size // 64)  # the side after the linear layer, in px
        first_doubling = 6 - int(math.log2(size // start))  # of six blocks: the first at 128 px, the second at 64 px
        dense = nn.Linear(latent, start**2 * 16 * width, bias=bias)  # no activation follows
        widths = pairwise(factor * width for factor in (16, 16, 8, 4, 3, 2, 1))
        blocks = [Block(*pair, bias, "up" if index >= first_doubling else None) for index, pair in enumerate(widths)]
        last = nn.Conv2d(width, channels, 1), nn.Sigmoid() if output == "sigmoid" else nn.Tanh()
        super().__init__(dense, nn.Unflatten(1, (16 * width, start, start)), *blocks, *last)


class Critic(nn.Module):
    """D: image (N, channels, size, size) and latent (N, latent) -> (N,), high = real."""

    def __init__(self, channels: int, width: int, latent: int, size: int, bias: bool):
        super().__init__()
        self.image, length = trunk(channels, width, size, bias)
        self.latent = nn.Sequential()
        for below in (latent, 512, 512):
            self.latent.extend([nn.Linear(below, 512, bias=bias), nn.LeakyReLU(SLOPE)])
        self.joint = nn.Linear(length + 512, 16 * width, bias=bias)
        self.last = nn.Linear(16 * width, 1)

    def features(self, x: Tensor, z: Tensor, feature: str = "dense") -> Tensor:
        """f_D of eq. (9), before the LeakyReLU: "dense", the linear layer after the concatenation, (N, 16 width), or
        "conv1", the first 3x3 convolution, flat, (N, width * size^2), which does not see z."""
        machine.check_choice("feature", feature, CHOICES["feature"])
        if feature == "conv1":
            return self.image[0].first(x).flatten(1)
        return self.joint(torch.cat([self.image(x), self.latent(z)], 1))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return self.last(F.leaky_relu(self.features(x, z), SLOPE))[:, 0]


class CBiGAN(nn.Module):
    """The three networks; `size` in px and `output` say which images they take."""

    def __init__(self, encoder: nn.Module, generator: nn.Module, critic: nn.Module, size: int, output: str):
        super().__init__()
        self.encoder, self.generator, self.critic = encoder, generator, critic
        self.size, self.output = size, output


def build(channels: int = 3, size: int = 128, **settings: object) -> CBiGAN:
    """The three networks, untrained, for images or patches of size x size px.

    settings: as in PRESETS (default "text"). ValueError for a size other than 2^n from 32, an unknown init or output.
    """
    chosen = _TEXT | settings
    for name in ("init", "output"):
        machine.check_choice(name, chosen[name], CHOICES[name])
    if size < 32 or size & (size - 1):
        raise ValueError(f"size is {size} px: the networks need a power of two, 32 or more")
    common = channels, chosen["width"], chosen["latent"], size, chosen["bias"]
    nets = CBiGAN(Encoder(*common), Generator(*common, chosen["output"]), Critic(*common), size, chosen["output"])
    for name, parameter in nets.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif chosen["init"] == "glorot_uniform":
            nn.init.xavier_uniform_(parameter)
        else:  # cut off at two deviations, as Keras does; after the cut, the deviation is sqrt(2 / fan in)
            std = math.sqrt(2 / parameter[0].numel()) / 0.87962566
            nn.init.trunc_normal_(parameter, 0.0, std, -2 * std, 2 * std)
    return nets


def check(settings: dict) -> None:
    """ValueError with the name of a setting that is unknown, is missing, or has an invalid value."""
    for name in sorted(_TEXT.keys() ^ settings.keys()):
        state = "missing" if name in _TEXT else f"unknown: choose {', '.join(_TEXT)}"
        raise ValueError(f"setting {name!r} is {state}")
    for name in CHOICES:
        machine.check_choice(name, settings[name], CHOICES[name])
    for name in ("alpha", "lam"):
        if not 0 <= settings[name] <= 1:
            raise ValueError(f"{name} is {settings[name]}: it must lie in [0, 1]")


def scaled_alpha(settings: dict, side: int, of: tuple[int, int] = (128, 32)) -> float:
    """The alpha for `side` px and settings["batch"] that weighs consistency as settings["alpha"] does for `of`.

    The norm of the gradient of (11) by an image grows with the side, but not that of the critic: alpha goes with 1 /
    side. A sum over the batch grows with the batch, but the game is a mean: then alpha also goes with 1 / batch.
    """
    return settings["alpha"] * of[0] / side * (of[1] / settings["batch"] if settings["over_batch"] == "sum" else 1)


def to_range(images: Tensor, output: str) -> Tensor:
    """Images (N, C, H, W), bytes or floats in 0..255, as float in the range of `output`: [0, 1] or [-1, 1]."""
    return images.float() / 255 if output == "sigmoid" else images.float() / 127.5 - 1


def batch(images: Tensor, size: int, rotate: tuple, settings: dict, rng: torch.Generator) -> tuple[Tensor, ...]:
    """The inputs of a step: x (n, C, size, size) in the networks' range, z (n, latent), N(0, 1), epsilon (n,), U(0, 1).

    images: uint8 (M, C, H, W) on rng's device; n are drawn with replacement, and each is turned by U(*rotate) degrees
    clockwise. If images are larger than `size`, x are crops at random places, with no corner outside the image.
    """
    n, place = settings["batch"], {"generator": rng, "device": rng.device}
    index = torch.randint(len(images), (n,), **place)
    if max(images.shape[2:]) > size:
        x = random_rotated_crops(images, index, size, *rotate, rng)
    else:
        x = random_rotation(images[index].float(), *rotate, rng) if any(rotate) else images[index]
    return to_range(x, settings["output"]), torch.randn(n, settings["latent"], **place), torch.rand(n, **place)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|_1 of each pair, the sum over all its elements, (N,), in float32 at least."""
    return (_wide(a) - _wide(b)).abs().flatten(1).sum(1)


def gradient_penalty(critic: nn.Module, real: Pair, fake: Pair, epsilon: Tensor | None, kind: str) -> Tensor:
    """The penalty on the slope of D, mean over the batch, a scalar without its weight, differentiable.

    real: (x, E(x)); fake: (G(z), z). With one epsilon (N,) for image and latent of a sample, "matched" takes
    (|grad D| - 1)^2 at epsilon real + (1 - epsilon) fake, where the norm is of both gradients together (WGAN-GP).
    "crossed" is the same between (x, z) and (G(z), E(x)). "squared" is |dD / dG(z)|^2 at the fake pair; epsilon: None.
    """
    (x, encoded), (made, z) = real, fake
    of_x, of_z = (0, 0) if kind == "squared" else (epsilon[:, None, None, None], epsilon[:, None])
    from_z, to_z = (z, encoded) if kind == "crossed" else (encoded, z)
    x, z = of_x * x + (1 - of_x) * made, of_z * from_z + (1 - of_z) * to_z
    with torch.autocast(x.device.type, enabled=False):  # float32: slopes are squared, and differentiated again
        x, z = (_wide(point.detach()).requires_grad_() for point in (x, z))
        by_x, by_z = torch.autograd.grad(critic(x, z).sum(), (x, z), create_graph=True)
    if kind == "squared":
        return by_x.flatten(1).square().sum(1).mean()
    norm = torch.linalg.vector_norm(torch.cat([by_x.flatten(1), by_z], 1), dim=1)
    return (norm - 1).square().mean()


def critic_terms(critic: nn.Module, real: Pair, fake: Pair, epsilon: Tensor | None, settings: dict) -> Terms:
    """Eq. (6) with its penalty: the scalars loss, estimate and penalty (without its weight).

    real: (x, E(x)); fake: (G(z), z). estimate is mean D(real) - mean D(fake), a Wasserstein critic's estimate of the
    distance. Setting critic "hinge": mean max(0, 1 - D(real)) + mean max(0, 1 + D(fake)) instead of (6).
    """
    of_both = critic(*(torch.cat(pair) for pair in zip(real, fake, strict=True)))  # one pass, half the calls
    of_real, of_fake = _wide(of_both).chunk(2)
    estimate = of_real.mean() - of_fake.mean()
    loss = -estimate if settings["critic"] == "wasserstein" else F.relu(1 - of_real).mean() + F.relu(1 + of_fake).mean()
    penalty = gradient_penalty(critic, real, fake, epsilon, settings["penalty"])
    return {"loss": loss + settings["penalty_weight"] * penalty, "estimate": estimate, "penalty": penalty}


def generator_terms(nets: CBiGAN, x: Tensor, z: Tensor, settings: dict) -> Terms:
    """Eq. (13), (1 - alpha) L_EG + alpha L_C: the scalars loss, game, image and latent.

    game is L_EG of eq. (5), image |x - G(E(x))| of (11), latent |z - E(G(z))| of (12), over the batch as the settings
    say. alpha 1 is a double autoencoder and alpha 0 is EGBAD; the sentence below eq. (13) swaps the two. With alpha 0,
    image and latent are neither computed nor returned.
    """
    alpha, over_batch = settings["alpha"], torch.mean if settings["over_batch"] == "mean" else torch.sum
    encoded, made = nets.encoder(x), nets.generator(z)
    game = _wide(nets.critic(x, encoded)).mean() - _wide(nets.critic(made, z)).mean()
    if alpha == 0:
        return {"loss": game, "game": game}
    image = over_batch(distance(x, nets.generator(encoded)))
    latent = over_batch(distance(z, nets.encoder(made)))
    loss = (1 - alpha) * game + alpha * (image + latent)
    return {"loss": loss, "game": game, "image": image, "latent": latent}


def optimizers(nets: CBiGAN, settings: dict) -> tuple[Adam, Adam]:
    """Adam for the critic, and Adam for encoder and generator, already on their device; raises as `check` does."""
    check(settings)
    of_critic, of_others = [*nets.critic.parameters()], [*nets.encoder.parameters(), *nets.generator.parameters()]
    rate, beta1, beta2, other_beta2 = (settings[name] for name in ("lr", "beta1", "beta2_critic", "beta2_generator"))
    # capturable keeps the count of steps on the GPU, so that a CUDA graph can hold the step
    common = {"eps": settings["adam_eps"], "fused": True, "capturable": of_critic[0].is_cuda}
    return Adam(of_critic, rate, (beta1, beta2), **common), Adam(of_others, rate, (beta1, other_beta2), **common)


def critic_step(nets: CBiGAN, optimizer: Optimizer, x: Tensor, z: Tensor, epsilon: Tensor, settings: dict) -> Terms:
    """The critic's turn on images x, latents z and epsilon (N,): moves only D. Returns its terms, detached."""
    with torch.no_grad():
        real, fake = (x, nets.encoder(x)), (nets.generator(z), z)
    return _move(optimizer, critic_terms(nets.critic, real, fake, epsilon, settings))


def generator_step(nets: CBiGAN, optimizer: Optimizer, x: Tensor, z: Tensor, settings: dict) -> Terms:
    """The turn of encoder and generator on images x and latents z: moves only E and G. Returns its terms, detached."""
    return _move(optimizer, generator_terms(nets, x, z, settings))


@torch.no_grad()
def average(averaged: CBiGAN, nets: CBiGAN, decay: float) -> None:
    """averaged, at first a copy of nets, becomes decay * averaged + (1 - decay) * nets, parameter by parameter."""
    get_ema_multi_avg_fn(decay)(list(averaged.parameters()), list(nets.parameters()), None)


@torch.no_grad()
def adequacy(nets: CBiGAN, train: Tensor, held_out: Tensor, z: Tensor) -> dict[str, float]:
    """Whether the networks were trained: their errors compared with those of answers that need no network.

    train, held_out: uint8 flawless images (N, C, H, W), compared by all their patches; z: (M, latent).
    image_ratio: mean (11) of held_out over (11) for the answer "mean of train". latent_error: mean (12) of z;
    latent_zero: (12) for the answer 0. variance_ratio: variance of G(z) over that of train, each a mean over pixels.
    """
    known, x = (to_range(cut_patches(some, nets.size), nets.output) for some in (train, held_out))
    made = nets.generator(z)
    image = torch.cat([distance(part, reconstruct(nets, part)) for part in x.split(128)])
    return {
        "image_ratio": (image.mean() / distance(x, known.mean(0, keepdim=True)).mean()).item(),
        "latent_error": distance(z, nets.encoder(made)).mean().item(),
        "latent_zero": z.abs().sum(1).mean().item(),
        "variance_ratio": (made.var(0).mean() / known.var(0).mean()).item(),
    }


def reconstruct(nets: CBiGAN, x: Tensor) -> Tensor:
    """G(E(x)) of images x (N, C, H, W), patch by patch; ValueError if they are no multiple of the networks' size."""
    return join_patches(nets.generator(nets.encoder(cut_patches(x, nets.size))), *x.shape[2:])


def terms(nets: CBiGAN, x: Tensor, features: Iterable[str] = CHOICES["feature"]) -> Terms:
    """The terms of eq. (7) for images x (N, C, H, W); the mode of the networks is not changed.

    "image", eq. (8), and each of `features`, eq. (9): (N, P). P is 1 if the images have the networks' size (objects);
    else they are cut, row by row, into P patches of that size (textures). "map":
    |x - G(E(x))| at each pixel, mean over channels, (N, H, W).
    """
    patches = cut_patches(x, nets.size)
    rebuilt = nets.generator(z := nets.encoder(patches))
    distances = {"image": distance(patches, rebuilt)}
    for name in features:
        distances[name] = distance(*(nets.critic.features(images, z, name) for images in (patches, rebuilt)))
    errors = (patches - rebuilt).abs().mean(1, keepdim=True)
    per_image = {name: values.view(len(x), -1) for name, values in distances.items()}
    return per_image | {"map": join_patches(errors, *x.shape[2:])[:, 0]}


def equation_7(terms: Terms, lam: float = 0.1, feature: str = "dense") -> Tensor:
    """Eq. (7) for each image, (N,): (1 - lambda) image + lambda feature of each patch, then the largest patch."""
    return ((1 - lam) * terms["image"] + lam * terms[feature]).amax(1)


class Detector(nn.Module):
    """The method as one network: bytes (N, channels, H, W) -> scores (N,), eq. (7), and maps |x - G(E(x))| (N, H, W).

    patch: the side of the networks' input, to which larger images are cut. settings: as in PRESETS. The maps are ours.
    """

    def __init__(self, channels: int = 3, patch: int = 128, **settings: object):
        super().__init__()
        self.nets, self.lam, self.feature = build(channels, patch, **settings), settings["lam"], settings["feature"]

    def forward(self, images: Tensor) -> Pair:
        parts = evaluate(self.nets, images, (self.feature,))
        return equation_7(parts, self.lam, self.feature), parts["map"]


@torch.no_grad()
def evaluate(nets: CBiGAN, images: Tensor, features: Iterable[str] = CHOICES["feature"], batch: int = 128) -> Terms:
    """The `terms` of uint8 images (N, C, H, W), `batch` patches at a time, networks in evaluation mode."""
    nets.eval()
    patches = max(1, images[0, 0].numel() // nets.size**2)
    parts = [terms(nets, to_range(part, nets.output), features) for part in images.split(max(1, batch // patches))]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def score(nets: CBiGAN, images: Tensor, settings: dict) -> Tensor:
    """The score (7) of uint8 images (N, C, H, W), (N,), high = anomalous; networks in evaluation mode."""
    return equation_7(evaluate(nets, images, (settings["feature"],)), settings["lam"], settings["feature"])


def _wide(values):
    """Half precision as float32; float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _move(optimizer, terms):
    """One step of the optimiser on terms["loss"], for its own parameters alone; no gradient is left behind."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, gradient in zip(parameters, torch.autograd.grad(terms["loss"], parameters), strict=True):
        if gradient.stride() != parameter.stride():  # fused Adam pairs the two by their memory order
            gradient = torch.empty_like(parameter).copy_(gradient)
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()
    return {name: value.detach() for name, value in terms.items()}
