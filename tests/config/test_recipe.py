from __future__ import annotations

import pytest

from ffvit import Recipe, UserError
from ffvit.config import recipe
from ffvit.config.base import parse


@pytest.mark.parametrize("name", recipe.RECIPES)
def test_named_ones_read_back_equal(name):
    assert Recipe.from_yaml(str(recipe.RECIPES[name])) == recipe.RECIPES[name]


def test_a_none_that_was_chosen_is_kept():
    without = Recipe(ema_decay=None)
    assert Recipe.from_yaml(str(without)).ema_decay is None
    assert "minutes" not in str(without)  # None anyway


def test_deit_is_the_papers():
    """The reference's facts, one by one."""
    deit = recipe.RECIPES["deit"]
    facts = {
        "epochs": 300, "batch_size": 1024, "betas": (0.9, 0.999), "epsilon": 1e-8, "weight_decay": 0.05,
        "warmup": 5, "warmup_lr": 1e-6, "min_lr": 1e-5, "label_smoothing": 0.1,
        "drop_path": 0.1, "dropout": 0.0, "auto_augment": "rand-m9-mstd0.5-inc1", "interpolation": "bicubic",
        "crop_scale": (0.08, 1.0), "flip": 0.5, "random_erase_prob": 0.25, "mixup": 0.8, "cutmix": 1.0, "mixup_prob": 1.0,
        "mixup_switch_prob": 0.5, "loss": "soft_target", "aug_repeats": 3, "ema_decay": 0.99996,
        "ema_warmup": False,
        "clip_grad_norm": None, "evaluation_crop": 0.875, "mixup_group_size": 128, "optimizer": "adamw",
    }  # fmt: skip
    assert {name: getattr(deit, name) for name in facts} == facts
    assert deit.peak_lr == 1e-3
    assert deit.replace(batch_size=256).peak_lr == 2.5e-4


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"epochs": 3, "warmup_epochs": 5}, "warmup_epochs 5 and cooldown_epochs 0 leave nothing of 3 epochs; lower them (--recipe.warmup-epochs 0.6)"),
        ({"crop_scale": (0.9, 0.1)}, "crop_scale: must rise from above 0; got 0.9 to 0.1"),
        ({"mixup": 0.2, "batch_size": 9}, "mixup and CutMix mix images in pairs: batch_size and mixup_group_size must be even"),
        ({"loss": "bcee"}, "recipe.loss: must be 'soft_target' or 'bce'; got 'bcee', did you mean 'bce'?"),
        ({"lr": 0}, "recipe.lr: input should be greater than 0; got 0"),
        ({"weight_deca": 1}, "recipe.weight_deca: there is no such field, did you mean 'weight_decay'?"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(fields, sentence):
    with pytest.raises(UserError) as raised:
        parse(Recipe, fields)
    assert sentence in str(raised.value)


def test_unknown_names_get_the_nearest():
    with pytest.raises(
        UserError, match=r"none is called 'diet', did you mean 'deit'\? \(there are: deit, small, digits\)"
    ):
        recipe.named_recipe("diet")


def test_the_word_none_is_none_where_a_field_may_be():
    assert Recipe(ema_decay="none", balance="none").ema_decay is None
    assert Recipe(balance="none").balance == "none"
    with pytest.raises(UserError, match=r"recipe\.lr: must be a number; got 'none'"):
        parse(Recipe, {"lr": "none"})


def test_changes_are_checked_together_with_what_they_change():
    assert recipe.RECIPES["deit"].replace(cooldown_epochs=2, epochs=2).epochs == 2  # its cosine is drawn over all of it
    with pytest.raises(UserError, match="cooldown_epochs 2 leave nothing of 2 epochs"):
        recipe.RECIPES["digits"].replace(cooldown_epochs=2, epochs=2)


@pytest.mark.parametrize("name", recipe.RECIPES)
def test_a_shortened_recipe_warms_up_for_a_fifth_of_it(name):
    assert recipe.RECIPES[name].warmup == 5
    short = recipe.RECIPES[name].replace(epochs=3)
    assert short.warmup == pytest.approx(0.6)
    assert Recipe.from_yaml(str(short)) == short
    assert Recipe.from_yaml(str(short)).replace(epochs=50).warmup == 5  # what was derived is not written down as said
    assert recipe.RECIPES[name].replace(epochs=8, warmup_epochs=5).warmup == 5


def test_a_recipe_cut_or_drawn_out_keeps_its_proportions():
    """A trial of 3 epochs for 10 with a warm-up of 1 would have none if it were rounded."""
    whole = Recipe(epochs=10, warmup_epochs=1, cooldown_epochs=1)
    trial = whole.lasting(3)
    assert (trial.epochs, trial.warmup, trial.cooldown_epochs) == (3, pytest.approx(0.3), pytest.approx(0.3))
    assert Recipe(epochs=100).lasting(400).warmup == 20
