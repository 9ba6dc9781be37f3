"""Combining GANs and AutoEncoders for Efficient Anomaly Detection (Carrara et al.): networks, losses, steps, score.

    settings = cbigan.PRESETS["text"] | {"alpha": 1e-4}                    # alpha 0 is EGBAD
    nets = cbigan.build(channels=3, size=128, **settings)                  # nets.encoder, nets.generator, nets.critic
    of_critic, of_generator = cbigan.optimizers(nets, settings)
    x = cbigan.to_range(cbigan.sample(train, settings["batch"], 128, (-45, 45), rng), nets.output)
    z, epsilon = cbigan.draw(len(x), settings["latent"], rng)
    cbigan.critic_step(nets, of_critic, x, z, epsilon, settings)           # eq. (6) and the gradient penalty
    cbigan.generator_step(nets, of_generator, x, z, settings)              # eq. (13)
    s = cbigan.score(nets.eval(), x, settings)                             # eq. (7), (N,), high = anomalous

Images x are float in [0, 1] for output "sigmoid" and in [-1, 1] for "tanh" (`to_range`); latents z are (N, latent).
"Text" is the paper, "tables" the authors' notebook of 2020, from which its tables presumably come, "rewrite" their
program of 2021; the three differ in almost every setting, and PRESETS holds each.
"""

import copy
import hashlib
import io
import math
import pickle

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from adlib.images import cut_patches, join_patches, random_rotated_crops, random_rotation


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

# The paper as printed. What it leaves open about the networks is taken from the notebook, what it leaves open about
# WGAN-GP from the reference it gives for it (Gulrajani et al. 2017), batch size from both programs.
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
    "beta1": 0.0,  # silent; that of [32], and of both programs
    "beta2_critic": 0.9,  # silent; that of [32]
    "beta2_generator": 0.9,  # silent; that of [32]
    "adam_eps": 1e-8,  # silent; PyTorch's
    "batch": 32,  # silent; both programs'
    "ema": 0.0,  # silent: no average
    "feature": "dense",  # eq. (9): "feature vector extracted from an intermediate output"; the notebook's
    "lam": 0.1,  # section V-B
    "resample": "antialias",  # silent; the notebook's, by PIL
    "crops": "random",  # section V-B: random crops, turned
}
PRESETS = {
    "text": _TEXT,
    # The notebook that presumably made the tables, where it differs from the above.
    "tables": _TEXT
    | {
        "critic": "hinge",  # not the Wasserstein critic of the text
        "penalty": "squared",  # squared norm of the gradient at G(z) alone; no norm is driven to 1
        "penalty_weight": 2.5,  # 5, halved
        "over_batch": "sum",  # so that alpha weighs 32 times what it does under a mean; as stored it is 1e-7
        "beta2_critic": 0.909,
        "beta2_generator": 0.099,
        "adam_eps": 1e-7,  # Keras's
        "crops": "tiles",  # the 64 patches that do not overlap, unturned as it is stored
    },
    # The rewrite with the defaults of its command line; they are younger than the paper.
    "rewrite": _TEXT
    | {
        "width": 3,
        "bias": False,  # but in each block's 1x1 convolution and in the three last layers
        "init": "glorot_uniform",  # Keras's default
        "output": "tanh",  # images in [-1, 1]
        "penalty": "crossed",  # interpolates (x, z) to (G(z), E(x)), neither of which is a real or a fake pair
        "critic_steps": 5,
        "alpha": 1e-5,
        "beta2_generator": 0.1,
        "adam_eps": 1e-7,  # Keras's
        "ema": 0.9994,  # 0.999 at every tenth step of either player, of which there are six to one of G, E
        "feature": "conv1",  # discriminator.layers[-65]
        "resample": "bilinear",  # without antialiasing
    },
}


class Block(nn.Module):
    """Residual block of Fig. 3: (N, in_channels, H, H) -> (N, channels, H', H').

    Two 3x3 convolutions and one of 1x1, LeakyReLU after the first two; a 1x1 convolution beside them; LeakyReLU of the
    sum. resample: "up" doubles the side first (bilinear), "down" halves it last (2x2 means), None leaves it.
    bias: False leaves one only to the 1x1 convolution of the main path.
    """

    def __init__(self, in_channels, channels, bias, resample):
        super().__init__()
        self.resample = resample
        self.skip = nn.Conv2d(in_channels, channels, 1, bias=bias)
        self.first = nn.Conv2d(in_channels, channels, 3, padding=1, bias=bias)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=bias)
        self.third = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        if self.resample == "up":
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        y = F.leaky_relu(self.first(x), SLOPE)
        y = F.leaky_relu(self.second(y), SLOPE)
        y = F.leaky_relu(self.third(y) + self.skip(x), SLOPE)
        return F.avg_pool2d(y, 2) if self.resample == "down" else y


def trunk(channels, width, size, bias):
    """The image path that encoder and critic share in form: (N, channels, size, size) -> (N, 16 width (size/32)^2)."""
    blocks, below = [], channels
    for factor in (1, 2, 3, 4, 8, 16):
        blocks.append(Block(below, factor * width, bias, "down" if factor < 16 else None))
        below = factor * width
    return nn.Sequential(*blocks, nn.Flatten()), below * (size // 32) ** 2


class Encoder(nn.Sequential):
    """E: image (N, channels, size, size) -> latent (N, latent), unbounded."""

    def __init__(self, channels, width, latent, size, bias):
        path, found = trunk(channels, width, size, bias)
        super().__init__(
            path, nn.Linear(found, 16 * width, bias=bias), nn.LeakyReLU(SLOPE), nn.Linear(16 * width, latent)
        )


class Generator(nn.Sequential):
    """G: latent (N, latent) -> image (N, channels, size, size) in [0, 1] ("sigmoid") or [-1, 1] ("tanh").

    Six blocks from 2x2 px (above 128 px from size / 64), the last ones doubling the side: all six at 128 px, all but
    the first at 64 px. No activation after the linear layer.
    """

    def __init__(self, channels, width, latent, size, bias, output):
        start = max(2, size // 64)
        doublings = int(math.log2(size // start))
        below = 16 * width
        layers = [nn.Linear(latent, start**2 * below, bias=bias), nn.Unflatten(1, (below, start, start))]
        for index, factor in enumerate((16, 8, 4, 3, 2, 1)):
            layers.append(Block(below, factor * width, bias, "up" if index >= 6 - doublings else None))
            below = factor * width
        super().__init__(*layers, nn.Conv2d(below, channels, 1), nn.Sigmoid() if output == "sigmoid" else nn.Tanh())


class Critic(nn.Module):
    """D: image (N, channels, size, size) and latent (N, latent) -> (N,), high = real."""

    def __init__(self, channels, width, latent, size, bias):
        super().__init__()
        self.image, found = trunk(channels, width, size, bias)
        layers = []
        for below in (latent, 512, 512):
            layers += [nn.Linear(below, 512, bias=bias), nn.LeakyReLU(SLOPE)]
        self.latent = nn.Sequential(*layers)
        self.joint = nn.Linear(found + 512, 16 * width, bias=bias)
        self.last = nn.Linear(16 * width, 1)

    def features(self, x, z, feature="dense"):
        """f_D of eq. (9), before the LeakyReLU: "dense", the linear layer behind the concatenation, (N, 16 width), or
        "conv1", the first 3x3 convolution, flat, (N, width * size^2), which does not see z."""
        _check("feature", feature)
        if feature == "conv1":
            return self.image[0].first(x).flatten(1)
        return self.joint(torch.cat([self.image(x), self.latent(z)], 1))

    def forward(self, x, z):
        return self.last(F.leaky_relu(self.features(x, z), SLOPE))[:, 0]


class CBiGAN(nn.Module):
    """The three networks; `size` in px and `output` say which images they take."""

    def __init__(self, encoder, generator, critic, size, output):
        super().__init__()
        self.encoder, self.generator, self.critic = encoder, generator, critic
        self.size, self.output = size, output


def build(channels=3, size=128, width=16, latent=64, bias=True, init="he_normal", output="sigmoid", **others):
    """The three networks, untrained, for images or patches of size x size px, as a `CBiGAN`.

    bias: False leaves biases only to the last layers and to one convolution of each block. init: "he_normal" (cut off
    at two standard deviations, as Keras does) or "glorot_uniform"; biases start at 0. others: the settings that the
    training takes. Raises ValueError for a size that is no power of two from 32 on, and an unknown init or output.
    """
    _check("init", init)
    _check("output", output)
    if size < 32 or size & (size - 1):
        raise ValueError(f"size is {size} px: the networks need a power of two, 32 or more")
    nets = CBiGAN(
        Encoder(channels, width, latent, size, bias),
        Generator(channels, width, latent, size, bias, output),
        Critic(channels, width, latent, size, bias),
        size,
        output,
    )
    for name, parameter in nets.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif init == "glorot_uniform":
            nn.init.xavier_uniform_(parameter)
        else:
            fan_in = parameter[0].numel()
            std = math.sqrt(2 / fan_in) / 0.87962566  # so that sqrt(2 / fan_in) is left after the cut
            nn.init.trunc_normal_(parameter, 0.0, std, -2 * std, 2 * std)
    return nets


def check(settings):
    """ValueError naming the setting that is unknown, missing or has a value that is none of its choices."""
    known = PRESETS["text"]
    for name in sorted(known.keys() ^ settings.keys()):
        state = "missing" if name in known else f"unknown: choose {', '.join(known)}"
        raise ValueError(f"setting {name!r} is {state}")
    for name in CHOICES:
        _check(name, settings[name])
    for name in ("alpha", "lam", "ema"):
        if not 0 <= settings[name] <= 1:
            raise ValueError(f"{name} is {settings[name]}: it must lie in [0, 1]")


def to_range(images, output):
    """Images (N, C, H, W), bytes or floats in 0..255, as float in the range of `output`: [0, 1] or [-1, 1]."""
    return images.float() / 255 if output == "sigmoid" else images.float() / 127.5 - 1


def sample(images, n, size, rotate, generator):
    """What a step trains on: n inputs (n, C, size, size), float in 0..255, drawn with replacement from bytes.

    images: uint8 (M, C, H, W) on the generator's device. Each input is turned by an angle of its own from U(*rotate),
    degrees clockwise; of images larger than `size` it is a crop at a random place, without corners from beyond them.
    """
    index = torch.randint(len(images), (n,), generator=generator, device=images.device)
    if max(images.shape[2:]) > size:
        return random_rotated_crops(images, index, size, *rotate, generator)
    x = images[index].float()
    return random_rotation(x, *rotate, generator) if any(rotate) else x


def draw(n, latent, generator):
    """z (n, latent) from N(0, 1) and epsilon (n,) from U(0, 1), on the generator's device."""
    device = generator.device
    z = torch.randn(n, latent, generator=generator, device=device)
    return z, torch.rand(n, generator=generator, device=device)


def distance(a, b):
    """|a - b|_1 of each pair, the sum over all its elements, (N,), in float32 at least."""
    return (_wide(a) - _wide(b)).abs().flatten(1).sum(1)


def slopes(critic, x, z):
    """The gradients of D at each (x, z) with respect to x and to z, shaped as they are, themselves differentiable.

    In float32, whatever autocast is at work: they are squared, and differentiated again.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, z = (_wide(given.detach()).requires_grad_() for given in (x, z))
        return torch.autograd.grad(critic(x, z).sum(), (x, z), create_graph=True)


def gradient_penalty(critic, real, fake, epsilon, penalty="matched"):
    """The penalty on the slope of D, mean over the batch, a scalar without its weight.

    real: (x, E(x)); fake: (G(z), z). With one epsilon (N,) for image and latent of a sample, "matched" takes
    (|grad D| - 1)^2 at epsilon real + (1 - epsilon) fake, the norm being that of both gradients together (WGAN-GP).
    "crossed" is the same between (x, z) and (G(z), E(x)). "squared" is |dD / dG(z)|^2 at the fake pair; it needs no
    epsilon (None).
    """
    (x, encoded), (made, z) = real, fake
    if penalty == "squared":
        return slopes(critic, made, z)[0].flatten(1).square().sum(1).mean()
    if penalty == "crossed":
        encoded, z = z, encoded
    of_x, of_z = epsilon[:, None, None, None], epsilon[:, None]
    by_x, by_z = slopes(critic, of_x * x + (1 - of_x) * made, of_z * encoded + (1 - of_z) * z)
    norm = torch.linalg.vector_norm(torch.cat([by_x.flatten(1), by_z], 1), dim=1)
    return (norm - 1).square().mean()


def critic_terms(critic, real, fake, epsilon, settings):
    """Eq. (6) with its penalty: a dict of the scalars loss, estimate and penalty (without its weight).

    real: (x, E(x)); fake: (G(z), z). estimate is mean D(real) - mean D(fake), for a Wasserstein critic the distance as
    it sees it. Setting critic "hinge": mean max(0, 1 - D(real)) + mean max(0, 1 + D(fake)) instead of (6).
    """
    of_both = critic(*(torch.cat(pair) for pair in zip(real, fake, strict=True)))  # one pass, half the calls
    of_real, of_fake = _wide(of_both).chunk(2)
    estimate = of_real.mean() - of_fake.mean()
    loss = -estimate if settings["critic"] == "wasserstein" else F.relu(1 - of_real).mean() + F.relu(1 + of_fake).mean()
    penalty = gradient_penalty(critic, real, fake, epsilon, settings["penalty"])
    return {"loss": loss + settings["penalty_weight"] * penalty, "estimate": estimate, "penalty": penalty}


def generator_terms(nets, x, z, settings):
    """Eq. (13), (1 - alpha) L_EG + alpha L_C: a dict of the scalars loss, game, image and latent.

    game is L_EG of eq. (5), image |x - G(E(x))| of (11), latent |z - E(G(z))| of (12), over the batch as the settings
    say. alpha 0 is EGBAD, alpha 1 a double autoencoder: the sentence below eq. (13) has it the other way round. With
    alpha 0 image and latent are known but not differentiated.
    """
    alpha = settings["alpha"]
    encoded, made = nets.encoder(x), nets.generator(z)
    game = _wide(nets.critic(x, encoded)).mean() - _wide(nets.critic(made, z)).mean()
    with torch.set_grad_enabled(alpha != 0 and torch.is_grad_enabled()):
        image, latent = distance(x, nets.generator(encoded)), distance(z, nets.encoder(made))
    image, latent = ((one.mean() if settings["over_batch"] == "mean" else one.sum()) for one in (image, latent))
    loss = (1 - alpha) * game + alpha * (image + latent)
    return {"loss": loss, "game": game, "image": image, "latent": latent}


def optimizers(nets, settings):
    """Adam for the critic, and Adam for encoder and generator; the networks must be on their device by now.

    Raises ValueError as `check` does.
    """
    check(settings)
    found = []
    for player, parts in {"critic": [nets.critic], "generator": [nets.encoder, nets.generator]}.items():
        parameters = [p for part in parts for p in part.parameters()]
        betas = settings["beta1"], settings[f"beta2_{player}"]
        # capturable keeps the count of steps on the GPU, so that a CUDA graph can hold the step
        found.append(
            torch.optim.Adam(
                parameters, settings["lr"], betas, settings["adam_eps"], fused=True, capturable=parameters[0].is_cuda
            )
        )
    return tuple(found)


def critic_step(nets, optimizer, x, z, epsilon, settings):
    """The critic's turn on images x, latents z and epsilon (N,): moves D alone. Returns its terms, detached."""
    with torch.no_grad():
        real, fake = (x, nets.encoder(x)), (nets.generator(z), z)
    return _move(optimizer, critic_terms(nets.critic, real, fake, epsilon, settings))


def generator_step(nets, optimizer, x, z, settings):
    """The turn of encoder and generator on images x and latents z: moves E and G alone. Returns its terms, detached."""
    return _move(optimizer, generator_terms(nets, x, z, settings))


def averages(nets):
    """Copies of E and G to hold their moving averages, with the critic itself, as a `CBiGAN` in evaluation mode."""
    encoder, generator = (copy.deepcopy(part).requires_grad_(False) for part in (nets.encoder, nets.generator))
    return CBiGAN(encoder.eval(), generator.eval(), nets.critic, nets.size, nets.output)


@torch.no_grad()
def update_averages(averaged, nets, decay):
    """decay * average + (1 - decay) * parameter, for E and G; decay 0 copies the networks as they are."""
    for name in ("encoder", "generator"):
        old, new = (list(getattr(which, name).parameters()) for which in (averaged, nets))
        get_ema_multi_avg_fn(decay)(old, new, None)


def reconstruct(nets, x):
    """G(E(x)) of images x (N, C, H, W), patch by patch where they are larger than the networks' size; networks as they
    are. Raises ValueError where they are no multiple of it."""
    rebuilt = nets.generator(nets.encoder(cut_patches(x, nets.size)))
    return join_patches(rebuilt, *x.shape[2:])


def terms(nets, x, features=CHOICES["feature"]):
    """What eq. (7) is made of, for images x (N, C, H, W): a dict of tensors; networks as they are.

    "image", eq. (8), and each of `features`, eq. (9): (N, P). P is 1 where the images have the networks' size
    (objects), else the number of patches of that size which they are cut into, row by row (textures). "map":
    |x - G(E(x))| at each pixel, mean over channels, (N, H, W).
    """
    patches = cut_patches(x, nets.size)
    z = nets.encoder(patches)
    rebuilt = nets.generator(z)
    found = {"image": distance(patches, rebuilt)}
    for name in features:
        found[name] = distance(*(nets.critic.features(some, z, name) for some in (patches, rebuilt)))
    found = {name: values.view(len(x), -1) for name, values in found.items()}
    errors = (patches - rebuilt).abs().mean(1, keepdim=True)
    return {**found, "map": join_patches(errors, *x.shape[2:])[:, 0]}


def equation_7(terms, lam=0.1, feature="dense"):
    """Eq. (7) for each image, (N,): (1 - lambda) image + lambda feature of each patch, then the largest of them."""
    return ((1 - lam) * terms["image"] + lam * terms[feature]).amax(1)


def score(nets, x, settings):
    """The score (7) of images x (N, C, H, W) in the networks' range, (N,), high = anomalous; networks as they are."""
    feature = settings["feature"]
    return equation_7(terms(nets, x, (feature,)), settings["lam"], feature)


class Detector(nn.Module):
    """The method as one network: bytes (N, channels, H, W) -> scores (N,), eq. (7), and maps |x - G(E(x))| (N, H, W).

    patch: the side that the networks see, into which larger images are cut. settings: as in PRESETS. The maps are ours.
    """

    def __init__(self, channels=3, patch=128, **settings):
        super().__init__()
        self.nets, self.lam, self.feature = build(channels, patch, **settings), settings["lam"], settings["feature"]

    def forward(self, images):
        found = evaluate(self.nets, images, (self.feature,))
        return equation_7(found, self.lam, self.feature), found["map"]


@torch.no_grad()
def evaluate(nets, images, features=CHOICES["feature"], batch=128):
    """The `terms` of uint8 images (N, C, H, W), so many patches at a time, networks in evaluation mode."""
    nets.eval()
    patches = max(1, images[0, 0].numel() // nets.size**2)
    parts = [terms(nets, to_range(part, nets.output), features) for part in images.split(max(1, batch // patches))]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def pack(run, state):
    """The bytes of a checkpoint: a checksum, then `run`, which tells what is being trained, and `state`, where it is.

    Both may hold tensors, numbers, text, lists and dicts.
    """
    file = io.BytesIO()
    torch.save({"run": run, "state": state}, file)
    return hashlib.sha256(file.getvalue()).digest() + file.getvalue()


def unpack(content, run, device="cpu"):
    """The state in the bytes that `pack` gave, tensors on `device`; nothing in them is executed.

    Raises ValueError where the bytes are damaged or cut off, and where they are of another run, naming what differs.
    """
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise ValueError("it is damaged or cut off")
    try:
        found = torch.load(io.BytesIO(content[32:]), map_location=device, weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("it holds more than numbers and text") from None
    other = [name for name in {**run, **found["run"]} if run.get(name) != found["run"].get(name)]
    if other:
        raise ValueError(f"it is of another run: {', '.join(other)} differ")
    return found["state"]


def _check(name, value):
    if value not in CHOICES[name]:
        raise ValueError(f"unknown {name} {value!r}: choose {', '.join(CHOICES[name])}")


def _wide(given):
    """Half precision as float32; float32 and float64 as they are."""
    return given.to(torch.promote_types(given.dtype, torch.float32))


def _move(optimizer, found):
    """One step of the optimiser down found["loss"], through its own parameters alone; no gradient is left behind."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter, gradient in zip(parameters, torch.autograd.grad(found["loss"], parameters), strict=True):
        if gradient.stride() != parameter.stride():  # fused Adam pairs the two as they lie in memory
            gradient = torch.empty_like(parameter).copy_(gradient)
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()
    return {name: value.detach() for name, value in found.items()}
