"""Startup time: of `ffvit --help`, and until the first training step: `python benchmarks/startup.py`.

Each is a process of its own, timed from its start to its end, in turns. `ffvit --help` is compared with importing torch,
which it must not do. The first step is FF-base's on random images: eager, compiled with an empty cache, and compiled
with the cache that the process before left; the time of a later step stands beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time

import cyclopts
import torch
from pydantic import PositiveInt
from rich.console import Console
from script import spread

from ffvit.profiling.hardware_peak import machine_name
from ffvit.profiling.timing import default_device
from ffvit.terminal import build_table

STEP = """
import json, sys, time
import torch
import ffvit
from ffvit.benchmarking.workload import train_step_call
from ffvit.profiling.timing import default_device

name, batch, compiled = json.loads(sys.argv[1])
device = default_device()
step = train_step_call(ffvit.create_model(name), "fp32", device, batch, compiled)
for _ in range(3):
    start = time.time()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    print(json.dumps([start, time.time()]))
"""


def main(network: str = "ff_base_patch16_224", *, batch: PositiveInt = 8, rounds: PositiveInt = 7) -> None:
    """Measure how long `ffvit --help` and a first training step take.

    Parameters
    ----------
    network
        Whose step.
    batch
        Images a step.
    rounds
        How often `--help` and `import torch` are run; the steps a third as often.
    """
    ffvit_help = [sys.executable, "-m", "ffvit", "--help"]
    import_torch = [sys.executable, "-c", "import torch"]
    for command in (ffvit_help, import_torch):  # reads from the disk, once
        _seconds(command)
    pairs = [(_seconds(ffvit_help), _seconds(import_torch)) for _ in range(rounds)]
    starts: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(max(1, rounds // 3)):
        with tempfile.TemporaryDirectory() as cache:
            for kind in ("eager", "compiled, cache empty", "compiled, cache warm"):
                starts.setdefault(kind, []).append(_first_step(network, batch, kind.startswith("compiled"), cache))

    console = Console(width=200, highlight=False)
    console.print(f"{machine_name(default_device())}; torch {torch.__version__}; {rounds} rounds\n")
    shares = [ours / torchs for ours, torchs in pairs]
    console.print(f"ffvit --help: {spread([ours for ours, _ in pairs], 2)} s, {spread(shares, 2)} of `import torch`\n")
    rows = []
    for kind, times in starts.items():
        before, first, later = (list(column) for column in zip(*times, strict=True))
        extra = [first_step - later_step for first_step, later_step in zip(first, later, strict=True)]
        rows.append((kind, *(f"{spread(column, 2)} s" for column in (before, first, later, extra))))
    headings = (
        f"{network}, batch of {batch}", "until the first step", "first step", "a later step", "difference of the two"
    )  # fmt: skip
    console.print(build_table(headings, rows, markdown=True))


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _first_step(network: str, batch: int, compiled: bool, cache: str) -> tuple[float, float, float]:
    """Seconds until the first step begins, that it takes, and that a later one takes."""
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-c", STEP, json.dumps([network, batch, compiled])],
        check=True, stdout=subprocess.PIPE, env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache},
    )  # fmt: skip
    steps = [json.loads(line) for line in done.stdout.splitlines()]
    took = [end - began for began, end in steps]
    return steps[0][0] - started, took[0], min(took[1:])


if __name__ == "__main__":
    cyclopts.run(main)
