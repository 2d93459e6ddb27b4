"""The networks of a server, and the way of an image through them: decoded, batched, predicted or explained."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from ffvit.config.preprocess import Preprocess
from ffvit.data.images import BadImageError
from ffvit.data.jpeg import Pixels
from ffvit.hardware.devices import available_cores
from ffvit.inference.predictor import Prediction, Predictor
from ffvit.serving.batching import Batcher
from ffvit.serving.limits import Capacity, Limits, RefusedError
from ffvit.serving.metrics import Metrics
from ffvit.serving.occlusion import Occlusion, covered, occlusion

T = TypeVar("T")

DECODERS = 4
"""Images decoded at one time, at most: each may take as much memory as `data.images.MAX_PIXELS` says."""


Way = tuple[type, Preprocess]
"""How an image is prepared; the networks that have it in common share the pixels."""


@dataclass(frozen=True)
class Served:
    """A network with its batches."""

    name: str
    predictor: Predictor
    batcher: Batcher

    @property
    def way(self) -> Way:
        """How its images are prepared: an exported file takes more of them than the network that it was made of."""
        return type(self.predictor.transform), self.predictor.preprocess


class Service:
    """Networks that answer, within limits.

    Args:
        predictors: By the names that they are served under.
        limits: What is granted.
        batch_size: Images in a batch at most.
        fixed_sizes: Whether batches are filled up to a few sizes, for an engine that compiles every size.

    Attributes:
        served: The networks, in order.
        capacity: What is in use.
        metrics: What was counted.
        draining: Whether the server is about to end.
    """

    def __init__(
        self, predictors: dict[str, Predictor], limits: Limits, batch_size: int, fixed_sizes: bool = False
    ) -> None:
        self.limits = limits
        self.capacity = Capacity(limits)
        self.metrics = Metrics(self.capacity)
        self.draining = False
        doubled = [2**power for power in range(batch_size.bit_length()) if 2**power < batch_size]
        sizes = (*doubled, batch_size) if fixed_sizes else ()
        self.served = {
            name: Served(name, predictor, Batcher(predictor.run, batch_size, sizes, partial(self._computed, name)))
            for name, predictor in predictors.items()
        }
        self._seconds = dict.fromkeys(predictors, 0.0)
        self._decoders = ThreadPoolExecutor(min(DECODERS, available_cores()), thread_name_prefix="decode")

    def warm(self) -> None:
        """Compute once, so that the first request takes no longer than others.

        Raises:
            UserError: A network cannot compute, or its logits are not finite.
        """
        for served in self.served.values():
            channels, height, width = served.predictor.shape
            noise = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
            served.batcher.warm(noise)

    def start(self) -> None:
        """Begin to answer; to be called in the event loop."""
        for served in self.served.values():
            served.batcher.start()

    async def stop(self) -> None:
        """Answer no more."""
        for served in self.served.values():
            await served.batcher.stop()
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def chosen(self, model: str | None) -> list[Served]:
        """The networks that a request asks: the named one, or all.

        Raises:
            RefusedError: None has this name.
        """
        if model is None:
            return list(self.served.values())
        if model not in self.served:
            raise RefusedError(422, f"model: none is called so here; there is {', '.join(self.served)}")
        return [self.served[model]]

    async def predict(
        self, images: Sequence[tuple[str, bytes]], chosen: Sequence[Served], top: int
    ) -> list[list[Prediction]]:
        """What each of the networks says of each image.

        Raises:
            RefusedError: An image cannot be read, or it took too long.
            ModelError: Logits are not finite.
        """
        names = [name for name, _ in images]

        async def answer() -> list[list[Prediction]]:
            prepared = await asyncio.gather(*(self._prepare(image, name, chosen) for name, image in images))
            logits = await asyncio.gather(
                *(served.batcher.logits([pixels[served.way] for pixels in prepared]) for served in chosen)
            )
            return [served.predictor.predictions(rows, names, top) for served, rows in zip(chosen, logits, strict=True)]

        return await self._in_time(answer())

    async def explain(self, name: str, image: bytes, served: Served, class_name: str | None) -> Occlusion:
        """The patches of an image that speak for a class.

        Args:
            name: Of the image.
            image: An encoded file.
            served: The network.
            class_name: The class. Default: the likeliest one.

        Raises:
            RefusedError: The class is unknown, the image cannot be read, or it took too long.
            ModelError: Logits are not finite.
        """
        predictor = served.predictor
        if class_name is not None and class_name not in predictor.class_names:
            raise RefusedError(422, f"class: {served.name} has no class of this name; /models lists them")
        index = predictor.class_names.index(class_name) if class_name is not None else None

        async def answer() -> Occlusion:
            pixels = (await self._prepare(image, name, [served]))[served.way]
            logits = await served.batcher.logits(covered(pixels, predictor.preprocess), later=True)
            return occlusion(logits, predictor.temperature, index)

        return await self._in_time(answer())

    async def _prepare(self, image: bytes, name: str, chosen: Sequence[Served]) -> dict[Way, Pixels]:
        """An image as each of the networks takes it."""

        def prepare() -> dict[Way, Pixels]:
            ways = {served.way: served.predictor for served in chosen}
            return {way: predictor.prepare(image, name) for way, predictor in ways.items()}

        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, prepare)
        except BadImageError as error:
            raise RefusedError(422, str(error)) from None

    async def _in_time(self, answer: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await answer
        except TimeoutError:
            raise RefusedError(
                504, f"there was no answer within {self.limits.seconds:g} s: the server is busy, or the network slow"
            ) from None

    def _computed(self, name: str, images: int, seconds: float) -> None:
        self.metrics.computed(name, images, seconds)
        before, now = self._seconds[name], seconds / images
        self._seconds[name] = now if not before else 0.9 * before + 0.1 * now
        self.capacity.seconds_per_image = sum(self._seconds.values())
