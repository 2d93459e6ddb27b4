"""The report's figures: what each shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from ffvit.inks import INK, MUTED, PAPER, SOFT, WIDE
from ffvit.study.findings import ArmFinding, Comparison, Disagreement, Epoch, Findings
from ffvit.study.report import words
from ffvit.study.report.drawing import DASHES, Drawn, Look, drawn, laid_out, looks, minus, short
from ffvit.study.statistics import Interval
from ffvit.study.verdict import points

LABELLED = 7
"""Up to so many arms have their names beside their marks and lines; more have a legend."""

AROUND = (
    ("value", 7, 0, "left", "center"), ("value", -7, 0, "right", "center"), ("value", 5, 5, "left", "bottom"),
    ("value", -5, 5, "right", "bottom"), ("value", 5, -5, "left", "top"), ("value", -5, -5, "right", "top"),
    ("high", 0, 3, "center", "bottom"), ("low", 0, -3, "center", "top"), ("high", -6, 3, "left", "bottom"),
    ("high", 6, 3, "right", "bottom"), ("low", -6, -3, "left", "top"), ("low", 6, -3, "right", "top"),
)  # fmt: skip
"""Where an arm's name may stand, best first: by which part of its interval, how far off in points, how it is held."""

CLASSES = 15
"""Classes shown at most."""


def draw(findings: Findings) -> dict[str, Drawn]:
    """All figures there is something to draw for, by name."""
    return {each.name: each for each in _all(findings)}


def _all(findings: Findings) -> Iterator[Drawn]:
    of_arm = looks(findings.arms)
    asked, margin = findings.comparisons, findings.margin
    if asked:
        alt = f"{_aloud(asked[0])}. The margin is {100 * margin:g} points to either side of no difference."
        yield drawn("verdict", "The difference with its interval", alt, lambda width: _verdict(asked[0], margin, width))
    if len(asked) > 1:
        alt = "; ".join(map(_aloud, asked))
        yield drawn("differences", "All differences", alt, lambda width: _differences(asked, margin, width))
    finished = [arm for arm in findings.arms if arm.top1 is not None]
    if finished:
        alt = "Top-1 of each arm against what it costs; the numbers are in the table of the arms"
        yield drawn("costs", "Accuracy against cost", alt, lambda width: _costs(finished, of_arm, width))
    if any(len(each.per_run) > 1 for each in asked):
        alt = "; ".join(
            f"{_aloud(each)}; its runs: {', '.join(points(its) for _, its in each.per_run)}" for each in asked
        )
        yield drawn("runs", "Pair by pair", alt, lambda width: _runs(asked, of_arm, width))
    if any(run.curve for arm in finished for run in arm.runs):
        alt = "Training loss and selection top-1 of each run by epoch"
        yield drawn("curves", "Learning curves", alt, lambda width: _curves(finished, of_arm, width))
    if findings.disagreements and len(findings.disagreements[0].classes) > 1:
        first = findings.disagreements[0]
        alt = f"Right answers of {first.arm} and {first.against} by class; the numbers are in the table below"
        yield drawn("classes", "Accuracy by class", alt, lambda width: _classes(first, of_arm, width))


def _aloud(each: Comparison) -> str:
    its = each.difference
    return f"{each.arm} less {each.against}: {points(its.value)} points, from {points(its.low)} to {points(its.high)}"


def _verdict(each: Comparison, margin: float, width: float) -> Figure:
    """One interval, large, over the margin's band and the line of no difference, with words at both ends."""
    its, length = each.difference, 34 if width == WIDE else 15
    figure = Figure(figsize=(width, 1.5))
    axes = figure.add_subplot()
    _ground(axes, margin, [(its.low, its.high)])
    _interval(axes, 0, each, 2.2, 8.0)
    value = minus(f"{points(its.value)} ({points(its.low)} to {points(its.high)})")
    axes.annotate(value, (100 * its.value, 0), (0, 9), textcoords="offset points", ha="center", weight="bold")
    axes.lines[0].set_ydata([0, 0.42])  # the line of no difference ends below the letters
    if margin:
        top = axes.get_xaxis_transform()
        axes.text(0, 1.04, f"as good: within ±{100 * margin:g}", transform=top, ha="center", color=SOFT, fontsize=8.5)
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


def _differences(comparisons: Sequence[Comparison], margin: float, width: float) -> Figure:
    """A row a question: interval, and in letters the same."""
    figure, axes = _rows(comparisons, width)
    _ground(axes, margin, [(each.difference.low, each.difference.high) for each in comparisons])
    for place, each in enumerate(comparisons):
        _interval(axes, place, each, 1.6, 6.0)
    band = f" (band: ±{100 * margin:g}, the margin)" if margin else ""
    axes.set_xlabel(f"{_axis(comparisons, width)}{band if width == WIDE else ''}")
    return figure


def _runs(comparisons: Sequence[Comparison], of_arm: dict[str, Look], width: float) -> Figure:
    """A row a question: a dot a pair of runs, the mean and its interval."""
    figure, axes = _rows(comparisons, width)
    reach = [(each.difference.low, each.difference.high) for each in comparisons]
    reach += [(value, value) for each in comparisons for _, value in each.per_run]
    _ground(axes, 0.0, reach)
    for place, each in enumerate(comparisons):
        values = 100 * np.array([value for _, value in each.per_run])
        beside = place + np.linspace(-0.17, 0.17, len(values)) if len(values) > 1 else np.array([float(place)])
        its = each.difference
        axes.plot([100 * its.low, 100 * its.high], [place, place], color=MUTED, lw=1, solid_capstyle="butt", zorder=1)
        axes.plot([100 * its.value] * 2, [place - 0.25, place + 0.25], color=INK, lw=1.6, solid_capstyle="butt")
        axes.plot(values, beside, "o", ms=5, color=of_arm[each.arm].colour, mec=PAPER, mew=0.6, zorder=3)
    axes.set_xlabel(_axis(comparisons, width))
    return figure


def _common(comparisons: Sequence[Comparison]) -> str:
    """The arm that all others are compared to, if there is one."""
    return comparisons[0].against if len({each.against for each in comparisons}) == 1 else ""


def _axis(comparisons: Sequence[Comparison], width: float) -> str:
    less = f" less that of {short(_common(comparisons), 40 if width == WIDE else 24)}" if _common(comparisons) else ""
    return f"Top-1{less}, points" if less else "Difference in top-1, points"


def _rows(comparisons: Sequence[Comparison], width: float) -> tuple[Figure, Axes]:
    """Axes with a row a question, named at the left; on a phone above the row."""
    wide, count = width == WIDE, len(comparisons)
    against = _common(comparisons)
    figure = Figure(figsize=(width, 0.62 + (0.4 if wide else 0.5) * count))
    axes = figure.add_subplot()
    axes.set_ylim(count - 0.5, -0.5 if wide else -0.85)
    axes.set_yticks(range(count), [""] * count)
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)
    for place, each in enumerate(comparisons):
        its = each.difference
        length = 26 if wide else 19
        if against:
            name = short(each.arm, 2 * length - 10)
        else:
            name = f"{short(each.arm, length)} less {short(each.against, length)}"
        value = minus(f"{points(its.value)} ({points(its.low)} to {points(its.high)})")
        if wide:
            name = name if len(name) <= 34 else name.replace(" less ", "\nless ", 1)
            axes.annotate(
                name, (0, place), (-8, 0), ("axes fraction", "data"), "offset points", ha="right", va="center"
            )
            axes.annotate(value, (1, place), (8, 0), ("axes fraction", "data"), "offset points", va="center")
        else:
            axes.annotate(name, (0, place - 0.42), (0, 0), ("axes fraction", "data"), "offset points", va="center")
    return figure, axes


def _ground(axes: Axes, margin: float, reach: Sequence[tuple[float, float]]) -> None:
    """The margin's band and the line of no difference, on an axis that holds all that is drawn."""
    low, high = min(0.0, *(each[0] for each in reach)), max(0.0, *(each[1] for each in reach))
    low, high = 100 * min(low, -1.6 * margin), 100 * max(high, 1.6 * margin)
    space = 0.05 * (high - low) or 1.0
    axes.set_xlim(low - space, high + space)
    axes.axvline(0, color=MUTED, lw=0.8)
    axes.axvspan(-100 * margin, 100 * margin, color=MUTED, alpha=0.2, lw=0)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))


def _interval(axes: Axes, place: int, each: Comparison, line: float, dot: float) -> None:
    its, settled = each.difference, each.outcome in words.SETTLED
    axes.plot([100 * its.low, 100 * its.high], [place, place], color=INK, lw=line, solid_capstyle="butt")
    axes.plot(100 * its.value, place, "o", ms=dot, mec=INK, mfc=INK if settled else PAPER, mew=1.5)


def _costs(arms: list[ArmFinding], of_arm: dict[str, Look], width: float) -> Figure:
    """Small multiples, with the front of arms that none beats in both."""
    if len(arms) <= LABELLED:
        figure, named = _cost_panels(arms, of_arm, width, legend=False)
        if named == {arm.name for arm in arms}:
            return figure
    return _cost_panels(arms, of_arm, width, legend=True)[0]


def _cost_panels(
    arms: list[ArmFinding], of_arm: dict[str, Look], width: float, legend: bool
) -> tuple[Figure, set[str]]:
    """The panels, and the arms that could be named in at least one of them."""
    small = all(arm.flops < 1e9 for arm in arms)
    few = all(arm.parameters < 1e6 for arm in arms)
    kinds: list[tuple[str, Callable[[ArmFinding], float | None]]] = [
        (
            "Parameters, thousands" if few else "Parameters, millions",
            lambda arm: arm.parameters / (1e3 if few else 1e6),
        ),
        (f"A prediction, {'M' if small else 'G'}FLOPs", lambda arm: arm.flops / (1e6 if small else 1e9)),
        ("Latency, ms", lambda arm: 1e3 * arm.cost.latency if arm.cost else None),
        *_training(arms),
    ]
    kinds = [(name, cost) for name, cost in kinds if any(cost(arm) is not None for arm in arms)]
    columns = 2 if width == WIDE else 1
    rows = -(-len(kinds) // columns)
    figure = Figure(figsize=(width, 2.2 * rows + (0.1 + _legend_height(arms, width) if legend else 0)))
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for panel in panels.flat[len(kinds) :]:
        panel.set_visible(False)
    drawn_in = []
    for panel, (name, cost) in zip(panels.flat, kinds, strict=False):
        priced = [(arm, price) for arm in arms if (price := cost(arm)) is not None]
        _cost(panel, priced, of_arm)
        panel.set_xlabel(name)
        panel.tick_params(labelleft=True)
        drawn_in.append((panel, priced))
    panels[0, 0].margins(y=0.12)
    for row in panels:
        row[0].set_title("Top-1, %")
    if legend:
        _legend(figure, arms, of_arm, width, lines=False)
        return figure, set()
    laid_out(figure)
    named = set()
    for panel, priced in drawn_in:
        named |= _name_marks(panel, priced)
    return figure, named


def _training(arms: list[ArmFinding]) -> Iterator[tuple[str, Callable[[ArmFinding], float | None]]]:
    longest = max((words.training_time(arm) or 0.0 for arm in arms), default=0.0)
    unit, size = next((each for each in (("h", 3600.0), ("min", 60.0)) if longest >= 3 * each[1]), ("s", 1.0))

    def of_a_run(arm: ArmFinding) -> float | None:
        seconds = words.training_time(arm)
        return None if seconds is None else seconds / size

    yield f"Training of a run, {unit}", of_a_run


def _cost(axes: Axes, priced: list[tuple[ArmFinding, float]], of_arm: dict[str, Look]) -> None:
    best, front = -1.0, []
    for arm, price in sorted(priced, key=lambda each: (each[1], -_top1(each[0]).value)):
        its, look = _top1(arm), of_arm[arm.name]
        axes.plot([price] * 2, [100 * its.low, 100 * its.high], color=look.colour, lw=1, alpha=0.65)
        axes.plot(price, 100 * its.value, look.marker, ms=5.5, color=look.colour, mew=1.4)
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


def _name_marks(axes: Axes, priced: list[tuple[ArmFinding, float]]) -> set[str]:
    """Write names beside marks where there is room; hands back who was named.

    At best nothing is under a name; if there is no such place, the front may be, and is broken for it.
    """
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    taken, named = [], set()
    for arm, price in priced:
        ends = axes.transData.transform([(price, 100 * share) for share in (_top1(arm).low, _top1(arm).high)])
        mark = axes.transData.transform((price, 100 * _top1(arm).value))
        taken += [Bbox([ends[0] - (1.5, 0), ends[1] + (1.5, 0)]), Bbox([mark - 5, mark + 5])]
    front = []
    for line in axes.lines[2 * len(priced) :]:
        corners = axes.transData.transform(line.get_path().vertices)
        front = [Bbox([np.minimum(one, other) - 1, np.maximum(one, other) + 1]) for one, other in pairwise(corners)]
    room = axes.get_window_extent()
    room = Bbox([[room.x0 + 2, room.y0 + 2], [room.x1 + 6, room.y1 + 8]])
    marks = {arm.name: axes.transData.transform((price, 100 * _top1(arm).value)) for arm, price in priced}
    for arm, price in priced:
        for avoided, (part, across, up, side, level) in product(([*taken, *front], taken), AROUND):
            text = axes.annotate(
                short(arm.name, 20),
                (price, 100 * getattr(_top1(arm), part)),
                (across, up),
                textcoords="offset points",
                ha=side,
                va=level,
                fontsize=8.5,
            )
            box = text.get_window_extent()
            inside = room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1
            nearest = min(marks, key=lambda name: _distance(box, marks[name]))
            if inside and nearest == arm.name and not any(box.overlaps(other) for other in avoided):
                text.set_bbox({"fc": PAPER, "ec": "none", "pad": 0.5})
                text.set_zorder(0.5)  # above the front, below all marks
                taken.append(box)
                named.add(arm.name)
                break
            text.remove()
    return named


def _distance(box: Bbox, mark: np.ndarray) -> float:
    """From a box to a mark."""
    return float(np.hypot(*np.maximum(0, np.maximum(box.min - mark, mark - box.max))))


def _top1(arm: ArmFinding) -> Interval:
    assert arm.top1 is not None
    return arm.top1


def _legend_columns(width: float) -> int:
    return 3 if width == WIDE else 1


def _legend_height(arms: Sequence[ArmFinding], width: float) -> float:
    return 0.2 * -(-len(arms) // _legend_columns(width))


def _legend(figure: Figure, arms: Sequence[ArmFinding], of_arm: dict[str, Look], width: float, lines: bool) -> None:
    handles = []
    for arm in arms:
        look = of_arm[arm.name]
        style = {"ls": look.dashes, "lw": 1.8} if lines else {"ls": "", "marker": look.marker, "ms": 5.5, "mew": 1.4}
        handles.append(Line2D([], [], color=look.colour, label=short(arm.name, 30), **style))
    figure.legend(handles=handles, loc="outside lower left", ncols=_legend_columns(width))


def _curves(arms: list[ArmFinding], of_arm: dict[str, Look], width: float) -> Figure:
    """A thin line a run, a bold one for an arm's mean, named at its end."""
    arms = [arm for arm in arms if any(run.curve for run in arm.runs)]
    kinds: list[tuple[str, Callable[[Epoch], float | None]]] = [("Training loss, nats", lambda epoch: epoch.loss)]
    if any(epoch.top1 is not None for arm in arms for run in arm.runs for epoch in run.curve):
        kinds.append(("Selection top-1, %", lambda epoch: None if epoch.top1 is None else 100 * epoch.top1))
    beside = len(arms) <= LABELLED and all(len(short(arm.name, 99)) <= 20 for arm in arms)
    rows, columns = (1, len(kinds)) if width == WIDE else (len(kinds), 1)
    height = 2.5 * rows + (0 if beside else 0.1 + _legend_height(arms, width))
    figure = Figure(figsize=(width, height))
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for panel, (name, value) in zip(panels, kinds, strict=True):
        ends = _lines(panel, arms, of_arm, value)
        panel.set_title(name)
        panel.set_xlabel("Epoch")
        if beside:
            _name_ends(panel, ends, of_arm)
    if not beside:
        _legend(figure, arms, of_arm, width, lines=True)
    return figure


def _lines(
    axes: Axes, arms: list[ArmFinding], of_arm: dict[str, Look], value: Callable[[Epoch], float | None]
) -> dict[str, tuple[int, float]]:
    """Draw the lines of all arms; hands back where each mean ends."""
    ends = {}
    for arm in sorted(arms, key=lambda arm: arm.role != "control"):
        look = of_arm[arm.name]
        lines = [np.array([value(epoch) for epoch in run.curve], dtype=float) for run in arm.runs if run.curve]
        for line in lines if len(lines) > 1 else []:
            axes.plot(range(1, len(line) + 1), line, lw=0.5, alpha=0.45, color=look.colour, ls=look.dashes)
        whole = min(map(len, lines))
        mean = np.mean([line[:whole] for line in lines], axis=0)
        dot = "o" if whole == 1 else ""
        axes.plot(range(1, whole + 1), mean, lw=1.7, color=look.colour, ls=look.dashes, marker=dot)
        if np.isfinite(mean[-1]):
            ends[arm.name] = whole, float(mean[-1])
    longest = max((len(run.curve) for arm in arms for run in arm.runs), default=1)
    axes.set_xlim(1 if longest > 1 else 0.5, max(longest, 1.5))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return ends


def _name_ends(axes: Axes, ends: dict[str, tuple[int, float]], of_arm: dict[str, Look]) -> None:
    """Names at the right, as far apart as letters need, each joined to the end of its line."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    axes.set_ylim(low, high)
    names = sorted(ends, key=lambda name: ends[name][1])
    gap = 0.078 * (high - low)
    places: list[float] = []
    for name in names:
        places.append(max(ends[name][1], places[-1] + gap) if places else ends[name][1])
    limit = high
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - gap
    for name, place in zip(names, places, strict=True):
        last, value = ends[name]
        start, end = right + 0.02 * (right - left), right + 0.09 * (right - left)
        axes.plot([last, start, end], [value, value, place], color=of_arm[name].colour, lw=0.7, clip_on=False)
        axes.text(end + 0.02 * (right - left), place, short(name, 20), va="center", fontsize=8.5)


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
    axes.set_xlabel("Right answers, % of the class's test images" if wide else "Right answers, %")
    figure.legend(loc="outside upper left", ncols=2 if wide else 1)
    return figure
