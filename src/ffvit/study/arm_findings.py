"""What one arm of a study is, searched, reached and cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ffvit.config.architecture import Architecture
from ffvit.study.analysis import Analysis
from ffvit.study.arms import Arm
from ffvit.study.findings import ArmFinding, Cost, Epoch, RunFinding, SearchFinding, TrialFinding
from ffvit.study.folder import Study
from ffvit.study.jobs import Job, Searches
from ffvit.study.matching import count_arm
from ffvit.study.plan import Plan
from ffvit.study.results import Result


def arm_finding(
    study: Study,
    analysis: Analysis,
    arm: Arm,
    reference: Arm,
    results: Sequence[Result],
    costs: Mapping[str, Any],
    searches: Searches,
    jobs: Sequence[Job],
) -> ArmFinding:
    """One arm of a study: its runs, its search, its settings and costs."""
    plan, count = analysis.plan, count_arm(arm.network, analysis.ground.classes)
    cost = costs.get("arms", {}).get(arm.name)
    published = plan.published.get(arm.name)
    own = [job for job in jobs if job.arm == arm.name]
    failures = study.failed()
    return ArmFinding(
        name=arm.name,
        role=arm.role,
        network=_in_words(arm),
        parameters=count.parameters,
        flops=count.flops,
        epochs=arm.recipe.epochs if arm.recipe.minutes is None else None,
        settings=tuple(_settings(arm)),
        search=_search(study, plan, searches, own),
        top1=analysis.mean(results),
        runs=tuple(_run(result) for result in results),
        planned=len(own),
        failed=sum(not job.finished() and job.folder in failures for job in own),
        cost=Cost(**{**cost, "latencies": tuple(cost.get("latencies", ()))}) if cost else None,
        published=(published.top1 / 100, published.source) if published else None,
        differs=tuple(_differs(arm, reference)) if arm is not reference else (),
    )


def _search(study: Study, plan: Plan, searches: Searches, jobs: Sequence[Job]) -> SearchFinding | None:
    if plan.search is None:
        return None
    field = next(iter(plan.search.fields))
    trials, edges, failed, epochs = [], 0, 0, 0
    for job in jobs:
        step = searches.state(job, study.failed())
        edges += step.at_the_edge
        failed += step.failed
        for values, losses in step.tried:
            trials.append(TrialFinding((job.seed, job.fold), values, losses, values == step.chosen))
            epochs = searches.trial(job, values, 0).config.recipe.epochs
    return SearchFinding(field, epochs, tuple(trials), edges, len(jobs), failed)


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
        images=len(result.predictions),
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
    return (
        f"width {its.width}, depth {its.depth}, {its.image[0]} x {its.image[1]} px in {rows} x {columns} patches of "
        f"{its.patch[0]} x {its.patch[1]} px; {branches}"
    )


def _settings(arm: Arm) -> Iterator[tuple[str, str]]:
    """What could be set otherwise for each arm, side by side."""
    its, recipe = arm.network.architecture, arm.recipe
    if its is not None:
        std = f", starting at {its.position_std:g}" if its.position in ("map", "vectors") else ""
        yield "position", f"{its.position}{std}"
        yield "readout", its.readout
        yield "initialization", its.init
        for branch in its.block:
            settings = [f"{name} {getattr(branch, name)}" for name in ("heads", "hidden", "ratio", "kernel")]
            settings = [words for words in settings if not words.endswith("None")]
            settings.append(f"norm over {branch.normalised_axis}")
            yield f"over {branch.axis}", f"{branch.mixer}: {', '.join(settings)}"
    yield "weight decay", f"{recipe.weight_decay:g}"
    yield "warm-up", f"{recipe.warmup:g} epochs"
    yield "batch", f"{recipe.batch_size} images"
    yield "drop path", f"{recipe.drop_path:g}"


def _differs(arm: Arm, reference: Arm) -> Iterator[str]:
    """What sets an arm apart from the reference besides its mixers."""
    its, other = arm.network.architecture, reference.network.architecture
    if its is None or other is None:
        if its is not other:
            yield (
                f"{arm.name} and {reference.name} have bodies of different makes: initialization, drop path, readout and "
                "position differ too"
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
