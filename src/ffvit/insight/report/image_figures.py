"""What a network sees in an image, and how faithful attributions are, as figures."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from ffvit.data.jpeg import Pixels
from ffvit.insight.image.attribution import Attribution
from ffvit.insight.image.faithfulness import RANDOM, Faithfulness
from ffvit.insight.image.image_findings import ImageFindings
from ffvit.insight.image.removal import Removal
from ffvit.plot_style import ARMS, INK, MUTED, WIDE

DPI = 144

FOR_AND_AGAINST = "RdBu_r"
"""Red speaks for the class, blue against it; white says nothing."""

OF_NO_CLASS = "Purples"
"""Attention rollout says which patches are read, for whatever class."""

FADED = 0.55
"""Share of white in the grey image below an attribution."""

COLUMNS = 5


def attributions_figure(findings: ImageFindings, width: float = WIDE, columns: int = COLUMNS) -> Figure:
    """The image, and each attribution over it, side by side.

    Args:
        findings: What was found.
        width: Of the figure in inches.
        columns: Panels side by side at most.
    """
    panels = len(findings.attributions) + 1
    columns = min(columns, panels)
    rows = -(-panels // columns)
    height, wide = findings.pixels.shape[:2]
    figure = Figure(figsize=(width, rows * (width / columns * height / wide + 0.25) + 0.45), dpi=DPI)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    _show_image(grid.flat[0], findings.pixels)
    grid.flat[0].set_title(_short(f"{findings.class_names[findings.predicted]} {_percent(findings)}"))
    for axes, attribution in zip(grid.flat[1:], findings.attributions, strict=False):
        _show_attribution(axes, findings.pixels, attribution)
    bar = figure.colorbar(
        ScalarMappable(Normalize(-1, 1), FOR_AND_AGAINST),
        ax=list(grid.flat),
        location="bottom",
        shrink=0.5 if width == WIDE else 0.8,
        aspect=45,
        pad=0.03,
    )
    bar.outline.set_visible(False)
    name = _short(findings.class_names[findings.class_index])
    bar.set_ticks([-1, 0, 1], labels=[f"against {name}", "says nothing", f"for {name}"])
    return figure


def removal_figure(findings: ImageFindings, width: float = WIDE) -> Figure:
    """The image, it without the patches whose removal changes the prediction, and the probability as they go.

    Where the figure is narrow, the curve is below the images.
    """
    height, wide = findings.pixels.shape[:2]
    whole: Axes
    without: Axes
    curve: Axes
    if width == WIDE:
        figure = Figure(figsize=(width, 0.3 * width * height / wide + 0.45), dpi=DPI)
        whole, without, curve = figure.subplots(1, 3, width_ratios=(1, 1, 1.4))
    else:
        figure = Figure(figsize=(width, 0.5 * width * height / wide + 2.1), dpi=DPI)
        panels = figure.subplot_mosaic([["whole", "without"], ["curve", "curve"]], height_ratios=(1.1, 1))
        whole, without, curve = (panels[name] for name in ("whole", "without", "curve"))
    for axes in (whole, without):
        axes.set_axis_off()
    _show_image(whole, findings.pixels)
    whole.set_title(_short(f"{findings.class_names[findings.predicted]} {_percent(findings)}"))
    _show_removed(without, findings)
    _draw_removal(curve, findings.removal, _short(findings.class_names[findings.predicted]))
    return figure


def faithfulness_figure(results: Sequence[Faithfulness], width: float = WIDE) -> Figure:
    """Deletion and insertion curves, a line for each method, random orders in grey; one below the other where it is narrow."""
    rows, columns = (1, 2) if width == WIDE else (2, 1)
    figure = Figure(figsize=(width, 2.3 * rows + 0.4))
    deletion, insertion = figure.subplots(rows, columns, sharey=True)
    for number, result in enumerate(results):
        random = result.method == RANDOM
        style = {"color": MUTED, "ls": "--"} if random else {"color": ARMS[number % len(ARMS)]}
        for axes, values in ((deletion, result.deletion_curve), (insertion, result.insertion_curve)):
            axes.plot(100 * result.shares, 100 * values, lw=1.4, label=result.method, **style)
    deletion.set_title("deletion: lower is better")
    insertion.set_title("insertion: higher is better")
    deletion.set_xlabel("patches covered, most important first")
    insertion.set_xlabel("patches shown, most important first")
    deletion.set_ylabel("probability")
    for axes in (deletion, insertion):
        axes.set_ylim(bottom=0)
        axes.grid(color=MUTED, alpha=0.18, lw=0.5)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PercentFormatter(decimals=0))
    figure.legend(
        *deletion.get_legend_handles_labels(), loc="outside upper left", ncols=len(results) if width == WIDE else 2
    )
    return figure


def _show_image(axes: Axes, pixels: Pixels) -> None:
    axes.imshow(pixels if pixels.shape[2] == 3 else pixels[:, :, 0], cmap="gray", vmin=0, vmax=255)


def _show_attribution(axes: Axes, pixels: Pixels, attribution: Attribution) -> None:
    """The attribution's colours over the faded image. The strongest hundredth of pixels has the full colour."""
    grey = pixels.mean(axis=2, keepdims=True) / 255
    faded = FADED + (1 - FADED) * grey
    strongest = float(np.quantile(np.abs(attribution.pixels), 0.99)) or float(np.abs(attribution.pixels).max()) or 1.0
    scaled = np.clip(attribution.pixels / strongest, -1, 1)
    of_class = attribution.method != "attention rollout"
    colours = mpl.colormaps[FOR_AND_AGAINST]((scaled + 1) / 2) if of_class else mpl.colormaps[OF_NO_CLASS](scaled)
    opacity = np.abs(scaled)[:, :, None] ** 0.7
    axes.imshow((1 - opacity) * faded + opacity * colours[:, :, :3], interpolation="nearest")
    axes.set_title(attribution.method if of_class else "rollout (any class)")


def _show_removed(axes: Axes, findings: ImageFindings) -> None:
    """The image with the removed patches hatched, and what is predicted then."""
    removal = findings.removal
    _show_image(axes, findings.pixels)
    rows, columns = findings.grid
    height, width = findings.pixels.shape[:2]
    for row, column in removal.patches:
        left, top = column * width / columns - 0.5, row * height / rows - 0.5
        axes.add_patch(
            Rectangle((left, top), width / columns, height / rows, fc="white", ec=ARMS[1], hatch="////", lw=0.6)
        )
    if removal.becomes is None:
        axes.set_title("never changes")
    else:
        axes.set_title(_short(f"becomes {findings.class_names[removal.becomes]}"))


def _draw_removal(axes: Axes, removal: Removal, name: str) -> None:
    """The probability of the first prediction as patches go, and where random orders change the prediction."""
    counts = np.arange(len(removal.probabilities))
    axes.plot(counts, 100 * removal.probabilities, color=ARMS[1], marker="o", ms=2.5, lw=1.3)
    axes.set_xlim(0, removal.total)
    axes.set_ylim(0, 100)
    if removal.random_mean is not None:
        _mark_random(axes, removal.random_mean, removal.total)
    axes.set_title(f"probability of {name}")
    axes.set_xlabel(f"patches removed, of {removal.total}")
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))


def _mark_random(axes: Axes, mean: float, total: int) -> None:
    axes.axvline(mean, color=MUTED, ls="--", lw=1)
    right = mean > total / 2
    axes.annotate(
        f"random order:\n{mean:.3g} patches",
        (mean, 97),
        xytext=(-4 if right else 4, 0),
        textcoords="offset points",
        ha="right" if right else "left",
        va="top",
        fontsize=8,
        color=INK,
    )


def _percent(findings: ImageFindings) -> str:
    return f"{100 * findings.probabilities[findings.predicted]:.0f} %"


def _short(name: str, most: int = 24) -> str:
    """A class's name, which may be long, as a title."""
    return name if len(name) <= most else name[: most - 1] + "…"
