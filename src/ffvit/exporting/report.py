"""What was proven of an exported file, for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ffvit.exporting.command import Export
from ffvit.exporting.formats import FORMATS
from ffvit.inference.intervals import Proportion
from ffvit.terminal import percent

MOST_LAYERS = 10
"""Layers whose sensitivity is shown."""


def report(export: Export) -> Group:
    """The proof, and of int8 the most sensitive layers."""
    proof, gain = export.proof, export.proof.gain
    before, after = proof.top1(proof.before), proof.top1(proof.after)
    table = Table.grid(padding=(0, 2))
    rows = {
        "runs on": FORMATS[export.format].engine,
        "same class": f"{proof.agree:,} of {proof.images:,} images in batches, {proof.single_agree} of {proof.singles} alone",
        "largest difference of a logit": f"{proof.difference:.2g} in batches, {proof.single_difference:.2g} alone, "
        f"of logits up to {proof.scale:.3g}",
        "largest difference of a pixel": f"{proof.level_difference:.2g} of 255 levels, from Pillow's",
        "top-1 of the network": _share(before),
        "top-1 of the file": _share(after),
        "difference": f"{100 * gain.value:+.2f} points (95 % interval {100 * gain.low:+.2f} to {100 * gain.high:+.2f})",
    }
    for name, words in rows.items():
        table.add_row(name, words)
    parts: list[RenderableType] = [Text(f"{export.path}: {export.size / 2**20:.1f} MiB", style="bold"), table]
    if export.sensitivities:
        parts.append(Text("\nChange in logits with one layer in 8-bit integers, all others in float", style="bold"))
        layers = Table.grid(padding=(0, 2))
        for sensitivity in export.sensitivities[:MOST_LAYERS]:
            layers.add_row(Text(sensitivity.layer), percent(sensitivity.change))
        parts.append(layers)
        if len(export.sensitivities) > MOST_LAYERS:
            parts.append(Text(f"and {len(export.sensitivities) - MOST_LAYERS} more layers that change less"))
    return Group(*parts)


def _share(top1: Proportion) -> str:
    return f"{percent(top1.value)} (95 % interval {percent(top1.low)} to {percent(top1.high)})"
