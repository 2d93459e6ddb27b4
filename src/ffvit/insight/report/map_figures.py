"""Maps over the image: what mixers weigh, receptive fields, the class token. Colour is opacity, for light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ffvit.insight.findings import NetworkFindings
from ffvit.insight.receptive_field import ReceptiveField
from ffvit.insight.token_maps import LayerMaps, TokenMap
from ffvit.plot_style import INK, MUTED, NARROW

POSITIVE, NEGATIVE = (0.91, 0.42, 0.08), (0.13, 0.52, 0.82)
COLUMNS = 4
GAP, LABEL, HEADING = 0.09, 0.17, 0.27
"""Inches between maps, below them for their labels, and above a line for its heading."""


@dataclass(frozen=True)
class _Line:
    """Maps side by side, with what is said above them and below each."""

    heading: str
    maps: Sequence[TokenMap]
    labels: Sequence[str]
    signed: bool


def mixer_maps(network: NetworkFindings) -> Figure:
    """The maps of some layers: a line of maps a row, the layer's name above its first."""
    lines = [
        _Line(_title(maps) if not row else "", of_row, [each.label for each in of_row], maps.signed)
        for maps in network.maps
        for row, of_row in enumerate(maps.rows)
    ]
    return _draw_lines(lines, network)


def class_token_maps(network: NetworkFindings) -> Figure:
    """What the class token depends on in every layer, and below, where there is attention, what it attends to."""
    lines = []
    kinds = (("its update depends on (Jacobian)", network.class_token), ("it attends to", network.class_attention))
    for heading, maps in kinds:
        for start in range(0, len(maps), COLUMNS):
            part = maps[start : start + COLUMNS]
            labels = [f"block {layer.block + 1}" for layer, _ in part]
            lines.append(_Line("" if start else heading, [each for _, each in part], labels, signed=False))
    return _draw_lines(lines, network)


def _draw_lines(lines: Sequence[_Line], network: NetworkFindings) -> Figure:
    """Each line in its place; inches throughout, for `constrained_layout` would make room for long headings."""
    rows, columns = network.network.grid
    front = 1.6 * _cell(columns) if network.network.prefix else 0.1  # patches at the left of the map
    width = (NARROW + GAP) / COLUMNS - GAP
    height = (width - 0.02) * (rows + 0.2) / (columns + front + 0.1)
    above = [HEADING if line.heading else 0.0 for line in lines]
    total = sum(above) + len(lines) * (height + LABEL)
    figure = Figure(figsize=(NARROW, total))
    figure.set_layout_engine("none")
    top = total
    for line, heading in zip(lines, above, strict=True):
        if line.heading:
            figure.text(0, (top - 0.09) / total, line.heading, fontsize=7.6, va="top")
        top -= heading + height
        for place, (token_map, label) in enumerate(zip(line.maps, line.labels, strict=True)):
            left = place * (width + GAP)
            axes = figure.add_axes((left / NARROW, top / total, width / NARROW, height / total))
            axes.set_axis_off()
            _draw(axes, token_map, network, line.signed)
            middle = left + width * (1 + front / (columns + front + 0.1)) / 2
            figure.text(middle / NARROW, (top - 0.02) / total, label, fontsize=6.6, va="top", ha="center")
        top -= LABEL
    return figure


def _cell(columns: int) -> float:
    """Side of the square of the class token, in patches."""
    return max(1.0, columns / 8)


def receptive_field_maps(network: NetworkFindings) -> Figure:
    """The receptive field of the patch in the middle after some blocks; the square root, which shows small parts too."""
    fields: Sequence[ReceptiveField] = network.fields
    figure = Figure(figsize=(NARROW, NARROW / len(fields) * network.network.grid[0] / network.network.grid[1] + 0.3))
    panels = figure.subplots(1, len(fields), squeeze=False)
    height, width = network.network.patch
    row, column = (place // 2 for place in network.network.grid)
    for axes, field in zip(panels[0], fields, strict=True):
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(visible=True, color=MUTED, linewidth=0.5)
        picture = _coloured(np.sqrt(field.field.numpy()), signed=False)
        axes.imshow(picture, interpolation="none")
        axes.add_patch(Rectangle((column * width - 0.5, row * height - 0.5), width, height, fill=False, ec=INK, lw=0.8))
        axes.set_xlabel(
            f"{field.blocks} block{'s' * (field.blocks != 1)}: half within\n{field.half_radius:.0f} px of the centre",
            fontsize=7,
            labelpad=2,
        )
    return figure


def _title(maps: LayerMaps) -> str:
    return f"block {maps.layer.block + 1}, {maps.layer.mixer}: {maps.note}"


def _draw(axes: Axes, token_map: TokenMap, network: NetworkFindings, signed: bool) -> None:
    """A map over the patches, its largest value full colour; the first token in front of them is a square at the left."""
    (rows, columns), prefix = network.network.grid, network.network.prefix
    values = token_map.values.double().numpy()
    patches = values[prefix:].reshape(rows, columns)
    scale = np.abs(patches).max() or 1.0
    axes.imshow(_coloured(patches / scale, signed), interpolation="none", extent=(0, columns, rows, 0))
    frame: dict[str, Any] = {"fill": False, "ec": MUTED, "lw": 0.5}
    axes.add_patch(Rectangle((0, 0), columns, rows, **frame))
    size = _cell(columns)
    if prefix:
        cell = _coloured(np.array([[values[0] / scale]]), signed)
        axes.add_patch(Rectangle((-1.5 * size, 0), size, size, fc=cell[0, 0], ec="none"))
        axes.add_patch(Rectangle((-1.5 * size, 0), size, size, **frame))
    axes.set_xlim(-1.6 * size if prefix else -0.1, columns + 0.1)
    axes.set_ylim(rows + 0.1, -0.1)
    axes.set_aspect("auto")
    if token_map.query is not None and token_map.query >= prefix:
        row, column = divmod(token_map.query - prefix, columns)
        axes.add_patch(Rectangle((column, row), 1, 1, fill=False, ec=INK, lw=0.9))


def _coloured(values: Float[np.ndarray, "rows columns"], signed: bool) -> Float[np.ndarray, "rows columns 4"]:
    """Values of -1 to 1 as a colour whose opacity is their size."""
    picture = np.zeros((*values.shape, 4))
    picture[..., :3] = np.where((values < 0)[..., None], NEGATIVE, POSITIVE if signed else NEGATIVE)
    picture[..., 3] = np.clip(np.abs(values), 0, 1)
    return picture
