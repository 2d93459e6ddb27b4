"""Patience: a line on stderr for what turns out to take long, and silence for what does not."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.text import Text

from ffvit.terminal import Terminal

Item = TypeVar("Item")


def progress_bar(items: Iterable[Item], what: str, after_seconds: float = 2.0) -> Iterator[Item]:
    """The items, counted aloud on stderr once they have taken `after_seconds`."""
    started = time.monotonic()
    console = Terminal(stderr=True)
    status = console.status(Text(what))
    shown = False
    try:
        for count, item in enumerate(items, start=1):
            if not shown and time.monotonic() - started > after_seconds:
                status.start()
                shown = True
            if shown:
                status.update(Text(f"{what}: {count:,}"))
            yield item
    finally:
        if shown:
            status.stop()
