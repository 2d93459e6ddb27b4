"""What a run will take, before it starts: a few steps are done and timed, and what they keep for the way back counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ffvit.architecture import Network
from ffvit.cost.measure import timed
from ffvit.cost.memory import kept_for_backward
from ffvit.data.images import BadImageError
from ffvit.data.parts import Parts
from ffvit.data.transform import Source, Transform, evaluation_transform, training_transform
from ffvit.machine import Machine, cores, gpus, in_precision, kind, precision_of
from ffvit.network.create import create_model, preprocess_of
from ffvit.recipe import Recipe
from ffvit.training.speed import STATE

START = 2.0
"""Seconds of a run before its first step and after its last."""


@dataclass(frozen=True)
class Prediction:
    """What one run will take.

    Attributes:
        seconds: From start to end.
        memory: MiB that its network and one batch need, at most.
    """

    seconds: float
    memory: float


@dataclass(frozen=True)
class Speed:
    """Seconds an image takes on this machine, with so many threads, in each part of a run; bytes it keeps.

    So many processes load beside a GPU; on a processor (0) loading and computing take the same cores.
    """

    step: float
    answer: float
    augment: float
    prepare: float
    kept: float
    state: float
    loaders: int

    def run(self, recipe: Recipe, parts: Parts) -> Prediction:
        """What a run by this recipe will take, on these images."""
        selection = len(parts.selection) if parts.selection is not None else 0
        looks = 2 if recipe.average_decay is not None else 1
        trained, scored = self._both(self.step, self.augment), self._both(self.answer, self.prepare)
        epoch = len(parts.train) * trained + looks * selection * scored
        seconds = START + recipe.epochs * epoch + (len(parts.test) + selection) * scored
        if recipe.minutes is not None:
            seconds = START + 60 * recipe.minutes + len(parts.test) * scored
        return Prediction(seconds, (self.state + recipe.batch_size * self.kept) / 2**20)

    def _both(self, computing: float, loading: float) -> float:
        return max(computing, loading / self.loaders) if self.loaders else computing + loading


def measure(network: Network, recipe: Recipe, parts: Parts, threads: int, machine: Machine) -> Speed:
    """Time a few steps of a network, and the way of a few images, as a run would do them."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _measured(network, recipe, parts, machine)
    finally:
        torch.set_num_threads(before)


def _measured(network: Network, recipe: Recipe, parts: Parts, machine: Machine) -> Speed:
    model = create_model(network, len(parts.classes), drop_path=recipe.drop_path, dropout=recipe.dropout)
    takes, device = preprocess_of(model), torch.device(kind(machine))
    precise = in_precision(precision_of(machine), device)
    model.to(device)
    small = (takes.img_size[0] * takes.img_size[1]) <= 64**2
    # Small steps are all overhead, which the batch shares.
    batch = min(recipe.batch_size, 64 if small or device.type != "cpu" else 8)
    images = torch.rand(batch, takes.in_chans, *takes.img_size, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

    def forward() -> Tensor:
        with precise:
            return cross_entropy(model(images), labels)

    kept = kept_for_backward(forward, model)

    def step() -> None:
        forward().backward()
        optimizer.step()
        optimizer.zero_grad()

    def answer() -> None:
        with torch.inference_mode(), precise:
            model(images)

    return Speed(
        step=_seconds(step, device) / batch,
        answer=_seconds(answer, device) / batch,
        augment=_image(parts, training_transform(recipe, takes.img_size, takes.in_chans, takes.mean)),
        prepare=_image(parts, evaluation_transform(takes.with_recipe(recipe))),
        kept=kept / batch,
        state=float(sum(each.nbytes for each in model.parameters()) * STATE),
        loaders=max(1, cores() // len(gpus())) if device.type == "cuda" else 0,
    )


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    return median(timed(call, device, 0.3, calls=10))


def _image(parts: Parts, transform: Transform) -> float:
    """Seconds to open and transform an image."""
    began, done = time.perf_counter(), 0
    for index in range(min(len(parts.train), 64)):
        try:
            transform(Source(parts.train.read(index), parts.train.name(index)))
        except BadImageError:
            continue
        done += 1
        if time.perf_counter() - began > 0.3:
            break
    return (time.perf_counter() - began) / max(done, 1)
