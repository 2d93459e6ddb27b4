"""What a branch costs as patches become many: `python benchmarks/patches.py`, `--help` for the options.

Section 3.5 of the paper: attention takes time and memory with the square of the number of patches, and so does a
feed-forward layer along the patches whose hidden size is a multiple of their number; with a fixed hidden size it is
linear. Measured here, on the network's own residual branches (norm, mixer, sum) at the width of a named network:

- seconds an image of a forward pass (inference mode), and of a forward and a backward pass;
- memory that a forward pass keeps for the backward pass, an image, each tensor once and the weights not counted;
- operations, counted by PyTorch, and parameters.

The exponent is the slope of a straight line through log cost against log patches, from 1,024 patches on: 1 is linear,
2 is quadratic.

The batch is the same for every number of patches, so that the same matrices grow along the patches alone; what a call
takes beside its arithmetic shows in the smallest. Each round measures everything once, one after the other; a line is
fitted in each round, and printed are the median over rounds and, behind it, the lowest and the highest. What another
program disturbed in one round is forgotten so. Memory and operations are counted and do not vary.
"""

from __future__ import annotations

import copy
import datetime
import json
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from itertools import product as every
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import numpy as np
import timm
import torch
from cyclopts import Parameter
from plots import logarithmic, name_ends, picture
from pydantic import PositiveFloat, PositiveInt
from rich.console import Console
from script import run
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode

import ffvit
from ffvit import Architecture, Branch, UserError
from ffvit.models.backbone import ResidualBranch
from ffvit.plot_style import ARMS, MUTED
from ffvit.profiling.hardware_peak import processor_name
from ffvit.profiling.memory import activation_bytes
from ffvit.study.report.drawing import DASHES
from ffvit.terminal import build_table

PATCHES = 64, 196, 256, 576, 1024, 2304, 4096
UPPER = 1024
"""Exponents are of this many patches and more."""

FIXED = 784
"""The fixed hidden size: the paper's 4 x 196, so that both feed-forward layers are the same at 196 patches."""

WIDTHS = {"tiny": (192, 3), "base": (768, 12)}
"""Features and heads, as in DeiT and the paper."""

KINDS = {
    "forward": "Forward pass, ms an image",
    "forward and backward": "Forward and backward pass, ms an image",
    "kept": "Kept for the backward pass, MiB an image",
    "operations": "Operations of a forward pass, GFLOP an image (a multiply-add is two)",
    "parameters": "Parameters, millions",
}
"""What is measured or counted, with units."""

UNIT = {"forward": 1e-3, "forward and backward": 1e-3, "kept": 2**20, "operations": 1e9, "parameters": 1e6}
TIMED = "forward", "forward and backward"


def main(
    *,
    size: Literal["tiny", "base"] = "tiny",
    batch: PositiveInt | None = None,
    rounds: PositiveInt = 5,
    seconds: PositiveFloat = 0.1,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    markdown: Annotated[bool, Parameter(negative=())] = False,
    out: Path | None = None,
) -> None:
    """Measure what a branch costs against the number of patches.

    Parameters
    ----------
    size
        Whose width and heads: tiny is 192 wide with 3 heads, base 768 with 12.
    batch
        Images at once. Default: 1, on a GPU 16.
    rounds
        How often everything is measured.
    seconds
        Time a round gives each measurement; one call at least.
    json_file
        Write every round's numbers there.
    markdown
        Print the tables in Markdown.
    out
        Draw the picture there (PNG).
    """
    for option, path in (("--json", json_file), ("--out", out)):
        if path and not path.absolute().parent.is_dir():
            raise UserError(f"{option} {path}: there is no folder {path.parent}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = batch or (16 if device.type == "cuda" else 1)
    width, heads = WIDTHS[size]
    costs: dict[str, dict[str, dict[int, list[float]]]] = {
        kind: {name: {patches: [] for patches in PATCHES} for name in BRANCHES} for kind in KINDS
    }
    with Console(stderr=True).status("building", refresh_per_second=1) as status:
        modules = {
            (patches, name): _branch(name, patches, width, heads).to(device)
            for patches, name in every(PATCHES, BRANCHES)
        }
        for (patches, name), module in modules.items():
            x = torch.randn(1, patches, width, device=device, requires_grad=True)
            costs["kept"][name][patches].append(activation_bytes(partial(module, x), module))
            costs["operations"][name][patches].append(_operations(module, x))
            costs["parameters"][name][patches].append(sum(parameter.numel() for parameter in module.parameters()))
        for number, ((patches, name), module) in every(range(rounds), modules.items()):
            status.update(f"round {number + 1} of {rounds}: {name}, {patches:,} patches")
            for kind, work in _works(module, batch, patches, width, device).items():
                costs[kind][name][patches].append(_time(work, seconds) / batch)

    where = (
        f"{_machine(device)}; torch {torch.__version__}, timm {timm.__version__}, ffvit {ffvit.__version__}; width "
        f"{width}, {heads} heads; fp32; batch of {batch}; {rounds} rounds; {datetime.date.today()}"
    )
    exponents = {kind: {name: _exponents(cost) for name, cost in branches.items()} for kind, branches in costs.items()}
    _print(where, costs, exponents, markdown)
    if json_file:
        json_file.write_text(json.dumps({"where": where, "costs": costs, "exponents": exponents}, indent=1) + "\n")
    if out:
        _draw(costs, exponents, out)


def _feed_forward(hidden: int | None) -> Callable[[int], Branch]:
    return lambda _: Branch("feedforward", "patches", hidden=hidden)


QUADRATIC = "feed-forward, hidden 4 x patches"

BRANCHES: dict[str, Callable[[int], Branch]] = {
    "attention, plain": lambda heads: Branch("attention", "patches", heads=heads),
    "attention, fused": lambda heads: Branch("attention", "patches", heads=heads),
    QUADRATIC: _feed_forward(None),
    f"feed-forward, hidden {FIXED}": _feed_forward(FIXED),
    "feed-forward along features": lambda _: Branch("feedforward", "features"),
}
"""What is compared; all but the last mix along the patches. Fused attention never writes its matrix out."""

SHORT = dict(
    zip(
        BRANCHES,
        ("plain attention", "fused attention", "FF, hidden 4 x patches", f"FF, hidden {FIXED}", "FF along features"),
        strict=True,
    )
)
"""How they are called in the picture; FF: feed-forward."""


def _branch(name: str, patches: int, width: int, heads: int) -> ResidualBranch:
    branch = BRANCHES[name](heads)
    architecture = Architecture(
        width=width, depth=1, block=(branch,), img_size=16 * math.isqrt(patches), readout="mean", num_classes=0
    )
    assert architecture.tokens == patches
    module = ResidualBranch(branch, architecture, dropout=0.0, drop_path=0.0)
    if branch.mixer == "attention":
        module.mixer.fused_attn = name.endswith("fused")
    return module


def _operations(module: nn.Module, x: Tensor) -> int:
    # Plain attention is made of matrix products that the counter knows; it has no formula for every fused kernel.
    shadow = copy.deepcopy(module).to("meta")
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        shadow(x.to("meta"))
    return counter.get_total_flops()


def _works(
    module: nn.Module, batch: int, patches: int, width: int, device: torch.device
) -> dict[str, Callable[[], None]]:
    x = torch.randn(batch, patches, width, device=device, requires_grad=True)
    gradient = torch.randn_like(x)

    @torch.inference_mode()
    def forward() -> None:
        module(x)

    def both() -> None:
        module(x).backward(gradient)
        x.grad = None
        module.zero_grad()

    return {"forward": forward, "forward and backward": both}


def _time(work: Callable[[], None], seconds: float) -> float:
    """Seconds a call takes: the median over blocks of calls that together last that long."""
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=seconds).median


def _exponents(costs: dict[int, list[float]]) -> list[float]:
    """The slope of log cost over log patches, for each round."""
    upper = [patches for patches in PATCHES if patches >= UPPER]
    rounds = np.log([costs[patches] for patches in upper])
    return np.polyfit(np.log(upper), rounds, 1)[0].tolist()


def _print(where: str, costs: dict[str, Any], exponents: dict[str, Any], markdown: bool) -> None:
    width = 200 if markdown else None if sys.stdout.isatty() else 140
    console = Console(width=width, highlight=False)
    console.print(where, soft_wrap=True)
    rows = [(name, *(_range(exponents[kind][name], 1.0, 2) for kind in KINDS)) for name in BRANCHES]
    console.print(f"\nExponents from {UPPER:,} patches on (1 is linear, 2 is quadratic)", soft_wrap=True)
    console.print(build_table(("branch", *KINDS), rows, markdown=markdown))
    for kind, title in KINDS.items():
        rows = [
            (f"{patches:,}", *(_range(costs[kind][name][patches], UNIT[kind]) for name in BRANCHES))
            for patches in PATCHES
        ]
        console.print(f"\n{title}", soft_wrap=True)
        console.print(build_table(("patches", *BRANCHES), rows, words=(), markdown=markdown))


def _draw(costs: dict[str, Any], exponents: dict[str, Any], path: Path) -> None:
    """Two panels, log over log: time, and memory; each line named at its end with its exponent."""
    colours = dict(zip(BRANCHES, (ARMS[1], ARMS[4], ARMS[2], ARMS[0], MUTED), strict=True))
    with picture(path) as figure:
        panels = figure.subplots(1, 2)
        for axes, kind in zip(panels, ("forward", "kept"), strict=True):
            ends = []
            for name in reversed(BRANCHES):
                line = [median(costs[kind][name][patches]) / UNIT[kind] for patches in PATCHES]
                thick = 4.0 if colours[name] == MUTED else 1.6  # it lies under another line
                axes.plot(PATCHES, line, color=colours[name], lw=thick, alpha=0.6 if thick > 2 else 1, marker=".")
                ends.append((f"{SHORT[name]}: {median(exponents[kind][name]):.2f}", line[-1], colours[name]))
            if kind == "kept":
                weights = [4 * costs["parameters"][QUADRATIC][patches][0] / UNIT[kind] for patches in PATCHES]
                axes.plot(PATCHES, weights, color=colours[QUADRATIC], lw=1, ls=DASHES[1])
                power = exponents["parameters"][QUADRATIC][0]
                ends.append((f"weights of FF, 4 x: {power:.2f}", weights[-1], colours[QUADRATIC]))
            logarithmic(axes, [64, 256, 1024, 4096])
            axes.set_xlim(PATCHES[0] / 1.2, PATCHES[-1])
            axes.set_ylim(*axes.get_ylim())
            axes.set_xlabel(
                f"Patches an image; beside the names: the cost's\nexponent from {UPPER:,} patches on", loc="left"
            )
            name_ends(axes, ends)
        panels[0].set_title("Forward pass of a branch, ms an image")
        panels[1].set_title("Kept by a branch for the backward pass, MiB an image")


def _range(values: list[float], unit: float, decimals: int | None = None) -> str:
    """The median, and behind it the lowest and the highest if they differ."""
    middle, lowest, highest = (_digits(value / unit, decimals) for value in (median(values), min(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({lowest}-{highest})"


def _digits(value: float, decimals: int | None) -> str:
    """So many decimals, or as many as make three significant digits."""
    return f"{value:z,.{max(0, 2 - math.floor(math.log10(value))) if decimals is None else decimals}f}"


def _machine(device: torch.device) -> str:
    cores = f"{processor_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{torch.cuda.get_device_name()} beside {cores}" if device.type == "cuda" else cores


if __name__ == "__main__":
    run(main)
