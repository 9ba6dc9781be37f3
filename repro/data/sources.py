"""Find, read, resize and cache images; say what is missing and how to get it.

    images = load("folder:screws", "test", size=128)
    missing("mnist", "8", 32)       # None if a job finds them

A known dataset is looked for under $ADLIB_DATA, as its module says (`names.py`) or as <name>.npz, then among the
downloads; then it is downloaded, unless ADLIB_OFFLINE=1. Prepared images are kept under $ADLIB_CACHE (default
~/.cache/adlib), one file per dataset, category, size and resampling. A job that finds this file reads nothing else:
delete it after you put other data of the same name under $ADLIB_DATA.

If $ADLIB_DATA holds a file STAND-IN.txt, its data were drawn to try jobs without the real images: their source is
"stand-in:<sha8>", which no row in results/ may have, and they are cached separately. The first line of a file COPY.txt,
next to MVTec's categories or in a user's folder, says what copies they are: "folder:1a2b3c4d (copy, 320 px JPEG)".
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from adlib import images, machine
from repro.data import cache, own
from repro.data.names import CATEGORY_DATASETS, CLASS_NAMES, DATASETS, category_of, find, parse
from repro.data.splits import Images, plain


RESAMPLES = ("antialias", "bilinear")
STAND_IN, COPY = "STAND-IN.txt", "COPY.txt"


def load(name: str, split: str, size: int | None = None, resample: str = "antialias", of: object = None) -> Images:
    """Returns the `Images` of one split, "train" or "test", resized to size x size (None: as they are).

    `resample` is "antialias" or "bilinear". of: the category, for a dataset of categories. Raises ValueError that names
    a bad argument or a damaged source, and FileNotFoundError without a source, saying what to put where. If a copy of a
    known dataset lacks whole classes, its source says so, "npz:1a2b3c4d (17 of 100 classes)", because a measurement on
    it is another task. Only classes with training images are counted.
    """
    machine.check_choice("split", split, ("train", "test"))
    return prepared(name, size, resample, category_of(name, of))[split == "test"]


def prepared(name: str, size: int | None, resample: str, category: str | None = None) -> tuple[Images, Images]:
    """Train and test `Images` from the cache, which is prepared first if it is missing or damaged.

    category: for a dataset of categories. Raises as `load` does.
    """
    both = _cached(name, size, resample, category)
    n, n_all = len(both[0].labels.unique()), len(CLASS_NAMES.get(name, []))
    for part in both:  # a cache file, also an older one, holds the plain source
        if is_stand_in(name):
            part.source = "stand-in:" + part.source.rpartition(":")[2]
        elif part.source.startswith("folder:"):
            part.source += _words(name, category)
        if n < n_all and not category:
            part.source += f" ({n} of {n_all} classes)"
    return both


def prepare(jobs: list[dict]) -> int:
    """Prepares what these jobs will read, with a progress bar; returns how many of the files exist then.

    jobs: dicts with dataset, class and settings. What cannot be found or read is printed, one sentence each.
    """
    from tqdm import tqdm

    wanted, sentences = {}, {}
    for job in jobs:
        size, resample = job["settings"].get("image_size", 32), job["settings"].get("resample", "antialias")
        wanted[job["dataset"], size, resample, category_of(job["dataset"], job["class"])] = None
    with tqdm(wanted, unit=" files") as bar:
        for what in bar:
            bar.set_description(" ".join(str(part) for part in what if part))
            try:
                prepared(*what)
            except (ValueError, FileNotFoundError) as error:
                sentences.setdefault(str(error), []).append(what)
    print(*sentences, sep="\n", end="\n" * bool(sentences))
    return len(wanted) - sum(map(len, sentences.values()))


def there(name: str, size: int | None = None) -> list[str]:
    """The classes of a known dataset that a job at this size finds on this machine, in the order of `CLASS_NAMES`.

    Only file names are looked at, and the labels of an npz: damaged files count as found, and the job will report them.
    If there is only a prepared file, of this size and antialiased, all classes count, because it is not opened. [] also
    if ADLIB_DATA names no folder. Raises ValueError for an unknown name and a bad size.
    """
    names, classes = CLASS_NAMES[parse(name)[0]], set()
    try:
        for _, classes_here in _places(name):
            if not classes or name in CATEGORY_DATASETS:  # for others the first place is read
                classes |= set(classes_here)
    except FileNotFoundError:
        pass
    if name in CATEGORY_DATASETS:
        classes |= {missed for missed in set(names) - classes if cache_path(name, size, category=missed).is_file()}
    elif not classes and cache_path(name, size).is_file():
        return list(names)
    return [normal for normal in names if normal in classes]


def missing(
    name: str, normal: str, size: int | None, classes_there: Callable[..., list[str]] = there
) -> tuple[str, str, bool] | None:
    """What a job on class `normal` of a dataset lacks here: (what, how to get it, whether it downloads that by itself).

    None if `there` finds the images; what: "mnist"; "mvtec bottle", a category; "cifar100 wolf", which the copy at hand
    lacks; "folder:PATH". classes_there: `functools.cache(there)` for many. ValueError for an unknown dataset.
    """
    kind, path = parse(name)
    if path:
        return None if path.exists() else (name, f"there is no {kind} {name.partition(':')[2]}", False)
    classes, root = classes_there(name, size), os.environ.get("ADLIB_DATA")
    if normal in classes:
        return None
    if root and not Path(root).expanduser().is_dir():
        return name, f"ADLIB_DATA names {root}, which is no folder", False
    what = f"{name} {normal}" if classes or name in CATEGORY_DATASETS else name
    if classes and name not in CATEGORY_DATASETS:
        rest = f"in place of that copy, and delete {name}-*.bin in the cache folder"
        return what, f"not in the copy at hand: {_put(name)}, {rest}", False
    is_downloaded = hasattr(DATASETS[name], "fetch") and not machine.says_yes("ADLIB_OFFLINE")
    return what, f"the first job downloads it; or {_put(name)}" if is_downloaded else _put(name), is_downloaded


def is_stand_in(name: str) -> bool:
    """Whether a known dataset is read from data marked as drawn; measurements on such data count nowhere."""
    root = os.environ.get("ADLIB_DATA")
    return bool(root) and hasattr(DATASETS.get(name), "put") and (Path(root).expanduser() / STAND_IN).is_file()


def _words(name: str, category: str | None) -> str:
    """ " (copy, 320 px JPEG)", the text in the COPY.txt of images in a folder; "" without one."""
    place, root = parse(name)[1], os.environ.get("ADLIB_DATA")
    if category and root and hasattr(DATASETS[name], "places"):
        of_category = DATASETS[name].places(Path(root).expanduser()).get(category)
        place = of_category and of_category.parent
    if not place or not (place / COPY).is_file():
        return ""
    words = " ".join((place / COPY).read_text(encoding="utf-8-sig", errors="replace").partition("\n")[0].split())
    return f" ({words})" * bool(words)


def cache_path(name: str, size: int | None, resample: str = "antialias", category: str | None = None) -> Path:
    """The cache file of a dataset or category. It changes with a user's images, and with code that draws images."""
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise ValueError(f"size is a number of pixels from 1, or None, not {size!r}")
    machine.check_choice("resample", resample, RESAMPLES)
    parts = [_stem(name), category, "stand-in" if is_stand_in(name) else None]
    parts.append(f"{size}-{resample}" if size else "native")
    return cache.folder() / f"{'-'.join(filter(None, parts))}.bin"


def _stem(name: str) -> str:
    kind, path = parse(name)
    if path:
        state, kind = own.state(kind, path), f"{kind}-{re.sub('[^A-Za-z0-9_]+', '_', path.stem)[:40]}"
    elif hasattr(DATASETS[name], "put"):
        return name
    else:
        state = Path(DATASETS[name].__file__).read_text(encoding="utf-8")
    return f"{kind}-{hashlib.sha256(os.fsencode(state)).hexdigest()[:12]}"


def _cached(name: str, size: int | None, resample: str, category: str | None) -> tuple[Images, Images]:
    path = cache_path(name, size, resample, category)
    try:
        return cache.read(path)
    except (FileNotFoundError, ValueError):
        from filelock import FileLock  # only if something must be prepared

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.parent / f"{_stem(name)}.lock"):  # for all sizes and categories: they share downloads
        try:
            return cache.read(path)  # another job prepared it meanwhile
        except FileNotFoundError:
            pass
        except ValueError as error:
            print(f"adlib: {error}; preparing it again", file=sys.stderr)
        both = _read(name, size, resample, category)
        for part in both:
            if size is not None:
                part.images = images.resize(part.images, size, resample)
                part.masks = None if part.masks is None else images.resize_masks(part.masks, size)
        if path != cache_path(name, size, resample, category):  # else it would be cached under the old state
            raise ValueError(f"the images of {name} were changed while they were read: run this again")
        cache.write(path, both)
    return both


# ---- finding and reading


def _read(name: str, size: int | None, resample: str, category: str | None) -> tuple[Images, Images]:
    """Train and test from their source; only datasets with many large images are already resized."""
    kind, path = parse(name)
    if path:
        return own.read(kind, path, size, resample)
    dataset, seen = DATASETS[name], set()
    for place, classes in _places(name):
        if (category in classes) if category else classes:
            is_copy = place is not None and place.is_file()
            return _read_copy(name, place) if is_copy else dataset.read(name, place, category, size, resample)
        seen |= set(classes)
    what = f"{name} is not on this machine"
    if category:
        others = ", ".join(other for other in CLASS_NAMES[name] if other in seen) or "no category"
        what = f"{name}'s {category} is not on this machine (there is {others})"
    put = _put(name).replace("<category>", category or "")
    if not hasattr(dataset, "fetch") or machine.says_yes("ADLIB_OFFLINE"):
        raise FileNotFoundError(f"{what}: {put}")
    try:
        dataset.fetch(name)
    except (OSError, RuntimeError, ValueError) as error:
        raise FileNotFoundError(f"{what}, and could not be downloaded ({error}): {put}") from error
    return dataset.read(name, cache.downloads(), category, size, resample)


def _places(name: str) -> Iterator[tuple[Path | None, list[str]]]:
    """The places of a known dataset, in the order of searching, and the classes there; a file is a copy as npz.

    Raises FileNotFoundError if ADLIB_DATA names no folder.
    """
    dataset = DATASETS[name]
    if not hasattr(dataset, "put"):
        yield None, dataset.here(name, None)
        return
    if os.environ.get("ADLIB_DATA"):
        root = Path(os.environ["ADLIB_DATA"]).expanduser().resolve()
        if not root.is_dir():
            raise FileNotFoundError(f"ADLIB_DATA names {root}, which is no folder")
        yield root, dataset.here(name, root)
        copy = root / f"{name}.npz"
        if copy.is_file() and name not in CATEGORY_DATASETS:  # a copy has no masks
            yield copy, _classes_of_copy(name, copy)
    yield cache.downloads(), dataset.here(name, cache.downloads())


def _put(name: str) -> str:
    """Says how to get a dataset."""
    now = os.environ.get("ADLIB_DATA") or "not set"
    put = f"put {DATASETS[name].put(name)} into the folder that ADLIB_DATA names (now {now})"
    is_forbidden = hasattr(DATASETS[name], "fetch") and machine.says_yes("ADLIB_OFFLINE")
    return put + ", or let it be downloaded (ADLIB_OFFLINE=0)" * is_forbidden


def _classes_of_copy(name: str, path: Path) -> list[str]:
    """The classes that have training images in a copy; all if it is damaged, because reading it will report that."""
    names = CLASS_NAMES[name]
    try:
        return [names[find(names, called, name)] for called in own.npz_classes(path, names)]
    except ValueError:
        return names


def _read_copy(name: str, path: Path) -> tuple[Images, Images]:
    """The two `Images` of a copy, which may name and order classes differently, and name classes without images."""
    names, both = CLASS_NAMES[name], own.read_npz(path, CLASS_NAMES[name])
    labels = torch.full((len(both[0].class_names),), -1)
    for label in torch.cat([part.labels for part in both]).unique().tolist():
        labels[label] = find(names, both[0].class_names[label], name)
    both = tuple(plain(part.images, labels[part.labels], names, part.source) for part in both)
    if hasattr(DATASETS[name], "check_copy"):
        DATASETS[name].check_copy(both, path)
    return both
