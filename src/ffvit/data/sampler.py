"""Which images a step sees: a function of (seed, epoch, step) alone, however many processes share the step.

A step's batch is cut into micro-batches, one or more for each process. Mixup and CutMix pair images within groups of the
batch, so it is cut between pairs: whatever the number of micro-batches, the same images are mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from torch.utils.data import Sampler

from ffvit.data.shuffle import BlockPermutation, Permutation, uniform

ALONE = -1

WINDOW = 8
"""Blocks (shards) whose images are shuffled together where only some are local at a time."""

LOOKUP = 2**16
"""Places of an epoch to look up together: a call takes a while, however few they are."""


class View(NamedTuple):
    """One image to load for training."""

    epoch: int
    image: int
    view: int
    group: int
    position: int  # in the whole batch


class EpochOrder:
    """The order of an epoch's images, computed for any places of it; nothing is kept for the others.

    Args:
        images: How many there are.
        seed: The run's.
        epoch: From 0.
        repeats: Repeated augmentation (DeiT's RASampler): each image comes as so many views in a row, and the epoch
            ends after as many views as there are images, rounded down to 256, so it shows only some of the images.
        cumulative: Draw with replacement by these cumulative probabilities instead of shuffling (a balanced sampler).
        blocks: Where blocks of images begin of which only some are local at a time, and where the last one ends.
    """

    def __init__(
        self,
        images: int,
        seed: int,
        epoch: int,
        repeats: int = 1,
        cumulative: Float[np.ndarray, " images"] | None = None,
        blocks: Int64[np.ndarray, " edges"] | None = None,
    ) -> None:
        self.images, self.repeats, self.cumulative, self.numbers = images, repeats, cumulative, (seed, epoch)
        self.permutation: Permutation | BlockPermutation = (
            Permutation(images, seed, epoch) if blocks is None else BlockPermutation(blocks, WINDOW, seed, epoch)
        )

    def __len__(self) -> int:
        return self.images // 256 * 256 if self.repeats > 1 and self.images >= 256 else self.images

    def at(
        self, places: Int64[np.ndarray, " places"]
    ) -> tuple[Int64[np.ndarray, " places"], Int64[np.ndarray, " places"]]:
        """The images at these places of the epoch, and a number for each that no other view of the image has."""
        turns = places // self.repeats
        if self.cumulative is None:
            return self.permutation(turns), places % self.repeats
        drawn = np.searchsorted(self.cumulative, uniform(turns, *self.numbers), side="right")
        return np.minimum(drawn, self.images - 1), places


def batch_pairs(batch_size: int, group_size: int) -> tuple[Int64[np.ndarray, "pairs 2"], Int64[np.ndarray, " pairs"]]:
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


def mirrored(pairs: Int64[np.ndarray, "pairs 2"], group_of: Int64[np.ndarray, " pairs"]) -> list[tuple[int, int]]:
    """Positions of pairs with their groups, in an order in which flipping a group swaps its partners."""
    positions = []
    for group in np.unique(group_of):
        first, last = pairs[group_of == group].T
        positions += [(int(position), int(group)) for position in (*first, *last[::-1]) if position != ALONE]
    return positions


class TrainingOrder(Sampler[list[View]]):
    """The micro-batches of one process in one epoch, from one step on; set `epoch` and `first_step` before iterating.

    Args:
        images: How many there are.
        seed: The run's.
        batch_size: Images of a step over all processes.
        group_size: Images that are mixed among themselves.
        repeats: See `EpochOrder`.
        probabilities: Draw images with replacement by these, instead of showing each once (a balanced sampler).
        process: This one's number.
        processes: How many share a step.
        micro_batch: At most so many images at once in a process; the rest of its share follows.
        blocks: See `EpochOrder`.
        ahead: Called with the blocks that will be needed soon.
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
        blocks: Int64[np.ndarray, " edges"] | None = None,
        ahead: Callable[[list[int]], None] | None = None,
    ) -> None:
        self.images, self.seed, self.batch_size, self.processes = images, seed, batch_size, processes
        self.repeats, self.blocks, self.ahead = repeats, blocks, ahead
        self.cumulative = None if probabilities is None else np.cumsum(probabilities)
        pairs, group_of = batch_pairs(batch_size, group_size)
        share = -(-len(pairs) // processes)
        at_once = max(1, min(share, (micro_batch or batch_size) // 2))
        self.micro_batches = -(-share // at_once)
        bounds = np.linspace(0, len(pairs), processes * self.micro_batches + 1).round().astype(int)
        mine = range(process * self.micro_batches, (process + 1) * self.micro_batches)
        slices = [slice(bounds[number], bounds[number + 1]) for number in mine]
        self.layout = [mirrored(pairs[some], group_of[some]) for some in slices]
        self.epoch = self.first_step = 0

    @property
    def steps(self) -> int:
        """Whole batches in an epoch; the images left over differ from epoch to epoch."""
        return len(self.of_epoch) // self.batch_size

    @property
    def of_epoch(self) -> EpochOrder:
        """All processes' order of the epoch."""
        return EpochOrder(self.images, self.seed, self.epoch, self.repeats, self.cumulative, self.blocks)

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.micro_batches

    def __iter__(self) -> Iterator[list[View]]:
        order = self.of_epoch
        at_once = max(1, LOOKUP // self.batch_size)
        window = -1
        for first in range(self.first_step, self.steps, at_once):
            last = min(first + at_once, self.steps)
            images, views = order.at(np.arange(first * self.batch_size, last * self.batch_size))
            for step in range(last - first):
                at = step * self.batch_size
                if self.ahead is not None and isinstance(order.permutation, BlockPermutation):
                    turn = np.array([(first + step) * self.batch_size // self.repeats])
                    if (now := int(order.permutation.window_of(turn)[0])) != window:
                        window = now
                        self.ahead([*order.permutation.blocks_of(now), *order.permutation.blocks_of(now + 1)])
                for micro_batch in self.layout:
                    yield [
                        View(self.epoch, int(images[at + position]), int(views[at + position]), group, position)
                        for position, group in micro_batch
                    ]
