"""Peak memory of a training step, beside the paper's code: `python benchmarks/memory.py`.

Everything a step needs is counted: weights, gradients, AdamW's two numbers, the moving average, and what is kept of the
images for the backward pass. On a CPU it is the resident memory of a process of its own, above what that had before
the network was made; on a GPU what PyTorch allocated. It hardly varies, so it is measured once. The paper's code is
`benchmarks/paper_code.py` in the same precision, with DeiT's loop; by itself a run recomputes only where memory is short.

Beside it stands what the sizes of these tensors add up to, without what operators need in between. ffvit's steps are
measured in bf16, as `ffvit train` makes them; where a machine has no fast bf16, in fp32, and bf16 is only counted, from the
forward passes of one image and of two: that takes some minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import torch
from paper_code import PaperNetwork, deit_step, returning_memory
from pydantic import PositiveInt
from rich.console import Console
from script import run
from torch import nn

import ffvit
from ffvit.benchmarking.workload import train_step_call
from ffvit.hardware.devices import keep_freed_memory
from ffvit.hardware.precision import Precision
from ffvit.models.mixers import FeedForward
from ffvit.profiling.hardware_peak import machine_name, slow_precision_reason
from ffvit.profiling.memory import activation_bytes, peak_bytes
from ffvit.profiling.timing import default_device
from ffvit.terminal import Terminal, build_table, progress
from ffvit.training.auto_tuning import STATE

RECOMPUTE = ("", "GELUs", "blocks")


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
    measured_in: Precision = "fp32" if slow else "bf16"
    precisions = ("fp32", "bf16") if slow else ("bf16",)
    paper = peak_bytes(partial(_paper, network, batch, device, measured_in), device)
    rows: list[tuple[str, float | None, float | None]] = [(f"the paper's code, {measured_in}", paper, None)]
    with progress(Terminal(stderr=True)) as bar:
        task = bar.add_task("", total=6 * len(precisions))
        for precision, recompute, compiled in product(precisions, RECOMPUTE, (False, True)):
            name = f"ffvit, {precision}{', compiled' * compiled}{f', {recompute} recomputed' if recompute else ''}"
            bar.update(task, description=name, advance=1)
            measured = counted = None
            if precision == measured_in:
                measured = peak_bytes(partial(_ours, network, batch, device, precision, compiled, recompute), device)
            if not compiled:
                counted = _counted(network, batch, device, precision, recompute)
            if measured or counted:
                rows.append((name, measured, counted))
        if device.type == "cpu":
            kept = peak_bytes(partial(_ours, network, batch, device, measured_in, False, "", keep=True), device)
            rows.append((f"ffvit, {measured_in}, freed memory is kept", kept, None))
    cells = [
        (name, _mebibytes(measured), _mebibytes(counted), f"{(measured or counted or 0) / paper:.2f}")
        for name, measured, counted in rows
    ]
    console = Console(width=120, highlight=False)
    console.print(f"{machine_name(device)}; torch {torch.__version__}; {network}, batch of {batch} images\n")
    headings = ("a training step in", "peak memory", "counted", "of the paper's")
    console.print(build_table(headings, cells, markdown=True))


def _mebibytes(size: float | None) -> str:
    return "" if size is None else f"{size / 2**20:,.0f} MiB"


def _paper(name: str, batch: int, device: torch.device, precision: Precision) -> Callable[[], object]:
    images, labels = torch.randn(batch, 3, 224, 224, device=device), torch.randint(1000, (batch,), device=device)
    return deit_step(PaperNetwork(name).to(device), images, labels, precision)


def _network(name: str, recompute: str) -> nn.Module:
    network = ffvit.create_model(name)
    network.set_grad_checkpointing(recompute == "blocks")
    for module in network.modules():
        if isinstance(module, FeedForward):
            module.recomputes = recompute == "GELUs"
    return network


def _counted(name: str, batch: int, device: torch.device, precision: str, recompute: str) -> float:
    """State, and what is kept of a batch: some of it once, as the weights in bf16, the rest of every image."""
    network = _network(name, recompute).to(device).train()
    kept = []
    for images in (torch.randn(number, 3, 224, 224, device=device) for number in (1, 2)):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            kept.append(activation_bytes(partial(network, images), network))
    state = STATE * sum(parameter.nbytes for parameter in network.parameters())
    return state + kept[0] + (batch - 1) * (kept[1] - kept[0])


def _ours(
    name: str, batch: int, device: torch.device, precision: str, compiled: bool, recompute: str, keep: bool = False
) -> Callable[[], object]:
    step = train_step_call(_network(name, recompute), precision, device, batch, compiled)
    if device.type == "cpu" and keep:
        keep_freed_memory()
        return step
    return returning_memory(step)


if __name__ == "__main__":
    run(main)
