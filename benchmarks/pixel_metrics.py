"""Pixel AUROC and AUPRO of one category: what do they cost here and in other implementations?

    python benchmarks/pixel_metrics.py [--images 83] [--size 256] [--rounds 5]

All ways read the same drawn maps and masks. About three images in four are defective, as in MVTec AD's bottle. In each
round every way runs once, one after another, each in a process of its own. The figures are medians over the rounds.
Memory is the peak of the process during the call minus what it held before, with libraries and images loaded.
adlib          both metrics, `metrics.localisation`
pyaupro MVTec  AUPRO by MVTec's evaluation script, as the package pyaupro contains it; its area keeps the last overlap
               up to the limit instead of interpolating there
pyaupro        AUPRO by pyaupro's own code, which does not merge ties
scikit-learn   pixel AUROC, `roc_auc_score`
"""

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from adlib import machine, metrics


def draw(folder, n_images, size):
    """Write maps.npy, float32, and masks.npy, bool, both (n_images, size, size). They are the same in every run."""
    from scipy import ndimage

    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size] / size
    masks = np.zeros((n_images, size, size), bool)
    for mask in masks[: round(n_images * 63 / 83)]:
        for _ in range(random.integers(1, 3)):  # one or two ellipses
            (y, x), (height, width) = random.uniform(0.2, 0.8, 2), random.uniform(0.02, 0.2, 2)
            mask |= ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1
    noise = ndimage.gaussian_filter(random.standard_normal(masks.shape, np.float32), (0, 4, 4))
    np.save(folder / "maps.npy", noise + 0.2 * ndimage.gaussian_filter(masks.astype(np.float32), (0, 4, 4)))
    np.save(folder / "masks.npy", masks)


def with_pyaupro(**options):
    from adlib._torchvision import import_torchvision

    import_torchvision()  # what pyaupro builds on imports it
    import pyaupro

    def measure(maps, masks):
        metric = pyaupro.PerRegionOverlap(**options)
        metric.update(torch.from_numpy(maps), torch.from_numpy(masks))
        return {"aupro": pyaupro.auc_compute(*metric.compute(), limit=0.3).item()}

    return measure


def with_scikit_learn():
    from sklearn.metrics import roc_auc_score

    return lambda maps, masks: {"pixel_auroc": roc_auc_score(masks.ravel(), maps.ravel())}


WAYS = {
    "adlib": lambda: metrics.localisation,
    "pyaupro MVTec": lambda: with_pyaupro(reference_implementation=True),
    "pyaupro": with_pyaupro,
    "scikit-learn": with_scikit_learn,
}


def run(way, folder):
    """Seconds of one call in this process, MB minus what was held before, and the values."""
    measure = WAYS[way]()
    maps, masks = np.load(folder / "maps.npy"), np.load(folder / "masks.npy")
    measure(maps[:2].copy(), masks[:2].copy())  # runs the late imports
    before, start = machine.peak_memory_mb(torch.device("cpu")), time.perf_counter()
    values = measure(maps, masks)
    seconds = time.perf_counter() - start
    return seconds, machine.peak_memory_mb(torch.device("cpu")) - before, values


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=83)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    measured = {way: [] for way in WAYS}
    # all large work runs in new processes, because a new process starts with the memory peak of its parent
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as process,
    ):
        process.submit(draw, Path(folder), options.images, options.size).result()
        for _ in range(options.rounds):
            for way in WAYS:
                measured[way].append(process.submit(run, way, Path(folder)).result())
    print(f"{machine.name(torch.device('cpu'))}, numpy {np.__version__}, {options.images} images of {options.size} px")
    print(f"{'':14}{'seconds':>9}{'x adlib':>9}{'MB':>7}{'pixel AUROC':>14}{'AUPRO':>11}")
    for way, runs in measured.items():
        seconds, megabytes = (statistics.median(run[i] for run in runs) for i in (0, 1))
        ratio = statistics.median(run[0] / ours[0] for run, ours in zip(runs, measured["adlib"], strict=True))
        cells = [f"{runs[0][2][name]:.6f}" if name in runs[0][2] else "" for name in ("pixel_auroc", "aupro")]
        print(f"{way:14}{seconds:9.3f}{ratio:9.1f}{megabytes:7.0f}{cells[0]:>14}{cells[1]:>11}")


if __name__ == "__main__":
    main()
