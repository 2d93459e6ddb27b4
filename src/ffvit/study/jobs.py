"""A study's jobs: which runs and trials there are, what each computes, and where its run folder lies."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ffvit.config.recipe import Recipe
from ffvit.errors import ConfigError, RunFolderError
from ffvit.inference.corruptions import choose_corruptions
from ffvit.run_folder import Config, Run
from ffvit.study import decision
from ffvit.study.arms import NO_MIXING, Arm, make_comparisons
from ffvit.study.corrupted import is_scored
from ffvit.study.findings import Key
from ffvit.study.plan import Plan, Search, level_name
from ffvit.study.search import SearchState, Values, replay_search

TRIAL_SEED = 1_000_000
"""Where the trials' seeds begin, so that none is a seed of the study."""

Split = tuple[int, int | None]
"""The split seed and the fold of a run."""


@dataclass(frozen=True)
class Job:
    """One run of a study, or one trial of a search."""

    arm: str
    seed: int
    fold: int | None  # the test fold, with cross-validation
    trial: Values | None  # what it tries; None for a run that counts
    config: Config
    folder: Path  # its run folder
    corruptions: tuple[str, ...] = ()  # on which it is scored when it is trained

    @property
    def key(self) -> Key:
        """Its seed and fold: runs of different arms with the same key are a pair."""
        return self.seed, self.fold

    @property
    def title(self) -> str:
        """Its name in messages."""
        fold = f", fold {self.fold}" if self.fold is not None else ""
        tried = ", ".join(f"{name} {value}" for name, value in (self.trial or {}).items())
        number = f", trial {self.config.seed % 10 + 1}" if self.trial is not None else ""
        return f"{self.arm}, seed {self.seed}{fold}{f', {tried}{number}' if tried else ''}"

    def trained(self) -> bool:
        """Whether its run has a result."""
        return (self.folder / "summary.json").is_file()

    def finished(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.trained() and (not self.corruptions or is_scored(self.folder, self.corruptions))

    def tuned(self, values: Values | None) -> Job:
        """The same run with these values in its recipe."""
        if not values:
            return self
        return replace(self, config=self.config.replace(recipe=self.config.recipe.replace(**values)))

    def check(self) -> None:
        """Check that its folder holds this run or nothing.

        Raises:
            UserError: Another run lies there; says what differs.
        """
        if not (self.folder / "config.yaml").is_file():
            return
        changed = differences(_computed(Run(self.folder).config), _computed(self.config))
        if changed:
            raise RunFolderError(
                f"{self.folder} was run with another plan than this one: {'; '.join(changed[:5])}"
                f"{f' and {len(changed) - 5} more' if len(changed) > 5 else ''}. "
                "Put the plan back as it was, or give the study another --out"
            )


def make_runs(plan: Plan, arms: Sequence[Arm], folder: Path, seeds: Sequence[int]) -> list[Job]:
    """The runs that count, seed by seed so that the study is balanced at any time, with their arms' own recipes."""
    slugs, main = _slugs(arms), main_arms(plan, arms)
    corruptions = choose_corruptions(plan.corruptions)
    jobs = []
    for number, seed in enumerate(seeds):
        for split in splits_of(plan, seed):
            name = f"seed-{seed}" + (f"-fold-{split[1]}" if split[1] is not None else "")
            for arm in arms:
                if arm.name not in main and plan.side_seeds is not None and number >= plan.side_seeds:
                    continue
                path = folder / "runs" / slugs[arm.name] / name
                jobs.append(Job(arm.name, seed, split[1], None, _config(plan, arm, seed, split), path, corruptions))
    return jobs


class Searches:
    """The searches of a study: every repetition of an arm has its own, on its own split, so that its choice is redrawn."""

    def __init__(self, plan: Plan, arms: Sequence[Arm], folder: Path) -> None:
        self._search, self._folder = plan.search, folder
        self._recipes = {arm.name: arm.recipe for arm in arms}
        self._losses: dict[Path, float] = {}

    def state(self, run: Job, failed: Container[Path] = ()) -> SearchState:
        """Where the search of a run stands; trials in `failed` count as diverged."""
        assert self._search is not None

        def loss_of(values: Values, number: int) -> float | None:
            trial = self.trial(run, values, number)
            if trial.folder not in self._losses and trial.finished():
                validation = (Run(trial.folder).summary() or {}).get("validation")
                self._losses[trial.folder] = float(validation["loss"]) if validation else math.inf
            return self._losses.get(trial.folder, math.inf if trial.folder in failed else None)

        return replay_search(self._search, self._recipes[run.arm], loss_of)

    def trial(self, run: Job, values: Values, number: int) -> Job:
        """A trial of a run's search, on the run's own split."""
        assert self._search is not None
        recipe = shorten(self._recipes[run.arm], self._search).replace(**values)
        config = run.config.replace(recipe=recipe, seed=TRIAL_SEED + 1_000 * run.seed + number)
        words = "-".join(
            _slug(level_name("" if len(values) == 1 else name, value).strip()) for name, value in values.items()
        )
        repetition = self._folder / "search" / run.folder.parent.name / run.folder.name
        return Job(run.arm, run.seed, run.fold, values, config, repetition / f"{words}-trial-{number}")

    def tuned(self, run: Job, failed: Container[Path] = ()) -> Job:
        """A run with what its search chose; as it is while there is no choice, and without a search."""
        return run if self._search is None else run.tuned(self.state(run, failed).chosen)

    def startable(self, runs: Sequence[Job], failed: Set[Path], failed_before: Set[Path] = frozenset()) -> list[Job]:
        """The runs and trials that can begin now: of one seed after the other, trials first, in the order of `runs`.

        A search at the end would leave processors idle, as its trials wait for each other. Trials that failed before the
        study was resumed are done again, unless their run has begun with what was chosen without them.
        """
        jobs: list[Job] = []
        for run in runs:
            if run.finished():
                continue
            if self._search is None:
                jobs.append(run)
                continue
            state = self.state(run, failed | failed_before if run.folder.exists() else failed)
            if state.chosen is None:
                jobs += [self.trial(run, values, number) for values, number in state.wanted]
            else:
                jobs.append(run.tuned(state.chosen))
        seeds = list(dict.fromkeys(run.seed for run in runs))
        return sorted(jobs, key=lambda job: (seeds.index(job.seed), job.trial is None))


def all_jobs(plan: Plan, arms: Sequence[Arm], folder: Path, failed: Set[Path]) -> list[Job]:
    """The runs that count, of all seeds the plan has or the folder holds, each with what its search chose."""
    searches = Searches(plan, arms, folder)
    return [searches.tuned(run, failed) for run in make_runs(plan, arms, folder, _seeds_so_far(plan, arms, folder))]


def seeds_at(plan: Plan, count: int) -> tuple[int, ...]:
    """The first `count` seeds: the plan's, then the numbers after them."""
    after = max(plan.seeds) + 1
    return (*plan.seeds, *range(after, after + count - len(plan.seeds)))[:count]


def look_count(plan: Plan) -> tuple[int, ...]:
    """The numbers of seeds at which the study may be looked at and ended: one, unless it is sequential."""
    return decision.looks(len(plan.seeds), plan.max_seeds) if plan.sequential else (len(plan.seeds),)


def _seeds_so_far(plan: Plan, arms: Sequence[Arm], folder: Path) -> tuple[int, ...]:
    """The seeds of the last look that was begun: a sequential study adds seeds between looks."""
    seeds = plan.seeds
    for count in look_count(plan)[1:]:
        added = seeds_at(plan, count)
        if not any(run.folder.exists() for run in make_runs(plan, arms, folder, added) if run.seed not in seeds):
            break
        seeds = added
    return seeds


def main_arms(plan: Plan, arms: Sequence[Arm]) -> set[str]:
    """The main comparison's two arms, and the control without mixing that says whether it means anything."""
    return {*make_comparisons(plan, tuple(arms))[0], NO_MIXING}


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """What differs between two nests of plain values, a sentence each."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = dict.fromkeys([*before, *after])
        nested = [(before.get(name), after.get(name), f"{path}.{name}".lstrip(".")) for name in names]
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        nested = [(one, two, f"{path}.{number}") for number, (one, two) in enumerate(zip(before, after, strict=True))]
    else:
        return [] if before == after else [f"{path} was {before}, is {after}"]
    return [sentence for one, two, where in nested for sentence in differences(one, two, where)]


def splits_of(plan: Plan, seed: int) -> list[Split]:
    """The splits of one repetition."""
    if plan.folds is not None:
        return [(seed, fold) for fold in range(plan.folds)]
    return [(plan.data.split_seed + seed if plan.redraw else plan.data.split_seed, None)]


def shorten(recipe: Recipe, search: Search) -> Recipe:
    """The recipe cut to the length of a trial."""
    short = recipe.lasting(max(1, round(recipe.epochs * search.length)))
    return short if recipe.minutes is None else short.replace(minutes=recipe.minutes * search.length)


def _computed(config: Config) -> dict[str, Any]:
    """What decides a run's numbers: all but the machine, and what a run notes of the weights that it starts from."""
    return config.model_dump(mode="json", exclude={"hardware", "preprocess"})


def _config(plan: Plan, arm: Arm, seed: int, split: Split) -> Config:
    data = plan.data.replace(split_seed=split[0])
    if plan.folds is not None:
        data = data.replace(folds=plan.folds, fold=split[1])
    return Config(
        network=arm.network, data=data, recipe=arm.recipe, hardware=plan.hardware, seed=seed, start_from=arm.start_from
    )


def _slugs(arms: Sequence[Arm]) -> dict[str, str]:
    """The arms' folder names."""
    slugs = {arm.name: _slug(arm.name) for arm in arms}
    if len(set(slugs.values())) < len(arms):
        raise ConfigError(
            "factors: two arms would lie in one folder, as their names differ in signs only: rename a level"
        )
    return slugs


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name.lower()).strip("-.") or "arm"
