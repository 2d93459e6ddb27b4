"""What this machine can do at most, measured: operations a second in a matrix product, bytes a second from memory."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from ffvit.hardware.devices import has_bf16_matmul
from ffvit.profiling.timing import time_calls

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""The precisions whose limit is measured. fp32 is without TF32, as are PyTorch's products."""

SIZES = {"cpu": (1024, 2048), "cuda": (2048, 4096, 8192)}
"""Rows and columns of the square matrices that are tried: large enough to be busy with arithmetic alone."""

TRIAD = 2**26
"""Numbers in each of the three arrays that measure the memory: 256 MiB, far more than caches hold."""


@dataclass(frozen=True)
class MatmulRate:
    """A matrix product of `size` x `size` matrices: operations a second (a multiply-add is two)."""

    size: int
    rate: float


@dataclass(frozen=True)
class HardwarePeak:
    """This machine's limits.

    Attributes:
        products: The fastest matrix product, by precision.
        bandwidth: Bytes a second, read and written together.
    """

    products: dict[str, MatmulRate]
    bandwidth: float

    def at(self, intensity: float, precision: str) -> float:
        """Operations a second that work of so many operations a byte can reach: the roof.

        S. Williams, A. Waterman, D. Patterson, Roofline, Communications of the ACM 52(4), 2009, section 3.
        """
        return min(self.products[precision].rate, intensity * self.bandwidth)


def measure_peak(precisions: list[str], device: torch.device) -> HardwarePeak:
    """Measure this machine's limits."""
    return HardwarePeak({each: peak_matmul(each, device) for each in precisions}, memory_bandwidth(device))


def matmul_rate(size: int, precision: str, device: torch.device, seconds: float = 0.3) -> float:
    """Operations a second in a product of square matrices: the median of calls that last about so long."""
    left, right = torch.randn(2, size, size, device=device).to(TYPES[precision])
    return 2 * size**3 / median(time_calls(lambda: torch.matmul(left, right), device, seconds, calls=1000))


def peak_matmul(precision: str, device: torch.device) -> MatmulRate:
    """The fastest of a few sizes."""
    sizes = SIZES.get(device.type, SIZES["cpu"])
    return max((MatmulRate(size, matmul_rate(size, precision, device)) for size in sizes), key=lambda its: its.rate)


def memory_bandwidth(device: torch.device, seconds: float = 1.0) -> float:
    """Bytes a second to and from memory, by the triad a = b + s c on arrays far larger than the caches.

    J. McCalpin, STREAM: two arrays are read and one is written. That a processor also reads what it is about to write
    over is, as there, not counted.
    """
    first, second, result = (torch.ones(TRIAD, device=device) for _ in range(3))
    times = time_calls(lambda: torch.add(first, second, alpha=3.0, out=result), device, seconds, calls=1000, at_least=3)
    return 3 * result.nbytes / median(times)


def slow_precision_reason(precision: str, device: torch.device) -> str | None:
    """Why networks should not be run in this precision here, or None where it is fast."""
    if precision != "bf16" or (device.type == "cpu" and has_bf16_matmul()):
        return None
    ratio = matmul_rate(512, "fp32", device, 0.1) / matmul_rate(512, "bf16", device, 0.1)
    if ratio < 1:
        return None
    return f"this machine has no fast bf16 (a matrix product takes {ratio:.0f} times as long as in fp32)"


def machine_name(device: torch.device) -> str:
    """The GPU's name, or the processor's with its cores and the threads that compute."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def processor_name() -> str:
    """The processor's name and units: a virtual machine's name alone tells little."""
    linux = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", linux.read_text()) if linux.exists() else None
    name = named[1] if named else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}{' with bf16' if has_bf16_matmul() else ''})"
