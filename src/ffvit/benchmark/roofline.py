"""Where the parts of a network stand under this machine's limits: a table and a picture.

S. Williams, A. Waterman, D. Patterson, Roofline: an insightful visual performance model for multicore architectures,
Communications of the ACM 52(4), 2009: work of few operations a byte is limited by the memory, work of many by arithmetic.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox
from rich.console import Console
from rich.table import Table

from ffvit.atomic import writing
from ffvit.benchmark.subjects import Subject
from ffvit.benchmark.table import digits
from ffvit.benchmark.work import images_for
from ffvit.cost.limits import Limits, machine_name, measure_limits
from ffvit.cost.parts import Work, seconds_of_parts, work_of
from ffvit.inks import ARMS, INK, MUTED, PAPER, SOFT, STYLE, WIDE

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
    limits: Limits
    points: list[Point]

    @property
    def seconds(self) -> float:
        """Of a batch, all parts together."""
        return sum(point.seconds for point in self.points)

    def at_roof(self, point: Point) -> float:
        """Seconds that a part would take at the machine's limit."""
        return point.work.operations / self.limits.at(point.work.intensity, self.precision)


def measure(
    subject: Subject, precisions: Sequence[str], *, device: torch.device, batch: int, tell: Callable[[str], None]
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
    limits = measure_limits(list(precisions), device)
    tell(f"measuring the parts of {subject.given}")
    network = subject.network().to(device)
    images = images_for(network, batch, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        seconds = seconds_of_parts(network, images, PASSES)
        points = [
            Point(name, work, median(seconds[name]))
            for name, work in work_of(network, images).items()
            if work.operations and name in seconds
        ]
    points.sort(key=lambda point: -point.seconds)
    return Roofline(subject.given, device, batch, precision, limits, points)


def show(found: Roofline, console: Console) -> None:
    """Print the parts, and what could be gained."""
    console.print(f"{machine_name(found.device)}; torch {torch.__version__}", highlight=False, soft_wrap=True)
    console.print(f"\n[bold]{found.network}[/bold], {found.precision}, batch of {found.batch}", highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("part", no_wrap=True)
    for head in (
        "GFLOP\nan image", "MB moved\nan image", "FLOP\na byte", "ms\nan image", "% of\nthe time", "GFLOP/s", "% of\nits limit", "limited by",
    ):  # fmt: skip
        table.add_column(head, justify="right", no_wrap=True)
    for point in found.points:
        work = point.work
        table.add_row(
            point.name,
            digits(work.operations / found.batch / 1e9),
            digits(work.moved / found.batch / 1e6),
            digits(work.intensity),
            digits(1e3 * point.seconds / found.batch),
            f"{100 * point.seconds / found.seconds:.0f}",
            digits(point.rate / 1e9),
            f"{100 * found.at_roof(point) / point.seconds:.0f}",
            _limit(found, point),
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


def write(found: Roofline, path: Path) -> None:
    """Write the picture, a PNG."""
    with mpl.rc_context(STYLE):
        figure = _drawn(found)
        figure.set_facecolor("white")
        figure.set_dpi(180)
        picture = io.BytesIO()
        FigureCanvasAgg(figure).print_png(picture, metadata={"Software": None})
    with writing(path) as temporary:
        temporary.write_bytes(picture.getvalue())


def _drawn(found: Roofline) -> Figure:
    figure = Figure(figsize=(WIDE, 4.6))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_yscale("log")
    tops = [its.rate for its in found.limits.products.values()]
    intensities = [point.work.intensity for point in found.points]
    rates = [point.rate for point in found.points]
    ridge = max(tops) / found.limits.bandwidth
    left, right = min(*intensities, ridge) / 2.5, max(*intensities, ridge) * 5
    low = min(*rates, *tops) / 1e9 / 2.5
    axes.set_xlim(left, right)
    axes.set_ylim(low, max(*rates, *tops) / 1e9 * 2.2)
    places = [LogLocator(subs=(1.0,)), LogLocator(subs=(1.0,))]
    for axis, locator in zip((axes.xaxis, axes.yaxis), places, strict=True):
        axis.set_major_locator(locator)
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.9g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("Operations for each byte moved, FLOP/byte")
    axes.set_title(
        f"GFLOP/s reached by each part of {found.network}, and what this machine allows\n"
        f"batch of {found.batch}, {found.precision}, PyTorch {torch.__version__.split('+')[0]}; {machine_name(found.device)}",
        linespacing=1.5,
    )
    axes.grid(color=MUTED, alpha=0.18, lw=0.5)
    figure.canvas.draw()
    assert figure.get_layout_engine() is not None
    figure.set_layout_engine("none")
    taken = _roof(axes, found, left, right)
    _parts(axes, found, taken)
    return figure


def _roof(axes: Axes, found: Roofline, left: float, right: float) -> list[Bbox]:
    """The roof with its words; hands back what of the picture it takes."""
    taken: list[Bbox] = []
    x = np.geomspace(left, right, 400)
    for precision, its in found.limits.products.items():
        y = np.array([found.limits.at(each, precision) for each in x]) / 1e9
        chosen = precision == found.precision
        axes.plot(x, y, color=INK if chosen else MUTED, lw=1.4 if chosen else 1, zorder=1)
        spots = axes.transData.transform(np.column_stack((x, y)))
        taken += [Bbox([spot - 2, spot + 2]) for spot in spots]
        text = axes.annotate(
            f"matrix product, {precision}: {digits(its.rate / 1e9)} GFLOP/s",
            (right, its.rate / 1e9), (-2, 4), textcoords="offset points", ha="right", color=INK if chosen else SOFT, fontsize=8.5,
        )  # fmt: skip
        taken.append(text.get_window_extent())
    bandwidth = found.limits.bandwidth / 1e9
    ends = axes.transData.transform([(1, bandwidth), (10, 10 * bandwidth)])
    slope = float(np.degrees(np.arctan2(*(ends[1] - ends[0])[::-1])))
    ridge = found.limits.products[found.precision].rate / found.limits.bandwidth
    middle = float(np.sqrt(max(left, axes.get_ylim()[0] / bandwidth) * ridge))
    text = axes.annotate(
        f"memory: {digits(bandwidth)} GB/s", (middle, middle * bandwidth), (-4, 5), textcoords="offset points",
        ha="center", va="bottom", rotation=slope, rotation_mode="anchor", color=INK, fontsize=8.5,
    )  # fmt: skip
    box = text.get_window_extent()
    taken.append(box)
    return taken


OFFSETS = [
    (distance * across, distance * up)
    for distance, (across, up) in product(
        (8, 16, 28, 44, 64), ((1, -0.6), (1, 0), (-1, 0), (1, -1.2), (-1, -1.2), (0, -1), (1, 1), (-1, 1), (0, 1))
    )
]
"""Where a part's words may stand, in points from its dot, nearest first."""


def _parts(axes: Axes, found: Roofline, taken: list[Bbox]) -> None:
    """A dot a part, its area the share of the time, with its name beside it where nothing else is."""
    room = axes.get_window_extent()
    pixels = axes.get_figure().dpi / 72  # type: ignore[union-attr]
    dots = {}
    for point in found.points:
        share = point.seconds / found.seconds
        size = 5 + 13 * np.sqrt(share)
        at = point.work.intensity, point.rate / 1e9
        axes.plot(*at, "o", ms=size, color=ARMS[0], mec=PAPER, mew=0.8, alpha=0.9, zorder=3)
        spot = axes.transData.transform(at)
        dots[point.name] = at, size
        taken.append(Bbox([spot - size / 2 * pixels, spot + size / 2 * pixels]))
    for point in found.points:
        at, size = dots[point.name]
        words = f"{point.name}\n{_percent(point.seconds / found.seconds)} of the time"
        for across, up in OFFSETS:
            side = "left" if across > 0 else "right" if across < 0 else "center"
            level = "center" if abs(up) < abs(across) * 0.3 else "bottom" if up > 0 else "top"
            beyond = size / 2 * np.sign([across, up])
            text = axes.annotate(
                words, at, (across + beyond[0], up + beyond[1]), textcoords="offset points", ha=side, va=level,
                fontsize=8.5, linespacing=1.2, zorder=4,
                arrowprops={"arrowstyle": "-", "color": MUTED, "lw": 0.6, "shrinkA": 1, "shrinkB": size / 2},
            )  # fmt: skip
            box = text.get_window_extent().padded(1.5)
            inside = room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1
            if inside and not any(box.overlaps(each) for each in taken):
                taken.append(box)
                break
            text.remove()


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "under 1 %"
