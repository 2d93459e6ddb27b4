from __future__ import annotations

from math import inf, sqrt

import numpy as np
import pytest
from scipy import stats

from ffvit.study.decision import direction, size
from ffvit.study.power import RUN_SD, chance_of_winning_again, outlook, seeds_until_conclusive
from ffvit.study.statistics import Difference, difference, fold_difference
from ffvit.study.variance import Redrawn

SPLITS = Redrawn(train=0.72, test=0.2)


def made(value: float, run_sd: float, seeds: int, image_sd: float = 0.0, folds: int = 0) -> Difference:
    """As it would come out if every variance were just what it is expected to be."""
    error = sqrt(run_sd**2 / seeds + image_sd**2)
    half = float(stats.t.ppf(0.975, seeds - 1)) * error
    return Difference(
        value, value - half, value + half, 0.95, error, seeds - 1.0, 0.5, seeds, 1000, run_sd**2, image_sd**2, 0, folds
    )


def test_more_seeds_help_against_run_variance_but_not_image_variance():
    assert seeds_until_conclusive(made(0.05, 0.01, 5), 0.01) == (0, 0)
    assert seeds_until_conclusive(made(0.0, 0.005, 5), 0.01) == (0, 0)
    few, many = seeds_until_conclusive(made(0.015, 0.024, 9), 0.0) or (0, 0)
    assert 0 < few < many <= 4 * few
    assert seeds_until_conclusive(made(0.0, 0.01, 9, image_sd=0.02), 0.01) is None


def test_no_range_of_seeds_is_given_from_two_seeds_or_when_it_is_too_wide():
    assert seeds_until_conclusive(made(0.05, 0.008, 2), 0.0) is None
    assert seeds_until_conclusive(made(0.05, 0.02, 3), 0.0) is not None
    assert seeds_until_conclusive(made(0.015, 0.015, 3), 0.0) is None  # 5 to 27


def test_the_range_of_seeds_has_about_80_percent_power():
    """At the lower end of the range a little less often, at the upper end more, as the variance is known here."""
    draw, studies, value, sd = np.random.default_rng(2), 4000, 0.015, 0.024
    few, many = seeds_until_conclusive(made(value, sd, 9), 0.0) or (0, 0)
    shares = []
    for seeds in (9 + few, 9 + many):
        runs = draw.normal(value, sd, (studies, seeds))
        shares.append(float((stats.ttest_1samp(runs, 0.0, axis=1).pvalue < 0.05).mean()))
    assert 0.6 <= shares[0] <= 0.8 <= shares[1] <= 0.95


def test_one_more_seed_rarely_moves_the_range():
    draw, told, parted = np.random.default_rng(3), 0, 0
    for _ in range(300):
        runs = draw.normal(0.015, 0.02, 7)
        guesses = []
        for seeds in (6, 7):
            mean, sd = runs[:seeds].mean().item(), runs[:seeds].std(ddof=1).item()
            guesses.append(seeds_until_conclusive(made(mean, sd, seeds), 0.0))
        first, second = guesses
        if first and second and (0, 0) not in guesses:
            told += 1
            parted += first[1] < second[0] or second[1] < first[0]
    assert told > 50
    assert parted / told < 0.1


def test_chance_of_winning_again_is_calibrated():
    """Of new runs, the share below any quantile of the prediction is that quantile."""
    draw, seeds, at = np.random.default_rng(4), 5, []
    for _ in range(4000):
        image = draw.normal(0.02, 0.01)
        runs = image + draw.normal(0, 0.02, seeds)
        its = made(runs.mean().item(), runs.std(ddof=1).item(), seeds, image_sd=0.01)
        new = draw.normal(0.02, 0.01) + draw.normal(0, 0.02)
        # shifted so that the new run is the border between winning and losing
        ahead = chance_of_winning_again(made(its.value - new, sqrt(its.run_variance), seeds, image_sd=0.01))
        assert ahead is not None
        at.append(ahead if its.value > new else 1 - ahead)
    below = np.array(at)
    for quantile in (0.05, 0.2, 0.8, 0.95):
        assert abs((below < quantile).mean() - quantile) < 0.03


def test_chance_of_winning_again_is_of_the_arm_that_is_ahead():
    assert chance_of_winning_again(made(0.0, 0.01, 5)) == pytest.approx(0.5)
    ahead, behind = made(0.02, 0.01, 5), made(-0.02, 0.01, 5)
    expected = stats.t.cdf(0.02 / sqrt(0.01**2 / 5 + 0.01**2), 4)
    assert chance_of_winning_again(ahead) == chance_of_winning_again(behind) == pytest.approx(expected)
    one = np.ones((1, 50), dtype=bool)
    assert chance_of_winning_again(difference(one, ~one)) is None


@pytest.mark.parametrize(("runs", "images"), [(3, 360), (5, 2000)])
def test_outlook_agrees_with_simulated_studies(runs: int, images: int):
    """On tables of images, whose variances are those the outlook assumes: half as discordant as independent runs."""
    accuracy, studies, draw = 0.9, 1500, np.random.default_rng(runs)
    its = outlook(runs, images, accuracy, 0.02)
    assert sum(its.chances.values()) == pytest.approx(1)
    share = accuracy * (1 - accuracy)

    def study(true: float) -> Difference:
        contested = np.where(draw.random(images) < share / 4, draw.choice([-1, 1], images), 0)
        rate = draw.normal(true, RUN_SD * share, (runs, 1))  # of images that only the first gets right, less the others
        at = draw.random((runs, images))
        first, second = at < (0.75 * share + rate) / 2, at > 1 - (0.75 * share - rate) / 2
        return difference(np.where(contested, contested > 0, first), np.where(contested, contested < 0, second))

    found = sum(direction(study(its.smallest)) == "better" for _ in range(studies)) / studies
    assert 0.7 <= found <= 0.9
    equal = [study(0.0) for _ in range(studies)]
    for statement in ("equivalent", "not shown"):
        said = sum(size(one, 0.02) == statement for one in equal) / studies
        promised = sum(chance for (_, how), chance in its.chances.items() if how == statement)
        assert abs(said - promised) < 0.07


def test_outlook_agrees_with_simulated_studies_when_splits_are_redrawn():
    runs, images, accuracy, studies, draw = 5, 400, 0.9, 2000, np.random.default_rng(0)
    its = outlook(runs, images, accuracy, 0.01, redrawn=SPLITS)
    noise, run = accuracy * (1 - accuracy) / images, (RUN_SD * accuracy * (1 - accuracy)) ** 2
    shared = sqrt(0.2 * 0.72 * run + 0.2 * noise)
    own = sqrt((1 - 0.2 * 0.72) * run + 0.8 * noise)
    shows = 0
    for _ in range(studies):
        values = its.smallest + shared * draw.standard_normal() + own * draw.standard_normal((runs, 1))
        shows += direction(fold_difference(values, np.full((runs, 1), noise), SPLITS, images)) == "better"
    assert abs(shows / studies - 0.8) < 0.03


def test_smallest_difference_shrinks_with_runs_and_images_and_grows_with_variance():
    plain = outlook(5, 1000, 0.9, 0.01)
    assert outlook(10, 1000, 0.9, 0.01).smallest < plain.smallest < outlook(3, 1000, 0.9, 0.01).smallest
    assert outlook(5, 4000, 0.9, 0.01).smallest < plain.smallest < outlook(5, 1000, 0.9, 0.01, level=0.99).smallest
    assert outlook(5, 1000, 0.9, 0.01, run_sd=0.03).smallest > plain.smallest
    assert outlook(5, 1000, 0.9, 0.01) == plain
    one = outlook(1, 1000, 0.9, 0.01)
    assert (one.smallest, one.chances) == (inf, {("not shown", "not shown"): 1.0})
