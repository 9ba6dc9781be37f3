"""PatchCore's memory bank for one category: what do the coreset and the search in it cost here and elsewhere?

    python benchmarks/coreset.py [--images 209] [--share 0.01] [--theirs 200] [--rounds 1] [--random]
                                 [--only WAY ...] [--folder PATH] [--device auto]

The vectors come from MVTec AD's bottle at 256 px. They are ResNet18's layer2 and layer3, each averaged over 3 x 3
positions. layer3 is resized to the 32 x 32 positions of layer2, so each position has 384 numbers. The coreset is taken
from the training images. The search looks up the vectors of the test images in the coreset that adlib finds. With
--random the vectors are drawn instead: a pattern that all images share, and noise of 32 dimensions, through random
weights and a ReLU. Then no data or weights are needed. The times of the ways that compare every vector with every pick
hardly change; adlib's times depend on how the vectors are distributed. --folder keeps the vectors (half a gigabyte) for
the next run with the same settings.

In each round every way runs once, one after another, each in a process of its own. The figures are medians over the
rounds. "x adlib" is the time as a multiple of the time in the first line of the table. Memory is the peak of the
process during the call minus what it held before, with libraries and vectors loaded (on a GPU, which was NOT TRIED, the
peak of the device).

adlib            `neighbours.coreset` with 128 dimensions, its default
adlib-same       the same with the number of dimensions to which anomalib projects
plain            the simple loop in 128 dimensions and float32: one product with all vectors for each pick, in place
anomalib         `KCenterGreedy.sample_coreset`, as anomalib's PatchCore calls it. Each of its picks costs the same. So
                 it makes only --theirs picks (0: all). The time for all picks is computed from these, marked ~
search           `neighbours.nearest`
search-sklearn   `NearestNeighbors`, brute force, which "auto" chooses here too
search-anomalib  the search of anomalib's PatchCore model, 32 images at a time, its default batch
"""

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.random_projection import johnson_lindenstrauss_min_dim

from adlib import machine, neighbours


CORESET = ["adlib", "adlib-same", "plain", "anomalib"]
SEARCH = ["search", "search-sklearn", "search-anomalib"]
POSITIONS, WIDTH, N_TEST = 32 * 32, 384, 83


def seeded():
    return torch.Generator().manual_seed(0)


@torch.no_grad()
def features(images, encoder):
    """uint8 (N, 3, 256, 256) -> (N * 1024, 384)."""
    vectors = []
    for part in images.split(16):
        low, high = [F.avg_pool2d(level, 3, 1, 1) for level in encoder(part.float() / 127.5 - 1)[1:]]
        high = F.interpolate(high, size=low.shape[-2:], mode="bilinear")
        vectors.append(torch.cat([low, high], 1).permute(0, 2, 3, 1).flatten(0, 2))
    return torch.cat(vectors)


def drawn(count):
    """The vectors of `count` images for --random; training and test images are drawn together."""
    generator = seeded()
    pattern = F.interpolate(torch.randn(1, 32, 8, 8, generator=generator), size=(32, 32), mode="bicubic")
    weights = torch.randn(32, WIDTH, generator=generator) / 32
    noise = torch.randn(count, POSITIONS, 32, generator=generator)
    return torch.cat([(pattern[0].flatten(1).T + 0.5 * image).mm(weights).relu() for image in noise])


def prepare(folder, options):
    """Write train.npy and test.npy, float32 (N, 384), and bank.npy, the coreset of train.npy to search in."""
    if (folder / "bank.npy").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if options.random:
        train, test = drawn(options.images + N_TEST).split([options.images * POSITIONS, N_TEST * POSITIONS])
    else:
        from adlib import backbones
        from repro import data

        bottle = data.one_class("mvtec", "bottle", size=256)
        encoder, _ = backbones.load("resnet18", "imagenet")
        train, test = features(bottle.train[: options.images], encoder), features(bottle.test, encoder)
    bank = train[neighbours.coreset(train, round(options.share * len(train)), seeded(), start=0)]
    for name, vectors in (("train", train), ("test", test), ("bank", bank)):
        np.save(folder / f"{name}.npy", vectors.numpy())


def plain(vectors, n):
    """Greedy picks after the first vector, by the simplest loop."""
    points = neighbours.project(vectors, 128, seeded())
    norms = points.square().sum(1)
    points = points.T.contiguous().T  # columns are contiguous, which makes the product of a matrix and a vector faster
    nearest, new = torch.full_like(norms, torch.inf), torch.empty_like(norms)
    picks = torch.zeros(n, dtype=torch.int64, device=points.device)
    for i in range(n - 1):
        pick = picks[i : i + 1]
        torch.addmv(norms, points, points.index_select(0, pick)[0], alpha=-2, out=new)
        new.add_(norms.index_select(0, pick))
        torch.minimum(nearest, new, out=nearest).index_fill_(0, pick, -1)
        torch.argmax(nearest, 0, keepdim=True, out=picks[i + 1 : i + 2])
    return picks


def import_anomalib():
    from adlib._torchvision import import_torchvision

    warnings.filterwarnings("ignore")
    import_torchvision()  # what anomalib builds on imports it
    from anomalib.models.components.sampling import KCenterGreedy
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    return KCenterGreedy, PatchcoreModel


def run_coreset(way, folder, n, theirs, device):
    """Seconds for all n picks, the picks that were made, and MB minus what was held before."""
    device = machine.pick(device)
    vectors = torch.from_numpy(np.load(folder / "train.npy")).to(device)
    if way == "anomalib":
        greedy, _ = import_anomalib()

        def select(vectors, n):
            sampler = greedy(embedding=vectors, sampling_ratio=(n + 0.5) / len(vectors))
            return sampler.embedding[sampler.select_coreset_idxs()]  # sample_coreset()

    elif way == "plain":
        select = plain
    else:
        dims = johnson_lindenstrauss_min_dim(len(vectors), eps=0.9) if way == "adlib-same" else 128

        def select(vectors, n):
            return neighbours.coreset(vectors, n, seeded(), dims=int(dims), start=0)

    select(vectors[:1000], 20)  # runs the late imports
    before = machine.peak_memory_mb(device)
    made = min(theirs or n, n) if way == "anomalib" else n
    once = machine.Stopwatch(device)
    if made < n:
        with once:
            select(vectors, 1)  # the projection, which is done once
    with machine.Stopwatch(device) as watch:
        picks = select(vectors, made)
    seconds = watch.seconds
    if made < n:
        seconds = once.seconds + (watch.seconds - once.seconds) * (n - 1) / (made - 1)
    return {
        "seconds": seconds,
        "picks": None if way == "anomalib" else picks.tolist(),
        "made": made,
        "MB": machine.peak_memory_mb(device) - before,
    }


def run_search(way, folder, device):
    device = machine.pick("cpu" if way == "search-sklearn" else device)
    bank, queries = (torch.from_numpy(np.load(folder / f"{name}.npy")).to(device) for name in ("bank", "test"))
    if way == "search-sklearn":
        from sklearn.neighbors import NearestNeighbors

        fitted = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(bank.numpy())

        def search(queries):
            return torch.from_numpy(fitted.kneighbors(queries.numpy())[1])

    elif way == "search-anomalib":
        _, model = import_anomalib()
        model = model(layers=["layer2", "layer3"], backbone="resnet18", pre_trained=False).to(device)
        model.memory_bank = bank

        def search(queries):
            parts = queries.split(32 * POSITIONS)
            return torch.cat([model.nearest_neighbors(part, n_neighbors=1)[1] for part in parts])

    else:

        def search(queries):
            return neighbours.nearest(queries, bank)[1]

    search(queries[:100])
    before = machine.peak_memory_mb(device)
    with machine.Stopwatch(device) as watch:
        nearest = search(queries)
    return {
        "seconds": watch.seconds,
        "nearest": nearest.flatten().cpu().numpy(),
        "MB": machine.peak_memory_mb(device) - before,
    }


def same_as_anomalib(folder):
    """How many of 100 picks equal anomalib's, among 4000 vectors without projection, from anomalib's random start."""
    greedy, _ = import_anomalib()
    vectors = torch.from_numpy(np.load(folder / "train.npy"))
    vectors = vectors[:: max(1, len(vectors) // 4000)][:4000].clone()
    theirs = greedy(vectors[:, :, None], (100 + 0.5) / len(vectors)).select_coreset_idxs()  # three axes: no projection
    ours = neighbours.coreset(vectors, len(theirs), seeded(), dims=None, start=theirs[0]).tolist()
    return sum(a == b for a, b in zip(ours, theirs, strict=True)), len(theirs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=209)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--theirs", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--only", nargs="+", choices=CORESET + SEARCH, default=CORESET + SEARCH)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = machine.pick(options.device)
    os.environ["TQDM_DISABLE"] = "1"  # for anomalib, in the processes started below
    has_anomalib = importlib.util.find_spec("anomalib") is not None
    ways = [way for way in options.only if has_anomalib or not way.endswith("anomalib")]
    measured = {way: [] for way in ways}
    # all large work runs in new processes, because a new process starts with the memory peak of its parent
    with (
        tempfile.TemporaryDirectory() as temporary,
        ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as process,
    ):
        kind = "random" if options.random else "bottle"
        folder = (options.folder or Path(temporary)) / f"{kind}-{options.images}-{options.share}"
        try:
            process.submit(prepare, folder, options).result()
        except FileNotFoundError as error:
            sys.exit(f"{error}\nWith --random no data are needed.")
        n, count, n_queries = (
            len(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ("bank", "train", "test")
        )
        for _ in range(options.rounds):
            for way in ways:
                given = (run_search, way, folder) if way in SEARCH else (run_coreset, way, folder, n, options.theirs)
                measured[way].append(process.submit(*given, options.device).result())
        same = process.submit(same_as_anomalib, folder).result() if "anomalib" in ways else None

    vectors = "drawn vectors" if options.random else "bottle, 256 px"
    print(
        f"{machine.name(device)}, torch {torch.__version__}, {vectors}, medians of {options.rounds}, "
        f"{time.strftime('%Y-%m-%d')}"
    )
    for title, group in (
        (f"coreset: {n} of {count} vectors of {WIDTH}", CORESET),
        (f"search: {n_queries} queries in {n} vectors of {WIDTH}", SEARCH),
    ):
        if not any(way in options.only for way in group):
            continue
        print(f"\n{title}\n{'':16}{'seconds':>10}{'per second':>12}{'x adlib':>9}{'MB':>7}")
        for way in (way for way in group if way in options.only):
            if way not in ways:
                print(f"{way:16}  not installed: pip install anomalib, best where adlib's own environment is not")
                continue
            runs = measured[way]
            seconds, megabytes = (statistics.median(run[key] for run in runs) for key in ("seconds", "MB"))
            mark = "~" if runs[0].get("made", n) < n else ""
            ratio = ""
            if group[0] in ways:
                ratio = statistics.median(
                    run["seconds"] / ours["seconds"] for run, ours in zip(runs, measured[group[0]], strict=True)
                )
                ratio = f"{ratio:.2f}"
            each = (n_queries if way in SEARCH else n) / seconds
            print(f"{way:16}{mark + format(seconds, '.2f'):>10}{each:12.0f}{ratio:>9}{megabytes:7.0f}")
    print()
    if "adlib" in ways and "plain" in ways:
        ours, theirs = (measured[way][0]["picks"] for way in ("adlib", "plain"))
        prefix = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), n)
        print(f"the first {prefix} of {n} picks are the plain loop's, which rounds to float32")
    if same is not None:
        print(f"{same[0]} of {same[1]} picks among 4000 vectors are anomalib's, given its start and no projection")
    for way in ("search-sklearn", "search-anomalib"):
        if way in ways and "search" in ways:
            agree = (measured["search"][0]["nearest"] == measured[way][0]["nearest"]).mean()
            print(f"{100 * agree:.3f} % of the nearest vectors are those of {way}")


if __name__ == "__main__":
    main()
