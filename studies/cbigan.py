"""The study behind the learning rate of `cbigan` in profile quick: at which rate do the networks learn at all?

    OMP_NUM_THREADS=1 ADLIB_DATA=... python studies/cbigan.py              # goes on where it was
    OMP_NUM_THREADS=1 ADLIB_DATA=... python studies/cbigan.py --part 2/3   # every third rate, for three processes
    python studies/cbigan.py --quick                                       # a tiny one on drawn textures

**Why.** The paper's rate is 1e-4. It belongs to networks of 128 px, width 16 and batch 32, for which its authors' code
has about 100,000 rounds. Profile quick has 64 px, width 8, batch 16 and 8,000 rounds, which take an hour of one core.
At the end of a first version (width 4, 7,000 rounds, rate 1e-4) the networks answered every bottle worse than the mean
training image does. A statement about EGBAD or CBiGAN from such networks has no meaning.

**What is run.** CBiGAN by reading "text" learns MVTec's bottle with seed 0. The images are turned by -45 to 45 degrees,
as in the paper. Alpha is carried over to 64 px (`cbigan.scaled_alpha`: 2e-4). The rates are 1e-4, 5e-4 and 1e-3, with
one run of 8,000 rounds each. A tenth of the training images is held out. Everything else is as in the profile.

**What is measured.** Every 500 rounds the networks are measured as they are ("last"), and so is their average with
decay 0.999 ("average"). The measurements are the four numbers of `cbigan.adequacy`, on the held-out training images
and 256 latents. At the last five of these rounds they also include AUROC and balanced accuracy on the test split. A row
of results/studies/cbigan.csv is one rate, one round, and "last" or "average". AUROC is there to show how much a score
changes between checkpoints of one run.

**Rule**, written before the first row (`choose`). `image_ratio` is (11) on held-out images divided by (11) of the mean
training image. R of a rate is the `image_ratio` of the "last" networks, as a mean over the last five rounds measured. A
run whose numbers are no longer finite has an infinite R. The rate with the lowest R is chosen. The register's profile
quick takes it for both readings and both methods. If no R is below 1, no rate trains these networks in an hour. Then
that is the result: the rate with the lowest R is taken all the same, and the rows say *not trained*. AUROC, balanced
accuracy and test images have no part in the rule.

A checkpoint (build/cbigan_study/<rate>.pt) is written with every row. So a killed run goes on where it was, and gives
the same numbers. One round takes 0.45 s on an idle core. This makes an hour for each rate, and three hours in all.
"""

import argparse
import copy
import math
import sys
import time
from pathlib import Path


CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

import pandas as pd  # noqa: E402
import torch  # noqa: E402

from adlib import cbigan, machine, metrics  # noqa: E402
from repro import data  # noqa: E402
from repro.rows import write_whole  # noqa: E402
from studies import store  # noqa: E402


RESULTS = CHECKOUT / "results" / "studies" / "cbigan.csv"
RATES = [1e-4, 5e-4, 1e-3]
FIXED = {
    "dataset": "mvtec",
    "class": "bottle",
    "seed": 0,
    "reading": "text",
    "size": 64,
    "width": 8,
    "batch": 16,
    "rotate": [-45, 45],
    "of": [128, 32],  # image side and batch size for which the reading's alpha is meant
    "rounds": 8000,
    "every": 500,
    "scored": 5,  # how many of the last rounds measured count
    "ema": 0.999,
    "latents": 256,
    "validation": 0.1,
}
QUICK = FIXED | {"dataset": "textures", "class": "weave", "size": 32, "width": 1, "batch": 2, "of": [64, 32]}
QUICK |= {"rounds": 6, "every": 2, "scored": 2, "latents": 4}
KEY = ["lr", "round", "networks"]
MEASURED = [
    "image_ratio",
    "latent_error",
    "latent_zero",
    "variance_ratio",
    "auroc",
    "balanced_accuracy",
    "estimate",
    "game",
    "seconds",
]
COLUMNS = [*KEY, *MEASURED, "alpha", "n_train", "n_held_out", "device", "torch"]


def run(
    lr: float, out: Path = RESULTS, folder: Path = CHECKOUT / "build" / "cbigan_study", fixed: dict = FIXED
) -> None:
    """Run what is left of one rate. Each check writes two rows to `out`, and a checkpoint to `folder`."""
    kept, device = folder / f"{lr:g}.pt", torch.device("cpu")
    how = cbigan.PRESETS[fixed["reading"]] | {"lr": lr, "width": fixed["width"], "batch": fixed["batch"]}
    how["alpha"] = cbigan.scaled_alpha(how, fixed["size"], tuple(fixed["of"]))
    asked = {name: fixed[name] for name in ("seed", "size", "validation")}
    split = data.one_class(fixed["dataset"], fixed["class"], **asked, resample=how["resample"])
    held_out = split.validation[~split.validation_is_anomalous]
    latents = torch.randn(fixed["latents"], how["latent"], generator=torch.Generator().manual_seed(fixed["seed"]))

    rng = machine.seed_everything(fixed["seed"], device)
    nets = cbigan.build(split.train.shape[1], fixed["size"], **how).to(memory_format=torch.channels_last)
    average = copy.deepcopy(nets).requires_grad_(False)
    of_critic, of_generator = cbigan.optimizers(nets, how)
    parts = (nets, average, of_critic, of_generator)
    identity = {"fixed": fixed, "how": how, "data": split.source, "torch": str(torch.__version__)}
    done, seconds = 0, 0.0
    if kept.is_file():
        try:
            saved = machine.unpack(kept.read_bytes(), identity)
            for part, state in zip(parts, saved["states"], strict=True):
                part.load_state_dict(state)
            rng.set_state(saved["rng"])
            done, seconds = saved["done"], saved["seconds"]
        except ValueError as error:
            print(f"{kept}: {error}; the run starts from the beginning")

    rows = {}
    while done < fixed["rounds"]:
        with machine.Stopwatch(device) as watch:
            for _ in range(min(fixed["every"], fixed["rounds"] - done)):
                x, z, epsilon = cbigan.batch(split.train, fixed["size"], tuple(fixed["rotate"]), how, rng)
                found = cbigan.critic_step(nets, of_critic, x, z, epsilon, how)
                x, z, _ = cbigan.batch(split.train, fixed["size"], tuple(fixed["rotate"]), how, rng)
                found |= cbigan.generator_step(nets, of_generator, x, z, how)
                cbigan.average(average, nets, fixed["ema"])
                done += 1
        seconds += watch.seconds
        for name, of in (("last", nets), ("average", average)):
            row = {"lr": lr, "round": done, "networks": name, **cbigan.adequacy(of, split.train, held_out, latents)}
            if done > fixed["rounds"] - fixed["scored"] * fixed["every"]:
                row |= quality(cbigan.score(of, split.test, how), split.is_anomalous)
            row |= {term: found[term].item() for term in ("estimate", "game")}
            counts = {"alpha": how["alpha"], "n_train": len(split.train), "n_held_out": len(held_out)}
            rows[name] = row | counts | {"seconds": seconds, "device": machine.name(device), "torch": torch.__version__}
        add([*rows.values()], out)  # before the checkpoint: a row that is made twice replaces itself
        states = [part.state_dict() for part in parts]
        state = {"states": states, "rng": rng.get_state(), "done": done, "seconds": seconds}
        write_whole(kept, machine.pack(identity, state))
        print(
            f"{time.strftime('%H:%M:%S')} lr {lr:g} round {done}: R {rows['last']['image_ratio']:.3f} (average "
            f"{rows['average']['image_ratio']:.3f}), latents {rows['last']['latent_error']:.1f} of "
            f"{rows['last']['latent_zero']:.1f}, variance {rows['last']['variance_ratio']:.2f}, {seconds:.0f} s",
            flush=True,
        )


def quality(scores: torch.Tensor, is_anomalous: torch.Tensor) -> dict[str, float]:
    """AUROC and balanced accuracy of scores (N,); empty if not all scores are finite."""
    if not scores.isfinite().all():
        return {}
    names = ("auroc", "balanced_accuracy")
    return {name: getattr(metrics, name)(scores, is_anomalous) for name in names}


def read(path: Path = RESULTS) -> list[dict[str, str]]:
    """The rows of the file, dicts of text; none if there is no file. ValueError if it is damaged."""
    return store.read(path, COLUMNS)


def add(rows: list[dict], out: Path) -> None:
    """Write rows to the file. They replace rows of the same key. The file is always whole, for three processes too."""
    texts = [
        {
            **{name: str(row[name]) for name in COLUMNS if name not in MEASURED},
            **{name: f"{row[name]:.6g}" if name in row else "" for name in MEASURED},
        }
        for row in rows
    ]
    order = lambda row: (float(row["lr"]), int(row["round"]), row["networks"])  # noqa: E731
    store.add(texts, out, COLUMNS, KEY, order)


def table(path: Path = RESULTS) -> pd.DataFrame:
    """The rows as a table with COLUMNS; an empty table if there is no file."""
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=COLUMNS)


def ratios(rows: pd.DataFrame, networks: str = "last", n: int = FIXED["scored"]) -> pd.Series:
    """R of each rate, lr -> mean `image_ratio` over its last n rounds measured; infinite if it is not a number."""
    rows = rows[rows["networks"] == networks].sort_values("round")
    of_rates = rows.groupby("lr")["image_ratio"]
    return of_rates.apply(lambda some: some.tail(n).mean(skipna=False)).astype(float).fillna(math.inf)


def choose(rows: pd.DataFrame, rounds: int = FIXED["rounds"], n: int = FIXED["scored"]) -> dict:
    """The choice by the rule above: {"lr", "ratio", "trained"}; trained: whether R is below 1.

    rows: a table with COLUMNS. Raises ValueError, which names the rates, if not all of RATES have run to the end.
    """
    last = rows[rows["networks"] == "last"].groupby("lr")["round"].max()
    unfinished = [f"{lr:g} ({last.get(lr, 0):.0f} rounds)" for lr in RATES if last.get(lr, 0) < rounds]
    if unfinished:
        raise ValueError(f"not all rates have run {rounds} rounds: {', '.join(unfinished)}")
    of_rates = ratios(rows, n=n)
    return {"lr": float(of_rates.idxmin()), "ratio": float(of_rates.min()), "trained": bool(of_rates.min() < 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="1/1", help="k/n: every n-th rate from the k-th, for n processes")
    parser.add_argument("--quick", action="store_true", help="a tiny study, seconds, to build/cbigan_quick.csv")
    asked = parser.parse_args()
    part, parts = map(int, asked.part.split("/"))
    torch.set_num_threads(1)
    out, folder, fixed = RESULTS, CHECKOUT / "build" / "cbigan_study", FIXED
    if asked.quick:
        out, folder, fixed = CHECKOUT / "build" / "cbigan_quick.csv", CHECKOUT / "build" / "cbigan_quick", QUICK
    for lr in RATES[part - 1 :: parts]:
        run(lr, out, folder, fixed)
    try:
        chosen = choose(table(out), fixed["rounds"], fixed["scored"])
        word = "which trains" if chosen["trained"] else "and no rate trains"
        print(f"chosen: {chosen['lr']:g}, R {chosen['ratio']:.3f}, {word}")
    except ValueError as error:
        print(f"nothing chosen yet: {error}")


if __name__ == "__main__":
    main()
