"""How fast the networks are, beside the paper's network done plainly and timm's: `python benchmarks/network.py`.

Measured, in one process, are prediction (inference mode) and a training step on random images that are already on the
device, in images a second, and

- as a share of what this machine reaches in one large matrix product of that precision. A multiply-add is two
  operations, `ffvit.profiling.count` counts them, a training step is taken as three forward passes. The share says how much
  is left to gain and, unlike images a second, travels between machines;
- as a multiple of the paper's network done plainly (`benchmarks/plain.py`): transposed tensors, fp32, eager, on a
  processor with glibc's allocator as it comes, and in training DeiT's loop.

ffvit's training step is its own: cross entropy, its AdamW and its moving average. timm's networks get the same step.
"Compiled" is how `ffvit train` compiles, block by block, and how the engine `compiled` answers, whole and frozen.

Where a machine is shared or warms up, its speed drifts by more than networks differ. So every round measures all
networks, one after the other, and the product before and after each; a share is of the mean of these two, multiples are
taken within a round, where all saw about the same machine, and the median over rounds forgets a round that something
disturbed. The range printed behind a median is the lowest to the highest round: if it is wide, the machine was busy.

fp32 is without TF32, torch's default; bf16 is autocast, as in `ffvit train`, and left out where the machine multiplies
it slower than fp32. The first GPU is used if there is one; with `CUDA_VISIBLE_DEVICES=` before it, the command measures
the processor instead.
"""

from __future__ import annotations

import datetime
import json
import math
import sys
from collections.abc import Callable
from itertools import product as every
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import cyclopts
import timm
import torch
from cyclopts import Parameter
from plain import PaperNetwork, deit_step, returning_memory
from pydantic import PositiveFloat, PositiveInt
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ffvit
from ffvit import UserError
from ffvit.inference.engines import build
from ffvit.models.compiling import compile_blocks
from ffvit.models.create import check_name, classes_of, preprocess_of
from ffvit.profiling.count import count
from ffvit.profiling.hardware_peak import machine_name, matmul_rate, peak_matmul, slow_precision_reason
from ffvit.profiling.timing import default_device, forward_call, time_calls
from ffvit.training.ema import EMA
from ffvit.training.optimizer import build_optimizer

PEERS = {
    "ff_tiny_patch16_224": ["deit_tiny_patch16_224"],
    "ff_small_patch16_224": ["deit_small_patch16_224", "mixer_s16_224"],
    "ff_base_patch16_224": ["deit_base_patch16_224", "mixer_b16_224"],
    "ff_large_patch32_224": ["vit_large_patch32_224", "mixer_l32_224"],
}
"""FF-only networks, and timm's networks of their size."""

PASSES = {"predict": 1, "train": 3}
PAPER, COMPILED = "the paper's code", "compiled"

Works = dict[str, Callable[[str], object]]


def main(
    *,
    networks: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
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
    slow = slow_precision_reason("bf16", device)
    precisions = ["fp32"] if slow else ["fp32", "bf16"]

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
    for name in chosen:
        results += _beside_its_peers(name, batch, device, precisions, rounds, seconds, console, markdown)
    if json_file:
        json_file.write_text(json.dumps({"where": where, "results": results}, indent=1) + "\n")


def _beside_its_peers(
    name: str,
    batch: int,
    device: torch.device,
    precisions: list[str],
    rounds: int,
    seconds: float,
    console: Console,
    markdown: bool,
) -> list[dict[str, Any]]:
    ours = {name: ffvit.create_model(name), f"{name}, {COMPILED}": compile_blocks(ffvit.create_model(name))}
    networks = {PAPER: PaperNetwork(name), **ours, **{peer: ffvit.create_model(peer) for peer in PEERS[name]}}
    flops = {each: count(network).flops for each, network in networks.items() if each != PAPER}
    flops[PAPER] = flops[name]
    takes = preprocess_of(networks[name])
    images = torch.randn(batch, takes.in_chans, *takes.img_size, device=device)
    labels = torch.randint(classes_of(networks[name]), (batch,), device=device)
    works = {
        each: _paper(network.to(device), images, labels) if each == PAPER else _ours(network.to(device), images, labels)
        for each, network in networks.items()
    }
    works[f"{name}, {COMPILED}"]["predict"] = _engine(name, images)
    _agree(networks[PAPER], networks[name], images)
    sizes = {each: peak_matmul(each, device).size for each in precisions}
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in every(precisions, PASSES)}
    shares: dict[tuple[str, str, str], list[float]] = {}
    speeds: dict[tuple[str, str, str], list[float]] = {}
    with Console(stderr=True).status("", refresh_per_second=1) as status:
        for turn, precision, work in every(range(rounds), precisions, PASSES):
            cost, before = PASSES[work], matmul_rate(sizes[precision], precision, device)
            for each in networks:
                status.update(f"{name}, round {turn + 1} of {rounds}, {work}, {each} {precision}")
                if each == PAPER and precision != "fp32":  # the paper's is always fp32
                    speed = speeds["fp32", work, PAPER][turn]
                else:
                    does = works[each][work]
                    took = median(time_calls(lambda does=does, its=precision: does(its), device, seconds))  # type: ignore[misc]
                    speed = batch / took
                after = matmul_rate(sizes[precision], precision, device)
                rates[precision, work].append(after)
                speeds.setdefault((precision, work, each), []).append(speed)
                share = speed * cost * flops[each] / ((before + after) / 2)
                shares.setdefault((precision, work, each), []).append(share)
                before = after
    results = []
    for (precision, work), rate in rates.items():
        title = f"{name}, {work}, {precision}, batch of {batch} images"
        limit = f"100 % is a product of {sizes[precision]} x {sizes[precision]} matrices at"
        console.print(f"\n{f'**{title}**' if markdown else f'[bold]{title}[/]'}", soft_wrap=True)
        console.print(f"{limit} {_range([each / 1e9 for each in rate])} GFLOP/s\n", soft_wrap=True)
        table = Table(box=box.MARKDOWN if markdown else box.SIMPLE_HEAD, pad_edge=markdown)
        table.add_column("network")
        for head in ("GFLOP an image", "images/s", "% of product", "times the paper's code"):
            table.add_column(head, justify="right")
        for each in networks:
            speed, share = speeds[precision, work, each], shares[precision, work, each]
            cost = PASSES[work] * flops[each]
            times = [its / paper for its, paper in zip(speed, speeds[precision, work, PAPER], strict=True)]
            percent = f"{100 * median(share):.1f} ({100 * min(share):.1f}-{100 * max(share):.1f})"
            shown = f"{each} (fp32)" if each == PAPER else each
            row = shown, _digits(cost / 1e9), _range(speed), percent, _range(times, 2) if each != PAPER else "1"
            table.add_row(*row)
            results.append(
                {"network": each, "beside": name, "precision": precision, "work": work, "flops_per_image": cost}
                | {"images_per_second": speed, "share_of_product": share, "times_the_papers_code": times}
            )
        console.print(table)
    return results


def _agree(paper: nn.Module, ours: nn.Module, images: Tensor) -> None:
    """A comparison of speeds is one only where both do the same."""
    ours.load_state_dict(paper.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(images), paper.eval()(images), rtol=1e-3, atol=1e-4)


def _ours(network: nn.Module, images: Tensor, labels: Tensor) -> Works:
    predict = forward_call(network, images)
    optimizer, average = build_optimizer(network, ffvit.Recipe()), EMA(network, 0.99996, warmup=False)

    def predicts(precision: str) -> None:
        network.eval()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            predict()

    def step(precision: str) -> None:
        network.train()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = cross_entropy(network(images), labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(network, step=0)

    return {"predict": predicts, "train": step}


def _engine(name: str, images: Tensor) -> Callable[[str], object]:
    """The compiled engine's answers, in any precision."""
    engines: dict[str, Callable[[], object]] = {}

    def predicts(precision: str) -> None:
        if precision not in engines:
            engine = build(ffvit.create_model(name), "compiled", precision, images.device)
            engines[precision] = forward_call(engine, images)
        engines[precision]()

    return predicts


def _paper(network: nn.Module, images: Tensor, labels: Tensor) -> Works:
    predict, train = map(returning_memory, (forward_call(network, images), deit_step(network, images, labels)))

    def predicts(_: str) -> None:
        network.eval()
        predict()

    def step(_: str) -> None:
        network.train()
        train()

    return {"predict": predicts, "train": step}


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
