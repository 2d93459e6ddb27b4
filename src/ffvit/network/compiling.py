"""Compilation block by block: equal blocks share one piece of compiled code, so a start takes seconds."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable


def why_not_compiled(device: torch.device) -> str | None:
    """Why networks cannot be compiled for this device, or None where they can."""
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++", "cl"))):
        return "there is no C++ compiler (Debian, Ubuntu: apt install g++)"
    if device.type not in ("cpu", "cuda"):
        return f"PyTorch compiles for processors and CUDA, not for {device.type}"
    return None


def compile_blocks(network: nn.Module) -> nn.Module:
    """Compile a network in place, each block of its own; one that has no `blocks` as a whole.

    PyTorch compiles at the first call, and keeps the result in its cache for the next run.
    """
    for part in cast("Iterable[nn.Module]", getattr(network, "blocks", [network])):
        part.compile()
    return network
