"""Anomaly detection in images with shared autoencoders (Jia, Liu): networks, losses, gradients, score.

    nets = shared_ae.build(channels=1, width=32, latent=64)               # nets.e1, nets.e2, nets.d1, nets.d2
    optimizers = shared_ae.optimizers(nets, "separate", lr=0.0002)        # one for each EDE
    terms = shared_ae.step(nets, optimizers, x, n=3)                      # one step of eq. (6), (7) in epoch 3
    s = shared_ae.score(nets.eval(), x, "l1", omega=0.5)                  # eq. (8), (N,), high = anomalous

Images are float in [-1, 1], 32 px; latents z are (N, latent) in (-1, 1). Primes of the paper are written `_adv`:
x2' is x2_adv, z2' is z2_adv.

Batch norm scores with running statistics, one set for each network. `per_use` takes them again, one set for each use:

    per_use = shared_ae.per_use(nets, train)                              # train: uint8 (N, C, 32, 32)
    s = shared_ae.score(per_use, x, "mean_l1", omega=0.5)
"""

import copy

import torch
from torch import nn

from adlib.images import to_float


IMAGE_SIZE = 32
SLOPE = 0.2  # of LeakyReLU; paper: silent; DCGAN's
DISTANCES = ("l1", "l2", "mse", "mean_l1", "mean_l2")
ROUTINGS = ("separate", "detached", "sum")
# What the method makes, in order: each with the network that makes it and what that network is given.
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

    Three transposed convolutions, each with batch norm and LeakyReLU, then one with Tanh; the encoder's sizes
    backwards.
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

    `parts` names those that there are: "e1 d1" is a plain autoencoder, "e1 d1 e2" a single EDE; the others are None.
    """

    def __init__(self, channels: int, width: int, latent: int, parts: str):
        super().__init__()
        for name in ("e1", "e2", "d1", "d2"):
            network = Encoder if name.startswith("e") else Decoder
            self.add_module(name, network(channels, width, latent) if name in parts.split() else None)

    def of(self, use: str) -> nn.Module | None:
        """The network that makes `use`, a key of USES; None where there is none."""
        return getattr(self, USES[use][0])


class PerUse(nn.ModuleDict):
    """A copy of a network for each use, a key of USES, each with batch-norm statistics of its own; see `per_use`."""

    def of(self, use: str) -> nn.Module | None:
        """The copy that makes `use`; None where there is none."""
        return self[use] if use in self else None


def build(channels: int = 1, width: int = 32, latent: int = 64, parts: str = "e1 d1 e2 d2") -> SharedAE:
    """The networks named in `parts`, untrained, for images with so many channels, as a `SharedAE`."""
    return SharedAE(channels, width, latent, parts)


def ede_1(nets: SharedAE) -> list[nn.Parameter]:
    """The parameters of EDE1 (E1, D1, E2)."""
    return [p for part in (nets.e1, nets.d1, nets.e2) if part is not None for p in part.parameters()]


def ede_2(nets: SharedAE) -> list[nn.Parameter]:
    """The parameters of EDE2 (E1, D2, E2)."""
    return [p for part in (nets.e1, nets.d2, nets.e2) for p in part.parameters()]


def forward(
    nets: SharedAE | PerUse, x: torch.Tensor, adversarial: bool = True, first: bool = True
) -> dict[str, torch.Tensor]:
    """What both phases make of images x (N, C, 32, 32), as far as there are networks: a dict.

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
def per_use(nets: SharedAE, images: torch.Tensor, batch: int = 500) -> PerUse:
    """The networks with batch-norm statistics of their own for each use, taken from training images; for evaluation.

    images: uint8 (N, C, 32, 32). D1 sees z and z2 and E2 sees x1, x2 and x2' in every training step, and one set of
    running statistics fits none of them. Here every use gets a copy of its network. In the order of the graph, a copy
    sees the images in training mode and averages the statistics of their batches; with these fixed it makes what the
    next use is given. Nothing is drawn and no test image is needed; `nets` stays as it is.
    """
    made, copies = {"x": to_float(images)}, PerUse()
    for use, (part, source) in USES.items():
        if getattr(nets, part) is None or source not in made:
            continue
        network = copies[use] = copy.deepcopy(getattr(nets, part)).train()
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
                layer.momentum = None  # the mean over all batches
        for part_of_x in made[source].split(batch):
            network(part_of_x)
        network.eval()
        if any(use == later for _, later in USES.values()):
            made[use] = torch.cat([network(x) for x in made[source].split(batch)])
    return copies


def distance(a: torch.Tensor, b: torch.Tensor, kind: str) -> torch.Tensor:
    """The distance of each pair, (N,), by `kind`; D is the number of elements a pair. Raises ValueError for another.

    "l1": sum of absolute differences, as equations 1 to 8 are printed; "l2": Euclidean; "mse": mean of squares. By
    "mean_l1", |a - b|_1 / D, and "mean_l2", |a - b|_2 / sqrt(D), alpha : beta does not depend on D.
    """
    difference = (a - b).flatten(1)
    if kind not in DISTANCES:
        raise ValueError(f"unknown distance {kind!r}: choose {', '.join(DISTANCES)}")
    if kind == "mse":
        return difference.square().mean(1)
    scale = {"mean_l1": difference.shape[1], "mean_l2": difference.shape[1] ** 0.5}.get(kind, 1)
    return torch.linalg.vector_norm(difference, ord=1 if kind.endswith("l1") else 2, dim=1) / scale


def terms(x: torch.Tensor, made: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    """The distances of equations (1), (2), (3), each (N,), by name, as far as `made` goes.

    image_1 is |x - x1|, latent_1 |z - z1|, image_2 and latent_2 the same of EDE2, image_adv |x - x2'| and latent_adv
    |z - z2'|.
    """
    distances = {}
    for name in ("1", "2", "2_adv"):
        for what, target, source in (("image", x, "x"), ("latent", made["z"], "z")):
            if source + name in made:
                distances[f"{what}_{name.removeprefix('2_')}"] = distance(target, made[source + name], kind)
    return distances


def weighted(terms: dict[str, torch.Tensor], name: str, alpha: float, beta: float) -> torch.Tensor:
    """alpha |x - .| + beta |z - .| of eq. (1), (2) or (3), mean over the batch; name: "1", "2" or "adv".

    A plain autoencoder has no second latent, and so no second term.
    """
    weights = {f"image_{name}": alpha, f"latent_{name}": beta}
    return sum(weight * terms[key] for key, weight in weights.items() if key in terms).mean()


def reconstruction_weight(n: int, floor: float = 0.0) -> float:
    """1/n of equations (6) and (7) in epoch n, counted from 1; at least `floor`: 1 trains phase 1 alone."""
    return max(1 / n, floor)


def epoch(step: int, steps: int = 32) -> int:
    """n of equations (6) and (7) at a training step, which counts from 0: an epoch is so many steps.

    32 steps are one pass over 2,000 images in batches of 64. Counted so, the same N means the same training, and the
    same course of 1/n, however many images there are.
    """
    return 1 + step // steps


def losses(
    terms: dict[str, torch.Tensor], n: int, alpha: float = 1.0, beta: float = 1.0, floor: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Eq. (6) and (7), means over the batch, two scalars: they share the adversarial term (3), with opposite signs."""
    w = reconstruction_weight(n, floor)
    loss_1, loss_2 = w * weighted(terms, "1", alpha, beta), w * weighted(terms, "2", alpha, beta)
    if w == 1:
        return loss_1, loss_2
    adversarial = (1 - w) * weighted(terms, "adv", alpha, beta)
    return loss_1 - adversarial, loss_2 + adversarial


def equation_8(terms: dict[str, torch.Tensor], omega: float = 0.5) -> torch.Tensor:
    """Eq. (8) for each image, (N,): omega |z - z2| + (1 - omega) |z - z2'|."""
    return omega * terms["latent_2"] + (1 - omega) * terms["latent_adv"]


def score(nets: SharedAE | PerUse, x: torch.Tensor, kind: str = "l1", omega: float = 0.5) -> torch.Tensor:
    """Algorithm 2: the score (8) of images x (N, C, 32, 32), (N,), high = anomalous; networks as they are.

    It leaves out x1 and z1, which the score does not need. nets: as built, or as `per_use` gives them.
    """
    made = forward(nets, x, first=False)
    pairs = (("latent_2", "z2"), ("latent_adv", "z2_adv"))
    return equation_8({name: distance(made["z"], made[z], kind) for name, z in pairs}, omega)


class Detector(nn.Module):
    """The method as one network: bytes (N, channels, 32, 32) -> scores (N,), eq. (8), and maps (N, 32, 32).

    The maps, |x - x2| as a mean over channels, are ours: the score compares latents, and knows no place.
    """

    def __init__(self, channels: int = 1, width: int = 32, latent: int = 64, distance: str = "l1", omega: float = 0.5):
        super().__init__()
        self.nets, self.distance, self.omega = build(channels, width, latent), distance, omega

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = to_float(images)
        x2 = self.nets.d2(self.nets.e1(x))
        return score(self.nets, x, self.distance, self.omega), (x - x2).abs().mean(1)


@torch.no_grad()
def evaluate(
    nets: SharedAE, images: torch.Tensor, kind: str, adversarial: bool = True, first: bool = True, batch: int = 128
) -> dict[str, torch.Tensor]:
    """The terms of uint8 images (N, C, 32, 32), networks in evaluation mode: each depends on its own image alone.

    adversarial, first: as in `forward`, where not all are wanted. Returns the dict of `terms`, and z (N, latent) in it.
    """
    nets.eval()
    parts = []
    for part in images.split(batch):
        x = to_float(part)
        made = forward(nets, x, adversarial, first)
        parts.append({**terms(x, made, kind), "z": made["z"]})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def candidates(terms: dict[str, torch.Tensor], alpha: float = 1.0, beta: float = 1.0) -> dict[str, torch.Tensor]:
    """Every score that the terms allow, by name, each (N,), high = anomalous: the latent ones first, then the others.

    score_8 is eq. (8) with omega one half, latent_2 with omega 1, latent_adv with omega 0; loss_2 is the loss of (2).
    """
    scores = {"score_8": equation_8(terms)} if "latent_adv" in terms else {}
    names = ("latent_2", "latent_adv", "latent_1", "image_1", "image_2", "image_adv")
    scores |= {name: terms[name] for name in names if name in terms}
    if "image_2" in terms:  # and so latent_2
        scores["loss_2"] = alpha * terms["image_2"] + beta * terms["latent_2"]
    return scores


def spread(z: torch.Tensor) -> torch.Tensor:
    """The standard deviation of latents z (N, latent) over the images, mean over the latent: 0 where all collapse."""
    return z.std(0).mean()


def choose(curves: dict) -> tuple | None:
    """The rule by which the study chooses: (setting, epoch, value) with the highest value.

    curves: setting -> (classes, epochs) of validation AUROCs of a score of eq. (8). Their mean over the classes is
    smoothed over three epochs (n - 1, n, n + 1), since it swings from one to the next, and n counts from 3: the game
    begins in epoch 2. Raises ValueError for fewer than four epochs.
    """
    best = None
    for setting, values in curves.items():
        means = torch.as_tensor(values, dtype=torch.float64).mean(0)
        if len(means) < 4:
            raise ValueError(f"setting {setting} has {len(means)} epochs: a choice needs four")
        smooth = means[1:].unfold(0, 3, 1).mean(1)  # its first is that of epoch 3
        at = int(smooth.argmax())
        if best is None or float(smooth[at]) > best[2]:
            best = (setting, at + 3, float(smooth[at]))
    return best


def _players(nets, routing):
    """The parameters that each loss moves: a list of lists."""
    if routing not in ROUTINGS:
        raise ValueError(f"unknown routing {routing!r}: choose {', '.join(ROUTINGS)}")
    if nets.d2 is None:
        return [ede_1(nets)]
    return [list(nets.parameters())] if routing == "sum" else [ede_1(nets), ede_2(nets)]


def optimizers(nets: SharedAE, routing: str, lr: float, beta1: float = 0.5) -> list[torch.optim.Adam]:
    """Adam for each EDE, so that E1 and E2 have two; for routing "sum", and where there is one EDE, a single one."""
    players = _players(nets, routing)
    return [torch.optim.Adam(parameters, lr, betas=(beta1, 0.999), fused=True) for parameters in players]


def gradients(
    nets: SharedAE,
    x: torch.Tensor,
    n: int,
    routing: str = "separate",
    distance: str = "l1",
    alpha: float = 1.0,
    beta: float = 1.0,
    floor: float = 0.0,
    stop_gradient: bool = False,
) -> tuple[list, dict[str, torch.Tensor]]:
    """The gradients of one step in epoch n: a list of them for each of `optimizers`, and the terms, detached.

    Algorithm 1 computes both losses from one pass, then updates "using" both. The text does not say which parameters
    each loss moves; both share E1 and E2. routing is the reading:

    - "separate": eq. (6) moves EDE1 (E1, D1, E2), eq. (7) moves EDE2 (E1, D2, E2), nothing else reaches either.
    - "detached": the same, but in the adversarial term of (6) z and z2 are given, as a GAN's discriminator is given its
      images, so that this term moves D1 and E2 alone.
    - "sum": every parameter gets the gradient of (6) + (7). The adversarial terms cancel: what is left is 1/n times
      phase 1.

    A single EDE, or a plain autoencoder, has eq. (1) alone. stop_gradient: the latent terms take z as given, so that
    beta |z - .| moves decoders and E2 and never E1. Raises ValueError for an unknown routing.
    """
    players, adversarial = _players(nets, routing), nets.d2 is not None and reconstruction_weight(n, floor) < 1
    made = forward(nets, x, adversarial)
    of_7 = of_6 = terms(x, made, distance)
    if routing == "detached" and adversarial:
        x2_adv = nets.d1(made["z2"].detach())
        of_6 = of_7 | terms(x, {"z": made["z"].detach(), "x2_adv": x2_adv, "z2_adv": nets.e2(x2_adv)}, distance)

    def objectives(what=""):
        """What each optimiser makes small, a list of scalars; what: "image" or "latent" for these terms alone."""
        first, second = ({name: v for name, v in terms.items() if name.startswith(what)} for terms in (of_6, of_7))
        if nets.d2 is None:
            return [weighted(first, "1", alpha, beta)]
        if routing == "sum":  # without the adversarial terms, which cancel
            both = weighted(first, "1", alpha, beta) + weighted(first, "2", alpha, beta)
            return [reconstruction_weight(n, floor) * both]
        return [losses(first, n, alpha, beta, floor)[0], losses(second, n, alpha, beta, floor)[1]]

    detached, taken = {name: values.detach() for name, values in of_7.items()}, []
    if not stop_gradient or nets.e2 is None:
        for loss, parameters in zip(objectives(), players, strict=True):
            taken.append(torch.autograd.grad(loss, parameters, retain_graph=True))
        return taken, detached
    k = len(list(nets.e1.parameters()))  # E1 stands first in each of `players`
    for image, latent, parameters in zip(objectives("image"), objectives("latent"), players, strict=True):
        by_image = torch.autograd.grad(image, parameters, retain_graph=True, materialize_grads=True)
        by_latent = torch.autograd.grad(latent, parameters[k:], retain_graph=True)
        taken.append([*by_image[:k], *(a + b for a, b in zip(by_image[k:], by_latent, strict=True))])
    return taken, detached


def step(nets: SharedAE, optimizers: list, x: torch.Tensor, n: int, **settings: object) -> dict[str, torch.Tensor]:
    """One training step on images x in epoch n; settings: those of `gradients`. Returns the terms, each (N,).

    All gradients are taken before anything moves, and each optimiser is handed its own: none accumulates on parameters
    that belong to the other player, as it does where two losses call backward() one after the other.
    """
    taken, distances = gradients(nets, x, n, **settings)
    for optimizer, own in zip(optimizers, taken, strict=True):
        for parameter, gradient in zip(optimizer.param_groups[0]["params"], own, strict=True):
            if gradient.stride() != parameter.stride():  # fused Adam pairs the two as they lie in memory
                gradient = torch.empty_like(parameter).copy_(gradient)
            parameter.grad = gradient
        optimizer.step()
    return distances
