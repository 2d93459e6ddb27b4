"""Signals reach every process of a terminal or a job at once; the one that started the others decides what follows."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def block_signals_in_children(*numbers: int) -> Iterator[None]:
    """Processes that are started inside never hear these signals, from their first moment on; this one does, afterwards.

    Args:
        numbers: The signals. Default: SIGINT, which is Ctrl-C.
    """
    resource_tracker.ensure_running()  # started inside, it would have Python before 3.13 hear Ctrl-C again
    numbers = numbers or (signal.SIGINT,)
    # The mask is this thread's, and its children's: others of this process, OpenMP's for one, still take the signal.
    with defer_signals(*numbers):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def defer_signals(*numbers: int) -> Iterator[None]:
    """These signals, come inside, are heard at the end, where they interrupt nothing.

    Args:
        numbers: The signals.
    """
    heard: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {each: handler for each in numbers if callable(handler := signal.getsignal(each))}
    for number in handlers:
        signal.signal(number, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in heard:
            signal.raise_signal(number)


def exit_with_parent(parent: int) -> None:
    """Have this process end as soon as the one that forked it does, however that one ends.

    Args:
        parent: Its process id; the signal comes when the thread that forked ends, so fork from the main one.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # see prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # it ended meanwhile
        os._exit(1)
