"""Trained detectors: put together, saved to one file, loaded, and applied to image files.

    detector = detectors.assemble("two_stage", settings, {"encoder": encoder, ...}, image_size=32, channels=1)
    detectors.save(detector, "detector.pt")                                  # at the end of a paper's notebook
    detector = detectors.load("detector.pt")                                 # anywhere
    for path, score, anomaly_map in detectors.judge(detector, detectors.find(["photos/"])):
        ...                                                                  # high = anomalous

A detector is the class `Detector` of the paper's module, a network that takes bytes (N, channels, image_size,
image_size) and gives scores (N,) and anomaly maps (N, h, w). What is known of it stands in `detector.about`, a dict:
paper, method, settings, image_size, channels, resample, whatever else was said of its training, and once `calibrate`
saw scores of normal images, threshold, quantile, n_normal and map_range.
"""

import importlib
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from adlib import backbones, machine
from adlib import images as pictures


FORMAT = "adlib detector 1"
NEEDED = {"paper": str, "settings": dict, "image_size": int, "channels": int, "resample": str}


def assemble(
    paper: str,
    settings: dict,
    trained: dict,
    *,
    image_size: int,
    channels: int,
    resample: str = "antialias",
    **more: object,
) -> nn.Module:
    """A paper's `Detector` of plain `settings`, filled with what was trained, in evaluation mode, on its device.

    settings: keyword arguments of adlib.<paper>.Detector; "backbone", where there is one, by its name. trained: name
    within the detector -> module or tensor, together all of it. image_size, channels, resample: of the images that it
    takes. more: other plain values to keep. Raises ValueError where `trained` lacks a part or does not fit.
    """
    state = {}
    for name, part in trained.items():
        tensors = {"": part} if isinstance(part, Tensor) else part.state_dict(prefix=".")
        state |= {f"{name}{key}": value for key, value in tensors.items()}
    about = {"paper": paper, "settings": dict(settings), "image_size": image_size, "channels": channels}
    return _filled({**about, "resample": resample, **more}, state, next(iter(state.values())).device)


def _filled(about, state, device):
    """The detector that `about` describes, with these tensors."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", about["paper"]):
        raise ValueError(f"{about['paper']!r} is no name of a paper")
    try:
        make = importlib.import_module(f"adlib.{about['paper']}").Detector
    except (ImportError, AttributeError):
        raise ValueError(f"this version of adlib has no detector for {about['paper']!r}") from None
    settings = dict(about["settings"])
    if "backbone" in settings:
        settings["backbone"] = backbones.load(settings["backbone"], "random")[0]
    try:
        detector = make(**settings)
        detector.load_state_dict(state)
    except (TypeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"the detector of {about['paper']} does not fit its settings: {reason}") from None
    detector.about = dict(about)
    return detector.to(device).eval().requires_grad_(False)


def save(detector: nn.Module, path: str | Path | None) -> None:
    """Write a detector to a file, whole or not at all; `path` None, as in a notebook read by hand: nowhere."""
    if path is None:
        return
    temporary = Path(f"{path}.tmp")
    try:
        torch.save({"format": FORMAT, "about": detector.about, "state": detector.state_dict()}, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | Path, device: str = "auto") -> nn.Module:
    """The detector in a file, on a device. Nothing in the file is executed.

    Raises FileNotFoundError, and ValueError for a file that is damaged or no detector.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no detector {path}")
    device = machine.pick(device)
    content = machine.read_tensors(path, device)
    about = content.get("about") if isinstance(content, dict) and content.get("format") == FORMAT else None
    if not isinstance(about, dict) or any(type(about.get(name)) is not kind for name, kind in NEEDED.items()):
        raise ValueError(f"{path} is no detector of this kind ({FORMAT})")
    try:
        return _filled(about, content["state"], device)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: {error}") from None


@torch.no_grad()
def apply(detector: nn.Module, images: Tensor, batch: int = machine.SCORING_BATCH) -> tuple[Tensor, Tensor]:
    """Scores (N,) and anomaly maps (N, h, w) of bytes (N, channels, image_size, image_size), on the CPU."""
    device = next(detector.parameters()).device
    parts = [detector(part.to(device)) for part in images.split(batch)]
    return tuple(torch.cat([part[i].float().cpu() for part in parts]) for i in (0, 1))


def find(paths: Iterable[str | Path]) -> list[Path]:
    """The image files among files and folders (with what lies below), in order, each once.

    Raises FileNotFoundError for what is not there, ValueError for a folder without images.
    """
    files = {}
    for path in (Path(path).expanduser() for path in paths):
        if path.is_dir():
            inside = sorted(pictures.list_images(path))
            if not inside:
                raise ValueError(f"{path} holds no images ({', '.join(pictures.SUFFIXES)})")
            files |= dict.fromkeys(inside)
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


def read(about: dict, path: str | Path) -> Tensor:
    """One image file as the detector wants it: bytes (channels, image_size, image_size); the aspect is not kept.

    Raises ValueError for a file that is no image, and for one in color where the detector knows grey ones.
    """
    image = pictures.read(path)
    if len(image) > about["channels"]:
        raise ValueError(f"{path} is in color, and the detector was trained on grey images")
    image = pictures.resize(image[None], about["image_size"], about["resample"])[0]
    return image.expand(about["channels"], -1, -1)


def judge(
    detector: nn.Module, paths: list[Path], batch: int = 16, failed: list[str] | None = None
) -> Iterator[tuple[Path, float, Tensor]]:
    """Yield (path, score, anomaly map (h, w)) of image files, in order, reading a few at a time.

    failed: a list for sentences on files that cannot be read, which are left out; None: the first such raises.
    """
    for start in range(0, len(paths), batch):
        files, images = [], []
        for path in paths[start : start + batch]:
            try:
                images.append(read(detector.about, path))
                files.append(path)
            except ValueError as error:
                if failed is None:
                    raise
                failed.append(str(error))
        if images:
            scores, maps = apply(detector, torch.stack(images))
            yield from zip(files, scores.tolist(), maps, strict=True)


def calibrate(detector: nn.Module, scores: Tensor, maps: Tensor, quantile: float = 0.95) -> None:
    """Set the threshold from `scores` (N,) and `maps` (N, h, w) of normal images that the training did not see.

    It is the least of these scores that at least the share `quantile` of them does not exceed; a higher score counts as
    anomalous. map_range, for pictures: from the median pixel of the normal maps to their largest. Raises ValueError
    without scores and for a quantile outside (0, 1].
    """
    if not len(scores) or not 0 < quantile <= 1:
        raise ValueError(f"a threshold needs scores, and a quantile in (0, 1], not {quantile}")
    detector.about |= {
        "threshold": float(np.quantile(np.asarray(scores, dtype=np.float64), quantile, method="inverted_cdf")),
        "quantile": quantile,
        "n_normal": len(scores),
        "map_range": [float(np.median(np.asarray(maps))), float(maps.max())],
    }


def is_anomalous(detector: nn.Module, score: float) -> bool | None:
    """Whether a score lies above the threshold; None where the detector was not calibrated."""
    threshold = detector.about.get("threshold")
    return None if threshold is None else score > threshold


def lay_out(
    normal: Iterable[Path], judged: Iterable[Path], folder: str | Path, held_out: float = 0.3, seed: int = 0
) -> list[Path]:
    """Arrange image files as a dataset `folder:FOLDER` for the notebooks: links, no copies. Returns the held-out files.

    normal: files, of which a share `held_out`, drawn by `seed`, at least two, is not trained on; judged: files. Class
    `good`: train/good, test/good (held out), test/judged. Raises ValueError where fewer than 2 are left to train on.
    """
    normal, folder = list(normal), Path(folder)
    n = max(2, round(held_out * len(normal)))
    if not 0 < held_out < 1 or len(normal) - n < 2:
        share = f"{len(normal)} normal images, {n} of them held out (a share of {held_out})"
        raise ValueError(f"{share}: at least 2 must be left to train on")
    chosen = set(random.Random(seed).sample(range(len(normal)), n))
    parts = {
        "train/good": [file for i, file in enumerate(normal) if i not in chosen],
        "test/good": [normal[i] for i in sorted(chosen)],
        "test/judged": list(judged),
    }
    for place, files in parts.items():
        (folder / place).mkdir(parents=True)
        for number, file in enumerate(files):  # numbered: two folders may hold files of one name, and order is kept
            (folder / place / f"{number:06d}-{Path(file).name}").symlink_to(Path(file).resolve())
    return parts["test/good"]


def write_overlay(
    detector: nn.Module, path: str | Path, anomaly_map: Tensor, target: str | Path, longest: int = 640
) -> None:
    """Write the image file `path`, at most so many px long, with its anomaly map in color over it, as a PNG.

    The colors have the range that `calibrate` found in normal images, where it was called, else that of this map.
    """
    from PIL import Image

    from adlib import plots

    image = pictures.read(path)
    scale = min(1.0, longest / max(image.shape[1:]))
    size = [max(1, round(scale * side)) for side in image.shape[1:]]
    resized = torch.nn.functional.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)
    maps = torch.nn.functional.interpolate(anomaly_map[None, None], size=size, mode="bilinear", align_corners=False)
    drawn = plots.overlay(resized.round().to(torch.uint8), maps[:, 0], limits=detector.about.get("map_range"))
    array = ((drawn[0] + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.transpose(1, 2, 0)).save(target)
