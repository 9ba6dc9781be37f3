"""Trained detectors: assemble them, save them to one file, load them, and apply them to image files.

    detector = own.train("photos/good")                                      # PatchCore's memory bank
    detectors.save(detector, "detector.pt")
    detector = detectors.load("detector.pt")                                 # anywhere
    scores, maps = detectors.score(detector, "photos/new")                   # or arrays; high = anomalous
    detectors.is_anomalous(detector, scores[0])

    detector = detectors.assemble("two_stage", settings, {"encoder": encoder, ...}, image_size=32, channels=1)

A paper's notebook makes the last call. A detector is the class `Detector` of the paper's module, a network that takes
bytes (N, channels, image_size, image_size) and gives scores (N,) and anomaly maps (N, h, w). `detector.about` holds
paper, method, settings, image_size, channels, resample, facts about its training; white, if it takes 16-bit images
(`pictures.white`); after `calibrate` also threshold, pixel_threshold, quantile, n_normal and map_range.
"""

import importlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adlib import backbones, machine, pictures
from adlib.images import resize


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
    """A paper's `Detector` with plain `settings` and its trained parts, in evaluation mode, on their device.

    settings: keyword arguments of adlib.<paper>.Detector; a "backbone" by its name. trained: name within the detector
    -> module or tensor, together complete. image_size, channels, resample: of its input images. more: other plain
    values to keep. Raises ValueError if `trained` lacks a part or does not fit.
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
    """Write a detector to a file, completely or not at all; `path` None, as in a notebook read by hand: do nothing."""
    if path is None:
        return
    temporary = Path(f"{path}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, "about": detector.about, "state": detector.state_dict()}, file)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's own error has no name and no reason
        raise OSError(f"{path} could not be written ({error}): is there room, and the right to write?") from error
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


def fit(about: dict, image: Tensor, name: object = "the image") -> Tensor:
    """An image, uint8 (1 or 3, H, W), at the detector's size, without keeping its aspect: (channels, S, S).

    Raises ValueError for a color image if the detector was trained on grey ones.
    """
    if len(image) > about["channels"]:
        raise ValueError(f"{pictures.shown(name)} is in color, and the detector was trained on grey images")
    image = resize(image[None], about["image_size"], about["resample"])[0]
    return image.expand(about["channels"], -1, -1)


def read(about: dict, path: str | Path) -> Tensor:
    """One image file as the detector takes it: see `pictures.read` and `fit`."""
    return fit(about, pictures.read(path, None, about.get("white")), path)


def judge(
    detector: nn.Module, paths: Sequence[Path], batch: int = 16, failed: list[str] | None = None
) -> Iterator[tuple[Path, float, Tensor]]:
    """Yield (path, score, anomaly map (h, w)) of image files, in order, reading a few at a time, with a bar.

    failed: a list that gets a sentence for each file that cannot be read and is skipped; None: the first one raises.
    """
    for index, _, value, found in _judged(detector, paths, batch, failed):
        yield paths[index], value, found


def score(
    detector: nn.Module, images: str | Path | Sequence | np.ndarray | Tensor, batch: int = 16
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Scores float32 (N,) of images of any size, and anomaly maps, one for each image, of its own size (H, W).

    images: one or more paths of files and folders; or arrays (H, W), (H, W, 3) and others that `pictures.from_array`
    takes: one array, a sequence, an array (N, H, W) or (N, H, W, 3), a tensor (N, C, H, W). Raises ValueError and
    FileNotFoundError, naming what is wrong.
    """
    if isinstance(images, (str, Path)):
        images = [images]
    if isinstance(images, Tensor) and images.ndim != 4:
        raise ValueError(f"a tensor of images is (N, channels, H, W), not {tuple(images.shape)}")
    if isinstance(images, np.ndarray) and (images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (3, 4))):
        images = images[None]
    if any(isinstance(image, (str, Path)) for image in images):
        images = pictures.find(images)
    judged = list(_judged(detector, images, batch, None))
    scores = np.array([value for _, _, value, _ in judged], np.float32)
    return scores, [resize_map(found, size).numpy() for _, size, _, found in judged]


def _judged(detector, images, batch, failed):
    """Yield (index, (H, W), score, map) of paths and arrays; failed: as in `judge`."""
    about, several = detector.about, []
    with machine.progress(len(images), "scoring") as bar:
        for start in range(0, len(images), batch):
            part = []
            for index in range(start, min(start + batch, len(images))):
                image, white = images[index], about.get("white")
                name = image if isinstance(image, Path) else f"image {index}"
                try:
                    if isinstance(image, Path):
                        image = pictures.read(image, None, white, several)
                    else:
                        image = pictures.from_array(image, white, name)
                    part.append((index, image.shape[1:], fit(about, image, name)))
                except ValueError as error:
                    if failed is None:
                        raise
                    failed.append(str(error))
            if part:
                values, maps = apply(detector, torch.stack([fitting for *_, fitting in part]))
                for (index, size, _), value, found in zip(part, values.tolist(), maps, strict=True):
                    yield index, size, value, found
            bar.update(min(batch, len(images) - start))
    pictures.say_several(several)


def resize_map(anomaly_map: Tensor, size: Sequence[int]) -> Tensor:
    """An anomaly map (h, w) at another size (H, W), bilinear."""
    return F.interpolate(anomaly_map[None, None], size=tuple(size), mode="bilinear", align_corners=False)[0, 0]


def calibrate(detector: nn.Module, scores: Tensor, maps: Tensor, quantile: float = 0.95) -> None:
    """Set the threshold from `scores` (N,) and `maps` (N, h, w) of normal images that the training did not see.

    It is the smallest of these scores that at least the share `quantile` of them does not exceed; a higher score counts
    as anomalous. pixel_threshold, for pictures: the same for the largest values of the maps. map_range: from the median
    pixel of the normal maps to their largest. Raises ValueError without scores and for a quantile outside (0, 1].
    """
    if not len(scores) or not 0 < quantile <= 1:
        raise ValueError(f"a threshold needs scores, and a quantile in (0, 1], not {quantile}")
    scores, maps = np.asarray(scores, dtype=np.float64), np.asarray(maps, dtype=np.float64)
    largest = maps.reshape(len(maps), -1).max(1)
    detector.about |= {
        "threshold": float(np.quantile(scores, quantile, method="inverted_cdf")),
        "pixel_threshold": float(np.quantile(largest, quantile, method="inverted_cdf")),
        "quantile": quantile,
        "n_normal": len(scores),
        "map_range": [float(np.median(maps)), float(largest.max())],
    }


def is_anomalous(detector: nn.Module, score: float) -> bool | None:
    """Whether a score is above the threshold; None if the detector was not calibrated."""
    threshold = detector.about.get("threshold")
    return None if threshold is None else bool(score > threshold)
