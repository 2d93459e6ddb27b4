"""The processes of a run among themselves: what one does for all, and which one was lost."""

from __future__ import annotations

import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from ffvit.errors import FfvitError, WorkerError

if TYPE_CHECKING:
    from ffvit.hardware.fabric import Fabric


Thing = TypeVar("Thing")

LOST_SIGNS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out", "NCCL", "gloo")
"""What PyTorch says where a process does not answer."""


def all_gather(fabric: Fabric, thing: Thing) -> list[Thing]:
    """What each process holds, in the order of the processes, on all of them."""
    if fabric.world_size == 1:
        return [thing]
    import torch.distributed

    things: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(things, thing)
    return things


def local_world_size(fabric: Fabric) -> int:
    """How many of a run's processes share this machine."""
    return int(getattr(fabric.strategy, "num_processes", 1))  # the strategy of a single device has none to count


def is_rank_zero() -> bool:
    """Whether this process is the only one, or the first of several: the one that speaks and writes."""
    import torch.distributed

    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def on_rank_zero(fabric: Fabric, do: Callable[[], Thing]) -> Thing:
    """Do something on the first process only, and hand all of them its result, or its failure."""
    result: Any = None
    failure: Exception | None = None
    if fabric.is_global_zero:
        try:
            result = do()
        except FfvitError as error:
            failure = error
    result, failure = fabric.broadcast((result, failure))
    if failure is not None:
        raise failure
    return result


@contextmanager
def name_lost_ranks(fabric: Fabric) -> Iterator[None]:
    """Inside, a process that is lost, stopped or hangs is named, instead of the error of the network that waited for it.

    Raises:
        WorkerError: A process of the run no longer answers.
    """
    if fabric.world_size == 1:
        yield
        return
    import torch.distributed

    processes = all_gather(fabric, (platform.node(), os.getpid()))
    store = torch.distributed.distributed_c10d._get_default_store()
    try:
        yield
    except RuntimeError as error:
        if not _is_lost_rank(error):
            raise
        with _ignore_sigterm():  # torchrun stops this process, too, as soon as another is gone
            with suppress(RuntimeError):  # the store is gone with the first process
                store.set(f"ffvit waited/{fabric.global_rank}", "")
            time.sleep(2.0)  # what was killed is gone by then, and what waited as this process did has said so
            lost = {
                rank: reason
                for rank, (host, process) in enumerate(processes)
                if (reason := _lost_reason(rank, process, host == platform.node(), store))
            }
        named = "; ".join(f"process {rank} of {fabric.world_size} {reason}" for rank, reason in lost.items())
        named = named or f"a process of {fabric.world_size} no longer answers"
        stopped = WorkerError(f"{named}. Resume with --resume")
        here = [rank for rank, (host, _) in enumerate(processes) if host == platform.node() and rank not in lost]
        stopped.speaks = fabric.global_rank == min(here, default=fabric.global_rank)
        raise stopped from None


def _is_lost_rank(error: BaseException | None) -> bool:
    """Whether an error, or one that it came after (torchrun's SIGTERM, for one), says that a process does not answer."""
    while error is not None:
        if not isinstance(error, FfvitError) and any(sign in str(error) for sign in LOST_SIGNS):
            return True
        error = error.__context__
    return False


@contextmanager
def _ignore_sigterm() -> Iterator[None]:
    """Inside, SIGTERM is not heard, and not afterwards either."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _lost_reason(rank: int, process: int, here: bool, store: Any) -> str | None:
    """What is wrong with a process, in words; here: whether it is one of this machine."""
    import psutil

    if here:
        try:
            status = psutil.Process(process).status()
        except psutil.NoSuchProcess:
            status = psutil.STATUS_DEAD
        if status in (psutil.STATUS_DEAD, psutil.STATUS_ZOMBIE):
            return f"(pid {process}) was lost: killed, by the system if memory ran out"
        if status == psutil.STATUS_STOPPED:
            return f"(pid {process}) is stopped, by SIGSTOP"
    try:
        waited = store.check([f"ffvit waited/{rank}"])
    except RuntimeError:
        return None
    where = "" if here else " on another machine: gone, or it"
    return None if waited else f"(pid {process}){where} hangs: it did not come to where the others waited for it"
