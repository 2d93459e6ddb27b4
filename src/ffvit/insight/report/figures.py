"""The charts of an inspection: lines over depth, shares, branches removed, similarities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from ffvit.insight.distance import patch_distances
from ffvit.insight.findings import LayerFindings, NetworkFindings
from ffvit.pages.drawing import short
from ffvit.plot_style import ARMS, MUTED, NARROW, PAPER

MARKERS = "os"
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.6)))
HEIGHT = 2.5
CHANGING, STATIC, UNIFORM = ARMS[5], ARMS[0], MUTED


def distances(networks: Sequence[NetworkFindings]) -> Figure:
    """Mean mixing distance by depth: a line by the Jacobian for each network, a dot for each attention head."""
    figure, axes = _chart("block", "mean distance, patches")
    for number, network in enumerate(networks):
        colour = ARMS[number]
        points = [
            (found.layer.block + 1, found.jacobian.distance) for found in network.mixing if found.jacobian is not None
        ]
        axes.plot(*_columns(points), MARKERS[number], ls=DASHES[number], color=colour, ms=5, lw=1.4)
        heads = [(found.layer.block + 1, head.distance) for found in network.layers for head in found.heads]
        if heads:
            axes.plot(*_columns(heads), "o", color=colour, ms=3, alpha=0.45, mew=0)
    for grid in dict.fromkeys(network.network.grid for network in networks):
        axes.axhline(float(patch_distances(grid).mean()), color=MUTED, lw=0.8, ls=(0, (1.4, 1.2)))
    axes.set_ylim(0, 1.08 * axes.dataLim.y1)
    handles = [_handle(number, network.name) for number, network in enumerate(networks)]
    for number, network in enumerate(networks):
        if any(found.heads for found in network.layers):
            style: dict[str, Any] = {"ls": "", "marker": "o", "ms": 3, "alpha": 0.45, "mew": 0}
            handles.append(Line2D([], [], color=ARMS[number], label="its heads, by attention", **style))
    handles.append(Line2D([], [], color=MUTED, lw=0.8, ls=(0, (1.4, 1.2)), label="every patch alike"))
    _legend(figure, handles)
    return figure


def shares(network: NetworkFindings) -> Figure:
    """What share of the Jacobian of each mixer over patches is the same for every image."""
    found = [(layer, layer.jacobian) for layer in network.mixing if layer.jacobian is not None]
    rows = [(100 * _number(each.uniform), 100 * _number(each.static)) for _, each in found]
    return _stacked([_block_label(layer, network) for layer, _ in found], rows, [])


def attention_shares(network: NetworkFindings) -> Figure:
    """The same of attention maps: bars are means over heads, dots the static share of each head."""
    layers = [layer for layer in network.layers if layer.heads]
    rows = [
        tuple(100 * float(np.mean([getattr(head, name) for head in layer.heads])) for name in ("uniform", "static"))
        for layer in layers
    ]
    dots = [(place, 100 * head.static) for place, layer in enumerate(layers) for head in layer.heads]
    return _stacked([_block_label(layer, network) for layer in layers], rows, dots)


def _stacked(labels: list[str], rows: Sequence[Sequence[float]], dots: list[tuple[int, float]]) -> Figure:
    figure, axes = _chart("block", "share of the mean square, %")
    places = np.arange(len(labels))
    uniform, static = (np.array(column) for column in zip(*rows, strict=True))
    uniform = np.minimum(uniform, static)
    axes.bar(places, uniform, color=UNIFORM, width=0.72)
    axes.bar(places, static - uniform, bottom=uniform, color=STATIC, width=0.72)
    axes.bar(places, 100 - static, bottom=static, color=CHANGING, width=0.72, alpha=0.45)
    if dots:
        axes.plot(*_columns(dots), "o", color=PAPER, ms=3.2, mec="#1b1e23", mew=0.7)
    axes.set_xticks(places, labels)
    axes.set_ylim(0, 100)
    handles: list[Any] = [
        Patch(color=CHANGING, alpha=0.45, label="changes with the image"),
        Patch(color=STATIC, label="static pattern"),
        Patch(color=UNIFORM, label="static and uniform"),
    ]
    if dots:
        handles.append(Line2D([], [], ls="", marker="o", color=PAPER, mec="#1b1e23", ms=3.2, label="static, each head"))
    _legend(figure, handles)
    return figure


def updates(networks: Sequence[NetworkFindings]) -> Figure:
    """||update|| / ||x|| of each branch: filled over patches, hollow over features."""
    figure, axes = _chart("block", "||update|| / ||tokens||")
    for number, network in enumerate(networks):
        points = [(_place(found, network), found.update_ratio) for found in network.layers]
        axes.plot(*_columns(points), color=ARMS[number], lw=0.9, ls=DASHES[number])
        for found, (across, up) in zip(network.layers, points, strict=True):
            _mark(axes, found, across, up, number)
    axes.set_ylim(bottom=0)
    _legend(figure, [*(_handle(n, each.name) for n, each in enumerate(networks)), *_axes_handles()])
    return figure


def lesions(network: NetworkFindings, number: int, limits: tuple[float, float]) -> Figure:
    """Points of accuracy lost without each branch, with the paired interval."""
    figure, axes = _chart("block", "accuracy lost, points")
    axes.axhline(0, color=MUTED, lw=0.8)
    for found in network.layers:
        across, lost = _place(found, network), found.accuracy_lost
        axes.plot([across, across], [100 * lost.low, 100 * lost.high], color=ARMS[number], lw=1.3)
        _mark(axes, found, across, 100 * lost.value, number)
    axes.set_ylim(*limits)
    _legend(figure, _axes_handles(ARMS[number]))
    return figure


def lesion_limits(networks: Sequence[NetworkFindings]) -> tuple[float, float]:
    """The same scale for all networks, in points."""
    lost = [found.accuracy_lost for network in networks for found in network.layers]
    low, high = min(100 * each.low for each in lost), max(100 * each.high for each in lost)
    space = 0.05 * (high - low) + 0.5
    return min(low, 0.0) - space, high + space


def lens(networks: Sequence[NetworkFindings], what: str) -> Figure:
    """Accuracy or agreement of the head applied after 0, 1, ... blocks."""
    figure, axes = _chart("blocks passed", f"{what}, %")
    for number, network in enumerate(networks):
        shares = [getattr(each, what) for each in network.lens]
        blocks = [each.blocks for each in network.lens]
        low, high = ([100 * getattr(share, end) for share in shares] for end in ("low", "high"))
        axes.fill_between(blocks, low, high, color=ARMS[number], alpha=0.18, lw=0)
        values = [100 * share.value for share in shares]
        axes.plot(blocks, values, MARKERS[number], ls=DASHES[number], color=ARMS[number], ms=4.5, lw=1.4)
    axes.set_ylim(0, 103)
    _legend(figure, [_handle(number, network.name) for number, network in enumerate(networks)])
    return figure


def similarity(cka: Float[Tensor, "depths others"], across: str, down: str) -> Figure:
    """Linear CKA of depths with depths, 0 to 1."""
    figure = Figure(figsize=(NARROW, 3.0))
    axes = figure.add_subplot()
    values = np.clip(np.nan_to_num(cka.numpy()), 0, 1)
    picture = np.zeros((*values.shape, 4))
    picture[..., :3] = _rgb(ARMS[0])
    picture[..., 3] = values**2  # most are near 1
    axes.imshow(picture, origin="lower", interpolation="none", aspect="auto")
    if max(values.shape) <= 8:
        for (row, column), value in np.ndenumerate(values):
            text = f"{value:.2f}".replace("0.", ".", 1) if value < 0.995 else "1"
            axes.text(column, row, text, ha="center", va="center", fontsize=7)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel(f"{short(across, 30)}: blocks passed")
    axes.set_ylabel(f"{short(down, 22)}: blocks passed")
    return figure


def _chart(across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(NARROW, HEIGHT + 0.35))
    axes = figure.add_subplot()
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.xaxis.set_major_locator(MaxNLocator(9, integer=True))
    return figure, axes


def _legend(figure: Figure, handles: Sequence[Any]) -> None:
    figure.set_figheight(HEIGHT + 0.17 * -(-len(handles) // 2))
    figure.legend(handles=handles, loc="outside lower left", ncols=2, fontsize=8, handlelength=1.6, columnspacing=1.2)


def _handle(number: int, name: str) -> Line2D:
    style: dict[str, Any] = {"ls": DASHES[number], "marker": MARKERS[number], "ms": 4.5, "lw": 1.4}
    return Line2D([], [], color=ARMS[number], label=short(name, 22), **style)


def _axes_handles(colour: str = MUTED) -> list[Line2D]:
    style: dict[str, Any] = {"ls": "", "marker": "o", "ms": 5, "color": colour}
    return [Line2D([], [], label="over patches", **style), Line2D([], [], label="over features", mfc=PAPER, **style)]


def _mark(axes: Axes, found: LayerFindings, across: float, up: float, number: int) -> None:
    face = ARMS[number] if found.layer.axis == "patches" else PAPER
    axes.plot(across, up, MARKERS[number], color=ARMS[number], mfc=face, ms=5, mew=1.2)


def _place(found: LayerFindings, network: NetworkFindings) -> float:
    """A branch's place on the axis of blocks: the branches of a block lie side by side."""
    branches = sum(each.layer.block == found.layer.block for each in network.layers)
    return found.layer.block + 1 + (found.layer.branch - (branches - 1) / 2) / (branches + 0.5)


def _block_label(found: LayerFindings, network: NetworkFindings) -> str:
    mixing = [each.layer for each in network.mixing if each.layer.block == found.layer.block]
    return f"{found.layer.block + 1}" + (f".{found.layer.branch + 1}" if len(mixing) > 1 else "")


def _columns(points: Sequence[tuple[Any, float]]) -> tuple[list[Any], list[float]]:
    return [across for across, _ in points], [up for _, up in points]


def _number(value: float) -> float:
    return value if value == value else 0.0


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue
