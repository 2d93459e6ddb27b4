"""How fast a run is on this machine: a few steps are made and timed as the run will make them.

They are made by a run's own step and loop, in as many processes at once as runs will go on at once, for these share the
caches, the memory and often the clock of the processor: two at once are each slower than one alone.
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
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from torch.nn.functional import cross_entropy
from torch.utils.tensorboard import SummaryWriter

from ffvit.config.architecture import Network
from ffvit.config.hardware import Hardware
from ffvit.config.recipe import Recipe
from ffvit.data.images import Images, Subset
from ffvit.data.splits import Splits
from ffvit.errors import OutOfMemoryError
from ffvit.hardware.devices import device_type
from ffvit.hardware.launch import start_fabric
from ffvit.hardware.precision import autocast, resolve_precision
from ffvit.models.create import create_model, preprocess_of
from ffvit.profiling.memory import activation_bytes
from ffvit.run_folder import Config, Run
from ffvit.signals import WARNINGS, StopSignals, block_signals_in_children, defer_signals
from ffvit.study.matching import count_arm
from ffvit.training.auto_tuning import STATE
from ffvit.training.checkpoint import Progress
from ffvit.training.loop import Trainer
from ffvit.training.progress import TrainingDisplay
from ffvit.training.setup import Setup, set_up

START = 0.5
"""Seconds of a run that are not timed here: its process starts and ends, images are listed, the summary is written."""

TIMED = 0.7
"""Seconds for which steps are timed, about, after two that warm up."""

CHEAP = 1e8
"""FLOPs of an image, below which steps of 64 images are timed on a CPU rather than of 8."""

COST_ROUNDS = 5
"""Of the measurement of what an arm costs to use: see `costs.measure`."""

MOST_AT_ONCE = 8
"""Processes that measure at the same time, at most: more share nothing that these do not."""


@dataclass(frozen=True)
class RunEstimate:
    """What one run will take.

    Attributes:
        seconds: From start to end.
        memory: MiB that its network and one batch need, at most.
    """

    seconds: float
    memory: float


@dataclass(frozen=True)
class Speed:
    """What the parts of a run take on this machine, in seconds; and the bytes that it keeps.

    Attributes:
        start: Once, until the first step, with two steps that warm up.
        train: An image trained on: loaded, augmented, its share of the step.
        load: An image loaded to be scored.
        answer: An image scored.
        epoch: The end of an epoch, scoring aside: the checkpoint is written.
        kept: Bytes that a step keeps of each image.
        state: Bytes of the weights and their like.
    """

    start: float
    train: float
    load: float
    answer: float
    epoch: float
    kept: float
    state: float

    def run(self, recipe: Recipe, splits: Splits) -> RunEstimate:
        """What a run by this recipe will take, on these images."""
        validation = len(splits.validation) if splits.validation is not None else 0
        scored = 2 if recipe.ema_decay is not None else 1
        # The validation split is loaded once, and scored once more at the end, then the test split.
        last = validation * (self.load + self.answer) + len(splits.test) * (self.load + self.answer)
        seconds = recipe.epochs * (len(splits.train) * self.train + scored * validation * self.answer + self.epoch)
        if recipe.minutes is not None:
            seconds = 60 * recipe.minutes
        return RunEstimate(START + self.start + seconds + last, (self.state + recipe.batch_size * self.kept) / 2**20)

    @property
    def costs(self) -> float:
        """Seconds in which the cost of using its network is measured, at the end of a study."""
        return COST_ROUNDS * (23 * max(self.answer, 0.002) + max(0.3, 6 * 64 * self.answer))


_measured: dict[Any, Speed] = {}


def measure(
    network: Network, recipe: Recipe, splits: Splits, threads: int, hardware: Hardware, at_once: int = 1
) -> Speed:
    """Do a few steps of a run, score a few images, end an epoch, and time each; what was measured once is kept.

    Args:
        network: What is trained.
        recipe: How; its length and its learning rate do not matter.
        splits: The images.
        threads: Processor threads of each run.
        hardware: What one run computes on.
        at_once: How many runs are in progress at once; on GPUs each has its own, so there one is measured alone.

    Raises:
        UserError: The network or the recipe cannot be had.
        OutOfMemoryError: Memory ran out.
    """
    on_processor = device_type(hardware) == "cpu"
    alike = {"epochs": 100, "minutes": None, "warmup_epochs": 1, "cooldown_epochs": 0, "lr": 1e-3}
    average = None if recipe.ema_decay is None else 0.9
    recipe = recipe.replace(**alike, ema_decay=average, balance="none", teacher=None)
    workers = threads - 1 if hardware.workers is None and on_processor else hardware.workers
    alone = hardware.replace(devices=1, nodes=1, strategy="ddp", compile="never", workers=workers)
    key = (network.to_yaml(), recipe.to_yaml(), alone.to_yaml(), splits.account, threads, at_once)
    if key not in _measured:
        at_once = min(at_once, MOST_AT_ONCE) if on_processor else 1
        found = _at_once(at_once, Config(network=network, recipe=recipe, hardware=alone), splits, threads)
        mean = {each.name: float(np.mean([getattr(one, each.name) for one in found])) for each in fields(Speed)}
        speed = Speed(**mean)
        _measured[key] = replace(speed, train=speed.train / (hardware.devices * hardware.nodes))
    return _measured[key]


def _at_once(count: int, *work: Any) -> list[Speed]:
    """What so many processes measure at the same time; forked off the server that runs will be forked off, too."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ffvit.training.train"])
    try:
        with (
            _temporary_folder() as folder,
            ProcessPoolExecutor(count, context, _leave_with_parent, (folder,)) as children,
        ):
            # Half begun, the pool would not wait for its processes, which would miss the semaphores they share.
            with defer_signals(*WARNINGS), block_signals_in_children():
                measured = [children.submit(_measure_here, *(*work, folder)) for _ in range(count)]
            return [each.result() for each in measured]
    except BrokenProcessPool:
        raise OutOfMemoryError(
            "the process that timed a few steps was ended by the system, as it does when memory runs out: use fewer "
            "--workers, a smaller --batch-size or a smaller --image"
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


def _leave_with_parent(folder: Path) -> None:
    """End this process as soon as its parent is gone, or told to; the pool's own would wait for more to do for ever."""
    for number in WARNINGS:  # a process that is forked has its parent's handlers, which wait until all have begun
        signal.signal(number, signal.SIG_DFL)
    parent: Any = multiprocessing.parent_process()

    def leave() -> None:
        wait([parent.sentinel])
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what still writes to the folder fails
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


def _measure_here(config: Config, splits: Splits, threads: int, folder: Path) -> Speed:
    """What a run takes, measured in this process; `folder` is where its run folder is made."""
    torch.set_num_threads(threads)
    began = time.perf_counter()
    device = torch.device(device_type(config.hardware))
    model = create_model(
        config.network, len(splits.classes), drop_path=config.recipe.drop_path, dropout=config.recipe.dropout
    )
    takes = preprocess_of(model)
    batch = _batch(config, splits, device)
    config = config.replace(recipe=config.recipe.replace(batch_size=batch))
    few = Splits(splits.classes, _some(splits.train, 8 * batch), None, _some(splits.test, 256), "")
    display = TrainingDisplay(Console(file=io.StringIO()), shown=False)
    setup = set_up(start_fabric(config.hardware), config, model, None, few, display.say)
    run = Run.create(Path(tempfile.mkdtemp(dir=folder)), config)
    train, started = _steps(setup, batch, began)
    images = few.test if 256 * train < 3 * TIMED else _some(few.test, 16)
    evaluator = setup.evaluator(images)
    load = _seconds(lambda: evaluator.batches) / len(images)
    evaluator(setup.step.plain)
    answer = _seconds(partial(evaluator, setup.step.plain)) / len(images)
    with SummaryWriter(str(run.path / "tensorboard")) as curves:
        trainer = Trainer(setup, run, Progress(losses=[0.0]), display, StopSignals(display.say), curves)
        epoch = _seconds(partial(trainer.end_epoch, 1.0))
    some = torch.rand(batch, takes.in_chans, *takes.img_size, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    with autocast(resolve_precision(config.hardware), device):
        kept = activation_bytes(lambda: cross_entropy(model(some), labels), model) / batch
    state = float(sum(each.nbytes for each in model.parameters()) * STATE)
    return Speed(started, train, load, answer, epoch, kept, state)


def _batch(config: Config, splits: Splits, device: torch.device) -> int:
    """Images of the steps that are timed."""
    # Steps of a cheap network are all overhead, which the batch shares; others take long enough with few images.
    cheap = device.type != "cpu" or count_arm(config.network, len(splits.classes)).flops < CHEAP
    return min(config.recipe.batch_size, 64 if cheap else 8, len(splits.train) // 2 * 2)


def _steps(setup: Setup, batch: int, began: float) -> tuple[float, float]:
    """Seconds of an image in training, and seconds from the beginning until steps are warm."""
    done, epoch, warm = -2, 0, began
    while True:
        setup.order.epoch, batches = epoch, iter(setup.loader)
        for step in range(setup.order.steps):
            setup.step(epoch, step, [next(batches) for _ in range(setup.order.micro_batches)]).cpu()
            done += 1
            if done == 0:
                warm = time.perf_counter()
            elif done >= 3 and time.perf_counter() - warm > TIMED:
                return (time.perf_counter() - warm) / (done * batch), warm - began
        epoch += 1


def _some(images: Images, most: int) -> Images:
    """Up to so many of the images, spread over all."""
    return Subset(images, np.linspace(0, len(images) - 1, min(most, len(images))).astype(np.int64))


def _seconds(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
