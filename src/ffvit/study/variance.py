"""How much chance moves a difference or an accuracy: the variance of runs and test images, taken apart.

**All repetitions answer the same test images** (the data brings a test split): repetitions and images are crossed. With
d[s, i] the difference (or the prediction's correctness) of repetition s on image i, `d = mean + repetition + image +
residual`, all random, and

    variance of the mean = repetition / S + image / N + residual / (S N),

estimated from the mean squares of the two-way table, MS(repetition) + max(MS(image) - MS(residual), 0), over S N. That
is the analysis of many readers and many cases in diagnostic imaging (Obuchowski and Rockette 1995; Hillis 2007). Where
no image differs in truth, its degrees of freedom come out too many whenever the repetitions agree by chance. So whatever
is concluded must also hold by the t-test over repetitions alone: the wider interval and the larger p-value count.

**Every repetition draws its own test split** (or cross-validation): a t-test over runs, corrected for the images that
the splits of different runs share. Runs whose splits share images are correlated. The correlation of what a training set
does to two runs is at most the share of images that their training sets have in common (Hoeffding 1948, on U-statistics),
`redrawn.train` for splits drawn at random; likewise for test sets. So with J runs, s^2 their variance and v the variance
by their test images,

    variance of the mean = (s^2 - v) (1 / J + r / (1 - r)) + v (1 / J + test / (1 - test)), r = TRAINING_SHARE train,

with J - 1 degrees of freedom. With r = train, the first factor is that of the jackknife that leaves out 1 - train of the
images. The second is the correction of Nadeau and Bengio (2003), who apply it to all of s^2: that covers too little
wherever training sets matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from jaxtyping import Float, Shaped
from scipy import special

from ffvit.errors import DataError

TRAINING_SHARE = 0.8
"""The largest share of the variance between the differences of runs (but for their test images' noise) that is put down to
training sets. Measured: less than a fifth (`benchmarks/intervals.py`), since paired runs share their training sets."""

NOISE_SHARE = 0.75
"""Share of the test images' noise that is taken out of the variance between runs before the rest is put down to training
sets: a few runs show too low a variance by chance, and all of it would leave 91 % coverage in the worst case."""


@dataclass(frozen=True)
class Redrawn:
    """Which shares of all images a run trains on and is tested on, where every run draws its own splits."""

    train: float
    test: float


@dataclass(frozen=True)
class Spread:
    """How much chance moved a value: its standard error with degrees of freedom, by two tests that must both hold.

    `run_error` and `run_degrees` are of the test over runs alone; the error is 0 if there is no such test. For the two
    variances see `statistics.Difference`.
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


def crossed(table: Float[np.ndarray, "seeds units"]) -> Spread:
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
    error, degrees, run_error, by_run = (figure.item() for figure in errors)
    return Spread(error, degrees, run_error, seeds - 1.0, seeds * by_run * error**2, (1 - by_run) * error**2)


def crossed_errors(
    of_runs: Float[np.ndarray, ...],
    of_images: Float[np.ndarray, ...],
    residual: Float[np.ndarray, ...],
    runs: int,
    images: int,
) -> tuple[Float[np.ndarray, ...], Float[np.ndarray, ...], Float[np.ndarray, ...], Float[np.ndarray, ...]]:
    """From the mean squares of a crossed table: standard error, degrees of freedom, error by the runs alone, their share.

    The share is of the variance: what further runs average out.
    """
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
        by_run,
    )


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
    passing, fixed = (part.item() for part in resampled_variance(of_runs, noise.mean().item(), redrawn, training_share))
    error = sqrt(max(passing / runs + fixed, least))
    return Spread(error, runs - 1.0, 0.0, inf, passing, fixed)


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


def image_variance(values: Float[np.ndarray, " images"], groups: Shaped[np.ndarray, " images"] | None) -> float:
    """The variance of the mean of such values of a run's test images."""
    table = by_group(values[None], groups)
    return table.var(ddof=1).item() / table.size


def by_group(
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


def quantile(level: float, degrees: float) -> float:
    """Of Student's t (the normal, where degrees are infinite): so many standard errors each way make up the level."""
    return special.stdtrit(degrees, (1 + level) / 2).item()
