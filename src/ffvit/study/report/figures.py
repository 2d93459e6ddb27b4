"""The report's figures: what each shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from ffvit.pages.drawing import Plot, make_plot, short
from ffvit.plot_style import MUTED, SOFT, WIDE
from ffvit.study import formatting
from ffvit.study.findings import ArmFinding, BaselineFinding, Comparison, Disagreement, Findings
from ffvit.study.report import tables
from ffvit.study.report.block_diagrams import block_rows, distinct_blocks
from ffvit.study.report.difference_plots import difference_rows, verdict_figure
from ffvit.study.report.drawing import (
    DASHES,
    ArmStyle,
    arm_styles,
    bar,
    legend,
    legend_height,
    rows,
)
from ffvit.study.report.learning_curves import curve_panels
from ffvit.study.report.search_plots import search_panels
from ffvit.study.statistics import Interval

CLASSES = 15
"""Classes shown at most."""

REACH = 10.0
"""Points that an axis of accuracies reaches beyond the values shown, at least, before it cuts an interval."""


def draw_figures(findings: Findings) -> dict[str, Plot]:
    """All figures there is something to draw for, by name."""
    return {name: draw() for name, draw in figures_of(findings).items()}


def figures_of(findings: Findings) -> dict[str, Callable[[], Plot]]:
    """What draws each figure that there is something to draw for, by its name."""
    figures: dict[str, Callable[[], Plot]] = {}

    def add(name: str, title: str, alt: str, make: Callable[[float], Figure]) -> None:
        figures[name] = partial(make_plot, name, title, alt, make)

    styles = arm_styles(findings.arms)
    comparisons, baselines = findings.comparisons, findings.baselines
    if blocks := distinct_blocks(findings.arms):
        alt = "; ".join(
            f"{', '.join(arm.name for arm in arms)}: {', then '.join(f'{mixer} over {axis}' for mixer, axis in block)}"
            for block, arms in blocks.items()
        )
        add("blocks", "One block of each network", alt, partial(block_rows, findings.arms, styles))
    if comparisons:
        main = comparisons[0]
        alt = f"{_aloud(main)}. The margin is {formatting.margin(main.margin)} points."
        add("verdict", "The difference with its interval", alt, partial(verdict_figure, main))
    if len(comparisons) > 1 or any(len(comparison.per_run) > 1 for comparison in comparisons):
        alt = "; ".join(
            f"{_aloud(comparison)}; its runs: {', '.join(formatting.points(value) for _, value in comparison.per_run)}"
            for comparison in comparisons
        )
        add("differences", "All differences", alt, partial(difference_rows, comparisons, styles))
    finished = [arm for arm in findings.arms if arm.top1 is not None]
    if finished:
        every: list[ArmFinding | BaselineFinding] = [*finished, *baselines]
        alt = "; ".join(f"{one.name}: {formatting.accuracy(one.top1)}" for one in every)
        add("accuracy", "Top-1 accuracy", alt, partial(_accuracy, finished, baselines, styles))
        alt = "Top-1 of each arm against what it costs; the numbers are in the table of the arms"
        add("costs", "Accuracy against cost", alt, partial(_costs, finished, styles))
    searched = [(arm, arm.search) for arm in findings.arms if arm.search is not None and arm.search.trials]
    if searched:
        alt = "; ".join(f"{arm.name}: {tables.optimum(search)}" for arm, search in searched)
        add("search", "The search of each arm", alt, partial(search_panels, searched, styles))
    if any(run.curve for arm in finished for run in arm.runs):
        alt = "Training loss and validation accuracy of each run by epoch"
        add("curves", "Learning curves", alt, partial(curve_panels, finished, styles))
    if findings.disagreements and len(findings.disagreements[0].classes) > 1:
        first = findings.disagreements[0]
        alt = f"Correct predictions of {first.arm} and {first.reference} by class; the numbers are in the table below"
        add("classes", "Accuracy by class", alt, partial(_classes, first, styles))
    return figures


def _aloud(comparison: Comparison) -> str:
    difference = comparison.difference
    return (
        f"{comparison.arm} less {comparison.reference}: {formatting.points(difference.value)} points, from "
        f"{formatting.bounds(difference)}"
    )


def _limits(arms: Sequence[ArmFinding]) -> tuple[float, float]:
    """Percent that hold the arms' accuracies and as much of their intervals as leaves the differences visible."""
    values = [100 * _top1(arm).value for arm in arms]
    reach = max(REACH, max(values) - min(values))
    low = max(min(100 * _top1(arm).low for arm in arms), min(values) - reach, 0.0)
    high = min(max(100 * _top1(arm).high for arm in arms), max(values) + reach, 100.0)
    space = 0.06 * (high - low) or 1.0
    return max(low - space, 0.0), min(high + space, 100.0)


def _accuracy(
    arms: Sequence[ArmFinding], baselines: Sequence[BaselineFinding], styles: dict[str, ArmStyle], width: float
) -> Figure:
    """A row an arm and a baseline; the best baseline is a line through all."""
    every: list[ArmFinding | BaselineFinding] = [*arms, *baselines]
    figure, axes = rows([one.name for one in every], [formatting.accuracy(one.top1) for one in every], width)
    low, high = _limits(arms)
    if baselines:
        best = max(100 * baseline.top1.value for baseline in baselines)
        if best >= low - 2 * (high - low):  # one that is far below does not squeeze the arms together
            low = max(0.0, min(low, best - 0.06 * (high - low)))
        high = max(high, min(100.0, best + 0.06 * (high - low)))
        if best >= low:
            axes.axvline(best, color=MUTED, lw=0.8, ls=DASHES[1], zorder=0)
    axes.set_xlim(low, high)
    for place, one in enumerate(every):
        style, top1 = styles[one.name] if isinstance(one, ArmFinding) else ArmStyle(SOFT, "s", "-"), _top1(one)
        bar(axes, top1, float(place), color=style.colour, lw=1.4)
        if 100 * top1.value >= low:
            axes.plot(100 * top1.value, place, style.marker, ms=6, mew=1.4, color=style.colour, clip_on=False)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.set_xlabel("Top-1 on the test images, %")
    return figure


def _top1(one: ArmFinding | BaselineFinding) -> Interval:
    assert one.top1 is not None
    return one.top1


def _costs(arms: list[ArmFinding], styles: dict[str, ArmStyle], width: float) -> Figure:
    """Small multiples, with the front of arms that none beats in both."""
    small = all(arm.flops < 1e9 for arm in arms)
    few = all(arm.parameters < 1e6 for arm in arms)
    longest = max((tables.training_time(arm) or 0.0 for arm in arms), default=0.0)
    unit, size = next((pair for pair in (("h", 3600.0), ("min", 60.0)) if longest >= 3 * pair[1]), ("s", 1.0))
    kinds: list[tuple[str, Callable[[ArmFinding], float | None]]] = [
        (f"Parameters, {'thousands' if few else 'millions'}", lambda arm: arm.parameters / (1e3 if few else 1e6)),
        (f"{'M' if small else 'G'}FLOPs of a prediction", lambda arm: arm.flops / (1e6 if small else 1e9)),
        ("Latency, ms", lambda arm: 1e3 * arm.cost.latency if arm.cost else None),
        (
            f"Training of a run, {unit}",
            lambda arm: None if (time := tables.training_time(arm)) is None else time / size,
        ),
    ]
    kinds = [(name, cost) for name, cost in kinds if any(cost(arm) is not None for arm in arms)]
    columns = 2 if width == WIDE else 1
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(width, 2.1 * rows + 0.1 + legend_height(arms, width)))
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for panel in panels.flat[len(kinds) :]:
        panel.set_visible(False)
    panels[0, 0].set_ylim(*_limits(arms))
    for panel, (name, cost) in zip(panels.flat, kinds, strict=False):
        _cost(panel, [(arm, price) for arm in arms if (price := cost(arm)) is not None], styles)
        panel.set_xlabel(name)
        panel.tick_params(labelleft=True)
    for row in panels:
        row[0].set_title("Top-1, %")
    legend(figure, arms, styles, width, lines=False)
    return figure


def _cost(axes: Axes, priced: list[tuple[ArmFinding, float]], styles: dict[str, ArmStyle]) -> None:
    best, front = -1.0, []
    for arm, price in sorted(priced, key=lambda pair: (pair[1], -_top1(pair[0]).value)):
        top1, style = _top1(arm), styles[arm.name]
        bar(axes, top1, float(price), upright=True, color=style.colour, lw=1, alpha=0.65)
        axes.plot(price, 100 * top1.value, style.marker, ms=6, color=style.colour, mew=1.4)
        if top1.value > best:
            best = top1.value
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


def _classes(disagreement: Disagreement, styles: dict[str, ArmStyle], width: float) -> Figure:
    """The classes on which two arms differ most, a mark an arm."""
    wide, classes = width == WIDE, disagreement.classes[:CLASSES]
    figure = Figure(figsize=(width, 0.95 + (0 if wide else 0.2) + 0.23 * len(classes)))
    axes = figure.add_subplot()
    for place, (_, _, one, two) in enumerate(classes):
        axes.plot([100 * one, 100 * two], [place, place], color=MUTED, lw=1, zorder=1)
    for name, side in ((disagreement.arm, 2), (disagreement.reference, 3)):
        values, style = [100 * row[side] for row in classes], styles[name]
        label = short(name, 40)
        axes.plot(
            values, range(len(classes)), style.marker, ms=6, mew=1, color=style.colour, label=label, clip_on=False
        )
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
