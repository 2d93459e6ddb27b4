"""What a report is made of: headings, sentences, tables, figures. The page and the Markdown both render these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ffvit.pages.drawing import Plot
from ffvit.study.findings import DisagreementImage


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the report's title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Sentences, with a link (words, address) after them if there is one."""

    text: str
    style: Literal["", "headline", "withheld headline", "verdict", "soft"] = ""
    link: tuple[str, str] | None = None


@dataclass(frozen=True)
class Items:
    """A list, a sentence an item."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Terms:
    """Names, each with what there is to say of it."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Note:
    """What must not be overlooked, in a box."""

    kind: Literal["exploratory", "warning", "missing"]
    title: str
    items: tuple[str, ...]


@dataclass(frozen=True)
class Statements:
    """Direction and size of a comparison, side by side: name, value, reason, and whether it is shown or withheld."""

    statements: tuple[tuple[str, str, str, Literal["shown", "not-shown", "withheld"]], ...]


@dataclass(frozen=True)
class Table:
    """A table: a row maps headings to cells, and all rows have the same headings.

    Attributes:
        label: What it shows, for people who hear the page.
        rows: One or more.
        words: Headings of the columns of words after the first; all others are numbers.
        styles: One a row, if rows differ: `main`, `control`, or nothing.
        wide: Whether it may be wider than the column of text.
    """

    label: str
    rows: tuple[Mapping[str, str], ...]
    words: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    wide: bool = False

    @property
    def columns(self) -> list[tuple[str, bool]]:
        """Each column's heading, and whether it holds words."""
        return [(heading, place == 0 or heading in self.words) for place, heading in enumerate(self.rows[0])]


@dataclass(frozen=True)
class Figure:
    """A drawing and what it shows."""

    drawn: Plot
    caption: str


@dataclass(frozen=True)
class Pictures:
    """Images of the data set on which two arms disagree."""

    images: tuple[DisagreementImage, ...]


@dataclass(frozen=True)
class Code:
    """Text to be copied as it is."""

    text: str
    language: Literal["sh", "yaml"]


@dataclass(frozen=True)
class Details:
    """What is folded away until it is asked for."""

    summary: str
    blocks: tuple[Block, ...]
    open: bool = False


Block = Heading | Paragraph | Items | Terms | Note | Statements | Table | Figure | Pictures | Code | Details
