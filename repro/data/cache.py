"""The cache of prepared images: one npz file, with checksums, holds both splits of a dataset at one size."""

import io
import json
import os
from pathlib import Path

import numpy as np
import torch

from repro.data.splits import Images
from repro.rows import write_whole


VERSION = 2  # raised when the prepared data or their file format change


def folder() -> Path:
    return Path(os.environ.get("ADLIB_CACHE") or "~/.cache/adlib").expanduser().resolve()


def downloads() -> Path:
    """The folder for downloads and unpacked archives."""
    return folder() / "downloads"


def write(path: Path, both: tuple[Images, Images]) -> None:
    """Writes the two splits; the file is written completely or not at all."""
    arrays, about = {}, {"version": VERSION}
    for split, part in zip(("train", "test"), both, strict=True):
        tensors = {name: value for name, value in vars(part).items() if isinstance(value, torch.Tensor)}
        arrays |= {f"{split}_{name}": value.numpy() for name, value in tensors.items()}
        about[split] = {name: value for name, value in vars(part).items() if name not in tensors}
    file = io.BytesIO()
    np.savez(file, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
    write_whole(path, file.getvalue())


def read(path: Path) -> tuple[Images, Images]:
    """The two splits; raises FileNotFoundError if there is no file, ValueError if it is damaged or older."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            about, tensors = json.loads(archive["about"].tobytes()), {"train": {}, "test": {}}
            assert about["version"] == VERSION
            for split, name in (key.split("_", 1) for key in archive.files if key != "about"):
                tensors[split][name] = torch.from_numpy(archive[f"{split}_{name}"])
        return Images(**about["train"], **tensors["train"]), Images(**about["test"], **tensors["test"])
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged archive, or no archive, raises many kinds of errors
        raise ValueError(f"the prepared cache {path} is damaged or of another version") from error
