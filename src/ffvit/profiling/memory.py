"""Memory: what a network keeps of each image for the backward pass, counted; and the peak of what it does, measured."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ffvit.errors import OutOfMemoryError
from ffvit.signals import block_signals_in_children

Work = Callable[[], object]


def activation_bytes(forward: Callable[[], object], network: nn.Module) -> int:
    """Bytes that a forward pass keeps for the backward pass, the network's weights not counted.

    What several operations keep is counted once. The pass is made, and its memory given back; on the device `meta`
    nothing is computed.

    Args:
        forward: The pass, with or without a loss.
        network: Whose it is.
    """
    weights = {each.untyped_storage()._cdata for each in (*network.parameters(), *network.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address comes twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(each.nbytes() for each in kept.values())


def peak_bytes(make: Callable[[], Work], device: torch.device) -> int:
    """The most memory that something to do takes, in bytes: what it is made of, and doing it.

    On a GPU that is what PyTorch has allocated there. On a processor it is the resident memory of a process of its own,
    above what that had before: it holds the library's own buffers too.

    Args:
        make: Makes what is then done twice. For a processor it must be able to travel to another process.
        device: What it computes on.

    Raises:
        OutOfMemoryError: The system ended the process.
    """
    if device.type == "cuda":
        return _on_gpu(make, device)
    # Forked off a server that has imported what makes the work: quick, and without what this process has allocated.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([getattr(make, "func", make).__module__])
    try:
        with ProcessPoolExecutor(1, mp_context=context) as child:
            with block_signals_in_children():
                measured = child.submit(_here, make)
            return measured.result()
    except BrokenProcessPool:
        raise OutOfMemoryError(
            "the process that measured memory was ended by the system, as it does when memory runs out: "
            "use a smaller --batch"
        ) from None


def _on_gpu(make: Callable[[], Work], device: torch.device) -> int:
    before = torch.cuda.memory_allocated(device)
    work = make()
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(2):
        work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _here(make: Callable[[], Work]) -> int:
    # The first product and convolution load code, which is the library's and not this work's.
    torch.nn.functional.conv2d(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 2, 2)) @ torch.ones(7, 7)
    before, _ = _resident()
    work = make()
    forget = Path("/proc/self/clear_refs")
    if forget.exists():
        forget.write_text("5")  # the peak so far, which making the work may have been, is forgotten: see proc(5)
    for _ in range(2):
        work()
    return max(0, _resident()[1] - before)


def _resident() -> tuple[int, int]:
    """Bytes of this process that are in memory, and the most that were."""
    account = Path("/proc/self/status")
    if account.exists():
        fields: dict[str, Any] = dict(line.split(":", 1) for line in account.read_text().splitlines() if ":" in line)
        now, most = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
        return now, most
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return most, most
