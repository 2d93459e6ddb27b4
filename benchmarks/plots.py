"""How the benchmarks' plots are drawn: in the style of a study's report, with lines that are named at their ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter

from ffvit import UserError
from ffvit.pages.drawing import lay_out
from ffvit.plot_style import STYLE

SIZE = 8.2, 3.5
"""Inches: at 180 dots each that is a little over what a page shows, and letters are read without enlarging."""


@contextmanager
def picture(path: Path) -> Iterator[Figure]:
    """A figure to draw on, written as a PNG on white."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, dpi=180, facecolor="white")
        yield figure
        lay_out(figure)
        FigureCanvasAgg(figure).print_png(str(path), metadata={"Software": None})


def logarithmic(axes: Axes, values: list[int]) -> None:
    """Logarithmic axes, the one across with these counts and no others."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(values))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.12g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#7b828c", lw=0.4, alpha=0.25)


def name_ends(axes: Axes, ends: list[tuple[str, float, str]], apart: float = 0.062) -> None:
    """Write names right of the axes, each at the height where its line ends or as near as letters allow.

    Args:
        axes: Logarithmic upwards, with its limits set.
        ends: Name, value at the end and colour of each line.
        apart: The least distance of two names, as a share of the axes' height.
    """
    to_axes = axes.transData + axes.transAxes.inverted()
    right = axes.get_xlim()[1]
    heights = [(float(to_axes.transform((right, value))[1]), name, colour) for name, value, colour in ends]
    heights.sort(key=lambda end: end[0])
    groups: list[list[tuple[float, str, str]]] = []
    for end in heights:  # names that would touch stand together around their middle
        groups.append([end])
        while len(groups) > 1 and _low(groups[-1], apart) < _high(groups[-2], apart) + apart:
            last = groups.pop()
            groups[-1] += last
    for group in groups:
        for place, (height, name, colour) in enumerate(group):
            at = _low(group, apart) + place * apart
            axes.annotate(
                name, (1, height), (1.05, at), "axes fraction", "axes fraction", va="center", fontsize=8.5, color=colour,
                arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)},
                annotation_clip=False,
            )  # fmt: skip


def _low(group: list[tuple[float, str, str]], apart: float) -> float:
    return sum(height for height, _, _ in group) / len(group) - apart * (len(group) - 1) / 2


def _high(group: list[tuple[float, str, str]], apart: float) -> float:
    return _low(group, apart) + apart * (len(group) - 1)
