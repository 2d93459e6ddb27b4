"""How figures look: colours, one style an arm, and SVG that takes the page's colours, light or dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ffvit.plot_style import ARMS, INK, MUTED, NARROW, PAPER, SOFT, STYLE, WIDE
from ffvit.study import formatting
from ffvit.study.findings import ArmFinding
from ffvit.study.statistics import Interval

ON_PAGE = {INK: "currentColor", SOFT: "var(--soft)", PAPER: "var(--paper)", MUTED: "var(--muted)"} | {
    colour: f"var(--arm-{number})" for number, colour in enumerate(ARMS)
}
"""The page's names of the inks; `style.css` has a light and a dark value of each."""

MARKERS = ("o", "s", "^", "D", "v", "P")
CONTROL_MARKERS = ("+", "x", "1", "2")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.6)), (0, (1.4, 1.2)), (0, (6, 1.4, 1.4, 1.4)))


@dataclass(frozen=True)
class Plot:
    """A figure, drawn.

    Attributes:
        name: Its file's.
        title: What it shows.
        alt: What it says, for people who cannot see it.
        svg: As a file, on white.
        wide: As part of a page, whose colours it takes.
        narrow: The same laid out for a phone.
        png: As a picture on white.
    """

    name: str
    title: str
    alt: str
    svg: str
    wide: str
    narrow: str
    png: bytes


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


def make_plot(name: str, title: str, alt: str, make: Callable[[float], Figure]) -> Plot:
    """Draw a figure at both widths; `make` takes the width in inches."""
    with _quietly(), mpl.rc_context({**STYLE, "svg.hashsalt": f"ffvit-{name}-narrow"}):
        narrow = _svg(lay_out(make(NARROW)))
    with _quietly(), mpl.rc_context({**STYLE, "svg.hashsalt": f"ffvit-{name}"}):
        figure = lay_out(make(WIDE))
        wide = _svg(figure)
        figure.set_facecolor("white")
        figure.set_dpi(180)
        picture = io.BytesIO()
        FigureCanvasAgg(figure).print_png(picture, metadata={"Software": None})
    file = wide.replace("<g ", '<rect width="100%" height="100%" fill="#ffffff"/>\n <g ', 1)
    return Plot(name, title, alt, file, _inline(wide, alt), _inline(narrow, alt), picture.getvalue())


def short(name: str, length: int) -> str:
    """A name in one line that fits, without the signs that no letter stands for."""
    name = " ".join("".join(sign if sign.isprintable() else " " for sign in name).split())
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"


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


@contextmanager
def _quietly() -> Iterator[None]:
    """Letters that matplotlib's font lacks are boxes in a PNG (a page has other fonts): not worth a warning each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message=".*constrained_layout not applied")
        yield


def lay_out(figure: Figure) -> Figure:
    """The figure with everything in its place for good."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
    figure.set_layout_engine("none")
    return figure


def _svg(figure: Figure) -> str:
    # The canvas itself: `savefig` draws everything twice.
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None})
    # No wider than what it was laid out for.
    return text.getvalue().replace("'DejaVu Sans'", "'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif")


def _inline(svg: str, alt: str) -> str:
    """A drawing as part of a page: the page's colours, and nothing that could clash with another drawing's."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<style[^>]*>.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"(fill|stroke): (#[0-9a-f]{6})", lambda match: f"{match[1]}: {ON_PAGE.get(match[2], match[2])}", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
