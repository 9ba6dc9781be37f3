"""The study behind the settings of `two_stage`: how long, on what and from where, judged on validation images.

    OMP_NUM_THREADS=1 ADLIB_DATA=... python studies/two_stage.py              # goes on where it was
    OMP_NUM_THREADS=1 ADLIB_DATA=... python studies/two_stage.py --part 2/2   # every second unit, for a second process
    python studies/two_stage.py --quick                                       # a tiny one on embedded digits

**What is measured.** An encoder learns rotations (2) on 2,000 normal images and is frozen. Both decoders (8), (9) learn
on its z. The AUROC of score (10) and of its two parts is measured on validation images, all cut from the train split:
held-out normal images, and as many images of the other classes. All settings of a class and seed have the same
validation images. No test image is looked at. Each row of results/studies/two_stage.csv is one point: an encoder, a z,
a number of decoder epochs.

**Grid** on CLASSES and SEEDS: rotation epochs {0, 1, 3, 6} x shift {0, 4} x z {pooled, layer3}, decoder epochs 5 and
10; layer3 with seed 0 alone. Rotation epochs 0 is the control: the encoder with its random initial weights, and batch
norm's statistics 0 and 1. The control has no shift. On a CPU one epoch of both decoders costs a quarter of a rotation
epoch, and there are over 100 pairs of decoders. The whole grid at 30 decoder epochs would take more than twice as long.
So the curve goes on to 15 and 30 decoder epochs on LONG_CLASSES alone, with z pooled and seed 0, after rotation epochs
0, or 3 with shift. On these classes and this seed, 15 rotation epochs run as well, with shift, pooled. Then three
extras run on EXTRA_CLASSES with seed 0, after 3 epochs with shift: the paper read literally (z is the four
probabilities), Adam's beta1 0.5, and images in [0, 1] with a Sigmoid. The stem for CIFAR runs last, on digit 8 with 0,
1 and 3 epochs, no shift, and z pooled alone, because its layer3 has 16,384 numbers.

**Rate.** In RotNet each step down of the rate comes at a share of all epochs. So runs of 1, 3 and 6 epochs are
different runs. Here the rate is 0.1 for the first 60 % of the *steps*, 0.02 up to 80 %, then 0.004. The shares are
counted in steps, so they work for one epoch too. The first step down is at 60 % (RotNet's is at 30 %), so that the part
at 0.1 is common to all lengths. This part is trained once. At 60 % of each length a copy is taken and trained to its
own end. Batches and shifts are drawn for each step by its number. So the copy equals, number for number, a separate run
of that length, and `seconds_encoder` is what that run would have cost. All lengths together cost 7.6 epochs; separate
runs cost 10.

**z.** "pooled": after global average pooling, 512 numbers. "layer3": the map of layer3, 256 channels of 2 x 2,
flattened to 1,024 numbers; it replaces a decoder that starts from a map. "probabilities": the four probabilities
of the image as it is. z is computed once for each image. Images are not shifted for the decoders.

**Rule**, written before the first row (`choose`). A setting is rotation epochs, shift, z and decoder epochs. Its cost
is the mean of seconds_encoder + seconds_decoders, in CPU seconds of one thread.

1. Only the settings that every class and seed has are compared. The best is the one with the highest mean validation
   AUROC of score (10), lambda 1. A setting stays if its mean loss against the best is at most one standard error of the
   paired differences over classes and seeds (standard deviation with n - 1, divided by the root of n). The cheapest
   setting that stays is chosen.
2. Some settings have only a part of the classes and seeds (layer3, 15 rotation epochs, 15 and 30 decoder epochs). They
   are compared with that choice by the same rule, on the classes and seeds that both have. The settings with the most
   classes and seeds come first, and each comparison is with the choice so far.

Rotation epochs 0 is never chosen. Other stems, ranges, beta1 and the probabilities are not in the rule.
"""

import argparse
import copy
import sys
import time
from pathlib import Path


CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from adlib import images, machine, metrics, two_stage  # noqa: E402
from repro import claims, data  # noqa: E402
from studies import store  # noqa: E402


RESULTS = CHECKOUT / "results" / "studies" / "two_stage.csv"
CLASSES = [("mnist", "8"), ("fashion_mnist", "shirt"), ("mnist", "5"), ("cifar10", "car"), ("mnist", "2")]
LONG_CLASSES = [("mnist", "8"), ("fashion_mnist", "shirt"), ("cifar10", "car")]
EXTRA_CLASSES = [("mnist", "8"), ("fashion_mnist", "shirt")]
SEEDS = [0, 1]
EPOCHS = [1, 3, 6]
SHIFT = 4
READ = [5, 10, 15, 30]  # decoder epochs
FIXED = {"n_train": 2000, "validation": 400, "rotation_batch": 32, "decoder_batch": 64}
LAMBDAS = [0.1, 0.5, 2.0, 10.0]
SETTING = ["rotation_epochs", "shift", "z", "decoder_epochs"]
PLACE = ["dataset", "class", "seed"]
KEY = [*PLACE, "stem", "range", "beta1", *SETTING, "n_train"]
MEASURED = [
    "auroc",
    "auroc_mse",
    "auroc_ssim",
    *(f"auroc_lambda_{value:g}" for value in LAMBDAS),
    "auroc_rotnet",
    "auroc_rotnet_log",
    "rotation_accuracy",
    "mean_ssim",
    "mean_mse",
    "seconds_encoder",
    "seconds_decoders",
]
COLUMNS = [*KEY, "n_validation", *MEASURED, "device", "torch"]
# What the page compares, with all else alike: text -> (values, other values) of columns. `score` is one of the columns
# of AUROCs, "auroc" if it is not given.
TRAINED = {
    f"rotation epochs {n}, {f'shifts of up to {shift} px' if shift else 'no shift'}": (
        {"rotation_epochs": n, "shift": shift},
        {"rotation_epochs": 0, "shift": 0},
    )
    for shift in (0, SHIFT)
    for n in (*EPOCHS, 15)
}
OPTIONS = {
    "shifts of up to 4 px minus none": ({"shift": 4}, {"shift": 0}),
    "3 rotation epochs minus 1": ({"rotation_epochs": 3}, {"rotation_epochs": 1}),
    "6 rotation epochs minus 3": ({"rotation_epochs": 6}, {"rotation_epochs": 3}),
    "15 rotation epochs minus 6": ({"rotation_epochs": 15}, {"rotation_epochs": 6}),
    "10 decoder epochs minus 5": ({"decoder_epochs": 10}, {"decoder_epochs": 5}),
    "15 decoder epochs minus 10": ({"decoder_epochs": 15}, {"decoder_epochs": 10}),
    "30 decoder epochs minus 15": ({"decoder_epochs": 30}, {"decoder_epochs": 15}),
    "z the map of layer3 minus pooled": ({"z": "layer3"}, {"z": "pooled"}),
    "z the four probabilities minus pooled": ({"z": "probabilities"}, {"z": "pooled"}),
    "Adam's beta1 0.5 minus 0.9": ({"beta1": 0.5}, {"beta1": 0.9}),
    "images in [0, 1] and a Sigmoid minus [-1, 1] and Tanh": ({"range": "0..1"}, {"range": "-1..1"}),
    "stem for CIFAR minus ImageNet's": ({"stem": "cifar"}, {"stem": "imagenet"}),
    "score (10) minus its squared error alone": ({"score": "auroc"}, {"score": "auroc_mse"}),
    "score (10) minus its SSIM alone": ({"score": "auroc"}, {"score": "auroc_ssim"}),
    **{f"lambda {x:g} minus 1": ({"score": f"auroc_lambda_{x:g}"}, {"score": "auroc"}) for x in LAMBDAS},
    "RotNet's score, logarithms minus probabilities": ({"score": "auroc_rotnet_log"}, {"score": "auroc_rotnet"}),
}


def units() -> list[dict]:
    """The queue. A unit is the training of one encoder: place, stem, shift and range, and a plan of the measurements.

    plan: {rotation epochs: [(z, beta1, last decoder epoch), ...]}.
    """
    short, long, beta1 = READ[1], READ[-1], 0.9
    common, found = {"stem": "imagenet", "range": "-1..1", "shift": 0}, []

    def add(place, seed, plan, **other):
        found.append({"dataset": place[0], "class": place[1], "seed": seed, **common, "plan": plan} | other)

    def grid(seed, curve):
        return [("pooled", beta1, curve), *([("layer3", beta1, short)] if seed == 0 else [])]

    for seed in SEEDS:
        for place in CLASSES:
            curve = long if seed == 0 and place in LONG_CLASSES else short
            add(place, seed, {0: grid(seed, curve)})
            add(place, seed, {n: grid(seed, short) for n in EPOCHS})
            add(place, seed, {n: grid(seed, curve if n == 3 else short) for n in EPOCHS}, shift=SHIFT)
    for place in EXTRA_CLASSES:
        add(place, 0, {3: [("probabilities", beta1, short), ("pooled", 0.5, short)]}, shift=SHIFT)
        add(place, 0, {3: [("pooled", beta1, short)]}, shift=SHIFT, range="0..1")
    for place in LONG_CLASSES:
        add(place, 0, {15: [("pooled", beta1, short)]}, shift=SHIFT)
    add(("mnist", "8"), 0, {n: [("pooled", beta1, short)] for n in (0, 1, 3)}, stem="cifar")
    return found


def random_shift(x: torch.Tensor, reach: int, mode: str, rng: np.random.Generator) -> torch.Tensor:
    """Each image moved by up to `reach` pixels along either axis. x and result: float (N, C, H, W) in [-1, 1].

    mode: what comes in, "constant" (-1, a digit's background) or "reflect".
    """
    offsets = torch.from_numpy(rng.integers(0, 2 * reach + 1, (2, len(x), 1)))[..., 0]
    return images.shift(x, offsets, reach, mode, value=-1.0)


def representations(encoder: nn.Module, head: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Each z of images (N, C, 32, 32): pooled (N, 512), layer3 (N, 1024), four logits and four probabilities (N, 4)."""
    layer3 = encoder.layer3(
        encoder.layer2(encoder.layer1(encoder.maxpool(encoder.relu(encoder.bn1(encoder.conv1(x))))))
    )
    pooled = encoder.last(encoder.layer4(layer3)).mean((2, 3))
    logits = head(pooled)
    return {"pooled": pooled, "layer3": layer3.flatten(1), "logits": logits, "probabilities": logits.softmax(1)}


def rebuild(decoder: nn.Sequential, z: torch.Tensor) -> torch.Tensor:
    """What the decoder makes of z (N, latent): (N, C, 32, 32) in [-1, 1], even if the decoder ends in a Sigmoid."""
    y = decoder(z)
    return 2 * y - 1 if isinstance(decoder[-1], nn.Sigmoid) else y


LOSSES = {
    "mse": lambda x, reconstruction: two_stage.mse(x, reconstruction).mean(),  # eq. (8)
    "ssim": lambda x, reconstruction: -two_stage.ssim(x, reconstruction).mean(),  # eq. (9)
}


def images_of(unit: dict) -> dict:
    """Training and validation images of a unit, float in [-1, 1], and which of the validation images are anomalous.

    `data.one_class` holds them out of the train split. At most FIXED["validation"] normal and as many anomalous images
    are kept.
    """
    split = data.one_class(
        unit["dataset"],
        unit["class"],
        seed=unit["seed"],
        size=two_stage.IMAGE_SIZE,
        n_train=FIXED["n_train"],
        validation=0.1,
    )
    wrong = split.validation_is_anomalous
    kept = torch.cat([torch.nonzero(wrong == kind).flatten()[: FIXED["validation"]] for kind in (False, True)])
    return {
        "train": images.to_float(split.train),
        "validation": images.to_float(split.validation[kept]),
        "is_anomalous": wrong[kept],
    }


def rotation_steps(state: tuple, x: torch.Tensor, start: int, stop: int, steps: int | None, unit: dict) -> None:
    """Steps start to stop of stage 1, eq. (2), on state (encoder, head, optimizer).

    steps: the number of steps of the run; None: the part at 0.1, which has no end. x: (N, C, 32, 32) in [-1, 1]. What a
    step draws depends on the unit's seed and the number of the step alone.
    """
    encoder, head, optimizer = state
    encoder.train()
    per_epoch = -(-len(x) // FIXED["rotation_batch"])
    mode = "constant" if unit["dataset"] in ("mnist", "digits") else "reflect"
    for step in range(start, stop):
        epoch, place = divmod(step, per_epoch)
        order = np.random.default_rng([unit["seed"], 0, epoch]).permutation(len(x))
        batch = x[torch.from_numpy(order[place * FIXED["rotation_batch"] :][: FIXED["rotation_batch"]])]
        if unit["shift"]:
            batch = random_shift(batch, unit["shift"], mode, np.random.default_rng([unit["seed"], 1, step]))
        x4, turns = images.rotations(ranged(batch, unit))
        for group in optimizer.param_groups:
            group["lr"] = 0.1 if steps is None else two_stage.rate(step, steps)
        loss = two_stage.rotation_loss(head(encoder(x4)), turns)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def ranged(x: torch.Tensor, unit: dict) -> torch.Tensor:
    """Images in [-1, 1] as the unit's encoder sees them."""
    return x if unit["range"] == "-1..1" else (x + 1) / 2


def encoders(unit: dict, x: torch.Tensor, lengths: list[int]):
    """Yields (epochs, encoder, head, seconds) for each length, from the shortest; frozen, in evaluation mode.

    The steps at 0.1 are taken once. At 60 % of each length a copy is taken and trained to its end by `rate`. seconds:
    CPU time of a separate run of that length.
    """
    torch.manual_seed(unit["seed"])
    encoder, head, _ = two_stage.build(x.shape[1], unit["stem"])
    encoder = encoder.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        [*encoder.parameters(), *head.parameters()], lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True, fused=True
    )
    trunk, at, seconds = (encoder, head, optimizer), 0, 0.0
    for epochs in sorted(lengths):
        steps = epochs * -(-len(x) // FIXED["rotation_batch"])
        start = time.process_time()
        rotation_steps(trunk, x, at, round(0.6 * steps), None, unit)
        at, seconds = round(0.6 * steps), seconds + time.process_time() - start
        branch = copy.deepcopy(trunk)
        start = time.process_time()
        rotation_steps(branch, x, at, steps, steps, unit)
        for network in branch[:2]:
            network.eval().requires_grad_(False)
        yield epochs, branch[0], branch[1], seconds + time.process_time() - start


@torch.no_grad()
def of_rotations(encoder: nn.Module, head: nn.Module, split: dict, unit: dict) -> dict[str, float]:
    """AUROCs of RotNet's own score on the validation images, and the share of turns found in the normal images."""
    logits = [head(encoder(images.rotations(ranged(part, unit))[0])) for part in split["validation"].split(100)]
    scores = {
        f"auroc_rotnet{name}": torch.cat([two_stage.rotation_score(part, log) for part in logits])
        for name, log in (("", False), ("_log", True))
    }
    right = torch.cat([(part.argmax(1).view(4, -1) == torch.arange(4)[:, None]).float().mean(0) for part in logits])
    measured = {name: metrics.auroc(values, split["is_anomalous"]) for name, values in scores.items()}
    return {**measured, "rotation_accuracy": right[~split["is_anomalous"]].mean().item()}


def decoder_curve(split: dict, z: dict[str, torch.Tensor], unit: dict, beta1: float, last: int) -> list[dict]:
    """Train both decoders separately on z, for `last` epochs. Returns what is measured after each epoch of READ.

    z: "train" (N, latent) and "validation" (M, latent).
    """
    torch.manual_seed(unit["seed"])
    x, latent = split["train"], z["train"].shape[1]
    decoders = {name: two_stage.Decoder(x.shape[1], latent) for name in LOSSES}
    if unit["range"] != "-1..1":
        for decoder in decoders.values():
            decoder[-1] = nn.Sigmoid()
    optimizers = {
        name: torch.optim.Adam(decoder.parameters(), lr=0.0002, betas=(beta1, 0.999), fused=True)
        for name, decoder in decoders.items()
    }
    found, seconds = [], 0.0
    for epoch in range(1, last + 1):
        start = time.process_time()
        order = np.random.default_rng([unit["seed"], 2, epoch]).permutation(len(x))
        for batch in torch.from_numpy(order).split(FIXED["decoder_batch"]):
            for name, decoder in decoders.items():
                loss = LOSSES[name](x[batch], rebuild(decoder.train(), z["train"][batch]))
                optimizers[name].zero_grad()
                loss.backward()
                optimizers[name].step()
        seconds += time.process_time() - start
        if epoch in READ:
            found.append(
                {"decoder_epochs": epoch, **of_decoders(decoders, split, z["validation"]), "seconds_decoders": seconds}
            )
    return found


@torch.no_grad()
def of_decoders(decoders: dict, split: dict, z: torch.Tensor) -> dict[str, float]:
    """On validation images: AUROCs of score (10) by lambda and of its parts, and both means of the normal images."""
    x, is_anomalous = split["validation"], split["is_anomalous"]
    rebuilt = {name: torch.cat([rebuild(d.eval(), part) for part in z.split(200)]) for name, d in decoders.items()}
    error, similarity = two_stage.mse(x, rebuilt["mse"]), two_stage.ssim(x, rebuilt["ssim"])
    scores = {"auroc": error - similarity, "auroc_mse": error, "auroc_ssim": -similarity}
    scores |= {f"auroc_lambda_{value:g}": error - value * similarity for value in LAMBDAS}
    return {
        **{name: metrics.auroc(values, is_anomalous) for name, values in scores.items()},
        "mean_mse": error[~is_anomalous].mean().item(),
        "mean_ssim": similarity[~is_anomalous].mean().item(),
    }


def run(unit: dict, out: Path = RESULTS) -> None:
    """Measure what `out` lacks of a unit. Write the rows of one encoder and z at a time to `out`, and print a line."""
    done = {tuple(row[name] for name in KEY) for row in read(out)}

    def missing(epochs, measure):
        z, beta1, last = measure
        row = {**unit, "beta1": beta1, "rotation_epochs": epochs, "z": z, "n_train": FIXED["n_train"]}
        wanted = [{**row, "decoder_epochs": n} for n in READ if n <= last]
        return any(tuple(str(one[name]) for name in KEY) not in done for one in wanted)

    plan = {epochs: [one for one in some if missing(epochs, one)] for epochs, some in unit["plan"].items()}
    plan = {epochs: some for epochs, some in plan.items() if some}
    if not plan:
        return
    split = images_of(unit)
    for epochs, encoder, head, seconds in encoders(unit, split["train"], list(plan)):
        common = of_rotations(encoder, head, split, unit)
        start = time.process_time()
        with torch.no_grad():
            parts = {
                name: [representations(encoder, head, ranged(part, unit)) for part in split[name].split(200)]
                for name in ("train", "validation")
            }
        seconds += (
            (time.process_time() - start) * len(split["train"]) / (len(split["train"]) + len(split["validation"]))
        )
        for name, beta1, last in plan[epochs]:
            start = time.perf_counter()
            z = {which: torch.cat([part[name] for part in some]) for which, some in parts.items()}
            rows = [
                {
                    **unit,
                    **common,
                    **measured,
                    "beta1": beta1,
                    "rotation_epochs": epochs,
                    "z": name,
                    "n_train": FIXED["n_train"],
                    "n_validation": len(split["validation"]),
                    "seconds_encoder": seconds,
                    "device": machine.name(torch.device("cpu")),
                    "torch": torch.__version__,
                }
                for measured in decoder_curve(split, z, unit, beta1, last)
            ]
            add(rows, out)
            curve = " ".join(f"{row['decoder_epochs']}:{row['auroc']:.3f}" for row in rows)
            place = f"{unit['dataset']} {unit['class']} seed {unit['seed']} {unit['stem']} shift {unit['shift']}"
            print(
                f"{time.strftime('%H:%M:%S')} {place} epochs {epochs} {name} beta1 {beta1} range {unit['range']}: "
                f"{curve}, turns {common['rotation_accuracy']:.2f}, encoder {seconds:.0f} s, "
                f"decoders {time.perf_counter() - start:.0f} s",
                flush=True,
            )


def read(path: Path = RESULTS) -> list[dict[str, str]]:
    """The rows of the file, dicts of text; none if there is no file. ValueError if it is damaged."""
    return store.read(path, COLUMNS)


def add(rows: list[dict], out: Path) -> None:
    """Write rows to the file. They replace rows of the same key. The file is always whole, for two processes too."""
    texts = [
        {**{name: str(row[name]) for name in COLUMNS}, **{name: f"{row[name]:.6g}" for name in MEASURED}}
        for row in rows
    ]
    store.add(texts, out, COLUMNS, KEY)


def table(path: Path = RESULTS) -> pd.DataFrame:
    """The rows as a table, with the class as text."""
    return pd.read_csv(path, dtype={"class": str})


def choose(rows: pd.DataFrame) -> dict:
    """The setting that the rule above chooses: a dict of SETTING, `auroc` and `seconds`, both means over its places.

    rows: a table with COLUMNS. Raises ValueError if no setting is measured on every class and seed.
    """
    main = (rows["stem"] == "imagenet") & (rows["range"] == "-1..1") & (rows["beta1"] == 0.9)
    rows = rows[main & (rows["rotation_epochs"] > 0) & rows["z"].isin(["pooled", "layer3"])]
    rows = rows.assign(seconds=rows["seconds_encoder"] + rows["seconds_decoders"])
    auroc = rows.pivot(index=SETTING, columns=PLACE, values="auroc")
    seconds = rows.pivot(index=SETTING, columns=PLACE, values="seconds")
    everywhere = auroc.index[auroc.notna().all(axis=1)]
    if everywhere.empty:
        raise ValueError("no setting is measured on every class and seed")
    best = _cheapest(auroc.loc[everywhere], seconds.loc[everywhere])
    groups = {}
    for setting in auroc.index.difference(everywhere, sort=False):
        groups.setdefault(tuple(auroc.notna().loc[setting]), []).append(setting)
    for places in sorted(groups, key=sum, reverse=True):
        shared = np.array(places) & auroc.notna().loc[best].to_numpy()
        if shared.sum() > 1:  # one place alone has no standard error
            settings = [best, *groups[places]]
            best = _cheapest(auroc.loc[settings, shared], seconds.loc[settings, shared])
    named = {
        name: getattr(value, "item", lambda value=value: value)() for name, value in zip(SETTING, best, strict=True)
    }
    return {**named, "auroc": float(auroc.loc[best].mean()), "seconds": float(seconds.loc[best].mean())}


def _cheapest(auroc: pd.DataFrame, seconds: pd.DataFrame) -> tuple:
    """The cheapest setting within one standard error of the best. Settings are rows, their common places columns."""
    loss = auroc.loc[auroc.mean(axis=1).idxmax()] - auroc
    stays = loss.mean(axis=1) <= loss.std(axis=1, ddof=1).fillna(0.0) / loss.shape[1] ** 0.5 + 1e-12
    return seconds[stays].mean(axis=1).idxmin()


def planned() -> int:
    """The number of rows that the whole queue gives."""
    lasts = [last for unit in units() for some in unit["plan"].values() for *_, last in some]
    return sum(n <= last for last in lasts for n in READ)


def differences(rows: pd.DataFrame, a: dict, b: dict) -> pd.DataFrame:
    """Points of AUROC of rows with the values `a` minus those with `b` and all else alike: classes down, seeds across.

    a, b: values of the same columns; `score` may be one of them (default "auroc"). The value of a class and seed is the
    mean over all such pairs. Only the seeds that have the most classes count. The result is empty if nothing pairs.
    """
    long = rows.melt(KEY, [name for name in MEASURED if name.startswith("auroc")], "score", value_name="points")
    sides = []
    for side in ({"score": "auroc", **a}, {"score": "auroc", **b}):
        wanted = np.logical_and.reduce([long[name] == value for name, value in side.items()])
        sides.append(long[wanted].set_index([name for name in [*KEY, "score"] if name not in side])["points"])
    points = 100 * (sides[0] - sides[1]).dropna()
    points = points.groupby(PLACE).mean().unstack("seed")
    if points.empty:
        return points
    points = points[points[points.notna().sum().idxmax()].notna()]
    return points.loc[:, points.notna().all()]


def effects(rows: pd.DataFrame, options: dict[str, tuple[dict, dict]]) -> pd.DataFrame:
    """The mean of `differences` with its 95 % interval, for each option for which rows make pairs.

    Columns: what; mean, low, high (NaN for one class); points (the three as text); above, "2 of 5" classes; seeds.
    """
    lines = []
    for what, (a, b) in options.items():
        points = differences(rows, a, b)
        if len(points):
            mean, above = points.to_numpy().mean(), f"{(points.mean(axis=1) > 0).sum()} of {len(points)}"
            low, high = claims.interval(points.to_numpy()) if len(points) > 1 else (np.nan, np.nan)
            text = f"{mean:+.1f}" + f" [{low:+.1f}, {high:+.1f}]" * (len(points) > 1)
            lines.append((what, mean, low, high, text, above, points.shape[1]))
    return pd.DataFrame(lines, columns=["what", "mean", "low", "high", "points", "above", "seeds"])


def turns_by_place(x: torch.Tensor) -> float:
    """The share of turns that are known from the place alone, of images (N, C, H, W) in [-1, 1] on a dark ground.

    A quarter turn moves the centre of mass to the next quadrant. So the turn can be guessed from this quadrant alone,
    that is, from the signs of the centre's two offsets from the middle. The guess is right for the images whose upright
    centre is in the usual quadrant.
    """
    light = (x.float() + 1).mean(1)
    places = [torch.arange(n, device=x.device) - (n - 1) / 2 for n in light.shape[1:]]
    below, right = light.sum(2) @ places[0] > 0, light.sum(1) @ places[1] > 0
    return torch.bincount(2 * below + right, minlength=4).max().item() / len(x)


def quick_units() -> list[dict]:
    """One class of the embedded digits, rotation epochs 0 and 1."""
    common = {"dataset": "digits", "class": "3", "seed": 0, "stem": "imagenet", "range": "-1..1"}
    return [{**common, "shift": SHIFT, "plan": {n: [("pooled", 0.9, 2), ("layer3", 0.9, 1)] for n in (0, 1)}}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="1/1", help="k/n: every n-th unit from the k-th, for n processes")
    parser.add_argument("--quick", action="store_true", help="a tiny study, seconds, to build/two_stage_quick.csv")
    asked = parser.parse_args()
    part, parts = map(int, asked.part.split("/"))
    torch.set_num_threads(1)
    queue, out = units(), RESULTS
    if asked.quick:
        READ[:] = [1, 2]
        FIXED.update(n_train=32, validation=20)
        queue, out = quick_units(), CHECKOUT / "build" / "two_stage_quick.csv"
    for unit in queue[part - 1 :: parts]:
        run(unit, out)
    try:
        print("chosen: " + ", ".join(f"{name} {value}" for name, value in choose(table(out)).items()))
    except ValueError as error:
        print(f"nothing chosen yet: {error}")


if __name__ == "__main__":
    main()
