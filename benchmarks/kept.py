"""What it gives a processor to keep the memory that it frees: `python benchmarks/kept.py`.

glibc gives large blocks back to the system, whose pages then cost anew in every layer; processes of ffvit keep them. Each
round measures both ways, each in a process of its own, so that neither finds what the other left. Linux with glibc only.
"""

from __future__ import annotations

import multiprocessing
import platform
import sys
from concurrent.futures import ProcessPoolExecutor
from statistics import median

import cyclopts
import torch
from plain import returning_memory
from pydantic import PositiveInt
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.nn.functional import cross_entropy

import ffvit
from ffvit import UserError
from ffvit.profiling.hardware_peak import machine_name
from ffvit.profiling.timing import forward_call, random_images, time_calls
from ffvit.training.optimizer import build_optimizer

CPU = torch.device("cpu")
WORKS = [
    ("ff_tiny_patch16_224", "predict", 8),
    ("ff_tiny_patch16_224", "predict", 64),
    ("ff_tiny_patch16_224", "train", 8),
    ("ff_tiny_patch16_224", "train", 64),
    ("ff_base_patch16_224", "predict", 32),
]
"""Networks, what they do, and with how many images at once."""


def main(*, rounds: PositiveInt = 3) -> None:
    """Measure networks with memory given back to the system, and kept.

    Parameters
    ----------
    rounds
        How often everything is measured.
    """
    if platform.libc_ver()[0] != "glibc":
        raise UserError("this system's allocator is not glibc's: there is nothing to compare")
    table = Table(box=box.MARKDOWN)
    for head in ("network", "images at once", "images/s, given back", "images/s, kept", "times as fast"):
        table.add_column(head, justify="left" if head == "network" else "right")
    for name, does, batch in track(WORKS, console=Console(stderr=True), transient=True):
        speeds = [[batch / _apart(name, does, batch, keep) for keep in (False, True)] for _ in range(rounds)]
        given_back, kept = zip(*speeds, strict=True)
        ratios = [two / one for one, two in speeds]
        shown = [f"{median(each):.3g} ({min(each):.3g}-{max(each):.3g})" for each in (given_back, kept)]
        table.add_row(
            f"{name}, {does}", str(batch), *shown, f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        )
    console = Console(width=120, highlight=False)
    console.print(f"{machine_name(CPU)}; torch {torch.__version__}; fp32; {rounds} rounds\n")
    console.print(table)


def _apart(*work: object) -> float:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_seconds, *work).result()


def _seconds(name: str, does: str, batch: int, keep: bool) -> float:
    network = ffvit.create_model(name)
    images, labels = random_images(network, batch), torch.randint(1000, (batch,))
    optimizer = build_optimizer(network, ffvit.Recipe())

    def step() -> None:
        cross_entropy(network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    work = step if does == "train" else forward_call(network.eval(), images)
    return median(time_calls(work if keep else returning_memory(work), CPU, seconds=3.0, at_least=3))


if __name__ == "__main__":
    try:
        cyclopts.run(main)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
