"""What the terminal shows at the end of a study: the verdict, the table of arms."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ffvit.study.findings import Findings
from ffvit.study.report import words


def summary_table(findings: Findings) -> Group:
    """The findings for `rich.console.Console().print`, at 80 columns and without colour."""
    parts: list[RenderableType] = [Text()]
    if findings.comparisons:
        first = findings.comparisons[0]
        parts += [Text(first.headline, style="bold"), Text(first.words), Text()]
    else:
        parts += [Text(f"{words.NO_VERDICT}: {words.WHY_NO_VERDICT}", style="bold"), Text()]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("arm", overflow="fold")
    for heading in ("top-1 %, 95 %", "parameters", "FLOPs", "latency", "training"):
        table.add_column(heading, justify="right", no_wrap=True)
    for arm in findings.arms:
        _, top1, parameters, flops, latency, _, training, *_ = words.row(arm, findings)
        name = Text(arm.name, style="dim" if arm.role == "control" else "")
        name.append(f" ({arm.role})" if arm.role != "arm" else "")
        cells = (
            top1.replace(" %", "").replace(" to ", "-"),
            parameters,
            flops.removesuffix("FLOPs"),
            latency,
            training,
        )
        table.add_row(name, *cells)
    parts.append(table)
    for comparison in findings.comparisons[1:]:
        parts += [Text(), Text(comparison.headline, style="bold"), Text(comparison.words)]
    if findings.missing:
        parts += [Text(), Text("Missing:", style="bold"), *(Text(f"  {each}") for each in findings.missing[:10])]
        if len(findings.missing) > 10:
            parts.append(Text(f"  and {len(findings.missing) - 10} more"))
    return Group(*parts, Text())
