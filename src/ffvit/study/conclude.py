"""From a study's results to its findings."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from ffvit.errors import UserError
from ffvit.inference.corruptions import choose_corruptions
from ffvit.study import decision, power, statistics, verdict
from ffvit.study.analysis import Analysis, corrupted, groups_of
from ffvit.study.arm_findings import arm_finding
from ffvit.study.arms import NO_MIXING, Arm, make_comparisons
from ffvit.study.disagreements import find_disagreements
from ffvit.study.effects import effects
from ffvit.study.findings import (
    ArmFinding,
    BaselineFinding,
    Comparison,
    Disagreement,
    EffectFinding,
    Findings,
)
from ffvit.study.folder import Study, StudyInputs
from ffvit.study.jobs import Job, Searches, look_count
from ffvit.study.method import interval_notes, missing_runs, repeat_notes
from ffvit.study.next_steps import next_steps
from ffvit.study.plan import Plan
from ffvit.study.results import Result, paired_results
from ffvit.terminal import printable

LIKELY_ACCURACY = 0.9
"""What accuracy a plan is judged at before anything is known."""


def conclude(study: Study, ground: StudyInputs, jobs: Sequence[Job], results: Sequence[Result]) -> Findings:
    r"""Everything the study's runs show so far.

    Names in the findings are text: bytes that are not UTF-8 and control characters are escaped (`\xe9`).

    Args:
        study: The study.
        ground: What it was begun with.
        jobs: The runs that count.
        results: What the finished ones reached.

    Raises:
        UserError: Runs of a pair predicted different images.
    """
    return _printable(_conclude(study, ground, jobs, results))


def _printable(value: Any) -> Any:
    """A value with all text in it printable."""
    if isinstance(value, str):
        return printable(value)
    if is_dataclass(value):
        return replace(value, **{field.name: _printable(getattr(value, field.name)) for field in fields(value)})  # type: ignore[type-var]
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_printable(item) for item in value)
    return value


def _conclude(study: Study, ground: StudyInputs, jobs: Sequence[Job], results: Sequence[Result]) -> Findings:
    plan, arms = study.plan, ground.matched.arms
    pairs_asked = make_comparisons(plan, arms)
    look = _look(study, plan, len({result.job.seed for result in results}))
    analysis = Analysis(plan, ground, *_levels(plan, look, len(pairs_asked)))
    of_arm = {arm.name: [result for result in results if result.job.arm == arm.name] for arm in arms}
    costs, searches = study.costs(), Searches(plan, arms, study.path)
    reference = ground.matched.arm(pairs_asked[0][1])
    arm_findings = {
        arm.name: arm_finding(study, analysis, arm, reference, of_arm[arm.name], costs, searches, jobs) for arm in arms
    }
    _add_corrupted_differences(analysis, pairs_asked[0][1], arm_findings, of_arm)
    baselines = tuple(_baselines(study, analysis, arm_findings.values()))
    comparisons, disagreements = _comparisons(analysis, pairs_asked, arm_findings, of_arm, baselines)
    runs = comparisons[0].difference.runs if comparisons else 0
    warnings = verdict.warnings(tuple(arm_findings.values()), baselines, most_unreadable(results))
    return Findings(
        title=plan.title,
        folder=study.path,
        arms=tuple(sorted(arm_findings.values(), key=lambda arm: arm.role == "control")),
        comparisons=comparisons,
        effects=tuple(_effects(analysis, arms, of_arm)),
        baselines=baselines,
        disagreements=disagreements,
        exploratory=tuple(study.ledger.changes()),
        warnings=(*warnings, *plan.compromises),
        outlook=ground.outlook,
        margin=plan.margin / 100,
        images=ground.images,
        test_images=max((len(result.predictions) for result in results), default=0),
        held=ground.matched.notes,
        statistics=tuple(interval_notes(analysis, look, len(look_count(plan)), len(pairs_asked), runs)),
        missing=tuple(missing_runs(study, jobs)),
        measured_on=costs.get("machine", ""),
        next=next_steps(study.path, plan, comparisons, arm_findings.values(), of_arm),
        repeat=tuple(repeat_notes(study, results)),
        plan=study.plan_file.read_text(),
        corruptions=choose_corruptions(plan.corruptions),
    )


def outlook_of(plan: Plan, ground: StudyInputs) -> tuple[str, ...]:
    """What the plan can show, before anything runs: the smallest difference it would find, and what equal arms would give."""
    analysis = Analysis(plan, ground, *_levels(plan, 1, 1))
    runs = len(plan.seeds) * (plan.folds or 1)
    if runs == 1:
        return ("One repetition shows nothing about architectures: no verdict will be drawn from it.",)
    outlook = power.outlook(
        runs,
        ground.test_images,
        LIKELY_ACCURACY,
        plan.margin / 100,
        analysis.main_level,
        analysis.redrawn if analysis.resampled else None,
    )
    chances = {f"direction {direction}, size {size}": chance for (direction, size), chance in outlook.chances.items()}
    listed = "; ".join(f"{words} {100 * chance:.0f} %" for words, chance in chances.items() if chance >= 0.005)
    least = (
        f"the smallest difference that it would show 8 times in 10 is about {100 * outlook.smallest:.1f} points"
        if outlook.smallest < 1
        else "it would not surely show any difference"
    )
    return (
        f"What this plan can show ({len(plan.seeds)} repetitions, {ground.test_images:,} test images, at an accuracy of "
        f"{100 * LIKELY_ACCURACY:.0f} %): {least}. If the arms were equal: {listed}.",
    )


def most_unreadable(results: Sequence[Result]) -> tuple[int, int]:
    """Unreadable images of the run that met most of them, and all images of it."""
    return max(
        ((int(result.summary.get("bad_images", 0)), len(result.predictions)) for result in results), default=(0, 0)
    )


def _look(study: Study, plan: Plan, seeds: int) -> int:
    """The number of this look at the results, from 1."""
    if plan.sequential:
        return 1 + sum(count < seeds for count in look_count(plan))
    return study.ledger.looks()


def _levels(plan: Plan, look: int, comparisons: int) -> tuple[float, float]:
    """Confidence of the main comparison's interval at a look, and of the others'."""
    levels = decision.comparison_levels(comparisons, decision.look_level(look_count(plan), look))
    return levels[0], levels[-1]


def _add_corrupted_differences(
    analysis: Analysis, reference: str, arm_findings: dict[str, ArmFinding], of_arm: Mapping[str, Sequence[Result]]
) -> None:
    """Add each arm's difference to the reference on corrupted images; no verdict is drawn from it."""
    scored = {name: [one for one in results if one.corrupted is not None] for name, results in of_arm.items()}
    for name, finding in arm_findings.items():
        if name != reference:
            difference = analysis.difference(paired_results(scored[name], scored[reference]), 0.95, corrupted)
            arm_findings[name] = replace(finding, corrupted_difference=difference)


def _comparisons(
    analysis: Analysis,
    pairs_asked: Sequence[tuple[str, str]],
    arm_findings: Mapping[str, ArmFinding],
    of_arm: Mapping[str, Sequence[Result]],
    baselines: tuple[BaselineFinding, ...],
) -> tuple[tuple[Comparison, ...], tuple[Disagreement, ...]]:
    """The comparisons that have runs, the main one first, and where their arms disagree."""
    comparisons: list[Comparison] = []
    disagreements: list[Disagreement] = []
    for names in pairs_asked:
        pairs = paired_results(of_arm[names[0]], of_arm[names[1]])
        difference = analysis.difference(pairs, analysis.side_level if comparisons else analysis.main_level)
        if difference is None and not comparisons:
            break  # no other comparison takes the place of the main one
        if difference is None:
            continue
        main = comparisons[0] if comparisons else None
        comparisons.append(_comparison(analysis, arm_findings, of_arm, names, pairs, difference, baselines, main))
        with suppress(UserError):  # the images are no longer where they were: the figures stand without the pictures
            disagreements.append(find_disagreements(pairs, *names))
    return tuple(comparisons), tuple(disagreements)


def _comparison(
    analysis: Analysis,
    arm_findings: Mapping[str, ArmFinding],
    of_arm: Mapping[str, Sequence[Result]],
    names: tuple[str, str],
    pairs: Sequence[tuple[Result, Result]],
    difference: statistics.Difference,
    baselines: tuple[BaselineFinding, ...],
    main: Comparison | None,
) -> Comparison:
    """One comparison; without a conclusion of the main one, no other is drawn."""
    ground, plan_margin = analysis.ground, analysis.plan.margin / 100
    accuracies = (float(np.mean([pair[side].correct.mean() for pair in pairs])) for side in (0, 1))
    over_control = {}
    if NO_MIXING in of_arm and NO_MIXING not in names:
        for name in names:
            gain = analysis.difference(paired_results(of_arm[name], of_arm[NO_MIXING]), analysis.main_level)
            if gain is not None:
                over_control[name] = gain
    return verdict.compare_arms(
        (ground.matched.arm(names[0]), ground.matched.arm(names[1])),
        (arm_findings[names[0]], arm_findings[names[1]]),
        difference,
        per_run=[(one.key, float(one.correct.mean() - two.correct.mean())) for one, two in pairs],
        margin=decision.effective_margin(plan_margin, *accuracies),
        plan_margin=plan_margin,
        over_control=over_control,
        baselines=baselines,
        train_images=ground.train_images,
        main=main,
    )


def _effects(analysis: Analysis, arms: Sequence[Arm], of_arm: Mapping[str, Sequence[Result]]) -> list[EffectFinding]:
    """Main effects and interactions of crossed factors, from the repetitions that every cell has."""
    cells = [arm for arm in arms if arm.role != "control" and arm.cell]
    if len(analysis.plan.factors) < 2 or not all(of_arm[arm.name] for arm in cells):
        return []
    common = set.intersection(*({result.key for result in of_arm[arm.name]} for arm in cells))
    if len(common) < 2:
        return []
    by_key = {(result.job.arm, result.key): result for arm in cells for result in of_arm[arm.name]}
    keys = sorted(common, key=lambda key: (key[0], key[1] or 0))
    groups = [groups_of(by_key[cells[0].name, key]) for key in keys]
    return effects(
        [np.stack([by_key[arm.name, key].correct for arm in cells]) for key in keys],
        {factor: [arm.cell[factor] for arm in cells] for factor in analysis.plan.factors},
        analysis.side_level,
        analysis.redrawn if analysis.resampled else None,
        [names for names in groups if names is not None] or None,
    )


def _baselines(study: Study, analysis: Analysis, arms: Collection[ArmFinding]) -> Iterator[BaselineFinding]:
    """What trivial methods reach over all repetitions, and which arms they beat."""
    by_seed, margin = study.baselines().values(), analysis.plan.margin / 100
    for name in dict.fromkeys(name for baselines in by_seed for name in baselines):
        rows = [baselines[name] for baselines in by_seed if name in baselines]
        top1 = np.array([[row["top1"]] for row in rows])
        images = int(median(row["images"] for row in rows))
        if len(rows) > 1 and analysis.resampled:
            interval = statistics.fold_mean(top1, top1 * (1 - top1) / images, analysis.redrawn, images)
        else:
            correct = np.arange(images) < round(float(top1.mean()) * images)
            interval = statistics.mean(correct[None])
        beats = [
            arm.name
            for arm in arms
            if arm.role != "control" and arm.top1 is not None and arm.top1.value < interval.value - margin
        ]
        yield BaselineFinding(name, interval, float(median(row["seconds"] for row in rows)), tuple(beats))
