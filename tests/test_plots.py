"""Pictures: what is drawn over an image, and that a compact figure is the figure."""

import io

import matplotlib
import numpy as np
import torch
from PIL import Image

from adlib import plots


matplotlib.use("Agg")


def test_an_overlay_leaves_the_image_where_the_map_is_lowest_and_colors_it_where_it_is_highest():
    pictures = torch.full((1, 1, 2, 2), 128, dtype=torch.uint8)  # grey
    maps = torch.tensor([[[0.2, 0.2], [0.2, 0.9]]])
    drawn = plots.overlay(pictures, maps)
    assert drawn.shape == (1, 3, 2, 2) and -1 <= drawn.min() and drawn.max() <= 1
    np.testing.assert_allclose(drawn[0, :, 0, 0], 2 * 128 / 255 - 1, atol=1e-6)
    red, _, blue = drawn[0, :, 1, 1]
    assert red > blue + 0.3
    flat = plots.overlay(pictures, maps * 0 + 1)  # nothing to show
    np.testing.assert_allclose(flat, 2 * 128 / 255 - 1, atol=1e-6)


def test_a_compact_figure_is_a_small_png_that_looks_like_the_figure():
    photographs = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    figure = plots.image_rows({"noise": photographs, "map": photographs[:, 0]}, titles=["a", "b", "c"], inches=1.0)
    whole = io.BytesIO()
    figure.savefig(whole, bbox_inches="tight")
    png = plots.compact(figure).data
    assert png.startswith(b"\x89PNG") and len(png) < 0.6 * len(whole.getvalue())
    one, other = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float) for data in (png, whole.getvalue()))
    assert one.shape == other.shape and np.abs(one - other).mean() < 8
    assert not plots.plt.fignum_exists(figure.number)


def test_each_class_has_a_line_of_dots_and_a_printed_mean_is_dashed():
    series = [
        {"label": "m, quick", "color": 0, "classes": {"a": 0.9, "c": 0.4}, "published": 0.95},
        {"label": "n, quick", "color": 1, "classes": {"b": 0.7}, "published": None},
    ]
    figure = plots.class_dots("title", "auroc", ["a", "b", "c"], series)
    (axis,) = figure.axes
    dots, printed, others, chance = axis.lines
    np.testing.assert_array_equal(dots.get_xdata(), [0.9, np.nan, 0.4])
    np.testing.assert_array_equal(others.get_xdata(), [np.nan, 0.7, np.nan])
    assert (printed.get_xdata()[0], printed.get_linestyle(), chance.get_xdata()[0]) == (0.95, "--", 0.5)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b", "c"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["m, quick (printed 0.950)", "n, quick"]
    plots.plt.close(figure)
