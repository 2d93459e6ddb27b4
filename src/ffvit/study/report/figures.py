"""The report's figures. Each is drawn once, as SVG for the page and as files of both kinds."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ffvit.study.findings import ArmFinding, Comparison, Disagreement, Findings
from ffvit.study.report.words import training_time

INK, MUTED, BAND = "#1b1e23", "#8a9099", "#8a909930"
"""Lettering; lines and floors, which stand on white and on black alike; the margin's band."""

ARMS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""One colour an arm, told apart by colour-blind eyes too (Okabe and Ito)."""

WIDTH = 5.4
"""Inches: about a phone's width at its own size."""

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ffvit",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.visible": False,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Drawn:
    """A figure, drawn.

    Attributes:
        name: Its file's.
        title: What it shows, for people who cannot see it too.
        svg: As a file.
        inline: As part of a page, whose text colour it takes.
        png: As a picture on white.
    """

    name: str
    title: str
    svg: str
    inline: str
    png: bytes


def draw(findings: Findings) -> dict[str, Drawn]:
    """All figures there is something to draw for, by name."""
    return {drawn.name: drawn for drawn in _all(findings)}


def _all(findings: Findings) -> Iterator[Drawn]:
    colours = _colours(findings)
    if findings.comparisons:
        first = findings.comparisons[:1]
        yield _drawn("verdict", "The main difference with its interval", lambda: _differences(first, findings, False))
        if len(findings.comparisons) > 1:
            everything = findings.comparisons
            title = "All differences with their intervals"
            yield _drawn("differences", title, lambda: _differences(everything, findings, True))
        if any(len(each.per_run) > 1 for each in findings.comparisons):
            yield _drawn("runs", "The difference of each pair of runs", lambda: _per_run(findings, colours))
    finished = [arm for arm in findings.arms if arm.top1 is not None]
    if finished:
        yield _drawn("costs", "Accuracy against each cost", lambda: _costs(finished, colours))
    if any(run.curve for arm in finished for run in arm.runs):
        yield _drawn("curves", "Learning curves", lambda: _curves(finished, colours))
    if findings.disagreements and len(findings.disagreements[0].classes) > 1:
        yield _drawn("classes", "Accuracy by class", lambda: _classes(findings.disagreements[0], colours))


def _drawn(name: str, title: str, make: Callable[[], Figure]) -> Drawn:
    with mpl.rc_context(STYLE):
        figure = make()
        text, picture = io.StringIO(), io.BytesIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        figure.savefig(picture, format="png", dpi=180, facecolor="white", metadata={"Software": None})
    svg = text.getvalue()
    svg = svg.replace("'DejaVu Sans'", "'Helvetica Neue', Arial, 'DejaVu Sans'")  # no wider than it was laid out for
    inline = svg[svg.index("<svg") :].replace(INK, "currentColor")
    return Drawn(name, title, svg, inline, picture.getvalue())


def _colours(findings: Findings) -> dict[str, str]:
    colours, taken = {}, 0
    for arm in findings.arms:
        colours[arm.name] = MUTED if arm.role == "floor" else ARMS[taken % len(ARMS)]
        taken += arm.role != "floor"
    return colours


def _short(name: str, length: int = 34) -> str:
    """A name that fits; a dollar sign is no formula."""
    name = " ".join(name.split())
    return (name if len(name) <= length else name[: length - 1] + "…").replace("$", r"\$")


def _differences(comparisons: tuple[Comparison, ...], findings: Findings, named: bool) -> Figure:
    """Intervals over the margin's band and the line of no difference."""
    figure = Figure(figsize=(WIDTH, 0.75 + 0.42 * len(comparisons)))
    axes = figure.add_subplot()
    margin = 100 * findings.margin
    axes.axvspan(-margin, margin, color=BAND, lw=0)
    axes.axvline(0, color=MUTED, lw=0.8)
    for place, each in enumerate(comparisons):
        its = each.difference
        settled = each.outcome in ("better", "worse", "as good")
        axes.plot([100 * its.low, 100 * its.high], [place, place], color=INK, lw=1.6, solid_capstyle="butt")
        axes.plot(100 * its.value, place, "o", ms=6.5, mec=INK, mfc=INK if settled else "white", mew=1.4)
    axes.set_ylim(len(comparisons) - 0.4, -0.6)
    axes.set_yticks(range(len(comparisons)))
    labels = [f"{_short(each.arm, 26)} less\n{_short(each.against, 26)}" for each in comparisons]
    axes.set_yticklabels(labels if named else [])
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"difference in top-1, points (band: the margin of {margin:g})")
    low, high = axes.get_xlim()
    reach = max(abs(low), abs(high), 2 * margin)
    axes.set_xlim(-reach, reach)
    return figure


def _per_run(findings: Findings, colours: dict[str, str]) -> Figure:
    comparisons = [each for each in findings.comparisons if each.per_run]
    figure = Figure(figsize=(WIDTH, 0.75 + 0.42 * len(comparisons)))
    axes = figure.add_subplot()
    axes.axvline(0, color=MUTED, lw=0.8)
    for place, each in enumerate(comparisons):
        values = [100 * value for _, value in each.per_run]
        spread = np.linspace(-0.16, 0.16, len(values)) if len(values) > 1 else [0.0]
        axes.plot(values, place + np.asarray(spread), "o", ms=4.5, color=colours[each.arm], alpha=0.8, mew=0)
        axes.plot([100 * each.difference.value] * 2, [place - 0.28, place + 0.28], color=INK, lw=1.4)
    axes.set_ylim(len(comparisons) - 0.4, -0.6)
    axes.set_yticks(range(len(comparisons)))
    axes.set_yticklabels([f"{_short(each.arm, 26)} less\n{_short(each.against, 26)}" for each in comparisons])
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("difference in top-1 of each pair of runs, points (line: mean)")
    return figure


def _costs(arms: list[ArmFinding], colours: dict[str, str]) -> Figure:
    """Small multiples, with the front of arms that none beats in both."""
    small = all(arm.flops < 1e9 for arm in arms)
    kinds: list[tuple[str, Callable[[ArmFinding], float | None]]] = [
        ("parameters, millions", lambda arm: arm.parameters / 1e6),
        ("a prediction, MFLOPs" if small else "a prediction, GFLOPs", lambda arm: arm.flops / (1e6 if small else 1e9)),
        ("latency, ms", lambda arm: 1e3 * arm.cost.latency if arm.cost else None),
        ("training a run, s", training_time),
    ]
    kinds = [(name, cost) for name, cost in kinds if all(cost(arm) is not None for arm in arms)]
    rows = -(-len(kinds) // 2)
    figure = Figure(figsize=(WIDTH, 2.1 * rows + 0.2 + 0.16 * -(-len(arms) // 2)))
    panels = figure.subplots(rows, 2, sharey=True, squeeze=False)
    for panel in panels.flat[len(kinds) :]:
        panel.set_visible(False)
    for panel, (name, cost) in zip(panels.flat, kinds, strict=False):
        _cost(panel, arms, [cost(arm) or 0.0 for arm in arms], colours)
        panel.set_xlabel(name)
    for panel in panels[:, 0]:
        panel.set_ylabel("top-1, %")
    handles = [
        Line2D([], [], marker=_marker(arm), color=colours[arm.name], ls="", ms=5, label=_short(arm.name))
        for arm in arms
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _marker(arm: ArmFinding) -> str:
    return {"arm": "o", "guest": "D", "floor": "x" if "random" in arm.name else "+"}[arm.role]


def _cost(axes: Axes, arms: list[ArmFinding], costs: list[float], colours: dict[str, str]) -> None:
    for arm, cost in zip(arms, costs, strict=True):
        assert arm.top1 is not None
        axes.plot([cost] * 2, [100 * arm.top1.low, 100 * arm.top1.high], color=colours[arm.name], lw=1, alpha=0.6)
        axes.plot(cost, 100 * arm.top1.value, _marker(arm), ms=5, color=colours[arm.name], mew=1.2)
    best, front = -1.0, []
    for cost, value in sorted((cost, -arm.top1.value) for arm, cost in zip(arms, costs, strict=True) if arm.top1):
        if -value > best:
            best = -value
            front.append((cost, 100 * best))
    axes.plot(*zip(*front, strict=True), color=MUTED, lw=0.8, ls=(0, (3, 2)), zorder=0)
    axes.margins(x=0.12)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))


def _curves(arms: list[ArmFinding], colours: dict[str, str]) -> Figure:
    """A thin line a run, a bold one for an arm's mean."""
    scored = any(epoch.top1 is not None for arm in arms for run in arm.runs for epoch in run.curve)
    figure = Figure(figsize=(WIDTH, 2.5 + 0.16 * -(-len(arms) // 2)))
    panels = figure.subplots(1, 2 if scored else 1, squeeze=False)[0]
    kinds: list[tuple[str, Callable[[Any], float | None]]] = [("training loss, nats", lambda epoch: epoch.loss)]
    if scored:
        kinds.append(("selection top-1, %", lambda epoch: None if epoch.top1 is None else 100 * epoch.top1))
    for panel, (name, value) in zip(panels, kinds, strict=True):
        for arm in sorted(arms, key=lambda arm: arm.role != "floor"):
            style = {"color": colours[arm.name], "ls": (0, (2, 1.5)) if "random" in arm.name else "-"}
            lines = [[value(epoch) for epoch in run.curve] for run in arm.runs]
            for line in lines:
                panel.plot(range(1, len(line) + 1), np.array(line, dtype=float), lw=0.5, alpha=0.4, **style)
            shortest = min((len(line) for line in lines), default=0)
            if shortest:
                mean = np.array([line[:shortest] for line in lines], dtype=float).mean(axis=0)
                panel.plot(range(1, shortest + 1), mean, lw=1.5, label=_short(arm.name), **style)
        panel.set_xlabel("epoch")
        panel.set_title(name)
        panel.xaxis.get_major_locator().set_params(integer=True)
    handles, labels = panels[0].get_legend_handles_labels()
    order = [labels.index(_short(arm.name)) for arm in arms if _short(arm.name) in labels]
    figure.legend(
        [handles[i] for i in order], [labels[i] for i in order], loc="outside lower center", ncols=2, fontsize=8
    )
    return figure


def _classes(disagreement: Disagreement, colours: dict[str, str], most: int = 15) -> Figure:
    """The classes on which two arms differ most, a dot an arm."""
    classes = disagreement.classes[:most]
    figure = Figure(figsize=(WIDTH, 0.9 + 0.21 * len(classes)))
    axes = figure.add_subplot()
    for place, (_, _, one, other) in enumerate(classes):
        axes.plot([100 * one, 100 * other], [place, place], color=MUTED, lw=0.8, zorder=0)
    for name, side in ((disagreement.arm, 2), (disagreement.against, 3)):
        values = [100 * each[side] for each in classes]
        axes.plot(values, range(len(classes)), "o", ms=5, mew=0, color=colours[name], label=_short(name))
    axes.set_yticks(range(len(classes)))
    axes.set_yticklabels([f"{_short(name, 24)} ({images})" for name, images, _, _ in classes])
    axes.set_ylim(len(classes) - 0.4, -0.6)
    axes.tick_params(left=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("right answers, % of the class's test images (their number)")
    figure.legend(loc="outside upper left", ncols=2, fontsize=8)
    return figure
