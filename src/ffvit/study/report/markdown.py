"""The report as GitHub's Markdown, with the figures beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ffvit.study.report.blocks import (
    Block,
    Code,
    Details,
    Figure,
    Heading,
    Items,
    Note,
    Paragraph,
    Pictures,
    Statements,
    Table,
    Terms,
)


def markdown(blocks: Iterable[Block]) -> str:
    """The report; whatever came from outside stays text."""
    return "\n".join(line for block in blocks for line in (*_lines(block), "")).rstrip("\n") + "\n"


def plain(text: str) -> str:
    """Text that Markdown leaves as it is, in a table too."""
    text = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|*_\[\]`#~$])", r"\\\1", text)


def _lines(block: Block) -> Iterator[str]:
    match block:
        case Heading(text, level):
            yield f"{'#' * level} {plain(text)}"
        case Paragraph(text, style, link):
            strong = "**" if "headline" in style else ""
            source = f" [{plain(link[0])}]({link[1]})" if link else ""
            yield f"{strong}{plain(text)}{strong}{source}"
        case Items(items):
            yield from (f"- {plain(item)}" for item in items)
        case Terms(pairs):
            yield from (f"- **{plain(name)}**: {plain(what)}" for name, what in pairs)
        case Note(kind, title, items):
            yield from (f"> [!{'NOTE' if kind == 'missing' else 'WARNING'}]", f"> **{plain(title)}**", ">")
            yield from (f"> - {plain(item)}" for item in items)
        case Statements(statements):
            for name, value, reason, _ in statements:
                yield f"- {name}: **{value}**{f' ({plain(reason)})' if reason else ''}"
        case Table():
            yield from _table(block)
        case Figure(drawn, caption):
            yield from (f"![{plain(drawn.title)}](figures/{drawn.name}.png)", "", plain(caption))
        case Pictures(images):
            rows = ({"image": image.name, "label": image.label, "predicted": image.predicted} for image in images)
            yield from _table(Table("", tuple(rows), words=("label", "predicted")))
        case Code(text, language):
            fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=2))
            yield from (f"{fence}{language}", text, fence)
        case Details(summary, blocks, is_open):
            yield f"<details{' open' * is_open}><summary>{plain(summary)}</summary>"
            for part in blocks:
                yield from ("", *_lines(part))
            yield from ("", "</details>")


def _table(table: Table) -> Iterator[str]:
    yield _row(heading for heading, _ in table.columns)
    yield "|" + "|".join("---" if words else "---:" for _, words in table.columns) + "|"
    yield from (_row(row.values()) for row in table.rows)


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(map(plain, cells)) + " |"
