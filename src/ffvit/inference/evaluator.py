"""The one way a network is scored: in training, by `ffvit evaluate`, and by every tool that compares."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy, deepcopy
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from ffvit.data.images import BadImageError, Images
from ffvit.data.loader import NormalizeOnDevice, evaluation_loader, worker_count
from ffvit.data.transforms import evaluation_transform
from ffvit.errors import DataError
from ffvit.hardware.precision import float32
from ffvit.hardware.ranks import all_gather, local_world_size
from ffvit.inference.predictions import Predictions

if TYPE_CHECKING:
    from ffvit.config.preprocess import Preprocess
    from ffvit.data.loader import Batch
    from ffvit.data.transforms import Transform
    from ffvit.hardware.fabric import Fabric
    from ffvit.inference.exported import Exported

KEPT_LOGITS = 100_000_000
"""At most so many logits are kept (400 MB) to fit a temperature on; of a larger set, those of evenly spaced images."""

KEPT_IMAGES = 2**28
"""Bytes: a set whose images fit in so many is loaded once and kept, to be scored again (a validation split: twice an epoch)."""

BATCH = 256
"""Images at once on a device: enough to keep it busy. It does not change the result."""

PER_IMAGE = ("labels", "predicted", "in_top5", "loss", "confidence")


def readable_names(images: Images, bad: list[BadImageError]) -> list[str]:
    """The names of the images that could be read, in the order of their predictions."""
    unread = {error.name for error in bad}
    return [name for name in map(images.name, range(len(images))) if name not in unread]


@contextmanager
def evaluation_mode(network: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """The network in evaluation mode on a device; afterwards each of its modules has its own mode and device again."""
    modes = [(module, module.training) for module in network.modules()]
    before = next((parameter.device for parameter in network.parameters()), device)
    try:
        yield network.eval().to(device)
    finally:
        network.to(before)
        for module, training in modes:
            module.training = training


def _broadcast_statistics(network: nn.Module) -> None:
    """Give all processes the first one's running statistics (BatchNorm), which are those that are saved."""
    for buffer in network.buffers():
        if buffer.is_floating_point():
            value = buffer.contiguous()
            torch.distributed.broadcast(value, 0)
            buffer.copy_(value)


class Evaluator:
    """A network's predictions for a set of images, in float32, exact on any number of processes.

    Args:
        fabric: Where to compute.
        images: What to predict.
        preprocess: How images are prepared.
        classes: Names, in the order of the logits.
        batch_size: Images at once on each device.
        workers: Loading processes of each device. Default: `worker_count`.
        exported: The network that is scored, if it is an exported file, which prepares images by itself.
    """

    def __init__(
        self,
        fabric: Fabric,
        images: Images,
        preprocess: Preprocess,
        classes: tuple[str, ...],
        batch_size: int,
        workers: int | None = None,
        exported: Exported | None = None,
    ) -> None:
        self.fabric, self.images, self.classes = fabric, images, classes
        self.batch_size, self.workers = batch_size, workers
        self.preprocess = preprocess if exported is None else None
        """How images are prepared; None if the file that is scored does it."""
        if exported is None:
            self.shape, self.transform = preprocess.shape, evaluation_transform(preprocess)
            self.prepare: Callable[[Batch], Tensor] = NormalizeOnDevice(preprocess)
        else:
            self.shape, self.transform = exported.shape, exported.transform
            self.prepare = lambda batch: batch.images

    def on(
        self, images: Images, *, transform: Transform | None = None, classes: tuple[str, ...] | None = None
    ) -> Evaluator:
        """The same for other images, and where they are given for another transform or other classes."""
        other = copy(self)
        other.__dict__.pop("batches", None)
        other.images, other.transform, other.classes = images, transform or self.transform, classes or self.classes
        return other

    @cached_property
    def batches(self) -> Iterable[Batch]:
        """This process's batches, for any number of times."""
        fabric, images = self.fabric, self.images
        workers = self.workers
        if workers is None:
            workers = worker_count(images, local_world_size(fabric), fabric.device)
        loader = evaluation_loader(
            images,
            self.transform,
            self.shape,
            self.batch_size,
            workers,
            fabric.global_rank,
            fabric.world_size,
            fabric.device,
        )
        if len(images) * prod(self.shape) <= KEPT_IMAGES:
            # As copies: what a worker hands over occupies /dev/shm, which may be small.
            return [deepcopy(batch) for batch in loader]
        return loader

    @torch.no_grad()
    def __call__(
        self, network: nn.Module, advance: Callable[[int], None] = lambda _: None
    ) -> tuple[Predictions, list[BadImageError]]:
        """Score a network; `advance` is told of every batch's number of images.

        Returns:
            The predictions for the images that could be read, in the order of the set, and the ones that could not.
        """
        keep_every = max(1, -(-len(self.images) * len(self.classes) // KEPT_LOGITS))
        columns: dict[str, list[np.ndarray]] = defaultdict(list)
        bad: list[BadImageError] = []
        if self.fabric.world_size > 1:
            _broadcast_statistics(network)
        was_training = network.training
        network.eval()
        for batch in self.batches:
            with float32(self.fabric.device):
                logits = network(self.prepare(batch.to(self.fabric.device)))
            bad.extend(batch.bad)
            advance(len(batch.indices) * self.fabric.world_size)
            read = batch.weights > 0
            if read.any():
                predictions = Predictions.of(logits.cpu()[read], batch.labels[read], self.classes)
                index = torch.tensor(batch.indices)[read].numpy()
                columns["index"].append(index)
                columns["logits"].append(predictions.logits[index % keep_every == 0])
                for name in PER_IMAGE:
                    columns[name].append(getattr(predictions, name))
        network.train(was_training)
        own = {name: np.concatenate(parts) for name, parts in columns.items()}
        return self._gather(own, bad, keep_every)

    def _gather(
        self, own: dict[str, np.ndarray], bad: list[BadImageError], keep_every: int
    ) -> tuple[Predictions, list[BadImageError]]:
        """The predictions of all processes in the order of the set."""
        by_process = all_gather(self.fabric, (own, bad))
        all_bad = [error for _, errors in by_process for error in errors]
        filled = [columns for columns, _ in by_process if columns]
        if not filled:
            raise DataError(f"none of the {len(self.images)} images could be read; the first: {all_bad[0]}")
        names = ("index", "logits", *PER_IMAGE)
        column = {name: np.concatenate([columns[name] for columns in filled]) for name in names}
        index = column.pop("index")
        order = np.argsort(index)
        logits = column.pop("logits")[np.argsort(index[index % keep_every == 0])]
        predictions = Predictions(
            **{name: values[order] for name, values in column.items()},
            logits=logits,
            logits_of=np.flatnonzero(index[order] % keep_every == 0),
            classes=self.classes,
        )
        return predictions, all_bad
