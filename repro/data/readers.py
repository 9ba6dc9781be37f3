"""Readers of raw image data: idx files, npz files, folders, and what is embedded. Used by `data.py`.

    train, test = read_folder(Path("screws"), size=64, resample="antialias")
    train.images                      # uint8 (N, C, 64, 64)

Every reader returns two `Images`, train and test, with the class names that the files give. A file that is truncated,
altered or of the wrong kind is a ValueError that names it; nothing in a file is executed. Libraries that only one
reader needs are imported by it: a job that finds its data prepared imports none of them.
"""

import gzip
import hashlib
import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from repro.data import textures


SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
STAND_IN = "STAND-IN.txt"  # a file of this name beside images says that `standins.py` drew them


@dataclass
class Images:
    """The images of one split, with what is known of them."""

    images: torch.Tensor  # uint8 (N, C, H, W), C is 1 or 3
    labels: torch.Tensor  # int64 (N,), index into class_names
    class_names: list
    masks: torch.Tensor | None  # bool (N, H, W), True where an image is defective
    kinds: list  # of each image its class or defect, N strings
    files: list | None  # of each image its path inside the folder it came from
    source: str  # "official", "npz:", "folder:" or "zip:<sha8>", "embedded" where code holds the data,
    #                               "stand-in:<sha8>" where nothing counts that is measured on them; of a known dataset
    #                               without all of its classes also "... (17 of 100 classes)"


def resize(images, size, resample):
    """Resizes uint8 images (N, C, H, W) to (N, C, size, size), plainly: the aspect is not kept, nothing is cropped.

    `resample` "antialias" averages over what a new pixel covers, "bilinear" takes the four nearest old pixels;
    enlarged, both are the same. Computed in float32, rounded.
    """
    if images.shape[-2:] == (size, size):
        return images
    planes = images.flatten(0, 1)[:, None]  # each channel on its own: a photograph has 100 million pixels
    out = torch.empty(len(planes), 1, size, size, dtype=torch.uint8)
    step = max(1, (1 << 24) // max(1, planes[:1].numel()))  # chunks of at most 64 MB of float32, or of one channel
    for i in range(0, len(planes), step):
        chunk = F.interpolate(
            planes[i : i + step].float(),
            size=(size, size),
            mode="bilinear",
            align_corners=False,
            antialias=resample == "antialias",
        )
        out[i : i + step] = chunk.round_().clamp_(0, 255).to(torch.uint8)
    return out.view(*images.shape[:2], size, size)


def resize_masks(masks, size):
    """Resizes bool masks (N, H, W) to (N, size, size) by nearest neighbor."""
    if masks.shape[-2:] == (size, size):
        return masks
    return F.interpolate(masks[:, None].to(torch.uint8), size=(size, size), mode="nearest-exact")[:, 0].bool()


def read_digits():
    """scikit-learn's 8 x 8 digits, 0..16 scaled to 0..255; of each class the last third in file order is test."""
    from sklearn.datasets import load_digits  # 2 s, and only the first job on this machine gets here

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        of_class = (labels == label).nonzero().flatten()
        is_test[of_class[len(of_class) - len(of_class) // 3 :]] = True
    names = [str(label) for label in range(10)]
    return tuple(_plain(images[part], labels[part], names, "embedded") for part in (~is_test, is_test))


def read_textures():
    """The drawn textures of `textures.py`: three categories, test images with defects and masks."""
    splits = []
    for split in ("train", "test"):
        images, masks, labels, kinds = textures.draw_split(split)
        splits.append(
            Images(
                torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
                torch.from_numpy(labels),
                list(textures.NAMES),
                torch.from_numpy(masks),
                kinds,
                None,
                "embedded",
            )
        )
    return tuple(splits)


def _plain(images, labels, names, source):
    """Images whose kind is their class, with neither masks nor files."""
    return Images(images, labels, names, None, [names[i] for i in labels.tolist()], None, source)


def is_stand_in(folder):
    """Whether the files in a folder are marked as stand-ins for a dataset's or for weights."""
    return (folder / STAND_IN).is_file()


def stand_in_source(paths):
    """The source of images that were read from these files: "stand-in:<sha8>" of names and contents."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return "stand-in:" + digest.hexdigest()[:8]


def read_mnist(raw, dataset, names, stand_in=False):
    """The four idx files of MNIST's layout in the folder `raw`, as `.gz` (checked by md5) or unpacked (by length).

    `dataset` is torchvision's class, which knows the checksums; with stand_in they are not compared, and the source is
    "stand-in:<sha8>". Returns None if none of the files is there; raises FileNotFoundError if only some are.
    """
    md5 = dict(dataset.resources)
    paths = {name: path for name in md5 for path in (raw / name[:-3], raw / name) if path.is_file()}  # .gz wins
    if not paths and not stand_in:
        return None
    missing = [name for name in md5 if name not in paths]
    if missing:
        raise FileNotFoundError(f"{raw} lacks {', '.join(missing)}")
    source = stand_in_source(paths.values()) if stand_in else "official"
    splits = []
    for prefix in ("train", "t10k"):
        images, labels = (
            _read_idx(paths[name], None if stand_in else md5[name], dimensions)
            for name, dimensions in ((f"{prefix}-images-idx3-ubyte.gz", 3), (f"{prefix}-labels-idx1-ubyte.gz", 1))
        )
        if len(images) != len(labels) or (len(labels) and labels.max() >= len(names)):
            raise ValueError(f"{paths[f'{prefix}-labels-idx1-ubyte.gz']} does not fit the images beside it")
        splits.append(_plain(images[:, None], labels.long(), names, source))
    return tuple(splits)


def _read_idx(path, md5, dimensions):
    """One idx file of uint8 values as a tensor of so many dimensions; md5 of a .gz file, None: whatever it is."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if md5 not in (None, found):
            raise ValueError(f"{path} is truncated or altered: its md5 is {found}, not {md5}")
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path} cannot be unpacked: {error}") from error
    header = 4 + 4 * dimensions
    shape = tuple(int(n) for n in np.frombuffer(content[4:header], ">u4")) if len(content) >= header else ()
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) != header + int(np.prod(shape, dtype=np.int64)):
        raise ValueError(f"{path} is truncated or no idx file of {dimensions} dimensions")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).copy()).view(shape)


def read_npz(path, names=None):
    """An npz file with MedMNIST's keys: {train,test}_images, uint8 N x H x W or N x H x W x C, and {train,test}_labels,
    (N,) or (N, 1), whole numbers from 0; class_names if there are any, else `names`, else "0", "1", ...; val_* unread.
    """
    arrays = _npz_arrays(path, [f"{split}_{what}" for split in ("train", "test") for what in ("images", "labels")])
    source = "npz:" + sha8(path)
    labels = {split: _npz_labels(path, split, arrays) for split in ("train", "test")}
    names = _npz_names(path, arrays, max(int(part.max(initial=-1)) for part in labels.values()) + 1, names)
    splits = []
    for split in ("train", "test"):
        images = arrays[f"{split}_images"]
        if images.ndim == 3:
            images = images[..., None]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape[1:]:
            raise ValueError(
                f"{path}: {split}_images is {images.dtype} {images.shape}, "
                "not uint8 N x H x W or N x H x W x C with 1 or 3 channels"
            )
        if len(images) != len(labels[split]):
            raise ValueError(f"{path}: {len(images)} {split}_images but {len(labels[split])} {split}_labels")
        images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        splits.append(_plain(images, torch.from_numpy(labels[split]), names, source))
    if splits[0].images.shape[1:] != splits[1].images.shape[1:]:
        raise ValueError(f"{path}: train_images and test_images differ in size or channels")
    return tuple(splits)


def npz_class_names(path):
    """The names of the classes that have training images, without reading the images."""
    arrays = _npz_arrays(path, ["train_labels"])
    labels = _npz_labels(path, "train", arrays)
    names = _npz_names(path, arrays, int(labels.max(initial=-1)) + 1, None)
    return [names[i] for i in np.unique(labels)]


def _npz_arrays(path, keys):
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        # allow_pickle=False: an object array could run any code when it is read; numpy refuses it with a ValueError.
        # The file is opened here, since numpy leaves it open when it is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [key for key in keys if key not in archive.files]
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}; it holds {', '.join(archive.files) or 'nothing'}")
            return {key: archive[key] for key in [*keys, "class_names"] if key in archive.files}
    except (ValueError, TypeError, AttributeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} cannot be read as npz: {error}") from error


def _npz_labels(path, split, arrays):
    labels = arrays[f"{split}_labels"]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if (
        labels.ndim != 1
        or labels.dtype.kind not in "iu"
        or (labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < 1 << 16)
    ):
        raise ValueError(
            f"{path}: {split}_labels is {labels.dtype} {labels.shape}, not whole numbers from 0 to 65535, "
            "(N,) or (N, 1)"
        )
    return labels.astype(np.int64)


def _npz_names(path, arrays, n_classes, names):
    if "class_names" in arrays:
        names = [str(name) for name in arrays["class_names"].ravel()]
    if names is None:
        names = [str(label) for label in range(n_classes)]
    if len(names) < n_classes or len(set(names)) < len(names):
        raise ValueError(f"{path}: labels up to {n_classes - 1} but {len(set(names))} different class names")
    return names


def folder_class_names(root):
    """The names of the class folders under `train/` that hold images."""
    return sorted({_class_of(file) for file in list_images(root) if file.parts[0] == "train"})


def list_images(root):
    """Paths, relative to `root`, of all images under train/ and test/, sorted; at least one of them under train/."""
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    found = sorted(path.relative_to(root) for split in ("train", "test") for path in list_below(root / split))
    if not any(file.parts[0] == "train" for file in found):
        raise ValueError(f"{root} holds no images under train/<class>/ ({', '.join(SUFFIXES)})")
    loose = [file for file in found if len(file.parts) < 3]
    if loose:
        raise ValueError(f"{root / loose[0]} lies in no class folder: put it under {loose[0].parts[0]}/<class>/")
    return found


def list_below(folder):
    """Yield the paths of the images in a folder and below, in no order, hidden files left out."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith("."):  # .DS_Store, ._copy.png and the like are no images
            continue
        if path.is_dir():
            yield from list_below(path)
        elif path.suffix.lower() in SUFFIXES:
            yield path


def _class_of(file):
    return file.parts[1]


def read_folder(root, size, resample):
    """Class folders under `root`/train and `root`/test; MVTec's layout is the same with `root`/ground_truth.

    Each image is resized on reading (see `resize`), so that sizes may differ; with size None they must not. One channel
    if all images are grey, else three. A test image of a class without training images is anomalous; where
    ground_truth/ exists it must have a mask there, <class>/<name>_mask.png or <class>/<name>.png, of its own size.
    """
    files = list_images(root)
    trained = folder_class_names(root)
    names = trained + sorted({_class_of(file) for file in files} - set(trained))
    has_masks = (root / "ground_truth").is_dir()
    digest = hashlib.sha256()
    images, masks = [], []
    for file in files:
        digest.update(str(file.as_posix()).encode() + b"\0" + (root / file).read_bytes())
        image = read_image(root / file)
        mask = torch.zeros(1, *image.shape[1:], dtype=torch.bool)
        if has_masks and _class_of(file) not in trained:
            mask_path = _mask_path(root, file)
            digest.update(mask_path.read_bytes())
            mask = (read_image(mask_path) > 0).any(0, keepdim=True)
            if mask.shape[1:] != image.shape[1:]:
                raise ValueError(f"{mask_path} is not of the size of its image {root / file}")
        if size is not None:
            image, mask = resize(image[None], size, resample)[0], resize_masks(mask, size)
        elif image.shape[1:] != (images[0].shape[1:] if images else image.shape[1:]):
            raise ValueError(f"{root / file} is not of the size of the images before it: give a size to resize to")
        images.append(image)
        masks.append(mask)
    channels = max(len(image) for image in images)
    images = torch.stack([image.expand(channels, -1, -1) for image in images])
    labels = torch.tensor([names.index(_class_of(file)) for file in files])
    splits = []
    for split in ("train", "test"):
        rows = [i for i, file in enumerate(files) if file.parts[0] == split]
        splits.append(
            Images(
                images[rows],
                labels[rows],
                names,
                torch.cat(masks)[rows] if has_masks else None,
                [_class_of(files[i]) for i in rows],
                [files[i].as_posix() for i in rows],
                "folder:" + digest.hexdigest()[:8],
            )
        )
    return tuple(splits)


def _mask_path(root, file):
    folder = (root / "ground_truth").joinpath(*file.parts[1:-1])
    for name in (f"{file.stem}_mask.png", f"{file.stem}.png"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"the anomalous image {root / file} has no mask {folder / file.stem}_mask.png")


def read_image(path, content=None):
    """uint8 (1 or 3, H, W), turned as its EXIF orientation says; 1 if it is grey, also where it was saved as color.

    content: the bytes of the file, where they have been read; `path` then only names them in errors.
    """
    from PIL import Image, ImageOps  # only folders and COIL-100 need it

    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"its pixels are of Pillow's mode {image.mode}: save it with 8 bits a channel")
            # Alpha is dropped: what is transparent keeps the color that the file gives it.
            array = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # Pillow's decoders raise many kinds: OSError, SyntaxError, struct.error, ...
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
    if (array[..., 0] == array[..., 1]).all() and (array[..., 0] == array[..., 2]).all():
        array = array[..., :1]
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def sha8(path):
    """The first 8 hex digits of a file's sha256."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]
