"""Processes that do a list of jobs, one after another, and stop with the process that started them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from ffvit.errors import RunStoppedError, UserError
from ffvit.signals import block_signals_in_children

Job = TypeVar("Job")

GLANCE = 0.2
"""Seconds between two looks at how far the processes are."""


class WorkerLostError(Exception):
    """A process that worked is gone; says how it ended."""


class ResultCounter:
    """What a process has done so far. It alone writes here, so nothing needs to be locked, and any process may read."""

    def __init__(self) -> None:
        self._counts = multiprocessing.RawArray(ctypes.c_int64, 2)
        self._parent = os.getpid()

    @property
    def good(self) -> int:
        """Items that were done."""
        return self._counts[0]

    @property
    def bad(self) -> int:
        """Items that could not be."""
        return self._counts[1]

    def add(self, good: bool) -> None:
        """Another item; the process ends here if the one that started it is gone."""
        self._counts[0 if good else 1] += 1
        if os.getppid() != self._parent:
            os._exit(1)


def run_pool(
    jobs: Sequence[Job],
    do: Callable[[Job, ResultCounter], None],
    workers: int,
    watch: Callable[[Sequence[ResultCounter]], None],
) -> None:
    """Do all jobs in forked processes, each of which takes the next one.

    Args:
        jobs: What is to be done.
        do: Does one of them, in one of the processes.
        workers: How many processes.
        watch: Called every now and then, and at the end, with what each process has done; what it raises stops all.

    Raises:
        WorkerLostError: A process was killed, or failed.
        Exception: Whatever of the errors for a user, or of the operating system's, `do` raised first.
    """
    context = multiprocessing.get_context("fork")
    taken = context.Value(ctypes.c_int64, 0)
    here, there = context.Pipe(duplex=False)
    tallies = [ResultCounter() for _ in range(workers)]
    crew = [
        context.Process(target=_begin, args=(jobs, do, tally, taken, there), name=f"worker {number}", daemon=True)
        for number, tally in enumerate(tallies)
    ]
    try:
        with block_signals_in_children():
            for process in crew:
                process.start()
        alive = crew
        while alive:
            wait([*(process.sentinel for process in alive), here], timeout=GLANCE)
            ended = [process for process in alive if process.exitcode is not None]
            watch(tallies)
            if here.poll():
                raise here.recv()
            for process in ended:
                if process.exitcode:
                    raise WorkerLostError(_ending(process.exitcode))
            alive = [process for process in alive if process not in ended]
    finally:
        for process in crew:
            if process.pid is not None:
                process.terminate()
                process.join()
        here.close()
        there.close()


def _begin(
    jobs: Sequence[Job], do: Callable[[Job, ResultCounter], None], tally: ResultCounter, taken: Any, there: Connection
) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        while True:
            with taken.get_lock():
                number = taken.value
                taken.value += 1
            if number >= len(jobs):
                return
            do(jobs[number], tally)
    except (RunStoppedError, UserError, OSError) as error:
        there.send(error)
        os._exit(1)  # it is told where the jobs were given out


def _ending(code: int) -> str:
    if code > 0:
        return "a process that works failed (it said why above)"
    name = signal.Signals(-code).name
    hint = ": was there too little memory? Fewer --workers need less" if -code == signal.SIGKILL else ""
    return f"a process that works was ended by {name}{hint}"
