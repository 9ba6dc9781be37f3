"""The study behind the settings of `shared_ae`: a grid on four classes and three seeds, judged on validation images.

    OMP_NUM_THREADS=1 ADLIB_DATA=... python studies/shared_ae.py              # goes on where it was
    OMP_NUM_THREADS=1 ADLIB_DATA=... python studies/shared_ae.py --part 1/2   # half of the work, for two processes
    OMP_NUM_THREADS=1 python studies/shared_ae.py --quick                     # a tiny grid on the embedded digits

The paper gives no value for any setting. Here every combination of GRID trains on 2,000 normal images, for 20 epochs of
32 steps. n of eq. (6) and (7) counts these epochs, so a choice of N carries over to more images (`shared_ae.epoch`). At
each epoch of READ_OFF every score is measured on validation images: 250 held-out normal images and 500 images of other
classes. All of them are cut from the train split. No test image is looked at. The paper validates on the normal class
alone, on which no AUROC can be measured. Each training is scored twice: with the running statistics of batch norm, and
with statistics computed again from training images for each use of a network (`shared_ae.per_use`).

Distances are means. "mean_l1" is |a - b|_1 / D and "mean_l2" is |a - b|_2 / sqrt(D), where a and b have D numbers each.
The symbol of the norm in the equations is damaged. These are the two norms that it can be, each by element. So alpha :
beta is a ratio between one pixel and one latent number, as in GANomaly, from which the idea of 50 : 1 comes. Routing
"separate" is the paper's game. Routing "sum" has no game, because the adversarial terms cancel there. With
stop_gradient the latent terms do not move E1. In addition to the grid, a plain autoencoder (E1, D1) is trained for each
distance, for the same number of steps.

The rule. A candidate is a setting (distance, alpha, stop_gradient, routing, batch_norm) with an epoch and omega_1 of
eq. (8). For each seed, the AUROC of a candidate is the mean over the classes. The value of the candidate is the mean
over the seeds minus one standard error over the seeds. The candidate with the highest value is chosen. Nothing is
smoothed over epochs. A candidate without the game may win. In that case the best candidate with the game is reported
as well (`choose`).

The page of the study is studies/shared_ae.ipynb.

When a run is complete, it writes one row for each read-off epoch and batch norm to
results/studies/shared_ae_grid.csv. `seconds` is the CPU time of the whole run, read-offs included. The errors are mean
absolute differences in [-1, 1].
"""

import argparse
import functools
import itertools
import sys
import time
from pathlib import Path


CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

import pandas as pd  # noqa: E402
import torch  # noqa: E402
from filelock import FileLock  # noqa: E402

from adlib import images, machine, metrics, shared_ae  # noqa: E402
from repro import data  # noqa: E402
from repro.rows import write_whole  # noqa: E402
from studies import store  # noqa: E402


RESULTS = CHECKOUT / "results" / "studies" / "shared_ae_grid.csv"
CLASSES = [("mnist", "8"), ("fashion_mnist", "shirt"), ("cifar10", "car"), ("mnist", "2")]
SEEDS = [0, 1, 2]
GRID = {
    "distance": ["mean_l1", "mean_l2"],
    "alpha": [1.0, 50.0],
    "stop_gradient": ["no", "yes"],
    "routing": ["separate", "sum"],
}
BATCH_NORM = ["running", "per_use"]
READ_OFF = [1, 2, 3, 4, 6, 8, 10, 13, 16, 20]
OMEGAS = [0.0, 0.25, 0.5, 0.75, 1.0]
FIXED = {
    "beta": 1.0,
    "lr": 0.001,
    "latent": 64,
    "width": 16,
    "batch": 64,
    "n_train": 2000,
    "epoch_steps": 32,
    "held_out": 250,
    "others": 500,
    "validation": 0.1,
    "per_use_images": 1000,
}
QUICK = {"width": 2, "latent": 4, "epoch_steps": 2, "held_out": 12, "others": 12}  # what --quick changes in FIXED
SETTING = [*GRID, "batch_norm"]
RUN = ["dataset", "class", "seed", "method", *GRID]
SCORES = [*(f"omega_{omega:g}" for omega in OMEGAS), "latent_1", "image_1", "image_2", "image_adv"]
MEASURED = [*(f"auroc_{score}" for score in SCORES), "spread", "error_1", "error_2", "error_mean_image", "seconds"]
COLUMNS = [*RUN, "batch_norm", "epoch", *MEASURED, "torch"]


@functools.lru_cache(maxsize=1)
def load(dataset: str, normal: str, seed: int, held_out: int, others: int, n_train: int, validation: float):
    """Training images (N, C, 32, 32) uint8, validation images (V, C, 32, 32) uint8, and which are anomalous, (V,).

    `data.one_class` gives the validation images. At most `held_out` normal and `others` anomalous images of them are
    taken, at even distances.
    """
    split = data.one_class(dataset, normal, seed=seed, n_train=n_train, validation=validation)
    is_anomalous, rows = split.validation_is_anomalous, []
    for wanted, most in ((~is_anomalous, held_out), (is_anomalous, others)):
        some = wanted.nonzero()[:, 0]
        count = min(len(some), most)
        rows.append(some[torch.arange(count) * len(some) // count])
    rows = torch.cat(rows)
    return split.train, split.validation[rows], is_anomalous[rows]


def batches(count: int, batch: int, generator: torch.Generator):
    """Indices of images, batch after batch without end. Each pass has a new order of all `count` images."""
    while True:
        yield from torch.randperm(count, generator=generator).split(batch)


@torch.no_grad()
def reconstruction_errors(nets: torch.nn.Module, normals: torch.Tensor, mean_image: torch.Tensor) -> dict[str, float]:
    """Mean absolute differences, in [-1, 1], from x1, x2 (if made) and the mean training image. normals: uint8."""
    x = images.to_float(normals)
    made = shared_ae.forward(nets, x, adversarial=False)
    found = {f"error_{i}": made[f"x{i}"] for i in (1, 2) if f"x{i}" in made} | {"error_mean_image": mean_image}
    return {name: (x - image).abs().mean().item() for name, image in found.items()}


def aurocs(terms: dict[str, torch.Tensor], is_anomalous: torch.Tensor) -> dict[str, float]:
    """The AUROC of eq. (8) for each omega, and of each other score that `terms` (each (V,)) are enough for."""
    found = {name: terms[name] for name in SCORES if name in terms}
    if "latent_adv" in terms:
        found |= {f"omega_{omega:g}": shared_ae.equation_8(terms, omega) for omega in OMEGAS}
    return {f"auroc_{name}": metrics.auroc(score, is_anomalous) for name, score in found.items()}


def run(asked: dict, fixed: dict = FIXED, read_off: list[int] = READ_OFF) -> list[dict]:
    """One training. asked: RUN -> value. Returns its rows, dicts of text with COLUMNS, two for each epoch of read_off.

    fixed: as FIXED. Method "ae" is the plain autoencoder. The distance is the only setting that concerns it.
    """
    cut = {name: fixed[name] for name in ("held_out", "others", "n_train", "validation")}
    train, validation, is_anomalous = load(asked["dataset"], asked["class"], asked["seed"], **cut)
    start = time.process_time()
    generator = machine.seed_everything(asked["seed"], torch.device("cpu"))
    parts = "e1 d1" if asked["method"] == "ae" else "e1 d1 e2 d2"
    nets = shared_ae.build(train.shape[1], fixed["width"], fixed["latent"], parts).to(memory_format=torch.channels_last)
    settings = {"distance": asked["distance"]}
    if asked["method"] != "ae":
        settings |= {"routing": asked["routing"], "alpha": asked["alpha"], "beta": fixed["beta"]}
        settings["stop_gradient"] = asked["stop_gradient"] == "yes"
    optimizers = shared_ae.optimizers(nets, settings.get("routing", "separate"), fixed["lr"])
    mean_image = images.to_float(train).mean(0)
    order, rows = batches(len(train), fixed["batch"], generator), []
    for step in range(fixed["epoch_steps"] * max(read_off)):
        n = shared_ae.epoch(step, fixed["epoch_steps"])
        shared_ae.step(nets.train(), optimizers, images.to_float(train[next(order)]), n, **settings)
        if (step + 1) % fixed["epoch_steps"] or n not in read_off:
            continue
        per_use = shared_ae.per_use(nets, train[: fixed["per_use_images"]])
        for batch_norm, scored in zip(BATCH_NORM, (nets, per_use), strict=True):
            terms = shared_ae.evaluate(scored, validation, asked["distance"])
            found = aurocs(terms, is_anomalous)
            found["spread"] = shared_ae.spread(terms["z"][~is_anomalous]).item()
            found |= reconstruction_errors(scored, validation[~is_anomalous], mean_image)
            rows.append({**asked, "batch_norm": batch_norm, "epoch": n, **found, "torch": torch.__version__})
    seconds = time.process_time() - start
    for row in rows:
        row["seconds"] = seconds
        row |= {name: f"{row[name]:.5g}" if name in row else "" for name in MEASURED}
    return [{name: str(row[name]) for name in COLUMNS} for row in rows]


def runs(classes: list = CLASSES, seeds: list[int] = SEEDS, grid: dict = GRID) -> list[dict]:
    """Every run of the study in its order, dicts with RUN: seed by seed, class by class, autoencoders first."""
    nothing = dict.fromkeys(grid, "")
    settings = [{"method": "ae", **nothing, "distance": distance} for distance in grid["distance"]]
    settings += [{"method": "shared_ae", **dict(zip(grid, v, strict=True))} for v in itertools.product(*grid.values())]
    places = [{"dataset": dataset, "class": normal, "seed": seed} for seed in seeds for dataset, normal in classes]
    return [{**place, **setting} for place in places for setting in settings]


def key(row: dict) -> tuple[str, ...]:
    """The values that distinguish one run from another, as text."""
    return tuple(str(row[name]) for name in RUN)


def read(path: Path = RESULTS) -> list[dict]:
    """The rows of the file, dicts of text; none if there is no file. ValueError if it is damaged."""
    return store.read(path, COLUMNS)


def save(rows: list[dict], path: Path = RESULTS) -> None:
    """Add the rows of one run to the file, all or none of them, unless another process has added the same run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        old = read(path)
        if key(rows[0]) not in {key(row) for row in old}:
            lines = [",".join(COLUMNS), *(",".join(row[name] for name in COLUMNS) for row in [*old, *rows])]
            write_whole(path, ("\n".join(lines) + "\n").encode())


def complete(rows: list[dict], todo: list[dict] | None = None) -> list[dict]:
    """The rows of each class and seed that has all its runs, which `choose` can take. todo: the runs; None: all."""
    left = {key(one) for one in (runs() if todo is None else todo)} - {key(row) for row in rows}
    lacking = {(dataset, normal, seed) for dataset, normal, seed, *_ in left}
    return [row for row in rows if key(row)[:3] not in lacking]


def table(rows: list[dict]) -> pd.DataFrame:
    """What the rule compares: one line per candidate, SETTING, epoch, omega, game, mean, se, value, seeds; best first.

    rows: as `read` gives them. A seed counts if it has every class for every candidate. While the study runs, only the
    complete seeds count. With fewer than two seeds there is no standard error (se is NaN), and value is the mean. game
    says whether a candidate has played the game: routing "separate", from epoch 2 on, because n = 1 has no adversarial
    term. Raises ValueError if no seed is complete.
    """
    frame = pd.DataFrame([row for row in rows if row["method"] == "shared_ae"])
    if frame.empty:
        raise ValueError("there are no rows to choose from")
    omegas = {f"auroc_omega_{omega:g}": omega for omega in OMEGAS}
    frame = frame.rename(columns=omegas).astype({"seed": int, "alpha": float, "epoch": int})
    candidate = [*SETTING, "epoch", "omega"]
    frame = frame.melt(["dataset", "class", "seed", *SETTING, "epoch"], list(omegas.values()), "omega", "auroc")
    frame = frame.astype({"omega": float, "auroc": float})
    wide = frame.pivot_table("auroc", candidate, ["seed", "dataset", "class"])  # NaN where a run is missing
    places = {place[1:] for place in wide.columns}
    columns = {seed: [(seed, *place) for place in places] for seed in wide.columns.unique("seed")}
    whole = [seed for seed, some in columns.items() if set(some) <= set(wide) and wide[some].notna().all(axis=None)]
    if not whole:
        raise ValueError("no seed has every class for every setting")
    of_seed = pd.DataFrame({seed: wide[seed].mean(axis=1) for seed in whole})
    found = pd.DataFrame({"mean": of_seed.mean(axis=1), "se": of_seed.sem(axis=1)}).reset_index()
    found["value"] = found["mean"] - found["se"].fillna(0)
    found["seeds"] = len(whole)
    found["game"] = (found["routing"] == "separate") & (found["epoch"] > 1)
    return found.sort_values("value", ascending=False, kind="stable", ignore_index=True)


def choose(rows: list[dict]) -> pd.DataFrame:
    """The choice by the rule, three lines of `table`: "chosen", "with the game" and "literal".

    "with the game" is the best candidate that has played the game; this may be the chosen candidate. "literal" is the
    best candidate in the plain reading of the paper: mean L1 distances, omega_1 one half, the game, no stopped
    gradient, running statistics; alpha and the epoch are open. A line without a candidate is left out.
    """
    every = table(rows)
    literal = every["game"] & (every["distance"] == "mean_l1") & (every["omega"] == 0.5)
    literal &= (every["stop_gradient"] == "no") & (every["batch_norm"] == "running")
    kinds = {"chosen": every, "with the game": every[every["game"]], "literal": every[literal]}
    return pd.concat({name: some.iloc[:1].reset_index(drop=True) for name, some in kinds.items()}).droplevel(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="1/1", help="k/n: this process does the k-th of n parts of the work")
    parser.add_argument("--quick", action="store_true", help="a tiny grid on the embedded digits, in seconds")
    parser.add_argument("--out", type=Path, help="the file for the rows")
    asked = parser.parse_args()
    part, parts = (int(text) for text in asked.part.split("/"))
    if not 1 <= part <= parts:
        parser.error(f"--part {asked.part}: k is a number from 1 to n")
    torch.set_num_threads(1)
    path = asked.out or (CHECKOUT / "build" / "study_shared_ae.csv" if asked.quick else RESULTS)
    fixed, read_off, todo = FIXED, READ_OFF, runs()
    if asked.quick:
        fixed, read_off, todo = FIXED | QUICK, [1, 2], runs([("digits", "3")], [0, 1])
    for count, one in enumerate(todo, start=1):
        if count % parts != part % parts or key(one) in {key(row) for row in read(path)}:
            continue
        start = time.perf_counter()
        save(run(one, fixed, read_off), path)
        print(f"{count} of {len(todo)}: {' '.join(key(one))}, {time.perf_counter() - start:.0f} s", flush=True)
    try:
        best = choose(read(path))
    except ValueError as error:
        print(f"nothing is chosen yet: {error}")
        return
    if best["seeds"].iloc[0] < 2:
        print("one seed is complete: there is no standard error, and value is the mean")
    print(best.to_string())


if __name__ == "__main__":
    main()
