"""The report's tables, for the page, the Markdown and the terminal alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import isfinite, nan
from statistics import fmean, median

from ffvit.study.findings import ArmFinding, Comparison, Disagreement, Findings, SearchFinding, TrialFinding
from ffvit.study.formatting import accuracy, bounds, join, large, level, margin, points, run_name
from ffvit.study.report.blocks import Table
from ffvit.terminal import percent
from ffvit.training.progress import format_duration

NOTHING = "-"
"""A cell with nothing to say."""

WITHHELD = "no conclusion"

TOP1 = "top-1 (95 % interval)"
CORRUPTED = "top-1, corrupted (95 % interval)"
CORRUPTED_DIFFERENCE = "corrupted less reference, points (95 %)"


def arm_name(arm: ArmFinding) -> str:
    """An arm's name, with its role if it has a special one."""
    return arm.name if arm.role == "arm" else f"{arm.name} ({arm.role})"


def training_time(arm: ArmFinding) -> float | None:
    """Seconds of a run, the median."""
    return median(run.seconds for run in arm.runs) if arm.runs else None


def arms(findings: Findings) -> Table:
    """What each arm reached and costs."""
    rows = [_arm(arm) for arm in findings.arms]
    if any(arm.published for arm in findings.arms):
        for row, arm in zip(rows, findings.arms, strict=True):
            published = f"{percent(arm.published[0])} ({arm.published[1]})" if arm.published else NOTHING
            row["published top-1, not measured here"] = published
    if findings.corruptions:
        rows = [_with_corrupted(row, arm) for row, arm in zip(rows, findings.arms, strict=True)]
    styles = tuple("control" if arm.role == "control" else "" for arm in findings.arms)
    return Table("The arms", tuple(rows), styles=styles, wide=True)


def _arm(arm: ArmFinding) -> dict[str, str]:
    cost, time = arm.cost, training_time(arm)
    memory = max((run.peak_memory for run in arm.runs if run.peak_memory is not None), default=None)
    done = str(len(arm.runs)) if len(arm.runs) == arm.planned else f"{len(arm.runs)} of {arm.planned}"
    return {
        "arm": arm_name(arm),
        TOP1: accuracy(arm.top1),
        "runs": f"{done}, {arm.failed} failed" if arm.failed else done,
        "parameters": large(arm.parameters),
        "FLOPs": large(arm.flops, "FLOPs"),
        "latency": f"{1e3 * cost.latency:.3g} ms" if cost else NOTHING,
        "throughput": f"{cost.throughput:,.0f} images/s" if cost else NOTHING,
        "training": format_duration(time) if time is not None else NOTHING,
        "memory": f"{memory:,.0f} MiB" if memory is not None else NOTHING,
    }


def _with_corrupted(row: dict[str, str], arm: ArmFinding) -> dict[str, str]:
    """The row with the accuracy on corrupted images after that on the images as they are."""
    difference = arm.corrupted_difference
    columns = {
        CORRUPTED: accuracy(arm.corrupted) if arm.corrupted else NOTHING,
        CORRUPTED_DIFFERENCE: f"{points(difference.value)} ({bounds(difference)})" if difference else NOTHING,
    }
    place = list(row).index(TOP1) + 1
    return dict([*list(row.items())[:place], *columns.items(), *list(row.items())[place:]])


def settings(arms: Sequence[ArmFinding]) -> tuple[dict[str, str], Table | None]:
    """The arms' own settings: those that are the same for all, and a table of the others if there are any."""
    of_arm = [dict(arm.settings) for arm in arms]
    names = dict.fromkeys(name for own in of_arm for name in own)
    values = {name: [own.get(name, NOTHING) for own in of_arm] for name in names}
    same = {name: column[0] for name, column in values.items() if len(set(column)) == 1}
    differ = [name for name in values if name not in same]
    rows = [{"arm": arm_name(arm)} | {name: values[name][place] for name in differ} for place, arm in enumerate(arms)]
    return same, Table("Settings of each arm", tuple(rows), words=tuple(differ)) if differ else None


def baselines(findings: Findings) -> Table:
    """What each baseline reaches, and which arms it beats."""
    rows = []
    for baseline in findings.baselines:
        seconds = baseline.seconds
        time = format_duration(seconds) if seconds >= 10 else f"{seconds:.1f} s" if seconds >= 0.05 else "under 0.1 s"
        beats = join(baseline.beats) or "no arm"
        rows.append({"baseline": baseline.name, TOP1: accuracy(baseline.top1), "time": time, "beats": beats})
    return Table("Baselines", tuple(rows), words=("beats",))


def comparisons(findings: Findings) -> Table:
    """Every comparison with its difference and what that shows."""
    rows = []
    for comparison in findings.comparisons:
        difference = comparison.difference
        direction, size = conclusions(comparison)
        row = {
            "arm": f"{comparison.arm} (main)" if comparison.main else comparison.arm,
            "reference": comparison.reference,
            "difference, points": points(difference.value),
            "interval, points": bounds(difference),
            "level": level(difference),
            "margin, points": margin(comparison.margin),
            "direction": direction,
            "size": size,
        }
        rows.append(row)
    styles = tuple("main" if one.main else "control" if one.withheld else "" for one in findings.comparisons)
    words = ("reference", "direction", "size")
    return Table("Every comparison", tuple(rows), words=words, styles=styles, wide=True)


def conclusions(comparison: Comparison) -> tuple[str, str]:
    """Direction and size, in a word each."""
    return (WITHHELD, WITHHELD) if comparison.withheld else (comparison.direction, comparison.size)


def more_repetitions(findings: Findings) -> Table | None:
    """What repetitions would show, of the comparisons of which it can be told."""
    rows = []
    for one in findings.comparisons:
        if one.win_again is None and one.more_seeds is None:
            continue
        fewest, most = one.more_seeds or (0, 0)
        row = {
            "arm": one.arm,
            "reference": one.reference,
            "ahead": one.arm if one.difference.value > 0 else one.reference,
            "chance that it wins again": NOTHING if one.win_again is None else f"{100 * one.win_again:.0f} %",
            "more repetitions until conclusive": NOTHING if not most else str(most) if fewest == most else f"{fewest} to {most}",
        }  # fmt: skip
        rows.append(row)
    return Table("More repetitions", tuple(rows), words=("reference", "ahead")) if rows else None


def effects(findings: Findings) -> Table:
    """Main effects and interactions of the plan's factors."""
    rows = [
        {
            "effect": effect.name,
            "kind": effect.kind,
            "points": points(effect.difference.value),
            "interval, points": bounds(effect.difference),
            "level": level(effect.difference),
        }
        for effect in findings.effects
    ]
    return Table("Effects", tuple(rows), words=("kind",))


def searches(searched: Sequence[tuple[ArmFinding, SearchFinding]]) -> Table:
    """What the search of each arm tried and chose."""
    rows = []
    for arm, search in searched:
        picked = Counter(_values(trial) for trial in search.trials if trial.chosen)
        chosen = (f"{values} ({times}x)" if search.repetitions > 1 else values for values, times in picked.items())
        fields = dict.fromkeys(field for trial in search.trials for field in trial.values)
        row = {
            "arm": arm_name(arm),
            "searched": ", ".join(fields).replace("_", " "),
            "configurations": str(len({tuple(trial.values.items()) for trial in search.trials})),
            "repetitions": str(search.repetitions),
            "epochs of a trial": str(search.epochs),
            "chosen": ", ".join(chosen) or "none",
            "optimum": optimum(search),
        }
        rows.append(row)
    return Table("The search of each arm", tuple(rows), words=("searched", "chosen", "optimum"), wide=True)


def optimum(search: SearchFinding) -> str:
    """Where the chosen values lie among those tried."""
    if not search.at_the_edge:
        return "interior"
    where = f" in {search.at_the_edge} of {search.repetitions}" if search.repetitions > 1 else ""
    return f"at the edge{where}: not tuned"


def trials(searched: Sequence[tuple[ArmFinding, SearchFinding]]) -> Table:
    """Every configuration that was tried."""
    rows = []
    for arm, search in searched:
        for trial in search.trials:
            loss = mean_loss(trial)
            row = {
                "arm": arm.name,
                "repetition": run_name(trial.repetition),
                "tried": _values(trial),
                "validation loss, nats": f"{loss:.4f}" if isfinite(loss) else "diverged" if trial.losses else "not done",
                "trials": str(len(trial.losses)),
                "chosen": "chosen" if trial.chosen else "",
            }  # fmt: skip
            rows.append(row)
    return Table("Everything that was tried", tuple(rows), words=("repetition", "tried", "chosen"))


def mean_loss(trial: TrialFinding) -> float:
    """Over its seeds; infinite if one of them diverged, NaN if none is done."""
    return fmean(trial.losses) if trial.losses else nan


def _values(trial: TrialFinding) -> str:
    return " and ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in trial.values.values())


def runs(findings: Findings) -> Table | None:
    """Every finished run."""
    rows = [
        {
            "arm": arm.name,
            "run": run_name((run.seed, run.fold)),
            "top-1": f"{100 * run.top1:.2f} %",
            "loss": f"{run.loss:.3f} nats",
            "test images": f"{run.images:,}",
            "training": format_duration(run.seconds),
        }
        for arm in findings.arms
        for run in arm.runs
    ]
    return Table("Every run", tuple(rows), words=("run",)) if rows else None


def classes(disagreement: Disagreement, shown: int) -> Table:
    """The classes on which two arms differ most."""
    rows = [
        {
            "class": name,
            "test images": f"{images:,}",
            f"{disagreement.arm} correct": percent(one),
            f"{disagreement.reference} correct": percent(two),
            "difference, points": points(one - two),
        }
        for name, images, one, two in disagreement.classes[:shown]
    ]
    return Table(f"Classes of {disagreement.arm} and {disagreement.reference}", tuple(rows))
