"""A conversion as a picture: accuracy against attention layers left, and what each layer costs against its static share."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats

from ffvit.conversion.record import Conversion, Measured
from ffvit.files.atomic_write import atomic_path
from ffvit.plot_style import ARMS, MUTED, STYLE, WIDE

MARKERS = "osD"


def write(record: Conversion, path: Path) -> None:
    """Write the picture, a PNG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDE * 1.25, 3.2), dpi=160, facecolor="white")
        curve, layers = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_curve(curve, record)
        _draw_layers(layers, record)
        picture = io.BytesIO()
        FigureCanvasAgg(figure).print_png(picture, metadata={"Software": "ffvit"})
    with atomic_path(path) as temporary:
        temporary.write_bytes(picture.getvalue())


def _draw_curve(axes: Axes, record: Conversion) -> None:
    assert record.original is not None
    count = len(record.order)
    for number, arm in enumerate(record.arms):
        steps = record.of_arm(arm)
        measured: list[Measured] = [record.original, *(step.measured for step in steps)]
        low, value, high = 100 * np.array([(m.test.low, m.test.value, m.test.high) for m in measured]).T
        left = [count, *(step.left for step in steps)]
        place = np.array(left) + 0.08 * (number - 1)
        bars = np.clip((value - low, high - value), 0, None)
        label = f"{arm} in its place" if arm == record.replacement else arm
        axes.errorbar(
            place,
            value,
            bars,
            color=ARMS[number],
            marker=MARKERS[number % 3],
            ms=4,
            lw=1.3,
            elinewidth=0.8,
            label=label,
        )
    axes.axhline(100 * record.original.test.value, color=MUTED, lw=0.8, ls=":")
    axes.invert_xaxis()
    axes.set_xticks(range(count + 1))
    axes.set_xlabel("attention layers that are still the original's")
    axes.set_ylabel("top-1 on the test images, %")
    axes.grid(axis="y", color=MUTED, alpha=0.18, lw=0.5)
    axes.legend(loc="lower left")
    axes.set_title("Attention replaced, layer by layer (95 % intervals over images)")


def _draw_layers(axes: Axes, record: Conversion) -> None:
    shares = [100 * layer.static_share for layer in record.layers]
    costs = [layer.divergence for layer in record.layers]
    axes.scatter(shares, costs, color=ARMS[0], s=18)
    for layer, share, cost in zip(record.layers, shares, costs, strict=True):
        axes.annotate(str(layer.block), (share, cost), (4, 3), textcoords="offset points", fontsize=8)
    axes.set_ylabel("KL divergence, nats an image")
    rank = f"\nrank correlation {stats.spearmanr(shares, costs).statistic:.2f}" if len(set(shares)) > 2 else ""
    axes.set_title("One layer replaced, untrained")
    axes.set_xlabel(f"static share of the attention maps, %{rank}")
    axes.set_ylim(bottom=0)
    axes.grid(color=MUTED, alpha=0.18, lw=0.5)
