"""The numbers of an inspection as tables, for the page and for the terminal."""

from __future__ import annotations

import numpy as np
from rich.table import Table

from ffvit.insight.findings import Inspection, LayerFindings, NetworkFindings
from ffvit.terminal import build_table


def summary(inspection: Inspection) -> list[list[str]]:
    """What differs most between the networks: a column each, a row a number, the names above."""
    columns = [_summary(network) for network in inspection.networks]
    return [["", *(network.name for network in inspection.networks)]] + [
        [heading, *(column[heading] for column in columns)] for heading in columns[0]
    ]


def _summary(network: NetworkFindings) -> dict[str, str]:
    jacobians = [found.jacobian for found in network.mixing if found.jacobian is not None]
    worst = max(network.layers, key=lambda found: found.accuracy_lost.value, default=None)
    share = network.accuracy
    kinds = dict.fromkeys(f"{found.layer.mixer} over {found.layer.axis}" for found in network.layers)
    distances = [jacobian.distance for jacobian in jacobians if jacobian.distance == jacobian.distance]
    statics = [jacobian.static for jacobian in jacobians if jacobian.static == jacobian.static]
    return {
        "a block": ", ".join(kinds),
        "top-1 %, 95 %": f"{100 * share.value:.1f} ({100 * share.low:.1f}-{100 * share.high:.1f})",
        "mixing distance, patches": f"{min(distances):.1f}-{max(distances):.1f}" if distances else "",
        "static mixing, %": f"{100 * min(statics):.0f}-{100 * max(statics):.0f}" if statics else "",
        "most needed branch": worst.layer.title if worst else "",
        "points lost without it": f"{100 * worst.accuracy_lost.value:.1f}" if worst else "",
    }


def layer_rows(network: NetworkFindings) -> list[dict[str, str]]:
    """All numbers of a network's branches, as a table."""
    side = float(np.prod(network.network.patch)) ** 0.5
    return [_row(found, side) for found in network.layers]


def _row(found: LayerFindings, side: float) -> dict[str, str]:
    lost, jacobian, heads = found.accuracy_lost, found.jacobian, found.heads
    nan = float("nan")
    distance, static, uniform = (nan, nan, nan) if jacobian is None else vars(jacobian).values()
    own = [float(np.mean(column)) for column in zip(*(vars(head).values() for head in heads), strict=True)]
    far, same, flat, entropy = own or [nan] * 4
    return {
        "branch": found.layer.title,
        "accuracy lost, points": f"{100 * lost.value:.1f} ({100 * lost.low:.1f} to {100 * lost.high:.1f})",
        "update": f"{found.update_ratio:.2f}",
        "distance, patches": _value(distance, "{:.2f}"),
        "pixels": _value(distance * side, "{:.1f}"),
        "static, %": _value(100 * static, "{:.0f}"),
        "uniform, %": _value(100 * uniform, "{:.0f}"),
        "attention: distance": _value(far, "{:.2f}"),
        "its static, %": _value(100 * same, "{:.0f}"),
        "its uniform, %": _value(100 * flat, "{:.0f}"),
        "its entropy": _value(entropy, "{:.2f}"),
    }


def _value(value: float, form: str) -> str:
    return "" if value != value else form.format(value)


def terminal_table(inspection: Inspection) -> Table:
    """The summary for the terminal."""
    rows = summary(inspection)
    return build_table(rows[0], rows[1:], words=range(len(rows[0])))
