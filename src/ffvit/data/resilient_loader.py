"""A loader that replaces loading processes that die or hang, without showing an image twice or never."""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import signal
import time
from collections.abc import Iterator
from itertools import islice
from multiprocessing.connection import wait
from typing import Any, TypeVar

from torch.utils.data import Dataset, Sampler, get_worker_info

from ffvit.data.images import Images
from ffvit.data.worker_loader import WorkerLoader
from ffvit.errors import RunStoppedError, UserError, WorkerError
from ffvit.terminal import Terminal

TICK = 5.0
"""Seconds between checks of the processes that are waited for."""

PATIENCE = 40.0
"""Seconds in which no process has come to its next image, after which they count as hanging."""

MAX_LOSSES = 3
"""Times in a row that lost processes are started again."""

RECOVERED = 20
"""Batches after which a loss is no longer in a row with the one before."""

IDLE = -1

Item = TypeVar("Item")


class WatchedDataset(Dataset[Item]):
    """Images whose loading processes tell what they are at."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self.heartbeats: Any = None  # of each loading process: images so far, and the index of the current one

    def beat(self, index: int) -> None:
        """Note that this process begins with an image, or with `IDLE` that it has none."""
        worker = get_worker_info()
        if worker is not None and self.heartbeats is not None:
            self.heartbeats[2 * worker.id] += 1
            self.heartbeats[2 * worker.id + 1] = index


class SkippingSampler(Sampler[Any]):
    """A sampler's batches without the first ones."""

    def __init__(self, batches: Sampler[Any] | list[list[int]]) -> None:
        self.batches, self.skip = batches, 0

    def __len__(self) -> int:
        return len(self.batches) - self.skip  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self.batches), self.skip, None)


class ResilientLoader(WorkerLoader[Item]):
    """A loader that raises the errors of its workers as they were raised, and replaces workers that are lost.

    Args:
        dataset: What is loaded.
        sampler: The batches.
        remote: Whether images come from elsewhere, so that no time is too long for one.
        options: Of PyTorch's loader.
    """

    def __init__(self, dataset: WatchedDataset[Any], sampler: SkippingSampler, remote: bool, **options: Any) -> None:
        self.watched, self.sampler_of_batches = dataset, sampler
        self.patience = math.inf if remote else PATIENCE
        if options["num_workers"]:
            dataset.heartbeats = multiprocessing.RawArray(ctypes.c_int64, 2 * options["num_workers"])
            options["timeout"] = TICK
        super().__init__(dataset, batch_sampler=sampler, **options)

    def __iter__(self) -> Iterator[Item]:  # type: ignore[override]
        done = losses = last_loss = 0
        batches = self._start(skip=0)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (UserError, RunStoppedError) as error:  # from a worker, with its traceback in the message
                raise type(error)(str(error).rpartition(f"{type(error).__name__}: ")[2].strip()) from None
            except (RuntimeError, EOFError, ConnectionError) as error:
                if not self._is_loss(error, batches):
                    continue
            else:
                done += 1
                self._note_progress()
                yield batch
                continue
            losses, last_loss = (losses + 1 if done < last_loss + RECOVERED else 1), done
            reason = self._reason(batches)
            if losses > MAX_LOSSES:
                raise WorkerError(
                    f"{reason}, {losses} times in a row; fewer --workers need less memory. Resume with --resume"
                )
            Terminal(stderr=True).say(f"{reason}: loading goes on with new processes")
            self._kill_workers(batches)
            batches = self._start(skip=done)

    def _start(self, skip: int) -> Any:
        self.sampler_of_batches.skip = skip
        batches = super().__iter__()
        self._note_progress()
        return batches

    def _note_progress(self) -> None:
        self._last_beats, self._last_progress = self._beats(), time.monotonic()

    def _beats(self) -> list[int]:
        return list(self.watched.heartbeats) if self.watched.heartbeats is not None else []

    def _is_loss(self, error: Exception, batches: Any) -> bool:
        """Whether an error of PyTorch's loader means that a worker died or hangs; others are raised on."""
        if not isinstance(error, RuntimeError):  # a worker was killed while it handed over a batch, and ends just now
            ended = wait([worker.sentinel for worker in batches._workers], timeout=5.0)
            for worker in batches._workers:
                if worker.sentinel in ended:
                    worker.join()
            return True
        if "DataLoader" not in str(error):
            raise error
        if "timed out" not in str(error):
            return True
        if self._beats() != self._last_beats:
            self._note_progress()
        return time.monotonic() - self._last_progress >= self.patience

    def _reason(self, batches: Any) -> str:
        """Which worker is lost, why, and at which image."""
        for number, worker in enumerate(batches._workers):
            if not worker.is_alive():
                return f"loading process {worker.pid} {exit_reason(worker.exitcode)}{self._at(number)}"
        for number, worker in enumerate(batches._workers):
            if self.watched.heartbeats[2 * number + 1] != IDLE:
                return f"loading process {worker.pid} hangs{self._at(number)}"
        return "a loading process handed over no batch (shared memory may be full)"

    def _at(self, number: int) -> str:
        begun, index = self.watched.heartbeats[2 * number : 2 * number + 2]
        return f" at {self.watched.images.name(index)}" if begun and index != IDLE else ""

    def _kill_workers(self, batches: Any) -> None:
        """End all workers; the batches that they hold ready are loaded again."""
        for worker in batches._workers:
            worker.kill()
        batches._shutdown_workers()
        self._iterator = None
        for place in range(len(self.watched.heartbeats)):
            self.watched.heartbeats[place] = 0


def exit_reason(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None or code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    what = {"SIGKILL": "memory", "SIGBUS": "shared memory"}.get(name)
    return f"was killed by {name}" + (f", as the system does when {what} runs out" if what else "")
