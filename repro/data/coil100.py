"""COIL-100: 72 views of each of 100 objects, from the official images or from their archive.

    train, test = read("coil100", root, None, 32, "antialias")

An image is named by object and angle in degrees, obj1__0.png, obj1__5.png, ... obj100__355.png; it has three channels
and 128 x 128 pixels. The archive is read without unpacking it. There is no official split: all images are train.
"""

import hashlib
import re
import zipfile
from pathlib import Path

import torch

from adlib import images, pictures
from repro.data.splits import Images, plain, sha8


NAMES = [f"obj{number}" for number in range(1, 101)]
CLASSES = {"coil100": NAMES}
# The 30 objects that PIAD's public code takes as normal, in its order. We assume that printed means over COIL-100 are
# over these. The anomalies come from all 100.
COIL100_OBJECTS = """obj79 obj48 obj65 obj98 obj73 obj13 obj14 obj39 obj57 obj28 obj42 obj75 obj44 obj24 obj82 obj56
    obj7 obj47 obj68 obj30 obj33 obj90 obj70 obj87 obj12 obj91 obj4 obj22 obj71 obj55""".split()
N_VIEWS = 72
ARCHIVE = "coil-100.zip"
PAGE = "https://www1.cs.columbia.edu/CAVE/software/softlib/coil-100.php"


def put(name: str) -> str:
    return f"{ARCHIVE} from {PAGE}, or its folder coil-100/, or coil100.npz,"


def alias(plain_name: str) -> str:
    """7, "Object 7" and "obj07" are obj7."""
    return re.sub("^(obj(ect)?)?_?0*(?=[1-9])", "obj", plain_name)


def here(name: str, folder: Path) -> list[str]:
    """The objects that have any views, in the order of NAMES; all if the archive is damaged or has no views."""
    try:
        return [NAMES[label] for label in sorted({label for label, _ in _views(folder)[0]})]
    except ValueError:
        return list(NAMES)


def read(name: str, folder: Path, category: None, size: int | None, resample: str) -> tuple[Images, Images]:
    """Train and test `Images`, resized if `size` is not None; test is empty.

    Objects in the order of NAMES, their views by angle; files are "obj1__0.png"; source is "folder:<sha8>" of names and
    contents, or "zip:<sha8>" of the archive. Whole objects may be absent. Raises ValueError for an object with only
    some of its views, for a damaged archive, and for unreadable images or images of several sizes.
    """
    views, where = _views(folder)
    digest, parts, shape = hashlib.sha256(), [], None
    for _, view in sorted(views.items()):
        try:
            content = view.read_bytes()
        except Exception as error:  # a damaged archive raises many kinds
            raise ValueError(f"{where} is truncated or damaged: {view.name} cannot be read: {error}") from error
        digest.update(view.name.encode() + b"\0" + content)
        image = pictures.read(where / view.name, content).expand(3, -1, -1)
        shape = shape or image.shape
        if image.shape != shape:
            raise ValueError(f"{where / view.name} is not of the size of the images before it")
        parts.append(image if size is None else images.resize(image[None], size, resample)[0])
    pixels, labels = torch.stack(parts), torch.tensor([label for label, _ in sorted(views)])
    source = f"zip:{sha8(where)}" if where.name == ARCHIVE else f"folder:{digest.hexdigest()[:8]}"
    train = plain(pixels, labels, NAMES, source, [views[key].name for key in sorted(views)])
    check_copy([train], where)
    return train, plain(pixels[:0], labels[:0], NAMES, source, [])


def check_copy(both: list[Images], path: Path) -> None:
    """ValueError unless each object has 72 views, or none, in both splits together."""
    counts = torch.cat([part.labels for part in both]).bincount()
    for name, count in zip(NAMES, counts.tolist(), strict=False):  # counts end with the last object that is there
        if count not in (0, N_VIEWS):
            raise ValueError(f"{path} holds {count} views of {name}, not {N_VIEWS}: only whole objects may be absent")


def _views(folder: Path) -> tuple[dict[tuple[int, int], Path | zipfile.Path], Path]:
    """{(label, angle): image}, and their folder or archive: the first of three places that holds any."""
    for place in (folder / "coil-100", folder / "coil100", folder / ARCHIVE):
        views, is_archive = {}, place.name == ARCHIVE and place.is_file()
        try:
            tops = [zipfile.Path(place), zipfile.Path(place) / "coil-100/"] if is_archive else [place]
            for path in (path for top in tops if top.is_dir() for path in top.iterdir()):
                match = re.fullmatch(r"obj([1-9]\d?|100)__(0|[1-9]\d*)\.png", path.name)
                if match and int(match[2]) in range(0, 360, 360 // N_VIEWS):
                    views[int(match[1]) - 1, int(match[2])] = path
        except Exception as error:
            raise ValueError(f"{place} is truncated or damaged: {error}") from error
        if views:
            return views, place
        if is_archive:
            raise ValueError(f"{place} holds no views of COIL-100, coil-100/obj1__0.png and so on")
    return {}, folder
