"""Drawings of a page: SVG that takes the page's colours, light or dark, and the same as files on white."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from ffvit.plot_style import ARMS, INK, MUTED, NARROW, PAPER, SOFT, STYLE, WIDE

ON_PAGE = {INK: "currentColor", SOFT: "var(--soft)", PAPER: "var(--paper)", MUTED: "var(--muted)"} | {
    colour: f"var(--arm-{number})" for number, colour in enumerate(ARMS)
}
"""The page's names of the inks; `style.css` has a light and a dark value of each."""


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


def inline_drawing(name: str, alt: str, make: Callable[[], Figure]) -> str:
    """Draw a figure as part of a page, in one width only."""
    with _quietly(), mpl.rc_context({**STYLE, "svg.hashsalt": f"ffvit-{name}"}):
        return _inline(_svg(lay_out(make())), alt)


def short(name: str, length: int) -> str:
    """A name in one line that fits, without the signs that no letter stands for."""
    name = " ".join("".join(sign if sign.isprintable() else " " for sign in name).split())
    return name if len(name) <= length else name[: length - 1].rstrip() + "…"


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
