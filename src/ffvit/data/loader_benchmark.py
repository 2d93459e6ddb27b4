"""Where the time goes between the disk and a batch of training images, measured stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from ffvit.config.preprocess import Preprocess
from ffvit.config.recipe import Recipe
from ffvit.data.decode import decode
from ffvit.data.images import BadImageError, Images, StoredImage
from ffvit.data.loader import training_loader, worker_count
from ffvit.data.sampler import TrainingOrder
from ffvit.data.transforms import LazyImage, Transform, evaluation_transform, training_transform
from ffvit.errors import DataError
from ffvit.seeding import seeded
from ffvit.terminal import build_table, digits

SAMPLE = 256
"""Images that are read for the stages after reading, at most."""

BATCH = 64


@dataclass(frozen=True)
class Stages:
    """What an image costs, in seconds of one core, and what comes out of the loader.

    Attributes:
        read: To fetch what is stored.
        decode: To decode all of it with Pillow: for comparison, training need not.
        crop: For training: to decode what a random crop needs, and resize it.
        augment: What the recipe does to it besides.
        evaluate: For evaluation: to decode, resize and crop it.
        size: Bytes of a stored image, on average; 0 where pixels are held.
        workers: Loading processes.
        loaded: Images a second that they deliver together.
        trained: Images a second that a network trains on, with the loader and with batches that are in memory, if asked for.
    """

    read: float
    decode: float
    crop: float
    augment: float
    evaluate: float
    size: float
    workers: int
    loaded: float
    trained: tuple[float, float] | None = None

    @property
    def training(self) -> float:
        """Seconds of one core for a training image."""
        return self.read + self.crop + self.augment

    def table(self) -> Table:
        """For a terminal."""
        table = build_table(("stage", "ms an image", "images/s a core", "% of training"))
        for name, seconds, of_training in (
            ("read", self.read, True),
            ("decode what a crop needs, resize it", self.crop, True),
            ("augment", self.augment, True),
            ("training image", self.training, True),
            ("evaluation image", self.read + self.evaluate, False),
            ("decode all of it (Pillow)", self.decode, False),
        ):
            share = f"{100 * seconds / self.training:.0f} %" if of_training else ""
            table.add_row(name, f"{1e3 * seconds:.2f}", f"{1 / max(seconds, 1e-9):,.0f}", share)
        return table

    def summary(self) -> str:
        """What limits the loader, and what would help."""
        stage = max(("read", "crop", "augment"), key=lambda name: getattr(self, name))
        share = f"{100 * getattr(self, stage) / self.training:.0f} % of a training image's time"
        if stage == "read":
            limit = f"reading: {share}. Faster storage helps, and shards: ffvit prepare."
        elif stage == "augment":
            limit = f"augmentation: {share}. Only more cores or a milder recipe help."
        elif not self.size:
            limit = f"cropping and resizing: {share}."
        else:
            limit = (
                f"decoding: {share} ({self.size / 1000:,.0f} kB an image). "
                "Smaller images help: ffvit prepare --max-side 500 --quality 90."
            )
        together = f"{self.workers} loading process{'es' * (self.workers != 1)}" if self.workers else "One process"
        delivered = f"{together}: {self.loaded:,.0f} images/s. The limit is {limit}"
        if self.trained is None:
            return delivered
        loading, free = map(digits, self.trained)
        return f"{delivered}\nTraining: {loading} images/s; {free} if loading cost nothing."


def measure(
    images: Images, recipe: Recipe, image: tuple[int, int], workers: int | None = None, seconds: float = 1.0
) -> Stages:
    """Measure what images cost on their way into a batch.

    Args:
        images: Any.
        recipe: How they are augmented.
        image: Height and width that a network takes.
        workers: Loading processes. Default: one a core.
        seconds: For each stage, about.

    Raises:
        UserError: None of the images can be read.
    """
    preprocess = Preprocess(img_size=image).with_recipe(recipe)
    stored: list[tuple[StoredImage, str]] = []
    began = time.perf_counter()
    for index in np.random.default_rng(0).permutation(len(images))[:SAMPLE].tolist():
        with suppress(BadImageError):
            stored.append((images.read(index), images.name(index)))
        if time.perf_counter() - began > seconds and len(stored) > 8:
            break
    read = (time.perf_counter() - began) / max(1, len(stored))
    plain = recipe.replace(auto_augment=None, random_erase_prob=0.0, flip=0.0)
    train = training_transform(recipe, preprocess)
    decoding = _seconds_each(stored, decode, seconds)
    crop, training, evaluation = (
        _seconds_each(stored, lambda encoded, name, transform=transform: transform(LazyImage(encoded, name)), seconds)
        for transform in (
            training_transform(plain, preprocess),
            train,
            evaluation_transform(preprocess),
        )
    )
    workers = worker_count(images, 1) if workers is None else workers
    sizes = [len(encoded) for encoded, _ in stored if isinstance(encoded, bytes)]
    return Stages(
        read=read,
        decode=decoding,
        crop=crop,
        augment=max(0.0, training - crop),
        evaluate=evaluation,
        size=float(np.mean(sizes)) if sizes else 0.0,
        workers=workers,
        loaded=_loader_rate(images, train, image, recipe.aug_repeats, workers, 2 * seconds),
    )


def _seconds_each(stored: Sequence[tuple[StoredImage, str]], function: Callable[..., object], seconds: float) -> float:
    """Seconds for one of the images; the first round loads code and is not counted."""
    good, spent = 0, 0.0
    for limit in (seconds / 10, seconds):
        good, spent = 0, 0.0
        for number, (encoded, name) in enumerate(stored):
            with seeded(number):
                began = time.perf_counter()
                with suppress(BadImageError):
                    function(encoded, name)
                    good += 1
                spent += time.perf_counter() - began
            if spent > limit:
                break
    if not good:
        raise DataError("none of the images that were tried could be read; see: ffvit check")
    return spent / good


def _loader_rate(
    images: Images, transform: Transform, image: tuple[int, int], repeats: int, workers: int, seconds: float
) -> float:
    """Images a second that the loader delivers, once it is under way."""
    batch = min(BATCH, len(images) // 2 * 2)
    order = TrainingOrder(len(images), 0, batch, batch, repeats=repeats)
    loader = training_loader(images, transform, (3, *image), order, 0, workers)
    done, began = 0, 0.0
    while not began or time.perf_counter() - began < seconds:
        for loaded in loader:
            if began:
                done += len(loaded.indices)
            else:
                began = time.perf_counter()
            if time.perf_counter() - began > seconds and done:
                break
        order.epoch += 1
    return done / (time.perf_counter() - began)
