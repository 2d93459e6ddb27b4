"""What a run would do: all is checked as a run checks it, a few steps are timed, and no run folder is made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from rich.console import Console

from ffvit.files.output_folder import study_of
from ffvit.hardware.ranks import name_lost_ranks
from ffvit.profiling.count import count_described
from ffvit.run_folder import Config
from ffvit.terminal import Terminal
from ffvit.training.progress import TrainingDisplay, format_duration
from ffvit.training.run_speed import measure_speed
from ffvit.training.setup import Setup
from ffvit.training.train import as_table, begin, headline, prepare


@dataclass(frozen=True)
class RunForecast:
    """What a run would do.

    Attributes:
        rows: What is known of it, in words.
        steps: All steps of the recipe; those that fit in its minutes, where it has a time limit.
        seconds: Time it would take, from the images to the report.
        memory: MiB it would hold at most: on a GPU its tensors on one device, else the process.
    """

    rows: dict[str, str]
    steps: int
    seconds: float
    memory: float

    def show(self, console: Console) -> None:
        """Print it."""
        console.print(as_table(self.rows), highlight=False)


def forecast_run(
    config: Config, out: str | Path | None = None, overwrite: bool = False, console: Console | None = None
) -> RunForecast | None:
    """Check everything that a run checks before it makes its folder, and predict its time and memory.

    What a run would download is downloaded. Of several processes only the first returns a forecast.

    Raises:
        UserError: The run is not possible.
        OutOfMemoryError: Memory ran out while steps were timed.
    """
    fabric, folder = begin(config, out, overwrite)
    with name_lost_ranks(fabric), TrainingDisplay(console or Terminal(), shown=fabric.is_global_zero) as display:
        setup, about, _ = prepare(fabric, config, None, study_of(folder), display)
        return _predict(setup, folder, about) if fabric.is_global_zero else None


def _predict(setup: Setup, folder: Path, about: str) -> RunForecast:
    """The forecast of a run, whose own network is taken from the device while another one is timed there."""
    config, recipe, device, processes = setup.config, setup.config.recipe, setup.fabric.device, setup.fabric.world_size
    rows = headline(setup, folder, about)
    sharded = config.hardware.strategy == "fsdp"
    if not sharded:
        setup.step.plain.to("cpu")
    flops = count_described(config.network, len(setup.splits.classes)).flops
    hardware = config.hardware.replace(devices=processes, nodes=1, workers=setup.workers)
    speed = measure_speed(config.network, recipe, setup.splits, torch.get_num_threads(), hardware)
    seconds = speed.run(recipe, setup.splits).seconds
    at_once = -(-recipe.batch_size // (processes * setup.order.micro_batches))
    memory = (_held_memory(device) + speed.state / (processes if sharded else 1) + at_once * speed.activations) / 2**20
    steps = setup.order.steps * recipe.epochs
    if recipe.minutes is not None:
        steps = int(recipe.minutes * 60 / (recipe.batch_size * speed.train))
    differs = ", without compilation" * setup.step.compiled
    differs += f", without recomputing {setup.step.recomputed}" * (setup.step.recomputed is not None)
    rows["network"] += f"; {flops / 1e9:.3g} GFLOPs an image"
    rows["steps"] = f"{steps:,} in all, {setup.order.steps:,} an epoch; {at_once:,} images at once on a device"
    rows["time"] = f"about {format_duration(seconds)}, from a few steps that were timed on these images{differs}"
    rows["memory"] = (
        f"about {memory:,.0f} MiB, counted from this process, weights, optimizer and what a step keeps of an image{differs}"
    )
    return RunForecast(rows, steps, seconds, memory)


def _held_memory(device: torch.device) -> int:
    """Bytes that a run holds before its first step: on a CPU those of this process, which has set one up."""
    return psutil.Process().memory_info().rss if device.type == "cpu" else 0
