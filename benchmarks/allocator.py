"""What it gains on a CPU to keep the memory that is freed: `python benchmarks/allocator.py`.

glibc gives large blocks back to the system, whose pages then cost time again in every layer; commands of ffvit keep them. Each
round measures both, each in a process of its own, so that neither finds what the other left. Linux with glibc only.
"""

from __future__ import annotations

import multiprocessing
import platform
from concurrent.futures import ProcessPoolExecutor
from statistics import median

import torch
from paper_code import returning_memory
from pydantic import PositiveInt
from rich.console import Console
from script import run

import ffvit
from ffvit import UserError
from ffvit.benchmarking.workload import train_step_call
from ffvit.hardware.devices import keep_freed_memory
from ffvit.profiling.hardware_peak import machine_name
from ffvit.profiling.timing import forward_call, random_images, time_calls
from ffvit.terminal import build_table, track

CPU = torch.device("cpu")
WORKS = [
    ("ff_tiny_patch16_224", "predict", 8),
    ("ff_tiny_patch16_224", "predict", 64),
    ("ff_tiny_patch16_224", "train", 8),
    ("ff_tiny_patch16_224", "train", 64),
    ("ff_base_patch16_224", "predict", 32),
]
"""Networks, what they do, and the batch size."""


def main(*, rounds: PositiveInt = 3, seconds: float = 3.0) -> None:
    """Measure networks with memory given back to the system, and kept.

    Parameters
    ----------
    rounds
        How often everything is measured.
    seconds
        Of each measurement, about.
    """
    if platform.libc_ver()[0] != "glibc":
        raise UserError("this system's allocator is not glibc's: there is nothing to compare")
    rows = []
    for name, work, batch in track(WORKS, "measuring"):
        speeds = [
            [batch / _in_own_process(name, work, batch, keep, seconds) for keep in (False, True)] for _ in range(rounds)
        ]
        given_back, kept = zip(*speeds, strict=True)
        ratios = [with_kept / without for without, with_kept in speeds]
        shown = [f"{median(speed):.3g} ({min(speed):.3g}-{max(speed):.3g})" for speed in (given_back, kept)]
        gain = f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        rows.append((f"{name}, {work}", str(batch), *shown, gain))
    console = Console(width=120, highlight=False)
    console.print(f"{machine_name(CPU)}; torch {torch.__version__}; fp32; {rounds} rounds\n")
    headings = ("network", "batch", "images/s, given back", "images/s, kept", "times as fast")
    console.print(build_table(headings, rows, markdown=True))


def _in_own_process(*work: object) -> float:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(_seconds, *work).result()


def _seconds(name: str, work: str, batch: int, keep: bool, seconds: float) -> float:
    network = ffvit.create_model(name)
    if work == "train":
        call = train_step_call(network, "fp32", CPU, batch, compiled=False)
    else:
        call = forward_call(network.eval(), random_images(network, batch))
    if keep:
        keep_freed_memory()
    else:
        call = returning_memory(call)
    return median(time_calls(call, CPU, seconds, at_least=3))


if __name__ == "__main__":
    run(main)
