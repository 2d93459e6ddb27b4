"""The most memory that a training step takes, beside the paper's code: `python benchmarks/memory.py`.

Everything a step needs is counted: weights, gradients, AdamW's two numbers, the moving average, and what is kept of the
images for the way back. On a processor it is the resident memory of a process of its own, above what that had before
the network was made; on a GPU what PyTorch allocated. It hardly varies, so it is measured once. The paper's code is
`benchmarks/plain.py` in fp32, with DeiT's loop; by itself a run computes blocks again only where memory is short.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import cyclopts
import torch
from plain import PaperNetwork, deit_step
from pydantic import PositiveInt
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.nn.functional import cross_entropy

import ffvit
from ffvit import UserError
from ffvit.cost.limits import machine_name, why_slow
from ffvit.cost.measure import device_here
from ffvit.cost.memory import peak
from ffvit.network.compiling import compile_blocks
from ffvit.training.average import WeightAverage
from ffvit.training.optimizer import build_optimizer

PAPER = "the paper's code, fp32"


def main(network: str = "ff_base_patch16_224", *, batch: PositiveInt = 64) -> None:
    """Measure the peak memory of a training step of an FF-only network.

    Parameters
    ----------
    network
        Its name.
    batch
        Images a step.
    """
    device = device_here()
    precisions = ["fp32"] if why_slow("bf16", device) else ["fp32", "bf16"]
    ways: dict[str, Callable[[], Callable[[], None]]] = {PAPER: partial(_paper, network, batch, device)}
    for precision in precisions:
        for compiled in (False, True):
            for again in (False, True):
                name = f"ffvit, {precision}{', compiled' * compiled}{', blocks computed again' * again}"
                ways[name] = partial(_ours, network, batch, device, precision, compiled, again)
    peaks = {name: peak(way, device) for name, way in track(ways.items(), transient=True, console=Console(stderr=True))}
    table = Table(box=box.MARKDOWN)
    table.add_column("a training step as in")
    table.add_column("peak memory", justify="right")
    table.add_column("of the paper's", justify="right")
    for name, found in peaks.items():
        if found is None or peaks[PAPER] is None:
            raise UserError("this system does not tell how much memory a process used")
        table.add_row(name, f"{found / 2**20:,.0f} MiB", f"{found / peaks[PAPER]:.2f}")
    console = Console(width=120, highlight=False)
    console.print(f"{machine_name(device)}; torch {torch.__version__}; {network}, batch of {batch} images\n")
    console.print(table)


def _batch(batch: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 3, 224, 224, device=device), torch.randint(1000, (batch,), device=device)


def _paper(name: str, batch: int, device: torch.device) -> Callable[[], None]:
    return deit_step(PaperNetwork(name).to(device), *_batch(batch, device))


def _ours(
    name: str, batch: int, device: torch.device, precision: str, compiled: bool, again: bool
) -> Callable[[], None]:
    network = ffvit.create_model(name).to(device).train()
    average = WeightAverage(network, 0.99996)
    network.set_grad_checkpointing(again)
    if compiled:
        compile_blocks(network)
    optimizer = build_optimizer(network, ffvit.Recipe())
    images, labels = _batch(batch, device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = cross_entropy(network(images), labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(network)

    return step


if __name__ == "__main__":
    try:
        cyclopts.run(main)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
