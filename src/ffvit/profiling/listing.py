"""A table of networks: what they cost, and their published accuracy."""

from __future__ import annotations

import timm
import torch
from rich.console import Console

from ffvit.errors import ModelError, did_you_mean
from ffvit.models.create import create_model, list_models
from ffvit.models.published import PUBLISHED, SOURCES
from ffvit.profiling.count import count
from ffvit.terminal import build_table, track

SHOW_PROGRESS = 20
"""From so many networks on, counting is shown on a progress bar."""


def print_models(pattern: str, console: Console) -> None:
    """Print the networks whose names match a shell pattern.

    Raises:
        UserError: None does.
    """
    names = list_models(pattern)
    if not names:
        raise ModelError(f"no network matches {pattern!r}{did_you_mean(pattern, timm.list_models())}")
    rows = []
    for name in track(names, "counting", console) if len(names) >= SHOW_PROGRESS else names:
        with torch.device("meta"):
            cost = count(create_model(name))
        published = PUBLISHED.get(name)
        accuracy = (f"{published.top1:.1f} %", published.source) if published else ("", "")
        rows.append((name, f"{cost.parameters / 1e6:.2f} M", f"{cost.flops / 1e9:.3g}", *accuracy))
    headings = ("network", "parameters", "GFLOPs", "top-1", "published")
    console.print(build_table(headings, rows, words=(0, 4)), highlight=False)
    console.print("GFLOPs: 10^9 floating-point operations of one prediction; a multiply-add is two.", highlight=False)
    quoted = [source for source in SOURCES if any(row[-1].startswith(source) for row in rows)]
    if quoted:
        sources = ", ".join(f"{source}: {SOURCES[source]}" for source in quoted)
        console.print(f"top-1: ImageNet-1k, as published ({sources}).", highlight=False)
