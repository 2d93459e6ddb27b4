"""How the scripts here start: options by cyclopts, a user's mistake as one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import cyclopts
import torch

from ffvit import UserError


def run(main: Callable[..., Any]) -> None:
    """Run a script's function with the options that were typed."""
    try:
        cyclopts.run(main)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except torch.OutOfMemoryError:
        sys.exit("error: the GPU's memory is too small for this: use a smaller batch, or fewer networks")
