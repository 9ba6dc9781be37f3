"""The file format of prepared images: one file with both splits of a dataset at one size, read at one go.

    write(path, (train, test))
    train, test = read(path)       # FileNotFoundError where there is none, ValueError that names a damaged one

The first line holds magic, the sha256 of all that follows and the length of the next line; that is JSON (shapes, names,
kinds); then come the bytes of the arrays. A file is written beside itself and renamed: it is whole or not there.
"""

import hashlib
import json
import re

import numpy as np
import torch

from repro.data.readers import Images
from repro.files import write_whole


MAGIC = "adlib-cache 1"  # counted up when what is prepared, or how it is written, changes


def write(path, splits):
    """Writes two `Images` that share class names and source."""
    arrays, described = [], []
    for images in splits:
        plain = images.kinds == [images.class_names[label] for label in images.labels.tolist()]
        described.append(
            {
                "shape": list(images.images.shape),
                "masks": images.masks is not None,
                "files": images.files,
                "kinds": None if plain else images.kinds,
            }
        )  # 70,000 strings that say nothing stay out
        arrays += [images.images, images.labels] + ([] if images.masks is None else [images.masks])
    about = {"class_names": splits[0].class_names, "source": splits[0].source, "splits": described}
    about = json.dumps(about).encode() + b"\n"
    payload = about + b"".join(array.contiguous().numpy().tobytes() for array in arrays)
    first_line = f"{MAGIC} {hashlib.sha256(payload).hexdigest()} {len(about)}\n".encode()
    write_whole(path, first_line + payload)


def read(path):
    """The two `Images` of a cache file; raises FileNotFoundError, or ValueError if the file is damaged."""
    content = np.fromfile(path, dtype=np.uint8)  # read once; the tensors below are views of it
    line = content[:200].tobytes().partition(b"\n")[0]
    found = re.fullmatch(re.escape(MAGIC).encode() + rb" ([0-9a-f]{64}) ([0-9]+)", line)
    if not found:
        raise ValueError(f"the prepared cache {path} is damaged or of another version (its first line)")
    if hashlib.sha256(content[len(line) + 1 :]).hexdigest() != found[1].decode():
        raise ValueError(f"the prepared cache {path} is damaged (its checksum)")
    start = len(line) + 1 + int(found[2])
    about = json.loads(content[len(line) + 1 : start].tobytes())
    tensors = torch.from_numpy(content[start:])
    names, splits = about["class_names"], []
    for split in about["splits"]:
        n, channels, height, width = split["shape"]
        pixels = n * height * width
        lengths = [n * channels * height * width, 8 * n, pixels if split["masks"] else 0]
        images, labels, masks = tensors[: sum(lengths)].split(lengths)
        tensors = tensors[sum(lengths) :]
        labels = labels.clone().view(torch.int64)  # cloned, since a view of 8 bytes must start at a multiple of 8
        splits.append(
            Images(
                images.view(split["shape"]),
                labels,
                names,
                masks.view(torch.bool).view(n, height, width) if split["masks"] else None,
                split["kinds"] or [names[label] for label in labels.tolist()],
                split["files"],
                about["source"],
            )
        )
    return tuple(splits)
