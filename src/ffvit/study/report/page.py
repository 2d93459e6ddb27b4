"""The report as one HTML page that needs no network."""

from __future__ import annotations

import base64
import re
import struct
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ffvit.study.findings import Findings
from ffvit.study.report import figures as figures_
from ffvit.study.report import words
from ffvit.study.report.drawing import Drawn

SMALL = 64
"""Pictures of fewer pixels a side are shown pixel by pixel."""


def page(findings: Findings, figures: dict[str, Drawn]) -> str:
    """The page; whatever came from outside is escaped."""
    here = files("ffvit.study.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "question": words.question,
        "picture": _data_address,
        "pixels": _pixels,
        "minus": _minus,
        "prose": _prose,
    }
    template = environment.from_string(here.joinpath("page.html.jinja").read_text(encoding="utf-8"))
    style = here.joinpath("style.css").read_text(encoding="utf-8")
    return template.render(
        findings=findings,
        wide={name: Markup(drawn.wide) for name, drawn in figures.items()},  # noqa: S704 (our own drawing)
        narrow={name: Markup(drawn.narrow) for name, drawn in figures.items()},  # noqa: S704 (our own drawing)
        style=Markup(style),  # noqa: S704 (our own)
        words=words,
        rows=[(arm, words.row(arm, findings)) for arm in findings.arms],
        scale=words.scale(findings.arms),
        classes=figures_.CLASSES,
    )


def _data_address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _pixels(png: bytes) -> bool:
    """Whether a picture is so small that its pixels are what there is to see."""
    return len(png) >= 24 and max(struct.unpack(">II", png[16:24])) < SMALL


def _minus(text: str) -> str:
    """A cell of numbers with the sign that is as wide as a plus."""
    return text.replace("-", "\N{MINUS SIGN}")


def _prose(text: str) -> str:
    """Sentences in which no unit leaves its number, and minus signs are as wide as plus signs."""
    text = re.sub(r"(?<=\d) (?=%|points?\b|seeds?\b)", "\N{NO-BREAK SPACE}", text)
    return re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text)
