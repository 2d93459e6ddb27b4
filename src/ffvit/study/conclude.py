"""From a study's runs to what they show: the one place where results, statistics and words meet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from ffvit.config.strict_yaml import read_yaml
from ffvit.errors import UserError
from ffvit.run_folder import Run
from ffvit.study import decision, power, statistics, verdict
from ffvit.study.analysis import Analysis, groups_of
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
from ffvit.study.jobs import Job, Searches, make_runs
from ffvit.study.next_steps import next_steps
from ffvit.study.plan import Plan
from ffvit.study.results import Result, paired_results, read_results, write_results
from ffvit.terminal import printable

LIKELY_ACCURACY = 0.9
"""What accuracy a plan is judged at before anything is known."""


def conclude(study: Study, ground: StudyInputs) -> Findings:
    r"""Everything the study's runs show so far; writes `results.csv` on the way, and notes in the ledger what was shown.

    Names in the findings are text: bytes that are not UTF-8 and control characters are escaped (`\xe9`).

    Raises:
        UserError: A run in the folder is not the plan's, or runs of a pair answered different images.
    """
    return _printable(_conclude(study, ground))


def _printable(value: Any) -> Any:
    """A value with all text in it printable."""
    if isinstance(value, str):
        return printable(value)
    if is_dataclass(value):
        return replace(value, **{field.name: _printable(getattr(value, field.name)) for field in fields(value)})  # type: ignore[type-var]
    if isinstance(value, dict):
        return {_printable(key): _printable(its) for key, its in value.items()}
    if isinstance(value, tuple):
        its = [_printable(each) for each in value]
        return type(value)(*its) if hasattr(value, "_fields") else tuple(its)
    return value


def _conclude(study: Study, ground: StudyInputs) -> Findings:
    plan, arms = study.plan, ground.held.arms
    study.check(plan)
    jobs = all_jobs(study, plan, arms)
    for job in jobs:
        job.check()
    results = read_results(jobs)
    write_results(study, plan, arms, results, ground.classes)
    study.ledger.note_report(
        {str(result.job.folder.relative_to(study.path)): float(result.correct.mean()) for result in results}
    )
    pairs_asked = make_comparisons(plan, arms)
    look = _look(study, plan, len({result.job.seed for result in results}))
    analysis = Analysis(plan, ground, *_levels(plan, look, len(pairs_asked)))
    of_arm = {arm.name: [result for result in results if result.job.arm == arm.name] for arm in arms}
    costs, searches = study.costs(), Searches(plan, arms, study.path)
    reference = ground.held.arm(pairs_asked[0][1])
    found = {
        arm.name: arm_finding(study, analysis, arm, reference, of_arm[arm.name], costs, searches, jobs) for arm in arms
    }
    baselines = tuple(_baselines(study, analysis, found))
    comparisons: list[Comparison] = []
    disagreements: list[Disagreement | None] = []
    for one, other in pairs_asked:
        pairs = paired_results(of_arm[one], of_arm[other])
        main = (one, other) == pairs_asked[0]
        difference = analysis.difference(pairs, analysis.main_level if main else analysis.side_level)
        if difference is None and main:
            break  # no other comparison takes the place of the main one
        if difference is None:
            continue
        gate = comparisons[0] if comparisons else None
        comparisons.append(_comparison(analysis, found, of_arm, (one, other), pairs, difference, baselines, gate))
        disagreements.append(_disagreement(pairs, one, other))
    warnings = (*verdict.warnings(tuple(found.values()), baselines, results_bad(results)), *plan.compromises)
    return Findings(
        title=plan.title,
        folder=study.path,
        arms=tuple(sorted(found.values(), key=lambda each: each.role == "control")),
        comparisons=tuple(comparisons),
        effects=tuple(_effects(analysis, arms, of_arm)),
        baselines=baselines,
        disagreements=tuple(each for each in disagreements if each is not None),
        exploratory=tuple(study.ledger.changes()),
        warnings=warnings,
        outlook=ground.outlook,
        margin=plan.margin / 100,
        images=ground.images,
        test_images=max((len(result.answers) for result in results), default=0),
        held=ground.held.words,
        statistics=tuple(
            _statistics(analysis, look, len(pairs_asked), comparisons[0].difference.runs if comparisons else 0)
        ),
        missing=tuple(_missing(study, jobs)),
        measured_on=costs.get("machine", ""),
        next=next_steps(study.path, plan, comparisons, found, of_arm),
        repeat=tuple(_repeat(study, results)),
        plan=study.plan_file.read_text(),
    )


def all_jobs(study: Study, plan: Plan, arms: Sequence[Arm]) -> list[Job]:
    """The runs that count, of all seeds the plan has or the folder holds, each with what its search chose."""
    seeds, searches = _seeds_so_far(study, plan, arms), Searches(plan, arms, study.path)
    chosen = {}
    if plan.search is not None:
        for job in make_runs(plan, arms, study.path, seeds, {}):
            chosen[job.arm, (job.seed, job.fold)] = searches.step(job.arm, job.seed, job.fold, study.failed())
    return make_runs(plan, arms, study.path, seeds, chosen)


def seeds_at(plan: Plan, count: int) -> tuple[int, ...]:
    """So many seeds: the plan's, then the numbers after them."""
    after = max(plan.seeds) + 1
    return (*plan.seeds, *range(after, after + count - len(plan.seeds)))[:count]


def look_count(plan: Plan) -> tuple[int, ...]:
    """The numbers of seeds at which the study may be looked at and ended: one, unless it is sequential."""
    return decision.looks(len(plan.seeds), plan.max_seeds) if plan.sequential else (len(plan.seeds),)


def outlook_of(plan: Plan, ground: StudyInputs) -> tuple[str, ...]:
    """What the plan can show, before anything runs: the smallest difference it would find, and what equal arms would give."""
    analysis = Analysis(plan, ground, *_levels(plan, 1, 1))
    runs = len(plan.seeds) * (plan.folds or 1)
    if runs == 1:
        return ("One repetition shows nothing about architectures: no verdict will be drawn from it.",)
    found = power.outlook(
        runs,
        ground.test_images,
        LIKELY_ACCURACY,
        plan.margin / 100,
        analysis.main_level,
        analysis.redrawn if analysis.resampled else None,
    )
    chances = {f"direction {direction}, size {size}": chance for (direction, size), chance in found.chances.items()}
    listed = "; ".join(f"{words} {100 * chance:.0f} %" for words, chance in chances.items() if chance >= 0.005)
    least = (
        f"the smallest difference that it would show 8 times in 10 is about {100 * found.smallest:.1f} points"
        if found.smallest < 1
        else "it would not surely show any difference"
    )
    return (
        f"What this plan can show ({len(plan.seeds)} repetitions, {ground.test_images:,} test images, at an accuracy of "
        f"{100 * LIKELY_ACCURACY:.0f} %): {least}. If the arms were equal: {listed}.",
    )


def results_bad(results: Sequence[Result]) -> tuple[int, int]:
    """Unreadable images of the run that met most of them, and all images of it."""
    return max(((int(result.summary.get("bad_images", 0)), len(result.answers)) for result in results), default=(0, 0))


def _look(study: Study, plan: Plan, seeds: int) -> int:
    """The number of this look at the results, from 1."""
    if plan.sequential:
        return 1 + sum(count < seeds for count in look_count(plan))
    return study.ledger.looks()


def _levels(plan: Plan, look: int, comparisons: int) -> tuple[float, float]:
    """Confidence of the main comparison's interval at a look, and of the others'."""
    levels = decision.comparison_levels(comparisons, decision.look_level(look_count(plan), look))
    return levels[0], levels[-1]


def _seeds_so_far(study: Study, plan: Plan, arms: Sequence[Arm]) -> tuple[int, ...]:
    """The seeds of the last look that was begun: a sequential study adds seeds between looks."""
    seeds = plan.seeds
    for count in look_count(plan)[1:]:
        added = seeds_at(plan, count)
        new = [job for job in make_runs(plan, arms, study.path, added, {}) if job.seed not in seeds]
        if not any(job.folder.exists() for job in new):
            break
        seeds = added
    return seeds


def _comparison(
    analysis: Analysis,
    found: Mapping[str, ArmFinding],
    of_arm: Mapping[str, Sequence[Result]],
    names: tuple[str, str],
    pairs: Sequence[tuple[Result, Result]],
    difference: statistics.Difference,
    baselines: Sequence[BaselineFinding],
    gate: Comparison | None,
) -> Comparison:
    """One comparison; `gate` is the main one, without whose conclusion no other is drawn."""
    one, other = names
    held, plan = analysis.ground.held, analysis.plan
    arm, reference = held.arm(one), held.arm(other)
    margin = decision.effective_margin(
        plan.margin / 100, *(float(np.mean([pair[side].correct.mean() for pair in pairs])) for side in (0, 1))
    )
    controls = {
        name: analysis.difference(paired_results(of_arm[name], of_arm[NO_MIXING]), analysis.main_level)
        for name in names
        if NO_MIXING in of_arm and NO_MIXING not in names
    }
    case = verdict.Case(
        arm=arm,
        reference=reference,
        found=found[one],
        found_reference=found[other],
        difference=difference,
        margin=margin,
        plan_margin=plan.margin / 100,
        over_control={name: each for name, each in controls.items() if each is not None},
        baselines=tuple(baselines),
        train_images=analysis.ground.train_images,
        resampled=analysis.resampled,
        gate=gate,
    )
    return Comparison(
        arm=one,
        reference=other,
        difference=difference,
        per_run=tuple((a.key, float(a.correct.mean() - b.correct.mean())) for a, b in pairs),
        main=gate is None,
        direction=case.direction,
        size=case.size,
        margin=margin,
        withheld=case.withheld,
        headline=verdict.headline(case),
        words=verdict.words(case),
        win_again=case.win_again,
        more_seeds=case.more_seeds,
    )


def _effects(
    analysis: Analysis, arms: Sequence[Arm], of_arm: Mapping[str, Sequence[Result]]
) -> Iterator[EffectFinding]:
    """Main effects and interactions of crossed factors, from the repetitions that every cell has."""
    cells = [arm for arm in arms if arm.role != "control" and arm.cell]
    if len(analysis.plan.factors) < 2 or not all(of_arm[arm.name] for arm in cells):
        return
    common = set.intersection(*({result.key for result in of_arm[arm.name]} for arm in cells))
    if len(common) < 2:
        return
    by_key = {(result.job.arm, result.key): result for arm in cells for result in of_arm[arm.name]}
    keys = sorted(common, key=lambda key: (key[0], key[1] or 0))
    correct = [np.stack([by_key[arm.name, key].correct for arm in cells]) for key in keys]
    groups = [groups_of(by_key[cells[0].name, key]) for key in keys]
    found = effects(
        correct,
        {factor: [arm.cell[factor] for arm in cells] for factor in analysis.plan.factors},
        analysis.side_level,
        analysis.redrawn if analysis.resampled else None,
        [each for each in groups if each is not None] or None,
    )
    for each in found:
        yield EffectFinding(each.name, each.difference, each.kind)


def _baselines(study: Study, analysis: Analysis, found: Mapping[str, ArmFinding]) -> Iterator[BaselineFinding]:
    known, margin = study.baselines(), analysis.plan.margin / 100
    names = dict.fromkeys(name for its in known.values() for name in its)
    for name in names:
        rows = [its[name] for its in known.values() if name in its]
        top1 = np.array([[row["top1"]] for row in rows])
        images = int(median(row["images"] for row in rows))
        if len(rows) > 1 and analysis.resampled:
            interval = statistics.fold_mean(top1, top1 * (1 - top1) / images, analysis.redrawn, images)
        else:
            correct = np.arange(images) < round(float(top1.mean()) * images)
            interval = statistics.mean(correct[None])
        beats = [
            arm.name
            for arm in found.values()
            if arm.role != "control" and arm.top1 is not None and arm.top1.value < interval.value - margin
        ]
        yield BaselineFinding(name, interval, float(median(row["seconds"] for row in rows)), tuple(beats))


def _disagreement(pairs: Sequence[tuple[Result, Result]], one: str, other: str) -> Disagreement | None:
    try:
        return find_disagreements(pairs, one, other)
    except UserError:  # the images are no longer where they were: the figures stand without the pictures
        return None


def _statistics(analysis: Analysis, look: int, comparisons: int, runs: int) -> Iterator[str]:
    """How the intervals were made, and what they do not cover."""
    plan, ground = analysis.plan, analysis.ground
    search = ", searches its own learning rate" if plan.search is not None else ""
    if runs < 2:
        yield (
            "One pair of runs: its intervals come from the test images alone. They do not cover what another split, search "
            "or initialization would change, which is often as much as the difference; no conclusion is drawn from them."
        )
    elif plan.folds is not None:
        yield (
            f"{plan.folds}-fold cross-validation, {runs // plan.folds} times over, searched within each fold: intervals by the "
            "corrected resampled t-test, which allows for folds that share training images."
        )
    elif ground.redrawn_test:
        yield (
            f"Each repetition draws its own training, validation and test split{search} and trains with its own "
            "initialization, order and augmentation. Intervals by the corrected resampled t-test, which allows for "
            "repetitions that share images."
        )
    else:
        redrawn = "its own validation split" if "validation" in ground.drawn and plan.redraw else "the same split"
        yield (
            f"Each repetition has {redrawn}{search} and its own initialization, order and augmentation; all are tested on "
            "the same images. Intervals account for both sources of chance, repetitions and test images (crossed random "
            "effects, degrees of freedom by Hillis). They hold for this training set: another one could favor the other arm."
        )
    yield "The same repetition gives every arm the same images in the same order, so differences are paired."
    if ground.groups is not None:
        yield f"The images lie in {ground.groups:,} groups; no split cuts one, and intervals count groups, not images."
    main = f"{100 * analysis.main_level:.4g} %"
    if plan.sequential:
        yield f"A sequential study of {len(look_count(plan))} planned looks: they share 5 % of error, {main} intervals each."
    else:
        yield (
            f"This is look {look} at the results; each look spends half of the error that is left of 5 %, so that seeds may "
            f"be added later: {main} intervals for the main comparison."
        )
    if comparisons > 1:
        yield (
            f"The other comparisons have {100 * analysis.side_level:.4g} % intervals, and are concluded only if the main "
            "one is conclusive."
        )
    yield "Equivalent: the whole interval lies within the margin. Near 100 % the margin is at most half of the mistakes."
    yield "Not covered: other data, other recipes, other sizes, errors in the labels."


def _missing(study: Study, jobs: Sequence[Job]) -> Iterator[str]:
    failures = study.failures()
    done = {job.seed for job in jobs if job.finished()}
    if absent := sorted({job.seed for job in jobs} - done - {job.seed for job in jobs if job.folder.exists()}):
        yield f"no run of seed{'s' * (len(absent) > 1)} {', '.join(map(str, absent))} was begun"
    for job in jobs:
        if not job.finished() and job.seed not in absent:
            reason = failures.get(str(job.folder.relative_to(study.path)))
            yield f"{job.title}: {f'failed: {reason}' if reason else 'not done'}"


def _repeat(study: Study, results: Sequence[Result]) -> Iterator[tuple[str, str]]:
    yield "again", f"ffvit compare --study {study.plan_file} --out another-folder"
    if results:
        made = read_yaml(Run(results[0].job.folder).config_file)["environment"]
        names = ("ffvit", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "pillow")
        yield "versions", ", ".join([f"Python {made['python']}", *(f"{name} {made[name]}" for name in names)])
        yield "commit", str(made["commit"])
        yield "hardware", "; ".join([made["system"], made["processor"], *made["devices"]])
        took = [result.summary["seconds"] for result in results]
        yield "training", f"{sum(took) / 60:.1f} minutes in all, {median(took):.0f} s a run (median)"
