"""What a study can show: before it runs, after a few repetitions, and in a repetition more."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import inf, sqrt

import numpy as np
from scipy import special, stats

from ffvit.study.decision import Direction, Size, direction, effective_margin, size
from ffvit.study.statistics import Difference
from ffvit.study.variance import Redrawn, crossed_errors, quantile, resampled_variance

POWER = 0.8
"""Probability with which a plan, or more seeds, should show what is there."""

RUN_SD = 0.1
"""Standard deviation of a run's true difference of two arms, over p (1 - p) of the accuracy p, where nothing is known: 2.1
points at 70 %, 0.9 at 90 %, 0.2 at 98 %."""

TRAINING_SHARE = 0.2
"""Share of that variance that is due to the training set, where it is redrawn (measured; see `statistics`)."""

DISCORDANCE = 0.5
"""How often two arms differ on an image, over how often independent predictions of their accuracy would."""

IMAGE_SHARE = 0.25
"""Share of the variance between images that lasts from seed to seed."""

USEFUL = 4.0
"""A range of further seeds whose end is more than so many times its start tells a reader nothing."""


@dataclass(frozen=True)
class Outlook:
    """What a plan can show, by simulation.

    Attributes:
        smallest: The smallest true difference whose direction is shown with a probability of 80 %; infinite if none is.
        chances: If the arms are equal: the probability of every pair of statements that occurs.
    """

    smallest: float
    chances: dict[tuple[Direction, Size], float]


def outlook(
    runs: int,
    images: int,
    accuracy: float,
    margin: float,
    level: float = 0.95,
    redrawn: Redrawn | None = None,
    run_sd: float | None = None,
    studies: int = 20_000,
) -> Outlook:
    """What a plan can show before anything runs, from simulated studies (always the same ones: the seed is fixed).

    What no one knows yet is assumed, see the constants of this module: how much runs vary, how often arms disagree.

    Args:
        runs: Paired runs of the comparison: repetitions, times the folds of cross-validation.
        images: Test images of a run (or their groups).
        accuracy: A guess of the arms' accuracy.
        margin: The plan's.
        level: Of the comparison's interval at the first look.
        redrawn: The shares of a run's splits where every run draws its own; else all answer the same test images.
        run_sd: Standard deviation of a run's true difference, if it is known better than by `RUN_SD`.
        studies: How many to simulate.
    """
    if runs == 1:
        return Outlook(inf, {("not shown", "not shown"): 1.0})
    draw, share = np.random.default_rng(0), accuracy * (1 - accuracy)
    run = (RUN_SD * share if run_sd is None else run_sd) ** 2
    image = max(2 * DISCORDANCE * share, 1 / images)

    def mean_square(expected: float, degrees: int) -> np.ndarray:
        return expected * draw.chisquare(degrees, studies) / degrees

    if redrawn is None:
        lasting, residual = IMAGE_SHARE * image, (1 - IMAGE_SHARE) * image
        true = run / runs + lasting / images + residual / (runs * images)
        error, degrees, run_error, _ = crossed_errors(
            mean_square(images * run + residual, runs - 1),
            mean_square(runs * lasting + residual, images - 1),
            mean_square(residual, (runs - 1) * (images - 1)),
            runs,
            images,
        )
        half = np.maximum(_quantiles(level, degrees) * error, quantile(level, runs - 1.0) * run_error)
    else:
        noise, shared = image / images, TRAINING_SHARE * redrawn.train
        varying = run * (1 - shared) + noise * (1 - redrawn.test)
        true = run * shared + noise * redrawn.test + varying / runs
        passing, fixed = resampled_variance(mean_square(varying, runs - 1), noise, redrawn)
        half = quantile(level, runs - 1.0) * np.sqrt(passing / runs + fixed)
    values = sqrt(true) * draw.standard_normal(studies)
    smallest = float(np.quantile(half - values, POWER))
    margin = effective_margin(margin, accuracy, accuracy)
    low, high = values - half, values + half
    directions = np.select([low > 0, high < 0], ["better", "worse"], "not shown")
    sizes = np.select(
        [(low > -margin) & (high < margin), (low > margin) | (high < -margin)], ["equivalent", "larger"], "not shown"
    )
    counts = Counter(zip(directions.tolist(), sizes.tolist(), strict=True))
    return Outlook(smallest if smallest < 1 else inf, {pair: count / studies for pair, count in counts.most_common()})


def seeds_until_conclusive(
    difference: Difference, margin: float, power: float = POWER, most: int = 100
) -> tuple[int, int] | None:
    """How many more seeds would likely show a direction or a size, from and to; (0, 0) if one is shown.

    Likely is with a probability of `power`, if the difference stays what it is. The range is that of the variance between
    runs, which a few estimate poorly: from the lower to the upper quartile of what it may be (chi-square). None if there
    are fewer than three runs, if the range is too wide to be of use, or if no number up to `most` in all would do: what
    the test images leave open, no seed closes. With folds, a seed is a repeat of them all.
    """
    if direction(difference) != "not shown" or size(difference, margin) != "not shown":
        return 0, 0
    if difference.runs < 3:
        return None
    degrees = difference.runs - 1
    least, greatest = (
        next(
            (
                seeds - difference.seeds
                for seeds in range(difference.seeds + 1, most + 1)
                if _chance_of_conclusion(difference, margin, seeds, degrees / stats.chi2.ppf(tail, degrees)) >= power
            ),
            None,
        )
        for tail in (0.75, 0.25)
    )
    return None if least is None or greatest is None or greatest > USEFUL * least else (least, greatest)


def chance_of_winning_again(difference: Difference) -> float | None:
    """The probability that the arm that is ahead is ahead again in one new run of both, on as many new test images.

    Predicted by Student's t: the new difference is off the estimate by the estimate's own error and by what one run
    varies. None with one run, which cannot show that.
    """
    if difference.runs == 1:
        return None
    one_run = difference.run_variance + difference.fixed_variance
    spread = sqrt(difference.standard_error**2 + one_run)
    return special.stdtr(difference.runs - 1, abs(difference.value) / spread).item()


def _chance_of_conclusion(difference: Difference, margin: float, seeds: int, factor: float) -> float:
    """The probability, at so many seeds, of a direction or of equivalence: noncentral t, the less likely of both tests.

    `factor` is the variance between runs over its estimate.
    """
    runs, units = seeds * max(difference.folds, 1), difference.groups or difference.images
    passing = factor * difference.run_variance / runs
    fixed = difference.fixed_variance * (factor if difference.folds else 1)
    if difference.folds:
        tests = [(sqrt(passing + fixed), runs - 1.0)]
    else:
        share = passing / (passing + fixed)
        degrees = 1 / (share**2 / (runs - 1) + (1 - share) ** 2 / (units - 1))
        tests = [(sqrt(passing + fixed), degrees), (sqrt(passing), runs - 1.0)]
    real, equal = 1.0, 1.0
    for error, degrees in tests:
        if not error:
            continue
        far, bound = abs(difference.value) / error, quantile(difference.level, degrees)
        real = min(real, 1 - _noncentral(bound, degrees, far))
        sides = [_noncentral(bound, degrees, margin / error + side * far) for side in (-1, 1)]
        equal = min(equal, 1 - sum(sides))
    return max(real, equal)


def _quantiles(level: float, degrees: np.ndarray) -> np.ndarray:
    """`quantile` of many degrees of freedom, which between its points on a grid is nearly straight in their inverse."""
    grid = np.linspace(1 / degrees.max(), 1 / degrees.min(), 200)
    return np.interp(1 / degrees, grid, special.stdtrit(1 / grid, (1 + level) / 2))


def _noncentral(value: float, degrees: float, shift: float) -> float:
    """The probability that noncentral t is below a value; by the normal where that makes no difference."""
    if degrees > 1000 or abs(shift) > 30:
        return special.ndtr(value - shift).item()
    return special.nctdtr(degrees, shift, value).item()
