"""Find image files, read them as tensors, and report files that are not read.

for path in pictures.find(["photos/"]):
    image = pictures.read(path)                  # uint8 (1 or 3, H, W)
mask = pictures.read_mask("000_mask.png")        # bool (H, W)
"""

import functools
import io
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor


if TYPE_CHECKING:
    from PIL import Image


SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
OVERLAY = ".overlay.png"  # the ending of pictures drawn over images; they are not read as images


@functools.cache
def say(text: str) -> None:
    """Print a sentence on stderr, once per process; what is not UTF-8 in a name is written as an escape."""
    print(f"adlib: {shown(text)}", file=sys.stderr)


def shown(path: str | Path) -> str:
    """A path as text that can be printed anywhere, even if its name is not UTF-8."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def list_images(folder: Path) -> Iterator[Path]:
    """The image files in a folder and its subfolders, in no order; none if there is no folder.

    It skips hidden files, overlays, folders met again through links and, with a line on stderr, files of other kinds.
    """
    start, others = Path(os.path.realpath(folder)), Counter()
    seen = {start}

    def below(folder):
        for path in sorted(folder.iterdir(), key=Path.is_symlink):  # a folder before the links to it
            if path.name.startswith(".") or path.name.endswith(OVERLAY):  # .DS_Store, ._copy.png: no images
                continue
            if path.is_dir():
                real = Path(os.path.realpath(path))
                if real not in seen and not start.is_relative_to(real):
                    seen.add(real)
                    yield from below(path)
            elif path.suffix.lower() in SUFFIXES:
                yield path
            else:
                others[path.suffix.lower() or "without suffix"] += 1

    if folder.is_dir():
        yield from below(folder)
    if others:
        counts = ", ".join(f"{n} {suffix}" for suffix, n in sorted(others.items()))
        say(f"{folder} holds files that are not read: {counts} (read are {', '.join(SUFFIXES)})")


def white(paths: Iterable[str | Path]) -> int | None:
    """`white` of `read` for 16-bit grey images: the smallest 2^b - 1 that no pixel of these files exceeds, b from 8.

    None if the first of them is no such image. So pictures of a 12-bit camera keep their contrast, whether it fills the
    lower or the upper bits. Raises ValueError for a file that is no image.
    """
    from PIL import Image

    highest = None
    for path in paths:
        try:
            with Image.open(path) as image:
                if not _is_deep(image):
                    if highest is None:
                        return None
                    continue  # `read` will refuse it
                highest = max(highest or 0, int(np.max(image)))
        except Exception as error:
            raise ValueError(f"{shown(path)} cannot be read as an image: {error}") from error
    return None if highest is None else (1 << max(8, highest.bit_length())) - 1


def _is_deep(image: "Image.Image") -> bool:
    """Whether an image is 16-bit grey; ValueError for floats, and for more than 8 bits a channel in color."""
    if image.mode.startswith("I"):
        return True
    if image.mode.startswith("F") or re.search(r";16[BLN]", str(getattr(image, "tile", ""))):
        what = "floats" if image.mode.startswith("F") else "16 bits a channel in color"
        raise ValueError(f"its pixels are {what}: save it with 8 bits a channel")
    return False


def _pixels(image: "Image.Image", white: int | None) -> np.ndarray:
    """uint8 (H, W, 1 or 3), upright; transparent pixels become black, whatever color is hidden there."""
    from PIL import ImageOps

    deep, turned = _is_deep(image), ImageOps.exif_transpose(image)
    if deep != (white is not None):
        bits = "16 bits a pixel, and others 8" if deep else "8 bits a pixel, and others 16"
        raise ValueError(f"it has {bits}: save all images alike")
    if deep:
        return (np.array(turned, dtype=np.float64) * (255 / white)).round().clip(0, 255).astype(np.uint8)[..., None]
    if not turned.has_transparency_data:
        return np.array(turned.convert("RGB"))
    array = np.array(turned.convert("RGBA"), dtype=np.uint16)
    return ((array[..., :3] * array[..., 3:] + 127) // 255).astype(np.uint8)


def read(
    path: str | Path, content: bytes | None = None, white: int | None = None, several: list | None = None
) -> Tensor:
    """uint8 (1 or 3, H, W), turned as its EXIF orientation says; 1 if it is grey, even if it was saved in color.

    content: the bytes of the file, if they were read; then `path` only names them. white: for 16-bit grey images, the
    value that becomes 255, see `white`. several: a list that gets the path of a file with several pictures; the first
    is read. Raises ValueError for a file that is no image, and for another depth.
    """
    from PIL import Image  # here, because a job with prepared data does not need it

    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            # a photo's own preview, in the format of some phones, is no second picture
            if several is not None and getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                several.append(path)
            return _tensor(_pixels(image, white))
    except Exception as error:  # Pillow's decoders raise many kinds: OSError, SyntaxError, struct.error, ...
        raise ValueError(f"{shown(path)} cannot be read as an image: {error}") from error


def from_array(values: np.ndarray | Tensor, white: int | None = None, name: str = "the image") -> Tensor:
    """One image as `read` gives it: a NumPy array (H, W) or (H, W, 1, 3 or 4), or a tensor (1, 3 or 4, H, W).

    Bytes, floats in [0, 1], or 16-bit grey values for a detector that takes these (`white`). Raises ValueError.
    """
    from PIL import Image

    array = np.moveaxis(values.detach().cpu().numpy(), 0, -1) if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or 0 in array.shape:
        raise ValueError(f"{name} is an array of {array.shape}, not of (H, W) or (H, W, 3 or 4)")
    if array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1:
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8 and not (array.dtype == np.uint16 and array.ndim == 2):
        values = f"{array.dtype} from {array.min()} to {array.max()}" if array.dtype.kind in "iuf" else array.dtype
        raise ValueError(f"{name} is of {values}: pixels are uint8, floats in [0, 1] or, where grey, uint16")
    try:
        return _tensor(_pixels(Image.fromarray(array), white))
    except ValueError as error:
        raise ValueError(f"{name} cannot be taken: {error}") from None


def _tensor(array):
    """uint8 (H, W, 1 or 3) as a tensor (1 or 3, H, W), 1 if it is grey."""
    if (array == array[..., :1]).all():
        array = array[..., :1]
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def say_several(several: list) -> None:
    """Print a line on the files with several pictures that `read` collected."""
    if several:
        more = f" and {len(several) - 3} more" * (len(several) > 3)
        names = ", ".join(str(path) for path in several[:3]) + more
        say(f"several pictures in one file, of which the first alone counts: {names}")


def read_mask(path: str | Path, content: bytes | None = None) -> Tensor:
    """bool (H, W), True where a mask marks a defect: white on black, labels 1, 2, ... on 0, or colors on black.

    Of two levels, the higher marks. Labels, which are small or few and far apart, all mark. Else levels from a half
    mark, as JPEG blurs edges. ValueError for a mask with much between black and white, and if the background is white.
    """
    from PIL import Image

    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            if image.mode.startswith("I"):
                values = np.array(image, dtype=np.float64)
                values *= 255 / max(255, values.max())
            else:
                values = _pixels(image, None).max(2)
    except Exception as error:
        raise ValueError(f"{shown(path)} cannot be read as a mask: {error}") from error
    levels = np.unique(values)
    if len(levels) <= 2 or (len(levels) <= 16 and (levels[-1] < 128 or np.diff(levels).min() >= 16)):
        marked = values > (levels[0] if len(levels) > 1 else 0)
    else:
        marked = values >= 128
        if 2 * ((values >= 64) & (values < 192)).sum() >= max(1, marked.sum()):
            says = f"{len(levels)} levels up to {levels[-1]:.0f}, much of it between black and white"
            raise ValueError(f"{shown(path)} is no mask: it has {says}")
    edge = np.concatenate([marked[0], marked[-1], marked[:, 0], marked[:, -1]])
    if marked.mean() > 0.5 and edge.mean() > 0.5 and not marked.all():
        share = f"{marked.mean():.0%} of the image and {edge.mean():.0%} of its edge"
        raise ValueError(f"{shown(path)} marks {share}: white is the defect, black the background; is it inverted?")
    return torch.from_numpy(marked)


def find(paths: Iterable[str | Path]) -> list[Path]:
    """The image files among files and folders (with subfolders), in order, each once.

    Raises FileNotFoundError for a missing path, ValueError for a folder without images.
    """
    files = {}
    for path in (Path(path).expanduser() for path in paths):
        if path.is_dir():
            inside = sorted(list_images(path))
            if not inside:
                raise ValueError(f"{path} holds no images ({', '.join(SUFFIXES)})")
            files |= dict.fromkeys(inside)
        elif path.is_file() and path.name.endswith(OVERLAY):
            say(f"{path} is left out: a picture drawn over an image is no image itself")
        elif path.is_file():
            files[path] = None
        else:
            raise FileNotFoundError(f"there is no file or folder {path}")
    return list(files)


def sizes(files: Iterable[Path]) -> dict[tuple[int, int], int]:
    """(width, height) -> number of the image files, the most frequent first; ValueError for what is no image."""
    from PIL import Image

    counts = Counter()
    for path in files:
        try:
            with Image.open(path) as image:
                counts[image.size] += 1
        except Exception as error:  # Pillow raises many kinds
            raise ValueError(f"{path} cannot be read as an image: {error}") from error
    return dict(counts.most_common())
