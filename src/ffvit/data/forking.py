"""Processes that load for this one."""

from __future__ import annotations

import signal
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from ffvit.interrupts import kept_from_children

Item = TypeVar("Item")


class ForkingLoader(DataLoader[Item]):
    """PyTorch's loader, with processes that keep to one thread, leave Ctrl-C to this one and end when they are told to.

    It draws nothing from PyTorch's global generator.
    """

    def __init__(self, dataset: Dataset[Any], **options: Any) -> None:
        super().__init__(dataset, worker_init_fn=_begin, generator=torch.Generator(), **options)

    def __iter__(self) -> Any:
        with kept_from_children():
            return super().__iter__()


def _begin(_: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # processes that are not forked have no mask of ours
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
