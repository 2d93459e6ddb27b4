"""What the large trainings take on many GPUs, predicted: `python benchmarks/scaling.py`, `--help` for the options.

Nothing is run on a GPU here. The arithmetic is `benchmarks/cluster.py`, docs/scaling.md writes it out; what goes into it is

- counted: parameters and operations (`ffvit.profiling.count`), the operators that a step starts, and the bytes that a forward
  pass under bf16 keeps for the backward pass. PyTorch does the pass on tensors that have shapes and no content, so the
  largest network takes seconds; with contents the bytes are the same;
- measured, if given: `--images-per-second`, the training step of `python benchmarks/network.py` on such a GPU. Otherwise
  assumed: a share (`--share`, two for a range) of what one large product reached on an H200;
- published: the speed of memory and links, and NCCL's own table of how long a hop takes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from cluster import STATE, Cluster, Load, memory_per_gpu, step_time, training_hours
from cyclopts import Parameter
from plots import logarithmic, name_ends, picture
from pydantic import PositiveFloat, PositiveInt
from rich import box
from rich.console import Console
from rich.table import Table
from script import run
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

import ffvit
from ffvit import UserError
from ffvit.config.recipe import named_recipe
from ffvit.models.backbone import Backbone
from ffvit.plot_style import ARMS, MUTED
from ffvit.profiling.count import count
from ffvit.profiling.memory import activation_bytes
from ffvit.study.report.drawing import DASHES

NETWORKS = "ff_base_patch16_224", "ff_large_patch32_224"
SETS = {"ImageNet-1k": (1_281_167, 1_000), "ImageNet-21k": (14_197_122, 21_841)}
"""Images and classes; the larger one is the whole of the Fall 2011 release."""

GPUS = 1, 8, 64, 512
DEIT = named_recipe("deit")
A_GPU = 256
"""Images a GPU that the scaled batch aims at."""

AT_ONCE = 256
"""Images at once on a GPU in the table of memory; more of them accumulate."""

START = 10e-6
"""Seconds of the processor to start one operator, forward or backward, autograd and autocast included: an assumption."""

H200 = 141e9
"""Bytes of memory of a GPU."""

LAUNCH, LOADER, COMMUNICATION, ARITHMETIC = "starting", "loader", "communication", "arithmetic"


@dataclass(frozen=True)
class Case:
    """A network and the images it is trained on, with what a step asks of a GPU at each of the rates."""

    network: str
    images: str
    views: float
    operations: int
    loads: tuple[Load, ...]


def main(
    *,
    images_per_second: dict[str, PositiveFloat] | None = None,
    share: Annotated[tuple[PositiveFloat, PositiveFloat], Parameter(negative=())] = (0.4, 0.6),
    product: PositiveFloat = 788.0,
    inner: PositiveFloat = 450.0,
    outer: PositiveFloat = 50.0,
    cores: PositiveFloat = 14.0,
    decoding: PositiveFloat = 583.0,
    epochs: PositiveInt = 300,
    largest_batch: PositiveInt = 4096,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
    out: Path | None = None,
) -> None:
    """Predict hours and memory of training FF-base and FF-large on 1 to 512 GPUs; prints Markdown.

    Parameters
    ----------
    images_per_second
        What one GPU trains, measured: `--images-per-second.ff_base_patch16_224 4000`.
    share
        Where that is not given: the shares of the product that training reaches, lowest and highest.
    product
        TFLOP/s of one large bf16 product. Default: as measured on an H200.
    inner
        GB/s each way between the GPUs of a machine (NVLink 4).
    outer
        GB/s each way between machines, for each GPU (InfiniBand NDR, 400 Gbit/s).
    cores
        Processor cores for each GPU.
    decoding
        Images a second that a core reads: docs/data.md, from shards, every image once.
    epochs
        To train for.
    largest_batch
        The scaled batch is 256 a GPU, between DeiT's 1,024 and this.
    json_file
        Write the numbers there.
    out
        Draw hours against GPUs there (PNG).
    """
    for option, path in (("--json", json_file), ("--out", out)):
        if path and not path.absolute().parent.is_dir():
            raise UserError(f"{option} {path}: there is no folder {path.parent}")
    rates = images_per_second or {}
    for name in rates:
        if name not in NETWORKS:
            raise UserError(f"--images-per-second.{name}: predicted are {' and '.join(NETWORKS)}")
    cluster = Cluster(
        gpus=8, memory_speed=4.8e12, inner=1e9 * inner, outer=1e9 * outer, call=8.4e-6, inner_hop=4e-6, outer_hop=14e-6,
        loading=cores * decoding,
    )  # fmt: skip
    cases = []
    for images, (number, classes) in SETS.items():
        for name in NETWORKS:
            speeds = [1e12 * product * reached for reached in sorted(share)]
            cases.append(_case(name, images, epochs * number, classes, speeds, rates.get(name)))

    console = Console(width=240, highlight=False)
    batches = partial(_batches, largest=largest_batch)
    rows = [row for case in cases for row in _predict(case, cluster, batches, decoding)]
    for case in cases:
        shares = " to ".join(f"{100 * reached:g} %" for reached in sorted(share))
        speed = "measured" if case.network in rates else f"{shares} of {product:g} TFLOP/s"
        console.print(f"**{case.network}, {case.images}, {epochs} epochs; speed of a GPU: {speed}**\n")
        console.print(_table([row for row in rows if (row["network"], row["set"]) == (case.network, case.images)]))
    console.print(f"**Memory of a GPU, GiB, with {AT_ONCE} images at once**\n")
    console.print(_table([_memory(case) for case in cases]))
    console.print("**What moves the hours** (DDP, lowest rate, ImageNet-1k)\n")
    console.print(_table([row for case in cases[:2] for row in _sensitivity(case, cluster, batches)]))
    if json_file:
        said = {"cluster": asdict(cluster), "cases": [asdict(case) for case in cases], "predicted": rows}
        json_file.write_text(json.dumps(said, indent=1) + "\n")
    if out:
        _draw(cases[:2], cluster, batches, out)


def _case(name: str, images: str, views: float, classes: int, speeds: list[float], rate: float | None) -> Case:
    with torch.device("meta"):
        network = ffvit.create_model(name, num_classes=classes, drop_path=DEIT.drop_path)
    assert isinstance(network, Backbone)
    cost = count(network)
    blocks = len(network.blocks)
    least = START * _operators(network)
    whole, block = _kept(network), _kept_block(network)
    entering = 4 * network.architecture.tokens * network.architecture.width
    kept = whole[1] - whole[0]
    load = Load(
        parameters=cost.parameters,
        blocks=blocks,
        seconds=0.0,
        least=least,
        kept=float(kept),
        kept_checkpointed=float(kept - (blocks - 1) * block + blocks * entering),
        copies=float(whole[0] - kept),
    )
    times = [1 / rate] if rate else [3 * cost.flops / speed for speed in speeds]
    return Case(name, images, views, cost.flops, tuple(replace(load, seconds=seconds) for seconds in times))


def _kept(network: Backbone) -> list[int]:
    """Bytes kept by one image and by two, with soft targets, under bf16."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", torch.bfloat16):
        shadow = network.to_empty(device="cpu")

        def forward(images: int) -> None:
            targets = torch.empty(images, network.num_classes)
            cross_entropy(shadow(torch.empty(images, 3, *network.architecture.img_size)), targets)

        return [activation_bytes(partial(forward, images), shadow) for images in (1, 2)]


def _kept_block(network: Backbone) -> int:
    """Bytes an image kept by one block."""
    block, architecture = network.blocks[-1], network.architecture
    with FakeTensorMode(allow_non_fake_inputs=True), torch.autocast("cpu", torch.bfloat16):
        tokens = [torch.empty(n, architecture.tokens, architecture.width, requires_grad=True) for n in (1, 2)]
        one, two = (activation_bytes(partial(_fresh(block), images), block) for images in tokens)
    return two - one


def _fresh(block: nn.Module) -> Callable[[torch.Tensor], object]:
    """The block, whose weights autocast casts anew."""

    def forward(tokens: torch.Tensor) -> object:
        torch.clear_autocast_cache()
        return block(tokens)

    return forward


class _Operators(TorchDispatchMode):
    """Counts operators that compute something."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += not func.is_view
        return func(*args, **(kwargs or {}))


def _operators(network: Backbone) -> int:
    """Operators of a forward and backward pass, those that autocast adds not among them."""
    images = torch.empty(2, 3, *network.architecture.img_size, device="meta")
    with _Operators() as operators:
        cross_entropy(network(images), torch.empty(2, network.num_classes, device="meta")).backward()
    return operators.number


def _batches(gpus: int, largest: int) -> Iterator[int]:
    """DeiT's batch, and the scaled one if it is another."""
    yield from sorted({DEIT.batch_size, min(max(A_GPU * gpus, DEIT.batch_size), max(largest, DEIT.batch_size))})


def _predict(
    case: Case, cluster: Cluster, batches: Callable[[int], Iterator[int]], decoding: float
) -> Iterator[dict[str, Any]]:
    for gpus in GPUS:
        for batch in batches(gpus):
            ddp = [training_hours(load, cluster, gpus, batch, case.views) for load in case.loads]
            sharded = [training_hours(load, cluster, gpus, batch, case.views, "fsdp") for load in case.loads]
            ideal = [case.views * load.seconds / gpus / 3600 for load in case.loads]
            steps = [step_time(load, cluster, gpus, batch / gpus) for load in case.loads]
            wanted = [batch / gpus / step.device for step in steps]
            limits = [
                LOADER if step.loading > step.device
                else LAUNCH if load.least > batch / gpus * load.seconds and step.compute > step.communication
                else COMMUNICATION if step.communication > 2 / 3 * step.compute
                else ARITHMETIC
                for load, step in zip(case.loads, steps, strict=True)
            ]  # fmt: skip
            yield {
                "network": case.network,
                "set": case.images,
                "GPUs": gpus,
                "batch": batch,
                "images a GPU": f"{batch / gpus:g}",
                "peak rate": f"{DEIT.replace(batch_size=batch).peak_lr:.4g}",
                "hours, DDP": ddp,
                "hours, sharded": sharded,
                "% of ideal, DDP": [100 * least / hours for least, hours in zip(ideal, ddp, strict=True)],
                "all-reduce, ms": [1e3 * steps[0].communication],
                "limited by": ", ".join(dict.fromkeys(limits)),
                "images/s wanted a GPU": wanted,
                "cores a GPU for that": [rate / decoding for rate in wanted],
            }


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=box.MARKDOWN, pad_edge=True)
    heads = [head for head in rows[0] if head not in ("network", "set")] if "set" in rows[0] else list(rows[0])
    for head in heads:
        table.add_column(head, justify="left" if isinstance(rows[0][head], str) and "a GPU" not in head else "right")
    for row in rows:
        table.add_row(*(_said(row[head]) for head in heads))
    return table


def _said(value: Any) -> str:
    """A number, or a range of them; words as they are."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    low, high = (f"{end:,.{0 if end >= 100 else 1 if end >= 10 else 2}f}" for end in (min(value), max(value)))
    return low if low == high else f"{low}-{high}"


def _memory(case: Case) -> dict[str, Any]:
    load = case.loads[0]

    def gib(gpus: int, *how: Any) -> list[float]:
        return [memory_per_gpu(load, gpus, AT_ONCE, *how) / 2**30]

    room = H200 - (STATE + 1) * load.size
    return {
        "network, images": f"{case.network}, {case.images}",
        "parameters, M": [load.parameters / 1e6],
        "an image, MiB": [load.kept / 2**20],
        "with checkpointing": [load.kept_checkpointed / 2**20],
        "one GPU": gib(1),
        "DDP": gib(8),
        "DDP, checkpointing": gib(8, "ddp", True),
        **{f"sharded over {gpus}": gib(gpus, "fsdp") for gpus in GPUS[1:]},
        "images that fit, DDP": int((room - load.copies) / load.kept),
    }


def _sensitivity(case: Case, cluster: Cluster, batches: Callable[[int], Iterator[int]]) -> Iterator[dict[str, Any]]:
    load = case.loads[0]
    slower = {
        "GPU twice as fast": (replace(load, seconds=load.seconds / 2), cluster),
        "operators started twice as fast": (replace(load, least=load.least / 2), cluster),
        "links half as fast": (load, replace(cluster, inner=cluster.inner / 2, outer=cluster.outer / 2)),
        "hops twice as long": (
            load,
            replace(cluster, call=2 * cluster.call, inner_hop=2 * cluster.inner_hop, outer_hop=2 * cluster.outer_hop),
        ),
        "half the cores": (load, replace(cluster, loading=cluster.loading / 2)),
    }
    for gpus in GPUS:
        batch = list(batches(gpus))[-1]
        hours = training_hours(load, cluster, gpus, batch, case.views)
        changed = {
            how: f"{100 * (training_hours(changed_load, on, gpus, batch, case.views) / hours - 1):+.0f} %"
            for how, (changed_load, on) in slower.items()
        }
        yield {"network": case.network, "GPUs": gpus, "batch": batch, "hours": [hours], **changed}


def _draw(cases: list[Case], cluster: Cluster, batches: Callable[[int], Iterator[int]], path: Path) -> None:
    """A panel a network: hours against GPUs, for DeiT's batch and the scaled one, beside the ideal."""
    counts = [2**power for power in range(10)]
    with picture(path) as figure:
        for axes, case in zip(figure.subplots(1, 2, sharey=True), cases, strict=True):
            lines: dict[str, Callable[[Load, int], float]] = {
                "batch 1,024": lambda load, gpus, case=case: training_hours(
                    load, cluster, gpus, DEIT.batch_size, case.views
                ),
                "256 a GPU, to 4,096": lambda load, gpus, case=case: training_hours(
                    load, cluster, gpus, list(batches(gpus))[-1], case.views
                ),
                "ideal": lambda load, gpus, case=case: case.views * load.seconds / gpus / 3600,
            }
            logarithmic(axes, [1, 8, 64, 512])
            axes.set_xlim(1, 512)
            ends = []
            for (name, of), colour in zip(lines.items(), (ARMS[1], ARMS[0], MUTED), strict=True):
                values = [[of(load, gpus) for gpus in counts] for load in (case.loads[0], case.loads[-1])]
                axes.plot(counts, values[0], color=colour, lw=1.7, ls=DASHES[1] if name == "ideal" else "-")
                if name != "ideal":
                    axes.fill_between(counts, *values, color=colour, alpha=0.2, lw=0)
                ends.append((name, values[0][-1], colour))
            axes.set_title(f"{case.network}: hours, {case.images}")
            axes.set_xlabel("GPUs; bands: from the lowest rate to the highest", loc="left")
            axes.set_ylim(*axes.get_ylim())
            name_ends(axes, ends)


if __name__ == "__main__":
    run(main)
