"""The most memory that a training step takes, beside the paper's code: `python benchmarks/memory.py`.

Everything a step needs is counted: weights, gradients, AdamW's two numbers, the moving average, and what is kept of the
images for the way back. On a processor it is the resident memory of a process of its own, above what that had before
the network was made; on a GPU what PyTorch allocated. It hardly varies, so it is measured once. The paper's code is
`benchmarks/plain.py` in fp32, with DeiT's loop; by itself a run computes again only where memory is short.

Beside it stands what the sizes of these tensors come to, without what operators need in between. ffvit's steps are
measured in bf16, as `ffvit train` makes them; where a machine has no fast bf16, in fp32, and bf16 is only counted, from the
forward passes of one image and of two: that takes some minutes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from itertools import product as every

import cyclopts
import torch
from plain import PaperNetwork, deit_step
from pydantic import PositiveInt
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import nn
from torch.nn.functional import cross_entropy

import ffvit
from ffvit import UserError
from ffvit.hardware.devices import keep_freed_memory
from ffvit.models.compiling import compile_blocks
from ffvit.models.mixers import FeedForward
from ffvit.profiling.hardware_peak import machine_name, slow_precision_reason
from ffvit.profiling.memory import activation_bytes, peak_bytes
from ffvit.profiling.timing import default_device
from ffvit.training.auto_tuning import STATE
from ffvit.training.ema import EMA
from ffvit.training.optimizer import build_optimizer

PAPER = "the paper's code, fp32"
AGAIN = ("", "GELUs", "blocks")


def main(network: str = "ff_base_patch16_224", *, batch: PositiveInt = 64) -> None:
    """Measure the peak memory of a training step of an FF-only network.

    Parameters
    ----------
    network
        Its name.
    batch
        Images a step.
    """
    device = default_device()
    slow = slow_precision_reason("bf16", device)
    mostly = "fp32" if slow else "bf16"
    progress = Progress(console=Console(stderr=True), transient=True)
    task = progress.add_task("", total=12 if slow else 6)
    rows: list[tuple[str, float | None, float | None]] = []
    with progress:
        rows.append((PAPER, peak_bytes(partial(_paper, network, batch, device), device), None))
        for precision, again, compiled in every(("fp32", "bf16") if slow else ("bf16",), AGAIN, (False, True)):
            name = f"ffvit, {precision}{', compiled' * compiled}{f', {again} computed again' if again else ''}"
            progress.update(task, description=name, advance=1)
            measured = counted = None
            if precision == mostly:
                measured = peak_bytes(partial(_ours, network, batch, device, precision, compiled, again), device)
            if not compiled:
                counted = _counted(network, batch, device, precision, again)
            if measured or counted:
                rows.append((name, measured, counted))
        if device.type == "cpu":
            kept = peak_bytes(partial(_keeping, network, batch, mostly), device)
            rows.append((f"ffvit, {mostly}, what is freed is kept", kept, None))
    table = Table(box=box.MARKDOWN)
    table.add_column("a training step as in")
    for head in ("peak memory", "counted", "of the paper's"):
        table.add_column(head, justify="right")
    paper = rows[0][1]
    if paper is None:
        raise UserError("this system does not tell how much memory a process used")
    for name, measured, counted in rows:
        shown = ["" if each is None else f"{each / 2**20:,.0f} MiB" for each in (measured, counted)]
        table.add_row(name, *shown, f"{(measured or counted or 0) / paper:.2f}")
    console = Console(width=120, highlight=False)
    console.print(f"{machine_name(device)}; torch {torch.__version__}; {network}, batch of {batch} images\n")
    console.print(table)


def _batch(batch: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 3, 224, 224, device=device), torch.randint(1000, (batch,), device=device)


def _paper(name: str, batch: int, device: torch.device) -> Callable[[], None]:
    return deit_step(PaperNetwork(name).to(device), *_batch(batch, device))


def _network(name: str, device: torch.device, again: str) -> nn.Module:
    network = ffvit.create_model(name).to(device).train()
    network.set_grad_checkpointing(again == "blocks")
    for each in network.modules():
        if isinstance(each, FeedForward):
            each.recomputes = again == "GELUs"
    return network


def _counted(name: str, batch: int, device: torch.device, precision: str, again: str) -> float:
    """State, and what is kept of a batch: some of it once, as the weights in bf16, the rest of every image."""
    network = _network(name, device, again)
    kept = []
    for few in (1, 2):
        images, _ = _batch(few, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            kept.append(activation_bytes(lambda images=images: network(images), network))  # type: ignore[misc]
    state = STATE * sum(each.nbytes for each in network.parameters())
    return state + kept[0] + (batch - 1) * (kept[1] - kept[0])


def _keeping(name: str, batch: int, precision: str) -> Callable[[], None]:
    keep_freed_memory()
    return _ours(name, batch, torch.device("cpu"), precision, False, "")


def _ours(
    name: str, batch: int, device: torch.device, precision: str, compiled: bool, again: str
) -> Callable[[], None]:
    network = _network(name, device, again)
    average = EMA(network, 0.99996, warmup=False)
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
        average.update(network, step=0)

    return step


if __name__ == "__main__":
    try:
        cyclopts.run(main)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
