from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ffvit.config import recipe as recipes
from ffvit.config.architecture import Network
from ffvit.config.data import Data
from ffvit.data.splits import open_splits
from ffvit.errors import OutOfMemoryError
from ffvit.run_folder import Config
from ffvit.study.arms import make_arms
from ffvit.study.default_backbone import Size, backbone
from ffvit.study.plan_options import make_plan
from ffvit.training import run_speed
from ffvit.training.run_speed import Speed, measure_speed

SPEED = Speed(start=1.0, train=0.01, load=0.002, predict=0.001, epoch_end=0.1, activations=2.0**20, state=2.0**21)


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
