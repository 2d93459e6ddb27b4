"""Accuracies and paired differences of a study's runs, with intervals over repetitions and test images.

A repetition redraws what a second researcher would redraw: initialization, order, augmentation, splits and the search.
`variance` has the two models of chance behind the intervals: all repetitions answer the same test images (`mean`,
`difference`), or every repetition draws its own test split (`fold_mean`, `fold_difference`).

`docs/statistics.md` says why these and not others, with simulations.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from jaxtyping import Float, Shaped
from scipy import stats

from ffvit.inference.intervals import PairedDifference
from ffvit.study.variance import Redrawn, Spread, by_group, crossed, image_variance, quantile, resampled


@dataclass(frozen=True)
class Interval:
    """A value with its interval; `level` is its confidence."""

    value: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference of two arms, first less second.

    Attributes:
        standard_error: Of the value.
        degrees: Its degrees of freedom.
        p_value: Two-sided, of no difference.
        seeds: How many (with folds: how many times all folds were run).
        images: How many test images.
        run_variance: Variance of one run's difference, of what further runs average out; 0 with one run, which cannot
            show it.
        fixed_variance: Variance that no further run reduces: by test images, and by training images that runs share.
        groups: How many groups the test images form; 0 if they are independent.
        folds: 0 if all runs answered the same test images; 1 if each repetition has a test split of its own; else the
            folds of cross-validation.
    """

    standard_error: float
    degrees: float
    p_value: float
    seeds: int
    images: int
    run_variance: float
    fixed_variance: float
    groups: int = 0
    folds: int = 0

    @property
    def runs(self) -> int:
        """How many paired runs it rests on."""
        return self.seeds * max(self.folds, 1)


def mean(
    correct: Shaped[np.ndarray, "seeds images"],
    level: float = 0.95,
    groups: Shaped[np.ndarray, " images"] | None = None,
) -> Interval:
    """The accuracy of an arm whose runs answered the same test images; with one seed, the interval is over images alone.

    It is Wilson's interval, of as many independent predictions as would have the error measured (Dean and Pagano 2015):
    near 100 % the plain one, value and so much each way, is far too sure (see `docs/statistics.md`). An arm whose
    predictions are all correct, or none, has no spread to measure: then as if its seeds were one.

    Args:
        correct: Whether each prediction is, or which share of several for the same image.
        level: Of the interval.
        groups: The group of each image; images of a group (one object, one burst) count as one.
    """
    value = correct.mean().item()
    table = by_group(correct.astype(np.float64), groups)
    if not 0 < value < 1 or (len(correct) == 1 and groups is None):
        return _wilson(value, quantile(level, inf) ** 2 / table.shape[1], level)
    return _wilson(value, crossed(table).half_width(level) ** 2 / (value * (1 - value)), level)


def difference(
    first: Shaped[np.ndarray, "seeds images"],
    second: Shaped[np.ndarray, "seeds images"],
    level: float = 0.95,
    groups: Shaped[np.ndarray, " images"] | None = None,
) -> Difference:
    """The difference in accuracy of two arms whose runs are paired by seed and answered the same test images.

    It is conditional on pairs in which both runs finished; `failure_interval` reports those that did not.

    With one seed the interval is of the images alone: Agresti and Min's (2005), one discordant prediction added each way
    and half of it to the rest; the p-value is McNemar's, exact. It covers nothing of what another seed would change, so
    that `direction` and `size` are not shown.

    Args:
        first: Correct predictions of one arm, or which share of several for the same image.
        second: Of the other.
        level: Of the interval.
        groups: The group of each image. The table is then of groups, each weighted by its images: the ratio estimator,
            so that the value stays the mean over images.
    """
    table = first.astype(np.float64) - second
    if len(table) > 1 or groups is not None:
        return crossed_difference(table, level, groups)
    only_first, only_second = int((table > 0).sum()), int((table < 0).sum())
    p_value = stats.binomtest(only_first, only_first + only_second).pvalue if only_first + only_second else 1.0
    paired = PairedDifference.of(first[0], second[0], level)
    error = paired.standard_error
    return Difference(
        paired.value, paired.low, paired.high, level, error, inf, float(p_value), 1, table.size, 0.0, error**2
    )


def crossed_difference(
    table: Float[np.ndarray, "seeds images"],
    level: float,
    groups: Shaped[np.ndarray, " images"] | None,
    limit: float = 1.0,
) -> Difference:
    """A difference from its table of runs and test images; no difference is beyond `limit`."""
    count = 0 if groups is None else len(np.unique(groups))
    spread = crossed(by_group(table, groups))
    seeds, images = table.shape
    return _with_interval(table.mean().item(), spread, level, seeds, images, limit, groups=count)


def fold_difference(
    differences: Float[np.ndarray, "repeats folds"],
    noise: Float[np.ndarray, "repeats folds"],
    redrawn: Redrawn,
    images: int,
    level: float = 0.95,
    limit: float = 1.0,
) -> Difference:
    """The difference in accuracy where runs draw their own splits, from its differences run by run.

    Args:
        differences: One a run; with a test split drawn for every repetition, one column.
        noise: `image_noise` of each.
        redrawn: The shares of a run's splits.
        images: How many test images there are in all.
        level: Of the interval.
        limit: No difference is beyond it.
    """
    repeats, folds = differences.shape
    spread = resampled(differences, noise, redrawn, 2.0 / images**2)
    return _with_interval(differences.mean().item(), spread, level, repeats, images, limit, folds=folds)


def fold_mean(
    accuracies: Float[np.ndarray, "repeats folds"],
    noise: Float[np.ndarray, "repeats folds"],
    redrawn: Redrawn,
    images: int,
    level: float = 0.95,
) -> Interval:
    """The accuracy of an arm where runs draw their own splits; see `fold_difference`, and `mean` for the interval's form.

    Of an arm's own accuracy, all the variance is put down to training sets: nothing of it cancels in a pair.
    """
    value = accuracies.mean().item()
    if not 0 < value < 1:
        return _wilson(value, quantile(level, inf) ** 2 / images, level)
    least = value * (1 - value) / (images * len(accuracies))
    spread = resampled(accuracies, noise, redrawn, least, training_share=1.0)
    return _wilson(value, spread.half_width(level) ** 2 / (value * (1 - value)), level)


def image_noise(
    first: Shaped[np.ndarray, " images"],
    second: Shaped[np.ndarray, " images"] | None = None,
    groups: Shaped[np.ndarray, " images"] | None = None,
) -> float:
    """The variance of one run's accuracy (or of the difference of a pair of runs) that is due to its test images."""
    return image_variance(first.astype(np.float64) - (0.0 if second is None else second), groups)


def failure_interval(failed: int, planned: int, level: float = 0.95) -> Interval:
    """The share of runs that fail, with Clopper and Pearson's interval (exact, never too narrow)."""
    exact = stats.binomtest(failed, planned).proportion_ci(level, method="exact")
    return Interval(failed / planned, float(exact.low), float(exact.high), level)


def _with_interval(
    value: float,
    spread: Spread,
    level: float,
    seeds: int,
    images: int,
    limit: float,
    groups: int = 0,
    folds: int = 0,
) -> Difference:
    """A difference with its interval, no end of which is beyond `limit`."""
    half = spread.half_width(level)
    return Difference(
        value=value,
        low=max(value - half, -limit),
        high=min(value + half, limit),
        level=level,
        standard_error=spread.error,
        degrees=spread.degrees,
        p_value=spread.p_value(value),
        seeds=seeds,
        images=images,
        run_variance=spread.run_variance,
        fixed_variance=spread.fixed_variance,
        groups=groups,
        folds=folds,
    )


def _wilson(value: float, spread: float, level: float) -> Interval:
    """Wilson's (1927) interval: all shares p with (value - p)^2 <= spread p (1 - p)."""
    center = (value + spread / 2) / (1 + spread)
    half = sqrt(value * (1 - value) * spread + spread**2 / 4) / (1 + spread)
    # Rounding must not leave the value outside: at 0 and at 1 it is a bound.
    return Interval(value, min(max(center - half, 0.0), value), max(min(center + half, 1.0), value), level)
