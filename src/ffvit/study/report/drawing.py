"""How figures look: one style an arm, rows, intervals, legends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ffvit.pages.drawing import short
from ffvit.plot_style import ARMS, MUTED, WIDE
from ffvit.study import formatting
from ffvit.study.findings import ArmFinding
from ffvit.study.statistics import Interval

MARKERS = ("o", "s", "^", "D", "v", "P")
CONTROL_MARKERS = ("+", "x", "1", "2")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.6)), (0, (1.4, 1.2)), (0, (6, 1.4, 1.4, 1.4)))


@dataclass(frozen=True)
class ArmStyle:
    """How an arm is drawn, in every figure."""

    colour: str
    marker: str
    dashes: Any


def arm_styles(arms: Iterable[ArmFinding]) -> dict[str, ArmStyle]:
    """A style an arm: controls grey, the others in colours; beyond six, colours come again with other shapes."""
    styles, others, controls = {}, 0, 0
    for arm in arms:
        if arm.role == "control":
            mark = CONTROL_MARKERS[controls % len(CONTROL_MARKERS)]
            styles[arm.name] = ArmStyle(MUTED, mark, DASHES[(controls + 1) % len(DASHES)])
            controls += 1
        else:
            turn, place = divmod(others, len(ARMS))
            styles[arm.name] = ArmStyle(ARMS[place], MARKERS[(place + turn) % len(MARKERS)], DASHES[turn % len(DASHES)])
            others += 1
    return styles


def rows(names: Sequence[str], values: Sequence[str], width: float) -> tuple[Figure, Axes]:
    """Axes with rows: a name at the left of each and its value at the right; on a phone the name is above."""
    wide, count = width == WIDE, len(names)
    figure = Figure(figsize=(width, 0.62 + (0.36 if wide else 0.5) * count))
    axes = figure.add_subplot()
    axes.set_ylim(count - 0.5, -0.5 if wide else -0.85)
    axes.set_yticks(range(count), [""] * count)
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        style: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "center"}
        if wide:
            axes.annotate(short(name, 38), (0, place), (-8, 0), ha="right", **style)
            axes.annotate(formatting.minus(value), (1, place), (10, 0), **style)
        else:
            axes.annotate(short(name, 44), (0, place - 0.42), (0, 0), **style)
    return figure, axes


def bar(axes: Axes, interval: Interval, place: float, upright: bool = False, **style: Any) -> None:
    """An interval in percent, with an arrowhead where the axis cuts it."""
    low, high = axes.get_ylim() if upright else axes.get_xlim()
    ends = max(100 * interval.low, low), min(100 * interval.high, high)
    axes.plot(*_turned(ends, (place, place), upright), solid_capstyle="butt", **style)
    heads = "v^" if upright else "<>"
    for head, end, cut in (
        (heads[0], low, 100 * interval.low < low - 1e-9),
        (heads[1], high, 100 * interval.high > high + 1e-9),
    ):
        if cut:
            axes.plot(*_turned((end,), (place,), upright), head, color=style["color"], ms=5, mew=0, clip_on=False)


def _turned(along: Sequence[float], across: Sequence[float], upright: bool) -> tuple[Sequence[float], Sequence[float]]:
    return (across, along) if upright else (along, across)


def _legend_columns(width: float) -> int:
    return 3 if width == WIDE else 1


def legend_height(arms: Sequence[ArmFinding], width: float) -> float:
    """Inches that a legend of these arms takes."""
    return 0.2 * -(-len(arms) // _legend_columns(width))


def legend(figure: Figure, arms: Sequence[ArmFinding], styles: dict[str, ArmStyle], width: float, lines: bool) -> None:
    """Name every arm below the panels, by its line or its mark."""
    handles = []
    for arm in arms:
        style = styles[arm.name]
        line = {"ls": style.dashes, "lw": 1.8} if lines else {"ls": "", "marker": style.marker, "ms": 6, "mew": 1.4}
        handles.append(Line2D([], [], color=style.colour, label=short(arm.name, 30), **line))
    figure.legend(handles=handles, loc="outside lower left", ncols=_legend_columns(width))
