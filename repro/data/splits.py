"""`Images`: what every reader of this package returns, for train and for test."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass
class Images:
    """The images of one split, and what is known about them."""

    images: torch.Tensor  # uint8 (N, C, H, W), C is 1 or 3
    labels: torch.Tensor  # int64 (N,), index into class_names
    class_names: list[str]
    masks: torch.Tensor | None  # bool (N, H, W), True where an image is defective
    kinds: list[str]  # class or defect of each image
    files: list[str] | None  # path of each image inside its folder
    source: str  # "official", "embedded", "npz:<sha8>", "stand-in:<sha8>", "npz:<sha8> (17 of 100 classes)", ...


def plain(
    images: torch.Tensor, labels: torch.Tensor, names: list[str], source: str, files: list[str] | None = None
) -> Images:
    """Images whose kind is their class, without masks."""
    return Images(images, labels, names, None, [names[label] for label in labels.tolist()], files, source)


def sha8(path: Path) -> str:
    """The first 8 hex digits of a file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:8]
