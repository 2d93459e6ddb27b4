"""A study from its plan to its report: forecast, jobs, results, findings, report."""

from __future__ import annotations

import time
from collections.abc import Sequence, Set
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ffvit.data.split_record import record_split, write_record
from ffvit.data.splits import Splits, open_splits
from ffvit.errors import DiskFullError, RunFolderError, RunStoppedError
from ffvit.files.atomic_write import is_disk_full
from ffvit.files.lock import FolderLock
from ffvit.signals import exit_on_signal
from ffvit.study import costs
from ffvit.study.arms import make_comparisons
from ffvit.study.baselines import measure_baselines
from ffvit.study.conclude import conclude
from ffvit.study.executor import Engine, Local, run_jobs
from ffvit.study.findings import Findings
from ffvit.study.folder import Study, StudyInputs
from ffvit.study.forecast import Forecast, make_forecast, show_forecast
from ffvit.study.jobs import Job, Searches, all_jobs, look_count, make_runs, seeds_at, splits_of
from ffvit.study.live_display import LiveDisplay
from ffvit.study.next_steps import write_ablation
from ffvit.study.plan import Plan
from ffvit.study.ray_executor import Cluster, connect
from ffvit.study.report.terminal import summary_table
from ffvit.study.report.write import write_report
from ffvit.study.results import read_results, write_results
from ffvit.study.time_estimate import trials
from ffvit.terminal import Terminal, track

LATEST = 1.05
"""Times the plan's minutes: a seed that would end later is not begun. At 1, a study 1 % slower than predicted would lose one."""


def compare(
    plan: Plan,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
    cluster: str | None = None,
    console: Console | None = None,
) -> Findings:
    """Do a study: its runs, what they show, and the report.

    Args:
        plan: What it is.
        out: The study folder.
        resume: Resume the study in that folder; finished runs are skipped.
        overwrite: Replace a study folder that exists.
        workers: Runs at once on this machine. Default: one a GPU, or as many as fit in CPU and RAM.
        cluster: Address of a Ray cluster to run on (`auto`: the one this machine belongs to).
        console: Where to show progress.

    Returns:
        What it found; also in `report.html`, `report.md` and `results.csv` in the folder.

    Raises:
        UserError: Something that was given cannot be used.
        RunStoppedError: The study was interrupted, or runs failed (the report of the others is written).
    """
    console = console or Terminal()
    stopped = f"stopped; every finished run is kept. Resume with: ffvit compare --study {out} --resume"
    if not resume:
        stopped += ", or with the same command if there is no study folder yet"
    try:
        with exit_on_signal(stopped):
            return _compare(plan, Path(out), resume, overwrite, workers, cluster, console)
    except OSError as error:
        if is_disk_full(error):
            raise DiskFullError("the disk is full: free some space, then resume with --resume") from None
        raise


def report(folder: str | Path, console: Console | None = None) -> Findings:
    """Make the report of a study anew, from its runs alone.

    Raises:
        UserError: It is no study folder, or no run of it was begun.
    """
    study = Study(folder)
    inputs = study.inputs()
    if inputs is None:
        raise RunFolderError(f"{study.path}: this study was not begun yet: ffvit compare --study {study.path} --resume")
    return _report(study, inputs, console or Terminal())


def _compare(
    plan: Plan, out: Path, resume: bool, overwrite: bool, workers: int | None, cluster: str | None, console: Console
) -> Findings:
    started = time.monotonic()
    if not resume:
        Study.check_writable(out, plan, overwrite)
    study = Study(out) if resume else None
    lock = FolderLock(out, "study")
    if study is not None:
        lock.acquire()
    try:
        if study is not None:
            study.remove_leftovers()
            study.check(plan)
        forecast = make_forecast(plan, workers, study)
        show_forecast(plan, forecast, console)
        ray = connect(cluster) if cluster is not None else None  # before anything is written
        if study is None:
            study = Study.create(out, plan, overwrite, lock)
        inputs, slots = forecast.inputs, forecast.estimate.slots
        _write_inputs(study, plan, forecast)
        engine: Engine = Local(slots, study.logs)
        if ray is not None:
            engine = Cluster(ray, plan.hardware, inputs.threads, study.logs)
        try:
            _measure_baselines(study, plan, forecast.splits, console)
            with LiveDisplay(console, engine.at_once) as display:
                failed = _run_all(study, plan, inputs, engine, display, started)
        finally:
            engine.close()
        _measure_costs(study, plan, inputs, console)
        findings = _report(study, inputs, console)
    finally:
        lock.release()
    failures = [folder for folder in failed if folder.is_relative_to(study.path / "runs")]
    if failures:
        raise RunStoppedError(
            f"{len(failures)} run{'s' * (len(failures) > 1)} failed; the report says so and is of the others. "
            f"Their logs are in {study.logs}; --resume tries them again"
        )
    return findings


def _write_inputs(study: Study, plan: Plan, forecast: Forecast) -> None:
    """Write what the runs depend on, unless runs that are there depend on something else."""
    for job in all_jobs(plan, forecast.inputs.matched.arms, study.path, study.failed()):
        job.check()
    study.replan(plan)
    study.write_inputs(forecast.inputs)
    if not study.split_file.is_file():
        write_record(record_split(forecast.splits, plan.data.source), study.split_file)


def _run_all(
    study: Study, plan: Plan, inputs: StudyInputs, engine: Engine, display: LiveDisplay, started: float
) -> frozenset[Path]:
    """Every repetition's searches and runs: once, or look by look until every comparison is conclusive."""
    arms, rounds = inputs.matched.arms, _Rounds(plan, display, started)
    searches, failed_before = Searches(plan, arms, study.path), study.failed()
    failed: frozenset[Path] = frozenset()
    for count in look_count(plan):
        runs = make_runs(plan, arms, study.path, seeds_at(plan, count))
        display.begin(runs, round(trials(plan, plan.recipe)))
        rounds.plan(runs)

        def startable(failed: Set[Path], runs: Sequence[Job] = runs) -> list[Job]:
            return searches.startable([run for run in runs if rounds.may_begin(run)], failed, failed_before)

        failed |= run_jobs(study, startable, engine, display)
        if plan.sequential:
            left = [comparison for comparison in _conclude(study, inputs).comparisons if not comparison.conclusive]
            if not left:
                display.say(f"conclusive with {count} seeds")
                break
            display.say(f"{count} seeds: {len(left)} comparison{'s' * (len(left) > 1)} inconclusive")
    return failed


class _Rounds:
    """Lets rounds of seeds begin while there is time for them: a round that is not whole is no evidence."""

    def __init__(self, plan: Plan, display: LiveDisplay, started: float) -> None:
        self._plan, self._display, self._started = plan, display, started
        self._runs: Sequence[Job] = ()
        self._begun: set[int] = set()
        self._refused: set[int] = set()

    def plan(self, runs: Sequence[Job]) -> None:
        """Set the runs that there are to do."""
        self._runs = runs
        self._begun |= {run.seed for run in runs if run.seed == self._plan.seeds[0] or run.folder.exists()}

    def may_begin(self, run: Job) -> bool:
        """Whether a run may begin: its round has begun, or there is time for the whole round."""
        if self._plan.minutes is None or run.seed in self._begun:
            return True
        if run.seed in self._refused:
            return False
        seeds = {*self._begun, run.seed}
        needed = self._display.round_seconds(sum(run.seed in seeds and not run.finished() for run in self._runs))
        if needed is None:  # not known before a first run has ended
            return False
        if LATEST * 60 * self._plan.minutes - (time.monotonic() - self._started) < needed:
            if not self._refused:
                self._display.say(
                    f"the {self._plan.minutes:g} minutes leave no time for seed {run.seed} and what follows "
                    "(--resume would add them)"
                )
            self._refused |= {run.seed for run in self._runs} - self._begun
            return False
        self._begun.add(run.seed)
        return True


def _measure_baselines(study: Study, plan: Plan, splits: Splits, console: Console) -> None:
    """Measure what trivial methods reach, on the split of every repetition; `splits` is that of the plan's data."""
    if not plan.controls or plan.folds is not None:
        return
    known = study.baselines()
    seeds = [seed for seed in plan.seeds if str(seed) not in known]
    for seed in track(seeds, "trivial baselines", console):
        data = plan.data.replace(split_seed=splits_of(plan, seed)[0][0])
        baselines = measure_baselines(splits if data == plan.data else open_splits(data), seed)
        known[str(seed)] = {
            baseline.name: {"top1": baseline.accuracy, "images": len(baseline.correct), "seconds": baseline.seconds}
            for baseline in baselines
        }
        study.write_baselines(known)


def _measure_costs(study: Study, plan: Plan, inputs: StudyInputs, console: Console) -> None:
    """Measure the arms' costs once, with nothing else running."""
    known, arms = study.costs().get("arms", {}), inputs.matched.arms
    if not all(arm.name in known for arm in arms):
        study.write_costs(costs.measure(arms, inputs.classes, plan.hardware, console))


def _conclude(study: Study, inputs: StudyInputs) -> Findings:
    """The findings of the runs so far; their results are written, and noted in the ledger as seen.

    Raises:
        UserError: A run in the folder is not the plan's, or runs of a pair predicted different images.
    """
    plan, arms = study.plan, inputs.matched.arms
    study.check(plan)
    jobs = all_jobs(plan, arms, study.path, study.failed())
    for job in jobs:
        job.check()
    results = read_results(jobs)
    write_results(study, plan, arms, results, inputs.classes)
    study.ledger.note_report(
        {str(result.job.folder.relative_to(study.path)): float(result.correct.mean()) for result in results}
    )
    return conclude(study, inputs, jobs, results)


def _report(study: Study, inputs: StudyInputs, console: Console) -> Findings:
    """The findings, written as a report and shown."""
    study.note_plan()
    write_ablation(study.path, study.plan, inputs.matched.arm(make_comparisons(study.plan, inputs.matched.arms)[0][0]))
    findings = _conclude(study, inputs)
    page = write_report(findings)
    console.print(Text(f"report: {page}"), soft_wrap=True)
    console.print(summary_table(findings), crop=False)
    return findings
