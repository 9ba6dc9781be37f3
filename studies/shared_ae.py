"""The study behind the settings of `shared_ae`: every setting of a grid on three classes, judged on validation images.

    OMP_NUM_THREADS=1 ADLIB_DATA=... python studies/shared_ae.py --jobs 2           # goes on where it was
    OMP_NUM_THREADS=1 ADLIB_DATA=... python studies/shared_ae.py --jobs 2 --around  # then one setting at a time

The paper gives no value for any setting. Here each combination of GRID trains on 2,000 normal images; after every epoch
the AUROC of every candidate score is taken on held-out images of the normal class against images of the other classes,
all cut from the train split: no test image is looked at. The paper validates on the normal class alone; on that, no
AUROC can be taken. One row per run and epoch goes to results/studies/shared_ae.csv. `shared_ae.choose` is the rule by
which the register's values follow from it, for networks of the width that they had here.
"""

import argparse
import itertools
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path


CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

import torch  # noqa: E402

from adlib import (  # noqa: E402
    images,
    machine,  # noqa: E402
    metrics,
    shared_ae,
)
from repro import data  # noqa: E402
from repro.rows import read_table, write_whole  # noqa: E402


RESULTS = CHECKOUT / "results" / "studies" / "shared_ae.csv"
CLASSES = [("mnist", "8"), ("mnist", "2"), ("fashion_mnist", "shirt")]
GRID = {
    "distance": ["l1", "l2", "mse"],
    "alpha": [50.0, 1.0, 0.02],
    "lr": [0.0002, 0.001],
    "routing": ["separate", "detached"],
    "latent": [64],
    "floor": [0.0],
}
AROUND = {"latent": [16, 128], "floor": [0.1, 0.5, 1.0], "routing": ["sum"]}  # one at a time, beside the chosen setting
FIXED = {"beta": 1.0, "width": 16, "n_train": 2000, "validation": 0.1, "batch": 64, "epochs": 10, "seed": 0}
SETTING = list(GRID)
TERMS = ["image_1", "latent_1", "image_2", "latent_2", "image_adv", "latent_adv"]
SCORES = ["score_8", "latent_2", "latent_adv", "latent_1", "image_1", "image_2", "image_adv", "loss_2"]
COLUMNS = [
    "dataset",
    "class",
    *SETTING,
    *FIXED,
    "epoch",
    *(f"mean_{name}" for name in TERMS),
    "spread",
    *(f"auroc_{name}" for name in SCORES),
    "seconds",
    "device",
    "torch",
]


def run(dataset, normal, setting):
    """One run of the study: its rows, one per epoch, dicts with COLUMNS."""
    device = machine.pick("auto")
    generator = machine.seed_everything(FIXED["seed"], device)
    split = data.one_class(dataset, normal, **{name: FIXED[name] for name in ("seed", "n_train", "validation")})
    train, validation = split.train.to(device), split.validation.to(device)
    nets = shared_ae.build(train.shape[1], FIXED["width"], setting["latent"])
    nets = nets.to(device, memory_format=torch.channels_last)
    optimizers = shared_ae.optimizers(nets, setting["routing"], setting["lr"])
    weights = {"alpha": setting["alpha"], "beta": FIXED["beta"]}
    losses = {"routing": setting["routing"], "distance": setting["distance"], "floor": setting["floor"], **weights}
    rows, start = [], time.perf_counter()
    for n in range(1, FIXED["epochs"] + 1):
        nets.train()
        means = []
        for batch in torch.randperm(len(train), generator=generator, device=device).split(FIXED["batch"]):
            terms = shared_ae.step(nets, optimizers, images.to_float(train[batch]), n, **losses)
            means.append({name: values.mean() for name, values in terms.items()})
        terms = shared_ae.evaluate(nets, validation, setting["distance"])
        scores = shared_ae.candidates(terms, **weights)
        row = {
            "dataset": dataset,
            "class": normal,
            **setting,
            **FIXED,
            "epoch": n,
            "spread": shared_ae.spread(terms["z"][~split.validation_is_anomalous]).item(),
            "seconds": time.perf_counter() - start,
            "device": machine.name(device),
            "torch": torch.__version__,
        }
        row |= {f"mean_{name}": torch.stack([m[name] for m in means]).mean().item() for name in means[0]}
        row |= {f"auroc_{k}": metrics.auroc(v, split.validation_is_anomalous) for k, v in scores.items()}
        measured = (name for name in COLUMNS if name.startswith(("mean_", "auroc_")) or name in ("spread", "seconds"))
        rows.append({**row, **{name: f"{row[name]:.6g}" if name in row else "" for name in measured}})
    return rows


def read():
    """The rows there are, dicts of text; ValueError where the file is damaged."""
    return [cells for _, cells in read_table(RESULTS, COLUMNS)] if RESULTS.is_file() else []


def curves(rows):
    """What `shared_ae.choose` takes, of the settings that all classes have: (*SETTING, score) -> (classes, epochs)."""
    found = {}
    for row in rows:
        for score in ("score_8", "latent_2", "latent_adv"):
            of_classes = found.setdefault((*(str(row[name]) for name in SETTING), score), {})
            of_classes.setdefault((row["dataset"], row["class"]), []).append(float(row[f"auroc_{score}"]))
    return {setting: list(some.values()) for setting, some in found.items() if len(some) == len(CLASSES)}


def in_grid(setting):
    """Whether a setting, as `curves` gives it, is one of GRID: the others only surround the choice."""
    return all(value in map(str, GRID[name]) for name, value in zip(SETTING, setting, strict=False))


def chosen(rows):
    """The chosen setting, a dict with `score`, `epochs` and `value` in it."""
    setting, epoch, value = shared_ae.choose({k: v for k, v in curves(rows).items() if in_grid(k)})
    return {**dict(zip([*SETTING, "score"], setting, strict=True)), "epochs": epoch, "value": value}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--around", action="store_true", help="one setting at a time, beside the chosen one")
    asked = parser.parse_args()
    rows = read()
    settings = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
    if asked.around:
        best = chosen(rows)
        best = next(one for one in settings if all(best[name] == str(value) for name, value in one.items()))
        settings = [{**best, name: value} for name, values in AROUND.items() for value in values]

    def key(row):
        return tuple(str(row[name]) for name in ("dataset", "class", *SETTING))

    done = {key(row) for row in rows}
    todo = [
        (dataset, normal, one)
        for one in settings
        for dataset, normal in CLASSES
        if key({"dataset": dataset, "class": normal, **one}) not in done
    ]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(asked.jobs, multiprocessing.get_context("spawn")) as pool:
        for count, future in enumerate(as_completed([pool.submit(run, *one) for one in todo]), start=1):
            rows = sorted([*rows, *future.result()], key=lambda row: (key(row), int(row["epoch"])))
            lines = [",".join(COLUMNS), *(",".join(str(row[name]) for name in COLUMNS) for row in rows)]
            write_whole(RESULTS, ("\n".join(lines) + "\n").encode())
            print(f"{count} of {len(todo)}", flush=True)
    best = chosen(rows)
    print("chosen: " + ", ".join(f"{name} {value}" for name, value in best.items()))


if __name__ == "__main__":
    main()
