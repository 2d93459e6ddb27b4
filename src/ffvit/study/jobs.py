"""A study's runs, one by one: what each computes, and where it lies."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffvit.config.recipe import Recipe
from ffvit.errors import ConfigError, RunFolderError
from ffvit.run_folder import Config, Run
from ffvit.study.arms import NO_MIXING, Arm, make_comparisons
from ffvit.study.findings import Key
from ffvit.study.plan import Plan, Search, level_name
from ffvit.study.search import Step, Values, step

TRIAL_SEED = 1_000_000
"""Where the trials' seeds begin, so that none is a seed of the study."""

Split = tuple[int, int | None]
"""The split seed and the fold of a run."""


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        arm: Which arm's.
        seed: Its seed.
        fold: The test fold, with cross-validation.
        trial: What it tries, for a trial of the search; None for a run that counts.
        config: What it computes.
        folder: Where its run folder lies.
    """

    arm: str
    seed: int
    fold: int | None
    trial: Values | None
    config: Config
    folder: Path

    @property
    def title(self) -> str:
        """What to call it before people."""
        fold = f", fold {self.fold}" if self.fold is not None else ""
        tried = ", ".join(f"{name} {value}" for name, value in (self.trial or {}).items())
        number = f", trial {self.config.seed % 10 + 1}" if self.trial is not None else ""
        return f"{self.arm}, seed {self.seed}{fold}{f', {tried}{number}' if tried else ''}"

    def finished(self) -> bool:
        """Whether its run is done."""
        return (self.folder / "summary.json").is_file()

    def check(self) -> None:
        """Nothing, if what lies in its folder is this run or nothing.

        Raises:
            UserError: Another run lies there; says what differs.
        """
        if not (self.folder / "config.yaml").is_file():
            return
        there = Run(self.folder).config
        changed = differences(_computed(there), _computed(self.config))
        if changed:
            raise RunFolderError(
                f"{self.folder} was run with another plan than this one: {'; '.join(changed[:5])}"
                f"{f' and {len(changed) - 5} more' if len(changed) > 5 else ''}. "
                "Put the plan back as it was, or give the study another --out"
            )


def make_runs(
    plan: Plan, arms: Sequence[Arm], folder: Path, seeds: Sequence[int], searches: Mapping[tuple[str, Key], Step]
) -> list[Job]:
    """The runs that count, seed by seed, so that what is done at any time is as balanced as can be.

    A run whose search has not chosen yet has the recipe as it is.
    """
    slugs = _slugs([arm.name for arm in arms])
    main = main_arms(plan, arms)
    jobs = []
    for number, seed in enumerate(seeds):
        for split in splits_of(plan, seed):
            for arm in arms:
                if arm.name not in main and plan.side_seeds is not None and number >= plan.side_seeds:
                    continue
                found = searches.get((arm.name, (seed, split[1])))
                recipe = arm.recipe.replace(**found.chosen) if found is not None and found.chosen else arm.recipe
                name = f"seed-{seed}" + (f"-fold-{split[1]}" if split[1] is not None else "")
                config = _config(plan, arm, recipe, seed, split)
                jobs.append(Job(arm.name, seed, split[1], None, config, folder / "runs" / slugs[arm.name] / name))
    return jobs


class Searches:
    """The searches of a study: every repetition of an arm has its own, on its own split, so that its choice is redrawn.

    Args:
        plan: The study.
        arms: Its arms.
        folder: The study's folder.
    """

    def __init__(self, plan: Plan, arms: Sequence[Arm], folder: Path) -> None:
        self._plan, self._folder = plan, folder
        self._arms = {arm.name: arm for arm in arms}
        self._slugs = _slugs([arm.name for arm in arms])
        self._losses: dict[Path, float] = {}

    def step(self, arm: str, seed: int, fold: int | None, failed: Container[Path] = ()) -> Step:
        """Where the search of one repetition stands; trials in `failed` count as diverged."""
        assert self._plan.search is not None

        def loss_of(values: Values, number: int) -> float | None:
            job = self.job(arm, seed, fold, values, number)
            if job.folder not in self._losses and job.finished():
                chosen = (Run(job.folder).summary() or {}).get("validation")
                self._losses[job.folder] = float(chosen["loss"]) if chosen else math.inf
            if job.folder in self._losses:
                return self._losses[job.folder]
            return math.inf if job.folder in failed else None

        return step(self._plan.search, self._arms[arm].recipe, loss_of)

    def job(self, arm: str, seed: int, fold: int | None, values: Values, number: int) -> Job:
        """The run of a trial."""
        plan, its = self._plan, self._arms[arm]
        assert plan.search is not None
        split = next(each for each in splits_of(plan, seed) if each[1] == fold)
        words = "-".join(
            _slug(level_name("" if len(values) == 1 else name, value).strip()) for name, value in values.items()
        )
        where = f"seed-{seed}" + (f"-fold-{fold}" if fold is not None else "")
        config = _config(
            plan, its, shorten(its.recipe, plan.search).replace(**values), _trial_seed(seed, number), split
        )
        path = self._folder / "search" / self._slugs[arm] / where / f"{words}-trial-{number}"
        return Job(arm, seed, fold, values, config, path)


def startable_jobs(
    plan: Plan,
    searches: Searches,
    runs: Sequence[Job],
    failed: Set[Path],
    arms: Sequence[Arm],
    folder: Path,
    failed_before: Set[Path] = frozenset(),
) -> list[Job]:
    """The runs and trials that can begin now: of one seed after the other, trials first, in the order of `runs`.

    A search at the end would leave processors idle, as its trials wait for each other; runs do not.

    Trials that failed before the study was resumed are tried again, unless their run has begun with what was chosen
    without them.
    """
    if plan.search is None:
        return [job for job in runs if not job.finished()]
    jobs: list[Job] = []
    for run in runs:
        if run.finished():
            continue
        begun = run.folder.exists()
        found = searches.step(run.arm, run.seed, run.fold, failed | failed_before if begun else failed)
        if found.chosen is None:
            jobs += [searches.job(run.arm, run.seed, run.fold, *wanted) for wanted in found.wanted]
        else:
            jobs += [
                job
                for job in make_runs(plan, arms, folder, [run.seed], {(run.arm, (run.seed, run.fold)): found})
                if job.folder == run.folder
            ]
    seeds = list(dict.fromkeys(run.seed for run in runs))
    return sorted(jobs, key=lambda job: (seeds.index(job.seed), job.trial is None))


def main_arms(plan: Plan, arms: Sequence[Arm]) -> set[str]:
    """The main comparison's two arms, and the control without mixing that says whether it means anything."""
    return {*make_comparisons(plan, tuple(arms))[0], NO_MIXING}


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """What differs between two nests of plain values, in words."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            words
            for name in dict.fromkeys([*before, *after])
            for words in differences(before.get(name), after.get(name), f"{path}.{name}".lstrip("."))
        ]
    if isinstance(before, list | tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [words for number, pair in pairs for words in differences(*pair, f"{path}.{number}")]
    return [] if before == after else [f"{path} was {before}, is {after}"]


def _computed(config: Config) -> dict[str, Any]:
    """What decides a run's numbers: all but the machine."""
    return config.model_dump(mode="json", exclude={"hardware"})


def splits_of(plan: Plan, seed: int) -> list[Split]:
    """The splits of one repetition."""
    if plan.folds is not None:
        return [(seed, fold) for fold in range(plan.folds)]
    return [(plan.data.split_seed + seed if plan.redraw else plan.data.split_seed, None)]


def _trial_seed(seed: int, number: int) -> int:
    return TRIAL_SEED + 1_000 * seed + number


def _config(plan: Plan, arm: Arm, recipe: Recipe, seed: int, split: Split) -> Config:
    data = plan.data.replace(split_seed=split[0])
    if plan.folds is not None:
        data = data.replace(folds=plan.folds, fold=split[1])
    return Config(network=arm.network, data=data, recipe=recipe, hardware=plan.hardware, seed=seed)


def shorten(recipe: Recipe, search: Search) -> Recipe:
    """The recipe cut to the length of a trial."""
    short = recipe.lasting(max(1, round(recipe.epochs * search.length)))
    return short if recipe.minutes is None else short.replace(minutes=recipe.minutes * search.length)


def _slugs(names: Sequence[str]) -> dict[str, str]:
    slugs = {name: _slug(name) for name in names}
    if len(set(slugs.values())) < len(names):
        raise ConfigError(
            "factors: two arms would lie in one folder, as their names differ in signs only: rename a level"
        )
    return slugs


def _slug(name: str) -> str:
    """A name as a folder's."""
    return re.sub(r"[^\w.-]+", "-", name.lower()).strip("-.") or "arm"
