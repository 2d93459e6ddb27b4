"""One block of each network as a diagram: two residual branches, each a mixer along an axis."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from ffvit.pages.drawing import short
from ffvit.plot_style import INK, MUTED, PAPER, SOFT, WIDE
from ffvit.study.findings import ArmFinding
from ffvit.study.report.drawing import ArmStyle

LENGTH = 4.4
"""From the start of one branch to the start of the next, in box heights."""


def distinct_blocks(arms: Sequence[ArmFinding]) -> dict[tuple[tuple[str, str], ...], list[ArmFinding]]:
    """The arms by their block, without networks that have other bodies."""
    by_block: dict[tuple[tuple[str, str], ...], list[ArmFinding]] = {}
    for arm in arms:
        if arm.block:
            by_block.setdefault(arm.block, []).append(arm)
    return by_block


def block_rows(arms: Sequence[ArmFinding], styles: dict[str, ArmStyle], width: float) -> Figure:
    """A row a block, with the names of the arms that have it."""
    by_block = distinct_blocks(arms)
    figure = Figure(figsize=(width, 0.85 * len(by_block)))
    axes = figure.add_subplot()
    longest = max(map(len, by_block))
    axes.set_xlim(-0.6, LENGTH * longest + 0.4)
    axes.set_ylim(-2.9 * len(by_block) + 1.6, 1.9)
    axes.set_axis_off()
    for place, (block, same) in enumerate(by_block.items()):
        _draw(axes, -2.9 * place, block, styles[same[0].name].colour, 8.5 if width == WIDE else 6.5)
        names = short(" · ".join(arm.name for arm in same), 90 if width == WIDE else 44)
        axes.text(-0.6, 1.45 - 2.9 * place, names, color=SOFT, va="center")
    return figure


def _draw(axes: Axes, y: float, block: Sequence[tuple[str, str]], colour: str, size: float) -> None:
    """Tokens run from left to right; above each branch, the line that carries its input past it."""
    end = LENGTH * len(block)
    arrow = {"arrowstyle": "->", "color": MUTED, "lw": 1}
    axes.annotate("", (end + 0.4, y), (-0.6, y), arrowprops=arrow)
    for number, (mixer, axis) in enumerate(block):
        left = LENGTH * number
        right = left + LENGTH - 0.5
        axes.plot([left, left, right, right], [y, y + 0.85, y + 0.85, y + 0.25], color=MUTED, lw=1)
        box = FancyBboxPatch(
            (left + 0.35, y - 0.5),
            LENGTH - 1.55,
            1.0,
            "round,pad=0,rounding_size=0.15",
            ec=colour,
            fc=PAPER,
            lw=1.3,
            zorder=4,
        )
        axes.add_patch(box)
        text = f"{short(mixer, 14)}\nover {axis}"
        axes.text(left + LENGTH / 2 - 0.43, y, text, ha="center", va="center", fontsize=size, color=INK, zorder=5)
        axes.plot(right, y, "o", ms=11 if size > 7 else 8, mec=MUTED, mfc=PAPER, mew=1, zorder=4)
        axes.text(right, y, "+", ha="center", va="center_baseline", fontsize=size, color=INK, zorder=5)
