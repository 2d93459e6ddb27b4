"""Output whose reader may go away (`ffvit train | head -1`, a terminal that closes) while the work goes on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class PipeWriter:
    """A stream that goes silent instead of failing.

    Args:
        stream: Where the words go as long as someone reads them.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, words: str) -> int:
        """Write, if someone still reads."""
        try:
            self._stream.write(words)
        except OSError:
            self._silence()
        return len(words)

    def flush(self) -> None:
        """Flush, if someone still reads."""
        try:
            self._stream.flush()
        except OSError:
            self._silence()

    def _silence(self) -> None:
        """Send what still waits to be written, and all that follows, nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)


@contextmanager
def survive_closed_pipe() -> Iterator[None]:
    """Inside, no words fail for want of a reader."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = PipeWriter(sys.stdout), PipeWriter(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
