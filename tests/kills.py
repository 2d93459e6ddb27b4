"""`ffvit ...` started, killed at any moment, and given again.

Processes are forked off a server that has all imported already: a start takes a tenth of a second, so that kills fall into
the work itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures.process import _python_exit
from pathlib import Path
from typing import Any

import psutil
import torch

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "ffvit.cli",
        "ffvit.training.train",
        "ffvit.study.compare",
        "ffvit.data.prepare.prepare",
        "ffvit.data.check.check",
        "ffvit.inference.predict",
    ]
)

STOPS = {signal.SIGINT: (1, 130), signal.SIGTERM: (75, -signal.SIGTERM), signal.SIGUSR1: (75, -signal.SIGUSR1)}
"""Exit codes of a command that was asked to stop: in the middle of its work, or before it began."""


class Command:
    """A command in a process group of its own.

    Args:
        arguments: As a person types them.
        log: Where its words go.
        change: Called in the new process before the command, to inject faults or to listen.
    """

    def __init__(self, arguments: Sequence[object], log: Path, change: Callable[[], None] | None = None) -> None:
        self.log = log
        words = [str(each) for each in arguments]
        self.process: Any = CONTEXT.Process(target=_begin, args=(words, log, change))
        self.process.start()

    @property
    def alive(self) -> bool:
        return self.process.is_alive()

    def wait(self, seconds: float = 120) -> int:
        """Its exit code; negative if a signal ended it."""
        self.process.join(seconds)
        assert not self.alive, f"still there after {seconds} s: {self.log.read_text()}"
        return int(self.process.exitcode)

    def kill(self, number: int, group: bool) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended, or has not yet become a group
            (os.killpg if group else os.kill)(self.process.pid, number)

    def left(self) -> list[int]:
        """Processes that it started and that are still there: of its session, and no zombies."""
        left = []
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(process.pid)
        return left

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def _begin(words: list[str], log: Path, change: Callable[[], None] | None) -> None:
    from ffvit.cli import main

    multiprocessing.set_start_method(None, force=True)  # loading processes are started as in any command
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the server may be a study's, started where signals are held back
    signal.signal(signal.SIGINT, signal.default_int_handler)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    sys.argv = ["ffvit", *words]
    os.environ["COLUMNS"] = "300"
    torch.set_num_threads(1)
    if change is not None:
        change()
    os.setsid()
    try:
        main()
    finally:
        _python_exit()  # as at any interpreter's end: pools end before the semaphores are removed that they share


def run(arguments: Sequence[object], log: Path, change: Callable[[], None] | None = None) -> float:
    """Run a command to its end; how many seconds it took."""
    began = time.monotonic()
    command = Command(arguments, log, change)
    code = command.wait(600)
    assert code == 0, (code, command.said())
    return time.monotonic() - began


def killed_until_done(
    begin: Sequence[object],
    go_on: Callable[[], Sequence[object]],
    log: Path,
    seconds: float,
    draw: random.Random,
    change: Callable[[], None] | None = None,
    done: Callable[[], bool] = lambda: False,
    signals: Sequence[int] = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1),
    most: int = 8,
    latest: float = 0.6,
) -> int:
    """Give a command again and again, killed at random moments; the last time it is left alone. How often it was killed.

    Args:
        begin: The command.
        go_on: The command to be given again.
        log: Where its words go.
        seconds: What it takes undisturbed.
        draw: Of moments and signals.
        change: See `Command`.
        done: Whether it was killed after all its work.
        signals: To draw from.
        most: So often it is killed at most.
        latest: The latest moment of a kill, as a share of `seconds`.
    """
    kills, arguments = 0, begin
    killed: list[Command] = []
    while True:
        command, struck = Command(arguments, log, change), False
        if kills < most:
            command.process.join(draw.uniform(0, latest * seconds))
            if command.alive:
                number, group, struck = draw.choice(signals), draw.random() < 0.5, True
                command.kill(number, group)
        code = command.wait(300)
        killed.append(command)
        assert "Traceback" not in command.said(), command.said()
        if code == 0:
            wait_until_gone(killed)
            return kills
        assert struck, (code, command.said())
        expected = (-signal.SIGKILL,) if number == signal.SIGKILL else STOPS[signal.Signals(number)]
        assert code in expected, (signal.Signals(number).name, group, code, command.said())
        kills += 1
        if done():
            wait_until_gone(killed)
            return kills
        arguments = go_on()


def wait_until_gone(commands: Sequence[Command], seconds: float = 20) -> None:
    """Until no process is left of those that commands started."""
    until = time.monotonic() + seconds
    while left := [pid for command in commands for pid in command.left()]:
        told = [" ".join(psutil.Process(pid).cmdline()) for pid in left if psutil.pid_exists(pid)]
        assert time.monotonic() < until, f"still there after {seconds} s: {told}"
        time.sleep(0.1)


def listen_to_steps(path: Path) -> None:
    """Note a hash of gradients and weights of every step a training makes."""
    from ffvit.training import step as steps

    make, build, now = steps.TrainStep.__call__, steps.build_optimizer, [""]

    def stepping(self: steps.TrainStep, epoch: int, number: int, batches: Any) -> Any:
        now[0] = f"{epoch} {number}"
        try:
            return make(self, epoch, number, batches)
        finally:
            now[0] = ""

    def hashed(tensors: Any) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for each in tensors:
            digest.update(each.detach().contiguous().numpy().data)
        return digest.hexdigest()

    def built(network: Any, recipe: Any) -> Any:
        optimizer = build(network, recipe)
        weights = list(network.parameters())

        def before(*_: Any) -> None:
            now[0] += " " + hashed(each.grad for each in weights if each.grad is not None)

        def after(*_: Any) -> None:
            if now[0].startswith(" "):  # no step of a training: PyTorch makes an empty one before it puts a state back
                now[0] = ""
                return
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(file, f"{now[0]} {hashed(weights)}\n".encode())  # at once: a kill leaves no half of a line
            os.close(file)

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)
        return optimizer

    steps.TrainStep.__call__, steps.build_optimizer = stepping, built  # type: ignore[method-assign]


def steps_of(path: Path) -> dict[str, set[str]]:
    """The hashes of each step, of all times it was made."""
    steps: dict[str, set[str]] = {}
    for line in path.read_text().splitlines():
        epoch, number, *hashes = line.split()
        steps.setdefault(f"{epoch} {number}", set()).add(" ".join(hashes))
    return steps


def assert_same_run(one: Any, other: Any) -> None:
    """Nothing differs between two finished runs but what a clock or the machine's memory decides."""
    assert rows_of(one) == rows_of(other)
    for file in ("best.safetensors", "last.safetensors", "predictions.csv"):
        assert (one.path / file).read_bytes() == (other.path / file).read_bytes(), file
    summaries = [{**run.summary(), "seconds": None, "peak_memory_mib": None} for run in (one, other)]
    assert summaries[0] == summaries[1]


def rows_of(run: Any) -> list[dict[str, Any]]:
    """A run's metrics without those that a clock decides."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in run.metrics()]
