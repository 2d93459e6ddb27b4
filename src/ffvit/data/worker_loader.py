"""Workers: processes that load for this one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from ffvit.signals import block_signals_in_children, exit_with_parent

Item = TypeVar("Item")

STOPPING = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP
"""Signals that reach a whole process group or job: what they ask for is this process's to do, and it needs its workers."""


class WorkerLoader(DataLoader[Item]):
    """PyTorch's loader, whose workers keep to one thread, leave signals to this process, and end with it.

    It draws nothing from PyTorch's global generator.
    """

    def __init__(self, dataset: Dataset[Any], **options: Any) -> None:
        super().__init__(dataset, generator=torch.Generator(), **options)

    def check_worker_number_rationality(self) -> None:
        """Not PyTorch's warning of more workers than cores: their number is one a core, or what a person asked for."""

    def __iter__(self) -> Any:
        if not self.num_workers:
            return super().__iter__()
        context = self.multiprocessing_context or multiprocessing
        forked = context.get_start_method() == "fork" and threading.current_thread() is threading.main_thread()
        self.worker_init_fn = partial(_begin, parent=os.getpid() if forked else None)
        on_death = signal.getsignal(signal.SIGCHLD)
        # A signal that came meanwhile is raised at the end of this: by then the workers can be ended.
        with block_signals_in_children(*STOPPING):
            iterator: Any = super().__iter__()
            for worker in iterator._workers:
                worker._popen.terminate = worker._popen.kill  # SIGTERM is ignored
            if on_death is not None and threading.current_thread() is threading.main_thread():
                # PyTorch would raise a worker's death wherever this process is, in the middle of a step or of a file.
                signal.signal(signal.SIGCHLD, on_death)
        return iterator


def _begin(_: int, parent: int | None) -> None:
    torch.set_num_threads(1)
    sys.excepthook = _tell
    for number in STOPPING:  # for those off a fork server that was there before
        signal.signal(number, signal.SIG_IGN)
    if parent is not None:
        exit_with_parent(parent)


def _tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Tell of an error in the thread that hands over batches; of none where the process that fetches them was killed."""
    if not issubclass(kind, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, trace)
