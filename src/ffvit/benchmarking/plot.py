"""The roofline as a picture: each part of a network under what the machine's memory and arithmetic allow."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from ffvit.benchmarking.label_placement import place_labels
from ffvit.benchmarking.roofline import Roofline
from ffvit.benchmarking.table import digits
from ffvit.files.atomic_write import atomic_path
from ffvit.plot_style import ARMS, INK, MUTED, PAPER, SOFT, STYLE, WIDE
from ffvit.profiling.hardware_peak import machine_name

PIXELS = 2.5
"""Of a point in the picture."""


def write(found: Roofline, path: Path) -> None:
    """Write the picture, a PNG."""
    with mpl.rc_context(STYLE):
        figure = _drawn(found)
        picture = io.BytesIO()
        FigureCanvasAgg(figure).print_png(picture, metadata={"Software": "ffvit"})
    with atomic_path(path) as temporary:
        temporary.write_bytes(picture.getvalue())


def _drawn(found: Roofline) -> Figure:
    rates = [point.rate for point in found.points]
    tops = [its.rate for its in found.limits.products.values()]
    scale, unit = (1e12, "TFLOP/s") if max(tops) >= 1e13 else (1e9, "GFLOP/s")
    intensities = [point.work.intensity for point in found.points]
    ridge = max(tops) / found.limits.bandwidth

    figure = Figure(figsize=(WIDE, 4.8), dpi=72 * PIXELS, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(min(*intensities, ridge) / 2.5, max(*intensities, ridge) * 16)
    axes.set_ylim(min(*rates, *tops) / scale / 2.5, max(*rates, *tops) / scale * 2.2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.9g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("Operations for each byte moved, FLOP/byte")
    axes.set_ylabel(f"Operations a second, {unit}")
    axes.set_title(
        f"{found.network}: its parts under this machine's limits\n"
        f"batch of {found.batch}, {found.precision}, PyTorch {torch.__version__.split('+')[0]}; "
        f"{machine_name(found.device)}",
        linespacing=1.5,
    )
    axes.grid(color=MUTED, alpha=0.18, lw=0.5)
    figure.canvas.draw()  # from here on places on the paper are known
    figure.set_layout_engine("none")
    taken, written = _roof(axes, found, scale, unit)
    _parts(axes, found, scale, taken, written)
    return figure


def _roof(axes: Axes, found: Roofline, scale: float, unit: str) -> tuple[list[Bbox], list[Bbox]]:
    """The roof and its words; hands back where each of them is."""
    taken: list[Bbox] = []
    written: list[Bbox] = []
    left, right = axes.get_xlim()
    x = np.geomspace(left, right, 200)
    for precision, its in found.limits.products.items():
        ink = INK if precision == found.precision else SOFT
        y = np.array([found.limits.at(each, precision) for each in x]) / scale
        axes.plot(x, y, color=ink, lw=1.4 if ink == INK else 0.9, zorder=1)
        taken += [Bbox([spot - 4, spot + 4]) for spot in axes.transData.transform(np.column_stack((x, y)))]
        text = axes.annotate(
            f"matrix product, {precision}: {digits(its.rate / scale)} {unit}",
            (right, its.rate / scale),
            (-2, 9),
            textcoords="offset points",
            ha="right",
            color=ink,
            fontsize=8.5,
        )
        written.append(text.get_window_extent())
    bandwidth = found.limits.bandwidth / scale
    foot = max(left, axes.get_ylim()[0] / bandwidth)
    middle = float(np.sqrt(foot * found.limits.products[found.precision].rate / found.limits.bandwidth))
    rise = np.diff(axes.transData.transform([(1, bandwidth), (10, 10 * bandwidth)]), axis=0)[0]
    text = axes.annotate(
        f"memory: {digits(found.limits.bandwidth / 1e9)} GB/s",
        (middle, middle * bandwidth),
        (-4, 5),
        textcoords="offset points",
        ha="center",
        va="bottom",
        rotation=float(np.degrees(np.arctan2(rise[1], rise[0]))),
        rotation_mode="anchor",
        fontsize=8.5,
    )
    return taken, [*written, text.get_window_extent()]


def _parts(axes: Axes, found: Roofline, scale: float, taken: list[Bbox], written: list[Bbox]) -> None:
    """A dot a part, the larger the more of the time it takes, and its name."""
    places, sizes, texts = [], [], []
    for point in found.points:
        share = point.seconds / found.seconds
        size = 4.5 + 9 * float(np.sqrt(share))
        at = point.work.intensity, point.rate / scale
        top = found.limits.at(point.work.intensity, found.precision) / scale
        axes.plot([at[0]] * 2, [at[1], top], ":", color=MUTED, lw=0.9, zorder=0.8)
        axes.plot(*at, "o", ms=size, color=ARMS[0], mec=PAPER, mew=0.8, alpha=0.9, zorder=3)
        spot, above = axes.transData.transform([at, (at[0], top)])
        taken.append(Bbox([np.minimum(spot, above) - 1, np.maximum(spot, above) + 1]))
        places.append(spot)
        sizes.append(size)
        words = f"{point.name}\n{_percent(share)} of the time"
        texts.append(axes.text(0, 0, words, transform=None, va="bottom", fontsize=8.5, linespacing=1.2, zorder=4))
    boxes = [text.get_window_extent() for text in texts]
    corners = place_labels(
        np.array(places),
        np.array(sizes) / 2 * PIXELS,
        np.array([box.size for box in boxes]),
        np.array([box.extents for box in taken]),
        np.array([box.extents for box in written]),
        np.array(axes.get_window_extent().extents),
        PIXELS,
    )
    for spot, size, text, box, corner in zip(places, sizes, texts, boxes, corners, strict=True):
        if corner is None:
            text.remove()
            continue
        text.set_position(corner)
        if corner[0] + box.width < spot[0]:
            text.set_multialignment("right")
        nearest = np.clip(spot, corner, np.array(corner) + box.size)  # where the line to the dot begins
        if np.hypot(*(nearest - spot)) > (size / 2 + 6) * PIXELS:
            leader = {"arrowstyle": "-", "color": MUTED, "lw": 0.6, "shrinkA": 1, "shrinkB": size / 2}
            axes.annotate("", tuple(spot), tuple(nearest), "figure pixels", "figure pixels", arrowprops=leader)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "under 1 %"
