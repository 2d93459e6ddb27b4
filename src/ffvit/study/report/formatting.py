"""Numbers as people write them, each with its unit, and the cells of the report's tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from math import isfinite, nan
from statistics import fmean, median

from ffvit.study.findings import ArmFinding, BaselineFinding, Comparison, Findings, Key, SearchFinding, TrialFinding
from ffvit.study.statistics import Interval
from ffvit.training.progress import format_duration

NOTHING = "-"
"""A cell with nothing to say."""

NO_VERDICT = "No verdict yet"
WHY_NO_VERDICT = "No two arms that are compared have a finished run in common."
EXPLORATORY = "Exploratory: the study was changed after results existed, so its error rates do not hold"
WARNINGS = "Know this before reading the verdict"
MISSING = "Some runs are missing"

CONTROLS = (
    "Controls have the same body, but no mixing over patches, or a random mixing that is never trained: they show what "
    "mixing is worth on these images."
)
EXTERNAL = "An external network has a body of its own: more than the mixer differs."


def points(share: float) -> str:
    """A difference in percentage points, signed: +0.7."""
    rounded = round(100 * share, 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


def minus(text: str) -> str:
    """Numbers with the minus sign that is as wide as a plus."""
    return re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text)


def margin(share: float) -> str:
    """A margin in percentage points: ±1."""
    return f"±{100 * share:.3g}"


def level(its: Interval) -> str:
    """The level of an interval: 98.75 %."""
    return f"{100 * its.level:.4g} %"


def bounds(its: Interval) -> str:
    """A difference's interval, in points: -0.7 to +1.2."""
    return f"{points(its.low)} to {points(its.high)}"


def accuracy(top1: Interval | None) -> str:
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


def join(names: Sequence[str]) -> str:
    """One, two and three."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def run_name(key: Key) -> str:
    """What a run is called in its study: seed 0, fold 2."""
    seed, fold = key
    return f"seed {seed}" if fold is None else f"seed {seed}, fold {fold}"


# Arms


def arm_name(arm: ArmFinding) -> str:
    """An arm's name, with its role if it has a special one."""
    return arm.name if arm.role == "arm" else f"{arm.name} ({arm.role})"


def training_time(arm: ArmFinding) -> float | None:
    """Seconds of a run, the median."""
    return median(run.seconds for run in arm.runs) if arm.runs else None


def run_count(arm: ArmFinding) -> str:
    """5, or 4 of 5, 1 failed."""
    done = str(len(arm.runs)) if len(arm.runs) == arm.planned else f"{len(arm.runs)} of {arm.planned}"
    return f"{done}, {arm.failed} failed" if arm.failed else done


def arm_headings(findings: Findings) -> tuple[str, ...]:
    """What the columns of the table of arms are called."""
    names = (
        "arm",
        "top-1 (95 % interval)",
        "runs",
        "parameters",
        "FLOPs",
        "latency",
        "throughput",
        "training",
        "memory",
    )
    return (*names, "published top-1, not measured here") if has_published(findings) else names


def arm_row(arm: ArmFinding, findings: Findings) -> tuple[str, ...]:
    """An arm's row in the table; its cells belong to `arm_headings`."""
    cost, time = arm.cost, training_time(arm)
    memory = max((run.peak_memory for run in arm.runs if run.peak_memory is not None), default=None)
    cells = (
        arm_name(arm),
        accuracy(arm.top1),
        run_count(arm),
        large(arm.parameters),
        large(arm.flops, "FLOPs"),
        f"{1e3 * cost.latency:.3g} ms" if cost else NOTHING,
        f"{cost.throughput:,.0f} images/s" if cost else NOTHING,
        format_duration(time) if time is not None else NOTHING,
        f"{memory:,.0f} MiB" if memory is not None else NOTHING,
    )
    if not has_published(findings):
        return cells
    return (*cells, f"{100 * arm.published[0]:.1f} % ({arm.published[1]})" if arm.published else NOTHING)


def has_published(findings: Findings) -> bool:
    """Whether any arm has a published figure."""
    return any(arm.published for arm in findings.arms)


def arm_notes(findings: Findings) -> str:
    """What has to be said under the table of arms."""
    roles = {arm.role for arm in findings.arms}
    said = [CONTROLS] * ("control" in roles) + [EXTERNAL] * ("external" in roles)
    if findings.measured_on:
        said.append(f"Latency (one image, median) and throughput (batches) measured on: {findings.measured_on}.")
    said.append(
        "FLOPs: of one prediction; a multiply-add counts two. Training: of one run, the median. Memory: of the process, "
        "the largest of the runs."
    )
    return " ".join(said)


def settings(arms: Sequence[ArmFinding]) -> tuple[dict[str, str], tuple[str, ...], list[tuple[str, ...]]]:
    """The arms' own defaults: those that are the same for all; the names of the others; a row an arm with their values."""
    of_arm = [dict(arm.settings) for arm in arms]
    names = list(dict.fromkeys(name for its in of_arm for name in its))
    values = {name: [its.get(name, NOTHING) for its in of_arm] for name in names}
    same = {name: its[0] for name, its in values.items() if len(set(its)) == 1}
    differ = tuple(name for name in names if name not in same)
    rows = [(arm_name(arm), *(values[name][place] for name in differ)) for place, arm in enumerate(arms)]
    return same, differ, rows


# Baselines

BASELINES = ("baseline", "top-1 (95 % interval)", "time", "beats")


def baseline_row(baseline: BaselineFinding) -> tuple[str, ...]:
    """A baseline's row in the table; its cells belong to `BASELINES`."""
    seconds = baseline.seconds
    time = format_duration(seconds) if seconds >= 10 else f"{seconds:.1f} s" if seconds >= 0.05 else "under 0.1 s"
    return baseline.name, accuracy(baseline.top1), time, join(baseline.beats) or "no arm"


def baselines(findings: Findings) -> str:
    """Which baseline beats which arm by more than the margin, in a sentence."""
    beating = [f"{baseline.name} beats {join(baseline.beats)}" for baseline in findings.baselines if baseline.beats]
    return f"{'; '.join(beating)}." if beating else "No baseline beats an arm by more than the margin."


# Comparisons

COMPARISONS = (
    "arm", "reference", "difference, points", "interval, points", "level", "margin, points", "direction", "size",
)  # fmt: skip
WITHHELD = "no conclusion"


def comparison_row(comparison: Comparison) -> tuple[str, ...]:
    """A comparison's row in the table; its cells belong to `COMPARISONS`."""
    its = comparison.difference
    return (
        f"{comparison.arm} (main)" if comparison.main else comparison.arm,
        comparison.reference,
        points(its.value),
        bounds(its),
        level(its),
        margin(comparison.margin),
        *conclusions(comparison),
    )


def conclusions(comparison: Comparison) -> tuple[str, str]:
    """Direction and size, in a word each."""
    return (WITHHELD, WITHHELD) if comparison.withheld else (comparison.direction, comparison.size)


def direction_reason(comparison: Comparison) -> str:
    """What the direction was concluded from."""
    its = comparison.difference
    holds = its.low <= 0 <= its.high
    reason = f"the {level(its)} interval, {bounds(its)} points, {'contains' if holds else 'excludes'} 0"
    return reason if holds or comparison.direction != "not shown" else f"{reason}, but {NOT_MAIN}"


def size_reason(comparison: Comparison) -> str:
    """What the size was concluded from."""
    if not comparison.margin:
        return "the study has no margin"
    within, its = f"the margin of {margin(comparison.margin)} points", comparison.difference
    if max(abs(its.low), abs(its.high)) < comparison.margin:
        reason = f"the whole interval lies within {within}"
    elif its.low > comparison.margin or its.high < -comparison.margin:
        reason = f"the whole interval lies outside {within}"
    else:
        return f"the interval lies partly within {within}, partly outside"
    return reason if comparison.size != "not shown" else f"{reason}, but {NOT_MAIN}"


NOT_MAIN = "nothing is concluded, because the main comparison shows none"

REPEATED = ("arm", "reference", "ahead", "chance that it wins again", "more repetitions to settle it")


def repeated(findings: Findings) -> tuple[tuple[str, ...], ...]:
    """A row a comparison of which it can be told what repetitions would show; its cells belong to `REPEATED`."""
    rows = []
    for its in findings.comparisons:
        if its.win_again is None and its.more_seeds is None:
            continue
        fewest, most = its.more_seeds or (0, 0)
        count = NOTHING if not most else str(most) if fewest == most else f"{fewest} to {most}"
        chance = NOTHING if its.win_again is None else f"{100 * its.win_again:.0f} %"
        rows.append((its.arm, its.reference, its.arm if its.difference.value > 0 else its.reference, chance, count))
    return tuple(rows)


EFFECTS = ("effect", "kind", "points", "interval, points", "level")


def effects(findings: Findings) -> tuple[tuple[str, ...], ...]:
    """A row a main effect or interaction; its cells belong to `EFFECTS`."""
    return tuple(
        (each.name, each.kind, points(each.difference.value), bounds(each.difference), level(each.difference))
        for each in findings.effects
    )


# The search

SEARCHES = ("arm", "searched", "configurations", "repetitions", "epochs of a trial", "chosen", "optimum")
TRIALS = ("arm", "repetition", "tried", "validation loss, nats", "trials", "chosen")


def search_row(arm: ArmFinding, search: SearchFinding) -> tuple[str, ...]:
    """The search of an arm in a row; its cells belong to `SEARCHES`."""
    tried = {tuple(trial.values.items()) for trial in search.trials}
    picked = Counter(_values(trial) for trial in search.trials if trial.chosen)
    chosen = ", ".join(f"{values} ({count}x)" if search.repetitions > 1 else values for values, count in picked.items())
    fields = ", ".join(dict.fromkeys(field for trial in search.trials for field in trial.values)) or search.field
    return (
        arm_name(arm), fields.replace("_", " "), str(len(tried)), str(search.repetitions), str(search.epochs), chosen or "none", optimum(search),
    )  # fmt: skip


def optimum(search: SearchFinding) -> str:
    """Where the chosen values lie among those tried."""
    if not search.at_the_edge:
        return "interior"
    where = f" in {search.at_the_edge} of {search.repetitions}" if search.repetitions > 1 else ""
    return f"at the edge{where}: not tuned"


def trials(arm: ArmFinding, search: SearchFinding) -> tuple[tuple[str, ...], ...]:
    """A row a configuration that was tried; its cells belong to `TRIALS`."""
    return tuple(
        (
            arm.name,
            run_name(trial.repetition),
            _values(trial),
            f"{loss:.4f}" if isfinite(loss := mean_loss(trial)) else "diverged" if trial.losses else "not done",
            str(len(trial.losses)),
            "chosen" if trial.chosen else "",
        )
        for trial in search.trials
    )


def mean_loss(trial: TrialFinding) -> float:
    """Over its seeds; infinite if one of them diverged, NaN if none is done."""
    return fmean(trial.losses) if trial.losses else nan


def _values(trial: TrialFinding) -> str:
    shown = (f"{value:g}" if isinstance(value, float) else str(value) for value in trial.values.values())
    return " and ".join(shown)


# Runs

RUNS = ("arm", "run", "top-1", "loss", "test images", "training")


def runs(findings: Findings) -> tuple[tuple[str, ...], ...]:
    """A row a finished run; its cells belong to `RUNS`."""
    return tuple(
        (
            arm.name,
            run_name((run.seed, run.fold)),
            f"{100 * run.top1:.2f} %",
            f"{run.loss:.3f} nats",
            f"{run.images:,}",
            format_duration(run.seconds),
        )
        for arm in findings.arms
        for run in arm.runs
    )


# Disagreements


def disagreement_sentence(correct: str, incorrect: str, count: int, shown: int) -> str:
    """What a list of disputed images is called."""
    cut = f", {shown} shown" if shown < count else ""
    return f"{correct} is correct, {incorrect} is not ({count:,} image{'s' * (count != 1)}{cut})"
