"""The two ways a command ends badly, each with a sentence for the person who typed it.

Everything else that is raised is a fault of ours and shows its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """What was given cannot be used: the message says what was wrong, where, and what to do. Exit code 2."""


class RunStoppedError(RuntimeError):
    """A run had to stop on its way (loss not finite, disk full, too many bad images). Exit code 1.

    The message says what is kept and how to go on.
    """


def nearest(wrong: str, allowed: Iterable[str]) -> str:
    """`", did you mean X?"` for the allowed name nearest to a wrong one, or nothing if none is near."""
    close = difflib.get_close_matches(wrong, list(allowed), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""
