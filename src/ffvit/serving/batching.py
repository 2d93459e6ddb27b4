"""Dynamic batches: what has come while the network was busy is its next batch."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float32, UInt8

from ffvit.data.jpeg import Pixels

Run = Callable[[UInt8[np.ndarray, "images height width channels"]], Float32[np.ndarray, "images classes"]]
Waiting = deque[tuple[Pixels, asyncio.Future[Float32[np.ndarray, " classes"]]]]


class Batcher:
    """Hands prepared images to a network in batches.

    Nothing is waited for: an image that finds the network idle is computed at once, alone. All calls come from one
    thread, so that an engine's own threads are started once.

    Args:
        run: Computes the logits of a batch.
        most: Images in a batch at most.
        sizes: Sizes that batches are filled up to, for engines that compile every size; ends with `most`. Default: any.
        computed: Told of each batch: its images and its seconds.
    """

    def __init__(
        self,
        run: Run,
        most: int,
        sizes: Sequence[int] = (),
        computed: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        self.most = most
        self._run, self._sizes, self._computed = run, sizes, computed
        self._first: Waiting = deque()
        self._later: Waiting = deque()
        self._come = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._task: asyncio.Task[None] | None = None

    def warm(self, image: Pixels) -> None:
        """Compute batches of all sizes once, or of the smallest and the largest.

        Raises:
            UserError: The network cannot compute, or its logits are not finite.
        """
        for size in self._sizes or sorted({1, self.most}):
            self._thread.submit(self._run, np.stack([image] * size)).result()

    def start(self) -> None:
        """Begin to compute; to be called in the event loop."""
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Compute no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._thread.shutdown(wait=False)

    async def logits(
        self, images: Sequence[Pixels] | UInt8[np.ndarray, "images height width channels"], *, later: bool = False
    ) -> Float32[np.ndarray, "images classes"]:
        """The logits of images, once their turn has come.

        Cancelled, those that wait are not computed.

        Args:
            images: As the network takes them.
            later: Let all others that wait go first.

        Raises:
            ModelError: The logits are not finite.
        """
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in images]
        (self._later if later else self._first).extend(zip(images, futures, strict=True))
        self._come.set()
        return np.stack(await asyncio.gather(*futures))

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._come.wait()
            batch = self._next()
            if not batch:
                self._come.clear()
                continue
            start = time.perf_counter()
            try:
                logits = await loop.run_in_executor(self._thread, self._compute, [image for image, _ in batch])
            except Exception as error:  # whatever it is, those who wait are told, and the next batch is tried
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            self._computed(len(batch), time.perf_counter() - start)
            for (_, future), row in zip(batch, logits, strict=True):
                if not future.done():
                    future.set_result(row)

    def _next(self) -> Waiting:
        batch: Waiting = deque()
        for waiting in (self._first, self._later):
            while waiting and len(batch) < self.most:
                image, future = waiting.popleft()
                if not future.done():
                    batch.append((image, future))
        return batch

    def _compute(self, images: list[Pixels]) -> Float32[np.ndarray, "images classes"]:
        size = next((size for size in self._sizes if size >= len(images)), len(images))
        return self._run(np.stack(images + images[:1] * (size - len(images))))[: len(images)]
