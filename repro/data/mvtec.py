"""MVTec AD: 15 categories of objects and textures, read from folders or from the official archive. Part of `data.py`.

    train, test = read("bottle", root, downloads, may_download=False, size=256, resample="antialias")

A category is a folder with train/good, test/<good or defect> and ground_truth/<defect>/<name>_mask.png. It is looked
for in `root`/mvtec and `root`/mvtec_anomaly_detection (`root` is the folder that ADLIB_DATA names, or None), then in
`downloads`/mvtec, where the official archive is unpacked, whether it lies in `root` or was downloaded. Nothing is
unpacked before the archive's checksum agrees, and that folder is whole or not there.
"""

import hashlib
import shutil
import sys
from pathlib import Path, PurePosixPath

import torch

from repro.data import readers


# Textures first, as in the papers' tables.
NAMES = """carpet grid leather tile wood bottle cable capsule hazelnut metal_nut pill screw toothbrush transistor
    zipper""".split()
ARCHIVE = "mvtec_anomaly_detection.tar.xz"
SHA256 = "cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d"
# MVTec has changed this address more than once, the file never; where it fails, PAGE leads to the new one.
URL = f"https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/download/420938113-1629960298/{ARCHIVE}"
PAGE = "https://www.mvtec.com/company/research/datasets/mvtec-ad"


def there(root, downloads):
    """The categories that need no download, in the order of NAMES; nothing is read."""
    return list(NAMES) if _archive(root, downloads) else list(_unpacked(root, downloads))


def folder_of(category, root, downloads):
    """The folder that a category is read from, None where it is not unpacked yet."""
    return _unpacked(root, downloads).get(category)


def read(category, root, downloads, may_download, size, resample):
    """Train and test `Images` of one category, resized on reading as `readers.read_folder` does it.

    Labels count through NAMES, kinds are "good" and the defects, files are "bottle/test/crack/000.png"; source is
    "official" where the checked archive was unpacked, "stand-in:<sha8>" where the folder is marked as one, else
    "folder:<sha8>". Raises FileNotFoundError for a category that is not there and cannot be had, for one without
    ground_truth/ and for a missing mask; ValueError for an archive that is altered or dangerous, for other training
    folders than good and for unreadable images.
    """
    folder = folder_of(category, root, downloads) or _fetch(category, root, downloads, may_download)
    if readers.folder_class_names(folder) != ["good"]:
        raise ValueError(f"{folder / 'train'} holds {', '.join(readers.folder_class_names(folder))}, not good alone")
    if not (folder / "ground_truth").is_dir():
        raise FileNotFoundError(f"{folder} lacks ground_truth/, the masks of its defective images")
    splits = readers.read_folder(folder, size, resample)
    for images in splits:
        images.labels, images.class_names = torch.full_like(images.labels, NAMES.index(category)), list(NAMES)
        images.files = [f"{category}/{file}" for file in images.files]
        if readers.is_stand_in(folder):
            images.source = images.source.replace("folder:", "stand-in:")
        elif folder.parent == downloads / "mvtec":
            images.source = "official"
    return splits


def join(parts):
    """One `Images` of those of several categories; grey images get three channels if any part has three.

    Where their sources differ, the joint one is "folder:<sha8>" of them, "stand-in:<sha8>" if one of them is a
    stand-in. Raises ValueError if they differ in size.
    """
    sizes = {tuple(part.images.shape[2:]) for part in parts}
    if len(sizes) > 1:
        raise ValueError(f"the categories of mvtec are of {len(sizes)} sizes: give a size to resize to")
    channels = max(part.images.shape[1] for part in parts)
    sources = sorted({part.source for part in parts})
    prefix = "stand-in:" if any(source.startswith("stand-in:") for source in sources) else "folder:"
    return readers.Images(
        images=torch.cat([part.images.expand(-1, channels, -1, -1) for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        class_names=list(NAMES),
        masks=torch.cat([part.masks for part in parts]),
        kinds=[kind for part in parts for kind in part.kinds],
        files=[file for part in parts for file in part.files],
        source=sources[0] if len(sources) == 1 else prefix + hashlib.sha256(" ".join(sources).encode()).hexdigest()[:8],
    )


def _unpacked(root, downloads):
    """{category: folder} of what lies unpacked, in the order of NAMES."""
    places = [downloads / "mvtec"]  # the places after it win
    if root:
        places += [root / "mvtec_anomaly_detection", root / "mvtec"]
    return {name: place / name for name in NAMES for place in places if (place / name).is_dir()}


def _archive(root, downloads):
    """The path of the archive, or None."""
    return next((folder / ARCHIVE for folder in (root, downloads) if folder and (folder / ARCHIVE).is_file()), None)


def _fetch(category, root, downloads, may_download):
    """The folder of a category that is not unpacked yet; a FileNotFoundError where the archive is not to be had."""
    advice = (
        f"put mvtec/{category}/, or {ARCHIVE} from {PAGE} (licence CC BY-NC-SA 4.0), into the folder that "
        f"ADLIB_DATA names (now {root or 'not set'})"
    )
    others = ", ".join(_unpacked(root, downloads)) or "no category"
    missing = f"mvtec's {category} is not on this machine (there is {others})"
    archive = _archive(root, downloads)
    if archive:
        _check(archive)
    elif may_download:
        try:
            archive = _download(downloads)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(f"{missing}, and could not be downloaded ({error}): {advice}") from error
    else:
        raise FileNotFoundError(f"{missing}: {advice}, or let it be downloaded (ADLIB_OFFLINE=0)")
    _unpack(archive, downloads / "mvtec")
    (downloads / ARCHIVE).unlink(missing_ok=True)  # 5 GB that lie there unpacked
    if not (downloads / "mvtec" / category).is_dir():
        raise ValueError(f"{archive} holds no folder {category}")
    return downloads / "mvtec" / category


def _check(path):
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(f"{path} is truncated or altered: its sha256 is {found}, not {SHA256}")


def _download(downloads):
    """Downloads the archive to a temporary name, checks and renames it; OSError or ValueError if it fails."""
    import http.client  # these two only here: a job that finds its data pays for neither
    import urllib.request

    downloads.mkdir(parents=True, exist_ok=True)
    temporary = downloads / f"{ARCHIVE}.tmp"
    print(f"adlib: downloading {URL} (5.3 GB)", file=sys.stderr)
    try:
        with urllib.request.urlopen(URL, timeout=60) as answer, temporary.open("wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
        _check(temporary)
        return temporary.rename(downloads / ARCHIVE)
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _unpack(archive, target):
    """Unpacks the archive beside `target` and renames it: killed at any moment, no half of it passes for the whole.

    Raises ValueError naming a member that is neither file nor folder or would lie outside, and for a damaged archive.
    """
    import lzma
    import tarfile

    if not hasattr(tarfile, "data_filter"):
        raise ValueError(f"this Python cannot unpack safely (3.11.4 can): unpack {archive} by hand into a folder mvtec")

    def harmless(member, folder):
        # The filter lets links pass that stay inside, and cuts absolute names down to relative ones: MVTec has neither.
        path = PurePosixPath(member.name)
        if not (member.isreg() or member.isdir()) or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{archive} is refused: its member {member.name!r} is no file or folder inside it")
        return tarfile.data_filter(member, folder)

    beside = Path(f"{target}.unpacking")
    shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed
    beside.mkdir(parents=True)
    try:
        with tarfile.open(archive, "r|xz") as members:  # a stream: packed data cannot be sought without unpacking
            members.extractall(beside, filter=harmless)
        shutil.rmtree(target, ignore_errors=True)  # there only if somebody took a category out of it
        inner = beside / "mvtec_anomaly_detection"
        (inner if inner.is_dir() else beside).rename(target)
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise ValueError(f"{archive} cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
