"""What the terminal shows at the end of a study: notes, the verdict, tables, what to do next."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ffvit.study.findings import Findings
from ffvit.study.report import formatting

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
        *_note(formatting.EXPLORATORY, findings.exploratory, "bold yellow"),
        *_note(formatting.WARNINGS, findings.warnings, "yellow"),
        *_verdict(findings),
        _arms(findings),
        Text(),
        *_baselines(findings),
        *_comparisons(findings),
        *_note(formatting.MISSING, missing, "bold"),
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
    if not findings.comparisons:
        yield from (Text(formatting.NO_VERDICT, style="bold"), Text(formatting.WHY_NO_VERDICT), Text())
        return
    main = findings.comparisons[0]
    yield from (Text(main.headline, style="dim" if main.withheld else "bold"), Text(main.words), Text())


def _table(headings: Sequence[str], numbers: Iterable[int]) -> Table:
    """A table whose numbers are never cut: columns of words give way."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column, heading in enumerate(headings):
        number = column in numbers
        table.add_column(heading, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def _arms(findings: Findings) -> Table:
    all_done = all(len(arm.runs) == arm.planned for arm in findings.arms)
    runs_heading = () if all_done else ("runs",)
    headings = ("arm", "top-1 %, 95 %", *runs_heading, "parameters", "FLOPs", "latency", "training")
    table = _table(headings, range(1, len(headings)))
    for arm in findings.arms:
        name, top1, _, parameters, flops, latency, _, training, *_ = formatting.arm_row(arm, findings)
        top1, flops = top1.replace(" %", "").replace(" to ", "-"), flops.removesuffix("FLOPs")
        runs = () if all_done else (f"{len(arm.runs)} of {arm.planned}",)
        style = "dim" if arm.role == "control" else ""
        table.add_row(Text(name, style=style), top1, *runs, parameters, flops, latency, training)
    return table


def _baselines(findings: Findings) -> Iterator[RenderableType]:
    if findings.baselines:
        reached = (
            f"{its.name} {100 * its.top1.value:.1f} %{f' (beats {formatting.join(its.beats)})' if its.beats else ''}"
            for its in findings.baselines
        )
        yield Text(f"Baselines: {'; '.join(reached)}.")
        yield Text()


def _comparisons(findings: Findings) -> Iterator[RenderableType]:
    if findings.comparisons:
        table = _table(("comparison", "points", "interval", "level", "direction", "size"), (1, 2, 3))
        for comparison in findings.comparisons:
            arm, reference, value, interval, level, _, direction, size = formatting.comparison_row(comparison)
            style = "bold" if comparison.main else "dim" if comparison.withheld else ""
            table.add_row(Text(f"{arm} against {reference}"), value, interval, level, direction, size, style=style)
        yield from (table, Text())


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
