from __future__ import annotations

import io
import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import Future
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from rich.console import Console

from ffvit.errors import RunStoppedError
from ffvit.run_folder import Run
from ffvit.study.arms import make_arms
from ffvit.study.executor import Local, Slots, run_jobs
from ffvit.study.folder import Study
from ffvit.study.jobs import Job, make_runs
from ffvit.study.live_display import LiveDisplay
from ffvit.study.plan import Plan
from ffvit.study.run_job import Outcome
from study_examples import BODY


@pytest.fixture
def study(tmp_path: Path) -> Study:
    recipe = {"base": "digits", "epochs": 1, "warmup_epochs": 0}
    plan = Plan(
        network=BODY, recipe=recipe, factors={"network.width": [16, 24]}, controls=False, search="none", seeds=1
    )
    return Study.create(tmp_path / "study", plan)


def jobs_of(study: Study, **recipe) -> list[Job]:
    plan = study.plan
    plan = plan.replace(recipe=plan.recipe.replace(**recipe)) if recipe else plan
    return make_runs(plan, make_arms(plan), study.path, plan.seeds)


class Scripted:
    """An engine whose runs end as they are told to."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = list(outcomes)
        self.started: list[Job] = []
        self.at_once = 1

    def submit(self, job: Job) -> Future[Outcome]:
        self.started.append(job)
        outcome, ended = self.outcomes.pop(0), Future[Outcome]()
        if outcome.status == "done":
            summary = {"test": {"top1": {"value": 0.5}}, "seconds": 1.0, "validation": None}
            Run.create(job.folder, job.config, overwrite=True).write_summary(summary)
        ended.set_result(outcome)
        return ended

    def stop(self) -> None: ...

    def close(self) -> None: ...


def quiet() -> LiveDisplay:
    return LiveDisplay(Console(file=io.StringIO()), 1)


DONE = Outcome("done")


def test_a_crash_is_tried_once_more_with_fewer_images_at_a_time(study: Study):
    engine = Scripted(Outcome("crashed", "killed"), DONE, DONE)
    run_jobs(study, lambda _: jobs_of(study), engine, quiet())
    first, again, other = engine.started
    assert again.folder == first.folder
    assert again.config.hardware.micro_batch == 16
    assert again.config.recipe == first.config.recipe
    assert other.folder != first.folder
    assert study.failures() == {"runs/width-16/seed-0": "killed"}


def test_a_second_crash_ends_the_run_and_not_the_study(study: Study):
    engine = Scripted(Outcome("crashed", "one"), Outcome("crashed", "two"), DONE)
    run_jobs(study, lambda _: jobs_of(study), engine, quiet())
    assert [job.finished() for job in jobs_of(study)] == [False, True]
    assert study.failures() == {"runs/width-16/seed-0": "two"}


def test_what_would_be_refused_again_is_not_tried_again(study: Study):
    engine = Scripted(Outcome("refused", "the loss became nan"), DONE)
    run_jobs(study, lambda _: jobs_of(study), engine, quiet())
    assert len(engine.started) == 2


def test_what_is_done_is_never_done_again(study: Study):
    run_jobs(study, lambda _: jobs_of(study), Scripted(DONE, DONE), quiet())
    engine = Scripted()
    run_jobs(study, lambda _: jobs_of(study), engine, quiet())
    assert not engine.started


def test_real_runs_in_processes_of_their_own(study: Study):
    engine = Local(Slots(2, 1, 0), study.logs)
    try:
        run_jobs(study, lambda _: jobs_of(study), engine, quiet())
    finally:
        engine.close()
    assert all(job.finished() for job in jobs_of(study))
    assert {log.name for log in study.logs.iterdir()} == {"runs-width-16-seed-0.log", "runs-width-24-seed-0.log"}
    assert "top-1" in (study.logs / "runs-width-16-seed-0.log").read_text()


def test_each_run_gets_gpus_of_the_studys_own(study: Study, monkeypatch):
    seen: list[str] = []

    class Begun:
        pid, exitcode = 0, 0

        def start(self) -> None: ...

        def join(self) -> None:
            ended.wait()

    def begin(target, args, name):
        seen.append(args[1].get("CUDA_VISIBLE_DEVICES"))
        return Begun()

    ended = threading.Event()
    monkeypatch.setattr("ffvit.study.executor.visible_gpus", lambda: ["4", "5", "7"])
    engine = Local(Slots(4, 1, 1), study.logs)
    monkeypatch.setattr(ForkServerContext, "Process", staticmethod(begin))
    for job in [*jobs_of(study), *jobs_of(study)]:
        engine.submit(job)
    ended.set()
    assert seen == ["4", "5", "7", "4"]


def test_a_run_whose_process_is_killed_goes_on_to_the_same_numbers(study: Study, tmp_path: Path):
    jobs = jobs_of(study, epochs=10)[:1]
    engine = Local(Slots(1, 1, 0), study.logs)

    def kill() -> None:
        while not (jobs[0].folder / "checkpoint" / "state.pt").exists():
            time.sleep(0.02)
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run_jobs(study, lambda _: jobs, engine, quiet())
    finally:
        engine.close()
    killer.join()
    assert "SIGKILL" in study.failures()["runs/width-16/seed-0"]

    other = Study.create(tmp_path / "undisturbed", study.plan)
    same = jobs_of(other, epochs=10)[:1]
    engine = Local(Slots(1, 1, 0), other.logs)
    try:
        run_jobs(other, lambda _: same, engine, quiet())
    finally:
        engine.close()
    predictions = [Run(job.folder).predictions_file.read_text() for job in (jobs[0], same[0])]
    assert jobs[0].finished()
    # The second try takes a quarter of the images at a time: the same up to the order of sums.
    agree = [
        one.split(",")[2] == two.split(",")[2]
        for one, two in zip(*(text.splitlines() for text in predictions), strict=True)
    ]
    assert sum(agree) / len(agree) > 0.98


def test_a_fault_of_the_plan_is_told_in_the_runs_own_words(study: Study):
    jobs = jobs_of(study, batch_size=5000)
    engine = Local(Slots(1, 1, 0), study.logs)
    try:
        run_jobs(study, lambda _: jobs, engine, quiet())
    finally:
        engine.close()
    assert "batch_size 5000 is more than the 1294 training images" in study.failures()["runs/width-16/seed-0"]


def test_asked_to_stop_runs_save_and_the_study_says_how_to_go_on(study: Study):
    jobs = jobs_of(study, epochs=500)
    engine = Local(Slots(2, 1, 0), study.logs)

    def ask() -> None:
        while not all((job.folder / "checkpoint" / "state.pt").exists() for job in jobs):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        with pytest.raises(RunStoppedError, match=r"every run has saved.*--resume"):
            run_jobs(study, lambda _: jobs, engine, quiet())
    finally:
        engine.close()
    asker.join()
    assert not any(job.finished() for job in jobs)
    assert all(Run(job.folder).metrics() for job in jobs)
    assert not study.failures()
