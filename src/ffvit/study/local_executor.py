"""Runs on this machine: a process each, on a slot of processor threads or GPUs."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ffvit.config.hardware import Hardware
from ffvit.hardware.devices import available_cores, device_type, free_memory, visible_gpus
from ffvit.signals import block_signals_in_children
from ffvit.study.jobs import Job
from ffvit.study.run_job import Outcome, process


@dataclass(frozen=True)
class Slots:
    """How many runs are in progress at once, and what each gets."""

    count: int
    threads: int
    gpus: int


def slots_for(hardware: Hardware, jobs: int, memory: float, workers: int | None, threads: int) -> Slots:
    """As many runs at once as there are GPUs, or as fit in CPU and RAM.

    Args:
        hardware: What one run computes on.
        jobs: How many there are to do.
        memory: What one run is predicted to need, in MiB.
        workers: How many at once, if a person says so.
        threads: Processor threads each gets.
    """
    import torch

    on_gpu = device_type(hardware) == "cuda"
    if on_gpu:
        most = max(1, torch.cuda.device_count() // hardware.devices)
    else:
        free = free_memory(torch.device("cpu")) / 2**20
        most = max(1, min(available_cores() // threads, int(0.8 * free / max(memory, 1.0))))
    count = max(1, min(workers or most, jobs))
    return Slots(count, threads, hardware.devices if on_gpu else 0)


class Local:
    """Starts runs in processes that are forked off a server which has everything imported already.

    Args:
        slots: How many at once.
        logs: The folder of their log files.
    """

    def __init__(self, slots: Slots, logs: Path) -> None:
        self.slots, self.logs = slots, logs
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["ffvit.training.train"])
        self._running: dict[int, tuple[BaseProcess, Connection, Job]] = {}

    @property
    def at_once(self) -> int:
        """How many runs are in progress at once."""
        return self.slots.count

    @property
    def free(self) -> bool:
        """Whether another run may start."""
        return len(self._running) < self.slots.count

    def start(self, job: Job) -> None:
        """Start a run on a free slot."""
        slot = next(each for each in range(self.slots.count) if each not in self._running)
        environment = {}
        if self.slots.count > 1 and self.slots.gpus:
            own = visible_gpus()
            its = (own[(slot * self.slots.gpus + each) % len(own)] for each in range(self.slots.gpus))
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(its)
        receiver, sender = self._context.Pipe(duplex=False)
        run: Any = self._context.Process(
            target=_in_process,
            args=(sender, environment, job.config, job.folder, self.logs / log_name(job), self.slots.threads),
            name=job.title,
        )
        with block_signals_in_children():
            run.start()
        sender.close()
        self._running[slot] = run, receiver, job

    def ended(self, seconds: float) -> list[tuple[Job, Outcome]]:
        """Wait so long at most for runs to end, and hand back those that did."""
        wait([run.sentinel for run, _, _ in self._running.values()], seconds)
        done = []
        for slot, (run, receiver, job) in list(self._running.items()):
            if run.is_alive():
                continue
            run.join()
            done.append((job, _outcome(receiver, run.exitcode or 0)))
            receiver.close()
            del self._running[slot]
        return done

    def running(self) -> list[Job]:
        """The runs in progress."""
        return [job for _, _, job in self._running.values()]

    def stop(self) -> None:
        """Ask all runs to save and stop."""
        for run, _, _ in self._running.values():
            run.terminate()

    def close(self) -> None:
        """End all runs at once; what they saved is kept."""
        for run, receiver, _ in self._running.values():
            run.kill()
            run.join()
            receiver.close()
        self._running.clear()


def log_name(job: Job) -> str:
    """The name of a run's log file."""
    return "-".join(job.folder.parts[-3:]) + ".log"


def _in_process(sender: Connection, environment: dict[str, str], *job: Any) -> None:
    process(sender.send, _wait_for_parent(), environment, *job)


def _wait_for_parent() -> Callable[[], Any]:
    parent: Any = multiprocessing.parent_process()
    return lambda: wait([parent.sentinel])


def _outcome(receiver: Connection, code: int) -> Outcome:
    """What a run said at its end, or what its silence means."""
    try:
        if receiver.poll():
            said: Outcome = receiver.recv()
            return said
    except EOFError:
        pass
    if code < 0:
        name = signal.Signals(-code).name
        memory = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
        return Outcome("stopped" if -code == signal.SIGTERM else "crashed", f"killed by {name}{memory}")
    return Outcome("crashed", f"its process ended with code {code}")
