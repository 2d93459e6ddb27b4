"""How long one waits: for `ffvit --help`, and for the first training step: `python benchmarks/start.py`.

Each is a process of its own, timed from its start to its end, in turns. `ffvit --help` is set beside importing torch,
which it must not do. The first step is FF-base's on random images: eager, compiled with an empty cache, and compiled
with the cache that the one before left. What a later step takes is told beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

import cyclopts
import torch
from pydantic import PositiveInt
from rich import box
from rich.console import Console
from rich.table import Table

from ffvit.profiling.hardware_peak import machine_name
from ffvit.profiling.timing import default_device

STEP = """
import json, sys, time
import torch
from torch.nn.functional import cross_entropy
import ffvit
from ffvit.profiling.timing import default_device
from ffvit.models.compiling import compile_blocks
from ffvit.training.optimizer import build_optimizer

name, batch, compiled = json.loads(sys.argv[1])
device = default_device()
network = ffvit.create_model(name).to(device).train()
if compiled:
    compile_blocks(network)
optimizer = build_optimizer(network, ffvit.Recipe())
images, labels = torch.randn(batch, 3, 224, 224, device=device), torch.zeros(batch, dtype=torch.int64, device=device)
for _ in range(3):
    began = time.time()
    cross_entropy(network(images), labels).backward()
    optimizer.step()
    optimizer.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize()
    print(json.dumps([began, time.time()]))
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
    for each in (ffvit_help, import_torch):  # from the disk, once
        _seconds(each)
    pairs = [(_seconds(ffvit_help), _seconds(import_torch)) for _ in range(rounds)]
    starts: dict[str, list[tuple[float, float, float]]] = {}
    for _ in range(max(1, rounds // 3)):
        with tempfile.TemporaryDirectory() as cache:
            for way in ("eager", "compiled, cache empty", "compiled, cache warm"):
                starts.setdefault(way, []).append(_first_step(network, batch, way.startswith("compiled"), cache))

    console = Console(width=200, highlight=False)
    console.print(f"{machine_name(default_device())}; torch {torch.__version__}; {rounds} rounds\n")
    shares = [ours / its for ours, its in pairs]
    console.print(f"ffvit --help: {_range([ours for ours, _ in pairs])} s, {_range(shares)} of `import torch`\n")
    table = Table(box=box.MARKDOWN)
    table.add_column(f"{network}, batch of {batch}")
    for head in ("until the first step begins", "first step", "a later step", "what the first takes longer"):
        table.add_column(head, justify="right")
    for way, rows in starts.items():
        before, first, later = (list(column) for column in zip(*rows, strict=True))
        more = [one - two for one, two in zip(first, later, strict=True)]
        table.add_row(way, *(f"{_range(each)} s" for each in (before, first, later, more)))
    console.print(table)


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


def _range(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


if __name__ == "__main__":
    cyclopts.run(main)
