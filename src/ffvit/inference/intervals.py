"""A share of images, and the interval in which the share among all such images lies."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Proportion:
    """A share from 0 to 1 with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, successes: int, trials: int) -> Proportion:
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
    def f1(cls, both: int, either: int) -> Proportion:
        """F1 of a class, from the images that are both of the class and answered so, and those that are either.

        F1 = 2 TP / (2 TP + FP + FN) has no binomial counts of its own, but it is 2 J / (1 + J), rising in the Jaccard
        share J = TP / (TP + FP + FN), which has: the interval is that of J, mapped. It is conditional on the union
        TP + FP + FN, as the interval of a precision is on the number of answers.
        """
        jaccard = cls.of(both, either)
        return cls(*(2 * share / (1 + share) for share in (jaccard.value, jaccard.low, jaccard.high)))
