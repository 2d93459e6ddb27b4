"""The one way a network is scored: in training, by `ffvit evaluate`, and by every tool that compares."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property, partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from ffvit.data.images import BadImageError, Images
from ffvit.data.loader import NormalizeOnDevice, evaluation_loader, worker_count
from ffvit.data.transforms import evaluation_transform
from ffvit.errors import DataError
from ffvit.hardware.precision import float32
from ffvit.hardware.ranks import all_gather, local_world_size
from ffvit.inference.predictions import Predictions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lightning_fabric import Fabric

    from ffvit.config.preprocess import Preprocess
    from ffvit.data.loader import Batch

KEPT_LOGITS = 100_000_000
"""At most so many logits are kept (400 MB) to fit a temperature on; of a larger set, those of evenly spaced images."""

KEPT_IMAGES = 2**28
"""Bytes: a set whose images fit in so many is loaded once and kept, to be scored again (a validation split: twice an epoch)."""

BATCH = 256
"""Images at once on a device: enough to keep it busy. It moves no figure."""

PER_IMAGE = ("labels", "predicted", "in_top5", "loss", "confidence")


def predict_logits(images: Images, bad: list[BadImageError]) -> list[str]:
    """The names of the images that have an answer, in the order of the answers."""
    unread = {each.name for each in bad}
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


class Evaluator:
    """A network's answers to a set of images, exact on any number of processes.

    Args:
        fabric: Where to compute.
        images: What to answer.
        preprocess: How images are prepared.
        classes: Names, in the order of the logits.
        batch_size: Images at once on each device.
        workers: Loading processes of each device; default: see `workers_for`.
    """

    def __init__(
        self,
        fabric: Fabric,
        images: Images,
        preprocess: Preprocess,
        classes: tuple[str, ...],
        batch_size: int,
        workers: int | None = None,
    ) -> None:
        self.fabric, self.images, self.classes = fabric, images, classes
        self.finish = NormalizeOnDevice(preprocess)
        self.small = len(images) * prod(preprocess.shape) <= KEPT_IMAGES
        self.open: Callable[[], Iterable[Batch]] = partial(
            evaluation_loader,
            images,
            evaluation_transform(preprocess),
            preprocess.shape,
            batch_size,
            worker_count(images, local_world_size(fabric), fabric.device) if workers is None else workers,
            fabric.global_rank,
            fabric.world_size,
            fabric.device,
        )

    @cached_property
    def batches(self) -> Iterable[Batch]:
        """This process's batches, for any number of times."""
        if self.small:  # as copies: what a worker hands over occupies /dev/shm, which may be small
            return [deepcopy(batch) for batch in self.open()]
        return self.open()

    @torch.no_grad()
    def __call__(
        self, network: nn.Module, advance: Callable[[int], None] = lambda _: None
    ) -> tuple[Predictions, list[BadImageError]]:
        """Score a network, in float32; `advance` is told of every batch's number of images.

        Returns:
            The answers to the images that could be read, in the order of the set, and the ones that could not.
        """
        keep_every = max(1, -(-len(self.images) * len(self.classes) // KEPT_LOGITS))
        columns: dict[str, list[np.ndarray]] = defaultdict(list)
        bad: list[BadImageError] = []
        if self.fabric.world_size > 1:  # each process has its own statistics of batches; checkpoints have the first's
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, 0)
        was_training = network.training
        network.eval()
        for batch in self.batches:
            with float32(self.fabric.device):
                logits = network(self.finish(batch.to(self.fabric.device)))
            bad.extend(batch.bad)
            advance(len(batch.indices) * self.fabric.world_size)
            read = batch.weights > 0
            if read.any():
                answers = Predictions.of(logits.cpu()[read], batch.labels[read], self.classes)
                index = torch.tensor(batch.indices)[read].numpy()
                columns["index"].append(index)
                columns["logits"].append(answers.logits[index % keep_every == 0])
                for name in PER_IMAGE:
                    columns[name].append(getattr(answers, name))
        network.train(was_training)
        mine = {name: np.concatenate(parts) for name, parts in columns.items()}
        return self._together(mine, bad, keep_every)

    def _together(
        self, mine: dict[str, np.ndarray], bad: list[BadImageError], keep_every: int
    ) -> tuple[Predictions, list[BadImageError]]:
        """The answers of all processes in the order of the set."""
        of_all = all_gather(self.fabric, (mine, bad))
        all_bad = [each for _, its in of_all for each in its]
        if not any(its for its, _ in of_all):
            raise DataError(f"none of the {len(self.images)} images could be read; the first: {all_bad[0]}")
        names = ("index", "logits", *PER_IMAGE)
        column = {name: np.concatenate([its[name] for its, _ in of_all if its]) for name in names}
        index = column.pop("index")
        order = np.argsort(index)
        logits = column.pop("logits")[np.argsort(index[index % keep_every == 0])]
        answers = Predictions(
            **{name: values[order] for name, values in column.items()},
            logits=logits,
            logits_of=np.flatnonzero(index[order] % keep_every == 0),
            classes=self.classes,
        )
        return answers, all_bad
