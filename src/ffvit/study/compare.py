"""A study from its plan to its report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ffvit.atomic import full
from ffvit.data.parts import Parts, open_parts
from ffvit.errors import RunStoppedError, UserError
from ffvit.machine import Machine, cores
from ffvit.study import costs
from ffvit.study.arms import Arm, arms_of
from ffvit.study.budget import counted, hold
from ffvit.study.cluster import connected
from ffvit.study.conclude import conclude, every_job, looks_of, seeds_at
from ffvit.study.findings import Findings
from ffvit.study.folder import Ground, Study, made_of
from ffvit.study.jobs import Job, chosen, runs_of, trials_of
from ffvit.study.local import Local, slots_for
from ffvit.study.plan import Plan
from ffvit.study.predict import Prediction, measure
from ffvit.study.queue import Engine, work_off
from ffvit.study.report.terminal import summary_table
from ffvit.study.report.write import write_report
from ffvit.study.watch import Watch
from ffvit.training.progress import duration

PROCESS = 700.0
"""MiB of a process with PyTorch in it, before it does anything."""


@dataclass(frozen=True)
class Outlook:
    """What a study will take, before it starts.

    Attributes:
        ground: What it stands on.
        runs: What one run of each arm will take.
        at_once: Runs at once.
        seconds: Of all runs and trials, as many at once.
    """

    ground: Ground
    runs: Mapping[str, Prediction]
    at_once: int
    seconds: float


def look_ahead(plan: Plan, workers: int | None = None, ground: Ground | None = None) -> Outlook:
    """Work out a study's arms, and measure what its runs will take.

    Args:
        plan: The study.
        workers: Runs at once; default: what this machine carries.
        ground: What the study stands on, if it began before.

    Raises:
        UserError: The images, an arm or the budget cannot be had as the plan says.
    """
    parts = open_parts(plan.data if plan.folds is None else plan.data.replace(folds=plan.folds, fold=0))
    classes = len(parts.classes)
    if ground is None:
        held = hold(plan, arms_of(plan), classes)
        threads = max(1, cores() // (len(held.arms) * len(plan.seeds) * (plan.folds or 1)))
        ground = Ground(held=held, classes=classes, images=parts.account, threads=threads, made_of=made_of(plan))
    runs = {arm.name: _prediction(arm, parts, ground.threads, plan.machine) for arm in ground.held.arms}
    jobs = len(runs) * len(plan.seeds) * (plan.folds or 1)
    memory = PROCESS + max(each.memory for each in runs.values())
    at_once = slots_for(plan.machine, jobs, memory, workers, ground.threads).count
    total = sum(each.seconds for each in runs.values()) * len(plan.seeds) * (plan.folds or 1)
    if plan.search is not None:
        tried = plan.search.seeds * plan.search.length * (len(plan.seeds) * plan.folds if plan.folds else 1)
        total += sum(runs[arm.name].seconds * len(plan.search.tried(arm.recipe)) * tried for arm in ground.held.arms)
    return Outlook(ground, runs, at_once, total / at_once)


def show_plan(plan: Plan, outlook: Outlook, console: Console) -> None:
    """Print what is about to happen: every arm, what a run of it takes, and all in all."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("arm", overflow="fold")
    for heading in ("parameters", "GFLOPs", "epochs", "time a run", "memory a run"):
        table.add_column(heading, justify="right")
    for arm in outlook.ground.held.arms:
        count, run = counted(arm.network, outlook.ground.classes), outlook.runs[arm.name]
        table.add_row(
            escape(arm.name) + (f" [dim]({arm.role})[/dim]" if arm.role != "arm" else ""),
            f"{count.parameters / 1e6:.2f} M",
            f"{count.flops / 1e9:.3g}",
            str(arm.recipe.epochs) if arm.recipe.minutes is None else "",
            f"~ {duration(run.seconds)}",
            f"~ {PROCESS + run.memory:,.0f} MiB",
        )
    console.print(f"[bold]{escape(plan.title)}[/bold]", highlight=False)
    console.print(escape(outlook.ground.images), highlight=False, soft_wrap=True)
    console.print(table, highlight=False)
    for words in outlook.ground.held.words:
        console.print(escape(words), highlight=False, soft_wrap=True)
    runs = len(outlook.ground.held.arms) * len(plan.seeds) * (plan.folds or 1)
    trials = len(trials_of(plan, outlook.ground.held.arms, Path(), plan.seeds))
    search = f", and {trials} trials of the {plan.search.field}" if plan.search is not None else ""
    folds = f" x {plan.folds} folds" if plan.folds else ""
    console.print(
        f"{runs} runs ({len(outlook.ground.held.arms)} arms x {len(plan.seeds)} seeds{folds}){search}: "
        f"about {duration(outlook.seconds)}, {outlook.at_once} at once",
        highlight=False,
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
        workers: Runs at once on this machine; default: one a GPU, or as many as the cores and the memory carry.
        cluster: Address of a Ray cluster to do the runs on (`auto`: the one this machine belongs to).
        console: Where to show progress.

    Returns:
        What it found; also in `report.html`, `report.md` and `results.csv` in the folder.

    Raises:
        UserError: Something that was given cannot be used.
        RunStoppedError: The study was interrupted, or runs failed (the report of the others is written).
    """
    console = console or Console()
    try:
        return _compare(plan, Path(out), resume, overwrite, workers, cluster, console)
    except OSError as error:
        if full(error):
            raise RunStoppedError("the disk is full: free some space, then go on with --resume") from None
        raise


def rebuild(folder: str | Path, console: Console | None = None) -> Findings:
    """Make the report of a study anew, from its runs alone.

    Raises:
        UserError: It is no study folder, or no run of it was begun.
    """
    study = Study(folder)
    ground = study.ground()
    if ground is None:
        raise UserError(f"{study.path}: this study was not begun yet: ffvit compare --study {study.path} --resume")
    return _told(conclude(study, ground), console or Console())


def _compare(
    plan: Plan, out: Path, resume: bool, overwrite: bool, workers: int | None, cluster: str | None, console: Console
) -> Findings:
    study = Study(out) if resume else None
    if study is not None:
        study.replan(plan)
    outlook = look_ahead(plan, workers, study.ground() if study is not None else None)
    ground = outlook.ground
    show_plan(plan, outlook, console)
    on_cluster = connected(cluster, plan.machine) if cluster is not None else None
    if study is None:
        study = Study.create(out, plan, overwrite)
    with study.locked():
        study.stand_on(ground)
        jobs, _ = every_job(study, plan, ground.held.arms)
        for job in (*trials_of(plan, ground.held.arms, study.path, plan.seeds), *jobs):
            job.check()
        engine: Engine
        if on_cluster is not None:
            engine = on_cluster(ground.threads, study.logs)
        else:
            memory = PROCESS + max(each.memory for each in outlook.runs.values())
            engine = Local(slots_for(plan.machine, len(jobs), memory, workers, ground.threads), study.logs)
        try:
            with Watch(console, engine.at_once) as watch:
                _all_runs(study, plan, ground, engine, watch)
        finally:
            engine.close()
        _measure_costs(study, ground, plan.machine, console)
        findings = _told(conclude(study, ground), console)
    failed = [words for words in findings.missing if "failed" in words]
    if failed:
        raise RunStoppedError(
            f"{len(failed)} run{'s' * (len(failed) > 1)} failed; the report is of the others. "
            f"What they said is in {study.logs}; --resume tries them again"
        )
    return findings


def _told(findings: Findings, console: Console) -> Findings:
    """The findings, written and shown."""
    page = write_report(findings)
    console.print(summary_table(findings))
    console.print(f"report: {escape(str(page))}", highlight=False, soft_wrap=True)
    return findings


def _all_runs(study: Study, plan: Plan, ground: Ground, engine: Engine, watch: Watch) -> None:
    """The search, then the runs that count: once, or look by look until every question is settled."""
    arms, began = ground.held.arms, time.monotonic()
    for count in looks_of(plan):
        seeds = seeds_at(plan, count)
        trials = trials_of(plan, arms, study.path, seeds)
        if not all(trial.finished() for trial in trials):
            watch.begin(f"searching each arm's {plan.search.field if plan.search else ''}", trials)
            work_off(study, trials, engine, watch)
        jobs = runs_of(plan, arms, study.path, seeds, chosen(trials))
        watch.begin("runs", jobs)
        work_off(study, jobs, engine, watch, _Rounds(plan, jobs, watch, began).may_begin)
        if plan.until_settled:
            left = [each for each in conclude(study, ground).comparisons if each.outcome in ("open", "not worse")]
            if not left:
                watch.say(f"settled with {count} seeds")
                return
            watch.say(f"{count} seeds: {len(left)} question{'s' * (len(left) > 1)} not settled")


class _Rounds:
    """Lets rounds of seeds begin while there is time for them: a round that is not whole is no evidence."""

    def __init__(self, plan: Plan, jobs: list[Job], watch: Watch, began: float) -> None:
        self._plan, self._watch, self._began = plan, watch, began
        self._size = {seed: sum(job.seed == seed for job in jobs) for seed in plan.seeds}
        self._begun = {job.seed for job in jobs if job.folder.exists()} | {plan.seeds[0]}
        self._told = False

    def may_begin(self, job: Job) -> bool:
        if self._plan.minutes is None or job.seed in self._begun:
            return True
        left = self._plan.minutes * 60 - (time.monotonic() - self._began)
        need = self._watch.round_seconds(self._size.get(job.seed, 0))
        if left < (need or 0.0):
            if not self._told:
                self._told = True
                self._watch.say(
                    f"the {self._plan.minutes:g} minutes leave no time for seed {job.seed} and what follows "
                    "(--resume would add them)"
                )
            return False
        self._begun.add(job.seed)
        return True


def _measure_costs(study: Study, ground: Ground, machine: Machine, console: Console) -> None:
    """Measure the arms' costs once, with nothing else going on."""
    known = study.costs().get("arms", {})
    if not all(arm.name in known for arm in ground.held.arms):
        study.write_costs(costs.measure(ground.held.arms, ground.classes, machine, console))


def _prediction(arm: Arm, parts: Parts, threads: int, machine: Machine) -> Prediction:
    return measure(arm.network, arm.recipe, parts, threads, machine).run(arm.recipe, parts)
