"""The learning rate as a function of how far training is, and of nothing else."""

from __future__ import annotations

import math

from ffvit.config.recipe import Recipe


def lr_at(recipe: Recipe, epochs_done: int | float) -> float:
    """The rate at a point of training: linear warm-up, then cosine or constant.

    Args:
        recipe: Its schedule fields say how, DeiT's quirks among them.
        epochs_done: Epochs behind this step, fractions included.

    Returns:
        The learning rate of the next step. With `deit`, equal to what DeiT's code runs at in every epoch.
    """
    warmup = recipe.warmup
    if recipe.schedule_per == "epoch":  # a rate held for an epoch cannot rise within a part of one
        epochs_done, warmup = math.floor(epochs_done), math.floor(warmup)
    if recipe.schedule_late:
        epochs_done = max(epochs_done - 1, 0)
    peak, start, final = recipe.peak_lr, recipe.warmup_lr, recipe.min_lr
    if epochs_done < warmup:
        return start + (peak - start) * epochs_done / warmup
    if recipe.schedule == "constant":
        return peak
    length = recipe.epochs - recipe.cooldown_epochs
    if not recipe.cosine_under_warmup:
        epochs_done, length = epochs_done - warmup, length - warmup
    if epochs_done >= length:
        return final
    return final + (peak - final) * (1 + math.cos(math.pi * epochs_done / length)) / 2
