"""Accuracy under corruptions as a picture: a panel for each corruption, a line for each network."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ffvit.files.atomic_write import atomic_path
from ffvit.inference.corruptions import CLEAN
from ffvit.inference.robustness import Robustness
from ffvit.inference.robustness_report import title
from ffvit.plot_style import ARMS, MUTED, STYLE, WIDE

MARKERS = "os^Dv"

COLUMNS = 5


def write(networks: Mapping[str, Robustness], path: Path) -> None:
    """Write the picture, a PNG.

    Args:
        networks: By their names, all under the same conditions.
        path: The file.
    """
    with mpl.rc_context(STYLE):
        picture = io.BytesIO()
        FigureCanvasAgg(_draw(networks)).print_png(picture, metadata={"Software": "ffvit"})
    with atomic_path(path) as temporary:
        temporary.write_bytes(picture.getvalue())


def _draw(networks: Mapping[str, Robustness]) -> Figure:
    first = next(iter(networks.values()))
    panels: list[tuple[str, tuple[str, ...]]] = [(title(name), (name,)) for name in first.corruptions]
    if len(first.averaged) > 1:
        panels.insert(len(first.averaged), (f"mean of {len(first.averaged)}", first.averaged))
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(WIDE * columns / COLUMNS, WIDE / 2), 0.75 + 1.45 * rows), dpi=180, facecolor="white")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for place, (heading, corruptions) in enumerate(panels):
        _draw_panel(grid.flat[place], heading, corruptions, networks)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for place in range(len(panels) - columns, len(panels)):
        grid.flat[place].tick_params(labelbottom=True)
    lines = [
        Line2D([], [], color=ARMS[number], marker=MARKERS[number % len(MARKERS)], ms=4, lw=1.3, label=name)
        for number, name in enumerate(networks)
    ]
    figure.legend(handles=lines, loc="outside upper left", ncols=len(lines))
    figure.supxlabel("severity (0: images as they are)", fontsize=9)
    figure.supylabel("top-1 accuracy, %", fontsize=9)
    return figure


def _draw_panel(axes: Axes, heading: str, corruptions: Sequence[str], networks: Mapping[str, Robustness]) -> None:
    for number, robustness in enumerate(networks.values()):
        levels = [0, *robustness.severities]
        shares = [robustness.top1([CLEAN.corruption])]
        shares += [robustness.top1(corruptions, level) for level in robustness.severities]
        low, value, high = 100 * np.array([(share.low, share.value, share.high) for share in shares]).T
        axes.fill_between(levels, low, high, color=ARMS[number], alpha=0.15, lw=0)
        axes.plot(levels, value, color=ARMS[number], marker=MARKERS[number % len(MARKERS)], ms=3, lw=1.3)
    axes.set_title(heading, fontsize=8.5, pad=4)
    axes.set_xticks([0, *range(1, 6)])
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 50, 100])
    axes.grid(color=MUTED, alpha=0.18, lw=0.5)
