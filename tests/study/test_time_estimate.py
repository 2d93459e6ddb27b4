from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ffvit.config import recipe as recipes
from ffvit.config.architecture import Network
from ffvit.config.data import Data
from ffvit.config.hardware import Hardware
from ffvit.data.splits import open_splits
from ffvit.errors import OutOfMemoryError
from ffvit.run_folder import Config
from ffvit.study import run_speed, time_estimate
from ffvit.study.arms import make_arms
from ffvit.study.default_backbone import Size, backbone, mixer_levels
from ffvit.study.executor import Slots
from ffvit.study.matching import count_arm
from ffvit.study.plan import Plan, Search
from ffvit.study.plan_options import make_plan
from ffvit.study.run_speed import PROCESS, Speed, measure_speed
from ffvit.study.time_estimate import estimate_study, speeds_of

SPEED = Speed(start=1.0, train=0.01, load=0.002, predict=0.001, epoch_end=0.1, activations=2.0**20, state=2.0**21)


def test_a_run_is_its_epochs_and_what_comes_before_and_after():
    recipe, splits = make_plan().recipe.lasting(25), open_splits(Data())
    train, validation, test = len(splits.train), len(splits.validation), len(splits.test)
    around = run_speed.START + 1.0 + (validation + test) * 0.003
    epoch = train * 0.01 + 0.1
    plain = SPEED.run(recipe.replace(ema_decay=None), splits)
    assert plain.seconds == pytest.approx(around + 25 * (epoch + validation * 0.001))
    assert SPEED.run(recipe, splits).seconds == pytest.approx(around + 25 * (epoch + 2 * validation * 0.001))
    assert SPEED.run(recipe.replace(minutes=2.0), splits).seconds == pytest.approx(around + 120)
    assert plain.memory == PROCESS + 2 + recipe.batch_size


def test_a_study_is_its_searches_and_runs_as_many_at_once_as_there_is_room_for(monkeypatch):
    plan, splits = make_plan().replace(controls=False), open_splits(Data())
    recipe = plan.recipe.lasting(25)
    plan = plan.replace(
        seeds=(0, 1, 2), side_seeds=1, search=Search(), recipe=recipe, factors={"mixer": mixer_levels(heads=2)}
    )
    arms = make_arms(plan)
    monkeypatch.setattr(time_estimate, "measure_speed", lambda *_: SPEED)
    monkeypatch.setattr(time_estimate, "slots_for", lambda *_: Slots(1, 1, 0))
    run = SPEED.run(plan.recipe, splits).seconds
    trial = SPEED.run(plan.recipe.lasting(5), splits).seconds
    around = time_estimate.REPORT + 3 * SPEED.costs

    def seconds(plan: Plan) -> float:
        return estimate_study(plan, arms, splits).seconds

    one = seconds(plan)
    assert one == pytest.approx(around + (3 + 3 + 1) * (run + 9 * trial))
    assert seconds(plan.replace(search=None)) == pytest.approx(around + 7 * run)
    monkeypatch.setattr(time_estimate, "slots_for", lambda *_: Slots(2, 1, 0))
    assert (one - around) / 2 < seconds(plan) - around <= (one - around + run) / 2
    monkeypatch.setattr(time_estimate, "slots_for", lambda *_: Slots(1000, 1, 0))
    assert seconds(plan) - around >= run + 2 * trial


def test_large_networks_are_scaled_from_the_largest_that_was_timed(monkeypatch):
    plan, splits = make_plan(study=Path("studies/table1.yaml"), source="digits"), open_splits(Data())
    arms, timed = make_arms(plan), []
    monkeypatch.setattr(time_estimate, "measure_speed", lambda network, *_: timed.append(network) or SPEED)
    speeds = speeds_of(arms, splits, 1, Hardware(accelerator="cpu"), 1)
    assert all(count_arm(network, 10).parameters < time_estimate.LARGE for network in timed)
    assert timed
    assert set(speeds) == {arm.name for arm in arms}
    flops = {arm.name: count_arm(arm.network, 10).flops for arm in arms}
    largest = max(timed, key=lambda network: count_arm(network, 10).parameters)
    ratio = flops["FF only, base"] / count_arm(largest, 10).flops
    assert speeds["FF only, base"].predict == pytest.approx(SPEED.predict * ratio)
    assert speeds["FF only, base"].train == pytest.approx(SPEED.load + (SPEED.train - SPEED.load) * ratio)
    assert speeds["FF only, base"].activations > 2**26  # counted on the network itself


def test_a_measurement_does_what_a_run_does_and_is_kept(monkeypatch):
    plan, splits = make_plan(), open_splits(Data())
    arm = make_arms(plan)[1]
    found = measure_speed(arm.network, arm.recipe, splits, 1, plan.hardware, 2)
    assert all(value > 0 for value in vars(found).values())
    assert found.activations == 202928.0625
    assert found.state == run_speed.STATE * 4 * 152_074
    monkeypatch.setattr(run_speed, "_measure_at_once", lambda *_: pytest.fail("measured again"))
    longer = arm.recipe.replace(epochs=50, lr=1e-4, ema_decay=0.999)
    assert measure_speed(arm.network, longer, splits, 1, plan.hardware, 2) is found
    with pytest.raises(pytest.fail.Exception):
        measure_speed(arm.network, longer.replace(mixup=0.2), splits, 1, plan.hardware, 2)


def test_steps_are_timed_with_as_many_images_as_a_run_takes_where_a_network_is_cheap():
    """Photographs of 84 px in 16 patches were foreseen to take twice as long as they did, by steps of 8 images."""
    splits, recipe, device = (
        open_splits(Data()),
        recipes.named_recipe("small").replace(batch_size=96),
        torch.device("cpu"),
    )

    def batch(network: Network) -> int:
        return run_speed._batch_size(Config(network=network, recipe=recipe), splits, device)

    assert batch(Network(architecture=backbone(Size(84, 21, 64, 4, 2), 0.3))) == 64
    assert batch(Network(name="ff_tiny_patch16_224")) == 8


def test_as_many_are_measured_at_the_same_time_as_runs_will_go_on(monkeypatch):
    seen = []
    monkeypatch.setattr(run_speed, "_measure_at_once", lambda count, *_: seen.append(count) or [SPEED] * count)
    plan, splits = make_plan(), open_splits(Data())
    network = make_arms(plan)[0].network
    for at_once in (1, 3, 100):
        measure_speed(network, plan.recipe.replace(cutmix=0.5), splits, 1, plan.hardware, at_once)
    assert seen == [1, 3, run_speed.MOST_AT_ONCE]


def test_the_mean_of_those_measured_is_the_speed(monkeypatch):
    monkeypatch.setattr(run_speed, "_measure_at_once", lambda *_: [SPEED, replace(SPEED, train=0.03)])
    plan, splits = make_plan(), open_splits(Data())
    network = make_arms(plan)[0].network
    assert measure_speed(network, plan.recipe.replace(cutmix=0.25), splits, 1, plan.hardware, 2).train == pytest.approx(
        0.02
    )


def test_a_measurement_that_the_system_ends_is_told_in_words(monkeypatch):
    plan, splits = make_plan(), open_splits(Data())
    network = make_arms(plan)[0].network
    monkeypatch.setattr(run_speed, "ProcessPoolExecutor", _Broken)
    with pytest.raises(OutOfMemoryError, match="ended by the system"):
        measure_speed(network, plan.recipe.replace(cutmix=0.125), splits, 1, plan.hardware, 1)


class _Broken:
    """A pool whose process has died."""

    def __init__(self, *_: object, **__: object) -> None:
        raise run_speed.BrokenProcessPool
