"""Variances, degrees of freedom, intervals and p-values against the textbook's formulas, written another way."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
import pytest
from scipy import stats

from ffvit.study.power import seeds_until_conclusive
from ffvit.study.statistics import (
    Difference,
    crossed_difference,
    difference,
    fold_difference,
    fold_mean,
    image_noise,
    mean,
)
from ffvit.study.variance import Redrawn, by_group

NONE = np.zeros((4, 50), dtype=bool)


def arm(of_images: float, of_runs: float, runs: int = 4, images: int = 50) -> np.ndarray:
    """Correct predictions: images differ in difficulty and runs in accuracy, each by so many logits."""
    draw = np.random.default_rng(3)
    logits = 1 + of_images * draw.standard_normal(images) + of_runs * draw.standard_normal((runs, 1))
    return draw.random((runs, images)) < 1 / (1 + np.exp(-logits))


def mean_squares(table: np.ndarray) -> tuple[float, float, float]:
    """Of runs, of images and of what is left, by taking the means out of the table twice."""
    runs, images = table.shape
    by_run = table.mean(axis=1, keepdims=True) - table.mean()
    by_image = table.mean(axis=0, keepdims=True) - table.mean()
    left = table - table.mean() - by_run - by_image
    return (
        images * (by_run**2).sum() / (runs - 1),
        runs * (by_image**2).sum() / (images - 1),
        (left**2).sum() / ((runs - 1) * (images - 1)),
    )


def assert_by_both_tests(its: Difference, tests: list[tuple[float, float]]) -> None:
    """The interval is the wider one, and the p-value the larger one, of tests with (error, degrees of freedom)."""
    half = max(stats.t.ppf(0.975, degrees) * error for error, degrees in tests)
    assert (its.value - its.low, its.high - its.value) == pytest.approx((half, half))
    p_value = max(2 * stats.t.sf(abs(its.value) / error, degrees) for error, degrees in tests)
    assert its.p_value == pytest.approx(p_value)


@pytest.mark.parametrize(("of_images", "of_runs", "runs_decide"), [(3.0, 0.0, False), (1.0, 0.7, True)])
def test_a_conclusion_must_hold_over_images_and_over_runs(of_images: float, of_runs: float, runs_decide: bool):
    first, second = arm(of_images, of_runs), arm(of_images / 3, 0.0)[:, ::-1]
    its = difference(first, second)
    runs, images, left = mean_squares(first.astype(float) - second)
    assert images > left  # else nothing lasts from run to run
    total, by_run = runs + images - left, sqrt(runs / 200)
    # Satterthwaite's degrees of freedom of a sum of two mean squares.
    degrees = total**2 / (runs**2 / 3 + (images - left) ** 2 / 49)
    assert (its.standard_error, its.degrees) == pytest.approx((sqrt(total / 200), degrees))
    assert (its.run_variance, its.fixed_variance) == pytest.approx((runs / 50, (images - left) / 200))
    assert bool(stats.t.ppf(0.975, 3) * by_run > stats.t.ppf(0.975, degrees) * its.standard_error) is runs_decide
    assert_by_both_tests(its, [(its.standard_error, degrees), (by_run, 3)])
    assert (its.level, its.seeds, its.images, its.groups, its.folds, its.runs) == (0.95, 4, 50, 0, 0, 4)


def test_what_runs_agree_on_is_left_to_the_images():
    """Further runs average nothing out where each has the same difference; no number of them is promised to help."""
    row = arm(3.0, 0.0, runs=1).astype(float) - arm(1.0, 0.0, runs=1)[:, ::-1]
    first, second = (row > 0).repeat(4, axis=0), (row < 0).repeat(4, axis=0)
    its = difference(first, second)
    assert (its.standard_error, its.degrees) == pytest.approx((row.std(ddof=1) / sqrt(50), 49))
    assert (its.run_variance, its.fixed_variance) == pytest.approx((0.0, its.standard_error**2))
    assert seeds_until_conclusive(its, 0.01) is None


@pytest.mark.parametrize("discordant", [0, 1])
def test_too_few_discordant_predictions_count_as_one_each_way(discordant: int):
    first = NONE.copy()
    first[0, :discordant] = True
    its = difference(first, NONE)
    assert its.value == discordant / 200
    each_way = np.array([1.0, -1.0, *[0.0] * 198])
    assert its.standard_error == pytest.approx(sqrt((each_way**2).mean() / 200))
    assert its.degrees == 3
    assert (its.run_variance / 4, its.fixed_variance) == pytest.approx((its.standard_error**2, 0.0), abs=1e-18)
    assert_by_both_tests(its, [(its.standard_error, 3)])


def test_one_seed_with_equal_groups_is_the_t_test_of_the_groups_means():
    first, second = arm(2.0, 0.0, runs=1, images=180), arm(1.0, 0.0, runs=1, images=180)[:, ::-1]
    groups = np.arange(180) % 60
    its = difference(first, second, 0.9, groups)
    means = [(first[0].astype(float) - second[0])[groups == group].mean() for group in range(60)]
    plain = stats.ttest_1samp(means, 0.0)
    interval = plain.confidence_interval(0.9)
    assert (its.low, its.high, its.p_value) == pytest.approx((interval.low, interval.high, plain.pvalue))
    assert (its.degrees, its.run_variance, its.level) == (59, 0, 0.9)
    assert its.fixed_variance == pytest.approx(np.var(means, ddof=1) / 60)
    assert (its.seeds, its.images, its.groups, its.folds) == (1, 180, 60, 0)


def test_two_groups_are_enough_for_an_interval():
    wins = np.array([[True, True, False, True]])
    groups = np.array(["a", "a", "b", "b"])
    its = mean(wins, groups=groups)
    assert (its.value, its.low < 0.75 < its.high) == (0.75, True)
    assert image_noise(wins[0], groups=groups) == pytest.approx(0.5**2 / 2 / 2)


def test_a_table_of_groups_of_one_image_is_the_table():
    table = np.random.default_rng(0).standard_normal((3, 7))
    np.testing.assert_allclose(by_group(table, np.arange(7)), table)


@pytest.mark.parametrize("correct", [0, 1, 45, 60])
def test_accuracy_of_one_seed_has_wilsons_interval(correct: int):
    its = mean(np.arange(60)[None] < correct, 0.9)
    wilson = stats.binomtest(correct, 60).proportion_ci(0.9, method="wilson")
    assert (its.value, its.low, its.high, its.level) == pytest.approx((correct / 60, wilson.low, wilson.high, 0.9))


def test_accuracy_of_seeds_that_are_all_correct_has_the_interval_of_one():
    assert mean(~NONE) == mean(~NONE[:1])
    wilson = stats.binomtest(10, 10).proportion_ci(method="wilson")
    assert mean(~NONE, groups=np.arange(50) % 10).low == pytest.approx(wilson.low)


def assert_wilson(its, half: float) -> None:
    """Its ends are the shares p from which the value is as far off, in standard deviations at p, as `half` is at the value."""
    for end in (its.low, its.high):
        far = (its.value - end) ** 2 / (end * (1 - end))
        assert far == pytest.approx(half**2 / (its.value * (1 - its.value)))
    assert its.low < its.value < its.high


def test_accuracy_over_seeds_has_wilsons_interval_of_the_variance_over_seeds_and_images():
    correct = arm(3.0, 0.2)
    runs, images, left = mean_squares(correct.astype(float))
    total = runs + images - left
    degrees = total**2 / (runs**2 / 3 + (images - left) ** 2 / 49)
    half = max(stats.t.ppf(0.95, degrees) * sqrt(total / 200), stats.t.ppf(0.95, 3) * sqrt(runs / 200))
    assert_wilson(mean(correct, 0.9), half)


SPLITS = Redrawn(train=0.72, test=0.2)


def test_accuracy_over_redrawn_splits_puts_all_its_variance_down_to_training_sets():
    accuracies, noise = np.array([[0.8], [0.86], [0.89]]), 1e-4
    rest = accuracies.var(ddof=1) - 0.75 * 0.8 * noise
    error = sqrt(rest * (1 / 3 + 0.72 / 0.28) + 0.8 * noise * (1 / 3 + 0.2 / 0.8))
    its = fold_mean(accuracies, np.full_like(accuracies, noise), SPLITS, 1000, 0.8)
    assert (its.value, its.level) == (pytest.approx(0.85), 0.8)
    assert_wilson(its, stats.t.ppf(0.9, 2) * error)


def test_accuracy_over_redrawn_splits_is_no_surer_than_one_run_of_all_images():
    """Where runs agree by chance; where nothing is wrong at all, it is Wilson's of the test images."""
    same = np.full((3, 1), 0.75)
    its = fold_mean(same, np.zeros_like(same), SPLITS, 1000)
    assert_wilson(its, stats.t.ppf(0.975, 2) * sqrt(0.75 * 0.25 / 1000 / 3))
    for correct in (0, 1):
        wilson = stats.binomtest(40 * correct, 40).proportion_ci(method="wilson")
        its = fold_mean(np.full((3, 1), float(correct)), np.zeros((3, 1)), SPLITS, 40)
        assert (its.low, its.high, its.level) == pytest.approx((wilson.low, wilson.high, 0.95))


def test_one_run_with_a_split_of_its_own_knows_the_variance_by_its_test_images_alone():
    its = fold_difference(np.array([[0.03]]), np.array([[4e-4]]), SPLITS, 500, 0.9)
    assert (its.standard_error, its.degrees, its.run_variance) == (0.02, inf, 0)
    assert its.fixed_variance == pytest.approx(4e-4)
    assert its.p_value == pytest.approx(2 * stats.norm.sf(1.5))
    assert its.high - 0.03 == pytest.approx(stats.norm.ppf(0.95) * 0.02)
    assert (its.level, its.images, its.folds, its.groups) == (0.9, 500, 1, 0)


@pytest.mark.parametrize("values", [[[0.0]], [[0.0], [0.0]]])
def test_splits_without_a_discordant_prediction_count_as_one_each_way(values: list[list[float]]):
    its = fold_difference(np.array(values), np.zeros_like(values), SPLITS, 100)
    assert its.standard_error == pytest.approx(sqrt(2) / 100)
    assert (its.p_value, its.run_variance, its.folds) == (1, 0, 1)


def test_no_interval_goes_beyond_the_limit_it_is_given():
    table = np.array([[1.0, 0.5, 2.0], [-2.0, -0.5, 0.0]])
    its = crossed_difference(table, 0.95, None, limit=2.0)
    assert (its.low, its.high) == (-2, 2)
    folds = fold_difference(np.array([[1.5], [-1.5]]), np.full((2, 1), 0.1), SPLITS, 10, limit=2.0)
    assert (folds.low, folds.high) == (-2, 2)
