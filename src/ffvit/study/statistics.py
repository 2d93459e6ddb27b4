"""Means and paired differences of a study's runs, with intervals over repetitions and test images, and what they show.

A repetition redraws what a second researcher would redraw: initialization, order, augmentation, splits and the search.

**All repetitions answer the same test images** (the data brings a test split): repetitions and images are crossed. With
d[s, i] the difference (or the prediction's correctness) of repetition s on image i, `d = mean + repetition + image +
residual`, all random, and

    variance of the mean = repetition / S + image / N + residual / (S N),

estimated from the mean squares of the two-way table, MS(repetition) + max(MS(image) - MS(residual), 0), over S N. That
is the analysis of many readers and many cases in diagnostic imaging (Obuchowski and Rockette 1995; Hillis 2007). Where
no image differs in truth, its degrees of freedom come out too many whenever the repetitions agree by chance. So whatever
is concluded must also hold by the t-test over repetitions alone: the wider interval and the larger p-value count.

**Every repetition draws its own test split** (or cross-validation): a t-test over runs, corrected for the images that
the splits of different runs share, see `fold_difference`.

`docs/statistics.md` says why these and not others, with simulations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import special, stats

from ffvit.errors import DataError

Direction = Literal["better", "worse", "not shown"]
Size = Literal["equivalent", "larger", "not shown"]

TRAINING_SHARE = 0.8
"""The largest share of the variance between the differences of runs (but for their test images' noise) that is put down to
training sets. Measured: less than a fifth (`benchmarks/intervals.py`), since paired runs share their training sets."""

NOISE_SHARE = 0.75
"""Share of the test images' noise that is taken out of the variance between runs before the rest is put down to training
sets: a few runs show too low a variance by chance, and all of it would leave 91 % coverage in the worst case."""

MISTAKE_RATIO = 0.5
"""Two arms are not equivalent if one may make 1 + this times the mistakes of the other."""

LEAST_MARGIN = 0.1
"""The margin is not lowered below this share of what the plan says, however few mistakes are left."""


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


@dataclass(frozen=True)
class Redrawn:
    """Which shares of all images a run trains on and is tested on, where every run draws its own splits."""

    train: float
    test: float


def mean(
    correct: Bool[np.ndarray, "seeds images"], level: float = 0.95, groups: Shaped[np.ndarray, " images"] | None = None
) -> Interval:
    """The accuracy of an arm whose runs answered the same test images; with one seed, the interval is over images alone.

    It is Wilson's interval, of as many independent predictions as would have the error measured (Dean and Pagano 2015):
    near 100 % the plain one, value and so much each way, is far too sure (see `docs/statistics.md`). An arm whose
    predictions are all correct, or none, has no spread to measure: then as if its seeds were one.

    Args:
        correct: Whether each prediction is.
        level: Of the interval.
        groups: The group of each image; images of a group (one object, one burst) count as one.
    """
    value = correct.mean().item()
    table = _by_group(correct.astype(np.float64), groups)
    if not 0 < value < 1 or (len(correct) == 1 and groups is None):
        return _wilson(value, quantile(level, inf) ** 2 / table.shape[1], level)
    return _wilson(value, _crossed(table).half_width(level) ** 2 / (value * (1 - value)), level)


def difference(
    first: Bool[np.ndarray, "seeds images"],
    second: Bool[np.ndarray, "seeds images"],
    level: float = 0.95,
    groups: Shaped[np.ndarray, " images"] | None = None,
) -> Difference:
    """The difference in accuracy of two arms whose runs are paired by seed and answered the same test images.

    It is conditional on pairs in which both runs finished; `failure_interval` reports those that did not.

    With one seed the interval is of the images alone: Agresti and Min's (2005), one discordant prediction added each way
    and half of it to the rest; the p-value is McNemar's, exact. It covers nothing of what another seed would change, so
    that `direction` and `size` are not shown.

    Args:
        first: Correct predictions of one arm.
        second: Of the other.
        level: Of the interval.
        groups: The group of each image. The table is then of groups, each weighted by its images: the ratio estimator,
            so that the value stays the mean over images.
    """
    table = first.astype(np.float64) - second
    if len(table) > 1 or groups is not None:
        return over_table(table, level, groups)
    images, value = table.size, table.mean().item()
    only_first, only_second = int((table > 0).sum()), int((table < 0).sum())
    discordant, padded = only_first + only_second, images + 2
    p_value = stats.binomtest(only_first, discordant).pvalue if discordant else 1.0
    middle = (only_first - only_second) / padded
    error = sqrt((discordant + 1) / padded - middle**2) / sqrt(padded)
    half = quantile(level, inf) * error
    low, high = min(middle - half, value), max(middle + half, value)
    return Difference(
        value, max(low, -1.0), min(high, 1.0), level, error, inf, float(p_value), 1, images, 0.0, error**2
    )


def fold_difference(
    differences: Float[np.ndarray, "repeats folds"],
    noise: Float[np.ndarray, "repeats folds"],
    redrawn: Redrawn,
    images: int,
    level: float = 0.95,
) -> Difference:
    """The difference in accuracy where runs draw their own splits, from its differences run by run.

    Runs whose splits share images are correlated. The correlation of what a training set does to two runs is at most the
    share of images that their training sets have in common (Hoeffding 1948, on U-statistics), `redrawn.train` for splits
    drawn at random; likewise for test sets. So with J runs, s^2 their variance and v the variance by their test images,

        variance of the mean = (s^2 - v) (1 / J + r / (1 - r)) + v (1 / J + test / (1 - test)), r = TRAINING_SHARE train,

    with J - 1 degrees of freedom. With r = train, the first factor is that of the jackknife that leaves out 1 - train of
    the images. The second is the correction of Nadeau and Bengio (2003), who apply it to all of s^2: that covers too
    little wherever training sets matter.

    Args:
        differences: One a run; with a test split drawn for every repetition, one column.
        noise: `image_noise` of each.
        redrawn: The shares of a run's splits.
        images: How many test images there are in all.
        level: Of the interval.
    """
    repeats, folds = differences.shape
    spread = resampled(differences, noise, redrawn, 2.0 / images**2)
    return difference_of(differences.mean().item(), spread, level, repeats, images, folds=folds)


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
    first: Bool[np.ndarray, " images"],
    second: Bool[np.ndarray, " images"] | None = None,
    groups: Shaped[np.ndarray, " images"] | None = None,
) -> float:
    """The variance of one run's accuracy (or of the difference of a pair of runs) that is due to its test images."""
    values = first.astype(np.float64) - (0.0 if second is None else second)
    return noise_of(values, groups)


def failure_interval(failed: int, planned: int, level: float = 0.95) -> Interval:
    """The share of runs that fail, with Clopper and Pearson's interval (exact, never too narrow)."""
    its = stats.binomtest(failed, planned).proportion_ci(level, method="exact")
    return Interval(failed / planned, float(its.low), float(its.high), level)


def direction(difference: Difference, main: Direction | None = None) -> Direction:
    """`better` or `worse` if the interval excludes 0; never from one run, which tells nothing of other seeds.

    Args:
        difference: The comparison's.
        main: For a side comparison, the direction of the main one: while that is not shown, none is (see
            `comparison_levels`).
    """
    if difference.runs == 1 or main == "not shown":
        return "not shown"
    return "better" if difference.low > 0 else "worse" if difference.high < 0 else "not shown"


def size(difference: Difference, margin: float, main: Size | None = None) -> Size:
    """`equivalent` if the whole interval lies within the margin, `larger` if all of it lies beyond; never from one run.

    Direction and size are two statements of one interval, and neither hides the other: a difference may be real and
    too small to matter. The interval is the one that is printed; as a test of equivalence it is stricter than two
    one-sided tests (Schuirmann 1987) at the same level.

    Args:
        difference: The comparison's.
        margin: Differences below it do not matter; see `effective_margin`.
        main: For a side comparison, the size of the main one: while that is not shown, none is.
    """
    if difference.runs == 1 or main == "not shown":
        return "not shown"
    if -margin < difference.low and difference.high < margin:
        return "equivalent"
    return "larger" if difference.low > margin or difference.high < -margin else "not shown"


def effective_margin(margin: float, first: float, second: float) -> float:
    """The margin, lowered where few mistakes are left: at most half of the better arm's error rate.

    So equivalent arms never differ by more than 1.5 times the mistakes: 99.8 against 99.1 % is within one point, and 4.5
    times the mistakes. Below a tenth of the margin it is not lowered: no test set is large enough to tell one mistake in
    ten thousand from two.
    """
    return min(margin, max(MISTAKE_RATIO * (1 - max(first, second)), LEAST_MARGIN * margin))


def level_for(comparisons: int, level: float = 0.95) -> float:
    """The level of each interval, for all of so many comparisons to hold at once at `level` (Bonferroni)."""
    return 1 - (1 - level) / comparisons


def comparison_levels(comparisons: int, level: float = 0.95) -> tuple[float, ...]:
    """The level of every comparison's interval, the main one first: it is tested at full level, before all others.

    The others share that level among themselves, and are concluded only where the main comparison is (a fixed sequence,
    Maurer, Hothorn and Lehmacher 1995): `direction` and `size` take what the main one shows. Then at most 1 - level of
    studies state any wrong direction, and at most as many any wrong size.
    """
    return (level, *[level_for(comparisons - 1, level)] * (comparisons - 1)) if comparisons > 1 else (level,)


def looks(first: int, most: int) -> tuple[int, ...]:
    """The numbers of seeds at which a sequential study may be looked at, each about 1.6 times the one before."""
    counts = [first]
    while counts[-1] < most:
        counts.append(min(most, max(counts[-1] + 1, round(counts[-1] * 1.6))))
    return tuple(counts)


def look_level(planned: Sequence[int], look: int, level: float = 0.95) -> float:
    """The level of the intervals at a look, for all looks together to hold at `level`, however many are added by hand.

    The looks that were planned, and all that were not, get equal shares of the error rate; each look added by hand spends
    half of what is left of the last share. So a plan of one look spends half, a first look added by hand a quarter, the
    next an eighth. By the union bound the error rate holds however the looks depend on each other.

    Args:
        planned: The planned looks, `looks` of a sequential plan; else the one number of seeds.
        look: Which look this is, from 1.
        level: Of all looks together.
    """
    share = (1 - level) / (len(planned) + 1)
    return 1 - share * 0.5 ** max(look - len(planned), 0)


@dataclass(frozen=True)
class Spread:
    """How much chance moved a value: its standard error with degrees of freedom, by two tests that must both hold.

    Attributes:
        error: Standard error.
        degrees: Of freedom.
        run_error: By the runs alone; 0 if there is no such test.
        run_degrees: Of that.
        run_variance: See `Difference`.
        fixed_variance: See `Difference`.
    """

    error: float
    degrees: float
    run_error: float
    run_degrees: float
    run_variance: float
    fixed_variance: float

    def half_width(self, level: float) -> float:
        """Half of the interval: the wider of both."""
        return max(quantile(level, self.degrees) * self.error, quantile(level, self.run_degrees) * self.run_error)

    def p_value(self, value: float) -> float:
        """Two-sided, of no difference: the larger of both."""
        tests = [(self.error, self.degrees), (self.run_error, self.run_degrees)]
        return max(2 * special.stdtr(degrees, -abs(value) / error).item() for error, degrees in tests if error)


def crossed_errors(
    of_runs: Float[np.ndarray, ...],
    of_images: Float[np.ndarray, ...],
    residual: Float[np.ndarray, ...],
    runs: int,
    images: int,
) -> tuple[Float[np.ndarray, ...], Float[np.ndarray, ...], Float[np.ndarray, ...]]:
    """From the mean squares of a crossed table: standard error, degrees of freedom, standard error by the runs alone."""
    both = of_runs + np.maximum(of_images - residual, 0.0)
    # One discordant prediction more each way: the least that so many could have failed to show.
    least = 2.0 / (runs * images)
    few = both < least
    by_run = np.where(few, 1.0, of_runs / np.maximum(both, least))
    degrees = 1.0 / (by_run**2 / (runs - 1) + (1 - by_run) ** 2 / (images - 1))
    return (
        np.sqrt(np.maximum(both, least) / (runs * images)),
        degrees,
        np.sqrt(np.where(few, 0.0, of_runs) / (runs * images)),
    )


def resampled_variance(
    variance: Float[np.ndarray, ...] | float,
    noise: Float[np.ndarray, ...] | float,
    redrawn: Redrawn,
    training_share: float = TRAINING_SHARE,
) -> tuple[Float[np.ndarray, ...], Float[np.ndarray, ...]]:
    """From the variance between runs and their test images' noise: what more runs average out, and what they do not."""
    # Test sets overlap: their noise shows between runs only as far as they do not.
    images = np.asarray(noise * (1 - redrawn.test))
    rest = np.maximum(variance - NOISE_SHARE * images, 0.0)
    shared = training_share * redrawn.train
    return rest + images, rest * shared / (1 - shared) + images * redrawn.test / (1 - redrawn.test)


def over_table(
    table: Float[np.ndarray, "seeds images"],
    level: float,
    groups: Shaped[np.ndarray, " images"] | None,
    limit: float = 1.0,
) -> Difference:
    """A difference from its table of runs and test images; no difference is beyond `limit`."""
    count = 0 if groups is None else len(np.unique(groups))
    spread = _crossed(_by_group(table, groups))
    seeds, images = table.shape
    return difference_of(table.mean().item(), spread, level, seeds, images, limit, groups=count)


def _crossed(table: Float[np.ndarray, "seeds units"]) -> Spread:
    """The two-way analysis of variance without replication; of one seed, over its images (or groups) alone."""
    seeds, units = table.shape
    if seeds == 1:
        error = sqrt(max(table.var(ddof=1).item(), 2.0 / units) / units)
        return Spread(error, units - 1.0, 0.0, inf, 0.0, error**2)
    of_seeds = units * table.mean(axis=1).var(ddof=1)
    of_images = seeds * table.mean(axis=0).var(ddof=1)
    squares = table.var() * table.size - (seeds - 1) * of_seeds - (units - 1) * of_images
    residual = max(squares, 0.0) / ((seeds - 1) * (units - 1))
    errors = crossed_errors(of_seeds, of_images, residual, seeds, units)
    error, degrees, run_error = (each.item() for each in errors)
    run_variance = seeds * (run_error or error) ** 2
    return Spread(error, degrees, run_error, seeds - 1.0, run_variance, max(error**2 - run_variance / seeds, 0.0))


def resampled(
    values: Float[np.ndarray, ...],
    noise: Float[np.ndarray, ...],
    redrawn: Redrawn,
    least: float,
    training_share: float = TRAINING_SHARE,
) -> Spread:
    """How much chance moved the mean of runs that draw their own splits; its variance is no less than `least`."""
    runs = values.size
    if runs == 1:
        error = sqrt(max(noise.mean().item(), least))
        return Spread(error, inf, 0.0, inf, 0.0, error**2)
    of_runs = values.var(ddof=1).item()
    passing, fixed = (each.item() for each in resampled_variance(of_runs, noise.mean().item(), redrawn, training_share))
    error = sqrt(max(passing / runs + fixed, least))
    return Spread(error, runs - 1.0, 0.0, inf, passing, fixed)


def difference_of(
    value: float,
    spread: Spread,
    level: float,
    seeds: int,
    images: int,
    limit: float = 1.0,
    *,
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


def _by_group(
    table: Float[np.ndarray, "seeds images"], groups: Shaped[np.ndarray, " images"] | None
) -> Float[np.ndarray, "seeds units"]:
    """The table of groups, each weighted by its share of the images (the ratio estimator's linear form)."""
    if groups is None:
        return table
    names, place, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise DataError(f"groups: the {table.shape[1]} test images form one group; an interval needs two or more")
    value = table.mean()
    sums = np.stack([np.bincount(place, row) for row in table])
    return value + (sums - counts * value) / counts.mean()


def noise_of(values: Float[np.ndarray, " images"], groups: Shaped[np.ndarray, " images"] | None) -> float:
    """The variance of the mean of such values of a run's test images."""
    table = _by_group(values[None], groups)
    return table.var(ddof=1).item() / table.size


def quantile(level: float, degrees: float) -> float:
    """Of Student's t (the normal, where degrees are infinite): so many standard errors each way make up the level."""
    return special.stdtrit(degrees, (1 + level) / 2).item()


def _wilson(value: float, spread: float, level: float) -> Interval:
    """Wilson's (1927) interval: all shares p with (value - p)^2 <= spread p (1 - p)."""
    center = (value + spread / 2) / (1 + spread)
    half = sqrt(value * (1 - value) * spread + spread**2 / 4) / (1 + spread)
    # Rounding must not leave the value outside: at 0 and at 1 it is a bound.
    return Interval(value, min(max(center - half, 0.0), value), max(min(center + half, 1.0), value), level)
