"""Images as batches of bytes, loaded by other processes while the device computes, and made numbers there.

An image that cannot be read keeps its place in the batch with weight 0: nothing stands in for it, and no other image
moves. Its name and reason travel with the batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Generic, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ffvit.data.draws import generators_kept, seed_everything
from ffvit.data.erasing import NOTHING, erase
from ffvit.data.images import ArrayImages, BadImageError, Images, Subset
from ffvit.data.order import TrainingOrder, View
from ffvit.data.transform import Seen, Source, Transform, check_channels
from ffvit.data.workers import WorkerLoader
from ffvit.errors import RunStoppedError, UserError
from ffvit.machine import cores

CPU = torch.device("cpu")
ON_DEVICE = "images", "labels", "weights"
PADDING = -1

PIECE = 8
"""Images that are loaded together where loading is measured: some may be views of one image."""

TRIED = 64
"""Images that are loaded at most to measure it."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """Images with their classes; a weight of 0 marks one that could not be read, or that only fills up a batch.

    Attributes:
        images: Levels from 0 to 255.
        erased: What `erasing.erase` is to fill with noise.
        labels: Classes.
        weights: 0 or 1.
        indices: Of each image in its part.
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
        """Called by the loader, for copies to a GPU that need not wait."""
        return replace(self, **{name: getattr(self, name).pin_memory() for name in ON_DEVICE})

    def to(self, device: torch.device) -> Batch:
        """The same on a device, but for what is asked about here: an answer from a GPU would be waited for."""
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in ON_DEVICE})


class Finish:
    """The last steps, on the device: levels become numbers, normalised, and what is erased becomes noise.

    Args:
        mean: Of each channel, subtracted.
        std: Of each channel, divided by.

    Raises:
        UserError: Not as many means as deviations, or as images have channels.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        check_channels(len(mean), mean, std)
        self.mean, self.std = (torch.tensor(each, dtype=torch.float32).view(-1, 1, 1) for each in (mean, std))

    def __call__(self, batch: Batch) -> Float[Tensor, "batch channels height width"]:
        """The batch's images, on the batch's device."""
        device = batch.images.device
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        images = batch.images.to(torch.float32, memory_format=torch.contiguous_format)
        return erase(images.div_(255).sub_(self.mean).div_(self.std), batch.erased)


@dataclass(frozen=True)
class _Loaded:
    seen: Seen | None
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
        return self.shown(self.source(index), index, group, position)

    def source(self, index: int, shared: bool = False) -> Source | BadImageError:
        try:
            return Source(self.images.read(index), self.images.name(index), shared)
        except BadImageError as error:
            return error

    def shown(self, source: Source | BadImageError, index: int, group: int = 0, position: int = 0) -> _Loaded:
        label = int(self.images.labels[index])
        try:
            if isinstance(source, BadImageError):
                raise source
            return _Loaded(self.transform(source), label, index, None, group, position)
        except BadImageError as error:
            return _Loaded(None, label, index, error, group, position)


class _ForTraining(_Opened[View]):
    def __init__(self, images: Images, transform: Transform, seed: int) -> None:
        super().__init__(images, transform)
        self.seed = seed

    def __getitems__(self, items: list[View]) -> list[_Loaded]:
        """A whole batch, as the loader asks for it: an image of which it holds several views is decoded once."""
        by_image = sorted(range(len(items)), key=lambda place: items[place].image)
        loaded: dict[int, _Loaded] = {}
        with generators_kept():  # for all: putting them back costs as much as seeding them
            for image, places in groupby(by_image, key=lambda place: items[place].image):
                views = list(places)
                source = self.source(image, shared=len(views) > 1)
                for place in views:
                    view = items[place]
                    seed_everything(self.seed, view.epoch, view.image, view.view)
                    loaded[place] = self.shown(source, image, view.group, view.position)
        return [loaded[place] for place in range(len(items))]


class _ForEvaluation(_Opened[int]):
    def __getitem__(self, index: int) -> _Loaded:
        return _Loaded(None, 0, PADDING) if index == PADDING else self.load(index)


@dataclass(frozen=True)
class _Collate:
    shape: tuple[int, int, int]

    def __call__(self, loaded: list[_Loaded]) -> Batch:
        channels, height, width = self.shape
        nothing = Seen(np.zeros((height, width, channels), dtype=np.uint8), NOTHING)
        seen = [each.seen or nothing for each in loaded]
        return Batch(
            images=torch.from_numpy(np.stack([each.pixels for each in seen])).permute(0, 3, 1, 2),
            erased=torch.tensor([each.erased for each in seen]),
            labels=torch.tensor([each.label for each in loaded]),
            weights=torch.tensor([float(each.seen is not None) for each in loaded]),
            indices=[each.index for each in loaded],
            groups=[each.group for each in loaded],
            positions=[each.position for each in loaded],
            bad=[each.bad for each in loaded if each.bad is not None],
        )


class _Loader(WorkerLoader[Batch]):
    """A loader whose workers' errors for a person arrive as they were raised, not as the text of a traceback."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return _in_words(super().__iter__())


def _in_words(batches: Iterator[Batch]) -> Iterator[Batch]:
    try:
        yield from batches
    except (UserError, RunStoppedError) as error:
        raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from None


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
    return _loader(_ForTraining(images, transform, seed), order, shape, workers, device)


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
    each = -(-len(images) // processes)
    padded = np.concatenate((mine, np.full(each - len(mine), PADDING)))
    batches = [padded[at : at + batch_size].tolist() for at in range(0, each, batch_size)]
    return _loader(_ForEvaluation(images, transform), batches, shape, workers, device)


def workers_for(images: Images, processes_here: int, device: torch.device = CPU) -> int:
    """How many loading processes each process may start: its share of the cores.

    None for images that lie in memory where the processor computes as well: handing them over would only cost.
    """
    whole = images
    while isinstance(whole, Subset):
        whole = whole.images
    if isinstance(whole, ArrayImages) and device.type == "cpu":
        return 0
    return max(1, cores() // processes_here)


def seconds_an_image(loader: DataLoader[Batch], most: float = 1.0) -> float:
    """What a training image takes of one process: measured here on the loader's first ones, for so many seconds at most."""
    dataset, views = cast("_ForTraining", loader.dataset), next(iter(cast("TrainingOrder", loader.batch_sampler)))
    pieces = [views[at : at + PIECE] for at in range(0, min(len(views), TRIED), PIECE)]
    spent: list[float] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as loading processes do
    try:
        for piece in (pieces[0], *pieces):  # the first time loads code
            began = time.perf_counter()
            dataset.__getitems__(piece)
            spent.append((time.perf_counter() - began) / len(piece))
            if sum(spent[1:]) * PIECE > most:
                break
    finally:
        torch.set_num_threads(threads)
    return float(np.mean(spent[1:]))


def _loader(
    dataset: Dataset,
    batches: TrainingOrder | list[list[int]],
    shape: tuple[int, int, int],
    workers: int,
    device: torch.device,
) -> DataLoader[Batch]:
    collate: Callable[[list[_Loaded]], Batch] = _Collate(shape)
    return _Loader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=min(workers, len(batches)),
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
