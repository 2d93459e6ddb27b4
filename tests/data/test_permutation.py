from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from ffvit.data.permutation import Permutation, uniform


@given(st.integers(1, 3000), st.integers(0, 2**32), st.integers(0, 100))
def test_every_number_once(size, seed, epoch):
    assert sorted(Permutation(size, seed, epoch)(np.arange(size))) == list(range(size))


@pytest.mark.parametrize("size", [3, 4])
def test_every_order_is_as_likely(size):
    drawn = Counter(tuple(Permutation(size, seed)(np.arange(size)).tolist()) for seed in range(1200))
    assert chisquare([drawn[order] for order in permutations(range(size))]).pvalue > 1e-3


@pytest.mark.parametrize("size", [100, 257, 1797])
def test_a_place_shows_every_number_as_often_and_neighbours_are_no_neighbours(size):
    orders = np.stack([Permutation(size, seed, 7)(np.arange(size)) for seed in range(800)])
    for place in (0, 1, size // 2, size - 1):
        assert chisquare(np.bincount(orders[:, place] * 20 // size, minlength=20)[:19]).pvalue > 1e-3
    steps = (np.diff(orders, axis=1) % size).ravel()
    counts = np.bincount(steps * 10 // size, minlength=10)
    assert abs(counts / counts.sum() - 0.1).max() < 0.015
    fixed = (orders == np.arange(size)).sum(axis=1)
    assert abs(fixed.mean() - 1) < 0.1  # as of a random permutation, whatever its size


def test_uniform_is_even_and_independent():
    drawn = uniform(np.arange(100_000), 3, 5)
    assert kstest(drawn, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(drawn, uniform(np.arange(100_000), 3, 6))[0, 1]) < 0.02
