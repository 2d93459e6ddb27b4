"""The processes that ffvit starts beside its own."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
from types import ModuleType

from ffvit.signals import block_signals_in_children


def fork_server(module: str) -> ForkServerContext:
    """What starts processes quickly: it forks them off a server that has imported this module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


@contextmanager
def starting_processes() -> Iterator[None]:
    """Processes started inside leave Ctrl-C to this one, and do not import the script that called ffvit.

    Python would have each of them run a script again that has no `if __name__ == "__main__":`. None of ours needs it:
    what they are given is from modules.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        with block_signals_in_children():
            yield
    finally:
        sys.modules["__main__"] = script
