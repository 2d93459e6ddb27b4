"""Main effects and interactions of a study's crossed factors, paired within repetitions like its comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Shaped

from ffvit.study.findings import EffectFinding
from ffvit.study.statistics import crossed_difference, fold_difference
from ffvit.study.variance import Redrawn, image_variance


def effects(
    correct: Sequence[Bool[np.ndarray, "arms _"]],
    factors: Mapping[str, Sequence[str]],
    level: float = 0.95,
    redrawn: Redrawn | None = None,
    groups: Sequence[Shaped[np.ndarray, " _"]] | None = None,
) -> list[EffectFinding]:
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
    findings = []
    for name, kind, weights in _contrasts(factors):
        tables = [weights @ repetition for repetition in correct]
        limit = float(weights.clip(0).sum())
        if redrawn is None:
            difference = crossed_difference(np.stack(tables), level, None if groups is None else groups[0], limit)
        else:
            of_repetition = [None] * len(tables) if groups is None else groups
            noise = [[image_variance(table, names)] for table, names in zip(tables, of_repetition, strict=True)]
            values, images = [[table.mean()] for table in tables], min(map(len, tables))
            difference = fold_difference(np.array(values), np.array(noise), redrawn, images, level, limit)
        findings.append(EffectFinding(name, difference, kind))
    return findings


def _contrasts(
    factors: Mapping[str, Sequence[str]],
) -> Iterator[tuple[str, Literal["main effect", "interaction"], Float[np.ndarray, " arms"]]]:
    """The weights of the arms in every main effect and every interaction of two factors."""
    steps = {}
    for factor, of_arm in factors.items():
        first, *later = dict.fromkeys(of_arm)
        at = {level: np.array([own == level for own in of_arm], dtype=np.float64) for level in (first, *later)}
        steps[factor] = [(level, first, at[level] - at[first]) for level in later]
        for level, reference, step in steps[factor]:
            yield f"{factor}: {level} - {reference}", "main effect", step / at[level].sum()
    for one, two in combinations(factors, 2):
        for level, reference, step in steps[one]:
            for by, without, across in steps[two]:
                weights = step * across
                name = f"{one} x {two}: ({level} - {reference}) at {by} - at {without}"
                yield name, "interaction", weights / ((weights > 0).sum() / 2)
