"""How a study's runs are compared: paired by seed, on the same test images or on draws of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ffvit.errors import RunFolderError
from ffvit.study import statistics
from ffvit.study.findings import Key
from ffvit.study.folder import StudyInputs
from ffvit.study.plan import Plan
from ffvit.study.results import Result
from ffvit.study.variance import Redrawn


@dataclass(frozen=True)
class Analysis:
    """How a study's runs are compared.

    Attributes:
        plan: The study's.
        ground: What it stands on.
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

    def difference(self, pairs: Sequence[tuple[Result, Result]], level: float) -> statistics.Difference | None:
        """The difference of two arms from their paired runs; None while there is nothing to compare."""
        if not pairs:
            return None
        if self.resampled and (self.plan.folds is not None or len(pairs) > 1):
            values = {one.key: float(one.correct.mean() - other.correct.mean()) for one, other in pairs}
            noise = {
                one.key: statistics.image_noise(one.correct, other.correct, groups_of(one)) for one, other in pairs
            }
            table, noises = self._table(values), self._table(noise)
            if table is None or noises is None:
                return None
            images = sum(len(one.answers) for one, _ in pairs if one.key[0] == pairs[0][0].key[0])
            return statistics.fold_difference(table, noises, self.redrawn, images, level)
        one, other = (np.stack([pair[side].correct for pair in pairs]) for side in (0, 1))
        return statistics.difference(one, other, level, groups_of(pairs[0][0]))

    def mean(self, results: Sequence[Result]) -> statistics.Interval | None:
        """The accuracy of an arm; None while no run is finished."""
        if not results:
            return None
        if self.resampled and (self.plan.folds is not None or len(results) > 1):
            table = self._table({result.key: float(result.correct.mean()) for result in results})
            noise = {result.key: statistics.image_noise(result.correct, groups=groups_of(result)) for result in results}
            noises = self._table(noise)
            if table is None or noises is None:
                return None
            images = sum(len(result.answers) for result in results if result.key[0] == results[0].key[0])
            return statistics.fold_mean(table, noises, self.redrawn, images)
        sizes = {len(result.answers) for result in results}
        if len(sizes) > 1:
            raise RunFolderError(
                f"{results[0].job.arm}: its runs answered different numbers of test images: {sorted(sizes)}"
            )
        return statistics.mean(np.stack([result.correct for result in results]), groups=groups_of(results[0]))

    @property
    def redrawn(self) -> Redrawn:
        """Which shares of the images a run trains on and is tested on."""
        ground = self.ground
        total = ground.train_images + ground.validation_images + ground.test_images
        return Redrawn(ground.train_images / total, ground.test_images / total)

    def _table(self, values: Mapping[Key, float]) -> np.ndarray | None:
        """One value a run as repetitions by folds, of the repetitions that are complete."""
        whole: dict[int, dict[int | None, float]] = {}
        for (seed, fold), value in values.items():
            whole.setdefault(seed, {})[fold] = value
        rows = [
            [its[fold] for fold in sorted(its, key=lambda fold: fold or 0)]
            for its in whole.values()
            if len(its) == (self.plan.folds or 1)
        ]
        return np.array(rows) if rows else None


def groups_of(result: Result) -> np.ndarray | None:
    """The group of each test image, by number; None if images are not grouped."""
    if "group" not in result.answers:
        return None
    return np.unique(result.answers["group"].astype(str), return_inverse=True)[1]
