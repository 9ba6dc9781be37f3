"""The datasets that need no files: scikit-learn's `digits`, and `textures`, drawn fabrics with exact masks of defects.

`textures` is structured like a small MVTec AD. No two images are alike; the same key draws the same image.
"""

import math

import numpy as np
import torch

from repro.data.splits import Images, plain


SIZE = 64
NAMES = ("stripes", "checks", "weave")
DEFECTS = ("scratch", "stain", "hole", "distortion", "color")
N_TRAIN, N_GOOD, N_PER_DEFECT = 80, 30, 8
CLASSES = {"digits": list("0123456789"), "textures": list(NAMES)}
CATEGORIES = ("textures",)

_Y, _X = np.mgrid[0:SIZE, 0:SIZE] + 0.5
# The pattern is drawn at twice the size and averaged, which smooths its edges; in float32, which is twice as fast.
_FINE_Y, _FINE_X = (np.mgrid[0 : 2 * SIZE, 0 : 2 * SIZE] / 2 + 0.25).astype(np.float32)
_COLORS = {
    "stripes": ((0.93, 0.89, 0.80), (0.17, 0.27, 0.45), (0.72, 0.24, 0.20)),
    "checks": ((0.94, 0.94, 0.90), (0.16, 0.42, 0.34), (0.85, 0.70, 0.30)),
    "weave": ((0.80, 0.63, 0.42), (0.58, 0.39, 0.24), (0.16, 0.10, 0.07)),
}


def here(name: str, folder: None) -> list[str]:
    return CLASSES[name]


def read(name: str, folder: None, category: str | None, size: int | None, resample: str) -> tuple[Images, Images]:
    """Train and test: all of digits, (N, 1, 8, 8), or one category of textures, (N, 3, 64, 64), with masks."""
    return _read_digits() if name == "digits" else tuple(draw_split(category, split) for split in ("train", "test"))


def _read_digits() -> tuple[Images, Images]:
    """scikit-learn's 8 x 8 digits, 0..16 scaled to 0..255; the last third of each class, in file order, is test."""
    from sklearn.datasets import load_digits  # takes 2 s; only the first job on this machine gets here

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(digits.target.astype(np.int64))
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        of_class = (labels == label).nonzero().flatten()
        is_test[of_class[len(of_class) - len(of_class) // 3 :]] = True
    return tuple(plain(images[part], labels[part], CLASSES["digits"], "embedded") for part in (~is_test, is_test))


def draw_split(category: str, split: str, seed: int = 0) -> Images:
    """The images of a texture: "train" has 80 good ones, "test" 30 good ones and 8 of each defect."""
    part = ("train", "test").index(split)
    kinds = ["good"] * (N_GOOD if part else N_TRAIN) + [kind for kind in DEFECTS for _ in range(N_PER_DEFECT * part)]
    drawn = [draw(category, (seed, part, i), None if kind == "good" else kind) for i, kind in enumerate(kinds)]
    images, masks = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*drawn, strict=True))
    labels = torch.full((len(kinds),), NAMES.index(category))
    images = images.permute(0, 3, 1, 2).contiguous()
    return Images(images, labels, CLASSES["textures"], masks, kinds, None, "embedded")


def draw(texture: str, key: tuple[int, ...], defect: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """One image of a texture, uint8 (64, 64, 3), and its mask, bool (64, 64), fixed by `key`, whole numbers from 0.

    With a defect, the image is the same outside the mask, and every pixel inside the mask differs.
    Raises ValueError for an unknown texture or defect.
    """
    for what, name, names in (("texture", texture, NAMES), ("defect", defect, (None, *DEFECTS))):
        if name not in names:
            raise ValueError(f"unknown {what} {name!r}: choose {', '.join(filter(None, names))}")
    rng = np.random.default_rng([*key, NAMES.index(texture)])
    cloth = _cloth(texture, rng)
    noise = rng.normal(0, 0.014, (SIZE, SIZE, 1)) + rng.normal(0, 0.006, (SIZE, SIZE, 3))
    clean_colors = cloth(_FINE_X, _FINE_Y)
    clean = _to_uint8(clean_colors + noise)
    if defect is None:
        return clean, np.zeros((SIZE, SIZE), dtype=bool)
    # The defect has its own generator: the cloth is the same with and without it.
    colors, mask = _damage(defect, cloth, clean_colors, np.random.default_rng([*key, NAMES.index(texture), 1]))
    image = np.where(mask[..., None], _to_uint8(colors + noise), clean)
    # Some pixels of the defect get the color that they had before: changing one channel by one keeps the mask exact.
    unchanged = mask & (image == clean).all(2)
    image[unchanged, 0] = np.where(image[unchanged, 0] > 127, image[unchanged, 0] - 1, image[unchanged, 0] + 1)
    return image, mask


def _to_uint8(colors):
    return np.rint(np.clip(colors, 0, 1) * 255).astype(np.uint8)


def _cloth(texture, rng):
    """A function from fine coordinates (x, y), (128, 128) each, to colors (64, 64, 3): the pattern under its light."""
    angle = rng.normal(0, 0.035)
    cos, sin = math.cos(angle), math.sin(angle)
    period = {"stripes": 16, "checks": 16, "weave": 8}[texture] * rng.uniform(0.96, 1.04)
    shift = rng.uniform(0, 2 * period, 2).tolist()  # plain numbers: numpy's would turn the float32 below into float64
    wave_length, wave_phase = rng.uniform(40, 80, 2).tolist(), rng.uniform(0, 2 * np.pi, 2).tolist()
    tint = (np.array(_COLORS[texture]) * rng.normal(1, 0.015, 3)).astype(np.float32)
    direction, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.02, 0.08)
    light = 1 + strength * ((_X / SIZE - 0.5) * np.cos(direction) + (_Y / SIZE - 0.5) * np.sin(direction)) * 2
    light = light * rng.normal(1, 0.02)

    def cloth(x, y):
        u = x * cos + y * sin + shift[0]
        v = y * cos - x * sin + shift[1]
        u = (u + 0.7 * np.sin(2 * np.pi / wave_length[0] * y + wave_phase[0])) / period
        v = (v + 0.7 * np.sin(2 * np.pi / wave_length[1] * x + wave_phase[1])) / period
        colors = {"stripes": _stripes, "checks": _checks, "weave": _weave}[texture](u, v, tint)
        colors = colors[0::2, 0::2] + colors[0::2, 1::2] + colors[1::2, 0::2] + colors[1::2, 1::2]
        return colors * (light[..., None] / 4)

    return cloth


def _band(u, center, width):
    """1 inside a band of this width around `center` in every period of u, 0 outside, with a soft edge."""
    distance = np.abs((u - center + 0.5) % 1 - 0.5)
    return np.clip((width / 2 - distance) * 16 + 0.5, 0, 1)[..., None]


def _twill(u, v):
    """The fine diagonal ribs of the thread, around 1."""
    return (1 + 0.045 * np.sin(2 * np.pi * 4 * (u + v)))[..., None]


def _stripes(u, v, tint):
    ground, wide, thin = tint
    colors = ground + _band(u, 0.5, 0.42) * (wide - ground)
    return (colors + _band(u, 0.0, 0.13) * (thin - colors)) * _twill(u, v)


def _checks(u, v, tint):
    ground, wide, thin = tint
    # The color is full where bands of both directions cross, and half where only one of them runs.
    colors = ground + (_band(u, 0.5, 0.5) + _band(v, 0.5, 0.5)) / 2 * (wide - ground)
    return (colors + np.maximum(_band(u, 0, 0.08), _band(v, 0, 0.08)) * 0.7 * (thin - colors)) * _twill(u, v)


def _weave(u, v, tint):
    """Strands of both directions, one per period, which take turns on top, like the fields of a chess board."""
    warp, weft, gap = tint
    over = (np.floor(u) + np.floor(v)) % 2 == 0
    across, along = np.where(over, u, v) % 1 - 0.5, np.where(over, v, u) % 1 - 0.5
    # A strand is round, and bends down at its ends.
    rounded = np.sqrt(np.clip(1 - (across / 0.47) ** 2, 0, 1)) * (1 - 1.1 * along**2)
    fibers = 1 + 0.06 * np.sin(2 * np.pi * 3 * across + 4 * along)
    strand = np.where(over[..., None], warp, weft) * fibers[..., None]
    return gap + rounded[..., None] * (strand - gap)


def _damage(defect, cloth, clean, rng):
    """The colors (64, 64, 3) of the damaged cloth, and the mask of the pixels that use them."""
    center = rng.uniform(14, SIZE - 14, 2)
    x, y = _X - center[0], _Y - center[1]
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    outline = 1 + sum(rng.uniform(-0.5, 0.5) / k * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4))
    if defect == "scratch":
        turn = rng.uniform(0, np.pi)
        along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
        across = across + rng.uniform(-0.012, 0.012) * along**2
        mask = (np.abs(across) < rng.uniform(0.7, 1.3)) & (np.abs(along) < rng.uniform(8, 18))
        shade = rng.choice([0.12, 0.97])
        return clean * 0.25 + 0.75 * shade, mask
    if defect == "stain":
        mask = radius < rng.uniform(5, 9) * outline
        depth = np.clip(1.15 - radius / 14, 0.45, 1)[..., None]
        return clean * (1 - depth * (1 - np.array([0.62, 0.50, 0.36]))), mask
    if defect == "hole":
        edge = radius / (rng.uniform(3, 5.5) * outline)
        inside = np.clip((1 - edge) * 4, 0, 1)[..., None]
        frayed = clean * 0.6 + 0.32
        return frayed + inside * (np.array([0.07, 0.06, 0.06]) - frayed), edge < 1.25
    if defect == "distortion":
        reach, twist = rng.uniform(9, 14), float(rng.choice([-1, 1])) * rng.uniform(1.1, 1.8)
        x, y = _FINE_X - center[0], _FINE_Y - center[1]
        turn = twist * np.clip(1 - np.hypot(x, y) / reach, 0, 1)
        cos, sin = np.cos(turn), np.sin(turn)
        return cloth(center[0] + x * cos - y * sin, center[1] + x * sin + y * cos), radius < reach * 0.9
    mask = radius < rng.uniform(5, 10) * outline  # "color": dyed wrongly, the pattern is intact
    return clean[..., np.roll(np.arange(3), rng.choice([1, 2]))], mask
