"""The figures of differences: the main one, all of them, and pair by pair."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ffvit.plot_style import INK, MUTED, PAPER, SOFT, WIDE
from ffvit.study import formatting
from ffvit.study.findings import Comparison
from ffvit.study.report.drawing import ArmStyle, bar, rows, short
from ffvit.study.statistics import Difference


def verdict_figure(each: Comparison, width: float) -> Figure:
    """One interval, large, over the margin's band and the line of no difference, with words at both ends."""
    its, length = each.difference, 34 if width == WIDE else 15
    figure = Figure(figsize=(width, 1.5))
    axes = figure.add_subplot()
    _ground(axes, each.margin, [its])
    _interval(axes, 0, each, 2.2, 8.0)
    value = formatting.minus(f"{formatting.points(its.value)} ({formatting.bounds(its)})")
    axes.annotate(value, (100 * its.value, 0), (0, 9), textcoords="offset points", ha="center", weight="bold")
    axes.lines[0].set_ydata([0, 0.42])  # the line of no difference ends below the letters
    if each.margin:
        text = f"equivalent: within {formatting.margin(each.margin)}"
        axes.text(0, 1.04, text, transform=axes.get_xaxis_transform(), ha="center", color=SOFT, fontsize=8.5)
    axes.set_ylim(0.5, -1.05)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    for place, side, text in (
        (0, "left", f"← {short(each.reference, length)} better"),
        (1, "right", f"{short(each.arm, length)} better →"),
    ):
        axes.annotate(text, (place, 0), (0, -19), "axes fraction", "offset points", ha=side, va="top", color=SOFT)
    axes.set_xlabel("Difference in top-1, points", labelpad=16)
    return figure


def difference_rows(comparisons: Sequence[Comparison], width: float) -> Figure:
    """A row a comparison: interval, and in letters the same."""
    figure, axes = _comparison_rows(comparisons, width)
    _ground(axes, max(each.margin for each in comparisons), [each.difference for each in comparisons])
    for place, each in enumerate(comparisons):
        _interval(axes, place, each, 1.6, 6.0)
    return figure


def run_rows(comparisons: Sequence[Comparison], of_arm: dict[str, ArmStyle], width: float) -> Figure:
    """A row a comparison: a dot a pair of runs, the mean and its interval."""
    figure, axes = _comparison_rows(comparisons, width)
    _ground(
        axes,
        0.0,
        [each.difference for each in comparisons],
        [value for each in comparisons for _, value in each.per_run],
    )
    for place, each in enumerate(comparisons):
        values = 100 * np.array([value for _, value in each.per_run])
        beside = place + np.linspace(-0.17, 0.17, len(values)) if len(values) > 1 else np.array([float(place)])
        bar(axes, each.difference, float(place), color=MUTED, lw=1, zorder=1)
        axes.plot([100 * each.difference.value] * 2, [place - 0.25, place + 0.25], color=INK, lw=1.6)
        axes.plot(values, beside, "o", ms=5, color=of_arm[each.arm].colour, mec=PAPER, mew=0.6, zorder=3)
    return figure


def _comparison_rows(comparisons: Sequence[Comparison], width: float) -> tuple[Figure, Axes]:
    """Axes with a row a comparison; what all are compared with is named below."""
    reference = {each.reference for each in comparisons}
    common = reference.pop() if len(reference) == 1 else None
    names = [each.arm if common else f"{each.arm} less {each.reference}" for each in comparisons]
    values = [
        f"{formatting.points(each.difference.value)} ({formatting.bounds(each.difference)})" for each in comparisons
    ]
    figure, axes = rows(names, values, width)
    less = f"Top-1 less that of {short(common, 40 if width == WIDE else 24)}" if common else "Difference in top-1"
    axes.set_xlabel(f"{less}, points")
    return figure, axes


def _ground(axes: Axes, margin: float, differences: Sequence[Difference], values: Sequence[float] = ()) -> None:
    """The margin's band and the line of no difference, on an axis that holds what is drawn, up to 100 points."""
    low = 100 * min(-1.6 * margin, *values, *(each.low for each in differences), 0.0)
    high = 100 * max(1.6 * margin, *values, *(each.high for each in differences), 0.0)
    space = 0.05 * (high - low) or 1.0
    axes.set_xlim(max(low - space, -100), min(high + space, 100))
    axes.axvline(0, color=MUTED, lw=0.8)
    axes.axvspan(-100 * margin, 100 * margin, color=MUTED, alpha=0.2, lw=0)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))


def _interval(axes: Axes, place: int, each: Comparison, line: float, dot: float) -> None:
    """Filled where something was shown, hollow where not, grey where no conclusion is drawn."""
    ink = MUTED if each.withheld else INK
    bar(axes, each.difference, float(place), color=ink, lw=line)
    fill = ink if each.conclusive else PAPER
    axes.plot(100 * each.difference.value, place, "o", ms=dot, mec=ink, mfc=fill, mew=1.5)
