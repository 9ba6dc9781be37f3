"""A user's own images, folder:PATH and npz:PATH; the same readers serve copies of known datasets.

    train, test = read("folder", Path("screws"), size=64, resample="antialias")

A folder holds train/<class>/ and test/<class>/ with image files, or is a category in MVTec's layout. A file that is
truncated, altered or of the wrong kind raises a ValueError with its name; nothing in it is executed.
"""

import hashlib
import os
import re
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from adlib import pictures
from adlib.images import resize, resize_masks
from repro.data.splits import Images, plain, sha8


def class_names(kind: str, path: Path) -> list[str]:
    """The names of the classes that have training images, without reading the images."""
    if kind == "folder":
        return sorted({file.parts[1] for file in _list_files(path) if file.parts[0] == "train"})
    return npz_classes(path)


def state(kind: str, path: Path) -> str:
    """A text that changes whenever an image file changes, even if the new file has the old size and time."""
    if kind == "npz":
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        files = [path]
    else:
        files = [path / file for file in _list_files(path)] + sorted(pictures.list_images(path / "ground_truth"))
    stats = [(file, os.stat(file)) for file in files]
    return "\n".join(f"{file} {it.st_size} {it.st_mtime_ns} {it.st_ctime_ns} {it.st_ino}" for file, it in stats)


def source(kind: str, path: Path) -> str:
    """The name of the images in result rows, "folder:1a2b3c4d": a checksum of everything that `read` reads."""
    if kind == "npz":
        return "npz:" + sha8(path)
    digest = hashlib.sha256()
    for _ in _contents(path, digest):
        pass
    return "folder:" + digest.hexdigest()[:8]


def read(kind: str, path: Path, size: int | None, resample: str) -> tuple[Images, Images]:
    """Train and test `Images`; a folder's images are resized one by one, an npz's are not."""
    return read_folder(path, size, resample) if kind == "folder" else read_npz(path)


# ---- npz


def read_npz(path: Path, names: list[str] | None = None) -> tuple[Images, Images]:
    """An npz file with MedMNIST's keys: {train,test}_images, uint8 N x H x W or N x H x W x C, and {train,test}_labels,
    (N,) or (N, 1), whole numbers from 0; class_names if any, else `names`, else "0", "1", ...; val_* is ignored.
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
        is_other = "pickle" in str(error) or isinstance(error, TypeError)  # numpy's advice would let it run code
        reason = "it holds pickled objects, or is no npz" if is_other else error
        raise ValueError(f"{path} cannot be read as npz: {reason}") from error
    n_classes = 0
    for key in (key for key in keys if key.endswith("_labels")):
        labels = arrays[key][:, 0] if arrays[key].ndim == 2 and arrays[key].shape[1] == 1 else arrays[key]
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or ((labels < 0) | (labels > 65535)).any():
            what = f"{labels.dtype} {labels.shape}, not whole numbers from 0 to 65535, (N,) or (N, 1)"
            raise ValueError(f"{path}: {key} is {what}")
        arrays[key] = labels.astype(np.int64)
        n_classes = max(n_classes, int(arrays[key].max(initial=-1)) + 1)
    if "class_names" in arrays:
        names = arrays["class_names"].ravel().astype(str).tolist()
    elif names is None:
        names = [str(label) for label in range(n_classes)]
    if len(names) < n_classes or len(set(names)) < len(names):
        raise ValueError(f"{path}: labels up to {n_classes - 1} but {len(set(names))} different class names")
    return arrays, names


# ---- folders


def read_folder(root: Path, size: int | None, resample: str) -> tuple[Images, Images]:
    """Class folders under `root`/train and `root`/test; MVTec's layout is the same with `root`/ground_truth.

    Each image is resized on reading (`adlib.images.resize`), so sizes may differ; with size None they must not. One
    channel if all images are grey, else three. A test image of a class without training images is anomalous; a
    ground_truth/ must hold a mask for it (`_masks`), of its size, that marks something. 16 bits: `white`.
    """
    files = _list_files(root)
    trained = class_names("folder", root)
    names = trained + sorted({file.parts[1] for file in files} - set(trained))
    has_masks = (root / "ground_truth").is_dir()
    white = pictures.white(root / file for file in files if file.parts[0] == "train")
    if white is not None:
        pictures.say(f"{root}: 16-bit grey images, 0 to {white} (training images have no more) is read as 0 to 255")
    digest = hashlib.sha256()
    images, masks, several = [], [], []
    for file, content, marking in _contents(root, digest):
        image = pictures.read(root / file, content, white, several)
        mask = torch.zeros(1, *image.shape[1:], dtype=torch.bool)
        for path, content in marking:
            marked = pictures.read_mask(path, content)
            if marked.shape != image.shape[1:]:
                raise ValueError(f"{path} is not of the size of its image {root / file}")
            mask |= marked
        if has_masks and file.parts[1] not in trained:
            if not marking:
                path = (root / "ground_truth").joinpath(*file.parts[1:]).with_suffix("")
                raise FileNotFoundError(f"the anomalous image {root / file} has no mask {path}_mask.png")
            if not mask.any():
                raise ValueError(f"{marking[0][0]} marks nothing, and its image {root / file} is anomalous")
        elif mask.any():
            raise ValueError(f"{marking[0][0]} marks a defect in the normal image {root / file}")
        if size is not None:
            image, mask = resize(image[None], size, resample)[0], resize_masks(mask, size)
        elif images and image.shape[1:] != images[0].shape[1:]:
            raise ValueError(f"{root / file} is not of the size of the images before it: give a size to resize to")
        images.append(image)
        masks.append(mask)
    pictures.say_several(several)
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
                files=[pictures.shown(files[i].as_posix()) for i in rows],
                source="folder:" + digest.hexdigest()[:8],
            )
        )
    return tuple(splits)


def _contents(root, digest):
    """Yield (file, its bytes, [(mask's path, its bytes), ...]) of all images, and add them to a checksum."""
    files = _list_files(root)
    masks = _masks(root, files)
    for file in files:
        content = (root / file).read_bytes()
        digest.update(os.fsencode(file.as_posix()) + b"\0" + content)
        marking = [(path, path.read_bytes()) for path in masks.get(file, [])]
        for _, of_mask in marking:
            digest.update(of_mask)
        yield file, content, marking


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
    stems = {(file.parent, file.stem.lower()) for file in files}
    for file in files:
        bare = re.sub("[ ._-](masks?|gt|ground_?truth)$", "", file.stem.lower())
        if bare != file.stem.lower() and (file.parent, bare) in stems:
            raise ValueError(f"{root / file} looks like a mask of the image next to it: put it into ground_truth/")
    read = ("train", "test", "ground_truth")
    if others := sorted(path.name for path in root.glob("[!.]*") if path.is_dir() and path.name not in read):
        pictures.say(f"{root} holds folders that are not read: {', '.join(others)} (read are {', '.join(read)})")
    for folder in sorted({root / file.parts[0] / file.parts[1] for file in files}):
        if pictures.shown(folder) != str(folder):  # rows, which are UTF-8, hold it
            raise ValueError(f"the name of the folder {pictures.shown(folder)} is not UTF-8: rename it")
    return files


def _masks(root: Path, files: list[Path]) -> dict[Path, list[Path]]:
    """Test image -> its masks, which are combined: ground_truth/<class>/<name>.png, <name>_mask.png, <name>_gt.png or
    any images in a folder <name>, of any suffix that is read. ValueError for a mask that belongs to no image or to two.
    """
    by_name, found = {}, {}
    for file in files:
        if file.parts[0] == "test":
            by_name.setdefault((*file.parts[1:-1], file.stem.lower()), []).append(file)
    for path in sorted(pictures.list_images(root / "ground_truth")):
        folder, stem = path.relative_to(root / "ground_truth").parts[:-1], path.stem.lower()
        bare = re.sub("[ ._-]*(masks?|gt|ground_?truth|labels?|seg(mentation)?)$", "", stem)
        names = [(*folder, stem), (*folder, bare), (*folder[:-1], *(part.lower() for part in folder[-1:]))]
        images = next((by_name[name] for name in names if name in by_name), [])
        if len(images) != 1:
            ways = "ground_truth/<defect>/ holds <name>.png, <name>_mask.png, <name>_gt.png or a folder <name>"
            raise ValueError(f"{path} is the mask of {len(images) or 'no'} images under test/: {ways} for an image")
        found.setdefault(images[0], []).append(path)
    return found
