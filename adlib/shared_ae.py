"""Anomaly detection in images with shared autoencoders (Jia, Liu): networks, losses, gradients, score.

    nets = shared_ae.build(channels=1, width=16, latent=64)               # nets.e1, nets.e2, nets.d1, nets.d2
    optimizers = shared_ae.optimizers(nets, "separate", lr=0.001)         # one for each EDE
    terms = shared_ae.step(nets, optimizers, x, n=3)                      # one step of eq. (6), (7) in epoch 3
    s = shared_ae.score(nets.eval(), x, "mean_l1", omega=0.5)             # eq. (8), (N,), high = anomalous
    s = shared_ae.score(shared_ae.per_use(nets, train), x)                # the same with statistics for each use

Images are float in [-1, 1], 32 px (`train`: uint8); latents z are (N, latent) in (-1, 1). Primes of the paper are
written `_adv`: x2' is x2_adv, z2' is z2_adv.
"""

import copy

import torch
from torch import Tensor, nn

from adlib import machine
from adlib.images import to_float


IMAGE_SIZE = 32
SLOPE = 0.2  # of LeakyReLU; paper: silent; DCGAN's
DISTANCES = ("mean_l1", "mean_l2")
ROUTINGS = ("separate", "sum")
BATCH_NORM = ("running", "per_use")  # the statistics for scoring: of training, or new ones by `per_use`
# The tensors of the method, in order, each with the network that makes it and that network's input.
USES = {
    "z": ("e1", "x"), "x1": ("d1", "z"), "z1": ("e2", "x1"), "x2": ("d2", "z"), "z2": ("e2", "x2"),
    "x2_adv": ("d1", "z2"), "z2_adv": ("e2", "x2_adv"),
}  # fmt: skip


class Encoder(nn.Sequential):
    """Fig. 3 (A): image (N, channels, 32, 32) -> latent (N, latent) in (-1, 1).

    Four convolutions, 32 -> 16 -> 8 -> 4 -> 1 px, of width, 2 width, 4 width and `latent` channels; LeakyReLU after the
    first three, batch norm before it in the second and third, Tanh at the end. Kernels 4x4 (paper: silent; DCGAN's).
    """

    def __init__(self, channels: int, width: int, latent: int):
        super().__init__(
            nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.LeakyReLU(SLOPE),
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(4 * width), nn.LeakyReLU(SLOPE),
            nn.Conv2d(4 * width, latent, 4), nn.Tanh(), nn.Flatten(),
        )  # fmt: skip


class Decoder(nn.Sequential):
    """Fig. 3 (B): latent (N, latent) -> image (N, channels, 32, 32) in [-1, 1].

    Three transposed convolutions, each with batch norm and LeakyReLU, then one with Tanh; the encoder's sizes reversed.
    """

    def __init__(self, channels: int, width: int, latent: int):
        layers, below = [nn.Unflatten(1, (latent, 1, 1))], latent
        for wide, stride, padding in [(4 * width, 1, 0), (2 * width, 2, 1), (width, 2, 1)]:
            layers.append(nn.ConvTranspose2d(below, wide, 4, stride, padding, bias=False))
            layers += [nn.BatchNorm2d(wide), nn.LeakyReLU(SLOPE)]
            below = wide
        super().__init__(*layers, nn.ConvTranspose2d(below, channels, 4, 2, 1), nn.Tanh())


class SharedAE(nn.Module):
    """Two encoders and two decoders; EDE1 is E1, D1, E2 and EDE2 is E1, D2, E2 (Fig. 2).

    `parts` names the ones that exist: "e1 d1" is a plain autoencoder, "e1 d1 e2" a single EDE; the others are None.
    """

    def __init__(self, channels: int, width: int, latent: int, parts: str):
        super().__init__()
        for name in ("e1", "e2", "d1", "d2"):
            network = Encoder if name.startswith("e") else Decoder
            self.add_module(name, network(channels, width, latent) if name in parts.split() else None)

    def of(self, use: str) -> nn.Module | None:
        """The network that makes `use`, a key of USES; None if there is none."""
        return getattr(self, USES[use][0])


class PerUse(nn.ModuleDict):
    """A copy of a network for each use, a key of USES, each with batch-norm statistics of its own; see `per_use`."""

    def of(self, use: str) -> nn.Module | None:
        """The copy that makes `use`; None if there is none."""
        return self[use] if use in self else None


def build(channels: int = 1, width: int = 16, latent: int = 64, parts: str = "e1 d1 e2 d2") -> SharedAE:
    """The networks named in `parts`, untrained, for images with these `channels`, as a `SharedAE`."""
    return SharedAE(channels, width, latent, parts)


def forward(nets: SharedAE | PerUse, x: Tensor, adversarial: bool = True, first: bool = True) -> dict[str, Tensor]:
    """What both phases compute from images x (N, C, 32, 32), as far as there are networks: a dict.

    Phase 1: z = E1(x); x1 = D1(z), x2 = D2(z); z1 = E2(x1), z2 = E2(x2); x1 and z1 are left out unless `first`. Phase
    2, left out unless `adversarial`: x2_adv = D1(z2), which is x2', and z2_adv = E2(x2'), which is z2'.
    """
    made = {"x": x}
    for use, (_, source) in USES.items():
        network = nets.of(use)
        wanted = (first or use not in ("x1", "z1")) and (adversarial or not use.endswith("_adv"))
        if wanted and network is not None and source in made:
            made[use] = network(made[source])
    del made["x"]
    return made


@torch.no_grad()
def per_use(nets: SharedAE, images: Tensor, batch: int = 500) -> PerUse:
    """The networks with batch-norm statistics of their own for each use, taken from training images; for evaluation.

    images: uint8 (N, C, 32, 32). D1 sees z and z2 and E2 sees x1, x2 and x2' in every training step, and one set of
    running statistics fits none of them. Here every use gets a copy of its network. In the order of the graph, a copy
    sees the images in training mode and averages the statistics of their batches; with these fixed, it makes the input
    of the next use. Nothing is random, no test image is needed, and `nets` is not changed.
    """
    made, copies = {"x": to_float(images)}, PerUse()
    for use, (_, source) in USES.items():
        if nets.of(use) is None or source not in made:
            continue
        network = copies[use] = copy.deepcopy(nets.of(use)).train()
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
                layer.momentum = None  # the mean over all batches
        for part_of_x in made[source].split(batch):
            network(part_of_x)
        network.eval()
        made[use] = torch.cat([network(x) for x in made[source].split(batch)])
    return copies


def distance(a: Tensor, b: Tensor, kind: str) -> Tensor:
    """The distance of each pair, (N,), by `kind`; D is the number of elements a pair. Raises ValueError for another.

    "mean_l1": |a - b|_1 / D; "mean_l2": |a - b|_2 / sqrt(D). The symbol in equations (1) to (8) is damaged; it may be
    either norm. As means, alpha : beta is a ratio between one pixel and one latent number, as in GANomaly; with plain
    sums of 1,024 pixels and 64 latents the same alpha would weigh 16 times (L2: 4 times) as much.
    """
    machine.check_choice("distance", kind, DISTANCES)
    difference = (a - b).flatten(1)
    order, scale = (1, difference.shape[1]) if kind == "mean_l1" else (2, difference.shape[1] ** 0.5)
    return torch.linalg.vector_norm(difference, ord=order, dim=1) / scale


def terms(x: Tensor, made: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The distances of equations (1), (2), (3), each (N,), by name, as far as `made` goes.

    image_1 is |x - x1|, latent_1 |z - z1|, image_2, latent_2 those of EDE2, image_adv |x - x2'|, latent_adv |z - z2'|.
    """
    distances = {}
    for name in ("1", "2", "2_adv"):
        for what, target, source in (("image", x, "x"), ("latent", made["z"], "z")):
            if source + name in made:
                distances[f"{what}_{name.removeprefix('2_')}"] = distance(target, made[source + name], kind)
    return distances


def weighted(terms: dict[str, Tensor], name: str, alpha: float, beta: float) -> Tensor:
    """alpha |x - .| + beta |z - .| of eq. (1), (2) or (3), mean over the batch; name: "1", "2" or "adv".

    A plain autoencoder has no second latent, and so no second term.
    """
    weights = {f"image_{name}": alpha, f"latent_{name}": beta}
    return sum(weight * terms[key] for key, weight in weights.items() if key in terms).mean()


def epoch(step: int, steps: int = 32) -> int:
    """n of equations (6) and (7) at a training step, which counts from 0: an epoch has `steps` steps.

    32 steps are one pass over 2,000 images in batches of 64. Counted so, the same N means the same training, and the
    same course of 1/n, however many images there are.
    """
    return 1 + step // steps


def losses(terms: dict[str, Tensor], n: int, alpha: float = 1.0, beta: float = 1.0) -> tuple[Tensor, Tensor]:
    """Eq. (6) and (7) in epoch n, means over the batch, two scalars: they share the term (3), with opposite signs."""
    w = 1 / n
    loss_1, loss_2 = w * weighted(terms, "1", alpha, beta), w * weighted(terms, "2", alpha, beta)
    if n == 1:
        return loss_1, loss_2
    adversarial = (1 - w) * weighted(terms, "adv", alpha, beta)
    return loss_1 - adversarial, loss_2 + adversarial


def equation_8(terms: dict[str, Tensor], omega: float = 0.5) -> Tensor:
    """Eq. (8) for each image, (N,): omega |z - z2| + (1 - omega) |z - z2'|."""
    return omega * terms["latent_2"] + (1 - omega) * terms["latent_adv"]


def anomaly_score(terms: dict[str, Tensor], omega: float = 0.5) -> Tensor:
    """The score that the terms allow, (N,), high = anomalous: eq. (8); for one EDE |z - z1|; for an AE |x - x1|."""
    if "latent_adv" in terms:
        return equation_8(terms, omega)
    return terms["latent_1" if "latent_1" in terms else "image_1"]


def score(nets: SharedAE | PerUse, x: Tensor, kind: str = "mean_l1", omega: float = 0.5) -> Tensor:
    """Algorithm 2: `anomaly_score` of images x (N, C, 32, 32), (N,), high = anomalous; networks as they are.

    With two EDEs it skips x1 and z1, which eq. (8) does not need. nets: as built, or as `per_use` gives them.
    """
    return anomaly_score(terms(x, forward(nets, x, first=nets.of("x2") is None), kind), omega)


class Detector(nn.Module):
    """The method as one network: bytes (N, channels, 32, 32) -> scores (N,), eq. (8), and maps (N, 32, 32).

    batch_norm, one of BATCH_NORM, says whether `nets` is a `SharedAE` or a `PerUse`. The maps, |x - x2| as a mean over
    channels, are ours: the score compares latents, which have no place. Raises ValueError for an unknown setting.
    """

    def __init__(
        self,
        channels: int = 1,
        width: int = 16,
        latent: int = 64,
        distance: str = "mean_l1",
        omega: float = 0.5,
        batch_norm: str = "running",
    ):
        super().__init__()
        machine.check_choice("distance", distance, DISTANCES)
        machine.check_choice("batch_norm", batch_norm, BATCH_NORM)
        nets = build(channels, width, latent)
        if batch_norm == "per_use":
            nets = PerUse({use: copy.deepcopy(nets.of(use)) for use in USES})
        self.nets, self.distance, self.omega = nets, distance, omega

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = to_float(images)
        x2 = self.nets.of("x2")(self.nets.of("z")(x))
        return score(self.nets, x, self.distance, self.omega), (x - x2).abs().mean(1)


@torch.no_grad()
def evaluate(nets: SharedAE | PerUse, images: Tensor, kind: str, batch: int = 128) -> dict[str, Tensor]:
    """The terms of uint8 images (N, C, 32, 32), networks in evaluation mode: each depends on its own image alone.

    Returns the dict of `terms`, and z (N, latent) in it.
    """
    nets.eval()
    parts = []
    for part in images.split(batch):
        x = to_float(part)
        made = forward(nets, x)
        parts.append({**terms(x, made, kind), "z": made["z"]})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def spread(z: Tensor) -> Tensor:
    """The standard deviation of latents z (N, latent) over the images, mean over the latent: 0 if all collapse."""
    return z.std(0).mean()


def players(nets: SharedAE, routing: str) -> list[list[nn.Parameter]]:
    """The parameters that each loss moves, by a `routing` of `gradients`; E1's come first. ValueError for another."""
    machine.check_choice("routing", routing, ROUTINGS)
    if routing == "sum" and nets.d2 is not None:
        return [list(nets.parameters())]
    decoders = [nets.d1] if nets.d2 is None else [nets.d1, nets.d2]
    parts = [[part for part in (nets.e1, decoder, nets.e2) if part is not None] for decoder in decoders]
    return [[p for part in some for p in part.parameters()] for some in parts]


def optimizers(nets: SharedAE, routing: str, lr: float, beta1: float = 0.5) -> list[torch.optim.Adam]:
    """One Adam for each EDE, so that E1 and E2 have two; only one for routing "sum", and for a single EDE."""
    return [torch.optim.Adam(some, lr, betas=(beta1, 0.999), fused=True) for some in players(nets, routing)]


def gradients(
    nets: SharedAE,
    x: Tensor,
    n: int,
    routing: str = "separate",
    distance: str = "mean_l1",
    alpha: float = 1.0,
    beta: float = 1.0,
    stop_gradient: bool = False,
) -> tuple[list, dict[str, Tensor]]:
    """The gradients of one step in epoch n: a list of them for each of `optimizers`, and the terms, detached.

    Algorithm 1 computes both losses from one pass, then updates "using" both. The text does not say which parameters
    each loss moves; both share E1 and E2. routing is the reading:

    - "separate": eq. (6) moves EDE1 (E1, D1, E2), eq. (7) moves EDE2 (E1, D2, E2), nothing else reaches either.
    - "sum": every parameter gets the gradient of (6) + (7), where the adversarial terms cancel: 1/n times phase 1.

    With n = 1 there is phase 1 alone. A single EDE, or a plain autoencoder, has eq. (1) alone. stop_gradient: the
    latent terms take z as a constant, so that beta |z - .| never moves E1. Raises ValueError for an unknown routing.
    """
    moved, found = players(nets, routing), terms(x, forward(nets, x, adversarial=n > 1), distance)

    def objectives(what=""):
        """What each optimiser minimises, a list of scalars; what: "image" or "latent" for these terms alone."""
        some = {name: values for name, values in found.items() if name.startswith(what)}
        if nets.d2 is None:
            return [weighted(some, "1", alpha, beta)]
        if routing == "sum":  # without the adversarial terms, which cancel
            return [(1 / n) * (weighted(some, "1", alpha, beta) + weighted(some, "2", alpha, beta))]
        return losses(some, n, alpha, beta)

    detached, taken = {name: values.detach() for name, values in found.items()}, []
    if not stop_gradient or nets.e2 is None:
        for loss, parameters in zip(objectives(), moved, strict=True):
            taken.append(torch.autograd.grad(loss, parameters, retain_graph=True))
        return taken, detached
    k = len(list(nets.e1.parameters()))  # E1 comes first in each of `moved`
    for image, latent, parameters in zip(objectives("image"), objectives("latent"), moved, strict=True):
        by_image = torch.autograd.grad(image, parameters, retain_graph=True, materialize_grads=True)
        by_latent = torch.autograd.grad(latent, parameters[k:], retain_graph=True)
        taken.append([*by_image[:k], *(a + b for a, b in zip(by_image[k:], by_latent, strict=True))])
    return taken, detached


def step(nets: SharedAE, optimizers: list, x: Tensor, n: int, **settings: object) -> dict[str, Tensor]:
    """One training step on images x in epoch n; settings: those of `gradients`. Returns the terms, each (N,).

    All gradients are taken before anything moves, and each optimiser gets its own: none accumulates on parameters of
    the other player, as it would if two losses called backward() one after the other.
    """
    taken, distances = gradients(nets, x, n, **settings)
    for optimizer, own in zip(optimizers, taken, strict=True):
        for parameter, gradient in zip(optimizer.param_groups[0]["params"], own, strict=True):
            if gradient.stride() != parameter.stride():  # fused Adam pairs the two by their memory order
                gradient = torch.empty_like(parameter).copy_(gradient)
            parameter.grad = gradient
        optimizer.step()
    return distances
