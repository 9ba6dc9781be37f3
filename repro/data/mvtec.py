"""MVTec AD: 15 categories of objects and textures, read from folders or from the official archive.

    train, test = read("mvtec", root, "bottle", 256, "antialias")

A category is looked for in `folder`/mvtec and `folder`/mvtec_anomaly_detection, then in the cache's downloads/mvtec,
where the official archive is unpacked, both one in `folder` and a downloaded one.
"""

import hashlib
import lzma
import shutil
import sys
import tarfile
from pathlib import Path

import torch

from repro.data import cache, own
from repro.data.splits import Images


# Textures first, as in the papers' tables.
NAMES = """carpet grid leather tile wood bottle cable capsule hazelnut metal_nut pill screw toothbrush transistor
    zipper""".split()
CLASSES = {"mvtec": NAMES}
CATEGORIES = ("mvtec",)
ARCHIVE = "mvtec_anomaly_detection.tar.xz"
SHA256 = "cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d"
# MVTec has changed this address more than once, but never the file; if it fails, PAGE leads to the new address.
URL = f"https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/download/420938113-1629960298/{ARCHIVE}"
PAGE = "https://www.mvtec.com/company/research/datasets/mvtec-ad"


def put(name: str) -> str:
    return f"mvtec/<category>/, or {ARCHIVE} from {PAGE} (5.3 GB, licence CC BY-NC-SA 4.0),"


def here(name: str, folder: Path) -> list[str]:
    """The categories that are unpacked here; all categories if the archive is here."""
    return list(NAMES) if (folder / ARCHIVE).is_file() else list(places(folder))


def fetch(name: str) -> None:
    """Downloads the archive and keeps it only if its checksum agrees; raises OSError or RuntimeError."""
    cache.downloads().mkdir(parents=True, exist_ok=True)
    print(f"adlib: downloading {URL} (5.3 GB)", file=sys.stderr)
    torch.hub.download_url_to_file(URL, str(cache.downloads() / ARCHIVE), hash_prefix=SHA256, progress=False)


def read(name: str, folder: Path, category: str, size: int | None, resample: str) -> tuple[Images, Images]:
    """Train and test `Images` of one category, resized on reading as `own.read_folder` does it.

    Kinds are "good" and the defects, files are "bottle/test/crack/000.png"; source is "official" for the unpacked,
    checked archive, else "folder:<sha8>". Raises FileNotFoundError if ground_truth/ or a mask is missing; ValueError
    for an altered or dangerous archive, for training folders other than good and for unreadable images.
    """
    unpacked = cache.downloads() / "mvtec"
    place = places(folder).get(category) or places(cache.downloads()).get(category)
    if not place:
        _unpack(folder / ARCHIVE, unpacked)
        (cache.downloads() / ARCHIVE).unlink(missing_ok=True)  # 5 GB, now unpacked
        place = unpacked / category
        if not place.is_dir():
            raise ValueError(f"{folder / ARCHIVE} holds no folder {category}")
    if (trained := own.class_names("folder", place)) != ["good"]:
        raise ValueError(f"{place / 'train'} holds {', '.join(trained)}, not good alone")
    if not (place / "ground_truth").is_dir():
        raise FileNotFoundError(f"{place} lacks ground_truth/, the masks of its defective images")
    splits = own.read_folder(place, size, resample)
    for part in splits:
        part.labels, part.class_names = torch.full_like(part.labels, NAMES.index(category)), list(NAMES)
        part.files = [f"{category}/{file}" for file in part.files]
        if place.parent == unpacked:
            part.source = "official"
    return splits


def places(folder: Path) -> dict[str, Path]:
    """{category: folder} of the unpacked categories, in the order of NAMES; the second place wins."""
    around = [folder / "mvtec_anomaly_detection", folder / "mvtec"]
    return {name: place / name for name in NAMES for place in around if (place / name).is_dir()}


def _unpack(archive: Path, target: Path) -> None:
    """Unpacks the archive next to `target`, then renames it: if killed, it never leaves an incomplete `target`."""
    with archive.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != SHA256:
        raise ValueError(f"{archive} is truncated or altered: its sha256 is {sha256}, not {SHA256}")
    if not hasattr(tarfile, "data_filter"):
        raise ValueError(f"this Python cannot unpack safely (3.11.4 can): unpack {archive} by hand into a folder mvtec")
    beside = Path(f"{target}.unpacking")
    shutil.rmtree(beside, ignore_errors=True)  # left by a process that was killed
    beside.mkdir(parents=True)
    try:
        with tarfile.open(archive, "r|xz") as members:  # a stream: packed data cannot be sought without unpacking
            members.extractall(beside, filter=tarfile.data_filter)
        shutil.rmtree(target, ignore_errors=True)  # exists only if somebody removed a category from it
        inner = beside / "mvtec_anomaly_detection"
        (inner if inner.is_dir() else beside).rename(target)
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise ValueError(f"{archive} cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
