"""What the terminal shows at the end of a study: notes, the verdict, tables, what to do next."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Literal

import rich.table
from rich.console import Group, RenderableType
from rich.text import Text

from ffvit.study.findings import Findings
from ffvit.study.formatting import join
from ffvit.study.report import content, tables
from ffvit.study.report.blocks import Table
from ffvit.terminal import percent

COMMAND_WIDTH = 72
"""Longer commands are continued on the next line with a backslash, so that they can be copied."""

MISSING_SHOWN = 10


def summary_table(findings: Findings) -> Group:
    """The findings, at 80 columns and without colour, for `rich.console.Console().print(..., crop=False)`."""
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
            line = rich.table.Table.grid(padding=(0, 1, 0, 0))
            line.add_row(Text("  -"), Text(item))
            yield line
        yield Text()


def _verdict(findings: Findings) -> Iterator[RenderableType]:
    if findings.comparisons:
        main = findings.comparisons[0]
        yield from (Text(main.headline, style="dim" if main.withheld else "bold"), Text(main.words), Text())
    else:
        yield from (Text(content.NO_VERDICT, style="bold"), Text(content.WHY_NO_VERDICT), Text())


def _table(table: Table, headings: Mapping[str, str]) -> Iterator[RenderableType]:
    """Some columns of a table, by heading with a shorter heading; only the first column gives way."""
    shown = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, (heading, words) in enumerate(column for column in table.columns if column[0] in headings):
        justify: Literal["left", "right"] = "left" if words else "right"
        shown.add_column(headings[heading], justify=justify, no_wrap=number > 0, overflow="fold")
    for row, style in zip(table.rows, table.styles, strict=True):
        cells = (_short(cell) for heading, cell in row.items() if heading in headings)
        shown.add_row(*map(Text, cells), style={"main": "bold", "control": "dim"}.get(style))
    yield from (shown, Text())


def _short(cell: str) -> str:
    """96.8 % (95.5 to 97.8) as 96.8 (95.5-97.8), 2 of 3, 1 failed as 2 of 3, 4.9 MFLOPs as 4.9 M."""
    if accuracy := re.fullmatch(r"([\d.]+) % \(([\d.]+) to ([\d.]+)\)", cell):
        return "{} ({}-{})".format(*accuracy.groups())
    return re.sub(r", \d+ failed$|FLOPs$", "", cell)


def _arms(findings: Findings) -> Iterator[RenderableType]:
    all_done = all(len(arm.runs) == arm.planned for arm in findings.arms)
    shown = ("arm", *(() if all_done else ("runs",)), "parameters", "FLOPs", "latency", "training")
    return _table(tables.arms(findings), {tables.TOP1: "top-1 %, 95 %"} | {heading: heading for heading in shown})


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
        rows = ({"comparison": f"{row['arm']} against {row['reference']}", **row} for row in full.rows)
        shown = {"difference, points": "points", "interval, points": "interval"}
        shown |= {heading: heading for heading in ("comparison", "level", "direction", "size")}
        yield from _table(replace(full, rows=tuple(rows)), shown)


def _next(findings: Findings) -> Iterator[RenderableType]:
    if findings.next:
        yield Text("What next:", style="bold")
        for purpose, command in findings.next:
            yield Text(f"  {purpose}:")
            for line in _continued(command):  # a path longer than the line stays whole: broken, it could not be copied
                yield Text(f"    {line}", style="cyan", no_wrap=True, overflow="ignore")
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
