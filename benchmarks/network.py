"""How fast the networks are, beside timm's of the same size: `python benchmarks/network.py`, `--help` for the options.

Measured, in one process: the forward pass (inference mode) and a training step (forward, cross entropy, backward and
ffvit's AdamW) on random images that are already on the device, in images a second, and

- as a share of what this machine reaches in one large matrix product of that precision. A multiply-add is two
  operations, `ffvit.cost.count` counts them, a training step is taken as three forward passes. The share says how much
  is left to gain and, unlike images a second, travels between machines;
- as a multiple of the peer: the DeiT or ViT whose size the network has.

Where a machine is shared or warms up, its speed drifts by more than networks differ. So every round measures the
product, then all networks, one after the other; shares and multiples are taken within a round, where all saw about the
same machine, and the median over rounds forgets a round that something disturbed. The range printed behind a median is
the lowest to the highest round: if it is wide, the machine was busy. Each measurement starts with calls that do not
count (`torch.utils.benchmark`), which load what the network before it pushed out of the caches.

fp32 is without TF32, torch's default; bf16 is autocast, as in `ffvit train`, and left out where the machine multiplies
it slower than fp32. The first GPU is used if there is one; with `CUDA_VISIBLE_DEVICES=` before it, the command measures
the processor instead.

OMP_WAIT_POLICY is left as it is, and shown if set: PASSIVE, which the `ffvit` command sets, was up to four times as fast
beside other programs that kept both cores busy, but nothing showed that it helps on a quiet machine.
"""

from __future__ import annotations

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

import cyclopts
import timm
import torch
from cyclopts import Parameter
from here import processor
from pydantic import PositiveFloat, PositiveInt
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.benchmark import Timer

import ffvit
from ffvit import UserError
from ffvit.cost.count import count
from ffvit.network.create import classes_of, input_of, known_name
from ffvit.training.optimizer import build_optimizer

GROUPS = (
    ("deit_tiny_patch16_224", "ff_tiny_patch16_224", "attention_only_tiny_patch16_224"),
    ("deit_small_patch16_224", "ff_small_patch16_224", "mixer_s16_224", "resmlp_12_224"),
    ("deit_base_patch16_224", "ff_base_patch16_224", "mixer_b16_224"),
    ("vit_large_patch32_224", "ff_large_patch32_224", "mixer_l32_224"),
)
"""Networks of one size; the first is the peer."""

DEFAULT = ["ff_tiny_patch16_224", "ff_base_patch16_224"]
PASSES = {"forward": 1, "training step": 3}
DTYPE = {"fp32": torch.float32, "bf16": torch.bfloat16}
HEADS = "GFLOP\nan image", "images/s", "% of\nproduct", "times the peer"


def main(
    *,
    networks: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    everything: Annotated[bool, Parameter(name="--all", negative=())] = False,
    batch: PositiveInt | None = None,
    rounds: PositiveInt = 7,
    seconds: PositiveFloat = 1.0,
    precision: Literal["fp32", "bf16", "both"] = "both",
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    markdown: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Measure the speed of networks beside timm's of the same size.

    Parameters
    ----------
    networks
        Names, ours or timm's; timm's of the same size come along. Default: ff_tiny_patch16_224 ff_base_patch16_224.
    everything
        Measure small, large and attention-only too (13 networks; about 16 GB of memory).
    batch
        Images a step. Default: 16, on a GPU 128.
    rounds
        How often everything is measured.
    seconds
        Time a round gives each network, half forward and half training; one step each at least.
    precision
        fp32, bf16 or both; both leaves out bf16 where the machine is slow at it.
    json_file
        Write every round's numbers there.
    markdown
        Print the tables in Markdown.
    """
    if json_file and not json_file.absolute().parent.is_dir():
        raise UserError(f"--json {json_file}: there is no folder {json_file.parent}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = batch or (128 if device.type == "cuda" else 16)
    peers = _with_peers([name for group in GROUPS for name in group] if everything else networks or DEFAULT)
    precisions = _precisions(precision, device)
    size = 8192 if device.type == "cuda" else 2048
    where = (
        f"{_machine(device)}; torch {torch.__version__}, timm {timm.__version__}, ffvit {ffvit.__version__}; batch of "
        f"{batch} images; {' and '.join(precisions)}; {rounds} rounds; {datetime.datetime.now().astimezone():%Y-%m-%d}"
    )

    subjects = {name: _network(name) for name in peers}
    flops = {name: count(network).flops for name, network in subjects.items()}
    works = {name: _works(network.to(device), batch, device) for name, network in subjects.items()}
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in every(precisions, PASSES)}
    speeds: dict[tuple[str, str, str], list[float]] = {key: [] for key in every(precisions, PASSES, peers)}
    with Console(stderr=True).status("", refresh_per_second=1) as status:
        for number, dtype, work in every(range(rounds), precisions, PASSES):
            status.update(f"round {number + 1} of {rounds}, {dtype}, {work}")
            rates[dtype, work].append(2 * size**3 / _time(_product(size, DTYPE[dtype], device), seconds / 2))
            for name in peers:
                speeds[dtype, work, name].append(batch / _time(partial(works[name][work], dtype), seconds / 2))

    width = 200 if markdown else None if sys.stdout.isatty() else 100  # Markdown's rows must not be folded
    console = Console(width=width, highlight=False)
    console.print(where, soft_wrap=markdown)
    results: list[dict[str, Any]] = []
    for (dtype, work), rate in rates.items():
        table = Table(
            box=box.MARKDOWN if markdown else box.SIMPLE_HEAD, pad_edge=markdown, collapse_padding=not markdown
        )
        table.add_column("network", overflow="fold")
        for head in HEADS:
            table.add_column(head.replace("\n", " ") if markdown else head, justify="right", no_wrap=True)
        for name, peer in peers.items():
            speed = speeds[dtype, work, name]
            cost = PASSES[work] * flops[name]
            share = [each * cost / most for each, most in zip(speed, rate, strict=True)]
            times = [each / its for each, its in zip(speed, speeds[dtype, work, peer], strict=True)]
            beside = _range(times, 2) if peer != name else "peer" if [*peers.values()].count(name) > 1 else "-"
            table.add_row(name, _digits(cost / 1e9), _range(speed), f"{100 * median(share):.1f}", beside)
            result = {"network": name, "peer": peer, "precision": dtype, "work": work, "flops_per_image": cost}
            results.append(result | {"images_per_second": speed, "share_of_product": share, "times_the_peer": times})
        product = f"100 % is a product {size} x {size} x {size} at {_range([each / 1e9 for each in rate])} GFLOP/s"
        title = f"{work}, {dtype}, batch of {batch} images"
        title = f"**{title}**" if markdown else f"[bold]{title}[/]"
        console.print(f"\n{title}\n{product}", soft_wrap=True)
        console.print(table)
    if json_file:
        products = [{"size": size, "precision": d, "work": w, "flops_per_second": r} for (d, w), r in rates.items()]
        json_file.write_text(json.dumps({"where": where, "products": products, "networks": results}, indent=1) + "\n")


def _with_peers(chosen: list[str]) -> dict[str, str]:
    """The networks to measure, each with its peer: those chosen, and timm's of their groups."""
    for name in chosen:
        known_name(name)
    groups = [group for group in GROUPS if set(group) & set(chosen)]
    peers = {name: group[0] for group in groups for name in group if name in chosen or name not in ffvit.NAMED}
    return peers | {name: name for name in chosen if name not in peers}


def _precisions(precision: str, device: torch.device) -> list[str]:
    """Those asked for that the machine multiplies fast."""
    if precision == "fp32":
        return ["fp32"]
    slower = _time(_product(512, torch.bfloat16, device), 0.1) / _time(_product(512, torch.float32, device), 0.1)
    if slower < 1:
        return ["fp32", "bf16"] if precision == "both" else ["bf16"]
    said = f"this machine has no fast bf16 (a product takes {slower:.0f} times as long as in fp32)"
    if precision == "bf16":
        raise UserError(f"--precision bf16: {said}; use --precision fp32")
    print(f"bf16 left out: {said}", file=sys.stderr)
    return ["fp32"]


def _network(name: str) -> nn.Module:
    return ffvit.create_model(name, classes=None if "micro" in name else 1000)


def _works(network: nn.Module, batch: int, device: torch.device) -> dict[str, Callable[[str], None]]:
    """What is timed: the forward pass and the training step of a network, on one batch."""
    takes = input_of(network)
    optimizer = build_optimizer(network, ffvit.Recipe())
    images = torch.randn(batch, takes.channels, *takes.image, device=device)
    labels = torch.randint(classes_of(network), (batch,), device=device)

    @torch.inference_mode()
    def forward(precision: str) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            network.eval()(images)

    def step(precision: str) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = cross_entropy(network.train()(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return {"forward": forward, "training step": step}


def _product(size: int, dtype: torch.dtype, device: torch.device) -> Callable[[], Tensor]:
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    return lambda: torch.matmul(left, right)


def _time(work: Callable[[], Any], seconds: float) -> float:
    """Seconds a call takes: the median over blocks of calls that together last that long."""
    timer = Timer("work()", globals={"work": work}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=seconds).median


def _machine(device: torch.device) -> str:
    policy = f", OMP_WAIT_POLICY={os.environ['OMP_WAIT_POLICY']}" if "OMP_WAIT_POLICY" in os.environ else ""
    cores = f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads{policy}"
    return f"{torch.cuda.get_device_name()} beside {cores}" if device.type == "cuda" else cores


def _digits(value: float, decimals: int | None = None) -> str:
    """So many decimals, or as many as make three significant digits."""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value))) if decimals is None else decimals}f}"


def _range(values: list[float], decimals: int | None = None) -> str:
    middle, lowest, highest = (_digits(value, decimals) for value in (median(values), min(values), max(values)))
    return f"{middle} ({lowest}-{highest})"


if __name__ == "__main__":
    try:
        cyclopts.run(main)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except torch.OutOfMemoryError:
        sys.exit("error: the GPU's memory is too small for these networks at once: use --batch or --networks")
