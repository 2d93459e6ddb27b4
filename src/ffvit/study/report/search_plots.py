"""The picture of each arm's search: validation loss over what was tried, and where the choice lies."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, isinf, isnan, nan
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from ffvit.pages.drawing import short
from ffvit.plot_style import PAPER, WIDE
from ffvit.study.findings import ArmFinding, SearchFinding, TrialFinding
from ffvit.study.report import tables
from ffvit.study.report.drawing import ArmStyle


def search_panels(
    searched: Sequence[tuple[ArmFinding, SearchFinding]], styles: dict[str, ArmStyle], width: float
) -> Figure:
    """A panel an arm, all on one scale of losses."""
    columns = min(len(searched), 3 if width == WIDE else 2)
    rows = -(-len(searched) // columns)
    figure = Figure(figsize=(width, 0.2 + 1.95 * rows))
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for panel in panels.flat[len(searched) :]:
        panel.set_visible(False)
    means = (tables.mean_loss(trial) for _, search in searched for trial in search.trials)
    losses = [loss for loss in means if isfinite(loss)]
    low, high = min(losses, default=1.0), max(losses, default=1.0)
    panels[0, 0].set_yscale("log" if low > 0 else "linear")
    room = (high / low) ** 0.08 if low > 0 else 1.1
    panels[0, 0].set_ylim(low / max(room, 1.05), high * max(room, 1.05) ** 2)
    for panel, (arm, search) in zip(panels.flat, searched, strict=False):
        _panel(panel, search, styles[arm.name])
        where = tables.optimum(search).replace(": ", ": " if width == WIDE else ":\n")
        panel.set_title(f"{short(arm.name, 20)}\n{where}")
        panel.set_xlabel(search.field.replace("_", " "))
    for row in panels:
        row[0].set_ylabel("Validation loss, nats" if width == WIDE else "Loss, nats")
    if low > 0:
        panels[0, 0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        panels[0, 0].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panels[0, 0].yaxis.set_minor_locator(NullLocator())
    return figure


def _panel(axes: Axes, search: SearchFinding, style: ArmStyle) -> None:
    tried = sorted({trial.values.get(search.field) for trial in search.trials}, key=_order)
    place = _places(axes, tried)
    by_repetition: dict[Any, list[TrialFinding]] = {}
    for trial in search.trials:
        by_repetition.setdefault(trial.repetition, []).append(trial)
    profiles = [_profile(trials, search.field, tried) for trials in by_repetition.values()]
    across = [place[value] for value in tried]
    for profile in profiles if len(profiles) > 1 else []:
        axes.plot(across, np.where(np.isfinite(profile), profile, np.nan), color=style.colour, lw=0.6, alpha=0.5)
    mean = [_mean(values) for values in zip(*profiles, strict=True)]
    axes.plot(across, mean, color=style.colour, lw=1.8)
    for trial in search.trials:
        at, loss = place[trial.values.get(search.field)], tables.mean_loss(trial)
        if isinf(loss):
            top = axes.get_xaxis_transform()
            axes.plot(at, 0.97, "x", ms=5, mew=1.2, color=style.colour, transform=top, clip_on=False)
        elif trial.chosen:
            axes.plot(at, loss, "o", ms=5.5, color=style.colour, mec=PAPER, mew=0.8, zorder=3)


def _order(value: Any) -> tuple[bool, Any]:
    """Numbers by size, then everything else by name."""
    number = isinstance(value, int | float)
    return not number, value if number else str(value)


def _places(axes: Axes, tried: Sequence[Any]) -> dict[Any, float]:
    """Where each value stands: on a logarithmic axis if all are positive numbers, else side by side."""
    if all(isinstance(value, int | float) and value > 0 for value in tried):
        axes.set_xscale("log")
        axes.set_xlim(min(tried) / 1.4, max(tried) * 1.4)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if max(tried) < 300 * min(tried) else (1,)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        return {value: float(value) for value in tried}
    axes.set_xlim(-0.5, len(tried) - 0.5)
    axes.set_xticks(range(len(tried)), [short(str(value), 10) for value in tried])
    return {value: float(number) for number, value in enumerate(tried)}


def _profile(trials: Sequence[TrialFinding], field: str, tried: Sequence[Any]) -> list[float]:
    """The lowest loss at each value, whatever else was tried with it; NaN where nothing was tried."""
    of_value = [[tables.mean_loss(trial) for trial in trials if trial.values.get(field) == value] for value in tried]
    return [min(losses, default=nan) for losses in of_value]


def _mean(losses: Sequence[float]) -> float:
    """Over the repetitions that tried it; no number if one of them diverged."""
    mean = fmean([loss for loss in losses if not isnan(loss)] or [nan])
    return mean if isfinite(mean) else nan
