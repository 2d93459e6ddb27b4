"""A study from its plan to its report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from ffvit.config.hardware import Machine
from ffvit.data.split_record import check_split, record_split, write_record
from ffvit.data.splits import Splits, open_splits
from ffvit.errors import ConfigError, DiskFullError, RunFolderError, RunStoppedError
from ffvit.files.atomic_write import is_disk_full
from ffvit.files.lock import FolderLock
from ffvit.hardware.devices import available_cores
from ffvit.signals import exit_on_signal
from ffvit.study import costs
from ffvit.study.arms import make_comparisons
from ffvit.study.baselines import measure_baselines
from ffvit.study.conclude import all_jobs, conclude, look_count, outlook_of, seeds_at
from ffvit.study.executor import Engine, run_jobs
from ffvit.study.findings import Findings
from ffvit.study.folder import FORMAT, Study, StudyInputs, made_of
from ffvit.study.jobs import Job, Searches, differences, make_runs, splits_of, startable_jobs
from ffvit.study.live_display import LiveDisplay
from ffvit.study.local_executor import Local, slots_for
from ffvit.study.matching import all_arms, count_arm, match_budget
from ffvit.study.next_steps import write_ablation
from ffvit.study.plan import Plan
from ffvit.study.ray_executor import connected
from ffvit.study.report.terminal import summary_table
from ffvit.study.report.write import write_report
from ffvit.study.run_speed import RunEstimate
from ffvit.study.time_estimate import LARGE, MEMORY, scaled_arms, speeds_of, study_seconds, trials
from ffvit.terminal import Terminal
from ffvit.training.progress import format_duration

PROCESS = 700.0
"""MiB of a process with PyTorch in it, before it does anything."""

LATEST = 1.05
"""Times the plan's minutes: a seed that would end later is not begun. At 1, a study 1 % slower than predicted would lose one."""


@dataclass(frozen=True)
class Forecast:
    """What a study will take, before it starts.

    Attributes:
        ground: What it stands on.
        runs: What one run of each arm will take.
        at_once: Runs at once.
        seconds: Of all runs and trials, as many at once.
        splits: The images.
    """

    ground: StudyInputs
    runs: Mapping[str, RunEstimate]
    at_once: int
    seconds: float
    splits: Splits


def make_forecast(
    plan: Plan, workers: int | None = None, ground: StudyInputs | None = None, record: Path | None = None
) -> Forecast:
    """Work out a study's arms, measure what its runs will take, and what they can show.

    Args:
        plan: The study.
        workers: Runs at once; default: what this machine carries.
        ground: What the study stands on, if it began before.
        record: Its record of images, if it has one.

    Raises:
        UserError: The images, an arm or the budget cannot be had as the plan says; or the images or an arm that has runs
            were changed.
    """
    splits = open_splits(plan.data if plan.folds is None else plan.data.replace(folds=plan.folds, fold=0))
    if record is not None and record.is_file():
        advice = "Put them back as they were, or begin a new study with another --out"
        check_split(record, splits, plan.data.source, advice)
    classes = len(splits.classes)
    if ground is None:
        held = match_budget(plan, all_arms(plan, classes), classes)
        threads = max(1, available_cores() // (len(held.arms) * len(plan.seeds) * (plan.folds or 1)))
        ground = StudyInputs(
            held=held,
            classes=classes,
            images=splits.account,
            train_images=len(splits.train),
            validation_images=len(splits.validation) if splits.validation is not None else 0,
            test_images=len(splits.test),
            drawn=splits.drawn,
            groups=splits.groups,
            threads=threads,
            format=FORMAT,
            made_of=made_of(plan),
        )
        ground = ground.replace(outlook=outlook_of(plan, ground))
    else:
        ground = _extended(plan, ground)
    arms, jobs = ground.held.arms, make_runs(plan, ground.held.arms, Path(), plan.seeds, {})
    at_once = slots_for(plan.machine, len(jobs), MEMORY, workers, ground.threads).count
    speeds = speeds_of(arms, splits, ground.threads, plan.machine, at_once)
    runs = {arm.name: speeds[arm.name].run(arm.recipe, splits) for arm in arms}
    memory = PROCESS + max(each.memory for each in runs.values())
    at_once = slots_for(plan.machine, len(jobs), memory, workers, ground.threads).count
    return Forecast(ground, runs, at_once, study_seconds(plan, arms, splits), splits)


def _extended(plan: Plan, ground: StudyInputs) -> StudyInputs:
    """The ground with the arms that a changed plan adds.

    Raises:
        UserError: An arm that was there is no longer, or is another.
    """
    arms = all_arms(plan, ground.classes)
    names = {arm.name for arm in ground.held.arms}
    if {arm.name for arm in arms} == names and plan.budget == "latency":
        return ground  # widths that were measured would come out a little different
    held = match_budget(plan, arms, ground.classes)
    now = {arm.name: arm for arm in held.arms}
    for before in ground.held.arms:
        after = now.get(before.name)
        changed = (
            ["it is gone"]
            if after is None
            else differences(before.model_dump(mode="json"), after.model_dump(mode="json"))
        )
        if changed:
            raise ConfigError(
                f"factors: arms may be added to a study, not changed: {before.name!r}: {'; '.join(changed[:3])}. "
                "Put it back as it was, or give the new plan another --out"
            )
    return ground.replace(held=held)


def show_plan(plan: Plan, forecast: Forecast, console: Console) -> None:
    """Print what is about to happen: every arm, what a run of it takes, what can be shown, and all in all."""
    ground = forecast.ground
    jobs = make_runs(plan, ground.held.arms, Path(), plan.seeds, {})
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("arm", overflow="fold")
    for heading in ("parameters", "GFLOPs", "epochs", "runs", "time a run", "memory a run"):
        table.add_column(heading, justify="right")
    for arm in ground.held.arms:
        count, run = count_arm(arm.network, ground.classes), forecast.runs[arm.name]
        table.add_row(
            Text.assemble(arm.name, (f" ({arm.role})", "dim") if arm.role != "arm" else ""),
            f"{count.parameters / 1e6:.2f} M",
            f"{count.flops / 1e9:.3g}",
            str(arm.recipe.epochs) if arm.recipe.minutes is None else "",
            str(sum(job.arm == arm.name for job in jobs)),
            f"~ {format_duration(run.seconds)}",
            f"~ {PROCESS + run.memory:,.0f} MiB",
        )
    console.print(Text(plan.title, "bold"))
    console.print(Text(ground.images), soft_wrap=True)
    console.print(table, highlight=False)
    for words in (*ground.held.words, *ground.outlook, *plan.compromises):
        console.print(Text(words), soft_wrap=True)
    scaled = scaled_arms(ground.held.arms, ground.classes, plan.machine)
    if scaled:
        console.print(
            Text(
                f"Not timed, but scaled by FLOPs, as they have more than {LARGE / 1e6:.0f} M parameters: "
                f"{', '.join(arm.name for arm in ground.held.arms if arm.name in scaled)}."
            ),
            soft_wrap=True,
        )
    search = ""
    if plan.search is not None:
        fields = ", ".join(plan.search.fields)
        search = f", each after a search of its {fields} over {plan.search.planned(plan.recipe)} values or more"
    console.print(
        Text(f"{len(jobs)} runs{search}: about {format_duration(forecast.seconds)}, {forecast.at_once} at once"),
        soft_wrap=True,
    )


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
        resume: Go on with the study that lies there; runs that are done are not done again.
        overwrite: Replace a study folder that exists.
        workers: Runs at once on this machine; default: one a GPU, or as many as fit in CPU and RAM.
        cluster: Address of a Ray cluster to do the runs on (`auto`: the one this machine belongs to).
        console: Where to show progress.

    Returns:
        What it found; also in `report.html`, `report.md` and `results.csv` in the folder.

    Raises:
        UserError: Something that was given cannot be used.
        RunStoppedError: The study was interrupted, or runs failed (the report of the others is written).
    """
    console = console or Terminal()
    words = f"stopped; every finished run is kept. Resume with: ffvit compare --study {out} --resume"
    if not resume:
        words += ", or with the same command if there is no study folder yet"
    try:
        with exit_on_signal(words):
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
    ground = study.ground()
    if ground is None:
        raise RunFolderError(f"{study.path}: this study was not begun yet: ffvit compare --study {study.path} --resume")
    return _told(study, ground, console or Terminal())


def _compare(
    plan: Plan, out: Path, resume: bool, overwrite: bool, workers: int | None, cluster: str | None, console: Console
) -> Findings:
    began = time.monotonic()
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
        forecast = (
            make_forecast(plan, workers)
            if study is None
            else make_forecast(plan, workers, study.ground(), study.split_file)
        )
        ground = forecast.ground
        show_plan(plan, forecast, console)
        on_cluster = connected(cluster, plan.machine) if cluster is not None else None
        if study is None:
            study = Study.create(out, plan, overwrite, lock)
        for job in all_jobs(study, plan, ground.held.arms):
            job.check()
        study.replan(plan)
        study.stand_on(ground)
        if not study.split_file.is_file():
            write_record(record_split(forecast.splits, plan.data.source), study.split_file)
        engine: Engine
        if on_cluster is not None:
            engine = on_cluster(ground.threads, study.logs)
        else:
            memory = PROCESS + max(each.memory for each in forecast.runs.values())
            slots = slots_for(plan.machine, len(ground.held.arms) * len(plan.seeds), memory, workers, ground.threads)
            engine = Local(slots, study.logs)
        failed: frozenset[Path] = frozenset()
        try:
            _measure_baselines(study, plan, console)
            with LiveDisplay(console, engine.at_once) as watch:
                failed = _all_runs(study, plan, ground, engine, watch, began)
        finally:
            engine.close()
        _measure_costs(study, ground, plan.machine, console)
        findings = _told(study, ground, console)
    finally:
        lock.release()
    failures = [folder for folder in failed if folder.is_relative_to(study.path / "runs")]
    if failures:
        raise RunStoppedError(
            f"{len(failures)} run{'s' * (len(failures) > 1)} failed; the report says so and is of the others. "
            f"What they said is in {study.logs}; --resume tries them again"
        )
    return findings


def _told(study: Study, ground: StudyInputs, console: Console) -> Findings:
    """The findings, noted, written and shown."""
    study.note_plan()
    main = ground.held.arm(make_comparisons(study.plan, ground.held.arms)[0][0])
    write_ablation(study.path, study.plan, main)
    findings = conclude(study, ground)
    page = write_report(findings)
    console.print(Text(f"report: {page}"), soft_wrap=True)
    console.print(summary_table(findings), crop=False)
    return findings


def _all_runs(
    study: Study, plan: Plan, ground: StudyInputs, engine: Engine, watch: LiveDisplay, began: float
) -> frozenset[Path]:
    """Every repetition's searches and runs: once, or look by look until every comparison is conclusive."""
    arms, rounds = ground.held.arms, _Rounds(plan, watch, began)
    searches, failed_before = Searches(plan, arms, study.path), study.failed()
    failed: frozenset[Path] = frozenset()
    for count in look_count(plan):
        jobs = make_runs(plan, arms, study.path, seeds_at(plan, count), {})
        watch.begin(jobs, round(trials(plan, plan.recipe)))
        rounds.plan(jobs)

        def ready(gone: Set[Path], jobs: Sequence[Job] = jobs) -> list[Job]:
            now = [job for job in jobs if rounds.may_begin(job)]
            return startable_jobs(plan, searches, now, gone, arms, study.path, failed_before)

        failed |= run_jobs(study, ready, engine, watch)
        if plan.sequential:
            left = [each for each in conclude(study, ground).comparisons if not each.conclusive]
            if not left:
                watch.say(f"conclusive with {count} seeds")
                break
            watch.say(f"{count} seeds: {len(left)} comparison{'s' * (len(left) > 1)} inconclusive")
    return failed


class _Rounds:
    """Lets rounds of seeds begin while there is time for them: a round that is not whole is no evidence."""

    def __init__(self, plan: Plan, watch: LiveDisplay, began: float) -> None:
        self._plan, self._watch, self._began = plan, watch, began
        self._jobs: Sequence[Job] = ()
        self._begun: set[int] = set()
        self._refused: set[int] = set()

    def plan(self, jobs: Sequence[Job]) -> None:
        """The runs that there are to do."""
        self._jobs = jobs
        for job in jobs:
            if job.seed == self._plan.seeds[0] or job.folder.exists():
                self._begun.add(job.seed)

    def may_begin(self, job: Job) -> bool:
        """Whether a run may begin: its round has begun, or there is time for it whole."""
        if self._plan.minutes is None or job.seed in self._begun:
            return True
        if job.seed in self._refused:
            return False
        seeds = {*self._begun, job.seed}
        need = self._watch.round_seconds(sum(each.seed in seeds and not each.finished() for each in self._jobs))
        if need is None:  # not known before a first run has ended
            return False
        if LATEST * 60 * self._plan.minutes - (time.monotonic() - self._began) < need:
            if not self._refused:
                self._watch.say(
                    f"the {self._plan.minutes:g} minutes leave no time for seed {job.seed} and what follows "
                    "(--resume would add them)"
                )
            self._refused |= {each.seed for each in self._jobs} - self._begun
            return False
        self._begun.add(job.seed)
        return True


def _measure_baselines(study: Study, plan: Plan, console: Console) -> None:
    """What trivial methods reach, on the split of every repetition."""
    if not plan.controls or plan.folds is not None:
        return
    known = study.baselines()
    seeds = [seed for seed in plan.seeds if str(seed) not in known]
    for seed in track(seeds, "trivial baselines", console=console, transient=True, disable=not console.is_terminal):
        splits = open_splits(plan.data.replace(split_seed=splits_of(plan, seed)[0][0]))
        found = measure_baselines(splits, seed)
        known[str(seed)] = {
            each.name: {"top1": float(each.correct.mean()), "images": len(each.correct), "seconds": each.seconds}
            for each in found
        }
        study.write_baselines(known)


def _measure_costs(study: Study, ground: StudyInputs, machine: Machine, console: Console) -> None:
    """Measure the arms' costs once, with nothing else going on."""
    known = study.costs().get("arms", {})
    if not all(arm.name in known for arm in ground.held.arms):
        study.write_costs(costs.measure(ground.held.arms, ground.classes, machine, console))
