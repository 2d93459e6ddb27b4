"""Figures as people write them, each with its unit."""

from __future__ import annotations

from statistics import median

from ffvit.study.findings import ArmFinding, Comparison, Findings
from ffvit.study.statistics import Interval
from ffvit.study.verdict import points
from ffvit.training.progress import duration

OUTCOMES = {
    "better": "better",
    "worse": "worse",
    "as good": "as good",
    "not worse": "no worse than the margin",
    "open": "not settled",
}
"""What a comparison showed, in a cell of a table."""


def interval(top1: Interval | None) -> str:
    """71.3 % (70.2 to 72.4)."""
    if top1 is None:
        return "not done"
    return f"{100 * top1.value:.1f} % ({100 * top1.low:.1f} to {100 * top1.high:.1f})"


def large(number: int, unit: str = "") -> str:
    """A count with three digits: 5.72 M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}{unit}"
    return f"{number:.3g} {unit}".strip()


def training_time(arm: ArmFinding) -> float | None:
    """Seconds of a run, the median."""
    return median(run.seconds for run in arm.runs) if arm.runs else None


def peak_memory(arm: ArmFinding) -> float | None:
    """MiB, the largest of the runs."""
    return max((run.peak_memory for run in arm.runs if run.peak_memory is not None), default=None)


def row(arm: ArmFinding, findings: Findings) -> list[str]:
    """An arm's row in the table; its cells belong to `headings`."""
    cost, time, memory = arm.cost, training_time(arm), peak_memory(arm)
    done = f"{len(arm.runs)} of {arm.planned}" if len(arm.runs) < arm.planned else str(len(arm.runs))
    cells = [
        arm.name,
        interval(arm.top1),
        large(arm.parameters),
        large(arm.flops, "FLOPs"),
        f"{1e3 * cost.latency:.3g} ms" if cost else "",
        f"{cost.throughput:,.0f} images/s" if cost else "",
        duration(time) if time is not None else "",
        f"{memory:,.0f} MiB" if memory is not None else "",
        done,
    ]
    if _published(findings):
        cells.append(f"{100 * arm.published[0]:.1f} % ({arm.published[1]})" if arm.published else "")
    return cells


def headings(findings: Findings) -> list[str]:
    """What the columns of the table of arms are called."""
    names = [
        "arm",
        "top-1 (95 % interval)",
        "parameters",
        "a prediction",
        "latency",
        "throughput",
        "training",
        "memory",
    ]
    return [*names, "runs", *(["published top-1"] if _published(findings) else [])]


def difference(comparison: Comparison) -> str:
    """-0.7 points (95 % interval -1.5 to +0.1)."""
    its = comparison.difference
    return f"{points(its.value)} points ({100 * its.level:.3g} %: {points(its.low)} to {points(its.high)})"


def _published(findings: Findings) -> bool:
    return any(arm.published for arm in findings.arms)
