"""Images as batches of bytes, loaded by other processes while the device computes, and made numbers there.

An image that cannot be read stays in the batch with loss weight 0: nothing replaces it, and no other image
moves. Its name and reason travel with the batch.
"""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from ffvit.config.preprocess import Preprocess
from ffvit.data.images import ArrayImages, BadImageError, Images, without_subsets
from ffvit.data.random_erasing import NOTHING, erase
from ffvit.data.resilient_loader import IDLE, ResilientLoader, SkippingSampler, WatchedDataset
from ffvit.data.sampler import TrainingOrder, View
from ffvit.data.shards.remote import remote_blocks
from ffvit.data.transforms import LazyImage, Transform, TransformedImage
from ffvit.hardware.devices import available_cores
from ffvit.seeding import preserve_rng_state, seed_everything
from ffvit.terminal import Terminal

CPU = torch.device("cpu")
ON_DEVICE = "images", "labels", "weights"
PADDING = -1

PREFETCH = 2
"""Batches that each process has ready, PyTorch's default."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
"""Through it PyTorch hands over tensors; a container may have very little of it."""

LOCKS = 2**16
"""Bytes of shared memory that the locks of a loading process take, and some more."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """Images with their classes; a weight of 0 marks one that could not be read, or that only fills up a batch.

    Attributes:
        images: Levels from 0 to 255.
        erased: What `random_erasing.erase` is to fill with noise.
        labels: Classes.
        weights: 0 or 1.
        indices: Of each image in its split.
        groups: Of images that are mixed among themselves.
        positions: In the whole batch, of which this may be a part.
        bad: Images that could not be read.
    """

    images: UInt8[Tensor, "batch channels height width"]
    erased: Int64[Tensor, "batch 5"]
    labels: Int[Tensor, " batch"]
    weights: Float[Tensor, " batch"]
    indices: list[int]
    groups: list[int]
    positions: list[int]
    bad: list[BadImageError]

    def pin_memory(self) -> Batch:
        """For copies to a GPU that need not wait; called by the loader."""
        return replace(self, **{name: getattr(self, name).pin_memory() for name in ON_DEVICE})

    def to(self, device: torch.device) -> Batch:
        """The same on a device; what is read here stays, since reading from a GPU waits for it."""
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in ON_DEVICE})


class NormalizeOnDevice:
    """The last steps, on the device: bytes become normalized numbers, and what is erased becomes noise.

    Args:
        preprocess: Its mean is subtracted and its deviation divided by, for each channel.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.mean, self.std = (torch.tensor(levels).view(-1, 1, 1) for levels in (preprocess.mean, preprocess.std))

    def __call__(self, batch: Batch) -> Float[Tensor, "batch channels height width"]:
        """The batch's images, on the batch's device."""
        return erase(self.normalized(batch.images), batch.erased)

    def normalized(
        self, levels: UInt8[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Images without anything erased."""
        self.mean, self.std = self.mean.to(levels.device), self.std.to(levels.device)
        images = levels.to(torch.float32, memory_format=torch.contiguous_format)
        return images.div_(255).sub_(self.mean).div_(self.std)


@dataclass(frozen=True)
class _Loaded:
    """An image in a batch; `image` is None where it could not be read, or only fills up the batch."""

    image: TransformedImage | None
    label: int
    index: int
    bad: BadImageError | None = None
    group: int = 0
    position: int = 0


class _Images(WatchedDataset[Item]):
    """Images opened and transformed."""

    def __init__(self, images: Images, transform: Transform) -> None:
        super().__init__(images)
        self.transform = transform

    def open(self, index: int) -> LazyImage | BadImageError:
        self.beat(index)
        try:
            return LazyImage(self.images.read(index), self.images.name(index))
        except BadImageError as error:
            return error

    def transformed(self, image: LazyImage | BadImageError, index: int, group: int = 0, position: int = 0) -> _Loaded:
        label = int(self.images.labels[index])
        try:
            if isinstance(image, BadImageError):
                raise image
            return _Loaded(self.transform(image), label, index, None, group, position)
        except BadImageError as error:
            return _Loaded(None, label, index, error, group, position)


class _TrainingImages(_Images[View]):
    def __init__(self, images: Images, transform: Transform, seed: int) -> None:
        super().__init__(images, transform)
        self.seed = seed

    def __getitems__(self, items: list[View]) -> list[_Loaded]:
        """A whole batch, as the loader asks for it: an image of which it holds several views is decoded once."""
        by_image = sorted(range(len(items)), key=lambda place: items[place].image)
        loaded: dict[int, _Loaded] = {}
        with preserve_rng_state():  # around all: restoring the generators costs as much as seeding them
            for index, same_image in groupby(by_image, key=lambda place: items[place].image):
                image = self.open(index)
                for place in same_image:
                    view = items[place]
                    seed_everything(self.seed, view.epoch, index, view.view)
                    loaded[place] = self.transformed(image, index, view.group, view.position)
        self.beat(IDLE)
        return [loaded[place] for place in range(len(items))]


class _EvaluationImages(_Images[int]):
    def __getitems__(self, indices: list[int]) -> list[_Loaded]:
        loaded = [
            _Loaded(None, 0, PADDING) if index == PADDING else self.transformed(self.open(index), index)
            for index in indices
        ]
        self.beat(IDLE)
        return loaded


@dataclass
class _Collate:
    """Makes a batch of images; in a worker without shared memory for tensors, a pickled one."""

    shape: tuple[int, int, int]
    shared_memory: bool = True

    def __call__(self, loaded: list[_Loaded]) -> Batch | bytes:
        batch = self.batch(loaded)
        return batch if self.shared_memory or get_worker_info() is None else pickle.dumps(batch)

    def batch(self, loaded: list[_Loaded]) -> Batch:
        channels, height, width = self.shape
        black = TransformedImage(np.zeros((height, width, channels), dtype=np.uint8), NOTHING)
        images = [item.image or black for item in loaded]
        return Batch(
            images=torch.from_numpy(np.stack([image.pixels for image in images])).permute(0, 3, 1, 2),
            erased=torch.tensor([image.erased for image in images]),
            labels=torch.tensor([item.label for item in loaded]),
            weights=torch.tensor([float(item.image is not None) for item in loaded]),
            indices=[item.index for item in loaded],
            groups=[item.group for item in loaded],
            positions=[item.position for item in loaded],
            bad=[item.bad for item in loaded if item.bad is not None],
        )


class BatchLoader(ResilientLoader[Batch]):
    """The batches of a sampler, in its order."""

    def __init__(
        self,
        dataset: _Images[Any],
        batches: TrainingOrder | list[list[int]],
        shape: tuple[int, int, int],
        workers: int,
        device: torch.device,
        processes: int,
    ) -> None:
        largest = max(map(len, batches.layout if isinstance(batches, TrainingOrder) else batches), default=0)
        workers = min(workers, len(batches))
        # Training and scoring each hold batches.
        needed = 2 * (workers * PREFETCH + 1) * largest * math.prod(shape) * processes
        workers, shared_memory = _fit_shared_memory(workers, needed)
        self.collate = _Collate(shape, shared_memory)
        super().__init__(
            dataset,
            SkippingSampler(batches),
            remote=remote_blocks(dataset.images) is not None,
            collate_fn=self.collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, bytes):
                unpickled: Batch = pickle.loads(batch)  # noqa: S301 (from a worker of ours)
                yield unpickled.pin_memory() if self.pin_memory else unpickled
            else:
                yield batch

    def _kill_workers(self, batches: Any) -> None:
        super()._kill_workers(batches)
        self.collate.shared_memory = False  # it may have been full


def _fit_shared_memory(workers: int, needed: int) -> tuple[int, bool]:
    """How many processes may load, and whether they may hand over batches in shared memory; limits are told on stderr."""
    if not workers or not SHARED_MEMORY.is_dir():
        return workers, True
    room = os.statvfs(SHARED_MEMORY)
    free = room.f_bavail * room.f_frsize
    if needed <= free:
        return workers, True
    little = f"{SHARED_MEMORY} has {free / 2**20:,.1f} MiB free, loading needs {needed / 2**20:,.1f}"
    more = "In a container, give it more (docker run --shm-size 8g)"
    if free < LOCKS * (workers + 1):
        Terminal(stderr=True).say(f"{little}: no processes load images, this one does, which is slower. {more}")
        return 0, True
    Terminal(stderr=True).say(f"{little}: batches go through pipes instead, which is slower. {more}")
    return workers, False


def training_loader(
    images: Images,
    transform: Transform,
    shape: tuple[int, int, int],
    order: TrainingOrder,
    seed: int,
    workers: int,
    device: torch.device = CPU,
) -> DataLoader[Batch]:
    """Micro-batches in the order's order; augmentation is drawn from (seed, epoch, image, view), by whatever worker."""
    dataset = _TrainingImages(images, transform, seed)
    return BatchLoader(dataset, order, shape, workers, device, order.processes)


def evaluation_loader(
    images: Images,
    transform: Transform,
    shape: tuple[int, int, int],
    batch_size: int,
    workers: int,
    process: int = 0,
    processes: int = 1,
    device: torch.device = CPU,
) -> DataLoader[Batch]:
    """Every image once over all processes, each with equally many batches; what fills them up has index `PADDING`."""
    mine = np.arange(process, len(images), processes)
    count = -(-len(images) // processes)
    padded = np.concatenate((mine, np.full(count - len(mine), PADDING)))
    batches = [padded[start : start + batch_size].tolist() for start in range(0, count, batch_size)]
    return BatchLoader(_EvaluationImages(images, transform), batches, shape, workers, device, processes)


def worker_count(images: Images, processes_here: int, device: torch.device = CPU) -> int:
    """How many loading processes each process may start: its share of the cores.

    None for images that lie in memory where the processor computes as well: handing them over would only cost.
    """
    if isinstance(without_subsets(images)[0], ArrayImages) and device.type == "cpu":
        return 0
    return max(1, available_cores() // processes_here)
