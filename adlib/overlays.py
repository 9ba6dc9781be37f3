"""A picture of a judged image: its anomaly map in color, an outline at the pixel threshold, score and verdict.

overlays.write(detector, "photo.jpg", anomaly_map, score, "pictures/photo.overlay.png")
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from adlib import detectors, pictures, plots


HEAD, BAR, WIDEST = 24, 74, 300  # px: the line above the picture, the color bar at its right, what the line needs
SMALLEST = 256  # px of the longer side, to which small images are enlarged
CONTOUR, GREY = (0, 229, 255), (70, 70, 70)


def write(
    detector: nn.Module, path: str | Path, anomaly_map: Tensor, score: float, target: str | Path, longest: int = 640
) -> None:
    """Draw the image file `path` with `draw`, at most `longest` px long, and write it as a PNG."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    draw(detector, pictures.read(path, None, detector.about.get("white")), anomaly_map, score, longest).save(target)


def name(number: int, path: Path) -> str:
    """The file name for an image's overlay: numbered, because two folders may hold files of one name."""
    stem = pictures.shown(path.stem).encode()[:100].decode(errors="ignore")
    return f"{number:05d}-{stem}{pictures.OVERLAY}"


def draw(detector: nn.Module, image: Tensor, anomaly_map: Tensor, score: float, longest: int = 640) -> Image.Image:
    """An image, uint8 (1 or 3, H, W), with its anomaly map (h, w) in color, score, verdict and one color bar.

    The colors have the range that `calibrate` found in normal images, if it was called, else that of this map; the
    outline shows where the map exceeds the pixel threshold.
    """
    about = detector.about
    scale = min(longest, max(SMALLEST, *image.shape[1:])) / max(image.shape[1:])
    height, width = (max(1, round(scale * side)) for side in image.shape[1:])
    resized = torch.nn.functional.interpolate(
        image[None].float(), size=(height, width), mode="bilinear", antialias=True
    )
    values = detectors.resize_map(anomaly_map, (height, width))
    low, high = about.get("map_range") or (float(values.min()), float(values.max()))
    drawn = plots.overlay(resized.round().to(torch.uint8), values[None], limits=(low, high))[0]
    array = ((drawn.transpose(1, 2, 0) + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    array = np.array(np.broadcast_to(array, (height, width, 3)))
    limit = about.get("pixel_threshold")
    if limit is not None:
        inside = torch.nn.functional.pad((values > limit).float()[None, None], [1] * 4)  # the image's edge closes it
        eroded = -torch.nn.functional.max_pool2d(-inside, 3, 1)
        array[((inside[0, 0, 1:-1, 1:-1] == 1) & (eroded[0, 0] == 0)).numpy()] = CONTOUR
    page = Image.new("RGB", (max(width + BAR, WIDEST), HEAD + max(height, 60)), "white")
    page.paste(Image.fromarray(array), (0, HEAD))
    pen, font, small = ImageDraw.Draw(page), ImageFont.load_default(14), ImageFont.load_default(11)
    verdict, color = detectors.is_anomalous(detector, score), GREY
    text = f"score {score:.4g}"
    if verdict is not None:
        text += f", threshold {about['threshold']:.4g}: {'ANOMALOUS' if verdict else 'normal'}"
        color = plots.ANOMALOUS if verdict else plots.NORMAL
    pen.text((4, 3), text, fill=color, font=font)
    top, length = HEAD + 8, max(height, 60) - 16
    ramp = np.linspace(1, 0, length).repeat(10).reshape(1, -1, 10)
    shades = plots.overlay(np.full((1, *ramp.shape), 127, np.uint8), ramp)
    page.paste(Image.fromarray(((shades[0].transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)), (width + 8, top))
    marks = {} if limit is None or not low <= limit <= high else {limit: CONTOUR}
    near = 12 / length * (high - low)  # if two numbers would overlap, the threshold's stays
    marks |= {end: GREY for end in (high, low) if all(abs(end - value) > near for value in [*marks])}
    for value, shade in marks.items():
        y = top + round((length - 1) * (1 - (value - low) / max(high - low, 1e-12)))
        pen.line((width + 8, y, width + 21, y), fill=shade, width=2)
        pen.text((width + 24, min(max(y - 6, HEAD), HEAD + length)), f"{value:.3g}", fill=GREY, font=small)
    return page
