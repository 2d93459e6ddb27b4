"""Processes that load for this one: Ctrl-C reaches every process of a terminal, and this one alone decides what follows."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

Item = TypeVar("Item")


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes that are forked inside never hear Ctrl-C, from their first moment on; this one hears it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ForkingLoader(DataLoader[Item]):
    """PyTorch's loader, with processes that keep to one thread, leave Ctrl-C to this one and end when they are told to.

    It draws nothing from PyTorch's global generator.
    """

    def __init__(self, dataset: Dataset[Any], **options: Any) -> None:
        super().__init__(dataset, worker_init_fn=_begin, generator=torch.Generator(), **options)

    def __iter__(self) -> Any:
        with deaf_to_interrupts():
            return super().__iter__()


def _begin(_: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # processes that are not forked have no mask of ours
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
