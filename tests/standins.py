"""Stand-ins: drawn images in place of each real dataset, to try every job without the real ones.

    standins.write("build/stand-ins")        # all of them; then ADLIB_DATA=build/stand-ins

They are npz files, the 15 categories of MVTec AD as folders with their defects and masks, and files of random weights
with torchvision's names of tensors: the ordinary readers read them. STAND-IN.txt next to them marks them, so that
result rows say "stand-in:<sha8>" and none of them enters results/. They look like nothing, and nothing that is measured
on them says anything; but classes differ, so that a mix-up of two of them would show.
"""

import math
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from adlib import backbones
from repro import data
from repro.data import embedded, mvtec
from repro.data.sources import STAND_IN


NAMES = ("mnist", "fashion_mnist", "cifar10", "cifar100", "coil100", "mvtec", "weights")
N_PER_DEFECT = 2
# The side of the real images, of which these have a tenth, and their defects.
MVTEC = {
    "carpet": (1024, "color cut hole metal_contamination thread"),
    "grid": (1024, "bent broken glue metal_contamination thread"),
    "leather": (1024, "color cut fold glue poke"),
    "tile": (840, "crack glue_strip gray_stroke oil rough"),
    "wood": (1024, "color combined hole liquid scratch"),
    "bottle": (900, "broken_large broken_small contamination"),
    "cable": (
        1024,
        "bent_wire cable_swap combined cut_inner_insulation cut_outer_insulation missing_cable "
        "missing_wire poke_insulation",
    ),
    "capsule": (1000, "crack faulty_imprint poke scratch squeeze"),
    "hazelnut": (1024, "crack cut hole print"),
    "metal_nut": (700, "bent color flip scratch"),
    "pill": (800, "color combined contamination crack faulty_imprint pill_type scratch"),
    "screw": (1024, "manipulated_front scratch_head scratch_neck thread_side thread_top"),
    "toothbrush": (1024, "defective"),
    "transistor": (1024, "bent_lead cut_lead damaged_case misplaced"),
    "zipper": (1024, "broken_teeth combined fabric_border fabric_interior rough split_teeth squeezed_teeth"),
}
GREY = ("grid", "screw", "zipper")
MARK = """\
The files here are stand-ins for {names}, {per_class} training images a class: drawn to try jobs without
the real ones. What is measured on them says nothing. Delete this folder before real files are put in its place.
(version 2)
"""


def write(folder, names=NAMES, per_class=10):
    """Write stand-ins into `folder`, laid out as ADLIB_DATA expects it.

    names: some of NAMES. per_class: training images of a class, of mvtec of a category; test images are half as many,
    of each of mvtec's defects two; coil100 always has 72 views of 100 objects. The folder is whole or not there, and
    one that holds just these already is left as it is. Raises ValueError where it holds anything else.
    """
    folder = Path(folder).expanduser().resolve()
    mark = MARK.format(names=", ".join(names), per_class=per_class)
    if folder.is_dir() and any(folder.iterdir()):
        if (folder / STAND_IN).is_file() and (folder / STAND_IN).read_text() == mark:
            return
        raise ValueError(f"{folder} holds other files, and nothing is overwritten: choose another folder, or delete it")
    beside = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed
    beside.mkdir(parents=True)
    for name in names:
        if name == "mvtec":
            for category in MVTEC:
                write_category(beside / "mvtec" / category, category, per_class)
        elif name == "weights":
            write_weights(beside / "weights")
        else:
            write_npz(beside / f"{name}.npz", name, per_class)
    (beside / STAND_IN).write_text(mark)
    beside.replace(folder)


# ---- images of classes


def draw(name, label, split, n):
    """n images of a class of mnist, fashion_mnist, cifar10 or cifar100, uint8 (n, side, side, channels).

    A pattern of the class, three waves, turned over the edge by up to 3 px, under noise. split: "train" or "test".
    """
    side, channels = (28, 1) if "mnist" in name else (32, 3)
    of_class = np.random.default_rng([NAMES.index(name), label])
    y, x = np.mgrid[:side, :side, :1][:2] * (2 * math.pi / side)
    pattern = sum(
        np.cos(a * x + b * y + of_class.uniform(0, 2 * math.pi, channels)) for a, b in of_class.integers(-3, 4, (3, 2))
    )
    rng = np.random.default_rng([NAMES.index(name), label, ("train", "test").index(split)])
    images = np.stack([np.roll(pattern, shift, (0, 1)) for shift in rng.integers(-3, 4, (n, 2))])
    return np.clip(128 + 35 * images + rng.normal(0, 12, images.shape), 0, 255).astype(np.uint8)


def draw_object(name):
    """The 72 views of an object, uint8 (72, 32, 32, 3): an outline in two colors on black, turned by 5 degrees each."""
    y, x = np.mgrid[:32, :32] - 15.5
    radius, degrees = np.hypot(x, y), np.rint(np.degrees(np.arctan2(y, x))).astype(int)
    turn = np.radians(np.arange(360))
    rng = np.random.default_rng([NAMES.index("coil100"), int(name.removeprefix("obj"))])
    waves = sum(rng.uniform(-0.3, 0.3) / k * np.cos(k * turn + rng.uniform(0, 6.28)) for k in (1, 2, 3, 4))
    outline = rng.uniform(7, 10) * (1 + waves)
    paint = 1 + (np.cos(rng.integers(1, 6) * turn + rng.uniform(0, 6.28)) > 0.3)
    colors = np.array([[0, 0, 0], *rng.integers(60, 256, (2, 3))], np.uint8)
    shown = [(degrees + angle) % 360 for angle in range(0, 360, 5)]
    return np.stack([colors[(radius < outline[angles]) * paint[angles]] for angles in shown])


def write_npz(path, name, per_class):
    """Images in an order that says nothing; of coil100 all are train."""
    names, arrays = data.CLASS_NAMES[name], {}
    for split, n in (("train", per_class), ("test", per_class // 2)):
        if name == "coil100":
            n = 72 if split == "train" else 0
            images = np.concatenate([draw_object(normal)[:n] for normal in names])
        else:
            images = np.concatenate([draw(name, label, split, n) for label in range(len(names))])
        order = np.random.default_rng([NAMES.index(name), n]).permutation(len(images))
        labels = np.repeat(np.arange(len(names), dtype=np.uint8), n)
        arrays |= {f"{split}_images": images[order], f"{split}_labels": labels[order]}
    np.savez(path, **arrays)


# ---- MVTec AD


def write_category(folder, category, per_class):
    """A category: one of the drawn textures, tinted and enlarged, with its defects in turn under the real names."""
    number = mvtec.NAMES.index(category)
    side, defects = MVTEC[category][0] // 10, MVTEC[category][1].split()
    tint = np.random.default_rng([NAMES.index("mvtec"), number]).uniform(0.4, 1, 3)
    rows = np.arange(side) * embedded.SIZE // side  # each pixel comes from the one below it, the mask's as well

    def put(kind, part, place, n):
        for i in range(n):
            defect = None if kind == "good" else embedded.DEFECTS[defects.index(kind) % len(embedded.DEFECTS)]
            image, mask = embedded.draw(embedded.NAMES[number % len(embedded.NAMES)], (number, part, i), defect)
            image = (image * tint).astype(np.uint8)[rows][:, rows]
            image = image.mean(2).astype(np.uint8) if category in GREY else image
            save(folder / place / f"{i:03d}.png", image)
            if defect:
                save(folder / "ground_truth" / kind / f"{i:03d}_mask.png", mask[rows][:, rows].astype(np.uint8) * 255)

    put("good", 0, "train/good", per_class)
    put("good", 1, "test/good", per_class // 2)
    for i, defect in enumerate(defects):
        put(defect, 2 + i, f"test/{defect}", N_PER_DEFECT)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, compress_level=1)


# ---- weights


def write_weights(folder):
    """A file <backbone>.pth for each backbone, up to layer3, of a few hundred kB.

    All convolutions are views of one row of random numbers, which the file holds once: in the network's k-th, the
    weight from channel i to channel j is the number at 97 k + i + j, further on for each pixel of the kernel. Stored in
    full the widest would be 330 MB. Batch norm scales the sums back, and the last of a block to a tenth, so that the
    maps stay of order 1 through 33 blocks.
    """
    folder.mkdir(parents=True)
    row = torch.from_numpy(np.random.default_rng(NAMES.index("weights")).standard_normal(1 << 16).astype(np.float32))
    for backbone in backbones.CHANNELS:
        with torch.device("meta"):
            needed = backbones._resnet(backbone).state_dict()
        last = "bn2.weight" if backbone == "resnet18" else "bn3.weight"
        tensors, fan_in, k = {}, 1, 0
        for name, value in needed.items():
            if value.ndim == 4:  # a convolution; its batch norm comes next
                n_out, n_in, height, width = value.shape
                strides = (1, 1, width * (n_out + n_in), n_out + n_in)
                tensors[name] = row.as_strided(value.shape, strides, storage_offset=97 * k)
                fan_in, k = n_in * height * width, k + 1
            elif name.endswith("weight"):
                scale = math.sqrt(2 / fan_in) * (0.1 if "layer" in name and name.endswith(last) else 1)
                tensors[name] = torch.tensor([scale]).expand(value.shape)
            elif value.ndim == 1:
                tensors[name] = torch.tensor([float(name.endswith("running_var"))]).expand(value.shape)
        torch.save(tensors, folder / f"{backbone}.pth")
