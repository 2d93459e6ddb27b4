"""Signals: Ctrl-C and a scheduler's warnings, for this process and for those it starts."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType, TracebackType
from typing import Any

from ffvit.errors import RequeueError, RunStoppedError

WARNINGS = signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP
"""Signals of a scheduler, or of a terminal that closes: the same command is to be run again later."""

REPEAT = 1.0
"""Seconds in which a signal that comes again is the same one: torchrun passes on what its process group got, too."""


class StopSignals:
    """Inside, the first signal only sets `asked` and says so; a second SIGINT or SIGTERM does what it always did.

    Args:
        say: Told of the first signal.

    Attributes:
        asked: Whether to stop.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.asked = False
        self._say = say
        self._by = 0
        self._at = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self._before = _handle(self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _put_back(self._before)

    def error(self, words: str) -> RunStoppedError:
        """What to raise once all is saved."""
        return stop_error(self._by, words)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if not self.asked:
            self.asked, self._by, self._at = True, number, time.monotonic()
            self._say("stopping soon, then saving (once more to stop at once)")
        elif time.monotonic() - self._at > REPEAT and number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._before[number])
            signal.raise_signal(number)


@contextmanager
def exit_on_signal(words: str, done: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Inside, where there is nothing to save, a scheduler's signal ends the run at once, with these words.

    Args:
        words: Of the error.
        done: Whether the work is done by then: nothing is left to be run again.

    Raises:
        RequeueError: Such a signal came.
    """
    before = _handle(_stop)
    try:
        with reraise_lost_signals():
            yield
    except _StoppedAtOnce as error:
        if not done():
            raise stop_error(error.number, words) from None
    finally:
        _put_back(before)


@contextmanager
def reraise_lost_signals() -> Iterator[None]:
    """Inside, a signal that was raised in a destructor, where Python tells it with a traceback and goes on, comes again."""
    before, main = sys.unraisablehook, threading.main_thread().ident or 0
    timers: list[threading.Timer] = []
    lost: list[int] = []

    def send() -> None:
        signal.pthread_kill(main, lost.pop())

    def again(unraisable: Any) -> None:
        error = unraisable.exc_value
        if isinstance(error, KeyboardInterrupt | _StoppedAtOnce):
            lost.append(signal.SIGINT if isinstance(error, KeyboardInterrupt) else error.number)
            timers.append(threading.Timer(0.02, send))
            timers[-1].start()
        else:
            before(unraisable)

    sys.unraisablehook = again
    try:
        try:
            yield
        finally:
            while timers:
                timers[-1].cancel()
                timers.pop().join()
            if lost:  # it is raised here, not where nobody has a word for it
                signal.raise_signal(lost.pop())
    finally:
        sys.unraisablehook = before


def stop_error(number: int, words: str) -> RunStoppedError:
    """The error of a run that was stopped by a signal and has saved."""
    error = RequeueError(words) if number in WARNINGS else RunStoppedError(words)
    error.asked = True
    return error


class _StoppedAtOnce(BaseException):
    """No `Exception`: what catches those to say that a file is damaged must not catch this."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, _frame: FrameType | None) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise _StoppedAtOnce(number)


def _handle(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Have a handler hear the signals, and hand back those before; a signal that is ignored (nohup) stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    heard = [number for number in (signal.SIGINT, *WARNINGS) if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def _put_back(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextmanager
def end_at_sigterm() -> Iterator[None]:
    """Inside, where there is nothing to save, SIGTERM ends the process at once with status 143.

    The system's own action would do so too, but not for the first process of a container, which has none. A handler that
    is there already stays.
    """
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
        handlers = {number: handler for number in numbers if callable(handler := signal.getsignal(number))}
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
