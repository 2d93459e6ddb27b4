"""The report's figures: what each shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

from ffvit.inks import INK, MUTED, PAPER, SOFT, WIDE
from ffvit.study.findings import ArmFinding, BaselineFinding, Comparison, Disagreement, Epoch, Findings
from ffvit.study.report import words
from ffvit.study.report.drawing import DASHES, Drawn, Look, drawn, looks, short
from ffvit.study.report.search import search_panels
from ffvit.study.statistics import Difference, Interval

CLASSES = 15
"""Classes shown at most."""

REACH = 10.0
"""Points that an axis of accuracies reaches beyond the values shown, at least, before it cuts an interval."""


def draw(findings: Findings) -> dict[str, Drawn]:
    """All figures there is something to draw for, by name."""
    return {each.name: each for each in _all(findings)}


def _all(findings: Findings) -> Iterator[Drawn]:
    of_arm = looks(findings.arms)
    comparisons, baselines = findings.comparisons, findings.baselines
    if comparisons:
        main = comparisons[0]
        alt = f"{_aloud(main)}. The margin is {words.margin(main.margin)} points."
        yield drawn("verdict", "The difference with its interval", alt, lambda width: _verdict(main, width))
    if len(comparisons) > 1:
        alt = "; ".join(map(_aloud, comparisons))
        yield drawn("differences", "All differences", alt, lambda width: _differences(comparisons, width))
    finished = [arm for arm in findings.arms if arm.top1 is not None]
    if finished:
        every: list[ArmFinding | BaselineFinding] = [*finished, *baselines]
        alt = "; ".join(f"{its.name}: {words.accuracy(its.top1)}" for its in every)
        yield drawn("accuracy", "Top-1 accuracy", alt, lambda width: _accuracy(finished, baselines, of_arm, width))
        alt = "Top-1 of each arm against what it costs; the numbers are in the table of the arms"
        yield drawn("costs", "Accuracy against cost", alt, lambda width: _costs(finished, of_arm, width))
    searched = [arm for arm in findings.arms if arm.search is not None and arm.search.trials]
    if searched:
        alt = "; ".join(f"{arm.name}: {words.optimum(arm.search)}" for arm in searched if arm.search is not None)
        yield drawn("search", "The search of each arm", alt, lambda width: search_panels(searched, of_arm, width))
    if any(len(each.per_run) > 1 for each in comparisons):
        alt = "; ".join(
            f"{_aloud(each)}; its runs: {', '.join(words.points(value) for _, value in each.per_run)}"
            for each in comparisons
        )
        yield drawn("runs", "Pair by pair", alt, lambda width: _runs(comparisons, of_arm, width))
    if any(run.curve for arm in finished for run in arm.runs):
        alt = "Training loss and validation accuracy of each run by epoch"
        yield drawn("curves", "Learning curves", alt, lambda width: _curves(finished, of_arm, width))
    if findings.disagreements and len(findings.disagreements[0].classes) > 1:
        first = findings.disagreements[0]
        alt = f"Correct predictions of {first.arm} and {first.against} by class; the numbers are in the table below"
        yield drawn("classes", "Accuracy by class", alt, lambda width: _classes(first, of_arm, width))


def _aloud(each: Comparison) -> str:
    its = each.difference
    low, high = words.points(its.low), words.points(its.high)
    return f"{each.arm} less {each.against}: {words.points(its.value)} points, from {low} to {high}"


# Differences


def _verdict(each: Comparison, width: float) -> Figure:
    """One interval, large, over the margin's band and the line of no difference, with words at both ends."""
    its, length = each.difference, 34 if width == WIDE else 15
    figure = Figure(figsize=(width, 1.5))
    axes = figure.add_subplot()
    _ground(axes, each.margin, [its])
    _interval(axes, 0, each, 2.2, 8.0)
    value = words.minus(f"{words.points(its.value)} ({words.bounds(its)})")
    axes.annotate(value, (100 * its.value, 0), (0, 9), textcoords="offset points", ha="center", weight="bold")
    axes.lines[0].set_ydata([0, 0.42])  # the line of no difference ends below the letters
    if each.margin:
        text = f"equivalent: within {words.margin(each.margin)}"
        axes.text(0, 1.04, text, transform=axes.get_xaxis_transform(), ha="center", color=SOFT, fontsize=8.5)
    axes.set_ylim(0.5, -1.05)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    for place, side, text in (
        (0, "left", f"← {short(each.against, length)} better"),
        (1, "right", f"{short(each.arm, length)} better →"),
    ):
        axes.annotate(text, (place, 0), (0, -19), "axes fraction", "offset points", ha=side, va="top", color=SOFT)
    axes.set_xlabel("Difference in top-1, points", labelpad=16)
    return figure


def _differences(comparisons: Sequence[Comparison], width: float) -> Figure:
    """A row a comparison: interval, and in letters the same."""
    figure, axes = _comparison_rows(comparisons, width)
    _ground(axes, max(each.margin for each in comparisons), [each.difference for each in comparisons])
    for place, each in enumerate(comparisons):
        _interval(axes, place, each, 1.6, 6.0)
    return figure


def _runs(comparisons: Sequence[Comparison], of_arm: dict[str, Look], width: float) -> Figure:
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
        _bar(axes, each.difference, float(place), color=MUTED, lw=1, zorder=1)
        axes.plot([100 * each.difference.value] * 2, [place - 0.25, place + 0.25], color=INK, lw=1.6)
        axes.plot(values, beside, "o", ms=5, color=of_arm[each.arm].colour, mec=PAPER, mew=0.6, zorder=3)
    return figure


def _comparison_rows(comparisons: Sequence[Comparison], width: float) -> tuple[Figure, Axes]:
    """Axes with a row a comparison; what all are compared with is named below."""
    against = {each.against for each in comparisons}
    common = against.pop() if len(against) == 1 else None
    names = [each.arm if common else f"{each.arm} less {each.against}" for each in comparisons]
    values = [f"{words.points(each.difference.value)} ({words.bounds(each.difference)})" for each in comparisons]
    figure, axes = _rows(names, values, width)
    less = f"Top-1 less that of {short(common, 40 if width == WIDE else 24)}" if common else "Difference in top-1"
    axes.set_xlabel(f"{less}, points")
    return figure, axes


def _rows(names: Sequence[str], values: Sequence[str], width: float) -> tuple[Figure, Axes]:
    """Axes with rows: a name at the left of each and its value at the right; on a phone the name is above."""
    wide, count = width == WIDE, len(names)
    figure = Figure(figsize=(width, 0.62 + (0.36 if wide else 0.5) * count))
    axes = figure.add_subplot()
    axes.set_ylim(count - 0.5, -0.5 if wide else -0.85)
    axes.set_yticks(range(count), [""] * count)
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        if wide:
            axes.annotate(
                short(name, 38),
                (0, place),
                (-8, 0),
                ("axes fraction", "data"),
                "offset points",
                ha="right",
                va="center",
            )
            axes.annotate(
                words.minus(value), (1, place), (10, 0), ("axes fraction", "data"), "offset points", va="center"
            )
        else:
            axes.annotate(
                short(name, 44), (0, place - 0.42), (0, 0), ("axes fraction", "data"), "offset points", va="center"
            )
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
    _bar(axes, each.difference, float(place), color=ink, lw=line)
    fill = ink if each.conclusive else PAPER
    axes.plot(100 * each.difference.value, place, "o", ms=dot, mec=ink, mfc=fill, mew=1.5)


def _bar(axes: Axes, its: Interval, place: float, upright: bool = False, **style: Any) -> None:
    """An interval in percent, with an arrowhead where the axis cuts it."""
    low, high = axes.get_ylim() if upright else axes.get_xlim()
    ends = max(100 * its.low, low), min(100 * its.high, high)
    axes.plot(*_turned(ends, (place, place), upright), solid_capstyle="butt", **style)
    heads = "v^" if upright else "<>"
    for head, end, cut in ((heads[0], low, 100 * its.low < low - 1e-9), (heads[1], high, 100 * its.high > high + 1e-9)):
        if cut:
            axes.plot(*_turned((end,), (place,), upright), head, color=style["color"], ms=5, mew=0, clip_on=False)


def _turned(along: Sequence[float], across: Sequence[float], upright: bool) -> tuple[Sequence[float], Sequence[float]]:
    return (across, along) if upright else (along, across)


# Accuracies


def _limits(arms: Sequence[ArmFinding]) -> tuple[float, float]:
    """Percent that hold the arms' accuracies and as much of their intervals as leaves the differences visible."""
    values = [100 * _top1(arm).value for arm in arms]
    reach = max(REACH, max(values) - min(values))
    low = max(min(100 * _top1(arm).low for arm in arms), min(values) - reach, 0.0)
    high = min(max(100 * _top1(arm).high for arm in arms), max(values) + reach, 100.0)
    space = 0.06 * (high - low) or 1.0
    return max(low - space, 0.0), min(high + space, 100.0)


def _accuracy(
    arms: Sequence[ArmFinding], baselines: Sequence[BaselineFinding], of_arm: dict[str, Look], width: float
) -> Figure:
    """A row an arm and a baseline; the best baseline is a line through all."""
    every: list[ArmFinding | BaselineFinding] = [*arms, *baselines]
    figure, axes = _rows([each.name for each in every], [words.accuracy(each.top1) for each in every], width)
    low, high = _limits(arms)
    best = max((100 * each.top1.value for each in baselines), default=-1.0)
    if best >= low - 2 * (high - low):  # one that is far below does not squeeze the arms together
        low = min(low, best - 0.06 * (high - low))
    axes.set_xlim(max(low, 0), high)
    if low <= best <= high:
        axes.axvline(best, color=MUTED, lw=0.8, ls=DASHES[1], zorder=0)
    for place, each in enumerate(every):
        look = of_arm[each.name] if isinstance(each, ArmFinding) else Look(SOFT, "s", "-")
        top1 = _top1(each)
        _bar(axes, top1, float(place), color=look.colour, lw=1.4)
        if 100 * top1.value >= low:
            axes.plot(100 * top1.value, place, look.marker, ms=6, mew=1.4, color=look.colour, clip_on=False)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.set_xlabel("Top-1 on the test images, %")
    return figure


def _top1(its: ArmFinding | BaselineFinding) -> Interval:
    assert its.top1 is not None
    return its.top1


def _costs(arms: list[ArmFinding], of_arm: dict[str, Look], width: float) -> Figure:
    """Small multiples, with the front of arms that none beats in both."""
    small = all(arm.flops < 1e9 for arm in arms)
    few = all(arm.parameters < 1e6 for arm in arms)
    longest = max((words.training_time(arm) or 0.0 for arm in arms), default=0.0)
    unit, size = next((each for each in (("h", 3600.0), ("min", 60.0)) if longest >= 3 * each[1]), ("s", 1.0))
    kinds: list[tuple[str, Callable[[ArmFinding], float | None]]] = [
        (f"Parameters, {'thousands' if few else 'millions'}", lambda arm: arm.parameters / (1e3 if few else 1e6)),
        (f"{'M' if small else 'G'}FLOPs of a prediction", lambda arm: arm.flops / (1e6 if small else 1e9)),
        ("Latency, ms", lambda arm: 1e3 * arm.cost.latency if arm.cost else None),
        (f"Training of a run, {unit}", lambda arm: _scaled(words.training_time(arm), size)),
    ]
    kinds = [(name, cost) for name, cost in kinds if any(cost(arm) is not None for arm in arms)]
    columns = 2 if width == WIDE else 1
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(width, 2.1 * rows + 0.1 + _legend_height(arms, width)))
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for panel in panels.flat[len(kinds) :]:
        panel.set_visible(False)
    panels[0, 0].set_ylim(*_limits(arms))
    for panel, (name, cost) in zip(panels.flat, kinds, strict=False):
        _cost(panel, [(arm, price) for arm in arms if (price := cost(arm)) is not None], of_arm)
        panel.set_xlabel(name)
        panel.tick_params(labelleft=True)
    for row in panels:
        row[0].set_title("Top-1, %")
    _legend(figure, arms, of_arm, width, lines=False)
    return figure


def _scaled(seconds: float | None, size: float) -> float | None:
    return None if seconds is None else seconds / size


def _cost(axes: Axes, priced: list[tuple[ArmFinding, float]], of_arm: dict[str, Look]) -> None:
    best, front = -1.0, []
    for arm, price in sorted(priced, key=lambda each: (each[1], -_top1(each[0]).value)):
        its, look = _top1(arm), of_arm[arm.name]
        _bar(axes, its, float(price), upright=True, color=look.colour, lw=1, alpha=0.65)
        axes.plot(price, 100 * its.value, look.marker, ms=6, color=look.colour, mew=1.4)
        if its.value > best:
            best = its.value
            front.append((price, 100 * best))
    prices = [price for _, price in priced]
    if min(prices) > 0 and max(prices) > 30 * min(prices):
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(min(prices) / 1.6, max(prices) * 1.6)
    else:
        axes.set_xlim(0, 1.16 * max(prices) or 1.0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    if len(priced) > 1:
        front.append((axes.get_xlim()[1], front[-1][1]))
        axes.step(*zip(*front, strict=True), where="post", color=MUTED, lw=0.8, ls=DASHES[1], zorder=0)


def _legend_columns(width: float) -> int:
    return 3 if width == WIDE else 1


def _legend_height(arms: Sequence[ArmFinding], width: float) -> float:
    return 0.2 * -(-len(arms) // _legend_columns(width))


def _legend(figure: Figure, arms: Sequence[ArmFinding], of_arm: dict[str, Look], width: float, lines: bool) -> None:
    handles = []
    for arm in arms:
        look = of_arm[arm.name]
        style = {"ls": look.dashes, "lw": 1.8} if lines else {"ls": "", "marker": look.marker, "ms": 6, "mew": 1.4}
        handles.append(Line2D([], [], color=look.colour, label=short(arm.name, 30), **style))
    figure.legend(handles=handles, loc="outside lower left", ncols=_legend_columns(width))


# Learning curves


def _curves(arms: list[ArmFinding], of_arm: dict[str, Look], width: float) -> Figure:
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
    figure = Figure(figsize=(width, 2.6 * rows + 0.1 + _legend_height(arms, width)))
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, (name, value) in zip(panels, kinds, strict=True):
        _lines(panel, arms, of_arm, value)
        if "top-1" not in name:
            name += _logarithmic(panel)
        panel.set_title(name)
        panel.set_xlabel("Epoch")
    _legend(figure, arms, of_arm, width, lines=True)
    return figure


def _lines(axes: Axes, arms: list[ArmFinding], of_arm: dict[str, Look], value: Callable[[Epoch], float | None]) -> None:
    for arm in sorted(arms, key=lambda arm: arm.role != "control"):
        look = of_arm[arm.name]
        lines = [np.array([value(epoch) for epoch in run.curve], dtype=float) for run in arm.runs if run.curve]
        for line in lines if len(lines) > 1 else []:
            axes.plot(range(1, len(line) + 1), line, lw=0.5, alpha=0.45, color=look.colour, ls=look.dashes)
        whole = min(map(len, lines))
        mean = np.mean([line[:whole] for line in lines], axis=0)
        dot = "o" if whole == 1 else ""
        axes.plot(range(1, whole + 1), mean, lw=1.7, color=look.colour, ls=look.dashes, marker=dot)
    longest = max((len(run.curve) for arm in arms for run in arm.runs), default=1)
    axes.set_xlim(1 if longest > 1 else 0.5, max(longest, 1.5))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _logarithmic(axes: Axes) -> str:
    """A logarithmic axis if what is drawn spans much; values of 0 are drawn at its lower end. Hands back what to say."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive) or positive.max() < 3 * positive.min():
        return ""
    floor = positive.min() / 1.5
    for line in axes.lines:
        line.set_ydata(np.maximum(np.asarray(line.get_ydata(), dtype=float), floor))
    axes.set_yscale("log")
    axes.set_ylim(floor, 1.1 * positive.max())
    steps = (1, 2, 5) if positive.max() < 300 * floor else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=steps))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    return " (logarithmic)"


# Classes


def _classes(disagreement: Disagreement, of_arm: dict[str, Look], width: float) -> Figure:
    """The classes on which two arms differ most, a mark an arm."""
    wide, classes = width == WIDE, disagreement.classes[:CLASSES]
    figure = Figure(figsize=(width, 0.95 + (0 if wide else 0.2) + 0.23 * len(classes)))
    axes = figure.add_subplot()
    for place, (_, _, one, other) in enumerate(classes):
        axes.plot([100 * one, 100 * other], [place, place], color=MUTED, lw=1, zorder=1)
    for name, side in ((disagreement.arm, 2), (disagreement.against, 3)):
        values, look = [100 * each[side] for each in classes], of_arm[name]
        label = short(name, 40)
        axes.plot(values, range(len(classes)), look.marker, ms=6, mew=1, color=look.colour, label=label, clip_on=False)
    length = 30 if wide else 16
    axes.set_yticks(range(len(classes)), [f"{short(name, length)} ({images:,})" for name, images, _, _ in classes])
    axes.set_ylim(len(classes) - 0.4, -0.6)
    axes.set_xlim(right=min(100.0, axes.get_xlim()[1]))
    axes.tick_params(left=False)
    axes.grid(axis="y", color=MUTED, lw=0.4, alpha=0.3)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("Correct, % of the class's test images" if wide else "Correct, %")
    figure.legend(loc="outside upper left", ncols=2 if wide else 1)
    return figure
