"""Does a study's jobs: as many at once as fit, skips finished ones, and one failure does not stop the study."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from ffvit.config.hardware import Hardware
from ffvit.hardware.devices import available_cores, device_type, free_memory, visible_gpus
from ffvit.hardware.processes import fork_server, starting_processes
from ffvit.signals import StopSignals
from ffvit.study.folder import Study
from ffvit.study.jobs import Job
from ffvit.study.live_display import LiveDisplay
from ffvit.study.run_job import Outcome, process_main

REFRESH = 0.5
"""Seconds between updates of the display."""


@runtime_checkable
class Engine(Protocol):
    """Where jobs run: this machine, or a cluster."""

    @property
    def at_once(self) -> int:
        """How many jobs run at once."""

    def submit(self, job: Job) -> Future[Outcome]:
        """Start a job; there is room for it."""

    def stop(self) -> None:
        """Ask all jobs to save and stop."""

    def close(self) -> None:
        """End all jobs at once; what they saved is kept."""


def run_jobs(
    study: Study, startable: Callable[[Set[Path]], Sequence[Job]], engine: Engine, display: LiveDisplay
) -> frozenset[Path]:
    """Do all jobs that can be done, and return the folders of those that failed for good.

    `startable` returns the jobs that can begin now, in order, given the folders of those that failed for good; it is asked
    again whenever a job has ended.

    Raises:
        RunStoppedError: Someone asked to stop; all runs have saved.
    """
    failed: set[Path] = set()
    retries: dict[Path, Job] = {}
    running: dict[Future[Outcome], Job] = {}
    stopping = False
    with StopSignals(display.say) as stop:
        while True:
            if not stop.asked:
                busy = {job.folder for job in running.values()}
                ready = [job for job in startable(failed) if job.folder not in busy | failed and not job.finished()]
                for job in ready[: engine.at_once - len(running)]:
                    job = retries.get(job.folder, job)
                    running[engine.submit(job)] = job
            if not running:
                break
            done: set[Future[Outcome]] = set()
            while not done:
                display.update(list(running.values()))
                if stop.asked and not stopping:
                    engine.stop()
                    stopping = True
                done, _ = wait(running, REFRESH, FIRST_COMPLETED)
            for future in [future for future in running if future in done]:
                job, outcome = running.pop(future), future.result()
                display.ended(job, outcome)
                if outcome.status == "done" or stop.asked:
                    continue
                study.note_failure(job, outcome.reason)
                if outcome.status == "refused" or job.folder in retries:
                    failed.add(job.folder)
                    display.say(f"{job.title} failed: {outcome.reason} (its log is in {study.logs})")
                else:
                    retries[job.folder] = retry = _with_smaller_micro_batch(job)
                    images = retry.config.hardware.micro_batch
                    display.say(f"{job.title} failed: {outcome.reason}. Trying once more, {images} images at a time")
        if stop.asked:
            raise stop.error(f"stopped; every run has saved. Resume with: ffvit compare --study {study.path} --resume")
    return frozenset(failed)


def _with_smaller_micro_batch(job: Job) -> Job:
    """The job with a quarter of its images at a time: the same batch, in less memory."""
    hardware, batch = job.config.hardware, job.config.recipe.batch_size
    micro_batch = max(2, (hardware.micro_batch or batch) // 4 // 2 * 2)
    return replace(job, config=job.config.replace(hardware=hardware.replace(micro_batch=micro_batch)))


@dataclass(frozen=True)
class Slots:
    """How many jobs run at once, and the CPU threads and GPUs of each."""

    count: int
    threads: int
    gpus: int


def slots_for(hardware: Hardware, jobs: int, memory: float, workers: int | None, threads: int) -> Slots:
    """As many jobs at once as there are GPUs, or as fit in CPU and RAM where one needs `memory` MiB; or `workers`, if given."""
    on_gpu = device_type(hardware) == "cuda"
    if on_gpu:
        most = max(1, torch.cuda.device_count() // hardware.devices)
    else:
        free = free_memory(torch.device("cpu")) / 2**20
        most = max(1, min(available_cores() // threads, int(0.8 * free / max(memory, 1.0))))
    return Slots(max(1, min(workers or most, jobs)), threads, hardware.devices if on_gpu else 0)


class Local:
    """Runs jobs on this machine, each in a process forked off a server that has everything imported already."""

    def __init__(self, slots: Slots, logs: Path) -> None:
        self.slots, self.logs = slots, logs
        self._context = fork_server("ffvit.training.train")
        self._processes: dict[int, Any] = {}  # by slot
        self._waiters = ThreadPoolExecutor(slots.count)

    @property
    def at_once(self) -> int:
        """How many jobs run at once."""
        return self.slots.count

    def submit(self, job: Job) -> Future[Outcome]:
        """Start a job on a free slot."""
        slot = next(slot for slot in range(self.slots.count) if slot not in self._processes)
        environment = {}
        if self.slots.count > 1 and self.slots.gpus:
            visible, first = visible_gpus(), slot * self.slots.gpus
            gpus = [visible[number % len(visible)] for number in range(first, first + self.slots.gpus)]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        receiver, sender = self._context.Pipe(duplex=False)
        arguments = (
            sender,
            environment,
            job.config,
            job.folder,
            self.logs / log_name(job),
            self.slots.threads,
            job.corruptions,
        )
        process: Any = self._context.Process(target=process_main, args=arguments, name=job.title)
        with starting_processes():
            process.start()
        sender.close()
        self._processes[slot] = process
        return self._waiters.submit(self._outcome, slot, receiver)

    def stop(self) -> None:
        """Ask all jobs to save and stop."""
        self._signal(signal.SIGTERM)

    def close(self) -> None:
        """End all jobs at once; what they saved is kept."""
        self._signal(signal.SIGKILL)
        self._waiters.shutdown()

    def _signal(self, number: int) -> None:
        for process in list(self._processes.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)

    def _outcome(self, slot: int, receiver: Connection) -> Outcome:
        """Wait for a job's process; what it sent at its end, or what its exit code means."""
        process = self._processes[slot]
        process.join()
        del self._processes[slot]
        with receiver, contextlib.suppress(EOFError):
            if receiver.poll():
                outcome: Outcome = receiver.recv()
                return outcome
        code = process.exitcode or 0
        if code >= 0:
            return Outcome("crashed", f"its process ended with code {code}")
        memory = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
        reason = f"killed by {signal.Signals(-code).name}{memory}"
        return Outcome("stopped" if -code == signal.SIGTERM else "crashed", reason)


def log_name(job: Job) -> str:
    """The name of a job's log file."""
    return "-".join(job.folder.parts[-3:]) + ".log"
