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
    "z": ("e1", "x"),
    "x1": ("d1", "z"),
    "z1": ("e2", "x1"),
    "x2": ("d2", "z"),
    "z2": ("e2", "x2"),
    "x2_adv": ("d1", "z2"),
    "z2_adv": ("e2", "x2_adv"),
}


class Encoder(nn.Sequential):
    """Fig. 3 (A): image (N, channels, 32, 32) -> latent (N, latent) in (-1, 1).

    Four convolutions, 32 -> 16 -> 8 -> 4 -> 1 px, of width, 2 width, 4 width and `latent` channels; LeakyReLU after the
    first three, batch norm before it in the second and third, Tanh at the end. Kernels 4x4 (paper: silent; DCGAN's).
    """

    def __init__(self, channels, width, latent):
        super().__init__(
            nn.Conv2d(channels, width, 4, 2, 1),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(2 * width, 4 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(4 * width),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(4 * width, latent, 4),
            nn.Tanh(),
            nn.Flatten(),
        )


class Decoder(nn.Sequential):
    """Fig. 3 (B): latent (N, latent) -> image (N, channels, 32, 32) in [-1, 1].

    Three transposed convolutions, each with batch norm and LeakyReLU, then one with Tanh; the encoder's sizes
    backwards.
    """

    def __init__(self, channels, width, latent):
        layers, below = [nn.Unflatten(1, (latent, 1, 1))], latent
        for wide, stride, padding in [(4 * width, 1, 0), (2 * width, 2, 1), (width, 2, 1)]:
            layers += [
                nn.ConvTranspose2d(below, wide, 4, stride, padding, bias=False),
                nn.BatchNorm2d(wide),
                nn.LeakyReLU(SLOPE),
            ]
            below = wide
        super().__init__(*layers, nn.ConvTranspose2d(below, channels, 4, 2, 1), nn.Tanh())


class SharedAE(nn.Module):
    """Two encoders and two decoders; EDE1 is E1, D1, E2 and EDE2 is E1, D2, E2 (Fig. 2).

    `parts` names those that there are: "e1 d1" is a plain autoencoder, "e1 d1 e2" a single EDE; the others are None.
    """

    def __init__(self, channels, width, latent, parts):
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


def build(channels=1, width=32, latent=64, parts="e1 d1 e2 d2"):
    """The networks named in `parts`, untrained, for images with so many channels, as a `SharedAE`."""
    return SharedAE(channels, width, latent, parts)


def ede_1(nets):
    """The parameters of EDE1 (E1, D1, E2), a list."""
    return [p for part in (nets.e1, nets.d1, nets.e2) if part is not None for p in part.parameters()]


def ede_2(nets):
    """The parameters of EDE2 (E1, D2, E2), a list."""
    return [p for part in (nets.e1, nets.d2, nets.e2) for p in part.parameters()]


def forward(nets, x, adversarial=True, first=True):
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
        for some in made[source].split(batch):
            network(some)
        network.eval()
        if any(use == later for _, later in USES.values()):
            made[use] = torch.cat([network(some) for some in made[source].split(batch)])
    return copies


def distance(a, b, kind):
    """The distance of each pair, (N,).

    kind: "l1" (sum of absolute differences, as equations 1 to 8 are printed), "l2" (Euclidean) or "mse" (mean of
    squares). "mean_l1" and "mean_l2" are "l1" and "l2" by element, with D elements a pair: |a - b|_1 / D and
    |a - b|_2 / sqrt(D), the root of "mse". By them alpha : beta does not depend on the numbers of pixels and latents.
    Raises ValueError for another.
    """
    difference = (a - b).flatten(1)
    if kind == "l1":
        return difference.abs().sum(1)
    if kind == "l2":
        return torch.linalg.vector_norm(difference, dim=1)
    if kind == "mse":
        return difference.square().mean(1)
    if kind == "mean_l1":
        return difference.abs().mean(1)
    if kind == "mean_l2":
        return torch.linalg.vector_norm(difference, dim=1) / difference.shape[1] ** 0.5
    raise ValueError(f"unknown distance {kind!r}: choose {', '.join(DISTANCES)}")


def terms(x, made, kind):
    """The distances of equations (1), (2), (3), each (N,), by name, as far as `made` goes.

    image_1 is |x - x1|, latent_1 |z - z1|, image_2 and latent_2 the same of EDE2, image_adv |x - x2'| and latent_adv
    |z - z2'|.
    """
    found = {}
    for name in ("1", "2", "2_adv"):
        for what, target, source in (("image", x, "x"), ("latent", made["z"], "z")):
            if source + name in made:
                found[f"{what}_{name.removeprefix('2_')}"] = distance(target, made[source + name], kind)
    return found


def weighted(terms, name, alpha, beta):
    """alpha |x - .| + beta |z - .| of eq. (1), (2) or (3), mean over the batch; name: "1", "2" or "adv".

    A plain autoencoder has no second latent, and so no second term.
    """
    weights = {f"image_{name}": alpha, f"latent_{name}": beta}
    return sum(weight * terms[key] for key, weight in weights.items() if key in terms).mean()


def reconstruction_weight(n, floor=0.0):
    """1/n of equations (6) and (7) in epoch n, counted from 1; at least `floor`: 1 trains phase 1 alone."""
    return max(1 / n, floor)


def epoch(step: int, steps: int = 32) -> int:
    """n of equations (6) and (7) at a training step, which counts from 0: an epoch is so many steps.

    32 steps are one pass over 2,000 images in batches of 64. Counted so, the same N means the same training, and the
    same course of 1/n, however many images there are.
    """
    return 1 + step // steps


def losses(terms, n, alpha=1.0, beta=1.0, floor=0.0):
    """Eq. (6) and (7), means over the batch, two scalars: they share the adversarial term (3), with opposite signs."""
    w = reconstruction_weight(n, floor)
    loss_1, loss_2 = w * weighted(terms, "1", alpha, beta), w * weighted(terms, "2", alpha, beta)
    if w == 1:
        return loss_1, loss_2
    adversarial = (1 - w) * weighted(terms, "adv", alpha, beta)
    return loss_1 - adversarial, loss_2 + adversarial


def equation_8(terms, omega=0.5):
    """Eq. (8) for each image, (N,): omega |z - z2| + (1 - omega) |z - z2'|."""
    return omega * terms["latent_2"] + (1 - omega) * terms["latent_adv"]


def score(nets, x, kind="l1", omega=0.5):
    """Algorithm 2: the score (8) of images x (N, C, 32, 32), (N,), high = anomalous; networks as they are.

    It leaves out x1 and z1, which the score does not need. nets: as built, or as `per_use` gives them.
    """
    made = forward(nets, x, first=False)
    found = {name: distance(made["z"], made[z], kind) for name, z in (("latent_2", "z2"), ("latent_adv", "z2_adv"))}
    return equation_8(found, omega)


class Detector(nn.Module):
    """The method as one network: bytes (N, channels, 32, 32) -> scores (N,), eq. (8), and maps (N, 32, 32).

    The maps, |x - x2| as a mean over channels, are ours: the score compares latents, and knows no place.
    """

    def __init__(self, channels=1, width=32, latent=64, distance="l1", omega=0.5):
        super().__init__()
        self.nets, self.distance, self.omega = build(channels, width, latent), distance, omega

    def forward(self, images):
        x = to_float(images)
        x2 = self.nets.d2(self.nets.e1(x))
        return score(self.nets, x, self.distance, self.omega), (x - x2).abs().mean(1)


@torch.no_grad()
def evaluate(nets, images, kind, adversarial=True, first=True, batch=128):
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


def candidates(terms, alpha=1.0, beta=1.0):
    """Every score that the terms allow, by name, each (N,), high = anomalous: the latent ones first, then the others.

    score_8 is eq. (8) with omega one half, latent_2 with omega 1, latent_adv with omega 0; loss_2 is the loss of eq.
    (2), image and latent together.
    """
    found = {}
    if "latent_adv" in terms:
        found["score_8"] = equation_8(terms)
    found |= {name: terms[name] for name in ("latent_2", "latent_adv", "latent_1") if name in terms}
    found |= {name: terms[name] for name in ("image_1", "image_2", "image_adv") if name in terms}
    if "image_2" in terms:  # and so latent_2
        found["loss_2"] = alpha * terms["image_2"] + beta * terms["latent_2"]
    return found


def spread(z):
    """The standard deviation of latents z (N, latent) over the images, mean over the latent: 0 where all collapse."""
    return z.std(0).mean()


def choose(curves):
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


def optimizers(nets, routing, lr, beta1=0.5):
    """Adam for each EDE, so that E1 and E2 have two; for routing "sum", and where there is one EDE, a single one."""
    _check(routing)
    if nets.d2 is None:
        players = [ede_1(nets)]
    else:
        players = [list(nets.parameters())] if routing == "sum" else [ede_1(nets), ede_2(nets)]
    return [torch.optim.Adam(parameters, lr, betas=(beta1, 0.999), fused=True) for parameters in players]


def gradients(nets, x, n, routing="separate", distance="l1", alpha=1.0, beta=1.0, floor=0.0, stop_gradient=False):
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
    _check(routing)
    adversarial = nets.d2 is not None and reconstruction_weight(n, floor) < 1
    made = forward(nets, x, adversarial)
    found = given = terms(x, made, distance)
    if routing == "detached" and adversarial:
        x2_adv = nets.d1(made["z2"].detach())
        given = found | terms(x, {"z": made["z"].detach(), "x2_adv": x2_adv, "z2_adv": nets.e2(x2_adv)}, distance)

    def objectives(what=""):
        """What each optimiser makes small, a list of scalars; what: "image" or "latent" for these terms alone."""
        one, other = ({name: v for name, v in some.items() if name.startswith(what)} for some in (given, found))
        if nets.d2 is None:
            return [weighted(one, "1", alpha, beta)]
        if routing == "sum":  # without the adversarial terms, which cancel
            both = weighted(one, "1", alpha, beta) + weighted(one, "2", alpha, beta)
            return [reconstruction_weight(n, floor) * both]
        return [losses(one, n, alpha, beta, floor)[0], losses(other, n, alpha, beta, floor)[1]]

    if nets.d2 is None:
        moved = [ede_1(nets)]
    else:
        moved = [list(nets.parameters())] if routing == "sum" else [ede_1(nets), ede_2(nets)]
    taken = []
    if not stop_gradient or nets.e2 is None:
        for loss, some in zip(objectives(), moved, strict=True):
            taken.append(torch.autograd.grad(loss, some, retain_graph=True))
        return taken, _detached(found)
    k = len(list(nets.e1.parameters()))  # E1 stands first in each of `moved`
    for image, latent, some in zip(objectives("image"), objectives("latent"), moved, strict=True):
        by_image = torch.autograd.grad(image, some, retain_graph=True, materialize_grads=True)
        by_latent = torch.autograd.grad(latent, some[k:], retain_graph=True)
        taken.append([*by_image[:k], *(a + b for a, b in zip(by_image[k:], by_latent, strict=True))])
    return taken, _detached(found)


def step(nets, optimizers, x, n, **settings):
    """One training step on images x in epoch n; settings: those of `gradients`. Returns the terms, each (N,).

    All gradients are taken before anything moves, and each optimiser is handed its own: none accumulates on parameters
    that belong to the other player, as it does where two losses call backward() one after the other.
    """
    found, distances = gradients(nets, x, n, **settings)
    for optimizer, some in zip(optimizers, found, strict=True):
        for parameter, gradient in zip(optimizer.param_groups[0]["params"], some, strict=True):
            if gradient.stride() != parameter.stride():  # fused Adam pairs the two as they lie in memory
                gradient = torch.empty_like(parameter).copy_(gradient)
            parameter.grad = gradient
        optimizer.step()
    return distances


def _check(routing):
    if routing not in ROUTINGS:
        raise ValueError(f"unknown routing {routing!r}: choose {', '.join(ROUTINGS)}")


def _detached(found):
    return {name: values.detach() for name, values in found.items()}
