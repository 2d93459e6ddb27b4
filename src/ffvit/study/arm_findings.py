"""What one arm of a study is, searched, reached and cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ffvit.config.architecture import Architecture, Branch
from ffvit.profiling.count import count_described
from ffvit.study.analysis import Analysis, corrupted
from ffvit.study.arms import Arm
from ffvit.study.findings import ArmFinding, Cost, Epoch, RunFinding, SearchFinding, TrialFinding
from ffvit.study.folder import Study
from ffvit.study.jobs import Job, Searches
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
    plan, count = analysis.plan, count_described(arm.network, analysis.ground.classes)
    cost = costs.get("arms", {}).get(arm.name)
    published = plan.published.get(arm.name)
    own = [job for job in jobs if job.arm == arm.name]
    scored = [result for result in results if result.corrupted is not None]
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
        corrupted=analysis.mean(scored, corrupted),
        runs=tuple(_run(result) for result in results),
        planned=len(own),
        failed=sum(not job.trained() and job.folder in failures for job in own),
        cost=Cost(**{**cost, "latencies": tuple(cost.get("latencies", ()))}) if cost else None,
        published=(published.top1 / 100, published.source) if published else None,
        differs=tuple(_differs(arm, reference)) if arm is not reference else (),
        block=_block(arm),
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
    body = arm.network.architecture
    if body is None:
        return f"{arm.network.name}, an external network"
    rows, columns = body.grid
    return (
        f"width {body.width}, depth {body.depth}, {body.img_size[0]} x {body.img_size[1]} px in {rows} x {columns} patches of "
        f"{body.patch[0]} x {body.patch[1]} px; {_branches(body.block)}"
        + "".join(
            f"; in block{'s' * (len(change.blocks) > 1)} {', '.join(map(str, change.blocks))}: {_branches(change.block)}"
            for change in body.replaced or ()
        )
    )


def _branches(block: tuple[Branch, ...]) -> str:
    return ", ".join(f"{branch.row.name} over {branch.axis}" for branch in block)


def _block(arm: Arm) -> tuple[tuple[str, str], ...]:
    body = arm.network.architecture
    if body is None or body.replaced:  # then there is no one block
        return ()
    return tuple((branch.row.name, branch.axis) for branch in body.block)


def _settings(arm: Arm) -> Iterator[tuple[str, str]]:
    """What could be set otherwise for each arm, side by side."""
    body, recipe = arm.network.architecture, arm.recipe
    if body is not None:
        std = f", starting at {body.position_std:g}" if body.position in ("map", "vectors") else ""
        yield "position", f"{body.position}{std}"
        yield "readout", body.readout
        yield "initialization", body.init
        for branch in body.block:
            values = {name: getattr(branch, name) for name in ("heads", "hidden", "ratio", "kernel")}
            settings = [f"{name} {value}" for name, value in values.items() if value is not None]
            settings.append(f"norm over {branch.normalised_axis}")
            yield f"over {branch.axis}", f"{branch.row.name}: {', '.join(settings)}"
    yield "weight decay", f"{recipe.weight_decay:g}"
    yield "warm-up", f"{recipe.warmup:g} epochs"
    yield "batch", f"{recipe.batch_size} images"
    yield "drop path", f"{recipe.drop_path:g}"


def _differs(arm: Arm, reference: Arm) -> Iterator[str]:
    """What sets an arm apart from the reference besides its mixers."""
    one, two = arm.network.architecture, reference.network.architecture
    if one is None or two is None:
        if one is not two:
            yield (
                f"{arm.name} and {reference.name} have different bodies: initialization, drop path, readout and position "
                "differ too"
            )
    else:
        for field in Architecture.model_fields:
            if field not in ("block", "num_classes") and getattr(one, field) != getattr(two, field):
                yield f"{field}: {getattr(one, field)} against {getattr(two, field)}"
        axes, reference_axes = ([axis for _, axis in _block(side)] for side in (arm, reference))
        if axes != reference_axes:
            yield f"order of the branches: {', '.join(axes)} against {', '.join(reference_axes)}"
    if arm.start_from != reference.start_from:
        yield f"start: {arm.start_from or 'initial weights'} against {reference.start_from or 'initial weights'}"
    for field in type(arm.recipe).model_fields:
        if getattr(arm.recipe, field) != getattr(reference.recipe, field):
            yield f"recipe.{field}: {getattr(arm.recipe, field)} against {getattr(reference.recipe, field)}"
