"""Which `raise` of ours no test reaches: `pytest -p reached_raises` lists them at the end of a run.

A line counts as reached where an error of ffvit was made on it, in the processes of the tests themselves.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ffvit"
REACHED: set[tuple[str, int]] = set()


def pytest_collection_finish(session: pytest.Session) -> None:
    from ffvit.errors import FfvitError  # not before jaxtyping has hooked its import

    made = FfvitError.__init__

    def recorded(self: Any, *arguments: object) -> None:
        frame = sys._getframe(1)
        # Past the errors' own constructors, and what checks the types of their arguments.
        while frame.f_back is not None and (not _ours(frame) or frame.f_locals.get("self") is self):
            frame = frame.f_back
        REACHED.add((frame.f_code.co_filename, frame.f_lineno))
        made(self, *arguments)

    FfvitError.__init__ = recorded  # type: ignore[method-assign]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # one of several processes that run the tests
        session.config.workeroutput["reached"] = [list(place) for place in REACHED]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    output = getattr(node, "workeroutput", {})  # none of a process that crashed
    REACHED.update(tuple(place) for place in output.get("reached", ()))


def _ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(str(SOURCE))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    places = raises()
    missed = sorted(places - REACHED)
    terminalreporter.section(f"errors made on {len(places) - len(missed)} of {len(places)} lines")
    for file, line in missed:
        terminalreporter.line(f"not reached: {Path(file).relative_to(SOURCE)}:{line}")


def raises() -> set[tuple[str, int]]:
    """Every line of the source on which an error of ffvit is made."""
    return {
        (str(file), node.lineno)
        for file in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names()
    }


def names() -> set[str]:
    from ffvit.errors import FfvitError

    found, todo = set(), [FfvitError]
    while todo:
        found.add(todo[-1].__name__)
        todo += todo.pop().__subclasses__()
    return found
