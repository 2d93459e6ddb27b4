"""The most memory that Python and numpy hold at once while a block runs."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def most_memory() -> Iterator[Callable[[], int]]:
    """Yields what tells, once the block is done, how many bytes were held at most above those before it."""
    most = 0
    tracemalloc.start()
    try:
        yield lambda: most
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
