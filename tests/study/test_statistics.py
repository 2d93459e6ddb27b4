from __future__ import annotations

from math import inf, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from ffvit.study.statistics import (
    Difference,
    difference,
    equivalence,
    fold_difference,
    fold_mean,
    level_for,
    looks,
    mean,
    outcome,
    seeds_to_settle,
)


def simulated(
    draw, seeds: int, images: int, accuracy: float, shift: float = 0.0, of_seeds: float = 0.2, interaction: float = 0.0
):
    """Two arms' answers: images differ in difficulty, seeds move all of an arm's images and each of them a little.

    `shift` moves the first arm's logits; `interaction` is how much the arms differ from image to image.
    """
    difficulty = draw.beta(accuracy, 1 - accuracy, size=images).clip(1e-6, 1 - 1e-6)
    logits = np.log(difficulty / (1 - difficulty))
    arms = []
    for move in (shift, 0.0):
        arm = logits + move + interaction * draw.standard_normal(images)
        noise = of_seeds * draw.standard_normal((seeds, 1)) + 0.5 * draw.standard_normal((seeds, images))
        arms.append(draw.random((seeds, images)) < 1 / (1 + np.exp(-(arm + noise))))
    return arms


def true_difference(shift: float, accuracy: float = 0.8, of_seeds: float = 0.2) -> float:
    """What a shift of the logits is worth among all images and seeds, to a hundredth of a point."""
    draw = np.random.default_rng(0)
    difficulty = draw.beta(accuracy, 1 - accuracy, size=4_000_000).clip(1e-6, 1 - 1e-6)
    logits = np.log(difficulty / (1 - difficulty)) + sqrt(of_seeds**2 + 0.5**2) * draw.standard_normal(len(difficulty))
    return float((1 / (1 + np.exp(-(logits + shift))) - 1 / (1 + np.exp(-logits))).mean())


def made(value: float, error: float, degrees: float = 10.0, level: float = 0.95, **fields) -> Difference:
    half = float(stats.t.ppf((1 + level) / 2, degrees)) * error
    variances = {"seed_variance": 11 * error**2, "image_variance": 0.0, "residual_variance": 0.0, **fields}
    return Difference(value, value - half, value + half, level, error, degrees, 0.5, 11, 1000, **variances)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("accuracy", [0.72, 0.9])
@pytest.mark.parametrize("of_seeds", [0.0, 0.2])
def test_on_studies_of_two_equal_arms_the_interval_covers_zero(seeds: int, accuracy: float, of_seeds: float):
    draw, studies = np.random.default_rng(seeds), 2000
    covered = 0
    for _ in range(studies):
        its = difference(*simulated(draw, seeds, 360, accuracy, of_seeds=of_seeds))
        covered += its.low <= 0 <= its.high
    assert 0.935 - 0.005 <= covered / studies <= 0.965 + 0.005  # half a point: 2,000 studies are no more exact


def test_where_arms_differ_from_image_to_image_the_interval_covers_the_difference_among_all_images():
    """An interval of the seeds alone would not: it takes the test images for all there are."""
    draw, studies, covered, naive = np.random.default_rng(1), 2000, 0, 0
    for _ in range(studies):
        one, other = simulated(draw, 5, 300, 0.8, of_seeds=0.05, interaction=1.0)
        its = difference(one, other)
        covered += its.low <= 0 <= its.high
        by_seed = one.mean(axis=1) - other.mean(axis=1)
        naive += stats.ttest_1samp(by_seed, 0.0).pvalue > 0.05
    assert 0.93 <= covered / studies <= 0.97
    assert naive / studies < 0.92


@pytest.mark.parametrize("seeds", [3, 5])
def test_as_good_is_declared_wrongly_in_at_most_one_of_twenty_at_the_margins_edge(seeds: int):
    draw, studies, shift = np.random.default_rng(seeds), 2000, -0.35
    edge = -true_difference(shift)
    wrong = sum(
        outcome(difference(*simulated(draw, seeds, 1000, 0.8, shift)), edge) == "as good" for _ in range(studies)
    )
    assert wrong / studies <= 0.05 + 2 * sqrt(0.05 * 0.95 / studies)


def test_the_parts_are_those_of_the_two_way_table():
    first = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]], dtype=bool)
    second = np.array([[0, 1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0]], dtype=bool)
    its = difference(first, second)
    # By hand: d = [[1,0,0,0],[1,0,-1,1],[0,1,1,1]], mean 5/12; seed means 1/4, 1/4, 3/4; image means 2/3, 1/3, 0, 2/3.
    of_seeds = 4 * ((1 / 6) ** 2 + (1 / 6) ** 2 + (1 / 3) ** 2) / 2
    of_images = 3 * ((1 / 4) ** 2 + (1 / 12) ** 2 + (5 / 12) ** 2 + (1 / 4) ** 2) / 3
    total = 7 - 12 * (5 / 12) ** 2
    residual = (total - 2 * of_seeds - 3 * of_images) / 6
    assert its.value == pytest.approx(5 / 12)
    assert its.standard_error == pytest.approx(sqrt((of_seeds + max(of_images - residual, 0)) / 12))
    assert its.residual_variance == pytest.approx(residual)


def test_without_an_effect_of_images_it_is_the_paired_t_test():
    draw = np.random.default_rng(0)
    one, other = simulated(draw, 6, 20_000, 0.8, of_seeds=0.3)
    its = difference(one, other)
    plain = stats.ttest_rel(one.mean(axis=1), other.mean(axis=1))
    interval = plain.confidence_interval()
    assert its.value == pytest.approx(float(one.mean() - other.mean()))
    assert its.low == pytest.approx(interval.low, rel=0.05)
    assert its.high == pytest.approx(interval.high, rel=0.05)
    assert its.p_value == pytest.approx(plain.pvalue, rel=0.1)


def test_one_seed_is_mcnemars_test_of_the_images():
    first = np.array([[True] * 12 + [False] * 3 + [True] * 85])
    second = np.array([[False] * 12 + [True] * 3 + [True] * 85])
    its = difference(first, second)
    assert its.value == pytest.approx(0.09)
    assert its.p_value == pytest.approx(stats.binomtest(3, 15).pvalue)
    assert its.low == pytest.approx(0.01, abs=0.01)  # Agresti and Min: about 0.088 - 1.96 x 0.038
    assert its.high == pytest.approx(0.163, abs=0.005)
    assert its.degrees == inf


answers = arrays(bool, st.tuples(st.integers(1, 5), st.integers(2, 30)))


@given(answers, st.randoms(use_true_random=False))
def test_intervals_hold_their_value_and_have_a_width(first: np.ndarray, random):
    second = first.copy()
    for row in second:
        random.shuffle(row)
    for level in (0.5, 0.95):
        its = difference(first, second, level)
        assert its.low <= its.value <= its.high
        assert its.high - its.low > 1e-6
        whole = mean(first, level)
        assert 0 <= whole.low <= whole.value <= whole.high <= 1
        assert whole.high - whole.low > 1e-6
    back = difference(second, first)
    forth = difference(first, second)
    assert (back.value, back.low, back.high) == pytest.approx((-forth.value, -forth.high, -forth.low))
    order = np.arange(first.shape[1])[::-1]
    again = difference(first[::-1, order], second[::-1, order])
    assert (again.value, again.low, again.high) == pytest.approx((forth.value, forth.low, forth.high))
    assert difference(first, second, 0.99).high >= forth.high


def test_arms_that_answer_alike_are_not_known_for_certain_to_be_equal():
    same = np.ones((3, 360), dtype=bool)
    its = difference(same, same)
    assert its.value == 0
    assert 0.002 < its.high < 0.02
    assert mean(same).low < 0.995


def test_folds_widen_the_interval_as_nadeau_and_bengio_say():
    values = np.random.default_rng(0).normal(0.02, 0.01, size=(2, 5))
    its = fold_difference(values, 0.25, 500)
    assert its.standard_error == pytest.approx(sqrt((1 / 10 + 0.25) * values.var(ddof=1)))
    assert its.degrees == 9
    assert its.high - its.value == pytest.approx(stats.t.ppf(0.975, 9) * its.standard_error)
    assert fold_mean(values + 0.8, 0.25).value == pytest.approx(0.8 + values.mean())


@pytest.mark.parametrize(
    ("value", "error", "margin", "says"),
    [
        (0.00, 0.002, 0.01, "as good"),
        (0.006, 0.001, 0.01, "as good"),  # real, and within the margin
        (0.05, 0.01, 0.01, "better"),
        (-0.05, 0.01, 0.01, "worse"),
        (0.013, 0.01, 0.01, "not worse"),
        (0.00, 0.02, 0.01, "open"),
        (0.00, 0.002, 0.0, "open"),
        (0.01, 0.001, 0.0, "better"),
    ],
)
def test_what_a_difference_shows(value: float, error: float, margin: float, says: str):
    assert outcome(made(value, error), margin) == says


def test_equivalence_is_the_worse_of_two_one_sided_tests():
    its = made(0.002, 0.004)
    assert equivalence(its, 0.01) == pytest.approx(stats.t.sf(2.0, 10))
    assert equivalence(its, 0.0) == 1.0


def test_questions_share_one_error_rate():
    assert level_for(1) == pytest.approx(0.95)
    assert level_for(5) == pytest.approx(0.99)


def test_looks_are_few_and_end_at_the_most():
    assert looks(3, 20) == (3, 5, 8, 13, 20)
    assert looks(3, 3) == (3,)
    assert looks(1, 4) == (1, 2, 3, 4)


def test_looking_again_and_again_keeps_the_error_rate():
    """Stopping at the first look that shows a difference: of equal arms, at most one study in twenty ends so."""
    draw, studies, wrong = np.random.default_rng(4), 1000, 0
    counts = looks(3, 13)
    level = level_for(len(counts))
    for _ in range(studies):
        one, other = simulated(draw, counts[-1], 300, 0.8)
        wrong += any(outcome(difference(one[:n], other[:n], level), 0.0) in ("better", "worse") for n in counts)
    assert wrong / studies <= 0.05 + 2 * sqrt(0.05 * 0.95 / studies)


def test_more_seeds_settle_what_seeds_leave_open_and_not_what_images_do():
    assert seeds_to_settle(made(0.05, 0.01), 0.01) == 0
    more = seeds_to_settle(made(0.015, 0.008), 0.005)
    assert more is not None
    assert 0 < more < 40
    assert seeds_to_settle(made(0.0, 0.02, seed_variance=0.0, image_variance=0.4), 0.01) is None


def test_so_many_seeds_do_settle_it_in_about_four_of_five():
    draw = np.random.default_rng(2)
    one, other = simulated(draw, 200, 1000, 0.8, 0.15, of_seeds=0.1)
    true = difference(one, other)
    start = made(
        true.value, 0.5, seed_variance=true.seed_variance, image_variance=0.0, residual_variance=true.residual_variance
    )
    start = Difference(**{**start.__dict__, "seeds": 2})
    more = seeds_to_settle(start, 0.0)
    assert more is not None
    settled = sum(
        outcome(difference(*simulated(draw, 2 + more, 1000, 0.8, 0.15, of_seeds=0.1)), 0.0) == "better"
        for _ in range(400)
    )
    assert 0.65 <= settled / 400 <= 0.95
