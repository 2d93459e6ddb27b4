"""How a study's runs are compared: paired by seed, on the same test images or on draws of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from ffvit.errors import RunFolderError
from ffvit.study.folder import StudyInputs
from ffvit.study.plan import Plan
from ffvit.study.results import Result
from ffvit.study.statistics import Difference, Interval, difference, fold_difference, fold_mean, image_noise, mean
from ffvit.study.variance import Redrawn

Outcome = Callable[[Result], Shaped[np.ndarray, " images"]]
"""What is compared of each test image: whether it is predicted correctly, or under which share of corruptions."""


def correct(result: Result) -> Shaped[np.ndarray, " images"]:
    """The outcome that a study concludes from."""
    return result.correct


def corrupted(result: Result) -> Shaped[np.ndarray, " images"]:
    """The outcome of corrupted images, of a run that was scored on them."""
    assert result.corrupted is not None
    return result.corrupted


@dataclass(frozen=True)
class Analysis:
    """How a study's runs are compared.

    Attributes:
        plan: The study's.
        ground: What its runs depend on.
        main_level: Confidence of the main comparison's interval.
        side_level: Confidence of the other comparisons' intervals.
    """

    plan: Plan
    ground: StudyInputs
    main_level: float
    side_level: float

    @property
    def resampled(self) -> bool:
        """Whether every repetition was tested on images of its own draw, rather than all on the same."""
        return self.plan.folds is not None or self.ground.redrawn_test

    def difference(
        self, pairs: Sequence[tuple[Result, Result]], level: float, outcome: Outcome = correct
    ) -> Difference | None:
        """The difference of two arms from their paired runs; None while there is nothing to compare."""
        if not pairs:
            return None
        if self._by_run(len(pairs)):
            table = self._table(pairs, outcome)
            return table and fold_difference(*table, self.redrawn, _images([one for one, _ in pairs]), level)
        one, two = (np.stack([outcome(pair[side]) for pair in pairs]) for side in (0, 1))
        return difference(one, two, level, groups_of(pairs[0][0]))

    def mean(self, results: Sequence[Result], outcome: Outcome = correct) -> Interval | None:
        """The accuracy of an arm; None while no run is finished."""
        if not results:
            return None
        if self._by_run(len(results)):
            table = self._table([(result, None) for result in results], outcome)
            return table and fold_mean(*table, self.redrawn, _images(results))
        sizes = {len(result.predictions) for result in results}
        if len(sizes) > 1:
            raise RunFolderError(
                f"{results[0].job.arm}: its runs predicted different numbers of test images: {sorted(sizes)}"
            )
        return mean(np.stack([outcome(result) for result in results]), groups=groups_of(results[0]))

    @property
    def redrawn(self) -> Redrawn:
        """Which shares of the images a run trains on and is tested on."""
        ground = self.ground
        total = ground.train_images + ground.validation_images + ground.test_images
        return Redrawn(ground.train_images / total, ground.test_images / total)

    def _by_run(self, runs: int) -> bool:
        """Whether the unit is the run: its test images are its own, and there is more than one run."""
        return self.resampled and (self.plan.folds is not None or runs > 1)

    def _table(
        self, pairs: Sequence[tuple[Result, Result | None]], outcome: Outcome
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Accuracies (or differences) and their image noise, repetitions by folds, of the repetitions that are complete."""
        by_seed: dict[int, dict[int, tuple[float, float]]] = {}
        for one, two in pairs:
            seed, fold = one.key
            own, other = outcome(one), None if two is None else outcome(two)
            value = float(own.mean() - (0.0 if other is None else other.mean()))
            noise = image_noise(own, other, groups_of(one))
            by_seed.setdefault(seed, {})[fold or 0] = value, noise
        whole = [folds for folds in by_seed.values() if len(folds) == (self.plan.folds or 1)]
        table = np.array([[folds[fold] for fold in sorted(folds)] for folds in whole])
        return (table[..., 0], table[..., 1]) if whole else None


def _images(results: Sequence[Result]) -> int:
    """The test images of a repetition, in all its folds."""
    return sum(len(result.predictions) for result in results if result.key[0] == results[0].key[0])


def groups_of(result: Result) -> np.ndarray | None:
    """The group of each test image, by number; None if images are not grouped."""
    if "group" not in result.predictions:
        return None
    return np.unique(result.predictions["group"].astype(str), return_inverse=True)[1]
