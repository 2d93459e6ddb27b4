from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ffvit.inference.intervals import Difference, PairedDifference, Proportion


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    trials = draw(st.integers(1, 100_000))
    return draw(st.integers(0, trials)), trials


@given(counts())
def test_agrees_with_scipy(counts: tuple[int, int]):
    mine = Proportion.of(*counts)
    theirs = stats.binomtest(*counts).proportion_ci(confidence_level=0.95, method="wilson")
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-12)


@given(counts())
def test_interval_holds_the_estimate_and_stays_a_share(counts: tuple[int, int]):
    for share in (Proportion.of(*counts), Proportion.f1(*counts)):
        assert 0 <= share.low <= share.value <= share.high <= 1


def test_f1_on_paper():
    # 6 right, 2 taken for it, 2 missed: precision and recall are 6 / 8, and so is F1; J = 6 / 10.
    assert Proportion.f1(6, 10).value == pytest.approx(6 / 8)
    jaccard = Proportion.of(6, 10)
    assert Proportion.f1(6, 10).low == pytest.approx(2 * jaccard.low / (1 + jaccard.low))
    assert Proportion.f1(6, 10).high == pytest.approx(2 * jaccard.high / (1 + jaccard.high))


@pytest.mark.parametrize("true", [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97])
def test_wilson_covers_the_truth_at_200_images(true: float):
    # Every count that 200 images can give, weighted by its probability: the coverage itself, no sampling.
    shares = [Proportion.of(count, 200) for count in range(201)]
    probability = stats.binom.pmf(np.arange(201), 200, true)
    coverage = probability[[share.low <= true <= share.high for share in shares]].sum()
    assert 0.93 <= coverage <= 0.97


@pytest.mark.parametrize(("recall", "false_alarm"), [(0.9, 0.05), (0.7, 0.1), (0.5, 0.3)])
def test_f1_interval_covers_the_truth_at_200_images(recall: float, false_alarm: float):
    # Images are of the class with probability 0.4; hit, false and miss are the three ways to be in the union.
    hit, false, miss = 0.4 * recall, 0.6 * false_alarm, 0.4 * (1 - recall)
    true = 2 * hit / (2 * hit + false + miss)
    draws = np.random.default_rng(0).multinomial(200, [hit, false, miss, 1 - hit - false - miss], size=4000)
    shares = [Proportion.f1(hits, hits + falses + misses) for hits, falses, misses, _ in draws.tolist()]
    # 4,000 sets of images put a standard error of 0.35 points on the coverage.
    assert 0.93 <= np.mean([share.low <= true <= share.high for share in shares]) <= 0.97


def test_of_one_condition_the_interval_is_wilsons():
    correct = np.arange(50) < 37
    wilson = pytest.approx(astuple(Proportion.of(37, 50)))
    assert astuple(Proportion.of_table(correct[None])) == wilson
    assert astuple(Proportion.of_table(np.stack([correct] * 4))) == wilson  # the images are no more for it
    assert Proportion.of_table(np.ones((3, 20), bool)) == Proportion.of(20, 20)


def test_the_interval_over_several_conditions_covers_the_truth():
    # Each image has a chance of its own to be predicted correctly, about 0.7; under 10 conditions it is drawn again.
    generator = np.random.default_rng(0)
    covered, widths = [], []
    for _ in range(2000):
        chances = generator.beta(2.1, 0.9, size=150)
        share = Proportion.of_table(generator.random((10, 150)) < chances)
        covered.append(share.low <= 0.7 <= share.high)
        widths.append(share.high - share.low)
    assert 0.935 <= np.mean(covered) <= 0.965
    assert np.mean(widths) < 0.7 * (Proportion.of(105, 150).high - Proportion.of(105, 150).low)


def test_the_difference_of_shares_of_conditions_covers_the_truth():
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        chances = generator.beta(2.1, 0.9, size=150)  # the second network's are a tenth lower
        first, second = (generator.random((10, 150)) < each for each in (chances, 0.9 * chances))
        difference = PairedDifference.of(first.mean(axis=0), second.mean(axis=0))
        covered.append(difference.low <= 0.07 <= difference.high)
    assert np.mean(covered) >= 0.94


def test_newcombes_own_example():
    # Newcombe (1998), Table II: 56 of 70 less 48 of 80, method 10.
    difference = Difference.of(Proportion.of(56, 70), Proportion.of(48, 80))
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
