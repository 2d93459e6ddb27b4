"""What this machine has: devices, cores, memory."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ffvit.config.hardware import Hardware

if TYPE_CHECKING:
    import torch


def device_type(hardware: Hardware) -> str:
    """The kind of device a run computes on: cpu, cuda or mps."""
    import torch

    if hardware.accelerator != "auto":
        return hardware.accelerator
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def visible_gpus() -> list[str]:
    """The names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES knows them."""
    import torch

    own = os.environ.get("CUDA_VISIBLE_DEVICES")
    return own.split(",") if own else [str(each) for each in range(torch.cuda.device_count())]


def available_cores() -> int:
    """Processor cores that this process may use: a scheduler or a container may have left it a few of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_bf16_matmul() -> bool:
    """Whether the processor has units for bf16: without them it is many times slower than fp32."""
    import torch

    units: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older PyTorch does not tell
    return any(units.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def free_memory(device: torch.device) -> int:
    """Bytes that a device has left."""
    import psutil
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has too little memory left; PyTorch has no class for the latter."""
    import torch

    signs = (
        "can't allocate memory",
        "not enough memory",
        "bad_alloc",
        "could not create a memory",
        "could not create a primitive",
    )
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in str(error) for sign in signs)


def keep_freed_memory() -> None:
    """Have this process hold on to memory that it frees, for what it allocates next, as PyTorch does on a GPU.

    glibc hands blocks from some MiB on back to the system at once, and every step pays for their pages anew: a third of
    the time with 64 images at 224 px. What is kept lies in pieces, so the process grows larger: in a step of FF-base by
    a fifth, but to thrice its size where blocks are computed again, so not where memory is short (docs/speed.md).
    Other systems' allocators are left as they are.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if change is not None:  # there is none in musl
        trim_threshold, blocks_of_their_own = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX: see mallopt(3)
        change(trim_threshold, -1)
        change(blocks_of_their_own, 0)
