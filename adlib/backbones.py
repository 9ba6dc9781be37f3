"""ImageNet networks as frozen feature extractors: images in, the maps of layer1, layer2 and layer3 out.

    encoder, weights = backbones.load("resnet18", "imagenet")     # weights: "resnet18/imagenet"
    features = encoder(x)                                         # x in [-1, 1]: maps of stride 4, 8 and 16

Weights are torchvision's IMAGENET1K_V1, your own file with torchvision's names, or random (for trying things out: such
results say nothing about a paper). Files are read without executing anything in them.
"""

import hashlib
import os
import re
from pathlib import Path

import torch
from torch import nn

from adlib._torchvision import import_torchvision
from adlib.machine import check_choice, read_tensors, says_yes


# The channels of layer1, layer2, layer3, and the sha256 of files with ImageNet weights: the first digits of
# torchvision's IMAGENET1K_V1, as in its file names. For resnet18, also the sha256 of a copy up to layer3 whose batch
# norm is folded into the convolutions: the same network in evaluation mode.
CHANNELS = {"resnet18": [64, 128, 256], "wide_resnet50_2": [256, 512, 1024], "wide_resnet101_2": [256, 512, 1024]}
IMAGENET_SHA256 = {
    "resnet18": ["f37072fd", "2eab6b8d975d84338695d15769dc68a36f80eeaa28feb85cf4966a715db6b8e8"],
    "wide_resnet50_2": ["95faca4d"],
    "wide_resnet101_2": ["32ee1156"],
}
# of the images that torchvision's weights were trained on, RGB in [0, 1]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """A ResNet up to layer3: x (N, 1 or 3, H, W), float in [-1, 1] -> maps of layer1, layer2, layer3.

    The maps are (N, c_k, H / 4, W / 4), / 8 and / 16, rounded up. Grey images are repeated to three channels; the input
    is normalised to ImageNet's mean and standard deviation here. The network is frozen (no parameter needs a gradient),
    and always in evaluation mode, even after a call of `train`: batch norm keeps ImageNet's statistics.
    """

    def __init__(self, resnet: nn.Module):
        super().__init__()
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
        self.layers = nn.ModuleList([resnet.layer1, resnet.layer2, resnet.layer3])
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])
        self.requires_grad_(False).train()

    def train(self, mode: bool = True) -> "Backbone":
        return super().train(False)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = ((x + 1) / 2 - self.mean) / self.std
        x = self.stem(x.contiguous(memory_format=torch.channels_last))  # the faster layout for convolutions
        maps = []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return maps


def load(backbone: str = "resnet18", weights: str = "imagenet", seed: int = 0) -> tuple[Backbone, str]:
    """Returns the `Backbone` and its name in the column `weights` of result rows, such as "resnet18/imagenet".

    weights: "imagenet" looks for $ADLIB_DATA/weights/<backbone>*.pth with a known checksum, then lets torchvision
    download (ADLIB_OFFLINE=1 forbids it). A path is a file of plain tensors with torchvision's names; layer4 and fc may
    be missing. It is labelled "<backbone>/local:<first 8 digits of its sha256>", or "imagenet" if that is known.
    "random" draws torchvision's initial weights by `seed`. Raises ValueError for an unknown backbone and a file that
    does not fit it (naming the tensor), FileNotFoundError if there are no weights.
    """
    check_choice("backbone", backbone, CHANNELS)
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Backbone(_resnet(backbone)), f"{backbone}/random"
    path = _imagenet(backbone) if weights == "imagenet" else Path(weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no weight file {path}: weights are 'imagenet', 'random' or a path")
    sha256, is_imagenet = _sha256(path, backbone)
    with torch.device("meta"):  # no time spent on initial values: every tensor is replaced
        resnet = _resnet(backbone)
    _fill(resnet, path, backbone)
    return Backbone(resnet), f"{backbone}/imagenet" if is_imagenet else f"{backbone}/local:{sha256[:8]}"


def there(backbone: str) -> Path | None:
    """The file that `load(backbone, "imagenet")` finds on this machine by its name, or None; ValueError if unknown.

    No file is opened: if the name ends in 8 digits, as torchvision's names do, these show whether it is ImageNet's.
    """
    check_choice("backbone", backbone, CHANNELS)
    known = tuple(f"-{digits[:8]}" for digits in IMAGENET_SHA256[backbone])
    named = [path for path in _files(backbone) if path.stem.endswith(known)]
    others = [path for path in _files(backbone) if not re.search("-[0-9a-f]{8}$", path.stem)]
    downloaded = _downloads() / f"{backbone}{known[0]}.pth"
    return next((path for path in [*named, *others, downloaded] if path.is_file()), None)


def missing(backbone: str | None, weights: str | None) -> tuple[str, str, bool] | None:
    """What a job with this backbone and these weights lacks here: (what, how to get it, whether it downloads that).

    None if nothing is missing, according to `there`. Raises ValueError for an unknown backbone.
    """
    if weights != "imagenet" or not backbone:
        is_there = weights in (None, "random", "imagenet") or Path(weights).expanduser().is_file()
        return None if is_there else (f"weights {weights}", f"there is no file {weights}", False)
    if there(backbone):
        return None
    url = f"https://download.pytorch.org/models/{backbone}-{IMAGENET_SHA256[backbone][0]}.pth"
    now = os.environ.get("ADLIB_DATA") or "not set"
    put = f"put {url} into weights/ of the folder that ADLIB_DATA names (now {now})"
    if says_yes("ADLIB_OFFLINE"):
        return f"weights of {backbone}", f"{put}, or allow its download by ADLIB_OFFLINE=0", False
    return f"weights of {backbone}", f"the first job downloads it; or {put}", True


def _files(backbone):
    """The files under $ADLIB_DATA/weights whose names belong to a backbone, in order."""
    root = os.environ.get("ADLIB_DATA")
    return sorted(Path(root).expanduser().glob(f"weights/{backbone}*.pth")) if root else []


def _downloads():
    return Path(os.environ.get("ADLIB_CACHE") or "~/.cache/adlib").expanduser().resolve() / "downloads"


def _resnet(backbone):
    resnet = getattr(import_torchvision().models, backbone)()
    del resnet.layer4, resnet.fc
    return resnet


def _sha256(path, backbone):
    """The checksum of a file, and whether it is one of the backbone's ImageNet weights."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return sha256, sha256.startswith(tuple(IMAGENET_SHA256[backbone]))


def _imagenet(backbone):
    """Path of a file with ImageNet weights, downloaded if necessary."""
    files = _files(backbone)
    for path in files:
        if _sha256(path, backbone)[1]:
            return path.resolve()
    advice = "put it into weights/ of the folder that ADLIB_DATA names, or give weights='random' to try things out"
    if files:
        names = ", ".join(map(str, files))
        advice += f" ({names} has another checksum: give its path as weights to use it)"
    url = import_torchvision().models.get_model_weights(backbone)["IMAGENET1K_V1"].url
    path = _downloads() / url.rsplit("/", 1)[1]
    if path.is_file():
        return path
    if says_yes("ADLIB_OFFLINE"):
        reason = f"are not on this machine and ADLIB_OFFLINE=1 forbids downloading {url}"
        raise FileNotFoundError(f"the ImageNet weights of {backbone} {reason}: {advice}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # written to a temporary name, compared with the checksum in its name, renamed: two jobs at once do no harm
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rsplit("-", 1)[1], progress=False)
    except (OSError, RuntimeError) as error:
        reason = f"could not be downloaded ({error}): get {url} and {advice}"
        raise FileNotFoundError(f"the ImageNet weights of {backbone} {reason}") from error
    return path


def _fill(resnet, path, backbone):
    """Loads the tensors of a file into the network; all that it needs must be there, with the right shapes."""
    tensors = read_tensors(path)
    if not isinstance(tensors, dict) or not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        raise ValueError(f"{path} is no dict of tensors by name, as torch.save(model.state_dict(), ...) writes it")
    needed = {name: value.shape for name, value in resnet.state_dict().items() if "num_batches_tracked" not in name}
    for name, shape in needed.items():
        if name not in tensors:
            held = f"{len(tensors)} tensors ({', '.join(list(tensors)[:3])}, ...)"
            raise ValueError(f"{path} lacks {name}, which {backbone} needs: it holds {held}")
        if tensors[name].shape != shape:
            raise ValueError(f"{path}: {name} is {tuple(tensors[name].shape)}, {backbone} needs {tuple(shape)}")
    resnet.to_empty(device="cpu")
    for module in resnet.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked.zero_()
    resnet.load_state_dict({name: tensors[name] for name in needed}, strict=False)
