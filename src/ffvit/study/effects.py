"""Main effects and interactions of a study's crossed factors, paired within repetitions like its comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Shaped

from ffvit.study.statistics import Difference, Redrawn, difference_of, noise_of, over_table, resampled


@dataclass(frozen=True)
class Effect:
    """A main effect or an interaction of a study's factors."""

    name: str
    kind: Literal["main effect", "interaction"]
    difference: Difference


def effects(
    correct: Sequence[Bool[np.ndarray, "arms images"]],
    factors: Mapping[str, Sequence[str]],
    level: float = 0.95,
    redrawn: Redrawn | None = None,
    groups: Sequence[Shaped[np.ndarray, " images"]] | None = None,
) -> list[Effect]:
    """Main effects and interactions of two crossed factors or more, over the same repetitions as the comparisons.

    A main effect is the difference of a level and its factor's first level, averaged over all levels of the other
    factors; an interaction is how much that difference differs between a level and the first level of another factor.

    Args:
        correct: Of every repetition, the correct predictions of all arms.
        factors: Factor, and its level in each arm. Every combination of levels is one arm.
        level: Of the intervals.
        redrawn: The shares of a run's splits where repetitions draw their own test splits; else they all answered the
            same images.
        groups: Of every repetition, the group of each test image.

    Raises:
        ValueError: The arms are not all combinations of levels, once each.
    """
    arms = list(zip(*factors.values(), strict=True))
    if len(set(arms)) != len(arms) or len(arms) != np.prod([len(set(levels)) for levels in factors.values()]):
        raise ValueError("effects: factors must be crossed, every combination of their levels one arm")
    found = []
    for name, kind, weights in _contrasts(factors):
        tables = [weights @ repetition for repetition in correct]
        limit = float(weights.clip(0).sum())
        if redrawn is None:
            its = over_table(np.stack(tables), level, None if groups is None else groups[0], limit)
        else:
            noise = [noise_of(table, None if groups is None else groups[place]) for place, table in enumerate(tables)]
            values, size = np.array([table.mean() for table in tables]), min(map(len, tables))
            spread = resampled(values, np.array(noise), redrawn, 2.0 / size**2)
            its = difference_of(values.mean().item(), spread, level, len(values), size, limit, folds=1)
        found.append(Effect(name, kind, its))
    return found


def _contrasts(
    factors: Mapping[str, Sequence[str]],
) -> Iterator[tuple[str, Literal["main effect", "interaction"], Float[np.ndarray, " arms"]]]:
    """The weights of the arms in every main effect and every interaction of two factors."""
    steps = {}
    for factor, of_arm in factors.items():
        first, *others = dict.fromkeys(of_arm)
        at = {level: np.array([own == level for own in of_arm], dtype=np.float64) for level in (first, *others)}
        steps[factor] = [(level, first, at[level] - at[first]) for level in others]
        for level, reference, step in steps[factor]:
            yield f"{factor}: {level} - {reference}", "main effect", step / at[level].sum()
    for one, other in combinations(factors, 2):
        for level, reference, step in steps[one]:
            for by, without, across in steps[other]:
                weights = step * across
                name = f"{one} x {other}: ({level} - {reference}) at {by} - at {without}"
                yield name, "interaction", weights / ((weights > 0).sum() / 2)
