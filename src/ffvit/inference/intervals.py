"""A share of images, or the difference of two, and the interval in which that among all such images lies."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Shaped

_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Proportion:
    """A share from 0 to 1 with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, successes: int | float, trials: int | float) -> Proportion:
        """The share of successes, with the score interval of Wilson (1927).

        The interval is the set of shares p with |value - p| <= z sqrt(p (1 - p) / trials), solved for p; it is
        `scipy.stats.binomtest(...).proportion_ci(method="wilson")` without the exact test that takes most of its time,
        half a millisecond, three of which are needed for each class.
        """
        value = successes / trials
        shrink = 1 + _Z**2 / trials
        center = (value + _Z**2 / (2 * trials)) / shrink
        half = _Z * sqrt(value * (1 - value) / trials + (_Z / (2 * trials)) ** 2) / shrink
        # Rounding must not leave the estimate outside its interval where the bound is the estimate: at 0 and at 1.
        return cls(value, min(max(center - half, 0.0), value), max(min(center + half, 1.0), value))

    @classmethod
    def of_table(cls, correct: Bool[np.ndarray, "conditions images"]) -> Proportion:
        """The mean over images that were predicted under several conditions each; images are drawn, conditions are not.

        The interval is of as many independent predictions as would have the standard error measured (Dean and Pagano
        2015): as many as there are images where an image is predicted alike under all conditions, and more otherwise.
        """
        value, (conditions, images) = correct.mean().item(), correct.shape
        of_all = value * (1 - value)
        if not of_all:
            return cls.of(value * images, images)
        trials = images * of_all / max(correct.mean(axis=0).var().item(), of_all / conditions)
        return cls.of(value * trials, trials)

    @classmethod
    def f1(cls, both: int, either: int) -> Proportion:
        """F1 of a class, from the images that are both of the class and answered so, and those that are either.

        F1 = 2 TP / (2 TP + FP + FN) has no binomial counts of its own, but it is 2 J / (1 + J), rising in the Jaccard
        share J = TP / (TP + FP + FN), which has: the interval is that of J, mapped. It is conditional on the union
        TP + FP + FN, as the interval of a precision is on the number of answers.
        """
        jaccard = cls.of(both, either)
        return cls(*(2 * share / (1 + share) for share in (jaccard.value, jaccard.low, jaccard.high)))


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two shares of the same images, first less second, -1 to 1, with its interval.

    Attributes:
        value: Of these images.
        low: End of the interval.
        high: End of the interval.
        standard_error: Of the value.
    """

    value: float
    low: float
    high: float
    standard_error: float

    @classmethod
    def of(
        cls, first: Shaped[np.ndarray, " images"], second: Shaped[np.ndarray, " images"], level: float = 0.95
    ) -> PairedDifference:
        """Agresti and Min's (2005) interval: half an image is added to each of the four outcomes of a pair.

        Args:
            first: Whether each image is predicted correctly, or under which share of several conditions.
            second: Likewise.
            level: Of the interval.
        """
        differences = first.astype(np.float64) - second
        total, squares, padded = differences.sum().item(), (differences**2).sum().item(), len(first) + 2
        value, middle = total / len(first), total / padded
        error = sqrt((squares + 1) / padded - middle**2) / sqrt(padded)
        half = NormalDist().inv_cdf((1 + level) / 2) * error
        low, high = min(middle - half, value), max(middle + half, value)
        return cls(value, max(low, -1.0), min(high, 1.0), error)


@dataclass(frozen=True)
class Difference:
    """The difference of two shares of different images, first less second, -1 to 1, with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, first: Proportion, second: Proportion) -> Difference:
        """Newcombe's (1998) interval, made of those of the two shares: his method 10."""
        value = first.value - second.value
        low = sqrt((first.value - first.low) ** 2 + (second.high - second.value) ** 2)
        high = sqrt((first.high - first.value) ** 2 + (second.value - second.low) ** 2)
        return cls(value, value - low, value + high)
