"""What the terminal shows at the end of a study: notes, the verdict, tables, what to do next."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ffvit.study.findings import Findings
from ffvit.study.formatting import join, percent
from ffvit.study.report import content, tables

COMMAND_WIDTH = 72
"""Longer commands are continued on the next line with a backslash, so that they can be copied."""

MISSING_SHOWN = 10


def summary_table(findings: Findings) -> Group:
    """The findings for `rich.console.Console().print`, at 80 columns and without colour."""
    missing = findings.missing[:MISSING_SHOWN]
    if (rest := len(findings.missing) - len(missing)) > 0:
        missing = (*missing, f"and {rest} more")
    return Group(
        Text(),
        *_note(content.EXPLORATORY, findings.exploratory, "bold yellow"),
        *_note(content.WARNINGS, findings.warnings, "yellow"),
        *_verdict(findings),
        *_arms(findings),
        *_baselines(findings),
        *_comparisons(findings),
        *_note(content.MISSING, missing, "bold"),
        *_next(findings),
    )


def _note(title: str, items: Iterable[str], style: str) -> Iterator[RenderableType]:
    items = list(items)
    if items:
        yield Text(f"{title}:", style=style)
        for item in items:
            line = Table.grid(padding=(0, 1, 0, 0))
            line.add_row(Text("  -"), Text(item))
            yield line
        yield Text()


def _verdict(findings: Findings) -> Iterator[RenderableType]:
    if findings.comparisons:
        main = findings.comparisons[0]
        yield from (Text(main.headline, style="dim" if main.withheld else "bold"), Text(main.words), Text())
    else:
        yield from (Text(content.NO_VERDICT, style="bold"), Text(content.WHY_NO_VERDICT), Text())


def _table(
    rows: Iterable[Mapping[str, str]], styles: Iterable[str], words: tuple[str, ...] = ()
) -> Iterator[RenderableType]:
    """A table whose numbers are never cut: the first column, and those of `words`, give way."""
    rows = list(rows)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for place, heading in enumerate(rows[0]):
        number = place > 0 and heading not in words
        table.add_column(heading, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row, style in zip(rows, styles, strict=True):
        table.add_row(*(Text(cell) for cell in row.values()), style=style)
    yield from (table, Text())


def _arms(findings: Findings) -> Iterator[RenderableType]:
    all_done = all(len(arm.runs) == arm.planned for arm in findings.arms)
    rows = []
    for row, arm in zip(tables.arms(findings).rows, findings.arms, strict=True):
        short = {"arm": row["arm"], "top-1 %, 95 %": row[tables.TOP1].replace(" %", "").replace(" to ", "-")}
        if not all_done:
            short["runs"] = f"{len(arm.runs)} of {arm.planned}"
        rows.append(
            short
            | {"parameters": row["parameters"], "FLOPs": row["FLOPs"].removesuffix("FLOPs")}
            | {"latency": row["latency"], "training": row["training"]}
        )
    return _table(rows, ("dim" if arm.role == "control" else "" for arm in findings.arms))


def _baselines(findings: Findings) -> Iterator[RenderableType]:
    if findings.baselines:
        reached = (
            f"{baseline.name} {percent(baseline.top1.value)}{f' (beats {join(baseline.beats)})' if baseline.beats else ''}"
            for baseline in findings.baselines
        )
        yield from (Text(f"Baselines: {'; '.join(reached)}."), Text())


def _comparisons(findings: Findings) -> Iterator[RenderableType]:
    if findings.comparisons:
        full = tables.comparisons(findings)
        rows = [
            {
                "comparison": f"{row['arm']} against {row['reference']}",
                "points": row["difference, points"],
                "interval": row["interval, points"],
                "level": row["level"],
                "direction": row["direction"],
                "size": row["size"],
            }
            for row in full.rows
        ]
        styles = ({"main": "bold", "control": "dim"}.get(style, "") for style in full.styles)
        yield from _table(rows, styles, words=("direction", "size"))


def _next(findings: Findings) -> Iterator[RenderableType]:
    if findings.next:
        yield Text("What next:", style="bold")
        for purpose, command in findings.next:
            yield Text(f"  {purpose}:")
            yield from (Text(f"    {line}", style="cyan") for line in _continued(command))
        yield Text()


def _continued(command: str) -> Iterator[str]:
    """A command in lines that a shell reads as one; quoted words stay whole."""
    line = ""
    for word in re.findall(r"""(?:'[^']*'|"[^"]*"|\S)+""", command):
        if line and len(line) + len(word) + 1 > COMMAND_WIDTH:
            yield f"{line} \\"
            line = f"  {word}"
        else:
            line = f"{line} {word}" if line else word
    yield line
