"""The roofline as a picture: the parts of a network under what this machine's memory and arithmetic allow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ffvit.benchmarking.roofline import Roofline
from ffvit.files.atomic_write import atomic_path
from ffvit.plot_style import ARMS, INK, MUTED, PAPER, SOFT, STYLE, WIDE
from ffvit.profiling.hardware_peak import machine_name
from ffvit.terminal import digits

MARKERS = "osD^vPXp*h"
"""One for each part, so that two points in the same place are both seen."""


def write(roofline: Roofline, path: Path) -> None:
    """Write the picture, a PNG."""
    with mpl.rc_context(STYLE):
        picture = io.BytesIO()
        FigureCanvasAgg(_draw(roofline)).print_png(picture, metadata={"Software": "ffvit"})
    with atomic_path(path) as temporary:
        temporary.write_bytes(picture.getvalue())


def _draw(roofline: Roofline) -> Figure:
    rates = [point.rate for point in roofline.points] + [matmul.rate for matmul in roofline.peak.matmuls.values()]
    intensities = [point.work.intensity for point in roofline.points]
    intensities.append(max(rates) / roofline.peak.bandwidth)  # where the roof turns flat
    scale, unit = (1e12, "TFLOP/s") if max(rates) >= 1e13 else (1e9, "GFLOP/s")

    figure = Figure(figsize=(WIDE, 4.8), dpi=180, facecolor="white")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(min(intensities) / 2.5, max(intensities) * 16)
    axes.set_ylim(min(rates) / scale / 2.5, max(rates) / scale * 2.2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.9g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("FLOPs per byte moved")
    axes.set_ylabel(unit)
    axes.set_title(
        f"{roofline.network}: its parts under the peak of this machine\n"
        f"batch of {roofline.batch}, {roofline.precision}, PyTorch {torch.__version__.split('+')[0]}; "
        f"{machine_name(roofline.device)}",
        linespacing=1.5,
    )
    axes.grid(color=MUTED, alpha=0.18, lw=0.5)
    figure.canvas.draw()  # gives the axes their size, which the slope of the memory's name depends on
    _draw_roof(axes, roofline, scale, unit)
    _draw_parts(axes, roofline, scale)
    return figure


def _draw_roof(axes: Axes, roofline: Roofline, scale: float, unit: str) -> None:
    left, right = axes.get_xlim()
    x = np.geomspace(left, right, 200)
    for precision, matmul in roofline.peak.matmuls.items():
        measured = precision == roofline.precision
        y = [roofline.peak.at(intensity, precision) / scale for intensity in x]
        axes.plot(x, y, color=INK if measured else SOFT, lw=1.4 if measured else 0.9, zorder=1)
        axes.annotate(
            f"matrix product, {precision}: {digits(matmul.rate / scale)} {unit}",
            (right, matmul.rate / scale),
            (-2, 5),
            textcoords="offset points",
            ha="right",
            color=INK if measured else SOFT,
            fontsize=8.5,
        )
    bandwidth = roofline.peak.bandwidth / scale
    foot = max(left, axes.get_ylim()[0] / bandwidth)
    middle = float(np.sqrt(foot * roofline.peak.matmuls[roofline.precision].rate / roofline.peak.bandwidth))
    run, rise = np.diff(axes.transData.transform([(1, bandwidth), (10, 10 * bandwidth)]), axis=0)[0]
    axes.annotate(
        f"memory: {digits(roofline.peak.bandwidth / 1e9)} GB/s",
        (middle, middle * bandwidth),
        (-4, 5),
        textcoords="offset points",
        ha="center",
        va="bottom",
        rotation=float(np.degrees(np.arctan2(rise, run))),
        rotation_mode="anchor",
        fontsize=8.5,
    )


def _draw_parts(axes: Axes, roofline: Roofline, scale: float) -> None:
    """A point for each part, larger the more of the time it takes; the dotted line above it is what could be gained."""
    for number, point in enumerate(roofline.points):
        share = point.seconds / roofline.seconds
        intensity, rate = point.work.intensity, point.rate / scale
        top = roofline.peak.at(intensity, roofline.precision) / scale
        axes.plot([intensity] * 2, [rate, max(rate, top)], ":", color=MUTED, lw=0.9, zorder=0.8)
        axes.scatter(
            intensity,
            rate,
            s=(6 + 8 * share**0.5) ** 2,
            color=ARMS[number % len(ARMS)],
            marker=MARKERS[number % len(MARKERS)],
            edgecolor=PAPER,
            alpha=0.8,
            zorder=3,
            label=f"{point.name}: {f'{100 * share:.0f}' if share >= 0.01 else 'under 1'} % of the time",
        )
    legend = axes.legend(loc="lower right", labelspacing=0.7)
    handles: Any = legend.legend_handles
    for handle in handles:
        handle.set_sizes([45])
