"""Compilation block by block: equal blocks share one piece of compiled code, so a start takes seconds."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterable


COMPILERS = {
    "cpu": ("CXX", ("g++", "clang++", "c++", "cl"), "g++"),
    "cuda": ("CC", ("gcc", "clang"), "gcc"),  # what Triton looks for
}
"""For each device: the variable that names a compiler, the names that are tried, the package that brings one."""


def compile_unavailable_reason(device: torch.device) -> str | None:
    """Why networks cannot be compiled for this device, or None where they can."""
    if device.type not in COMPILERS:
        return f"PyTorch compiles for processors and CUDA, not for {device.type}"
    variable, names, package = COMPILERS[device.type]
    if variable not in os.environ and not any(map(shutil.which, names)):
        return f"there is no {'C++' if package == 'g++' else 'C'} compiler (Debian, Ubuntu: apt install {package})"
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        return "Python's headers are missing (Debian, Ubuntu: apt install python3-dev)"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton is missing: pip install triton"
    return None


def configure_compiler() -> None:
    """Let one piece of code be compiled for many networks, precisions and sizes: from the ninth on it would run eagerly.

    And silence PyTorch built for CUDA where there is no GPU: it would warn of that at each compilation.
    """
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)


def compile_blocks(network: nn.Module) -> nn.Module:
    """Compile a network in place, block by block; one without `blocks` as a whole.

    PyTorch compiles at the first call, and caches the result for the next run.
    """
    configure_compiler()
    for part in cast("Iterable[nn.Module]", getattr(network, "blocks", [network])):
        part.compile()
    return network
