"""Memory: what a forward pass keeps for the backward pass, counted; and the peak of what some work takes, measured."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from ffvit.errors import OutOfMemoryError
from ffvit.hardware.processes import fork_server, starting_processes

Work = Callable[[], object]


def activation_bytes(forward: Callable[[], object], network: nn.Module) -> int:
    """Bytes that a forward pass keeps for the backward pass, without the network's weights.

    What several operations keep is counted once. The pass is run; on the device `meta` nothing is computed.

    Args:
        forward: The pass, with or without a loss.
        network: Whose weights are not counted.
    """
    weights = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # references, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in kept.values())


def peak_bytes(make: Callable[[], Work], device: torch.device) -> int:
    """The peak memory of some work, in bytes: of making it and of doing it twice.

    On a GPU that is what PyTorch allocates there. On a CPU it is the resident memory of a separate process, above what
    that had before: the library's own buffers are counted too.

    Args:
        make: Makes the work. For a CPU it must be picklable.
        device: What it computes on.

    Raises:
        OutOfMemoryError: The system ended the process.
    """
    if device.type == "cuda":
        return _peak_of_gpu(make, device)
    # A fork server that has imported what makes the work starts quickly, without what this process has allocated.
    context = fork_server(getattr(make, "func", make).__module__)
    try:
        with ProcessPoolExecutor(1, mp_context=context) as child:
            with starting_processes():
                peak = child.submit(_peak_of_process, make)
            return peak.result()
    except BrokenProcessPool:
        raise OutOfMemoryError(
            "the process that measured memory was ended by the system, as it does when memory runs out: "
            "use a smaller --batch"
        ) from None


def _peak_of_gpu(make: Callable[[], Work], device: torch.device) -> int:
    before = torch.cuda.memory_allocated(device)
    work = make()
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(2):
        work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_of_process(make: Callable[[], Work]) -> int:
    # The first convolution and the first product load the library's code, which is not counted.
    torch.nn.functional.conv2d(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 2, 2)) @ torch.ones(7, 7)
    before = psutil.Process().memory_info().rss
    work = make()
    clear_refs = Path("/proc/self/clear_refs")
    if clear_refs.exists():
        clear_refs.write_text("5")  # forgets the peak so far, which may be of making the work: see proc(5)
    for _ in range(2):
        work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return max(0, peak - before)
