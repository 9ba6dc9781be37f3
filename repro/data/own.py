"""A user's own images, folder:PATH and npz:PATH; the same readers serve copies of known datasets.

    train, test = read("folder", Path("screws"), size=64, resample="antialias")

A folder holds train/<class>/ and test/<class>/ with image files, or is a category in MVTec's layout. A file that is
truncated, altered or of the wrong kind is a ValueError that names it; nothing in a file is executed.
"""

import hashlib
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from adlib import images as pictures
from repro.data.splits import Images, plain, sha8


def class_names(kind: str, path: Path) -> list[str]:
    """The names of the classes that have training images, without reading the images."""
    if kind == "folder":
        return sorted({file.parts[1] for file in _list_files(path) if file.parts[0] == "train"})
    return npz_classes(path)


def state(kind: str, path: Path) -> str:
    """A text that changes with every file of the images."""
    if kind == "npz":
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        files = [path]
    else:
        files = [path / file for file in _list_files(path)] + sorted((path / "ground_truth").rglob("*.png"))
    stats = [(file, os.stat(file)) for file in files]
    return "\n".join(f"{file} {stat.st_size} {stat.st_mtime_ns}" for file, stat in stats)


def read(kind: str, path: Path, size: int | None, resample: str) -> tuple[Images, Images]:
    """Train and test `Images`; only those of a folder are resized, image by image."""
    return read_folder(path, size, resample) if kind == "folder" else read_npz(path)


# ---- npz


def read_npz(path: Path, names: list[str] | None = None) -> tuple[Images, Images]:
    """An npz file with MedMNIST's keys: {train,test}_images, uint8 N x H x W or N x H x W x C, and {train,test}_labels,
    (N,) or (N, 1), whole numbers from 0; class_names if there are any, else `names`, else "0", "1", ...; val_* unread.
    """
    arrays, names = _read_arrays(path, ["train_images", "train_labels", "test_images", "test_labels"], names)
    source, both = "npz:" + sha8(path), []
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], torch.from_numpy(arrays[f"{split}_labels"])
        shape = images.shape + (1,) * (images.ndim == 3)
        if images.dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape[1:]:
            raise ValueError(
                f"{path}: {split}_images is {images.dtype} {images.shape}, "
                "not uint8 N x H x W or N x H x W x C with 1 or 3 channels"
            )
        if len(images) != len(labels):
            raise ValueError(f"{path}: {len(images)} {split}_images but {len(labels)} {split}_labels")
        images = torch.from_numpy(images.reshape(shape)).permute(0, 3, 1, 2).contiguous()
        both.append(plain(images, labels, names, source))
    if both[0].images.shape[1:] != both[1].images.shape[1:]:
        raise ValueError(f"{path}: train_images and test_images differ in size or channels")
    return tuple(both)


def npz_classes(path: Path, names: list[str] | None = None) -> list[str]:
    """The names of the classes that have training images in an npz file; names: as in `read_npz`."""
    arrays, names = _read_arrays(path, ["train_labels"], names)
    return [names[label] for label in np.unique(arrays["train_labels"])]


def _read_arrays(path: Path, keys: list[str], names: list[str] | None) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of an npz file, labels as int64 (N,), and the names of its classes."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        # allow_pickle=False: an object array could run any code when it is read; numpy refuses it with a ValueError.
        # The file is opened here, since numpy leaves it open when it is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [key for key in keys if key not in archive.files]
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}; it holds {', '.join(archive.files) or 'nothing'}")
            arrays = {key: archive[key] for key in [*keys, "class_names"] if key in archive.files}
    except (ValueError, TypeError, AttributeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as npz: {error}") from error
    n_classes = 0
    for key in (key for key in keys if key.endswith("_labels")):
        labels = arrays[key][:, 0] if arrays[key].ndim == 2 and arrays[key].shape[1] == 1 else arrays[key]
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or ((labels < 0) | (labels > 65535)).any():
            what = f"{labels.dtype} {labels.shape}, not whole numbers from 0 to 65535, (N,) or (N, 1)"
            raise ValueError(f"{path}: {key} is {what}")
        arrays[key] = labels.astype(np.int64)
        n_classes = max(n_classes, int(arrays[key].max(initial=-1)) + 1)
    if "class_names" in arrays:
        names = [str(name) for name in arrays["class_names"].ravel()]
    elif names is None:
        names = [str(label) for label in range(n_classes)]
    if len(names) < n_classes or len(set(names)) < len(names):
        raise ValueError(f"{path}: labels up to {n_classes - 1} but {len(set(names))} different class names")
    return arrays, names


# ---- folders


def read_folder(root: Path, size: int | None, resample: str) -> tuple[Images, Images]:
    """Class folders under `root`/train and `root`/test; MVTec's layout is the same with `root`/ground_truth.

    Each image is resized on reading (`adlib.images.resize`), so that sizes may differ; with size None they must not.
    One channel if all images are grey, else three. A test image of a class without training images is anomalous; where
    ground_truth/ exists it must have a mask there, <class>/<name>_mask.png or <class>/<name>.png, of its own size.
    """
    files = _list_files(root)
    trained = class_names("folder", root)
    names = trained + sorted({file.parts[1] for file in files} - set(trained))
    has_masks = (root / "ground_truth").is_dir()
    digest = hashlib.sha256()
    images, masks = [], []
    for file in files:
        content = (root / file).read_bytes()
        digest.update(file.as_posix().encode() + b"\0" + content)
        image = pictures.read(root / file, content)
        mask = torch.zeros(1, *image.shape[1:], dtype=torch.bool)
        if has_masks and file.parts[1] not in trained:
            mask_path = _mask_path(root, file)
            content = mask_path.read_bytes()
            digest.update(content)
            mask = (pictures.read(mask_path, content) > 0).any(0, keepdim=True)
            if mask.shape[1:] != image.shape[1:]:
                raise ValueError(f"{mask_path} is not of the size of its image {root / file}")
        if size is not None:
            image, mask = pictures.resize(image[None], size, resample)[0], pictures.resize_masks(mask, size)
        elif images and image.shape[1:] != images[0].shape[1:]:
            raise ValueError(f"{root / file} is not of the size of the images before it: give a size to resize to")
        images.append(image)
        masks.append(mask)
    channels = max(len(image) for image in images)
    images = torch.stack([image.expand(channels, -1, -1) for image in images])
    masks = torch.cat(masks) if has_masks else None
    splits = []
    for split in ("train", "test"):
        rows = [i for i, file in enumerate(files) if file.parts[0] == split]
        kinds = [files[i].parts[1] for i in rows]
        splits.append(
            Images(
                images=images[rows],
                labels=torch.tensor([names.index(kind) for kind in kinds], dtype=torch.int64),
                class_names=names,
                masks=masks[rows] if has_masks else None,
                kinds=kinds,
                files=[files[i].as_posix() for i in rows],
                source="folder:" + digest.hexdigest()[:8],
            )
        )
    return tuple(splits)


def _list_files(root: Path) -> list[Path]:
    """Paths, relative to `root`, of all images under train/ and test/, sorted; at least one of them under train/."""
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    files = sorted(path.relative_to(root) for split in ("train", "test") for path in pictures.list_images(root / split))
    if not any(file.parts[0] == "train" for file in files):
        raise ValueError(f"{root} holds no images under train/<class>/ ({', '.join(pictures.SUFFIXES)})")
    loose = [file for file in files if len(file.parts) < 3]
    if loose:
        raise ValueError(f"{root / loose[0]} lies in no class folder: put it under {loose[0].parts[0]}/<class>/")
    return files


def _mask_path(root: Path, file: Path) -> Path:
    folder = (root / "ground_truth").joinpath(*file.parts[1:-1])
    for name in (f"{file.stem}_mask.png", f"{file.stem}.png"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"the anomalous image {root / file} has no mask {folder / file.stem}_mask.png")
