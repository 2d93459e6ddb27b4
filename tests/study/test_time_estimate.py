from __future__ import annotations

from pathlib import Path

import pytest

from ffvit.config.data import Data
from ffvit.config.hardware import Hardware
from ffvit.data.splits import open_splits
from ffvit.profiling.count import count_described
from ffvit.study import time_estimate
from ffvit.study.arms import make_arms
from ffvit.study.default_backbone import mixer_levels
from ffvit.study.executor import Slots
from ffvit.study.plan import Plan, Search
from ffvit.study.plan_options import make_plan
from ffvit.study.time_estimate import estimate_study, speeds_of
from ffvit.training import run_speed
from ffvit.training.run_speed import PROCESS, Speed

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
    assert all(count_described(network, 10).parameters < time_estimate.LARGE for network in timed)
    assert timed
    assert set(speeds) == {arm.name for arm in arms}
    flops = {arm.name: count_described(arm.network, 10).flops for arm in arms}
    largest = max(timed, key=lambda network: count_described(network, 10).parameters)
    ratio = flops["FF only, base"] / count_described(largest, 10).flops
    assert speeds["FF only, base"].predict == pytest.approx(SPEED.predict * ratio)
    assert speeds["FF only, base"].train == pytest.approx(SPEED.load + (SPEED.train - SPEED.load) * ratio)
    assert speeds["FF only, base"].activations > 2**26  # counted on the network itself
