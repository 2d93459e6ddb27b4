"""Where the parts of a network stand under this machine's limits, measured.

S. Williams, A. Waterman, D. Patterson, Roofline: an insightful visual performance model for multicore architectures,
Communications of the ACM 52(4), 2009: work of few operations a byte is limited by the memory, work of many by arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ffvit.benchmarking.table import digits
from ffvit.benchmarking.targets import Target
from ffvit.benchmarking.workload import images_for
from ffvit.profiling.hardware_peak import HardwarePeak, machine_name, measure_peak
from ffvit.profiling.op_profile import Work, profile_ops, seconds_by_part

PASSES = 7


@dataclass(frozen=True)
class Point:
    """A part of a network.

    Attributes:
        name: Its kind.
        work: Of a batch.
        seconds: That a batch really takes, the median of passes.
    """

    name: str
    work: Work
    seconds: float

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.work.operations / self.seconds


@dataclass(frozen=True)
class Roofline:
    """The parts of a network, and the machine's limits.

    Attributes:
        network: Its name or weights.
        device: What it was measured on.
        batch: Images at once.
        precision: What it computed in.
        limits: The roof.
        points: Its parts, what takes longest first.
    """

    network: str
    device: torch.device
    batch: int
    precision: str
    limits: HardwarePeak
    points: list[Point]

    @property
    def seconds(self) -> float:
        """Of a batch, all parts together."""
        return sum(point.seconds for point in self.points)

    def at_roof(self, point: Point) -> float:
        """Seconds that a part would take at the machine's limit."""
        return point.work.operations / self.limits.at(point.work.intensity, self.precision)


def measure(
    subject: Target, precisions: Sequence[str], *, device: torch.device, batch: int, tell: Callable[[str], None]
) -> Roofline:
    """Measure the parts of a network in the last of the precisions, as they run one after the other in PyTorch.

    Args:
        subject: The network.
        precisions: Whose limits are measured.
        device: What on.
        batch: Images at once.
        tell: Is told what goes on.
    """
    precision = precisions[-1]
    tell("measuring this machine's limits")
    limits = measure_peak(list(precisions), device)
    tell(f"measuring the parts of {subject.given}")
    network = subject.network().to(device)
    images = images_for(network, batch, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        seconds = seconds_by_part(network, images, PASSES)
        points = [
            Point(name, work, median(seconds[name]))
            for name, work in profile_ops(network, images).items()
            if work.operations and name in seconds
        ]
    points.sort(key=lambda point: -point.seconds)
    return Roofline(subject.given, device, batch, precision, limits, points)


def show(found: Roofline, console: Console) -> None:
    """Print the parts, and what could be gained."""
    console.print(f"{machine_name(found.device)}; torch {torch.__version__}", highlight=False, soft_wrap=True)
    console.print(
        Text.assemble(
            (f"\n{found.network}", "bold"), f", {found.precision}, batch of {found.batch}: an image's share of it"
        )
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("part", no_wrap=True)
    for head in ("GFLOP", "MB\nmoved", "FLOP/\nbyte", "ms", "% of\nthe time", "% of\nits limit"):
        table.add_column(head, justify="right", no_wrap=True)
    for point in found.points:
        work = point.work
        table.add_row(
            Text(point.name),
            digits(work.operations / found.batch / 1e9),
            digits(work.moved / found.batch / 1e6),
            digits(work.intensity),
            digits(1e3 * point.seconds / found.batch),
            f"{100 * point.seconds / found.seconds:.0f}",
            f"{100 * found.at_roof(point) / point.seconds:.0f} {_limit(found, point)}",
        )
    console.print(table)
    console.print(f"\n{words(found)}", highlight=False, markup=False)


def _limit(found: Roofline, point: Point) -> str:
    by_memory = point.work.intensity * found.limits.bandwidth < found.limits.products[found.precision].rate
    return "memory" if by_memory else "arithmetic"


def words(found: Roofline) -> str:
    """What takes the time, and where the most could be gained."""
    first = found.points[0]
    gains = {point.name: point.seconds - found.at_roof(point) for point in found.points}
    name = max(gains, key=lambda each: gains[each])
    ideal = sum(min(point.seconds, found.at_roof(point)) for point in found.points)
    return (
        f"Most of the time goes to {first.name} ({100 * first.seconds / found.seconds:.0f} %), which runs at "
        f"{100 * found.at_roof(first) / first.seconds:.0f} % of what this machine allows such work. With every part at "
        f"its limit the network would take {100 * ideal / found.seconds:.0f} % of the time; the most is to be gained in "
        f"{name} ({100 * gains[name] / found.seconds:.0f} % of the time). More than 100 % of a limit by memory means that "
        "caches kept what one operator wrote for the next."
    )


def to_json(found: Roofline) -> dict[str, Any]:
    """All that was measured of a batch: seconds, bytes, operations (a multiply-add is two)."""
    return {
        "machine": machine_name(found.device),
        "torch": torch.__version__,
        "network": found.network,
        "batch": found.batch,
        "precision": found.precision,
        "limits": {
            "bytes_per_second": found.limits.bandwidth,
            "products": {each: asdict(its) for each, its in found.limits.products.items()},
        },
        "parts": [{"part": point.name, **asdict(point.work), "seconds": point.seconds} for point in found.points],
    }
