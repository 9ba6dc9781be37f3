"""Every picture that more than one notebook draws. Each function draws on new axes and returns the figure."""

import io
import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from adlib import metrics


NORMAL, ANOMALOUS = "#2b6cb0", "#dd6b20"  # distinct also for readers who do not see red and green
plt.rcParams.update({"figure.dpi": 80, "font.size": 9, "axes.titlesize": 9, "image.cmap": "gray"})
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})


def _array(values):
    return values.detach().float().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _picture(pictures):
    """Pictures with channels brought to [0, 1]: bytes by 255, floats from [-1, 1]; maps (N, H, W) stay as they are."""
    values = _array(pictures)
    if values.ndim == 3:
        return values
    is_bytes = "uint8" in str(pictures.dtype)
    return (values / 255 if is_bytes else (values + 1) / 2).clip(0, 1)


def overlay(
    pictures: ArrayLike, maps: ArrayLike, strength: float = 0.55, limits: tuple[float, float] | None = None
) -> np.ndarray:
    """Maps (N, H, W) as color over pictures (N, C, H, W) of the same size: float (N, 3, H, W) in [-1, 1].

    All maps share one color scale, from the smallest value (no color) to the largest (a share `strength` of color);
    limits: these two values, if other maps set them.
    """
    values = _array(maps)
    low, high = limits or (values.min(), values.max())
    values = ((values - low) / max(high - low, 1e-12)).clip(0, 1)
    color = plt.get_cmap("inferno")(values)[..., :3].transpose(0, 3, 1, 2)
    share = strength * values[:, None]
    return 2 * ((1 - share) * _picture(pictures) + share * color) - 1


def image_rows(
    rows: dict[str, ArrayLike],
    titles: Sequence[str] | None = None,
    colors: Sequence[str] | None = None,
    inches: float = 0.62,
) -> Figure:
    """One row of pictures, each `inches` wide, for each entry of `rows`, with its name at the left.

    rows: name -> (N, C, H, W) or (N, H, W), N columns that belong together. Pictures with channels are shown as they
    are ([-1, 1] floats or uint8); those without are maps, in color, with one scale per row, shown at its right. titles:
    N texts above the first row, in `colors` if given.
    """
    rows = {name: _picture(pictures) for name, pictures in rows.items()}
    n = len(next(iter(rows.values())))
    size = (inches * n + 1.4, (inches + 0.03) * len(rows) + 0.2)
    figure, axes = plt.subplots(len(rows), n, figsize=size, squeeze=False)
    edges = {"left": 0.7 / size[0], "right": 1 - 0.7 / size[0], "bottom": 0, "top": 1 - 0.2 / size[1]}
    figure.subplots_adjust(**edges, wspace=0.06, hspace=0.06)
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        is_map = pictures.ndim == 3
        low, high = (pictures.min(), pictures.max()) if is_map else (0, 1)
        for axis, picture in zip(line, pictures, strict=True):
            if is_map:
                drawn = axis.imshow(picture, cmap="magma", vmin=low, vmax=high)
            else:
                axis.imshow(picture.transpose(1, 2, 0).squeeze(), vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        if is_map:
            beside = line[-1].inset_axes([1.1, 0.05, 0.12, 0.9])  # takes no room from the columns
            figure.colorbar(drawn, cax=beside).ax.tick_params(labelsize=7)
    for index, title in enumerate(titles or []):
        room = max(6, int(14 * inches))  # characters in the width of a picture; a longer word is written smaller
        title = textwrap.fill(title, room, break_long_words=False)
        size = 8 * min(1, room / max(map(len, title.split()), default=1))
        axes[0, index].set_title(title, fontsize=size, **({"color": colors[index]} if colors else {}))
    return figure


def compact(figure: Figure) -> object:
    """The figure, closed, as an IPython Image: a PNG of some 250 colors, because photographs make notebooks large."""
    from IPython.display import Image
    from PIL import Image as pillow

    drawn, png = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, bbox_inches="tight")
    plt.close(figure)
    picture = pillow.open(drawn).convert("RGB")
    palette = picture.quantize(240, dither=pillow.Dither.NONE).getpalette()[: 3 * 240]
    for color in (NORMAL, ANOMALOUS):  # of the titles: too few pixels have them, so they would be lost
        for share in (1, 0.75, 0.5, 0.25):
            palette += [round(255 * (1 - share * (1 - value))) for value in to_rgb(color)]
    holder = pillow.new("P", (1, 1))
    holder.putpalette(palette)
    picture.quantize(palette=holder, dither=pillow.Dither.NONE).save(png, "png", optimize=True)
    return Image(data=png.getvalue())


def curves(panels: dict[str, dict[str, ArrayLike]], xlabel: str = "epoch") -> Figure:
    """Panels side by side: title -> {label: values}, one value for each epoch, counted from 1."""
    beside = len(panels) == 1 and len(next(iter(panels.values()))) > 3  # no room inside for such a legend
    size = (3.2 * len(panels) + 1.8 * beside, 2.4)
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
        for number, (label, values) in enumerate(lines.items()):  # dashed, so that a line below another is visible
            style = {"marker": "o", "markersize": 2.5, "linestyle": ("-", "--", "-.", ":")[number % 4]}
            axis.plot(np.arange(1, len(values) + 1), _array(values), label=label, **style)
        axis.set(title=title, xlabel=xlabel)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        if beside:
            axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        elif len(lines) > 1:
            axis.legend()
    return figure


def score_histograms(scores: dict[str, ArrayLike], is_anomalous: ArrayLike) -> Figure:
    """One panel for each method: the densities of the scores of normal and of anomalous images, AUROC above it."""
    is_anomalous = _array(is_anomalous).astype(bool)
    figure, axes = plt.subplots(1, len(scores), figsize=(2.2 * len(scores), 2.4), squeeze=False, layout="constrained")
    for axis, (method, values) in zip(axes[0], scores.items(), strict=True):
        values = _array(values)
        bins = np.linspace(*np.quantile(values, [0.001, 0.999]), 41)
        for part, color, label in [(~is_anomalous, NORMAL, "normal"), (is_anomalous, ANOMALOUS, "anomalous")]:
            axis.hist(values[part].clip(bins[0], bins[-1]), bins, density=True, alpha=0.6, color=color, label=label)
        axis.set(title=f"{method}\nAUROC {metrics.auroc(values, is_anomalous):.3f}", xlabel="score", yticks=[])
        axis.spines["left"].set_visible(False)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def roc_curves(scores: dict[str, ArrayLike], is_anomalous: ArrayLike) -> Figure:
    """The ROC curve of each method: method -> (N,) scores."""
    figure, axis = plt.subplots(figsize=(3.6, 3.4), layout="constrained")
    for method, values in scores.items():
        fpr, tpr = metrics.roc_curve(values, is_anomalous)
        axis.plot(fpr, tpr, label=f"{method} ({metrics.auroc(values, is_anomalous):.3f})")
    axis.plot([0, 1], [0, 1], color="0.7", linestyle=":", linewidth=1)
    axis.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal", xlim=(0, 1), ylim=(0, 1.01))
    axis.legend(loc="lower right", fontsize=8)
    return figure


def class_dots(title: str, metric: str, class_names: list[str], series: list[dict]) -> plt.Figure:
    """A line per class with a dot for each method; a dashed line is a printed mean, the solid line is chance.

    Takes a figure of `tables.figures`: series is a list of {"label", "color" (a number from 0), "classes" {class: value
    in [0, 1]}, "published" (float, or None if nothing is printed)}. A class that a method did not run has no dot.
    """
    palette = [color for name in ("tab10", "Set2", "Dark2", "Paired") for color in plt.get_cmap(name).colors]
    columns, places = min(len(series), 3), range(len(class_names))
    height = 1.1 + 0.2 * len(class_names) + 0.17 * -(-len(series) // columns)
    figure, axis = plt.subplots(figsize=(8, height), layout="constrained")
    for index, one in enumerate(series):
        style = {"color": palette[one["color"] % len(palette)], "marker": "osD^v"[index % 5], "linestyle": ""}
        style |= {"markersize": 7 if index == 0 else 4, "zorder": 3 - 0.01 * index}  # the paper's own, on top
        printed = "" if one["published"] is None else f" (printed {one['published']:.3f})"
        values = [one["classes"].get(name, np.nan) for name in class_names]
        axis.plot(values, places, label=one["label"] + printed, **style)
        if one["published"] is not None:
            axis.axvline(one["published"], color=style["color"], linestyle="--", linewidth=1)
    if metric != "aupro":
        axis.axvline(0.5, color="0.3", linewidth=0.8)
    name = metric.replace("_", " ").replace("auroc", "AUROC").replace("aupro", "AUPRO")
    axis.set(title=title, ylim=(len(class_names) - 0.4, -0.6), xlabel=name)
    axis.set_yticks(places, class_names)
    axis.grid(axis="y", color="0.9")
    figure.legend(loc="outside lower center", ncols=columns, fontsize=8)
    return figure
