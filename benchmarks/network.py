"""How fast the networks are, beside the paper's code and timm's networks: `python benchmarks/network.py`.

Measured are prediction (inference mode) and a training step on random images that are already on the device, in images
per second, and

- as a share of what this machine reaches in one large matrix product of that precision, as in `ffvit benchmark`. A
  multiply-add is two FLOPs, `ffvit.profiling.count` counts them, a training step is taken as three forward passes. The
  share says how much is left to gain and, unlike images per second, can be compared between machines;
- as a multiple of the paper's code (`benchmarks/paper_code.py`) in the same precision and mode: eager beside eager,
  compiled beside compiled; with autocast in bf16, on a CPU with glibc's allocator as it comes, and in training DeiT's
  loop with AdamW in one piece. timm's networks are set beside it eager.

Prediction and training step are those of `ffvit benchmark`, for timm's networks too. "Compiled" is `torch.compile` for the
paper's code; for ours how a long `ffvit train` compiles, block by block, and how the engine `compiled` predicts.

Every round measures the matrix product and all networks, one after the other. The share is of the best rounds; multiples
are taken within a round. The range behind a median is the lowest to the highest round: if it is wide, the machine was busy.

fp32 is without TF32, torch's default; bf16 is autocast, as in `ffvit train`, and left out where the machine multiplies
it slower than fp32. The first GPU is used if there is one; with `CUDA_VISIBLE_DEVICES=` before it, the command measures
the CPU instead.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
from cyclopts import Parameter
from paper_code import PaperNetwork, deit_step, predict_call, returning_memory
from pydantic import PositiveFloat, PositiveInt
from rich.console import Console
from script import run, spread
from torch import nn

import ffvit
from ffvit import UserError
from ffvit.benchmarking.measure import PASSES, Benchmark, Row, Turn, measure_rounds
from ffvit.benchmarking.targets import Target
from ffvit.benchmarking.workload import build_predictor, train_step_call
from ffvit.hardware.devices import keep_freed_memory
from ffvit.hardware.precision import Precision
from ffvit.models.create import check_name
from ffvit.models.description import classes_of
from ffvit.profiling.count import count
from ffvit.profiling.hardware_peak import machine_name, slow_precision_reason
from ffvit.profiling.timing import default_device, forward_call, random_images
from ffvit.terminal import Terminal, build_table, digits, progress

PEERS = {
    "ff_tiny_patch16_224": ["deit_tiny_patch16_224"],
    "ff_small_patch16_224": ["deit_small_patch16_224", "mixer_s16_224"],
    "ff_base_patch16_224": ["deit_base_patch16_224", "mixer_b16_224"],
    "ff_large_patch32_224": ["vit_large_patch32_224", "mixer_l32_224"],
}
"""FF-only networks, and timm's networks of their size."""

PAPER = "the paper's code"
ENGINES = {False: "torch", True: "compiled"}


def main(
    *,
    networks: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
    precisions: Annotated[list[Precision] | None, Parameter(consume_multiple=True, negative=())] = None,
    batch: PositiveInt | None = None,
    rounds: PositiveInt = 7,
    seconds: PositiveFloat = 2.0,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    markdown: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Measure the speed of FF-only networks beside the paper's code and timm's networks of the same size.

    Parameters
    ----------
    networks
        FF-only networks: tiny, small, base, large by their names. Default: tiny and base.
    precisions
        What they compute in: fp32, bf16, fp16. Default: bf16 where this machine is fast at it, and fp32.
    batch
        Images a step. Default: 16, on a GPU 256.
    rounds
        How often everything is measured.
    seconds
        Time of each measurement in a round; one call at least.
    json_file
        Write every round's numbers there.
    markdown
        Print the tables in Markdown.
    """
    if json_file and not json_file.absolute().parent.is_dir():
        raise UserError(f"--json {json_file}: there is no folder {json_file.parent}")
    device = default_device()
    batch = batch or (256 if device.type == "cuda" else 16)
    chosen = networks or ["ff_tiny_patch16_224", "ff_base_patch16_224"]
    for name in chosen:
        check_name(name)
        if name not in PEERS:
            raise UserError(f"--networks {name}: give one of {', '.join(PEERS)}")
    slow = None if precisions else slow_precision_reason("bf16", device)
    precisions = precisions or (["fp32"] if slow else ["bf16", "fp32"])

    if device.type == "cpu":
        keep_freed_memory()
    console = Console(width=200 if markdown else None, highlight=False)
    now = datetime.datetime.now().astimezone()
    where = (
        f"{machine_name(device)}; torch {torch.__version__}, timm {timm.__version__}, ffvit {ffvit.__version__}; batch "
        f"of {batch} images; {rounds} rounds; {now:%Y-%m-%d}"
    )
    console.print(where, soft_wrap=True)
    if slow:
        console.print(f"bf16 is left out: {slow}", soft_wrap=True)
    results: list[dict[str, Any]] = []
    for name, precision, work in product(chosen, precisions, PASSES):
        with progress(Terminal(stderr=True)) as bar:
            task = bar.add_task("preparing", total=rounds * (len(PEERS[name]) + 4))
            turns = _turns(name, precision, work, device, batch)
            peak = measure_rounds(
                turns, [precision], device, batch, rounds, seconds, lambda task=task, **told: bar.update(task, **told)
            )
        benchmark = Benchmark(device, batch, rounds, peak, [turn.row for turn in turns], [])
        results += _print(f"{name}, {work}, {precision}", benchmark, precision, console, markdown)
    if json_file:
        json_file.write_text(json.dumps({"where": where, "results": results}, indent=1) + "\n")


def _turns(name: str, precision: Precision, work: str, device: torch.device, batch: int) -> list[Turn]:
    """The paper's code and an FF-only network, each eager and compiled, and its peers."""
    ours, paper = ffvit.create_model(name).to(device), PaperNetwork(name).to(device)
    images = random_images(ours, batch)
    _check_agreement(paper, ours, images)
    turns = []
    for compiled in (False, True):
        row = Row(PAPER, ENGINES[compiled], precision, work, PASSES[work] * count(ours).flops)
        if work == "predict":
            network = torch.compile(paper.eval()) if compiled else paper.eval()
            call: Callable[[], object] = predict_call(network, images, precision)
        else:
            labels = torch.randint(classes_of(ours), (batch,), device=device)
            call = deit_step(PaperNetwork(name).to(device), images, labels, precision, compiled=compiled)
        turns.append(Turn(row, returning_memory(call)))
    for network, compiled in ((name, False), (name, True), *((peer, False) for peer in PEERS[name])):
        model = ffvit.create_model(network)
        flops = PASSES[work] * count(model).flops
        row = Row(network, ENGINES[compiled], precision, work, flops)
        if work == "predict":
            call = forward_call(build_predictor(Target(network), row.engine, precision, device), images)
        else:
            call = train_step_call(model, precision, device, batch, compiled)
        turns.append(Turn(row, call))
    return turns


def _check_agreement(paper: nn.Module, ours: nn.Module, images: torch.Tensor) -> None:
    """A comparison of speeds is one only where both compute the same."""
    ours.load_state_dict(paper.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(images), paper.eval()(images), rtol=1e-3, atol=1e-4)


def _print(title: str, benchmark: Benchmark, precision: str, console: Console, markdown: bool) -> list[dict[str, Any]]:
    title = f"{title}, batch of {benchmark.batch} images"
    matmul = benchmark.peak.matmuls[precision]
    console.print(f"\n{f'**{title}**' if markdown else f'[bold]{title}[/]'}", soft_wrap=True)
    limit = f"100 % is a product of {matmul.size} x {matmul.size} matrices at {digits(matmul.rate / 1e9)} GFLOP/s\n"
    console.print(limit, soft_wrap=True)
    rows, results = [], []
    paper = {row.engine: row.images_per_second for row in benchmark.rows if row.network == PAPER}
    for row in benchmark.rows:
        times = [ours / theirs for ours, theirs in zip(row.images_per_second, paper[row.engine], strict=True)]
        share = benchmark.utilization(row)
        shown = "-" if share is None else f"{100 * share:.1f}"
        name = f"{row.network}{', compiled' * (row.engine == 'compiled')}"
        rows.append((name, digits(row.flops / 1e9), spread(row.images_per_second), shown, spread(times, 2)))
        results.append({**asdict(row), "utilization": share, "times_the_papers_code": times})
    headings = ("network", "GFLOP per\nimage", "images/s", "% of\nmatmul", "times the\npaper's code,\nsame mode")
    console.print(build_table(headings, rows, markdown=markdown))
    return [{"title": title, "matmul": asdict(matmul), "rows": results}]


if __name__ == "__main__":
    run(main)
