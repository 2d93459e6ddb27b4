"""Which images a step sees: a function of (seed, epoch, step) alone, however many processes share the step.

A step's batch is cut into parts, one for each process and accumulated micro-batch. Mixup and CutMix pair images within
groups of the batch, so the parts are cut between pairs: whatever the number of parts, the same images are mixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from torch.utils.data import Sampler

ALONE = -1


class View(NamedTuple):
    """One image to load for training."""

    epoch: int
    image: int
    view: int
    group: int
    position: int  # in the whole batch


def epoch_order(
    images: int,
    seed: int,
    epoch: int,
    repeats: int = 1,
    probabilities: Float[np.ndarray, " images"] | None = None,
) -> tuple[Int64[np.ndarray, " views"], Int64[np.ndarray, " views"]]:
    """The images of an epoch in order, and which view of each this is (0 for the first time it appears).

    Args:
        images: How many there are.
        seed: The run's.
        epoch: From 0.
        repeats: Repeated augmentation (DeiT's RASampler): each image comes as so many views in a row, and the epoch
            ends after as many views as there are images, rounded down to 256, so it shows only some of the images.
        probabilities: Draw with replacement by these instead of shuffling (a balanced sampler).
    """
    draws = np.random.default_rng(np.random.SeedSequence((seed, epoch)))
    order = draws.permutation(images) if probabilities is None else draws.choice(images, images, p=probabilities)
    if repeats > 1:
        views = images // 256 * 256 if images >= 256 else images
        order = np.repeat(order[: -(-views // repeats)], repeats)[:views]
    return order, _times_before(order)


def _times_before(order: Int64[np.ndarray, " views"]) -> Int64[np.ndarray, " views"]:
    """How often each entry has appeared before its place."""
    by_image = np.argsort(order, kind="stable")
    place = np.arange(len(order))
    starts = np.r_[True, np.diff(order[by_image]) != 0]
    first = np.maximum.accumulate(np.where(starts, place, 0))
    before = np.empty_like(order)
    before[by_image] = place - first
    return before


def pairs_of(batch_size: int, group_size: int) -> tuple[Int64[np.ndarray, "pairs 2"], Int64[np.ndarray, " pairs"]]:
    """Positions in a batch that are mixed with each other, and the group of each pair.

    With G groups, group g holds every G-th position, as DeiT's processes do: so the views of an image fall into
    different groups. Its first is paired with its last, as timm's Mixup flips a batch.

    Returns:
        Rows of two positions, and a group for each. In a batch of odd size one image is paired with `ALONE`.
    """
    groups = -(-batch_size // group_size)
    dealt = batch_size // (2 * groups) * 2 * groups
    rows, group_of = [], []
    for group in range(groups):
        left_over = np.arange(dealt + 2 * group, min(dealt + 2 * group + 2, batch_size))
        members = np.concatenate((np.arange(group, dealt, groups), left_over))
        half = len(members) // 2
        pairs = np.stack((members[:half], members[::-1][:half]), axis=1)
        if len(members) % 2:
            pairs = np.concatenate((pairs, [[members[half], ALONE]]))
        rows.append(pairs)
        group_of.append(np.full(len(pairs), group))
    return np.concatenate(rows), np.concatenate(group_of)


def mirrored(
    pairs: Int64[np.ndarray, "pairs 2"], group_of: Int64[np.ndarray, " pairs"], part: slice
) -> list[tuple[int, int]]:
    """Positions of some pairs with their groups, in an order in which flipping a group swaps its partners."""
    laid = []
    for group in np.unique(group_of[part]):
        first, last = pairs[part][group_of[part] == group].T
        laid += [(int(position), int(group)) for position in (*first, *last[::-1]) if position != ALONE]
    return laid


class TrainingOrder(Sampler[list[View]]):
    """The micro-batches of one process in one epoch, from one step on; set `epoch` and `first_step` before iterating.

    Args:
        images: How many there are.
        seed: The run's.
        batch_size: Images of a step over all processes.
        group_size: Images that are mixed among themselves.
        repeats: See `epoch_order`.
        probabilities: See `epoch_order`.
        process: This one's number.
        processes: How many share a step.
        micro_batch: At most so many images at once in a process; the rest of its share follows.
    """

    def __init__(
        self,
        images: int,
        seed: int,
        batch_size: int,
        group_size: int,
        repeats: int = 1,
        probabilities: Float[np.ndarray, " images"] | None = None,
        process: int = 0,
        processes: int = 1,
        micro_batch: int | None = None,
    ) -> None:
        self.images, self.seed, self.batch_size = images, seed, batch_size
        self.repeats, self.probabilities = repeats, probabilities
        pairs, group_of = pairs_of(batch_size, group_size)
        share = -(-len(pairs) // processes)
        at_once = max(1, min(share, (micro_batch or batch_size) // 2))
        self.micro_batches = -(-share // at_once)
        bounds = np.linspace(0, len(pairs), processes * self.micro_batches + 1).round().astype(int)
        mine = range(process * self.micro_batches, (process + 1) * self.micro_batches)
        self.layout = [mirrored(pairs, group_of, slice(bounds[part], bounds[part + 1])) for part in mine]
        self.epoch = self.first_step = 0

    @property
    def steps(self) -> int:
        """Whole batches in an epoch; what is left over is not shown (another part is left over in each epoch)."""
        views = self.images // 256 * 256 if self.repeats > 1 and self.images >= 256 else self.images
        return views // self.batch_size

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.micro_batches

    def __iter__(self) -> Iterator[list[View]]:
        order, view = epoch_order(self.images, self.seed, self.epoch, self.repeats, self.probabilities)
        for step in range(self.first_step, self.steps):
            at = step * self.batch_size
            for part in self.layout:
                yield [
                    View(self.epoch, int(order[at + position]), int(view[at + position]), group, position)
                    for position, group in part
                ]
