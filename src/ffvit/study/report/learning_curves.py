"""The learning curves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from ffvit.plot_style import WIDE
from ffvit.study.findings import ArmFinding, Epoch
from ffvit.study.report.drawing import ArmStyle, legend, legend_height


def curve_panels(arms: list[ArmFinding], styles: dict[str, ArmStyle], width: float) -> Figure:
    """A thin line a run, a bold one for an arm's mean; errors instead of accuracies where these are near 100 %."""
    arms = [arm for arm in arms if any(run.curve for run in arm.runs)]
    kinds: list[tuple[str, Callable[[Epoch], float | None]]] = [("Training loss, nats", lambda epoch: epoch.loss)]
    last = [run.curve[-1].top1 for arm in arms for run in arm.runs if run.curve]
    best = max((top1 for top1 in last if top1 is not None), default=None)
    if best is not None and best > 0.9:
        kinds.append(("Validation error, %", lambda epoch: None if epoch.top1 is None else 100 - 100 * epoch.top1))
    elif best is not None:
        kinds.append(("Validation top-1, %", lambda epoch: None if epoch.top1 is None else 100 * epoch.top1))
    rows, columns = (1, len(kinds)) if width == WIDE else (len(kinds), 1)
    figure = Figure(figsize=(width, 2.6 * rows + 0.1 + legend_height(arms, width)))
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, (name, value) in zip(panels, kinds, strict=True):
        _lines(panel, arms, styles, value)
        if "top-1" not in name:
            name += _logarithmic(panel)
        panel.set_title(name)
        panel.set_xlabel("Epoch")
    legend(figure, arms, styles, width, lines=True)
    return figure


def _lines(
    axes: Axes, arms: list[ArmFinding], styles: dict[str, ArmStyle], value: Callable[[Epoch], float | None]
) -> None:
    for arm in sorted(arms, key=lambda arm: arm.role != "control"):
        style = styles[arm.name]
        lines = [np.array([value(epoch) for epoch in run.curve], dtype=float) for run in arm.runs if run.curve]
        for line in lines if len(lines) > 1 else []:
            axes.plot(range(1, len(line) + 1), line, lw=0.5, alpha=0.45, color=style.colour, ls=style.dashes)
        whole = min(map(len, lines))
        mean = np.mean([line[:whole] for line in lines], axis=0)
        dot = "o" if whole == 1 else ""
        axes.plot(range(1, whole + 1), mean, lw=1.7, color=style.colour, ls=style.dashes, marker=dot)
    longest = max((len(run.curve) for arm in arms for run in arm.runs), default=1)
    axes.set_xlim(1 if longest > 1 else 0.5, max(longest, 1.5))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _logarithmic(axes: Axes) -> str:
    """A logarithmic axis if what is drawn spans much; values of 0 are drawn at its lower end. Hands back what to say."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive) or positive.max() < 3 * positive.min():
        return ""
    lowest = positive.min() / 1.5
    for line in axes.lines:
        line.set_ydata(np.maximum(np.asarray(line.get_ydata(), dtype=float), lowest))
    axes.set_yscale("log")
    axes.set_ylim(lowest, 1.1 * positive.max())
    steps = (1, 2, 5) if positive.max() < 300 * lowest else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    return " (logarithmic)"
