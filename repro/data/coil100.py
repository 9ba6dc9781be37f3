"""COIL-100: 72 views of each of 100 objects, read from the official images or from their archive. Part of `data.py`.

    train, test = read(root, size=32, resample="antialias")      # or None: neither is there

An image is named by object and angle in degrees, obj1__0.png, obj1__5.png, ... obj100__355.png; it has three channels
and 128 x 128 pixels. They are looked for in `root`/coil-100 and `root`/coil100, then in the official archive
`root`/coil-100.zip (`root` is the folder that ADLIB_DATA names). Members of the archive are read where they lie:
nothing is unpacked, and files of any other name are not looked at. Nobody has split these images: all are train, none
is test. Nothing is downloaded; PAGE is where they are.
"""

import functools
import hashlib
import struct
import zipfile
import zlib

import torch

from repro.data import readers


NAMES = [f"obj{number}" for number in range(1, 101)]
N_VIEWS = 72
ARCHIVE = "coil-100.zip"
PAGE = "https://www1.cs.columbia.edu/CAVE/software/softlib/coil-100.php"

_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
    RuntimeError,
)  # RuntimeError: a member is encrypted


def read(root, size, resample):
    """Train and test `Images`, test without any, or None where there are no views; resized if `size` is not None.

    Objects in the order of NAMES, their views by angle; files are "obj1__0.png"; source is "folder:<sha8>" of names and
    contents ("stand-in:<sha8>" where the folder is marked as one), or "zip:<sha8>" of the archive. Whole objects may be
    absent. Raises ValueError for an object of which only some views are there, for a damaged archive, and for
    unreadable images or images of several sizes.
    """
    folder = folder_of(root)
    if folder:
        there = {path.name: path for path in folder.iterdir() if path.name in _known()}
        return _read_folder(folder, there, size, resample)
    return _read_archive(root / ARCHIVE, _known(), size, resample) if (root / ARCHIVE).is_file() else None


def folder_of(root):
    """The folder that the views are read from, the first of two that holds any; None where neither does."""
    folders = [folder for folder in (root / "coil-100", root / "coil100") if folder.is_dir()]
    return next((folder for folder in folders if any(path.name in _known() for path in folder.iterdir())), None)


def there(root):
    """The objects of which there are any views, in the order of NAMES, [] where neither folder nor archive has one.

    No image is read; of a damaged archive it gives all of them.
    """
    folder = folder_of(root)
    if folder:
        views = {path.name for path in folder.iterdir()}
    elif (root / ARCHIVE).is_file():
        try:
            with zipfile.ZipFile(root / ARCHIVE) as archive:
                views = {name.rpartition("/")[2] for name in archive.namelist()}
        except _DAMAGE:
            return list(NAMES)
    else:
        return []
    found = {view.partition("__")[0] for view in views & _known()}
    return [name for name in NAMES if name in found]


@functools.cache
def _known():
    """The file names of all views of all objects."""
    return {view for name in NAMES for view in _views(name)}


def check_views(splits, where):
    """ValueError, beginning with `where`, for an object with more or fewer views than 72, both splits together."""
    counts = torch.cat([images.labels for images in splits]).bincount()
    for name, count in zip(NAMES, counts.tolist(), strict=False):  # counts end with the last object that is there
        if count not in (0, N_VIEWS):
            raise ValueError(f"{where} holds {count} views of {name}, not {N_VIEWS}")


def _views(name):
    return [f"{name}__{angle}.png" for angle in range(0, 360, 360 // N_VIEWS)]


def _read_folder(folder, there, size, resample):
    digest = hashlib.sha256()

    def content_of(view):
        try:
            content = there[view].read_bytes()
        except OSError as error:
            raise ValueError(f"{there[view]} cannot be read: {error}") from error
        digest.update(view.encode() + b"\0" + content)
        return content

    train, test = _read(folder, there, content_of, size, resample)
    kind = "stand-in" if readers.is_stand_in(folder) else "folder"
    train.source = test.source = f"{kind}:{digest.hexdigest()[:8]}"
    return train, test


def _read_archive(path, known, size, resample):
    there = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except _DAMAGE as error:
        raise ValueError(f"{path} is truncated or damaged: {error}") from error
    for member in members:
        folder, _, view = member.filename.rpartition("/")
        if folder in ("", "coil-100") and view in known:
            if view in there:
                raise ValueError(f"{path} holds {view} twice")
            there[view] = member
    if not there:
        raise ValueError(f"{path} holds no views of COIL-100, coil-100/obj1__0.png and so on")

    def content_of(view):
        try:
            return archive.read(there[view])
        except _DAMAGE as error:
            raise ValueError(f"{path} is truncated or damaged: {view}: {error}") from error

    with zipfile.ZipFile(path) as archive:
        train, test = _read(path, there, content_of, size, resample)
    train.source = test.source = "zip:" + readers.sha8(path)
    return train, test


def _read(where, there, content_of, size, resample):
    """The two `Images`, without source, of views by name; content_of gives the bytes of one."""
    objects = [name for name in NAMES if any(view in there for view in _views(name))]
    for name in objects:  # before any is read
        missing = [view for view in _views(name) if view not in there]
        if missing:
            raise ValueError(
                f"{where} lacks {len(missing)} of the {N_VIEWS} views of {name}, first {missing[0]}: "
                "only whole objects may be absent"
            )
    parts, shape = [], None
    for name in objects:
        views = []
        for view in _views(name):
            image = readers.read_image(where / view, content_of(view)).expand(3, -1, -1)
            shape = shape or image.shape
            if image.shape != shape:
                raise ValueError(f"{where / view} is not of the size of the images before it")
            views.append(image)
        # Object by object: at 128 pixels all of them are 354 MB, and twice that while they are put together.
        parts.append(torch.stack(views) if size is None else readers.resize(torch.stack(views), size, resample))
    images = torch.cat(parts)
    labels = torch.tensor([NAMES.index(name) for name in objects]).repeat_interleave(N_VIEWS)
    files = [view for name in objects for view in _views(name)]
    kinds = [name for name in objects for _ in range(N_VIEWS)]
    return (
        readers.Images(images, labels, list(NAMES), None, kinds, files, ""),
        readers.Images(images[:0], labels[:0], list(NAMES), None, [], [], ""),
    )
