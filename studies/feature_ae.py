"""The study behind the length of `feature_ae` on MVTec AD: when is its decoder trained to the end?

    OMP_NUM_THREADS=1 ADLIB_DATA=... python studies/feature_ae.py              # goes on where it was
    OMP_NUM_THREADS=1 ADLIB_DATA=... python studies/feature_ae.py --part 2/2   # every second run, for a second process
    python studies/feature_ae.py --quick                                       # a tiny one on drawn textures

**What is measured.** The paper does not say how long it trains. It takes its optimiser from STPM, which trains for 100
epochs. Here the decoder learns as in profile `paper` (ResNet18, 256 px, SGD 0.4, momentum 0.9, weight decay 1e-4,
batches of 32). It learns on CATEGORIES, for LENGTHS epochs. The rate falls by a cosine to zero over the whole length,
so each length is a run of its own. The shortest lengths come first in the queue, so that a study that is stopped
already has a part of the answer. A tenth of the flawless training images is held out. At the start, at epochs 5 and 10
and every 20 epochs the loss (8) is measured on the held-out images, and the AUROC of score (11) on the *test split*.
The curve of this AUROC is drawn, and it chooses nothing. results/studies/feature_ae.csv has one row for each
measurement. A run writes a checkpoint every CHECKPOINT epochs to build/studies, and goes on from there.

**Rule**, written before the first row (`choose`). For each length, the held-out loss at the end is compared with that
of every longer length, by the geometric mean of the ratios over the categories. Profile `paper` takes the shortest
length whose loss is at most TOLERANCE above that of every longer length. Test images have no part in the rule. Until
all runs are there, nothing is chosen.
"""

import argparse
import functools
import sys
import time
from pathlib import Path


CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402

from adlib import backbones, feature_ae, images, machine, metrics  # noqa: E402
from repro import data  # noqa: E402
from repro.rows import write_whole  # noqa: E402
from studies import store  # noqa: E402


RESULTS = CHECKOUT / "results" / "studies" / "feature_ae.csv"
CHECKPOINTS = CHECKOUT / "build" / "studies"
CATEGORIES = ["pill", "screw"]
LENGTHS = [100, 200, 400]
SEED = 0
CHECKPOINT = 5  # epochs
TOLERANCE = 0.05
FIXED = {
    "dataset": "mvtec",
    "backbone": "resnet18",
    "weights": "imagenet",
    "image_size": 256,
    "batch": 32,
    "lr": 0.4,
    "held_out": 0.1,
}
QUICK = {"dataset": "textures", "weights": "random", "image_size": 32, "batch": 16}
KEY = ["category", "seed", "epochs", "epoch"]
LEVELS = ["held_out_1", "held_out_2", "held_out_3"]
MEASURED = ["auroc", "loss_train", "loss_held_out", *LEVELS, "seconds"]
COLUMNS = [*KEY, *MEASURED, "steps", "n_train", "n_held_out", "data", "device", "torch"]


def units() -> list[dict]:
    """The queue: one run for each length and category, the shortest first."""
    return [{"category": name, "seed": SEED, "epochs": length} for length in LENGTHS for name in CATEGORIES]


def is_read(epoch: int, epochs: int) -> bool:
    """Whether the networks are measured after epoch `epoch` of a run of `epochs`."""
    return epoch in (0, 5, 10, epochs) or epoch % 20 == 0


@functools.lru_cache(maxsize=1)
def features_of(category: str) -> dict:
    """The encoder's maps of training, held-out and test images, which never change, and which test images are bad."""
    split = data.one_class(
        FIXED["dataset"], category, seed=SEED, size=FIXED["image_size"], validation=FIXED["held_out"]
    )
    encoder, _ = backbones.load(FIXED["backbone"], FIXED["weights"], SEED)
    flawless = split.validation[~split.validation_is_anomalous]
    found = {"is_anomalous": split.is_anomalous, "data": split.source}
    with torch.no_grad():
        for name, some in (("train", split.train), ("held_out", flawless), ("test", split.test)):
            parts = [encoder(images.to_float(part)) for part in some.split(machine.SCORING_BATCH)]
            found[name] = [torch.cat(level) for level in zip(*parts, strict=True)]
    return found


@torch.no_grad()
def measured(decoder: feature_ae.Decoder, found: dict) -> dict[str, float]:
    """The loss (8) on held-out images, in all and by level, and the AUROC of (11) on test images; evaluation mode."""
    decoder.eval()
    maps = {}
    for name in ("held_out", "test"):
        parts = [
            feature_ae.residuals(f, decoder(f[-1]))
            for f in zip(*(level.split(16) for level in found[name]), strict=True)
        ]
        maps[name] = [torch.cat(level) for level in zip(*parts, strict=True)]
    decoder.train()
    scores = torch.cat(
        [
            feature_ae.score(feature_ae.anomaly_map(part, FIXED["image_size"]))
            for part in zip(*(level.split(32) for level in maps["test"]), strict=True)
        ]
    )
    levels = {name: phi.mean().item() for name, phi in zip(LEVELS, maps["held_out"], strict=True)}
    auroc = metrics.auroc(scores, found["is_anomalous"])
    return {"auroc": auroc, "loss_held_out": feature_ae.loss(maps["held_out"]).item(), **levels}


def run(unit: dict, out: Path = RESULTS, checkpoints: Path = CHECKPOINTS, stop: int | None = None) -> None:
    """Train a unit from its checkpoint on, up to epoch `stop` (None: to its end). Write rows to `out`; print lines.

    If the last row of the unit is there, nothing happens. What an epoch draws depends on seed and epoch alone.
    """
    epochs = unit["epochs"]
    if tuple(str(value) for value in (*unit.values(), epochs)) in {tuple(row[n] for n in KEY) for row in read(out)}:
        return
    found = features_of(unit["category"])
    n_train = len(found["train"][0])
    per_epoch = -(-n_train // FIXED["batch"])
    torch.manual_seed(unit["seed"])
    decoder = feature_ae.build([f.shape[1] for f in found["train"]]).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(decoder.parameters(), lr=FIXED["lr"], momentum=0.9, weight_decay=1e-4, fused=True)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * per_epoch)
    parts = {"decoder": decoder, "optimizer": optimizer, "decay": decay}
    path = checkpoints / f"feature_ae-{unit['category']}-{epochs}.pt"
    what, epoch, seconds, trained = {**unit, **FIXED, "torch": str(torch.__version__)}, 0, 0.0, float("nan")
    if path.is_file():
        try:
            saved = machine.unpack(path.read_bytes(), what)
            epoch, seconds, trained = saved["epoch"], saved["seconds"], saved["trained"]
            for name, part in parts.items():
                part.load_state_dict(saved[name])
        except ValueError as error:
            print(f"there is a checkpoint {path}, but {error}: training starts from the beginning")
    common = {**unit, "n_train": n_train, "n_held_out": len(found["held_out"][0]), "data": found["data"]}
    common |= {"device": machine.name(torch.device("cpu")), "torch": torch.__version__}
    while True:
        if is_read(epoch, epochs):
            row = {**common, **measured(decoder, found), "epoch": epoch, "steps": epoch * per_epoch}
            add([row | {"loss_train": trained, "seconds": seconds}], out)
            print(
                f"{time.strftime('%H:%M:%S')} {unit['category']}, {epochs} epochs, after {epoch}: held-out loss "
                f"{row['loss_held_out']:.4f}, AUROC {row['auroc']:.3f}, {seconds:.0f} s",
                flush=True,
            )
        if epoch == (epochs if stop is None else stop):
            break
        start, losses = time.process_time(), []
        order = np.random.default_rng([unit["seed"], epoch]).permutation(n_train)
        for chosen in torch.from_numpy(order).split(FIXED["batch"]):
            f = [level[chosen] for level in found["train"]]
            loss = feature_ae.loss(feature_ae.residuals(f, decoder(f[-1])))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
            losses.append(loss.detach())
        epoch, seconds = epoch + 1, seconds + time.process_time() - start
        trained = torch.stack(losses).mean().item()
        if epoch % CHECKPOINT == 0:
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= {"epoch": epoch, "seconds": seconds, "trained": trained}
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, machine.pack(what, state), durable=False)
    if epoch == epochs:
        path.unlink(missing_ok=True)


def read(path: Path = RESULTS) -> list[dict[str, str]]:
    """The rows of the file, dicts of text; none if there is no file. ValueError if it is damaged."""
    return store.read(path, COLUMNS)


def add(rows: list[dict], out: Path) -> None:
    """Write rows to the file. They replace rows of the same key. The file is always whole, for two processes too."""
    texts = [{name: f"{row[name]:.6g}" if name in MEASURED else str(row[name]) for name in COLUMNS} for row in rows]
    store.add(texts, out, COLUMNS, KEY)


def table(path: Path = RESULTS) -> pd.DataFrame:
    """The rows as a table; an empty table if there is no file."""
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=COLUMNS)


def ends(rows: pd.DataFrame) -> pd.DataFrame:
    """The held-out loss at the end of each run: a line per category, a column per length that has a finished run."""
    rows = rows[rows["epoch"] == rows["epochs"]]
    return rows.pivot(index="category", columns="epochs", values="loss_held_out").astype(float)


def choose(rows: pd.DataFrame) -> int:
    """The length, in epochs, that the rule chooses. Raises ValueError if a run is missing."""
    loss = ends(rows).reindex(index=CATEGORIES, columns=LENGTHS)
    if loss.isna().any(axis=None):
        missing = [f"{name} {n}" for name in loss.index for n in loss if np.isnan(loss.loc[name, n])]
        raise ValueError(f"these runs are not at their end: {', '.join(missing)}")
    logs = np.log(loss)
    for i, length in enumerate(LENGTHS):
        above = [np.exp((logs[length] - logs[longer]).mean()) - 1 for longer in LENGTHS[i + 1 :]]
        if all(share <= TOLERANCE for share in above):
            return length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="1/1", help="k/n: every n-th run from the k-th, for n processes")
    parser.add_argument("--quick", action="store_true", help="a tiny study, seconds, to build/feature_ae_quick.csv")
    asked = parser.parse_args()
    part, parts = map(int, asked.part.split("/"))
    torch.set_num_threads(1)
    out, checkpoints = RESULTS, CHECKPOINTS
    if asked.quick:
        FIXED.update(QUICK)
        CATEGORIES[:], LENGTHS[:] = ["weave", "checks"], [2, 4]
        out, checkpoints = CHECKOUT / "build" / "feature_ae_quick.csv", CHECKOUT / "build" / "studies" / "quick"
    for unit in units()[part - 1 :: parts]:
        run(unit, out, checkpoints)
    try:
        print(f"chosen: {choose(table(out))} epochs")
    except ValueError as error:
        print(f"nothing chosen yet: {error}")


if __name__ == "__main__":
    main()
