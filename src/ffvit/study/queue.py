"""Doing a study's runs: as many at once as there is room for, none twice, one failure never the end of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from ffvit.errors import RunStoppedError
from ffvit.study.folder import Study
from ffvit.study.jobs import Job
from ffvit.study.watch import Watch
from ffvit.study.work import Outcome
from ffvit.training.interruption import Interruption

LOOK_EVERY = 0.5
"""Seconds between looks at the runs."""


@runtime_checkable
class Engine(Protocol):
    """What runs are done on: this machine, or a cluster."""

    @property
    def at_once(self) -> int:
        """How many runs go on at once."""
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
        """The runs that go on."""
        ...

    def stop(self) -> None:
        """Ask all runs to save and stop."""
        ...

    def close(self) -> None:
        """End all runs at once."""
        ...


def work_off(
    study: Study,
    jobs: Sequence[Job],
    engine: Engine,
    watch: Watch,
    may_begin: Callable[[Job], bool] = lambda _: True,
) -> None:
    """Do all jobs that are not done, in order.

    Args:
        study: Where failures are noted.
        jobs: What to do.
        engine: What it is done on.
        watch: Shows it to a person.
        may_begin: Asked before each job: False leaves it out.

    Raises:
        RunStoppedError: Someone asked to stop; all runs have saved.
    """
    waiting = [job for job in jobs if not job.finished()]
    again: set[str] = set()
    told = False
    with Interruption(watch.say) as interruption:
        while (waiting and not interruption.asked) or engine.running():
            while waiting and engine.free and not interruption.asked:
                job = waiting.pop(0)
                if may_begin(job):
                    engine.start(job)
            if interruption.asked and not told:
                engine.stop()
                told = True
            for job, outcome in engine.ended(LOOK_EVERY):
                watch.ended(job, outcome)
                if outcome.status == "done" or interruption.asked:
                    continue
                study.note_failure(job, outcome.reason)
                if outcome.status == "refused" or job.title in again:
                    watch.say(f"{job.title} failed: {outcome.reason} (its log is in {study.logs})")
                    continue
                again.add(job.title)
                smaller = _smaller(job)
                watch.say(
                    f"{job.title} failed: {outcome.reason}. Once more, "
                    f"{smaller.config.machine.micro_batch} images at a time"
                )
                waiting.insert(0, smaller)
            watch.look(engine.running(), waiting)
        if interruption.asked:
            raise RunStoppedError(
                f"stopped; every run has saved. Go on with: ffvit compare --study {study.path} --resume"
            )


def _smaller(job: Job) -> Job:
    """The run with a quarter of its images at a time: the same batch, in less memory."""
    machine, batch = job.config.machine, job.config.recipe.batch_size
    micro = max(2, (machine.micro_batch or batch) // 4 // 2 * 2)
    config = job.config.replace(machine=machine.replace(micro_batch=micro))
    return Job(job.arm, job.seed, job.fold, job.trial, config, job.folder)
