"""The report as one HTML page that needs no network."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterable
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from ffvit.study import formatting
from ffvit.study.report.blocks import Block

SMALL = 64
"""Pictures of fewer pixels a side are shown pixel by pixel."""


def page(title: str, blocks: Iterable[Block]) -> str:
    """The page; whatever came from outside is escaped."""
    here = files("ffvit.study.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "kind": lambda block: type(block).__name__,
        "picture": _data_address,
        "pixels": _pixels,
        "minus": formatting.minus,
        "prose": _prose,
    }
    template = environment.from_string(here.joinpath("page.html.jinja").read_text(encoding="utf-8"))
    style = files("ffvit.pages").joinpath("style.css").read_text(encoding="utf-8")
    return template.render(title=title, blocks=list(blocks), style=style)


def _data_address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _pixels(png: bytes) -> bool:
    """Whether a picture is so small that its pixels are what there is to see."""
    return len(png) >= 24 and max(struct.unpack(">II", png[16:24])) < SMALL


def _prose(text: str) -> str:
    """Sentences in which no unit leaves its number, and minus signs are as wide as plus signs."""
    return formatting.minus(re.sub(r"(?<=\d) (?=%|points?\b|seeds?\b)", "\N{NO-BREAK SPACE}", text))
