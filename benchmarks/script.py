"""How the scripts here start, with options by cyclopts and a user's mistake as one sentence, and how they print medians."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import cyclopts
import torch

from ffvit import UserError
from ffvit.terminal import digits


def run(main: Callable[..., Any]) -> None:
    """Run a script's function with the options that were typed."""
    try:
        cyclopts.run(main)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except torch.OutOfMemoryError:
        sys.exit("error: the GPU's memory is too small for this: use a smaller batch, or fewer networks")


def spread(values: Sequence[float], decimals: int | None = None) -> str:
    """The median, with the lowest and the highest behind it, to so many decimals. Default: three significant digits."""
    middle, lowest, highest = (
        digits(value) if decimals is None else f"{value:,.{decimals}f}"
        for value in (median(values), min(values), max(values))
    )
    return f"{middle} ({lowest}-{highest})"
