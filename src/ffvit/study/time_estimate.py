"""How long a study will take, before it starts, from how fast its runs are here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from ffvit.config.hardware import Hardware
from ffvit.config.recipe import Recipe
from ffvit.data.splits import Splits
from ffvit.hardware.devices import available_cores, device_type
from ffvit.models.create import create_model, preprocess_of
from ffvit.profiling.memory import activation_bytes
from ffvit.study.arms import Arm
from ffvit.study.baselines import predicted_seconds
from ffvit.study.jobs import make_runs, shorten
from ffvit.study.local_executor import slots_for
from ffvit.study.matching import count_arm
from ffvit.study.plan import Plan
from ffvit.study.run_speed import Speed, measure

REPORT = 8.0
"""Seconds for a study's process to start, and for its report and figures."""

EXTENSIONS = 0.5
"""Configurations that a search tries beyond its grid, on average."""

LARGE = 25e6
"""Parameters above which a network is not built to be timed on a CPU: its figures are scaled from a smaller arm's."""

MEMORY = 1_000.0
"""MiB that a run is taken to need where nothing is measured yet."""


def trials(plan: Plan, recipe: Recipe) -> float:
    """How many trials the search of one repetition takes: after each, the better half stays; now and then it goes on."""
    if plan.search is None:
        return 0.0
    left, total = plan.search.planned(recipe), 0.0
    for _ in range(plan.search.seeds):
        total, left = total + left, -(-left // 2)
    return total + (EXTENSIONS * plan.search.seeds if plan.search.extend else 0.0)


def study_seconds(plan: Plan, arms: Sequence[Arm], splits: Splits) -> float:
    """What a whole study takes: searches and runs, as many at once as this machine carries, and what comes around them.

    Args:
        plan: The study.
        arms: Its arms.
        splits: The images of one of its runs.
    """
    jobs = make_runs(plan, arms, Path(), plan.seeds, {})
    threads = max(1, available_cores() // (len(arms) * len(plan.seeds) * (plan.folds or 1)))
    at_once = slots_for(plan.hardware, len(jobs), MEMORY, None, threads).count
    speeds = speeds_of(arms, splits, threads, plan.hardware, at_once)
    runs, searches = 0.0, 0.0
    longest, slowest = 0.0, 0.0
    for job in jobs:
        speed, recipe = speeds[job.arm], job.config.recipe
        run = speed.run(recipe, splits).seconds
        trial = speed.run(shorten(recipe, plan.search), splits).seconds if plan.search is not None else 0.0
        longest, slowest = max(longest, run), max(slowest, trial)
        runs, searches = runs + run, searches + trials(plan, recipe) * trial
    # The last runs leave places free: half of one, on average. No study is over before its slowest repetition is.
    working = (runs + searches + longest * (at_once - 1) / 2) / at_once
    rounds = plan.search.seeds if plan.search is not None else 0
    baselines = predicted_seconds(splits, next(iter(speeds.values())).load) if plan.controls else 0.0
    around = REPORT + len(plan.seeds) * baselines + sum(speed.costs for speed in speeds.values())
    return max(working, longest + rounds * slowest) + around


def speeds_of(arms: Sequence[Arm], splits: Splits, threads: int, hardware: Hardware, at_once: int) -> dict[str, Speed]:
    """What a run of each arm takes; on a CPU large networks are not built, but scaled from the largest that was.

    Args:
        arms: The arms.
        splits: The images.
        threads: Processor threads of each run.
        hardware: What one run computes on.
        at_once: How many runs are in progress at once.
    """
    classes = len(splits.classes)
    by_size = sorted(arms, key=lambda arm: count_arm(arm.network, classes).parameters)
    scaled = scaled_arms(arms, classes, hardware)
    built = [arm for arm in by_size if arm.name not in scaled]
    speeds = {arm.name: measure(arm.network, arm.recipe, splits, threads, hardware, at_once) for arm in built}
    largest = built[-1]
    for arm in by_size[len(built) :]:
        speeds[arm.name] = _scaled(speeds[largest.name], largest, arm, classes)
    return speeds


def scaled_arms(arms: Sequence[Arm], classes: int, hardware: Hardware) -> frozenset[str]:
    """The names of the arms that are too large to be timed; the smallest never is."""
    if device_type(hardware) != "cpu":
        return frozenset()
    size = {arm.name: count_arm(arm.network, classes).parameters for arm in arms}
    return frozenset(name for name in size if size[name] > max(LARGE, min(size.values())))


def _scaled(speed: Speed, of: Arm, arm: Arm, classes: int) -> Speed:
    """What a run of an arm takes, from another's: time follows the FLOPs, what is written the parameters."""
    before, after = count_arm(of.network, classes), count_arm(arm.network, classes)
    time, size = after.flops / before.flops, after.parameters / before.parameters
    with torch.device("meta"):
        network = create_model(arm.network, classes)
        takes = preprocess_of(network)
        images, labels = torch.empty(2, takes.in_chans, *takes.img_size), torch.zeros(2, dtype=torch.int64)
    return Speed(
        start=speed.start * time,
        train=speed.load + max(0.0, speed.train - speed.load) * time,
        load=speed.load,
        answer=speed.answer * time,
        epoch=speed.epoch * size,
        kept=activation_bytes(lambda: cross_entropy(network(images), labels), network) / len(images),
        state=speed.state * size,
    )
