"""Workers: processes that load for this one."""

from __future__ import annotations

import signal
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from ffvit.interrupts import kept_from_children

Item = TypeVar("Item")


class WorkerLoader(DataLoader[Item]):
    """PyTorch's loader, whose workers keep to one thread, leave Ctrl-C to this process and end when they are told to.

    It draws nothing from PyTorch's global generator.
    """

    def __init__(self, dataset: Dataset[Any], **options: Any) -> None:
        super().__init__(dataset, worker_init_fn=_begin, generator=torch.Generator(), **options)

    def __iter__(self) -> Any:
        if not self.num_workers:
            return super().__iter__()
        with kept_from_children():
            return super().__iter__()


def _begin(_: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for those off a fork server that was there before
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
