"""Ctrl-C reaches every process of a terminal at once; the one that started the others decides what follows."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def kept_from_children() -> Iterator[None]:
    """Processes that are started inside never hear Ctrl-C, from their first moment on; this one hears it afterwards."""
    resource_tracker.ensure_running()  # started inside, it would have Python before 3.13 hear Ctrl-C again
    heard: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    # The mask is this thread's, and its children's: others of this process, OpenMP's for one, still take the signal.
    waits = callable(handler) and threading.current_thread() is threading.main_thread()
    if waits:
        signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if waits:
            signal.signal(signal.SIGINT, handler)
        if heard:
            signal.raise_signal(signal.SIGINT)
