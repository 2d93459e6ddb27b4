"""Doing a study's runs: as many at once as there is room for, none twice, one failure never the end of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Protocol, runtime_checkable

from ffvit.signals import StopSignals
from ffvit.study.folder import Study
from ffvit.study.jobs import Job
from ffvit.study.live_display import LiveDisplay
from ffvit.study.run_job import Outcome

LOOK_EVERY = 0.5
"""Seconds between looks at the runs."""


@runtime_checkable
class Engine(Protocol):
    """What runs are done on: this machine, or a cluster."""

    @property
    def at_once(self) -> int:
        """How many runs are in progress at once."""
        ...

    @property
    def free(self) -> bool:
        """Whether another run may start."""
        ...

    def start(self, job: Job) -> None:
        """Start a run."""
        ...

    def ended(self, seconds: float) -> list[tuple[Job, Outcome]]:
        """Wait so long at most for runs to end, and hand back those that did."""
        ...

    def running(self) -> list[Job]:
        """The runs in progress."""
        ...

    def stop(self) -> None:
        """Ask all runs to save and stop."""
        ...

    def close(self) -> None:
        """End all runs at once."""
        ...


def run_jobs(
    study: Study, startable: Callable[[Set[Path]], Sequence[Job]], engine: Engine, watch: LiveDisplay
) -> frozenset[Path]:
    """Do all runs that there are to do.

    Args:
        study: Where failures are noted.
        startable: The runs that can begin now, in order; asked again whenever one has ended. It is given the folders of
            those that failed for good.
        engine: What the runs are done on.
        watch: Shows it to a person.

    Returns:
        The folders of the runs that failed for good.

    Raises:
        RunStoppedError: Someone asked to stop; all runs have saved.
    """
    failed: set[Path] = set()
    again: dict[Path, Job] = {}
    told = False
    with StopSignals(watch.say) as interruption:
        while True:
            busy = {job.folder for job in engine.running()}
            ready = [] if interruption.asked else startable(failed)
            waiting = [job for job in ready if not (job.folder in busy or job.folder in failed or job.finished())]
            while waiting and engine.free:
                job = waiting.pop(0)
                engine.start(again.get(job.folder, job))
            if not engine.running():
                break
            watch.look(engine.running())  # a run's time counts from here
            if interruption.asked and not told:
                engine.stop()
                told = True
            ended: list[tuple[Job, Outcome]] = []
            while not ended and not (interruption.asked and not told):
                ended = engine.ended(LOOK_EVERY)
                watch.look(engine.running())
            for job, outcome in ended:
                watch.ended(job, outcome)
                if outcome.status == "done" or interruption.asked:
                    continue
                study.note_failure(job, outcome.reason)
                if outcome.status == "refused" or job.folder in again:
                    failed.add(job.folder)
                    watch.say(f"{job.title} failed: {outcome.reason} (its log is in {study.logs})")
                    continue
                again[job.folder] = _smaller(job)
                watch.say(
                    f"{job.title} failed: {outcome.reason}. Once more, "
                    f"{again[job.folder].config.hardware.micro_batch} images at a time"
                )
        if interruption.asked:
            raise interruption.error(
                f"stopped; every run has saved. Resume with: ffvit compare --study {study.path} --resume"
            )
    return frozenset(failed)


def _smaller(job: Job) -> Job:
    """The run with a quarter of its images at a time: the same batch, in less memory."""
    hardware, batch = job.config.hardware, job.config.recipe.batch_size
    micro = max(2, (hardware.micro_batch or batch) // 4 // 2 * 2)
    config = job.config.replace(hardware=hardware.replace(micro_batch=micro))
    return Job(job.arm, job.seed, job.fold, job.trial, config, job.folder)
