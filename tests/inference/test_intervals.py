from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ffvit.inference.intervals import Proportion


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
