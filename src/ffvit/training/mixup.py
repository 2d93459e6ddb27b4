"""Mixup and CutMix by timm, drawn from (seed, epoch, step, group) alone.

A batch comes in groups whose images are mixed among themselves with one draw (DeiT: the 128 images of a GPU). A group
is laid out so that image i and its partner stand mirrored, and a part of it holds whole pairs: so the mixed images are
the same however the batch is cut over processes and accumulated parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from jaxtyping import Float, Int
from timm.data import Mixup
from timm.data.mixup import mixup_target
from torch import Tensor

from ffvit.config.recipe import Recipe
from ffvit.seeding import seeded


class MixupCutmix:
    """Mixes a batch's images and makes its soft targets.

    Args:
        recipe: Its mixing fields and label smoothing.
        classes: Number of classes.
        seed: The run's.
    """

    def __init__(self, recipe: Recipe, classes: int, seed: int) -> None:
        self.seed = seed
        self.classes = classes
        self.smoothing = recipe.label_smoothing
        self.mixup = (
            Mixup(
                mixup_alpha=recipe.mixup,
                cutmix_alpha=recipe.cutmix,
                prob=recipe.mixup_prob,
                switch_prob=recipe.mixup_switch_prob,
                mode="batch",
                label_smoothing=recipe.label_smoothing,
                num_classes=classes,
            )
            if recipe.mixes
            else None
        )

    def __call__(
        self,
        images: Float[Tensor, "batch channels height width"],
        labels: Int[Tensor, " batch"],
        weights: Float[Tensor, " batch"],
        groups: Sequence[int],
        epoch: int,
        step: int,
    ) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch classes"], Float[Tensor, " batch"]]:
        """Mix in place, and hand back images, soft targets and weights.

        Args:
            images: The images.
            labels: Their classes.
            weights: 0 for an image that could not be read; its partner is then left out with it.
            groups: The number of each image's group; images of a group stand together.
            epoch: From 0.
            step: From 0 in the epoch.
        """
        if self.mixup is None:
            return images, mixup_target(labels, self.classes, lam=1.0, smoothing=self.smoothing), weights
        targets, kept = [], []
        begin = 0
        for group, members in groupby(groups):
            end = begin + len(list(members))
            with seeded(self.seed, epoch, step, group):
                _, target = self.mixup(images[begin:end], labels[begin:end])
            targets.append(target)
            kept.append(weights[begin:end] * weights[begin:end].flip(0))
            begin = end
        return images, torch.cat(targets), torch.cat(kept)
