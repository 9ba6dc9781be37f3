"""A detector of your own images, trained on normal images alone; `adlib/detectors.py` begins with an example."""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from adlib import backbones, detectors, machine, neighbours, patch_ae, pictures
from adlib.images import resize, to_float


METHODS = ("patchcore",)  # that `train` knows
LEAST_VECTORS = 1000  # in a memory bank, if there are so many: our guess, for few images


@torch.no_grad()
def train(
    normal: str | Path | Iterable[str | Path],
    method: str = "patchcore",
    *,
    image_size: int = 256,
    backbone: str = "resnet18",
    weights: str = "auto",
    coreset: float = 0.01,
    held_out: float = 0.3,
    quantile: float = 0.95,
    seed: int = 0,
    device: str = "auto",
) -> nn.Module:
    """A detector trained on normal images alone, files or folders, with its threshold: PatchCore (Roth et al. 2022).

    Its memory bank is a coreset, the share `coreset`, of the features of an ImageNet network. weights: as for
    `backbones.load`; "auto": ImageNet's, or random ones, with a warning, if there are none. A share `held_out` of the
    images is not trained on, but sets the threshold (`set_threshold`). Memory: 1.6 MB per image of 256 px. Raises
    ValueError and FileNotFoundError before anything is trained.
    """
    if method not in METHODS:
        others = "the papers' methods are trained by notebooks/own_data.ipynb"
        raise ValueError(f"unknown method {method!r}: choose {', '.join(METHODS)}; {others}")
    for name, value in {"coreset": coreset, "quantile": quantile}.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise ValueError(f"{name} is {value!r}: it is a share, above 0 and at most 1")
    if not isinstance(image_size, int) or image_size < 32 or image_size % 8:
        raise ValueError(f"image_size is {image_size!r}: it is a number of pixels from 32, a multiple of 8")
    files = pictures.find([normal] if isinstance(normal, (str, Path)) else normal)
    training, kept = hold_out(files, held_out, seed)
    device = machine.pick(device)
    generator = machine.seed_everything(seed, device)
    encoder, label = _backbone(backbone, weights)
    encoder = encoder.to(device)
    images, white = _read([*training, *kept], len(training), image_size)

    vectors = []
    with machine.progress(len(training), "features") as bar:
        for part in images[: len(training)].split(16):
            features = patch_ae.features(encoder(to_float(part.to(device))), mean=True)
            vectors.append(patch_ae.vectors(features))
            bar.update(len(part))
    vectors = torch.cat(vectors)
    n = min(len(vectors), max(LEAST_VECTORS, round(coreset * len(vectors))))
    with machine.progress(n, "memory bank", "vectors") as bar:
        picks = neighbours.coreset(vectors, n, generator, progress=lambda done: bar.update(done - bar.n))
    detector = detectors.assemble(
        "patch_ae",
        {"backbone": backbone, "n_vectors": n},
        {"encoder": encoder, "bank": vectors[picks]},
        image_size=image_size,
        channels=3,
        method=method,
        weights=label,
        n_train=len(training),
        seed=seed,
        **({} if white is None else {"white": white}),
    )
    set_threshold(detector, *detectors.apply(detector, images[len(training) :], batch=16), quantile)
    return detector


def _read(files, n_training, size):
    """uint8 (N, 3, size, size) of image files, and the white of 16-bit ones, from the first `n_training`."""
    images, several, white = [], [], pictures.white(files[:n_training])
    if white is not None:
        pictures.say(f"16-bit grey images: 0 to {white} (the images to train on have no more) is read as 0 to 255")
    with machine.progress(len(files), "reading") as bar:
        for path in files:
            images.append(resize(pictures.read(path, None, white, several)[None], size)[0])
            bar.update()
    pictures.say_several(several)
    return torch.stack([image.expand(3, -1, -1) for image in images]), white


def set_threshold(detector: nn.Module, scores: Tensor, maps: Tensor, quantile: float = 0.95) -> None:
    """`detectors.calibrate` with every second held-out normal image, and a check with the others.

    scores (N,), maps (N, h, w). Notes n_checked and n_above, how many of the others are above the threshold, and
    expected_above, the share that should be: 1 - k / (n + 1) if the threshold is the k-th of n scores.
    """
    detectors.calibrate(detector, scores[::2], maps[::2], quantile)
    threshold, n = detector.about["threshold"], len(scores[::2])
    n_above = sum(bool(score > threshold) for score in scores[1::2])
    expected = 1 - sum(bool(score <= threshold) for score in scores[::2]) / (n + 1)
    detector.about |= {"n_checked": len(scores[1::2]), "n_above": n_above, "expected_above": expected}


def describe(detector: nn.Module) -> str:
    """What is known of a detector with a threshold, in a few lines."""
    about = detector.about
    n, share = about["n_normal"], f"{about['expected_above']:.0%}"
    lines = [
        f"{about['method']}, {about.get('weights') or 'no pretrained weights'}, {about['image_size']} px, "
        f"{about['n_train']} images to train on, {n + about['n_checked']} held out",
        f"threshold {about['threshold']:.4g}: the {about['quantile']:.0%} quantile of {n} held-out normal images",
        f"above it: {about['n_above']} of the other {about['n_checked']} held-out normal images, {share} expected",
    ]
    if n < 1 / max(1 - about["quantile"], 1e-9):
        lines.append(f"{n} images are too few for less: the threshold is the largest of their scores")
    return "\n".join(lines)


def _backbone(name, weights):
    """As `backbones.load`, with "auto": ImageNet's weights, or random ones and a line that says so."""
    try:
        return backbones.load(name, "imagenet" if weights == "auto" else weights)
    except FileNotFoundError as error:
        if weights != "auto":
            raise
        pictures.say(f"RANDOM weights: what the detector finds says little. {error}")
        return backbones.load(name, "random")


def hold_out(files: Sequence[Path], share: float = 0.3, seed: int = 0) -> tuple[list[Path], list[Path]]:
    """(images to train on, images held out); the latter are a share of all, drawn by `seed`, at least 2.

    Raises ValueError for an invalid share, and if fewer than 2 are left to train on.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise ValueError(f"held_out is {share!r}: it is a share of the normal images, above 0 and below 1")
    n = max(2, round(share * len(files)))
    if len(files) - n < 2:
        said = f"{len(files)} normal images, {n} of them held out (a share of {share})"
        raise ValueError(f"{said}: at least 2 must be left to train on, so 4 in all are needed")
    chosen = set(random.Random(seed).sample(range(len(files)), n))
    return [file for i, file in enumerate(files) if i not in chosen], [files[i] for i in sorted(chosen)]


def lay_out(training: list[Path], kept_back: list[Path], judged: list[Path], folder: str | Path) -> None:
    """Arrange image files as a dataset `folder:FOLDER` for the papers' notebooks: links, no copies.

    Class `good`: train/good, test/good (`kept_back`), test/judged.
    """
    for place, files in {"train/good": training, "test/good": kept_back, "test/judged": judged}.items():
        (Path(folder) / place).mkdir(parents=True)
        for number, file in enumerate(files):  # numbered: two folders may hold files of one name, and order is kept
            link = Path(folder) / place / f"{number:06d}{Path(file).suffix}"
            link.symlink_to(Path(file).resolve())
