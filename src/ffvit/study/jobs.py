"""A study's runs, one by one: what each computes, and where it lies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ffvit.errors import UserError
from ffvit.recipe import Recipe
from ffvit.run import Config, Run
from ffvit.study.arms import Arm
from ffvit.study.plan import Plan, Search, level_name

SEARCH_SEED = 1_000_000
"""Where the trials' seeds begin, so that none is a seed of the study."""

Split = tuple[int, int | None]
"""The split seed and the fold of a run. Without folds all runs have the plan's one split."""


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
    trial: Any
    config: Config
    folder: Path

    @property
    def title(self) -> str:
        """What to call it before people."""
        fold = f", fold {self.fold}" if self.fold is not None else ""
        return f"{self.arm}, {f'trial {self.trial}' if self.trial is not None else f'seed {self.seed}'}{fold}"

    @property
    def split(self) -> Split:
        """Which images it learns from and is measured on."""
        return self.config.data.split_seed, self.fold

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
            raise UserError(
                f"{self.folder} was run with another plan than this one: {'; '.join(changed[:5])}"
                f"{f' and {len(changed) - 5} more' if len(changed) > 5 else ''}. "
                "Put the plan back as it was, or give the study another --out"
            )


def runs_of(
    plan: Plan, arms: Iterable[Arm], folder: Path, seeds: Sequence[int], tuned: Mapping[tuple[str, Split], Any]
) -> list[Job]:
    """The runs that count, seed by seed, so that what is done at any time is as balanced as can be."""
    arms = list(arms)
    slugs = _slugs([arm.name for arm in arms])
    jobs = []
    for seed in seeds:
        for split in _splits(plan, seed):
            for arm in arms:
                recipe = arm.recipe
                if plan.search is not None:
                    recipe = recipe.replace(**{plan.search.field: tuned[arm.name, split]})
                name = f"seed-{seed}" + (f"-fold-{split[1]}" if split[1] is not None else "")
                config = _config(plan, arm, recipe, seed, split)
                jobs.append(Job(arm.name, seed, split[1], None, config, folder / "runs" / slugs[arm.name] / name))
    return jobs


def trials_of(plan: Plan, arms: Iterable[Arm], folder: Path, seeds: Sequence[int]) -> list[Job]:
    """The trials of the search: for every arm, and with folds for every fold, for no trial may see a test image."""
    if plan.search is None:
        return []
    arms = list(arms)
    slugs = _slugs([arm.name for arm in arms])
    splits = list(dict.fromkeys(split for seed in seeds for split in _splits(plan, seed)))
    jobs = []
    for split in splits:
        for arm in arms:
            for value in plan.search.tried(arm.recipe):
                for number in range(plan.search.seeds):
                    seed = SEARCH_SEED + number
                    fold = f"-split-{split[0]}-fold-{split[1]}" if split[1] is not None else ""
                    name = f"{_slug(level_name('', value).strip())}-seed-{number}{fold}"
                    recipe = _short(arm.recipe, plan.search).replace(**{plan.search.field: value})
                    config = _config(plan, arm, recipe, seed, split)
                    jobs.append(
                        Job(arm.name, seed, split[1], value, config, folder / "search" / slugs[arm.name] / name)
                    )
    return jobs


def chosen(trials: Sequence[Job]) -> dict[tuple[str, Split], Any]:
    """What the search chose for each arm and split: the highest top-1 on the selection part, then the lowest loss.

    A trial that failed is out; where all of an arm's did, the value tried in the middle, the recipe's own, is kept.
    """
    scores: dict[tuple[str, Split], dict[Any, list[tuple[float, float]]]] = {}
    for job in trials:
        of_arm = scores.setdefault((job.arm, job.split), {})
        its = of_arm.setdefault(job.trial, [])
        summary = Run(job.folder).summary() if job.finished() else None
        if summary is not None and summary["selection"]:
            its.append((summary["selection"]["top1"], -summary["selection"]["loss"]))
    best = {}
    for key, of_arm in scores.items():
        means = {value: tuple(np.mean(its, axis=0)) for value, its in of_arm.items() if its}
        values = list(of_arm)
        best[key] = max(means, key=lambda value: means[value]) if means else values[len(values) // 2]
    return best


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
    return config.model_dump(mode="json", exclude={"machine"})


def _splits(plan: Plan, seed: int) -> list[Split]:
    if plan.folds is None:
        return [(plan.data.split_seed, None)]
    return [(seed, fold) for fold in range(plan.folds)]


def _config(plan: Plan, arm: Arm, recipe: Recipe, seed: int, split: Split) -> Config:
    data = plan.data
    if plan.folds is not None:
        data = data.replace(split_seed=split[0], folds=plan.folds, fold=split[1])
    return Config(network=arm.network, data=data, recipe=recipe, machine=plan.machine, seed=seed)


def _short(recipe: Recipe, search: Search) -> Recipe:
    """The recipe cut to the length of a trial."""
    short = recipe.lasting(max(1, round(recipe.epochs * search.length)))
    return short if recipe.minutes is None else short.replace(minutes=recipe.minutes * search.length)


def _slugs(names: Sequence[str]) -> dict[str, str]:
    slugs = {name: _slug(name) for name in names}
    if len(set(slugs.values())) < len(names):
        raise UserError(
            "factors: two arms would lie in one folder, as their names differ in signs only: rename a level"
        )
    return slugs


def _slug(name: str) -> str:
    """A name as a folder's."""
    return re.sub(r"[^\w.-]+", "-", name.lower()).strip("-.") or "arm"
