"""A table of networks: what they cost, and what was published of them."""

from __future__ import annotations

import timm
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ffvit.errors import ModelError, did_you_mean
from ffvit.models.create import create_model, list_models
from ffvit.models.published import PUBLISHED, SOURCES
from ffvit.profiling.count import count


def print_models(pattern: str, console: Console) -> None:
    """Print the networks whose names match a shell pattern.

    Raises:
        UserError: None does.
    """
    names = list_models(pattern)
    if not names:
        raise ModelError(f"no network matches {pattern!r}{did_you_mean(pattern, timm.list_models())}")
    table = Table(box=None, pad_edge=False)
    table.add_column("network", no_wrap=True)
    for heading in ("parameters", "GFLOPs", "top-1"):
        table.add_column(heading, justify="right")
    table.add_column("published")
    quiet = len(names) < 20 or not console.is_terminal
    for name in track(names, "counting", console=console, transient=True, disable=quiet):
        with torch.device("meta"):
            cost = count(create_model(name))
        figure = PUBLISHED.get(name)
        table.add_row(
            name,
            f"{cost.parameters / 1e6:.2f} M",
            f"{cost.flops / 1e9:.3g}",
            f"{figure.top1:.1f} %" if figure else "",
            figure.source if figure else "",
        )
    console.print(table, highlight=False)
    console.print("GFLOPs: 10^9 floating-point operations of one prediction; a multiply-add is two.", highlight=False)
    quoted = [
        name for name in SOURCES if any(PUBLISHED[each].source.startswith(name) for each in names if each in PUBLISHED)
    ]
    if quoted:
        sources = ", ".join(f"{name}: {SOURCES[name]}" for name in quoted)
        console.print(f"top-1: ImageNet-1k, as published ({sources}).", highlight=False)
