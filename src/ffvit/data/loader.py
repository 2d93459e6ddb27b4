"""Images as batches of tensors, loaded by other processes while the device computes.

An image that cannot be read keeps its place in the batch with weight 0: nothing stands in for it, and no other image
moves. Its name and reason travel with the batch.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ffvit.data.decode import opened
from ffvit.data.draws import generators_kept, seed_everything
from ffvit.data.images import ArrayImages, BadImageError, Images, Subset
from ffvit.data.order import TrainingOrder, View
from ffvit.data.transform import Transform

PADDING = -1
Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """Images with their classes; a weight of 0 marks one that could not be read, or that only fills up a batch."""

    images: Float[Tensor, "batch channels height width"]
    labels: Int[Tensor, " batch"]
    weights: Float[Tensor, " batch"]
    indices: list[int]
    groups: list[int]
    positions: list[int]
    bad: list[BadImageError]

    def pin_memory(self) -> Batch:
        """Called by the loader, for copies to a GPU that need not wait."""
        return replace(self, images=self.images.pin_memory())

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in ("images", "labels", "weights")}
        return replace(self, **moved)


@dataclass(frozen=True)
class _Loaded:
    image: Tensor | None
    label: int
    index: int
    bad: BadImageError | None = None
    group: int = 0
    position: int = 0


class _Opened(Dataset, Generic[Item]):
    """Images opened and made tensors, by what a sampler asks for."""

    def __init__(self, images: Images, transform: Transform) -> None:
        self.images = images
        self.transform = transform

    def load(self, index: int, group: int = 0, position: int = 0) -> _Loaded:
        label = int(self.images.labels[index])
        try:
            return _Loaded(self.transform(opened(self.images, index)), label, index, None, group, position)
        except BadImageError as error:
            return _Loaded(None, label, index, error, group, position)


class _ForTraining(_Opened[View]):
    def __init__(self, images: Images, transform: Transform, seed: int) -> None:
        super().__init__(images, transform)
        self.seed = seed

    def __getitems__(self, items: list[View]) -> list[_Loaded]:
        """A whole batch, as the loader asks for it: putting the generators back costs as much as seeding them."""
        with generators_kept():
            return [self.seeded(item) for item in items]

    def seeded(self, item: View) -> _Loaded:
        seed_everything(self.seed, item.epoch, item.image, item.view)
        return self.load(item.image, item.group, item.position)


class _ForEvaluation(_Opened[int]):
    def __getitem__(self, index: int) -> _Loaded:
        return _Loaded(None, 0, PADDING) if index == PADDING else self.load(index)


@dataclass(frozen=True)
class _Collate:
    shape: tuple[int, int, int]

    def __call__(self, loaded: list[_Loaded]) -> Batch:
        nothing = torch.zeros(self.shape)
        return Batch(
            images=torch.stack([nothing if each.image is None else each.image for each in loaded]),
            labels=torch.tensor([each.label for each in loaded]),
            weights=torch.tensor([float(each.image is not None) for each in loaded]),
            indices=[each.index for each in loaded],
            groups=[each.group for each in loaded],
            positions=[each.position for each in loaded],
            bad=[each.bad for each in loaded if each.bad is not None],
        )


def training_loader(
    images: Images, transform: Transform, shape: tuple[int, int, int], order: TrainingOrder, seed: int, workers: int
) -> DataLoader[Batch]:
    """Micro-batches in the order's order; augmentation is drawn from (seed, epoch, image, view), by whatever worker."""
    return _loader(_ForTraining(images, transform, seed), order, shape, workers)


def evaluation_loader(
    images: Images,
    transform: Transform,
    shape: tuple[int, int, int],
    batch_size: int,
    workers: int,
    process: int = 0,
    processes: int = 1,
) -> DataLoader[Batch]:
    """Every image once over all processes, each with equally many batches; what fills them up has index `PADDING`."""
    mine = np.arange(process, len(images), processes)
    each = -(-len(images) // processes)
    padded = np.concatenate((mine, np.full(each - len(mine), PADDING)))
    batches = [padded[at : at + batch_size].tolist() for at in range(0, each, batch_size)]
    return _loader(_ForEvaluation(images, transform), batches, shape, workers)


def workers_for(images: Images, processes_here: int) -> int:
    """How many loading processes to start for each training process: none for images that lie in memory."""
    whole = images
    while isinstance(whole, Subset):
        whole = whole.images
    if isinstance(whole, ArrayImages):
        return 0
    return max(1, min(8, len(os.sched_getaffinity(0)) // processes_here))


def _loader(
    dataset: Dataset, batches: Sampler[list[Any]] | list[list[int]], shape: tuple[int, int, int], workers: int
) -> DataLoader[Batch]:
    collate: Callable[[list[_Loaded]], Batch] = _Collate(shape)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=begin_worker,
        generator=torch.Generator(),  # the loader draws a seed at each start: not from the network's generator
    )


def begin_worker(_: int) -> None:
    """What each loading process does first: it keeps to one thread, and leaves Ctrl-C to the process it loads for."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the training one decides what follows
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
