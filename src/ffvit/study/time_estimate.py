"""How long a study will take, before it starts, from the measured speed of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from ffvit.config.hardware import Hardware
from ffvit.config.recipe import Recipe
from ffvit.data.splits import Splits
from ffvit.hardware.devices import available_cores, device_type
from ffvit.models.create import create_model
from ffvit.models.description import preprocess_of
from ffvit.profiling.count import count_described
from ffvit.profiling.memory import activation_bytes
from ffvit.study.arms import Arm
from ffvit.study.baselines import predicted_seconds
from ffvit.study.executor import Slots, slots_for
from ffvit.study.jobs import make_runs, shorten
from ffvit.study.plan import Plan
from ffvit.training.run_speed import RunEstimate, Speed, measure_speed

REPORT = 8.0
"""Seconds for a study's process to start, and for its report and figures."""

EXTENSIONS = 0.5
"""Configurations that a search tries beyond its grid, on average."""

LARGE = 25e6
"""Parameters above which a network is not built to be timed on a CPU: its figures are scaled from a smaller arm's."""

MEMORY = 1_000.0
"""MiB that a run is assumed to need before anything is measured."""


@dataclass(frozen=True)
class StudyEstimate:
    """What a study will take, from start to report; and a run of each arm, by the arm's name."""

    runs: Mapping[str, RunEstimate]
    seconds: float
    slots: Slots


def threads_of(plan: Plan, arms: Sequence[Arm]) -> int:
    """CPU threads of a run: more than one only if the study has fewer runs than this machine has cores."""
    return max(1, available_cores() // (len(arms) * len(plan.seeds) * (plan.folds or 1)))


def estimate_study(
    plan: Plan, arms: Sequence[Arm], splits: Splits, threads: int | None = None, workers: int | None = None
) -> StudyEstimate:
    """What a whole study takes: searches and runs, as many at once as fit, and what comes before and after them."""
    jobs = make_runs(plan, arms, Path(), plan.seeds)
    threads = threads or threads_of(plan, arms)
    at_once = slots_for(plan.hardware, len(jobs), MEMORY, workers, threads).count
    speeds = speeds_of(arms, splits, threads, plan.hardware, at_once)
    runs = {arm.name: speeds[arm.name].run(arm.recipe, splits) for arm in arms}
    slots = slots_for(plan.hardware, len(jobs), max(run.memory for run in runs.values()), workers, threads)
    trial_seconds, trial_counts = {arm.name: 0.0 for arm in arms}, {arm.name: 0.0 for arm in arms}
    if plan.search is not None:
        for arm in arms:
            trial_seconds[arm.name] = speeds[arm.name].run(shorten(arm.recipe, plan.search), splits).seconds
            trial_counts[arm.name] = trials(plan, arm.recipe)
    work = sum(runs[job.arm].seconds + trial_counts[job.arm] * trial_seconds[job.arm] for job in jobs)
    longest = max(runs[job.arm].seconds for job in jobs)
    slowest = max(trial_seconds[job.arm] for job in jobs)
    # The last runs leave places free: half of one, on average. No study is over before its slowest repetition is.
    working = (work + longest * (slots.count - 1) / 2) / slots.count
    rounds = plan.search.seeds if plan.search is not None else 0
    baselines = predicted_seconds(splits, next(iter(speeds.values())).load) if plan.controls else 0.0
    around = REPORT + len(plan.seeds) * baselines + sum(speed.costs for speed in speeds.values())
    return StudyEstimate(runs, max(working, longest + rounds * slowest) + around, slots)


def trials(plan: Plan, recipe: Recipe) -> float:
    """How many trials a search takes: after each, the better half stays; now and then the grid is extended."""
    if plan.search is None:
        return 0.0
    left, total = plan.search.planned(recipe), 0.0
    for _ in range(plan.search.seeds):
        total, left = total + left, -(-left // 2)
    return total + (EXTENSIONS * plan.search.seeds if plan.search.extend else 0.0)


def speeds_of(arms: Sequence[Arm], splits: Splits, threads: int, hardware: Hardware, at_once: int) -> dict[str, Speed]:
    """How fast a run of each arm is; on a CPU large networks are not built, but scaled from the largest that was."""
    classes = len(splits.classes)
    scaled = scaled_arms(arms, classes, hardware)
    by_size = sorted(arms, key=lambda arm: count_described(arm.network, classes).parameters)
    built = [arm for arm in by_size if arm.name not in scaled]
    speeds = {arm.name: measure_speed(arm.network, arm.recipe, splits, threads, hardware, at_once) for arm in built}
    largest = built[-1]
    for arm in by_size[len(built) :]:
        speeds[arm.name] = _scale(speeds[largest.name], largest, arm, classes)
    return speeds


def scaled_arms(arms: Sequence[Arm], classes: int, hardware: Hardware) -> frozenset[str]:
    """The names of the arms that are too large to be timed; the smallest never is."""
    if device_type(hardware) != "cpu":
        return frozenset()
    size = {arm.name: count_described(arm.network, classes).parameters for arm in arms}
    return frozenset(name for name in size if size[name] > max(LARGE, min(size.values())))


def _scale(speed: Speed, timed: Arm, arm: Arm, classes: int) -> Speed:
    """The speed of an arm from that of one that was timed: times follow the FLOPs, what is written the parameters."""
    before, after = count_described(timed.network, classes), count_described(arm.network, classes)
    time, size = after.flops / before.flops, after.parameters / before.parameters
    with torch.device("meta"):
        network = create_model(arm.network, classes)
        takes = preprocess_of(network)
        images, labels = torch.empty(2, takes.in_chans, *takes.img_size), torch.zeros(2, dtype=torch.int64)
    return Speed(
        start=speed.start * time,
        train=speed.load + max(0.0, speed.train - speed.load) * time,
        load=speed.load,
        predict=speed.predict * time,
        epoch_end=speed.epoch_end * size,
        activations=activation_bytes(lambda: cross_entropy(network(images), labels), network) / len(images),
        state=speed.state * size,
    )
