from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from ffvit.data.shuffle import BlockPermutation, Permutation, uniform


@given(st.integers(1, 3000), st.integers(0, 2**32), st.integers(0, 100))
def test_every_number_once(size, seed, epoch):
    assert sorted(Permutation(size, seed, epoch)(np.arange(size))) == list(range(size))


@pytest.mark.parametrize("size", [3, 4])
def test_every_order_is_as_likely(size):
    drawn = Counter(tuple(Permutation(size, seed)(np.arange(size)).tolist()) for seed in range(1200))
    assert chisquare([drawn[order] for order in permutations(range(size))]).pvalue > 1e-3


@pytest.mark.parametrize("size", [100, 257, 1797])
def test_every_position_shows_every_number_as_often_and_neighbours_are_scattered(size):
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


class TestBlocks:
    @given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 9), st.integers(0, 9))
    def test_every_number_once_and_few_blocks_at_a_time(self, lengths, window, seed):
        begins = np.cumsum([0, *lengths])
        order = BlockPermutation(begins, window, seed, 0)
        places = np.arange(begins[-1])
        shown = order(places)
        assert sorted(shown) == places.tolist()
        blocks = np.searchsorted(begins, shown, side="right") - 1
        for number in np.unique(order.window_of(places)):
            needed = set(blocks[order.window_of(places) == number].tolist())
            assert needed == set(order.blocks_of(int(number)))
            assert len(needed) <= window

    @given(st.integers(0, 99))
    def test_one_position_gives_what_the_whole_order_gives(self, place):
        order = BlockPermutation(np.arange(0, 101, 10), 3, 1, 2)
        assert order(np.array([place]))[0] == order(np.arange(100))[place]

    def test_blocks_and_images_are_shuffled_again_each_epoch(self):
        one, other = (BlockPermutation(np.arange(0, 1001, 10), 4, 0, epoch) for epoch in (0, 1))
        assert one.blocks.tolist() != other.blocks.tolist()
        assert (one(np.arange(1000)) != np.sort(one(np.arange(1000)))).mean() > 0.9
