"""Images as batches of bytes, loaded by other processes while the device computes, and made numbers there.

A process that dies or hangs is named and started again, from the batch on that it owed: no image is shown twice or never.

An image that cannot be read stays in the batch with loss weight 0: nothing replaces it, and no other image
moves. Its name and reason travel with the batch.
"""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby, islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from ffvit.config.preprocess import Preprocess
from ffvit.data.images import ArrayImages, BadImageError, Images, Subset
from ffvit.data.random_erasing import NOTHING, erase
from ffvit.data.sampler import TrainingOrder, View
from ffvit.data.shards.remote import remote_blocks
from ffvit.data.transforms import Seen, Source, Transform
from ffvit.data.worker_loader import WorkerLoader
from ffvit.errors import RunStoppedError, UserError, WorkerError
from ffvit.hardware.devices import available_cores
from ffvit.seeding import preserve_rng_state, seed_everything
from ffvit.terminal import Terminal

CPU = torch.device("cpu")
ON_DEVICE = "images", "labels", "weights"
PADDING = -1

TICK = 5.0
"""Seconds between looks at processes that are waited for."""

PATIENCE = 40.0
"""Seconds in which no process has come to its next image, after which they hang."""

LOSSES = 3
"""Times in a row that lost processes are started again."""

RECOVERED = 20
"""Batches after which a loss is no longer in a row with the next."""

AHEAD = 2
"""Batches that each process has ready, as PyTorch has it."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
"""Through it PyTorch hands over tensors; a container may have very little of it."""

LOCKS = 2**16
"""Bytes of it that the locks of a loading process take, and some more."""

IDLE = -1

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


class NormalizeOnDevice:
    """The last steps, on the device: levels become numbers, normalised, and what is erased becomes noise.

    Args:
        preprocess: Its mean is subtracted and its deviation divided by, for each channel.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.mean, self.std = (torch.tensor(each).view(-1, 1, 1) for each in (preprocess.mean, preprocess.std))

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
        self.beats: Any = None  # of each loading process: images so far, and the one that it is at

    def beat(self, index: int) -> None:
        """Note what this process loads."""
        worker = get_worker_info()
        if worker is not None and self.beats is not None:
            self.beats[2 * worker.id] += 1
            self.beats[2 * worker.id + 1] = index

    def load(self, index: int, group: int = 0, position: int = 0) -> _Loaded:
        return self.shown(self.source(index), index, group, position)

    def source(self, index: int, shared: bool = False) -> Source | BadImageError:
        self.beat(index)
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
        with preserve_rng_state():  # for all: putting them back costs as much as seeding them
            for image, places in groupby(by_image, key=lambda place: items[place].image):
                views = list(places)
                source = self.source(image, shared=len(views) > 1)
                for place in views:
                    view = items[place]
                    seed_everything(self.seed, view.epoch, view.image, view.view)
                    loaded[place] = self.shown(source, image, view.group, view.position)
        self.beat(IDLE)
        return [loaded[place] for place in range(len(items))]


class _ForEvaluation(_Opened[int]):
    def __getitems__(self, indices: list[int]) -> list[_Loaded]:
        loaded = [_Loaded(None, 0, PADDING) if index == PADDING else self.load(index) for index in indices]
        self.beat(IDLE)
        return loaded


@dataclass
class _Collate:
    """Makes a batch of images; a parcel, where shared memory is too small to hand over tensors."""

    shape: tuple[int, int, int]
    shared: bool = True

    def __call__(self, loaded: list[_Loaded]) -> Batch | _Parcel:
        batch = self.batch(loaded)
        return batch if self.shared or get_worker_info() is None else _Parcel.of(batch)

    def batch(self, loaded: list[_Loaded]) -> Batch:
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


@dataclass(frozen=True)
class _Parcel:
    """A batch whose tensors are arrays: those go through a pipe, not through shared memory."""

    images: UInt8[np.ndarray, "batch height width channels"]
    erased: Int64[np.ndarray, "batch 5"]
    labels: Int64[np.ndarray, " batch"]
    weights: Float[np.ndarray, " batch"]
    others: dict[str, Any]

    @classmethod
    def of(cls, batch: Batch) -> _Parcel:
        return cls(
            images=batch.images.permute(0, 2, 3, 1).numpy(),
            erased=batch.erased.numpy(),
            labels=batch.labels.numpy(),
            weights=batch.weights.numpy(),
            others={name: getattr(batch, name) for name in ("indices", "groups", "positions", "bad")},
        )

    def opened(self) -> Batch:
        images, erased, labels, weights = map(torch.from_numpy, (self.images, self.erased, self.labels, self.weights))
        return Batch(images.permute(0, 3, 1, 2), erased, labels, weights, **self.others)

    def pin_memory(self) -> Batch:
        return self.opened().pin_memory()


class _Batches(Sampler[Any]):
    """A sampler's batches, from one on."""

    def __init__(self, of: Sampler[Any] | list[list[int]]) -> None:
        self.of, self.first = of, 0

    def __len__(self) -> int:
        return len(self.of) - self.first  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.of), self.first, None)


class _Loader(WorkerLoader[Batch]):
    """A loader whose workers' errors for a person arrive as they were raised, and whose lost workers are replaced.

    Args:
        dataset: What is loaded.
        batches: Of what.
        collate: Makes batches.
        patience: Seconds in which some worker has to come to another image; infinite where images come from far away.
        options: Of PyTorch's loader.
    """

    def __init__(
        self, dataset: _Opened[Any], batches: _Batches, collate: _Collate, patience: float, **options: Any
    ) -> None:
        self.opened, self.batches, self.collate, self.patience = dataset, batches, collate, patience
        workers = int(options["num_workers"])
        if workers:
            dataset.beats = multiprocessing.RawArray(ctypes.c_int64, 2 * workers)
            options["timeout"] = TICK
        super().__init__(dataset, batch_sampler=batches, collate_fn=collate, **options)

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        done = lost = lost_at = 0
        self.batches.first = 0
        batches: Any = super().__iter__()
        beats, since = self._beats(), time.monotonic()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (UserError, RunStoppedError) as error:
                raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from None
            except (RuntimeError, EOFError, ConnectionError) as error:
                if not isinstance(error, RuntimeError):  # it was killed while it handed over a batch, and ends just now
                    ended = wait([worker.sentinel for worker in batches._workers], timeout=5.0)
                    for worker in batches._workers:
                        if worker.sentinel in ended:
                            worker.join()
                elif "DataLoader" not in str(error):
                    raise
                if "timed out" in str(error):
                    if self._beats() != beats:
                        beats, since = self._beats(), time.monotonic()
                    if time.monotonic() - since < self.patience:
                        continue
                lost, lost_at = (lost + 1 if done < lost_at + RECOVERED else 1), done
                reason = self._reason(batches)
            else:
                done += 1
                beats, since = self._beats(), time.monotonic()
                yield batch.opened() if isinstance(batch, _Parcel) else batch
                continue
            if lost > LOSSES:
                raise WorkerError(
                    f"{reason}, {lost} times in a row; fewer --workers need less memory. Resume with --resume"
                )
            Terminal(stderr=True).say(f"{reason}: loading goes on with new processes")
            self._end(batches)
            self.batches.first, self.collate.shared = done, False
            batches = super().__iter__()
            beats, since = self._beats(), time.monotonic()

    def _beats(self) -> list[int]:
        return list(self.opened.beats) if self.opened.beats is not None else []

    def _reason(self, batches: Any) -> str:
        """Which worker is lost, why, and at which image."""
        for number, worker in enumerate(batches._workers):
            if not worker.is_alive():
                return f"loading process {worker.pid} {exit_reason(worker.exitcode)}{self._at(number)}"
        for number, worker in enumerate(batches._workers):
            if self.opened.beats[2 * number + 1] != IDLE:
                return f"loading process {worker.pid} hangs{self._at(number)}"
        return "a loading process handed over no batch (shared memory may be full)"

    def _at(self, number: int) -> str:
        index = self.opened.beats[2 * number + 1]
        begun = self.opened.beats[2 * number] > 0
        return f" at {self.opened.images.name(index)}" if begun and index != IDLE else ""

    def _end(self, batches: Any) -> None:
        """End all workers: what they hold ready is loaded again."""
        for worker in batches._workers:
            worker.kill()
        batches._shutdown_workers()
        self._iterator = None
        for each in range(len(self.opened.beats)):
            self.opened.beats[each] = 0


def exit_reason(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None or code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    what = {"SIGKILL": "memory", "SIGBUS": "shared memory"}.get(name)
    return f"was killed by {name}" + (f", as the system does when {what} runs out" if what else "")


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
    dataset = _ForTraining(images, transform, seed)
    return _loader(dataset, order, shape, workers, device, order.processes)


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
    return _loader(_ForEvaluation(images, transform), batches, shape, workers, device, processes)


def worker_count(images: Images, processes_here: int, device: torch.device = CPU) -> int:
    """How many loading processes each process may start: its share of the cores.

    None for images that lie in memory where the processor computes as well: handing them over would only cost.
    """
    whole = images
    while isinstance(whole, Subset):
        whole = whole.images
    if isinstance(whole, ArrayImages) and device.type == "cpu":
        return 0
    return max(1, available_cores() // processes_here)


def _loader(
    dataset: _Opened[Any],
    batches: TrainingOrder | list[list[int]],
    shape: tuple[int, int, int],
    workers: int,
    device: torch.device,
    processes: int,
) -> DataLoader[Batch]:
    workers = min(workers, len(batches))
    largest = max(map(len, batches.layout if isinstance(batches, TrainingOrder) else batches), default=0)
    batch = largest * math.prod(shape)
    # Training and scoring each hold batches.
    workers, shared = _through_shared_memory(workers, 2 * (workers * AHEAD + 1) * batch * processes)
    return _Loader(
        dataset,
        _Batches(batches),
        _Collate(shape, shared),
        patience=PATIENCE if remote_blocks(dataset.images) is None else math.inf,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )


def _through_shared_memory(workers: int, needed: int) -> tuple[int, bool]:
    """How many processes may load, and whether they may hand over batches in shared memory; what they may not is said."""
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
