"""What a report says about method: how intervals were made, which runs are missing, how to repeat the study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

from ffvit.config.strict_yaml import read_yaml
from ffvit.run_folder import Run
from ffvit.study.analysis import Analysis
from ffvit.study.folder import Study
from ffvit.study.jobs import Job
from ffvit.study.results import Result


def interval_notes(analysis: Analysis, look: int, looks: int, comparisons: int, runs: int) -> Iterator[str]:
    """How the intervals were made, and what they do not cover.

    Args:
        analysis: How the runs are compared.
        look: Which look at the results this is, from 1.
        looks: How many looks are planned.
        comparisons: How many comparisons there are.
        runs: Paired runs of the main one.
    """
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
        yield f"A sequential study of {looks} planned looks: they share 5 % of error, {main} intervals each."
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


def missing_runs(study: Study, jobs: Sequence[Job]) -> Iterator[str]:
    """The runs that are not done, and why."""
    failures = study.failures()
    done = {job.seed for job in jobs if job.finished()}
    if absent := sorted({job.seed for job in jobs} - done - {job.seed for job in jobs if job.folder.exists()}):
        yield f"no run of seed{'s' * (len(absent) > 1)} {', '.join(map(str, absent))} was begun"
    for job in jobs:
        if job.trained() and not job.finished():
            yield f"{job.title}: trained, but not scored on corrupted images"
        elif not job.finished() and job.seed not in absent:
            reason = failures.get(str(job.folder.relative_to(study.path)))
            yield f"{job.title}: {f'failed: {reason}' if reason else 'not done'}"


def repeat_notes(study: Study, results: Sequence[Result]) -> Iterator[tuple[str, str]]:
    """What it takes to repeat the study: label, words."""
    yield "again", f"ffvit compare --study {study.plan_file} --out another-folder"
    if results:
        made = read_yaml(Run(results[0].job.folder).config_file)["environment"]
        names = ("ffvit", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "pillow")
        yield "versions", ", ".join([f"Python {made['python']}", *(f"{name} {made[name]}" for name in names)])
        yield "commit", str(made["commit"])
        yield "hardware", "; ".join([made["system"], made["processor"], *made["devices"]])
        took = [result.summary["seconds"] for result in results]
        yield "training", f"{sum(took) / 60:.1f} minutes in all, {median(took):.0f} s a run (median)"
