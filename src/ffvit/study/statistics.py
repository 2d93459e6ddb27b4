"""Means and paired differences of a study's runs, with intervals that account for both seeds and test images.

Seeds and images are crossed: every run answers the same images. With d[s, i] the difference (or the answer itself) of
seed s on image i, `d = mean + seed + image + residual`, all random, and

    variance of the mean = seed / S + image / N + residual / (S N),

estimated from the mean squares of the two-way table, MS(seed) + max(MS(image) - MS(residual), 0), over S N. That is the
analysis of many readers and many cases in diagnostic imaging (Obuchowski and Rockette 1995, with seeds as readers), with
the degrees of freedom of Hillis (2007).

Where no image differs in truth, these degrees of freedom come out too many whenever the seeds agree by luck. So whatever
is concluded must also hold by the t-test over seeds alone, which is exact there: the wider of the two intervals is given,
the larger of the two p-values counts. `docs/statistics.md` says why this and not another, with simulations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy import special, stats

Outcome = Literal["better", "worse", "as good", "not worse", "open"]

STRICT = 0.9
"""Share of the error rate that a test of equivalence gets: with ten seeds and more its t is approximate to a tenth of it
(`docs/statistics.md`)."""

POWER = 0.8
"""Probability with which more seeds should settle a question, if the differences stay what they are."""


@dataclass(frozen=True)
class Interval:
    """A value with its interval; `level` is its confidence, 0.95 unless questions share it."""

    value: float
    low: float
    high: float
    level: float


@dataclass(frozen=True)
class Difference:
    """A paired difference of two arms, first less second.

    Attributes:
        value: Mean over seeds and images.
        low: Where its interval begins.
        high: Where it ends.
        level: The interval's confidence.
        standard_error: Of the value, by seeds and images.
        degrees: Its degrees of freedom; infinite with one seed.
        p_value: Two-sided, of no difference.
        seeds: How many (with folds: how many times all folds were run).
        images: How many test images.
        seed_variance: Of a seed's true difference; 0 with one seed, which cannot show it.
        image_variance: Of an image's true difference.
        residual_variance: What is left, of one seed on one image.
        seed_error: Standard error by the seeds alone, with one degree of freedom less than seeds; 0 with one seed.
        folds: Of cross-validation; 0 without. With folds, the image variance is what further repeats do not reduce.
    """

    value: float
    low: float
    high: float
    level: float
    standard_error: float
    degrees: float
    p_value: float
    seeds: int
    images: int
    seed_variance: float
    image_variance: float
    residual_variance: float
    seed_error: float = 0.0
    folds: int = 0

    def surely_above(self, bound: float) -> float:
        """The one-sided p-value of the difference being above a bound."""
        return self._tail(self.value - bound)

    def surely_below(self, bound: float) -> float:
        """The one-sided p-value of the difference being below a bound."""
        return self._tail(bound - self.value)

    def _tail(self, distance: float) -> float:
        """The larger p-value of both tests."""
        by_both = _below(-distance / self.standard_error, self.degrees)
        if not self.seed_error:
            return by_both
        return max(by_both, _below(-distance / self.seed_error, self.seeds - 1.0))


def mean(correct: Bool[np.ndarray, "seeds images"], level: float = 0.95) -> Interval:
    """The accuracy of an arm, with an interval over seeds and images; with one seed, over images (Wilson).

    With several it is Wilson's interval too, of as many independent answers as would have the error measured (Dean and
    Pagano 2015): near 100 % the plain one, value and so much each way, is far too sure (see `docs/statistics.md`). An
    arm that answers everything rightly, or nothing, has no spread to measure: then as if its seeds were one.
    """
    value, images = correct.mean().item(), correct.shape[1]
    if len(correct) == 1 or not 0 < value < 1:
        return _wilson(value, _quantile(level, inf) ** 2 / images, level)
    half = _parts(correct.astype(np.float64)).half_width(level)
    return _wilson(value, half**2 / (value * (1 - value)), level)


def difference(
    first: Bool[np.ndarray, "seeds images"], second: Bool[np.ndarray, "seeds images"], level: float = 0.95
) -> Difference:
    """The difference in accuracy of two arms whose runs are paired by seed and answered the same images.

    With one seed the interval is of the images alone: Agresti and Min's (2005), one discordant answer added each way
    and half of it to the rest; the p-value is McNemar's, exact, which is the stricter: an interval may just leave out 0
    where the p-value is a little above 1 - level.
    """
    table = first.astype(np.float64) - second
    seeds, images = table.shape
    value = table.mean().item()
    if seeds == 1:
        only_first, only_second = int((table > 0).sum()), int((table < 0).sum())
        discordant, padded = only_first + only_second, images + 2
        p_value = stats.binomtest(only_first, discordant).pvalue if discordant else 1.0
        middle = (only_first - only_second) / padded
        error = sqrt((discordant + 1) / padded - middle**2) / sqrt(padded)
        half = _quantile(level, inf) * error
        low, high = min(middle - half, value), max(middle + half, value)
        residual = max(table.var().item(), 2.0 / images)
        return Difference(value, low, high, level, error, inf, float(p_value), 1, images, 0.0, 0.0, residual)
    parts = _parts(table)
    return _with_interval(value, parts, level, seeds, images)


def fold_difference(
    differences: Float[np.ndarray, "repeats folds"], test_over_train: float, images: int, level: float = 0.95
) -> Difference:
    """The difference in accuracy by repeated cross-validation, from its differences run by run.

    Folds share most of their training images, so their differences are not independent: the variance of their mean is
    taken as (1 / J + test / train) s^2, with J - 1 degrees of freedom, J = repeats x folds (Nadeau and Bengio 2003;
    Bouckaert and Frank 2004).

    Args:
        differences: One a run.
        test_over_train: Test images of a run over its training images.
        images: How many there are in all.
        level: Of the interval.
    """
    repeats, folds = differences.shape
    error, degrees = _resampled(differences, test_over_train, 2.0 / images**2)
    # Told apart by what more repeats would do: s^2 / J falls with them, s^2 test / train does not.
    lasting = error**2 * test_over_train / (1 / differences.size + test_over_train)
    parts = _Parts(error, degrees, 0.0, 0, 0.0, lasting * images, (error**2 - lasting) * repeats * images)
    return replace(_with_interval(differences.mean().item(), parts, level, repeats, images), folds=folds)


def fold_mean(
    accuracies: Float[np.ndarray, "repeats folds"], test_over_train: float, level: float = 0.95, images: int = 0
) -> Interval:
    """The accuracy of an arm by repeated cross-validation; see `fold_difference`, and `mean` for the interval's form.

    Args:
        accuracies: One a run.
        test_over_train: Test images of a run over its training images.
        level: Of the interval.
        images: How many there are in all. Without them (0), an arm whose every run answered everything rightly, or
            nothing, seems known almost for certain.
    """
    error, degrees = _resampled(accuracies, test_over_train, 0.0)
    value, quantile = accuracies.mean().item(), _quantile(level, degrees)
    if not 0 < value < 1:
        return _wilson(value, _quantile(level, inf) ** 2 / images if images else quantile * error, level)
    least = value * (1 - value) / (images * len(accuracies)) if images else 0.0
    return _wilson(value, quantile**2 * max(error**2, least) / (value * (1 - value)), level)


def equivalence(difference: Difference, margin: float) -> float:
    """The p-value of `as good`: two one-sided t-tests against the margin, of which the worse counts (Schuirmann 1987)."""
    if margin <= 0:
        return 1.0
    return max(difference.surely_above(-margin), difference.surely_below(margin))


def outcome(difference: Difference, margin: float) -> Outcome:
    """What a difference shows, at an error rate of 1 less its level for all of these statements together.

    `as good` if equivalence within the margin is shown, even where the difference is also real; else `better` or
    `worse` if its interval leaves 0 out; else `not worse` if its interval leaves out all that is worse than the margin
    (a one-sided test would say so a little more often, and contradict the interval that stands beside it).

    Whatever the true difference, one test at that rate covers all that could be said wrongly: below -margin, all of
    `as good`, `better` and `not worse` imply that it was found surely above -margin; above margin, `as good` and
    `worse` that it was found surely below margin; between them, only `better` or `worse` can be wrong.
    """
    alpha = 1 - difference.level
    if equivalence(difference, margin) <= STRICT * alpha:
        return "as good"
    if difference.low > 0:
        return "better"
    if difference.high < 0:
        return "worse"
    return "not worse" if difference.low > -margin else "open"


def level_for(questions: int, level: float = 0.95) -> float:
    """The level of each interval, for all of so many questions to hold at once at `level` (Bonferroni)."""
    return 1 - (1 - level) / questions


def looks(first: int, most: int) -> tuple[int, ...]:
    """The numbers of seeds at which a study may be looked at: from the first on, each about 1.6 times the one before.

    Each look is a question more for `level_for`: by the union bound the error rate holds however the looks depend.
    """
    counts = [first]
    while counts[-1] < most:
        counts.append(min(most, max(counts[-1] + 1, round(counts[-1] * 1.6))))
    return tuple(counts)


def seeds_to_settle(difference: Difference, margin: float, power: float = POWER, most: int = 100) -> int | None:
    """How many more seeds would likely settle a question: 0 if it is; None if no number up to `most` in all would.

    Likely is with a probability of `power`, if the difference and the variances stay what they are; a difference of the
    size of its own error may of course turn out otherwise. What the test images leave open, no seed closes. One seed
    shows neither the seeds' variance nor the images', so that its guess is the lowest there is: as if both were none.
    With folds, a seed is a repeat of them all.
    """
    if outcome(difference, margin) in ("better", "worse", "as good"):
        return 0
    now = difference.seeds
    return next(
        (seeds - now for seeds in range(now + 1, most + 1) if _settled(difference, margin, seeds) >= power), None
    )


def _settled(difference: Difference, margin: float, seeds: int) -> float:
    """The probability, at so many seeds, of `better`, `worse` or `as good`: noncentral t, the less likely of both tests."""
    images, alpha = difference.images, 1 - difference.level
    lasting = difference.image_variance / images
    passing = (difference.seed_variance + difference.residual_variance / images) / seeds
    if difference.folds:
        tests = [(sqrt(passing + lasting), seeds * difference.folds - 1.0)]
    else:
        degrees = min((1 + lasting / passing) ** 2 * (seeds - 1), float((seeds - 1) * (images - 1))) if passing else inf
        tests = [(sqrt(passing + lasting), degrees), (sqrt(passing), seeds - 1.0)]
    real, equal = 1.0, 1.0
    for error, degrees in tests:
        if not error:
            continue
        far = abs(difference.value) / error
        real = min(real, 1 - _noncentral(_quantile(difference.level, degrees), degrees, far))
        bound = _quantile(1 - 2 * STRICT * alpha, degrees)
        sides = [_noncentral(bound, degrees, margin / error + side * far) for side in (-1, 1)]
        equal = min(equal, 1 - sum(sides))
    return max(real, equal if margin > 0 else 0.0)


@dataclass(frozen=True)
class _Parts:
    """The standard error of a mean, its degrees of freedom, and the variances behind it."""

    standard_error: float
    degrees: float
    seed_error: float
    seed_degrees: int
    seed: float
    image: float
    residual: float

    def half_width(self, level: float) -> float:
        """Half of the interval: the wider of both."""
        by_both = _quantile(level, self.degrees) * self.standard_error
        if not self.seed_error:
            return by_both
        return max(by_both, _quantile(level, float(self.seed_degrees)) * self.seed_error)


def _parts(table: Float[np.ndarray, "seeds images"]) -> _Parts:
    """The two-way analysis of variance without replication."""
    seeds, images = table.shape
    by_seed, by_image = table.mean(axis=1), table.mean(axis=0)
    of_seeds = images * by_seed.var(ddof=1).item()
    of_images = seeds * by_image.var(ddof=1).item()
    squares = table.var().item() * table.size - (seeds - 1) * of_seeds - (images - 1) * of_images
    residual = max(squares, 0.0) / ((seeds - 1) * (images - 1))
    both = of_seeds + max(of_images - residual, 0.0)
    # One discordant answer more each way: the least that so many answers could have failed to show.
    least = 2.0 / table.size
    if both < least:
        return _Parts(sqrt(least / table.size), seeds - 1.0, 0.0, 0, 0.0, 0.0, max(residual, least))
    degrees = (both / of_seeds) ** 2 * (seeds - 1) if of_seeds > 0 else inf
    return _Parts(
        standard_error=sqrt(both / table.size),
        degrees=min(degrees, float((seeds - 1) * (images - 1))),
        seed_error=sqrt(of_seeds / table.size),
        seed_degrees=seeds - 1,
        seed=max(of_seeds - residual, 0.0) / images,
        image=max(of_images - residual, 0.0) / seeds,
        residual=residual,
    )


def _resampled(values: Float[np.ndarray, "repeats folds"], test_over_train: float, least: float) -> tuple[float, float]:
    count = values.size
    variance = values.var(ddof=1).item()
    return sqrt(max((1 / count + test_over_train) * variance, least, 1e-12)), count - 1.0


def _with_interval(value: float, parts: _Parts, level: float, seeds: int, images: int) -> Difference:
    half = parts.half_width(level)
    its = Difference(
        value=value,
        low=value - half,
        high=value + half,
        level=level,
        standard_error=parts.standard_error,
        degrees=parts.degrees,
        p_value=1.0,
        seeds=seeds,
        images=images,
        seed_variance=parts.seed,
        image_variance=parts.image,
        residual_variance=parts.residual,
        seed_error=parts.seed_error,
    )
    return replace(its, p_value=min(1.0, 2 * min(its.surely_above(0.0), its.surely_below(0.0))))


def _quantile(level: float, degrees: float) -> float:
    """Of Student's t (the normal, where degrees are infinite): so many standard errors each way make up the level."""
    return special.stdtrit(degrees, (1 + level) / 2).item()


def _below(value: float, degrees: float) -> float:
    """The probability that Student's t is below a value."""
    return special.stdtr(degrees, value).item()


def _noncentral(value: float, degrees: float, shift: float) -> float:
    """The probability that noncentral t is below a value; by the normal where that makes no difference."""
    if degrees > 1000 or abs(shift) > 30:
        return special.ndtr(value - shift).item()
    return special.nctdtr(degrees, shift, value).item()


def _wilson(value: float, spread: float, level: float) -> Interval:
    """Wilson's (1927) interval: all shares p with (value - p)^2 <= spread p (1 - p)."""
    center = (value + spread / 2) / (1 + spread)
    half = sqrt(value * (1 - value) * spread + spread**2 / 4) / (1 + spread)
    # Rounding must not leave the value outside: at 0 and at 1 it is a bound.
    return Interval(value, min(max(center - half, 0.0), value), max(min(center + half, 1.0), value), level)
