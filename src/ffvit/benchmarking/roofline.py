"""Where the parts of a network stand under the peak of this machine, measured.

S. Williams, A. Waterman, D. Patterson, Roofline: an insightful visual performance model for multicore architectures,
Communications of the ACM 52(4), 2009: work of few FLOPs per byte is limited by the memory, work of many by arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from ffvit.benchmarking.targets import Target
from ffvit.profiling.hardware_peak import HardwarePeak, best_peak, machine_name, measure_peak
from ffvit.profiling.op_profile import Work, profile_ops, seconds_by_part
from ffvit.profiling.timing import random_images
from ffvit.terminal import build_table, digits, track

ROUNDS = 7
"""Turns of the machine's peak and of the network. Both are taken in their best round, so a busy moment lowers neither."""


@dataclass(frozen=True)
class Point:
    """A part of a network: what it computes and moves for a batch, and the seconds that takes."""

    name: str
    work: Work
    seconds: float

    @property
    def rate(self) -> float:
        """FLOPs per second."""
        return self.work.operations / self.seconds


@dataclass(frozen=True)
class Roofline:
    """The parts of a network, and the peak of the machine.

    Attributes:
        network: Its name or weights.
        device: What it was measured on.
        batch: Images at once.
        precision: What it computed in.
        peak: The roof.
        points: Its parts; that which takes longest first.
    """

    network: str
    device: torch.device
    batch: int
    precision: str
    peak: HardwarePeak
    points: list[Point]

    @property
    def seconds(self) -> float:
        """Of a batch, all parts together."""
        return sum(point.seconds for point in self.points)

    def seconds_at_roof(self, point: Point) -> float:
        """Seconds that a part would take at the machine's peak."""
        return point.work.operations / self.peak.at(point.work.intensity, self.precision)


def measure(
    target: Target, precisions: Sequence[str], *, device: torch.device, batch: int, console: Console
) -> Roofline:
    """Measure the parts of a network as PyTorch runs them one after the other, in turns with the machine's peak.

    Args:
        target: The network.
        precisions: Whose peak is measured; the network is run in the last of them.
        device: What to compute on.
        batch: Images at once.
        console: Where to show progress.
    """
    precision = precisions[-1]
    network = target.network().to(device)
    images = random_images(network, batch)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    with autocast:
        work = profile_ops(network, images)  # which warms up too
    peaks, rounds = [], []
    for _ in track(range(ROUNDS), f"measuring the parts of {target.name}", console):
        peaks.append(measure_peak(precisions, device, memory=True))
        with autocast:
            rounds.append(seconds_by_part(network, images))
    points = [
        Point(name, part, min(seconds[name] for seconds in rounds))
        for name, part in work.items()
        if part.operations and name in rounds[0]
    ]
    points.sort(key=lambda point: -point.seconds)
    return Roofline(target.name, device, batch, precision, best_peak(peaks), points)


def print_roofline(roofline: Roofline, console: Console) -> None:
    """Print the parts, and what could be gained."""
    console.print(f"{machine_name(roofline.device)}; torch {torch.__version__}", highlight=False, soft_wrap=True)
    title = f", {roofline.precision}, batch of {roofline.batch}: figures of one image"
    console.print(Text.assemble((f"\n{roofline.network}", "bold"), title))
    headings = ("part", "GFLOP", "MB\nmoved", "FLOP/\nbyte", "ms", "% of\ntime", "% of its\nlimit", "limit")
    rows = [
        (
            point.name,
            digits(point.work.operations / roofline.batch / 1e9),
            digits(point.work.moved / roofline.batch / 1e6),
            digits(point.work.intensity),
            digits(1e3 * point.seconds / roofline.batch),
            f"{100 * point.seconds / roofline.seconds:.0f}",
            f"{100 * roofline.seconds_at_roof(point) / point.seconds:.0f}",
            _limit(roofline, point),
        )
        for point in roofline.points
    ]
    console.print(build_table(headings, rows, words=(0, 7)), highlight=False)
    console.print(f"\n{summary(roofline)}", highlight=False, markup=False)


def _limit(roofline: Roofline, point: Point) -> str:
    by_memory = point.work.intensity * roofline.peak.bandwidth < roofline.peak.matmuls[roofline.precision].rate
    return "memory" if by_memory else "arithmetic"


def summary(roofline: Roofline) -> str:
    """What takes the time, and where the most could be gained."""
    first = roofline.points[0]
    gains = {point.name: point.seconds - roofline.seconds_at_roof(point) for point in roofline.points}
    most = max(gains, key=lambda name: gains[name])
    ideal = sum(min(point.seconds, roofline.seconds_at_roof(point)) for point in roofline.points)
    return (
        f"Most of the time goes to {first.name} ({100 * first.seconds / roofline.seconds:.0f} %), which reaches "
        f"{100 * roofline.seconds_at_roof(first) / first.seconds:.0f} % of its limit. With every part at its limit the "
        f"network would take {100 * ideal / roofline.seconds:.0f} % of the time; the most can be gained in {most} "
        f"({100 * gains[most] / roofline.seconds:.0f} % of the time). A part may pass a limit by memory, because caches "
        "keep some of what one operator writes for the next."
    )


def to_json(roofline: Roofline) -> dict[str, Any]:
    """All that was measured of a batch: seconds, bytes, FLOPs (a multiply-add is two)."""
    return {
        "machine": machine_name(roofline.device),
        "torch": torch.__version__,
        "network": roofline.network,
        "batch": roofline.batch,
        "precision": roofline.precision,
        "peak": {
            "bytes_per_second": roofline.peak.bandwidth,
            "matmuls": {precision: asdict(matmul) for precision, matmul in roofline.peak.matmuls.items()},
        },
        "parts": [{"part": point.name, **asdict(point.work), "seconds": point.seconds} for point in roofline.points],
    }
