"""What a study will do, before it starts: its arms, what their runs will take, and what they can show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ffvit.data.split_record import check_split
from ffvit.data.splits import Splits, open_splits
from ffvit.errors import ConfigError
from ffvit.inference.corruptions import choose_corruptions
from ffvit.profiling.count import count_described
from ffvit.study.arms import make_arms
from ffvit.study.conclude import outlook_of
from ffvit.study.corrupted import check_arms
from ffvit.study.folder import Study, StudyInputs, fixed_fields
from ffvit.study.jobs import differences, make_runs
from ffvit.study.matching import all_arms, match_arms
from ffvit.study.plan import Plan
from ffvit.study.time_estimate import LARGE, StudyEstimate, estimate_study, scaled_arms, threads_of
from ffvit.terminal import build_table
from ffvit.training.progress import format_duration


@dataclass(frozen=True)
class Forecast:
    """What a study will do: what its runs depend on, what they will take, and their images."""

    inputs: StudyInputs
    estimate: StudyEstimate
    splits: Splits


def make_forecast(plan: Plan, workers: int | None = None, study: Study | None = None) -> Forecast:
    """Make a study's arms, and measure what its runs will take; `study` is its folder, if it was begun before.

    Raises:
        UserError: The images, an arm or the match cannot be as the plan says; or the images or an arm that has runs were
            changed.
    """
    splits = open_splits(plan.data if plan.folds is None else plan.data.replace(folds=plan.folds, fold=0))
    if study is not None and study.split_file.is_file():
        advice = "Put them back as they were, or begin a new study with another --out"
        check_split(study.split_file, splits, plan.data.source, advice)
    _check_test_images(plan, splits)
    before = study.inputs() if study is not None else None
    inputs = _inputs(plan, splits) if before is None else _extended(plan, before)
    networks = [arm.network for arm in inputs.matched.arms]
    check_arms(choose_corruptions(plan.corruptions), networks, inputs.classes, plan.hardware)
    return Forecast(inputs, estimate_study(plan, inputs.matched.arms, splits, inputs.threads, workers), splits)


def _check_test_images(plan: Plan, splits: Splits) -> None:
    """Check that arms that start from trained weights are tested on images that these were not trained on.

    Raises:
        UserError: The test images are drawn at random.
    """
    started = [arm.name for arm in make_arms(plan) if arm.start_from is not None]
    if started and (plan.folds is not None or "test" in splits.drawn):
        raise ConfigError(
            f"factors: {started[0]!r} starts from trained weights, and test images are drawn at random here, so that it may "
            "have been trained on them: use data with an official test split (folders train/ and val/ or test/), without folds"
        )


def _inputs(plan: Plan, splits: Splits) -> StudyInputs:
    classes = len(splits.classes)
    matched = match_arms(plan, all_arms(plan, classes), classes)
    inputs = StudyInputs(
        matched=matched,
        classes=classes,
        images=splits.account,
        train_images=len(splits.train),
        validation_images=len(splits.validation) if splits.validation is not None else 0,
        test_images=len(splits.test),
        drawn=splits.drawn,
        groups=splits.groups,
        threads=threads_of(plan, matched.arms),
        fixed=fixed_fields(plan),
    )
    return inputs.replace(outlook=outlook_of(plan, inputs))


def _extended(plan: Plan, inputs: StudyInputs) -> StudyInputs:
    """The inputs with the arms that a changed plan adds.

    Raises:
        UserError: An arm is gone or was changed.
    """
    arms = all_arms(plan, inputs.classes)
    if plan.match == "latency" and {arm.name for arm in arms} == {arm.name for arm in inputs.matched.arms}:
        return inputs  # measured again, widths would differ a little
    matched = match_arms(plan, arms, inputs.classes)
    now = {arm.name: arm.model_dump(mode="json") for arm in matched.arms}
    for arm in inputs.matched.arms:
        after = now.get(arm.name)
        changed = ["it is gone"] if after is None else differences(arm.model_dump(mode="json"), after)
        if changed:
            raise ConfigError(
                f"factors: arms may be added to a study, not changed: {arm.name!r}: {'; '.join(changed[:3])}. "
                "Put it back as it was, or give the new plan another --out"
            )
    return inputs.replace(matched=matched)


def show_forecast(plan: Plan, forecast: Forecast, console: Console) -> None:
    """Print every arm, what a run of it takes, what the study can show, and how long it will take."""
    inputs, estimate = forecast.inputs, forecast.estimate
    runs = [job.arm for job in make_runs(plan, inputs.matched.arms, Path(), plan.seeds)]
    scaled = scaled_arms(inputs.matched.arms, inputs.classes, plan.hardware)
    sentences = [*inputs.matched.notes, *inputs.outlook, *plan.compromises]
    if scaled:
        names = ", ".join(arm.name for arm in inputs.matched.arms if arm.name in scaled)
        millions = f"{LARGE / 1e6:.0f} M"
        sentences.append(f"Not timed, but scaled by FLOPs, as they have more than {millions} parameters: {names}.")
    search = ""
    if plan.search is not None:
        values = plan.search.planned(plan.recipe)
        search = f", each after a search of its {', '.join(plan.search.fields)} over {values} values or more"
    duration = format_duration(estimate.seconds)
    sentences.append(f"{len(runs)} runs{search}: about {duration}, {estimate.slots.count} at once")
    console.print(Text(plan.title, "bold"))
    console.print(Text(inputs.images), soft_wrap=True)
    console.print(_arm_table(inputs, estimate, runs), highlight=False)
    for sentence in sentences:
        console.print(Text(sentence), soft_wrap=True)


def _arm_table(inputs: StudyInputs, estimate: StudyEstimate, runs: list[str]) -> Table:
    table = build_table(("arm", "parameters", "GFLOPs", "epochs", "runs", "time a run", "memory a run"))
    for arm in inputs.matched.arms:
        count, run = count_described(arm.network, inputs.classes), estimate.runs[arm.name]
        table.add_row(
            Text.assemble(arm.name, (f" ({arm.role})", "dim") if arm.role != "arm" else ""),
            f"{count.parameters / 1e6:.2f} M",
            f"{count.flops / 1e9:.3g}",
            str(arm.recipe.epochs) if arm.recipe.minutes is None else "",
            str(runs.count(arm.name)),
            f"~ {format_duration(run.seconds)}",
            f"~ {run.memory:,.0f} MiB",
        )
    return table
