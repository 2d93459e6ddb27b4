"""A section of the page, and what all of them are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from ffvit.insight.findings import Inspection, NetworkFindings
from ffvit.pages.drawing import inline_drawing


@dataclass(frozen=True)
class Drawing:
    """A picture, drawn as SVG, with its title and what is said beside it."""

    title: str
    svg: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """One question.

    Attributes:
        name: To link to.
        title: The question.
        reading: How its pictures are read, a paragraph each.
        drawings: The pictures.
        seen: What these say here, in numbers.
        source: What it is from.
    """

    name: str
    title: str
    reading: tuple[str, ...]
    drawings: tuple[Drawing, ...]
    seen: str = ""
    source: str = ""


def draw(name: str, title: str, alt: str, make: Callable[[], Figure], note: str = "") -> Drawing:
    """A picture, drawn."""
    return Drawing(title, inline_drawing(name, alt, make), note)


def draw_each(
    inspection: Inspection, name: str, alt: str, make: Callable[[NetworkFindings], Figure]
) -> tuple[Drawing, ...]:
    """One picture a network."""
    return tuple(
        draw(f"{name}-{number}", network.name, f"{network.name}: {alt}", partial(make, network))
        for number, network in enumerate(inspection.networks)
    )


def blocks(count: int) -> str:
    """So many blocks, in words."""
    return f"{count} block{'s' * (count != 1)}"


def image_count(inspection: Inspection, part: str) -> str:
    """From how many images a part of the inspection is, in words."""
    counts = {getattr(network.images, part) for network in inspection.networks}
    return f"{' and '.join(f'{count:,}' for count in sorted(counts))} images"


def sentence(parts: list[str]) -> str:
    """What is seen here, in one sentence; nothing where there is nothing to say."""
    text = "; ".join(parts)
    return f"Here: {text}." if text else ""
