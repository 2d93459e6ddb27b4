from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from ffvit.config import recipe as recipes
from ffvit.training.schedule import lr_at

DEIT = recipes.RECIPES["deit"]
REFERENCE = json.loads((Path(__file__).parents[1] / "reference" / "deit_learning_rate.json").read_text())


def test_deit_runs_at_the_rates_of_deits_code():
    assert DEIT.peak_lr == REFERENCE["base_learning_rate"]
    for epoch, rate in enumerate(REFERENCE["learning_rate_in_epoch"]):
        for step in (0.0, 0.7):  # it moves once an epoch
            assert lr_at(DEIT, epoch + step) == pytest.approx(rate, rel=1e-12, abs=1e-18)


def test_without_the_late_start_it_is_the_schedule_itself():
    sane = DEIT.replace(schedule_late=False)
    assert [lr_at(sane, epoch) for epoch in range(300)] == pytest.approx(REFERENCE["schedule"][:300], rel=1e-12)


@pytest.mark.parametrize("under_warmup", [True, False])
def test_it_is_timms_cosine(under_warmup):
    recipe = DEIT.replace(schedule_late=False, cosine_under_warmup=under_warmup, epochs=31, warmup_epochs=7)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=recipe.peak_lr)
    timms = CosineLRScheduler(
        optimizer,
        t_initial=31 if under_warmup else 24,
        lr_min=recipe.min_lr,
        warmup_t=7,
        warmup_lr_init=recipe.warmup_lr,
        warmup_prefix=not under_warmup,
    )
    for epoch in range(31):
        timms.step(epoch)
        assert lr_at(recipe, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_by_the_step_it_moves_within_an_epoch():
    recipe = DEIT.replace(schedule_late=False, schedule_per="step")
    rates = [lr_at(recipe, done) for done in (2, 2.25, 2.5, 2.75, 3)]
    assert rates == sorted(set(rates))


def test_the_cooldown_stays_at_the_final_rate():
    recipe = DEIT.replace(schedule_late=False, cooldown_epochs=10)
    assert lr_at(recipe, 289) > recipe.min_lr
    assert [lr_at(recipe, epoch) for epoch in (290, 299)] == [recipe.min_lr] * 2


def test_constant_stays_at_the_peak():
    recipe = recipes.RECIPES["small"].replace(schedule="constant")
    assert lr_at(recipe, 5) == lr_at(recipe, 99) == recipe.peak_lr


def test_a_warmup_of_part_of_an_epoch():
    recipe = recipes.RECIPES["small"].replace(epochs=3, warmup_epochs=0.25)
    start, peak = recipe.warmup_lr, recipe.peak_lr
    rates = [lr_at(recipe, done) for done in (0, 0.125, 0.25)]
    assert rates == pytest.approx([start, (start + peak) / 2, peak])
    assert lr_at(recipe, 0.25 + 2.75 / 2) == pytest.approx((peak + recipe.min_lr) / 2)


def test_by_the_epoch_a_warmup_is_of_whole_epochs():
    """A rate that holds for an epoch would else keep the first at next to nothing."""
    short = DEIT.lasting(30).replace(schedule_late=False)
    assert short.warmup == 0.5
    assert lr_at(short, 0) == short.peak_lr
