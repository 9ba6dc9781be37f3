"""Stand-ins: drawn images in the layout of each real dataset, to try every job without the real ones.

    standins.write("build/stand-ins")        # all of them; then ADLIB_DATA=build/stand-ins

MNIST's idx files, CIFAR's batches, the views of COIL-100, the 15 categories of MVTec AD with their defects and masks,
and files of weights under the names that torchvision gives the tensors: what reads the real ones reads these, byte
formats included. A file STAND-IN.txt beside them marks them: where it stands checksums are not compared, result rows
say "stand-in:<sha8>" in their column `data`, and prepared images are cached apart (`data.py`). They look like nothing,
and nothing that is measured on them says anything; but classes differ, so that a mix-up of two of them would show.
"""

import gzip
import math
import shutil
import struct
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import torch

from adlib import backbones
from repro import data
from repro.data import coil100, mvtec, readers, textures


VERSION = 1  # counted up when other bytes are written
NAMES = ("mnist", "fashion_mnist", "cifar10", "cifar100", "coil100", "mvtec", "weights")
FEWEST = 5  # training images of a class: the nearest-neighbour baseline looks at so many
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
The files beside this one are stand-ins for {name}: adlib drew them to try its jobs without the real ones.
Their checksums are not compared, and what is measured on them says nothing.
Delete this folder before the real files are put in its place.
(version {version}{size})
"""


def write(folder, names=None, per_class=10):
    """Writes stand-ins into `folder`, laid out as ADLIB_DATA expects it; returns the folders that hold them.

    names: some of NAMES (None: all). per_class: training images of a class, of mvtec of a category; test images are
    half as many, of each of mvtec's defects two; coil100 always has its 72 views of 100 objects. The same arguments
    write the same bytes. A folder is whole or not there, and one that holds just these stand-ins already is left as it
    is, so that what was prepared of them stays good. Raises ValueError for a bad argument and, before anything is
    written, for a folder that holds anything else: nothing is ever overwritten.
    """
    names = list(NAMES if names is None else names)
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ValueError(f"no stand-ins for {unknown[0]!r}: choose {', '.join(NAMES)}")
    if type(per_class) is not int or per_class < FEWEST:
        raise ValueError(f"per_class is a whole number from {FEWEST}, not {per_class!r}")
    from filelock import FileLock  # only here

    root = Path(folder).expanduser().resolve()
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / "stand-ins.lock"):
        parts = [(name, *part) for name in names for part in _parts(root, name, per_class)]
        missing = [part for part in parts if not _is_there(part[1], _mark(part[0], per_class))]
        for name, target, fill in missing:
            beside = target.with_name(f"{target.name}.unfinished")
            shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed
            beside.mkdir(parents=True)
            fill(beside)
            (beside / readers.STAND_IN).write_text(_mark(name, per_class), encoding="utf-8")
            beside.rename(target)
    return [target for _, target, _ in parts]


def _parts(root, name, per_class):
    """(folder, function that fills one) of a dataset: one folder, of mvtec one for each category."""
    if name == "mvtec":
        return [(root / "mvtec" / category, partial(_write_category, category, per_class)) for category in MVTEC]
    if name == "coil100":
        return [(root / "coil-100", _write_coil)]
    if name == "weights":
        return [(root / "weights", _write_weights)]
    return [(root / data.FOLDERS[name], partial(_write_mnist if "mnist" in name else _write_cifar, name, per_class))]


def _mark(name, per_class):
    size = "" if name in ("coil100", "weights") else f", {per_class} training images a class"
    return MARK.format(name=name, version=VERSION, size=size)


def _is_there(target, mark):
    """Whether a folder holds the stand-ins of this mark; a ValueError if it holds anything else."""
    if not target.is_dir() or not any(target.iterdir()):
        return False
    marker = target / readers.STAND_IN
    if marker.is_file() and marker.read_text(encoding="utf-8") == mark:
        return True
    what = "other stand-ins" if marker.is_file() else "files that are no stand-ins"
    raise ValueError(f"{target} holds {what}, and nothing is overwritten: choose another folder, or delete it")


# ---- images of classes: MNIST and CIFAR


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


def _draw_split(name, per_class, split):
    """All images of a split and their labels, uint8 (N,), in an order that says nothing."""
    n, n_classes = per_class if split == "train" else per_class // 2, len(data.CLASS_NAMES[name])
    images = np.concatenate([draw(name, label, split, n) for label in range(n_classes)])
    order = np.random.default_rng([NAMES.index(name), n]).permutation(len(images))
    return images[order], np.repeat(np.arange(n_classes, dtype=np.uint8), n)[order]


def _write_mnist(name, per_class, folder):
    for prefix, split in (("train", "train"), ("t10k", "test")):
        images, labels = _draw_split(name, per_class, split)
        for what, array in (("images", images[..., 0]), ("labels", labels)):
            content = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
            path = folder / f"{prefix}-{what}-idx{array.ndim}-ubyte.gz"
            path.write_bytes(gzip.compress(content, mtime=0))  # no time in it: the same bytes each time


def _write_cifar(name, per_class, folder):
    official = {"plane": "airplane", "car": "automobile"}
    names = [official.get(one, one).encode() for one in data.CLASS_NAMES[name]]
    superclass_of = {one: i for i, five in enumerate(data.SUPERCLASSES.values()) for one in five}
    for split in ("train", "test"):
        images, labels = _draw_split(name, per_class, split)
        images = images.transpose(0, 3, 1, 2).reshape(len(images), -1)  # plane by plane
        files = [b"stand_in_s_%06d.png" % i for i in range(len(images))]
        if name == "cifar10":  # train in five batches
            batches = (
                {f"data_batch_{k + 1}": part for k, part in enumerate(np.split(np.arange(len(images)), 5))}
                if split == "train"
                else {"test_batch": np.arange(len(images))}
            )
            for file, part in batches.items():
                _write_pickle(
                    folder / file,
                    {
                        b"batch_label": file.encode(),
                        b"labels": labels[part].tolist(),
                        b"data": images[part],
                        b"filenames": [files[i] for i in part],
                    },
                )
        else:
            coarse = [superclass_of[data.CLASS_NAMES[name][label]] for label in labels.tolist()]
            _write_pickle(
                folder / split,
                {
                    b"filenames": files,
                    b"batch_label": split.encode(),
                    b"fine_labels": labels.tolist(),
                    b"coarse_labels": coarse,
                    b"data": images,
                },
            )
    if name == "cifar10":
        _write_pickle(
            folder / "batches.meta", {b"num_cases_per_batch": 2 * per_class, b"label_names": names, b"num_vis": 3072}
        )
    else:
        _write_pickle(
            folder / "meta",
            {b"fine_label_names": names, b"coarse_label_names": [one.encode() for one in data.SUPERCLASSES]},
        )


def _write_pickle(path, content):
    path.write_bytes(b"\x80\x02" + _pickled(content) + b".")


def _pickled(value):
    """A dict, list, bytes, number or array of uint8 as Python 2 and its numpy pickled it, which no Python 3 does: its
    bytes are strings here, and numpy goes by its old name. Protocol 2; so are the real batches."""
    if isinstance(value, dict):
        return b"}(" + b"".join(_pickled(part) for item in value.items() for part in item) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(_pickled(part) for part in value) + b"e"
    if isinstance(value, bytes):
        return (b"U" + bytes([len(value)]) if len(value) < 256 else b"T" + struct.pack("<i", len(value))) + value
    if isinstance(value, int):
        return b"K" + bytes([value]) if value < 256 else b"J" + struct.pack("<i", value)
    shape = b"(" + b"".join(_pickled(n) for n in value.shape) + b"t"
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + shape
        + dtype
        + b"\x89"
        + _pickled(value.tobytes())
        + b"tb"
    )


# ---- COIL-100 and MVTec AD


def _write_png(path, image):
    """uint8 (H, W), or (H, W, 3), as PNG: fast and without filters, for COIL-100 alone are 7,200 files."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = image.shape[:2]
    lines = np.zeros((height, 1 + image.size // height), np.uint8)  # each begins with its filter, 0
    lines[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if image.ndim == 3 else 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines, 1)) + chunk(b"IEND", b"")
    )


def _write_coil(folder):
    """The 72 views of each object: an outline in two colors on black, turned by 5 degrees each time, 128 px."""
    y, x = np.mgrid[:64, :64] - 31.5
    radius, degrees = np.hypot(x, y), np.rint(np.degrees(np.arctan2(y, x))).astype(int)
    turn = np.radians(np.arange(360))
    for name in coil100.NAMES:
        rng = np.random.default_rng([NAMES.index("coil100"), int(name.removeprefix("obj"))])
        outline = rng.uniform(14, 20) * (
            1 + sum(rng.uniform(-0.3, 0.3) / k * np.cos(k * turn + rng.uniform(0, 6.28)) for k in (1, 2, 3, 4))
        )
        paint = 1 + (np.cos(rng.integers(1, 6) * turn + rng.uniform(0, 6.28)) > 0.3)
        colors = np.array([[0, 0, 0], *rng.integers(60, 256, (2, 3))], np.uint8)
        for angle in range(0, 90, 360 // coil100.N_VIEWS):
            there = (degrees + angle) % 360
            view = colors[(radius < outline[there]) * paint[there]].repeat(2, 0).repeat(2, 1)
            for quarter in range(4):  # a turn by 90 degrees costs nothing
                _write_png(folder / f"{name}__{angle + 90 * quarter}.png", np.rot90(view, quarter))


def _write_category(category, per_class, folder):
    """A category: one of the drawn textures, tinted and enlarged, with its defects in turn under the real names."""
    number = mvtec.NAMES.index(category)
    side, defects = MVTEC[category][0] // 10, MVTEC[category][1].split()
    tint = np.random.default_rng([NAMES.index("mvtec"), number]).uniform(0.4, 1, 3)
    rows = np.arange(side) * textures.SIZE // side  # each pixel comes from the one below it, the mask's as well

    def put(kind, part, place, n):
        for i in range(n):
            defect = None if kind == "good" else textures.DEFECTS[defects.index(kind) % len(textures.DEFECTS)]
            texture = textures.NAMES[number % len(textures.NAMES)]
            image, mask = textures.draw(texture, (number, part, i), defect)
            image = (image * tint).astype(np.uint8)[rows][:, rows]
            (folder / place).mkdir(parents=True, exist_ok=True)
            _write_png(folder / place / f"{i:03d}.png", image.mean(2).astype(np.uint8) if category in GREY else image)
            if defect:
                masks = folder / "ground_truth" / kind
                masks.mkdir(parents=True, exist_ok=True)
                _write_png(masks / f"{i:03d}_mask.png", mask[rows][:, rows].astype(np.uint8) * 255)

    put("good", 0, "train/good", per_class)
    put("good", 1, "test/good", per_class // 2)
    for i, defect in enumerate(defects):
        put(defect, 2 + i, f"test/{defect}", N_PER_DEFECT)


# ---- weights


def _write_weights(folder):
    """A file <backbone>-stand-in.pth for each backbone, up to layer3, of a few hundred kB.

    All convolutions are views of one row of random numbers, which the file holds once: in the network's k-th, the
    weight from channel i to channel j is the number at 97 k + i + j, further on for each pixel of the kernel. Stored in
    full the widest would be 330 MB. Batch norm scales the sums back, and the last of a block to a tenth, so that the
    maps stay of order 1 through 33 blocks.
    """
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
        torch.save(tensors, folder / f"{backbone}-stand-in.pth")
