"""The study behind the settings of `patch_ae`: a rate that a pretrained network survives, alpha, and how long.

    OMP_NUM_THREADS=1 ADLIB_DATA=... python studies/patch_ae.py              # goes on where it was
    OMP_NUM_THREADS=1 ADLIB_DATA=... python studies/patch_ae.py --part 2/2   # every second unit, for a second process
    OMP_NUM_THREADS=1 ADLIB_DATA=... python studies/patch_ae.py --copies     # what another JPEG changes; minutes
    python studies/patch_ae.py --quick                                       # a tiny one on drawn textures

**What is measured.** The autoencoder learns on CATEGORIES of MVTec AD with ResNet18 at 256 px (profile `quick`), as the
notebook trains it. Adam has the rate LR for the new layers (the two 1x1 convolutions before R, and the decoder) and
another rate for the pretrained backbone. Batches have 16 images with CutPaste defects. A tenth of the flawless training
images is held out. After each number of steps in READ a memory bank of 1 % of the training vectors is taken. Then the
image AUROC of the *test split* is read in three ways: from R ("R"), from R on 3x3 means ("R_mean"), and from
PatchCore's features of the trained backbone ("patchcore"). Before any step, the features without the mean are read too
("patchcore_no_mean"). One training gives all its steps. results/studies/patch_ae.csv has one row for each reading.

**Grid.** Backbone rate {0, 1e-6, 1e-5, 1e-4} x alpha {0, 0.5}, at 0, 40, 150 and 300 steps, seed 0. Before the first
step nothing depends on rate and alpha, so this reading is the same for all of them. In addition to the grid, the two
other starts of the 1x1 convolutions (`patch_ae.HEADS`) are read before any step.

**Rule**, written before the first row (`choose`). MVTec AD has no anomalies to validate on. Settings chosen by test
labels would look better than they are. So one category is left out at a time. It takes the candidate with the highest
mean AUROC over the *other* categories. The AUROC that counts is the category's own AUROC with this candidate. In this
way no number has seen its own labels. Categories outside of the study take the candidate with the highest mean over all
categories. A candidate is a backbone rate above 0 (the paper trains end to end), alpha, a number of steps above 0, and
R or R_mean. Rate 0, no steps, and PatchCore's features are controls and are never chosen. Of equal candidates the first
is chosen, in the order R, lower rate, fewer steps, alpha 0.5.

**In addition** (`by_cutpaste`) the study says what artificial defects would have chosen without any label. They choose
the candidate with the highest AUROC of held-out images with a CutPaste defect against the same images without one. The
rank correlation (Spearman) over the candidates compares this AUROC with the AUROC on test. It decides nothing.

**Does training help?** (`helps`) Each category that is left out has an AUROC. From it the study subtracts the AUROC of
the same reading before any step, and the AUROCs of PatchCore's features. The same is done for the best candidate at
backbone rate 1e-4. There are one seed and four categories: the interval on the page is over categories.

**Copies** (`--copies`). The images at hand may be copies. PatchCore, which trains nothing, is read on COPIED
categories. The images are used as they are, stored once more as JPEG of quality 95 and of 75, and reduced from their
own size by a fifth before they are stored. The rows go to results/studies/mvtec_copies.csv.
"""

import argparse
import functools
import io
import sys
import time
from pathlib import Path


CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402

from adlib import backbones, cutpaste, images, machine, metrics, neighbours, patch_ae  # noqa: E402
from repro import data  # noqa: E402
from studies import store  # noqa: E402


RESULTS = CHECKOUT / "results" / "studies" / "patch_ae.csv"
COPIES = CHECKOUT / "results" / "studies" / "mvtec_copies.csv"
CATEGORIES = ["bottle", "pill", "screw", "transistor"]
COPIED = ["pill", "screw"]
SEED = 0
LR = 1e-3  # of the new layers
RATES = [1e-5, 0.0, 1e-4, 1e-6]  # of the backbone, in the order of the queue
ALPHAS = [0.5, 0.0]
READ = [40, 150, 300]  # steps
FIXED = {
    "dataset": "mvtec",
    "backbone": "resnet18",
    "weights": "imagenet",
    "image_size": 256,
    "batch": 16,
    "coreset": 0.01,
    "held_out": 0.1,
    "pastes": 4,  # defects for each held-out image
    "defects": [1 / 3, 1 / 3],
}
QUICK = {"dataset": "textures", "weights": "random", "image_size": 32, "batch": 4, "coreset": 0.05}
READINGS = ["R", "R_mean", "patchcore", "patchcore_no_mean"]
SETTING = ["reading", "lr_backbone", "steps", "alpha"]
KEY = ["category", "seed", "head", "lr", *SETTING]
MEASURED = ["auroc", "auroc_cutpaste", "error", "error_pasted", "loss_plain", "loss_contrast", "seconds"]
COLUMNS = [*KEY, *MEASURED, "n_train", "n_held_out", "data", "device", "torch"]
COPY_COLUMNS = ["category", "copy", "auroc", "pixel_auroc", "data", "torch"]


def units() -> list[dict]:
    """The queue. A unit is one network: category, head, backbone rate, alpha, and at which steps it is read."""
    start = {"head": "default", "lr_backbone": 0.0, "alpha": 0.0, "read": [0]}
    found = [{"category": name, **start} for name in CATEGORIES]
    for rate in RATES:
        for alpha in ALPHAS:
            trained = {**start, "lr_backbone": rate, "alpha": alpha, "read": READ}
            found += [{"category": name, **trained} for name in CATEGORIES]
    others = [head for head in patch_ae.HEADS if head != "default"]
    return found + [{"category": name, **start, "head": head} for name in CATEGORIES for head in others]


@functools.lru_cache(maxsize=1)
def images_of(category: str) -> dict:
    """Bytes (N, C, size, size): train; flawless (held out); pasted (flawless with defects); test, and its labels."""
    split = data.one_class(
        FIXED["dataset"], category, seed=SEED, size=FIXED["image_size"], validation=FIXED["held_out"]
    )
    flawless = split.validation[~split.validation_is_anomalous]
    generator = torch.Generator().manual_seed(SEED)
    many = images.to_float(flawless).repeat(FIXED["pastes"], 1, 1, 1)
    pasted, _ = cutpaste.augment(many, generator, 1 / 2, 1 / 2)
    found = {"train": split.train, "flawless": flawless, "pasted": to_bytes(pasted), "test": split.test}
    return {**found, "is_anomalous": split.is_anomalous, "data": split.source}


def to_bytes(x: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] -> uint8."""
    return ((x + 1) * patch_ae.GREY).round().clamp(0, 255).to(torch.uint8)


def networks(unit: dict, train: torch.Tensor):
    """Yields (steps, network, CPU seconds of its training) at each of unit["read"]. Trains as the notebook does."""
    machine.seed_everything(SEED, torch.device("cpu"))
    backbone, _ = backbones.load(FIXED["backbone"], FIXED["weights"], SEED)
    trains = unit["lr_backbone"] > 0
    net = patch_ae.build(backbone, trained=trains, image_channels=train.shape[1], head=unit["head"])
    net = net.to(memory_format=torch.channels_last)
    generator = machine.seed_everything(SEED, torch.device("cpu"))
    groups = [{"params": [*net.encoder.reduce.parameters(), *net.decoder.parameters()], "lr": LR}]
    groups += [{"params": net.encoder.backbone.parameters(), "lr": unit["lr_backbone"]}] * trains
    optimizer = torch.optim.Adam(groups, fused=True)
    per_epoch, seconds = -(-len(train) // FIXED["batch"]), 0.0
    if 0 in unit["read"]:
        yield 0, net, seconds
    for step in range(max(unit["read"])):
        start = time.process_time()
        if step % per_epoch == 0:
            order = torch.randperm(len(train), generator=generator).split(FIXED["batch"])
        x, _ = cutpaste.augment(images.to_float(train[order[step % per_epoch]]), generator, *FIXED["defects"])
        loss = patch_ae.loss(net(x), x, unit["alpha"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds += time.process_time() - start
        if step + 1 in unit["read"]:
            yield step + 1, net, seconds


@torch.no_grad()
def vectors_of(net: patch_ae.PatchAE, some: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
    """Bytes (N, C, size, size) -> for each reading the feature vectors (N, P, channels)."""
    parts = {name: [] for name in names}
    for part in some.split(16):
        maps = net.encoder.backbone(images.to_float(part))
        for name in names:
            f = patch_ae.features(maps, mean=name in ("R_mean", "patchcore"))
            f = net.encoder.reduce(f) if name in ("R", "R_mean") else f
            parts[name].append(patch_ae.vectors(f).view(len(part), -1, f.shape[1]))
    return {name: torch.cat(part) for name, part in parts.items()}


def readings(net: patch_ae.PatchAE, split: dict, names: list[str]) -> dict[str, dict[str, float]]:
    """For each reading the AUROC on test, and the AUROC of held-out images with defects against those without."""
    banks, scores, found = {}, {name: {} for name in names}, {}
    for name, vectors in vectors_of(net, split["train"], names).items():
        flat, generator = vectors.flatten(0, 1), torch.Generator().manual_seed(SEED)
        banks[name] = flat[neighbours.coreset(flat, max(1, round(FIXED["coreset"] * len(flat))), generator)]
    for part in ("test", "flawless", "pasted"):
        for name, vectors in vectors_of(net, split[part], names).items():
            distances, _ = neighbours.nearest(vectors.flatten(0, 1), banks[name])
            scores[name][part] = distances.view(len(vectors), -1).amax(1)
    for name, of in scores.items():
        held_out = torch.cat([of["flawless"], of["pasted"]])
        is_pasted = torch.arange(len(held_out)) >= len(of["flawless"])
        found[name] = {
            "auroc": metrics.auroc(of["test"], split["is_anomalous"]),
            "auroc_cutpaste": metrics.auroc(held_out, is_pasted),
        }
    return found


@torch.no_grad()
def reconstruction(net: patch_ae.PatchAE, split: dict) -> dict[str, float]:
    """For held-out images: mean absolute errors in grey levels, and both terms of eq. (3) as means over patches."""
    errors = {}
    for part in ("flawless", "pasted"):
        pairs = [(x, net(x)) for x in images.to_float(split[part]).split(16)]
        errors[part] = torch.cat([(x - rebuilt).abs().flatten(1).mean(1) for x, rebuilt in pairs])
        if part == "flawless":
            patches = sum(x[:, 0].numel() for x, _ in pairs) / patch_ae.PATCH**2
            terms = {
                name: sum(patch_ae.loss(rebuilt, x, alpha).item() * len(x) for x, rebuilt in pairs) / patches
                for name, alpha in (("loss_plain", 0.0), ("loss_contrast", 1.0))
            }
    error, error_pasted = (patch_ae.GREY * errors[part].mean().item() for part in ("flawless", "pasted"))
    return {"error": error, "error_pasted": error_pasted, **terms}


def run(unit: dict, out: Path = RESULTS) -> None:
    """Put the rows of a unit into `out`, and a printed line per number of steps. Do nothing if the last is there."""
    if not left([unit], out):
        return
    common = {**unit, "seed": SEED, "lr": LR if max(unit["read"]) else 0.0}
    split = images_of(unit["category"])
    for steps, net, seconds in networks(unit, split["train"]):
        start, names = time.perf_counter(), READINGS if steps == 0 else READINGS[:3]
        rebuilt = reconstruction(net, split)
        counts = {"n_train": len(split["train"]), "n_held_out": len(split["flawless"]), "data": split["data"]}
        counts |= {"device": machine.name(torch.device("cpu")), "torch": torch.__version__, "seconds": seconds}
        found = readings(net, split, names)
        rows = [common | {"steps": steps, "reading": name, **found[name], **rebuilt, **counts} for name in names]
        add(rows, out)
        texts = ", ".join(f"{name} {found[name]['auroc']:.3f}" for name in names)
        setting = f"{unit['category']} head {unit['head']} backbone {unit['lr_backbone']:g} alpha {unit['alpha']:g}"
        cost = f"training {seconds:.0f} s, reading {time.perf_counter() - start:.0f} s"
        print(
            f"{time.strftime('%H:%M:%S')} {setting} steps {steps}: {texts}; error {rebuilt['error']:.1f}, {cost}",
            flush=True,
        )


def left(todo: list[dict], out: Path = RESULTS) -> list[dict]:
    """The units of `todo` whose last reading is not in `out`."""
    names = ["category", "head", "lr_backbone", "alpha", "steps"]
    done = {tuple(row[name] for name in names) for row in read(out)}
    lasts = [unit | {"steps": max(unit["read"])} for unit in todo]
    return [unit for unit, last in zip(todo, lasts, strict=True) if _texts(last, names) not in done]


def _texts(row, names):
    """The cells of a row under these names, as text."""
    numbers = {*MEASURED, "lr", "lr_backbone", "alpha", "pixel_auroc"}
    return tuple(f"{row[name]:.6g}" if name in numbers else str(row[name]) for name in names)


def read(path: Path = RESULTS, columns: list[str] = COLUMNS) -> list[dict[str, str]]:
    """The rows of the file, dicts of text; none if there is no file. ValueError if it is damaged."""
    return store.read(path, columns)


def add(rows: list[dict], out: Path, columns: list[str] = COLUMNS, key: list[str] = KEY) -> None:
    """Write rows to the file. They replace rows of the same key. The file is always whole, for two processes too."""
    texts = [dict(zip(columns, _texts(row, columns), strict=True)) for row in rows]
    store.add(texts, out, columns, key)


# ---- what the rows say ----------------------------------------------------------------------------------------------


def table(path: Path = RESULTS) -> pd.DataFrame:
    """The rows as a table; an empty table if there is no file."""
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=COLUMNS)


def candidates(rows: pd.DataFrame, value: str = "auroc") -> pd.DataFrame:
    """AUROCs of the rule's candidates: a line per candidate that every category has, in the order of the rule."""
    rows = rows[(rows["head"] == "default") & (rows["lr_backbone"] > 0) & (rows["steps"] > 0)]
    rows = rows[rows["reading"].isin(["R", "R_mean"])]
    found = rows.pivot(index=SETTING, columns="category", values=value).dropna()
    if found.empty:
        raise ValueError("no candidate is measured on every category")
    return found.sort_index(level=SETTING, ascending=[True, True, True, False])


def choose(rows: pd.DataFrame) -> pd.DataFrame:
    """The choice by the rule: a line per category, and "others". Columns: SETTING, auroc, seen (the mean that chose).

    auroc: the category's own value at that setting; NaN for "others". Raises ValueError without a common candidate.
    """
    auroc, lines = candidates(rows), []
    if len(auroc.columns) < 2:
        raise ValueError("one category alone leaves none to choose by")
    for category in [*auroc.columns, "others"]:
        seen = auroc.drop(columns=category, errors="ignore").mean(axis=1)
        best = seen.idxmax()  # the first of equals
        own = auroc.loc[best, category] if category in auroc else np.nan
        lines.append({"category": category, **dict(zip(SETTING, best, strict=True)), "auroc": own, "seen": seen.max()})
    return pd.DataFrame(lines).set_index("category")


def by_cutpaste(rows: pd.DataFrame) -> pd.DataFrame:
    """For each category: what CutPaste defects on held-out images would have chosen, both AUROCs, the correlation."""
    auroc, artificial, lines = candidates(rows), candidates(rows, "auroc_cutpaste"), []
    for category in auroc:
        best = artificial[category].idxmax()
        values = {"auroc_cutpaste": artificial.loc[best, category], "auroc": auroc.loc[best, category]}
        values["rank_correlation"] = auroc[category].rank().corr(artificial[category].rank())  # Spearman's
        lines.append({"category": category, **dict(zip(SETTING, best, strict=True)), **values})
    return pd.DataFrame(lines).set_index("category")


def start(rows: pd.DataFrame) -> pd.DataFrame:
    """The AUROC of each reading before any step, with torch's own start of the head: one line per category."""
    rows = rows[(rows["head"] == "default") & (rows["steps"] == 0)]
    return rows.pivot(index="category", columns="reading", values="auroc")


def helps(rows: pd.DataFrame, chosen: pd.DataFrame) -> pd.DataFrame:
    """Points of AUROC, per category: `chosen` minus the same reading and PatchCore's features, both before any step."""
    before, lines = start(rows), []
    for category, line in chosen.drop(index="others", errors="ignore").iterrows():
        others = {"untrained": line["reading"], "patchcore": "patchcore", "patchcore_no_mean": "patchcore_no_mean"}
        gains = {f"minus {name}": 100 * (line["auroc"] - before.loc[category, of]) for name, of in others.items()}
        lines.append({"category": category, **gains})
    return pd.DataFrame(lines).set_index("category")


def register_lines(chosen: pd.DataFrame) -> str:
    """The settings as in [[patch_ae.runs]] of the register: a line for each category and one for the others."""
    return "\n".join(
        f"{name}: settings = {{ lr = {LR:g}, lr_backbone = {line['lr_backbone']:g}, alpha = {line['alpha']:g}, "
        f"steps = {line['steps']}, mean = {str(line['reading'] == 'R_mean').lower()} }}"
        for name, line in chosen.iterrows()
    )


# ---- what copies change ---------------------------------------------------------------------------------------------


def copied(some: torch.Tensor, quality: int | None, share: float = 1.0) -> torch.Tensor:
    """Bytes (N, C, H, W), reduced to a share of their sides (Lanczos) and stored as JPEG, then at image_size px."""
    from PIL import Image

    found = []
    for image in some:
        picture = Image.fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy())
        if share != 1:
            sides = [round(share * side) for side in picture.size]
            picture = picture.resize(sides, Image.Resampling.LANCZOS)
        if quality is not None:
            file = io.BytesIO()
            picture.save(file, "jpeg", quality=quality)
            picture = Image.open(file)
        array = torch.from_numpy(np.array(picture))
        found.append(array[None] if array.ndim == 2 else array.permute(2, 0, 1))
    return images.resize(torch.stack(found), FIXED["image_size"])


def measure_copies(out: Path = COPIES) -> None:
    """Measure PatchCore on COPIED categories, as they are and copied once more. The rows go to `out`."""
    kinds = {"as it is": (None, 1.0), "JPEG 95": (95, 1.0), "JPEG 75": (75, 1.0), "reduced and JPEG 95": (95, 0.8)}
    for category in COPIED:
        split = data.one_class(FIXED["dataset"], category, seed=SEED, size=None)
        masks = images.resize_masks(split.masks, FIXED["image_size"])
        for kind, (quality, share) in kinds.items():
            if any(row["category"] == category and row["copy"] == kind for row in read(out, COPY_COLUMNS)):
                continue
            train, test = (copied(some, quality, share) for some in (split.train, split.test))
            backbone, _ = backbones.load(FIXED["backbone"], FIXED["weights"], SEED)
            net = patch_ae.build(backbone, trained=False)
            flat = vectors_of(net, train, ["patchcore"])["patchcore"].flatten(0, 1)
            generator = torch.Generator().manual_seed(SEED)
            bank = flat[neighbours.coreset(flat, max(1, round(FIXED["coreset"] * len(flat))), generator)]
            vectors = vectors_of(net, test, ["patchcore"])["patchcore"]
            side = FIXED["image_size"] // patch_ae.PATCH
            distances = neighbours.nearest(vectors.flatten(0, 1), bank)[0].view(len(test), side, side)
            maps = patch_ae.anomaly_map(distances, FIXED["image_size"])
            auroc = metrics.auroc(patch_ae.score(distances), split.is_anomalous)
            pixel = metrics.pixel_auroc(maps, masks)
            row = {"category": category, "copy": kind, "auroc": auroc, "pixel_auroc": pixel, "data": split.source}
            add([row | {"torch": torch.__version__}], out, COPY_COLUMNS, ["category", "copy"])
            print(f"{category}, {kind}: image AUROC {auroc:.4f}, pixel AUROC {pixel:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="1/1", help="k/n: every n-th unit from the k-th, for n processes")
    parser.add_argument("--copies", action="store_true", help="measure what storing the images once more changes")
    parser.add_argument("--quick", action="store_true", help="a tiny study, seconds, to build/patch_ae_quick.csv")
    asked = parser.parse_args()
    part, parts = map(int, asked.part.split("/"))
    torch.set_num_threads(1)
    out, copies = RESULTS, COPIES
    if asked.quick:
        FIXED.update(QUICK)
        CATEGORIES[:], COPIED[:], RATES[:], READ[:] = ["weave", "checks"], ["weave"], [1e-5, 0.0], [2, 4]
        out, copies = CHECKOUT / "build" / "patch_ae_quick.csv", CHECKOUT / "build" / "mvtec_copies_quick.csv"
    if asked.copies:
        measure_copies(copies)
        return
    for unit in units()[part - 1 :: parts]:
        run(unit, out)
    if todo := left(units(), out):
        print(f"{len(todo)} of {len(units())} networks are not trained yet: what follows is not the choice")
    try:
        chosen = choose(table(out))
        print(f"{chosen.to_string()}\n\n{by_cutpaste(table(out)).to_string()}\n\n{register_lines(chosen)}")
    except ValueError as error:
        print(f"nothing chosen yet: {error}")


if __name__ == "__main__":
    main()
