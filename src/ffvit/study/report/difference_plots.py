"""The figures of differences: the main one, and all of them with their pairs of runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ffvit.pages.drawing import short
from ffvit.plot_style import INK, MUTED, PAPER, SOFT, WIDE
from ffvit.study import formatting
from ffvit.study.findings import Comparison
from ffvit.study.report.drawing import ArmStyle, bar, rows

REACH = 10.0
"""Points that an axis reaches beyond the differences, at least, before it cuts an interval."""


def verdict_figure(comparison: Comparison, width: float) -> Figure:
    """One interval, large, over the margin's band and the line of no difference, with words at both ends."""
    difference, length = comparison.difference, 34 if width == WIDE else 12
    figure = Figure(figsize=(width, 1.5))
    axes = figure.add_subplot()
    _background(axes, [comparison])
    _interval(axes, 0, comparison, 2.2, 8.0)
    value = formatting.minus(f"{formatting.points(difference.value)} ({formatting.bounds(difference)})")
    axes.annotate(value, (100 * difference.value, 0), (0, 9), textcoords="offset points", ha="center", weight="bold")
    axes.lines[0].set_ydata([0, 0.42])  # the line of no difference ends below the letters
    if comparison.margin:
        text = f"equivalent: within {formatting.margin(comparison.margin)}"
        axes.text(0, 1.04, text, transform=axes.get_xaxis_transform(), ha="center", color=SOFT, fontsize=8.5)
    axes.set_ylim(0.5, -1.05)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    for place, side, text in (
        (0, "left", f"← {short(comparison.reference, length)} better"),
        (1, "right", f"{short(comparison.arm, length)} better →"),
    ):
        axes.annotate(text, (place, 0), (0, -19), "axes fraction", "offset points", ha=side, va="top", color=SOFT)
    axes.set_xlabel("Difference in top-1, points", labelpad=16)
    return figure


def difference_rows(comparisons: Sequence[Comparison], styles: dict[str, ArmStyle], width: float) -> Figure:
    """A row a comparison: its interval, in letters the same, and below it a dot a pair of runs."""
    references = {comparison.reference for comparison in comparisons}
    common = references.pop() if len(references) == 1 else None
    names = [one.arm if common else f"{one.arm} less {one.reference}" for one in comparisons]
    values = [f"{formatting.points(one.difference.value)} ({formatting.bounds(one.difference)})" for one in comparisons]
    figure, axes = rows(names, values, width)
    less = f"Top-1 less that of {short(common, 40 if width == WIDE else 24)}" if common else "Difference in top-1"
    axes.set_xlabel(f"{less}, points")
    _background(axes, comparisons)
    for place, comparison in enumerate(comparisons):
        _interval(axes, place, comparison, 1.6, 6.0)
        runs = 100 * np.array([value for _, value in comparison.per_run])
        if len(runs) > 1:
            below = np.full(len(runs), place + 0.24)
            axes.plot(runs, below, "o", ms=3.5, color=styles[comparison.arm].colour, mec=PAPER, mew=0.4, zorder=3)
    return figure


def _background(axes: Axes, comparisons: Sequence[Comparison]) -> None:
    """The line of no difference and the margin's band, on an axis that holds all values and what it can of intervals."""
    margin = max(comparison.margin for comparison in comparisons)
    values = [0.0, -1.6 * margin, 1.6 * margin]
    for comparison in comparisons:
        values += [comparison.difference.value, *(value for _, value in comparison.per_run)]
    low, high = 100 * min(values), 100 * max(values)
    reach = max(REACH, high - low)
    ends = [(100 * one.difference.low, 100 * one.difference.high) for one in comparisons]
    low = min(low, max(low - reach, min(end for end, _ in ends)))
    high = max(high, min(high + reach, max(end for _, end in ends)))
    space = 0.05 * (high - low) or 1.0
    axes.set_xlim(max(low - space, -100), min(high + space, 100))
    axes.axvline(0, color=MUTED, lw=0.8)
    axes.axvspan(-100 * margin, 100 * margin, color=MUTED, alpha=0.2, lw=0)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))


def _interval(axes: Axes, place: int, comparison: Comparison, line: float, dot: float) -> None:
    """Filled where something was shown, hollow where not, grey where no conclusion is drawn."""
    ink = MUTED if comparison.withheld else INK
    bar(axes, comparison.difference, float(place), color=ink, lw=line)
    fill = ink if comparison.conclusive else PAPER
    axes.plot(100 * comparison.difference.value, place, "o", ms=dot, mec=ink, mfc=fill, mew=1.5)
