"""Figures as people write them, each with its unit."""

from __future__ import annotations

from collections.abc import Sequence
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

SETTLED = ("better", "worse", "as good")
"""The outcomes that answer the question."""

QUESTIONS = ("arm", "against", "difference, points", "interval, points", "level", "shown")
"""What the columns of the table of questions are called."""

CLASSES = ("class", "test images", "right, first", "right, second", "difference, points")
"""What the columns of the table of classes are called."""

NO_VERDICT = "No verdict yet"
WHY_NO_VERDICT = "no two arms that are compared have a finished run in common."

CONTROLS = (
    "Controls are the same body with no mixing over patches (what mixing is worth at all), or with a random mixing that is "
    "never trained."
)
EXTERNAL = "An external network has a body of its own: more than the mixer differs."

RUNS = ("arm", "run", "top-1", "loss", "test images", "training")
"""What the columns of the table of runs are called."""


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
    if published(findings):
        cells.append(f"{100 * arm.published[0]:.1f} % ({arm.published[1]})" if arm.published else "")
    return cells


def headings(findings: Findings) -> list[str]:
    """What the columns of the table of arms are called."""
    names = [
        "arm",
        "top-1 (95 % interval)",
        "parameters",
        "operations",
        "latency",
        "throughput",
        "training",
        "memory",
    ]
    return [*names, "runs", *(["published top-1, not measured here"] if published(findings) else [])]


def question(comparison: Comparison) -> list[str]:
    """A comparison's row in the table; its cells belong to `QUESTIONS`."""
    its = comparison.difference
    return [
        comparison.arm,
        comparison.against,
        points(its.value),
        f"{points(its.low)} to {points(its.high)}",
        f"{100 * its.level:.4g} %",
        OUTCOMES[comparison.outcome],
    ]


def run_name(key: tuple[int, int | None]) -> str:
    """What a run is called in its study: seed 0, fold 2."""
    seed, fold = key
    return f"seed {seed}" if fold is None else f"seed {seed}, fold {fold}"


def runs(findings: Findings) -> list[list[str]]:
    """A row a finished run; its cells belong to `RUNS`."""
    return [
        [
            arm.name,
            run_name((run.seed, run.fold)),
            f"{100 * run.top1:.2f} %",
            f"{run.loss:.3f} nats",
            f"{run.images:,}",
            duration(run.seconds),
        ]
        for arm in findings.arms
        for run in arm.runs
    ]


def scale(arms: Sequence[ArmFinding]) -> tuple[float, float]:
    """From where to where the shares of all arms reach, with their intervals."""
    done = [arm.top1 for arm in arms if arm.top1 is not None]
    low, high = min((its.low for its in done), default=0.0), max((its.high for its in done), default=1.0)
    return (low, high) if high > low else (low - 0.01, high + 0.01)


def published(findings: Findings) -> bool:
    """Whether any arm has a published figure."""
    return any(arm.published for arm in findings.arms)


def notes(findings: Findings) -> list[str]:
    """What has to be said under the table of arms."""
    roles = {arm.role for arm in findings.arms}
    said = [CONTROLS] * ("control" in roles) + [EXTERNAL] * ("external" in roles)
    if findings.measured_on:
        said.append(f"Latency (one image, median) and throughput (batches) measured on: {findings.measured_on}.")
    said.append(
        "FLOPs are of one prediction; a multiply-add counts two. Training: the median run. Memory: the whole process, the largest run."
    )
    return said


def rights(one: float, other: float) -> list[str]:
    """Two arms' shares of a class, and their difference."""
    return [f"{100 * one:.1f} %", f"{100 * other:.1f} %", points(one - other)]


def disputed(right: str, wrong: str, count: int, shown: int) -> str:
    """What a list of disputed images is called."""
    cut = f", {shown} shown" if shown < count else ""
    return f"{right} is right, {wrong} is not ({count:,} image{'s' if count != 1 else ''}{cut})"


def network(arm: ArmFinding) -> list[str]:
    """What an arm is, what was searched for it, what sets it apart."""
    return [arm.network, *(f"{name} {value} (searched)" for name, value in arm.tuned.items()), *arm.differs]
