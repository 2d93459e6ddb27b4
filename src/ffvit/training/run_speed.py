"""How fast a run is on this machine: a few of its steps are done and timed.

They are done by a run's own step and loop, in as many processes at once as there will be runs at once, because these
share the caches, the memory and often the clock of the CPU: two at once are each slower than one alone.
"""

from __future__ import annotations

import glob
import io
import multiprocessing
import os
import platform
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from torch.nn.functional import cross_entropy

from ffvit.config.architecture import Network
from ffvit.config.hardware import Hardware
from ffvit.config.recipe import Recipe
from ffvit.data.images import Images, Subset
from ffvit.data.splits import Splits
from ffvit.errors import OutOfMemoryError
from ffvit.hardware.devices import device_type
from ffvit.hardware.launch import start_fabric
from ffvit.hardware.precision import autocast, resolve_precision
from ffvit.hardware.processes import fork_server, starting_processes
from ffvit.models.create import create_model
from ffvit.models.description import preprocess_of
from ffvit.profiling.count import count_described
from ffvit.profiling.memory import activation_bytes
from ffvit.run_folder import Config, Run
from ffvit.signals import WARNINGS, StopSignals, defer_signals
from ffvit.training.auto_tuning import STATE
from ffvit.training.checkpoint import Progress
from ffvit.training.loggers import open_loggers
from ffvit.training.loop import Trainer
from ffvit.training.progress import TrainingDisplay
from ffvit.training.setup import Setup, set_up

PROCESS = 700.0
"""MiB of a process with PyTorch in it, before it does anything."""

START = 0.5
"""Seconds of a run that are not timed here: its process starts and ends, images are listed, the summary is written."""

TIMED = 0.7
"""Seconds for which steps are timed, about, after two that warm up."""

CHEAP = 1e8
"""FLOPs of an image, below which steps of 64 images are timed on a CPU rather than of 8."""

COST_ROUNDS = 5
"""Rounds of the measurement of what an arm costs to use: see `costs.measure`."""

MOST_AT_ONCE = 8
"""Processes that measure at the same time, at most: more share nothing that these do not."""


@dataclass(frozen=True)
class RunEstimate:
    """What one run will take: seconds from start to end, and MiB of memory at most."""

    seconds: float
    memory: float


@dataclass(frozen=True)
class Speed:
    """What the parts of a run take on this machine, in seconds; and the bytes that it keeps."""

    start: float  # until the first step, with two steps that warm up
    train: float  # one image in training: loaded, augmented, its share of the step
    load: float  # one image loaded to be evaluated
    predict: float  # one image evaluated
    epoch_end: float  # evaluation aside: the checkpoint is written
    activations: float  # bytes that a step keeps of each image
    state: float  # bytes of weights, gradients and optimizer

    def run(self, recipe: Recipe, splits: Splits) -> RunEstimate:
        """What a run by this recipe will take on these images."""
        validation = len(splits.validation) if splits.validation is not None else 0
        evaluated = validation * (1 if recipe.ema_decay is None else 2)
        seconds = recipe.epochs * (len(splits.train) * self.train + evaluated * self.predict + self.epoch_end)
        if recipe.minutes is not None:
            seconds = 60 * recipe.minutes
        # The validation split is loaded once, and evaluated once more at the end, then the test split.
        last = (validation + len(splits.test)) * (self.load + self.predict)
        memory = PROCESS + (self.state + recipe.batch_size * self.activations) / 2**20
        return RunEstimate(START + self.start + seconds + last, memory)

    @property
    def costs(self) -> float:
        """Seconds in which the cost of using its network is measured, at the end of a study."""
        return COST_ROUNDS * (23 * max(self.predict, 0.002) + max(0.3, 6 * 64 * self.predict))


_measured: dict[Any, Speed] = {}


def measure_speed(
    network: Network, recipe: Recipe, splits: Splits, threads: int, hardware: Hardware, at_once: int = 1
) -> Speed:
    """Do a few steps of a run, evaluate a few images, end an epoch, and time each; a second call returns the same.

    On a CPU as many are timed at the same time as runs will be in progress; on GPUs each has its own.

    Raises:
        UserError: The network or the recipe cannot be used.
        OutOfMemoryError: Memory ran out.
    """
    on_cpu = device_type(hardware) == "cpu"
    same_for_all = {"epochs": 100, "minutes": None, "warmup_epochs": 1, "cooldown_epochs": 0, "lr": 1e-3}
    ema_decay = None if recipe.ema_decay is None else 0.9
    recipe = recipe.replace(**same_for_all, ema_decay=ema_decay, balance="none", teacher=None)
    workers = threads - 1 if hardware.workers is None and on_cpu else hardware.workers
    alone = hardware.replace(devices=1, nodes=1, strategy="ddp", compile="never", workers=workers)
    key = (network.to_yaml(), recipe.to_yaml(), alone.to_yaml(), splits.account, threads, at_once)
    if key not in _measured:
        processes = min(at_once, MOST_AT_ONCE) if on_cpu else 1
        speeds = _measure_at_once(processes, Config(network=network, recipe=recipe, hardware=alone), splits, threads)
        mean = {field.name: float(np.mean([getattr(speed, field.name) for speed in speeds])) for field in fields(Speed)}
        _measured[key] = replace(Speed(**mean), train=mean["train"] / (hardware.devices * hardware.nodes))
    return _measured[key]


def _measure_at_once(processes: int, config: Config, splits: Splits, threads: int) -> list[Speed]:
    """What several processes measure at the same time; they are forked off the server that runs will be forked off, too."""
    context = fork_server("ffvit.training.train")
    try:
        with (
            _temporary_folder() as folder,
            ProcessPoolExecutor(processes, context, _exit_with_parent, (folder,)) as pool,
        ):
            # Half begun, the pool would not wait for its processes, which would miss the semaphores they share.
            with defer_signals(*WARNINGS), starting_processes():
                measured = [pool.submit(_measure, config, splits, threads, folder) for _ in range(processes)]
            return [future.result() for future in measured]
    except BrokenProcessPool:
        raise OutOfMemoryError(
            "the process that timed a few steps was ended by the system, as it does when memory runs out: use fewer "
            "--workers, a smaller --batch-size or a smaller --image-size"
        ) from None


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """A temporary folder; those that processes of this machine left that were killed are removed."""
    beginning = f"ffvit-{platform.node()}-"
    for folder in Path(tempfile.gettempdir()).glob(f"{glob.escape(beginning)}*"):
        process = folder.name.removeprefix(beginning).partition("-")[0]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{beginning}{os.getpid()}-", ignore_cleanup_errors=True) as made:
        yield Path(made)


def _exit_with_parent(folder: Path) -> None:
    """End this process as soon as its parent is gone or ends it; a pool's own process would wait for work for ever."""
    for number in WARNINGS:  # a process that is forked has its parent's handlers, which wait until all have begun
        signal.signal(number, signal.SIG_DFL)
    parent: Any = multiprocessing.parent_process()

    def wait_and_exit() -> None:
        wait([parent.sentinel])
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what still writes to the folder fails
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=wait_and_exit, daemon=True).start()


def _measure(config: Config, splits: Splits, threads: int, folder: Path) -> Speed:
    """What a run takes, measured in this process; `folder` is where its run folder is made."""
    torch.set_num_threads(threads)
    started = time.perf_counter()
    display = TrainingDisplay(Console(file=io.StringIO()), shown=False)
    setup = _set_up(config, splits, display.say)
    batch, model, device = setup.config.recipe.batch_size, setup.step.plain, setup.fabric.device
    run = Run.create(Path(tempfile.mkdtemp(dir=folder)), setup.config)
    train, start = _time_steps(setup, batch, started)
    few = setup.splits
    images = few.test if 256 * train < 3 * TIMED else _spread(few.test, 16)
    evaluator = setup.evaluator(images)
    load = _seconds(lambda: evaluator.batches) / len(images)
    evaluator(setup.step.plain)
    predict = _seconds(partial(evaluator, setup.step.plain)) / len(images)
    with open_loggers(run, 0, display.say) as log:
        trainer = Trainer(setup, run, Progress(losses=[0.0]), display, StopSignals(display.say), log)
        epoch_end = _seconds(partial(trainer.end_epoch, 1.0))
    takes = preprocess_of(model)
    inputs = torch.rand(batch, takes.in_chans, *takes.img_size, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    with autocast(resolve_precision(config.hardware), device):
        activations = activation_bytes(lambda: cross_entropy(model(inputs), labels), model) / batch
    state = float(sum(parameter.nbytes for parameter in model.parameters()) * STATE)
    return Speed(start, train, load, predict, epoch_end, activations, state)


def measure_loading(config: Config, splits: Splits) -> tuple[float, float]:
    """Images per second in training, with the loader and with a batch that is in memory, for which nothing loads.

    Raises:
        UserError: The network or the recipe cannot be used.
    """
    setup = _set_up(config, splits, lambda _: None)
    batch = setup.config.recipe.batch_size
    loading, _ = _time_steps(setup, batch, time.perf_counter())
    batches = list(islice(setup.loader, setup.order.micro_batches))
    done, started = 0, time.perf_counter()
    while done < 3 or time.perf_counter() - started < TIMED:
        setup.step(0, 0, batches).cpu()
        done += 1
    return 1 / loading, done * batch / (time.perf_counter() - started)


def _set_up(config: Config, splits: Splits, say: Callable[[str], None]) -> Setup:
    """A run of a few of the images, in batches of a size that is quickly timed."""
    recipe, device = config.recipe, torch.device(device_type(config.hardware))
    model = create_model(config.network, len(splits.classes), drop_path=recipe.drop_path, dropout=recipe.dropout)
    batch = _batch_size(config, splits, device)
    config = config.replace(recipe=recipe.replace(batch_size=batch))
    few = Splits(splits.classes, _spread(splits.train, 8 * batch), None, _spread(splits.test, 256), "")
    return set_up(start_fabric(config.hardware), config, model, None, few, say)


def _batch_size(config: Config, splits: Splits, device: torch.device) -> int:
    """Images of the steps that are timed."""
    # Steps of a cheap network are all overhead, which the batch shares; others take long enough with few images.
    cheap = device.type != "cpu" or count_described(config.network, len(splits.classes)).flops < CHEAP
    return min(config.recipe.batch_size, 64 if cheap else 8, len(splits.train) // 2 * 2)


def _time_steps(setup: Setup, batch: int, started: float) -> tuple[float, float]:
    """Seconds of an image in training, and seconds from the start until two steps are done."""
    done, epoch, warm = -2, 0, started
    while True:
        setup.order.epoch, batches = epoch, iter(setup.loader)
        for step in range(setup.order.steps):
            setup.step(epoch, step, [next(batches) for _ in range(setup.order.micro_batches)]).cpu()
            done += 1
            if done == 0:
                warm = time.perf_counter()
            elif done >= 3 and time.perf_counter() - warm > TIMED:
                return (time.perf_counter() - warm) / (done * batch), warm - started
        epoch += 1


def _spread(images: Images, most: int) -> Images:
    """At most `most` of the images, spread over all."""
    return Subset(images, np.linspace(0, len(images) - 1, min(most, len(images))).astype(np.int64))


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
