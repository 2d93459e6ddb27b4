"""Progress on stderr of what turns out to take long, and silence for what does not."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.text import Text

from ffvit.terminal import Terminal

Item = TypeVar("Item")


def progress_bar(
    items: Iterable[Item], what: str, after_seconds: float = 2.0, total: int | None = None
) -> Iterator[Item]:
    """The items, counted on stderr once they have taken `after_seconds`."""
    started = time.monotonic()
    status = Terminal(stderr=True).status(Text(what))
    of, shown = "" if total is None else f" of {total:,}", False
    try:
        for count, item in enumerate(items, start=1):
            seconds = time.monotonic() - started
            if not shown and seconds > after_seconds:
                status.start()
                shown = True
            if shown:
                status.update(Text(f"{what}: {count:,}{of}, {count / max(seconds, 1e-9):,.0f} a second"))
            yield item
    finally:
        if shown:
            status.stop()
