"""The peak of this machine, measured: FLOPs per second of a matrix product, bytes per second of memory."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ffvit.hardware.devices import has_bf16_matmul
from ffvit.profiling.timing import time_calls

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""The precisions whose peak is measured. fp32 is without TF32, PyTorch's default for matrix products."""

SIZES = {"cpu": (512, 768, 1024, 2048), "cuda": (2048, 4096, 8192)}
"""Sizes of the square matrices that are tried: the fastest is the largest that caches hold, by machine and precision."""

TRIAD = 2**26
"""Numbers in each of the three arrays that measure the memory: 256 MiB, far more than caches hold."""


@dataclass(frozen=True)
class MatmulRate:
    """A product of `size` x `size` matrices: FLOPs per second (a multiply-add is two)."""

    size: int
    rate: float


@dataclass(frozen=True)
class HardwarePeak:
    """The peak of this machine.

    Attributes:
        matmuls: The fastest matrix product, by precision.
        bandwidth: Bytes per second, read and written together; 0 where it was not measured.
    """

    matmuls: dict[str, MatmulRate]
    bandwidth: float = 0.0

    def at(self, intensity: float, precision: str) -> float:
        """FLOPs per second that work of so many FLOPs per byte can reach.

        S. Williams, A. Waterman, D. Patterson, Roofline, Communications of the ACM 52(4), 2009, section 3.
        """
        return min(self.matmuls[precision].rate, intensity * self.bandwidth)


def measure_peak(precisions: Sequence[str], device: torch.device, memory: bool = False) -> HardwarePeak:
    """Measure this machine's peak once; call it between other measurements and combine the results by `best_peak`.

    Args:
        precisions: Of the matrix products, some of `TYPES`.
        device: What to measure.
        memory: Measure the memory's bandwidth too.
    """
    sizes = SIZES.get(device.type, SIZES["cpu"])
    matmuls = {
        precision: max((MatmulRate(size, matmul_rate(size, precision, device)) for size in sizes), key=_rate)
        for precision in precisions
    }
    return HardwarePeak(matmuls, memory_bandwidth(device) if memory else 0.0)


def best_peak(peaks: Sequence[HardwarePeak]) -> HardwarePeak:
    """The best of several measurements: other processes can only make a machine look slower than it is."""
    precisions = peaks[0].matmuls
    matmuls = {precision: max((peak.matmuls[precision] for peak in peaks), key=_rate) for precision in precisions}
    return HardwarePeak(matmuls, max(peak.bandwidth for peak in peaks))


def _rate(matmul: MatmulRate) -> float:
    return matmul.rate


def matmul_rate(size: int, precision: str, device: torch.device, seconds: float = 0.2) -> float:
    """FLOPs per second of a product of square matrices: the best of calls that take about so many seconds in all."""
    left, right = torch.randn(2, size, size, device=device).to(TYPES[precision])
    return 2 * size**3 / min(time_calls(lambda: torch.matmul(left, right), device, seconds, calls=1000))


def memory_bandwidth(device: torch.device, seconds: float = 0.3) -> float:
    """Bytes per second to and from memory, by the triad a = b + s c on arrays far larger than the caches.

    J. McCalpin, STREAM: two arrays are read and one is written. As there, it is not counted that a CPU also reads the
    memory that it is about to overwrite.
    """
    first, second, result = (torch.ones(TRIAD, device=device) for _ in range(3))
    times = time_calls(lambda: torch.add(first, second, alpha=3.0, out=result), device, seconds, calls=1000, at_least=2)
    return 3 * result.nbytes / min(times)


def slow_precision_reason(precision: str, device: torch.device) -> str | None:
    """Why networks should not be run in this precision here, or None where it is fast."""
    if precision != "bf16" or (device.type == "cpu" and has_bf16_matmul()):
        return None
    ratio = matmul_rate(512, "fp32", device, 0.1) / matmul_rate(512, "bf16", device, 0.1)
    if ratio < 1:
        return None
    return f"this machine has no fast bf16 (a matrix product takes {ratio:.0f} times as long as in fp32)"


def machine_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's with its cores and the threads that compute."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def processor_name() -> str:
    """The CPU's name and vector units: a virtual machine's name alone tells little."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    name = model[1] if model else platform.processor() or platform.machine()
    return f"{name} ({torch.backends.cpu.get_cpu_capability()}{' with bf16' if has_bf16_matmul() else ''})"
