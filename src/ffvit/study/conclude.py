"""From a study's runs to what they show: the one place where results, statistics and words meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np
import yaml

from ffvit.architecture import Architecture
from ffvit.errors import UserError
from ffvit.run import Run
from ffvit.study import statistics, verdict
from ffvit.study.arms import Arm, questions_of
from ffvit.study.budget import Held, counted
from ffvit.study.disputes import disagreement
from ffvit.study.findings import ArmFinding, Comparison, Cost, Disagreement, Epoch, Findings, RunFinding
from ffvit.study.folder import Ground, Study
from ffvit.study.jobs import Job, chosen, runs_of, trials_of
from ffvit.study.plan import Plan
from ffvit.study.results import Key, Result, paired, read_results, write_results


def conclude(study: Study, ground: Ground) -> Findings:
    """Everything the study's runs show so far; writes `results.csv` on the way.

    Raises:
        UserError: A run in the folder is not the plan's, or runs of a pair answered different images.
    """
    plan, arms = study.plan, ground.held.arms
    study.check(plan)
    jobs, tuned = every_job(study, plan, arms)
    for job in jobs:
        job.check()
    results = read_results(jobs)
    write_results(study, plan, arms, results, ground.classes)
    costs = study.costs()
    reference = ground.held.arm(questions_of(plan, arms)[0][1])
    of_arm = {arm.name: [result for result in results if result.job.arm == arm.name] for arm in arms}
    found = {arm.name: _arm(plan, ground, arm, reference, of_arm[arm.name], costs, tuned, jobs) for arm in arms}
    comparisons: list[Comparison] = []
    disagreements: list[Disagreement | None] = []
    asked = questions_of(plan, arms)
    level = statistics.level_for(len(asked) * len(looks_of(plan)))
    for one, other in asked:
        pairs = paired(of_arm[one], of_arm[other])
        difference = _difference(plan, pairs, level)
        if difference is None:
            continue
        control = found.get("no mixing") if not comparisons else None  # said once
        comparisons.append(_comparison(plan, ground.held, found, one, other, pairs, difference, control))
        disagreements.append(_disagreement(pairs, one, other))
    return Findings(
        title=plan.title,
        folder=study.path,
        arms=tuple(sorted(found.values(), key=lambda each: each.role == "control")),
        comparisons=tuple(comparisons),
        disagreements=tuple(each for each in disagreements if each is not None),
        margin=plan.margin / 100,
        images=ground.images,
        test_images=max((len(result.answers) for result in results), default=0),
        held=ground.held.words,
        statistics=tuple(_statistics(plan, level, len(asked))),
        missing=tuple(_missing(study, jobs)),
        measured_on=costs.get("machine", ""),
        repeat=tuple(_repeat(study, results)),
        plan=study.plan_file.read_text(),
    )


def every_job(study: Study, plan: Plan, arms: Sequence[Arm]) -> tuple[list[Job], dict[Any, Any]]:
    """The runs that count, of all seeds the plan has or the folder holds, and what the search chose for them."""
    seeds = _seeds_so_far(study, plan, arms)
    trials = trials_of(plan, arms, study.path, seeds)
    tuned = chosen(trials)
    return runs_of(plan, arms, study.path, seeds, tuned), tuned


def seeds_at(plan: Plan, count: int) -> tuple[int, ...]:
    """So many seeds: the plan's, then the numbers after them."""
    after = max(plan.seeds) + 1
    return (*plan.seeds, *range(after, after + count - len(plan.seeds)))[:count]


def _seeds_so_far(study: Study, plan: Plan, arms: Sequence[Arm]) -> tuple[int, ...]:
    """The seeds of the last look that was begun: a study that goes on until settled adds seeds between looks."""
    seeds = plan.seeds
    for count in looks_of(plan)[1:]:
        added = seeds_at(plan, count)
        tuned = chosen(trials_of(plan, arms, study.path, added))
        new = [job for job in runs_of(plan, arms, study.path, added, tuned) if job.seed not in seeds]
        if not any(job.folder.exists() for job in new):
            break
        seeds = added
    return seeds


def looks_of(plan: Plan) -> tuple[int, ...]:
    """The numbers of seeds at which the study may be looked at and ended: one, unless it goes on until settled."""
    return statistics.looks(len(plan.seeds), plan.max_seeds) if plan.until_settled else (len(plan.seeds),)


def _difference(plan: Plan, pairs: Sequence[tuple[Result, Result]], level: float) -> statistics.Difference | None:
    if not pairs:
        return None
    if plan.folds is None:
        one, other = (np.stack([pair[side].correct for pair in pairs]) for side in (0, 1))
        return statistics.difference(one, other, level)
    table = _by_fold(plan, [(one.key, float(one.correct.mean() - other.correct.mean())) for one, other in pairs])
    if table is None:
        return None
    images = sum(len(one.answers) for one, _ in pairs if one.key[0] == pairs[0][0].key[0])
    return statistics.fold_difference(table, 1 / (plan.folds - 1), images, level)


def _by_fold(plan: Plan, values: Sequence[tuple[Key, float]]) -> np.ndarray | None:
    """One value a run as repeats by folds, of the repeats that are complete."""
    whole: dict[int, dict[int | None, float]] = {}
    for (seed, fold), value in values:
        whole.setdefault(seed, {})[fold] = value
    rows = [
        [its[fold] for fold in sorted(its, key=lambda fold: fold or 0)]
        for its in whole.values()
        if len(its) == plan.folds
    ]
    return np.array(rows) if rows else None


def _mean(plan: Plan, results: Sequence[Result]) -> statistics.Interval | None:
    if not results:
        return None
    if plan.folds is not None:
        table = _by_fold(plan, [(result.key, float(result.correct.mean())) for result in results])
        images = sum(len(result.answers) for result in results if result.key[0] == results[0].key[0])
        return statistics.fold_mean(table, 1 / (plan.folds - 1), images=images) if table is not None else None
    sizes = {len(result.answers) for result in results}
    if len(sizes) > 1:
        raise UserError(f"{results[0].job.arm}: its runs answered different numbers of test images: {sorted(sizes)}")
    return statistics.mean(np.stack([result.correct for result in results]))


def _arm(
    plan: Plan,
    ground: Ground,
    arm: Arm,
    reference: Arm,
    results: Sequence[Result],
    costs: dict[str, Any],
    tuned: dict[Any, Any],
    jobs: Sequence[Job],
) -> ArmFinding:
    count = counted(arm.network, ground.classes)
    cost = costs.get("arms", {}).get(arm.name)
    values = {value for (name, _), value in tuned.items() if name == arm.name}
    field = plan.search.field if plan.search is not None else ""
    published = plan.published.get(arm.name)
    return ArmFinding(
        name=arm.name,
        role=arm.role,
        network=_in_words(arm),
        parameters=count.parameters,
        flops=count.flops,
        epochs=arm.recipe.epochs if arm.recipe.minutes is None else None,
        tuned={field: values.pop()} if len(values) == 1 else {field: "a value for each fold"} if values else {},
        top1=_mean(plan, results),
        runs=tuple(_run(result) for result in results),
        planned=sum(job.arm == arm.name for job in jobs),
        cost=Cost(**cost) if cost else None,
        published=(published.top1 / 100, published.source) if published else None,
        differs=tuple(_differs(arm, reference)) if arm is not reference else (),
    )


def _run(result: Result) -> RunFinding:
    curve = []
    for row in result.metrics:
        top1 = max((row[key]["top1"] for key in ("weights", "average") if key in row), default=None)
        curve.append(Epoch(row["epoch"], row["images"], float(row["loss"]), top1))
    return RunFinding(
        seed=result.job.seed,
        fold=result.job.fold,
        top1=float(result.correct.mean()),
        loss=float(result.summary["test"]["loss"]["value"]),
        images=len(result.answers),
        seconds=float(result.summary["seconds"]),
        peak_memory=result.summary.get("peak_memory_mib"),
        curve=tuple(curve),
    )


def _in_words(arm: Arm) -> str:
    """A network in a line."""
    its = arm.network.architecture
    if its is None:
        return f"{arm.network.name}, timm's"
    branches = ", ".join(f"{branch.mixer} over {branch.axis}" for branch in its.block)
    rows, columns = its.grid
    return f"width {its.width}, depth {its.depth}, {rows} x {columns} patches of {its.image[0]} x {its.image[1]} px; {branches}"


def _differs(arm: Arm, reference: Arm) -> Iterator[str]:
    """What sets an arm apart from the reference besides its mixers."""
    its, other = arm.network.architecture, reference.network.architecture
    if its is None or other is None:
        if its is not other:
            yield (
                f"{arm.name} and {reference.name} have bodies of different makes: start values, the ramp of stochastic "
                "depth, readout and position differ too"
            )
    else:
        for field in Architecture.model_fields:
            if field not in ("block", "classes") and getattr(its, field) != getattr(other, field):
                yield f"{field}: {getattr(its, field)} against {getattr(other, field)}"
        order, others = ([branch.axis for branch in each.block] for each in (its, other))
        if order != others:
            yield f"order of the branches: {', '.join(order)} against {', '.join(others)}"
    for field in type(arm.recipe).model_fields:
        if getattr(arm.recipe, field) != getattr(reference.recipe, field):
            yield f"recipe.{field}: {getattr(arm.recipe, field)} against {getattr(reference.recipe, field)}"


def _comparison(
    plan: Plan,
    held: Held,
    found: dict[str, ArmFinding],
    one: str,
    other: str,
    pairs: Sequence[tuple[Result, Result]],
    difference: statistics.Difference,
    control: ArmFinding | None,
) -> Comparison:
    margin = plan.margin / 100
    outcome = statistics.outcome(difference, margin)
    more = statistics.seeds_to_settle(difference, margin)
    arm, against = held.arm(one), held.arm(other)
    return Comparison(
        arm=one,
        against=other,
        difference=difference,
        per_run=tuple((a.key, float(a.correct.mean() - b.correct.mean())) for a, b in pairs),
        outcome=outcome,
        headline=verdict.headline(arm, against, outcome),
        words=verdict.words(arm, against, found[one], found[other], difference, outcome, margin, more, control),
        more_seeds=more,
    )


def _disagreement(pairs: Sequence[tuple[Result, Result]], one: str, other: str) -> Disagreement | None:
    try:
        return disagreement(pairs, one, other)
    except UserError:  # the images are no longer where they were: the figures stand without the pictures
        return None


def _statistics(plan: Plan, level: float, questions: int) -> Iterator[str]:
    """How the intervals were made, and what they do not cover."""
    runs = len(plan.seeds)
    if plan.folds is not None:
        yield (
            f"{plan.folds}-fold cross-validation, {runs} times over: intervals by the corrected resampled t-test, which "
            "allows for folds that share training images."
        )
    elif runs == 1:
        yield (
            "One seed: the intervals come from the test images alone. They do not cover what another seed (start values, "
            "order, augmentation) would have changed, which is often as much as the difference; more seeds would show it."
        )
    else:
        yield (
            "Intervals account for both sources of chance, seeds and test images (crossed random effects, degrees of "
            "freedom by Hillis); the same seed gives every arm the same images in the same order with the same "
            "augmentation, so differences are paired."
        )
    if level != 0.95:
        looks = f" and {len(looks_of(plan))} looks at them" if len(looks_of(plan)) > 1 else ""
        yield (
            f"{questions} question{'s' * (questions > 1)}{looks} share one error rate of 5 %: each difference has a "
            f"{100 * level:.4g} % interval (Bonferroni)."
        )
    yield "“As good” is an equivalence test (two one-sided tests) against the margin."
    if plan.search is not None:
        yield (
            f"Each arm's {plan.search.field} was searched with the same number of trials, chosen on the selection part; "
            "the test part chose nothing."
        )
    yield "Not covered: other data, other recipes, errors in the labels."


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
        made = yaml.safe_load(Run(results[0].job.folder).config_file.read_text())["made_with"]
        names = ("ffvit", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "pillow")
        yield "versions", ", ".join([f"Python {made['python']}", *(f"{name} {made[name]}" for name in names)])
        yield "commit", str(made["commit"])
        yield "hardware", "; ".join([made["system"], made["processor"], *made["devices"]])
        took = [result.summary["seconds"] for result in results]
        yield "training", f"{sum(took) / 60:.1f} minutes in all, {median(took):.0f} s a run (median)"
