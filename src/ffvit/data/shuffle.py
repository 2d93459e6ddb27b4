"""A shuffle as a function: which number comes at a place is computed from the place, and nothing is kept."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

ROUNDS = 10
"""More than the 4 that make a Feistel network a good one with good round functions (Luby and Rackoff, 1988)."""

U64 = np.uint64


class Permutation:
    """The numbers below `size` in an order that a few numbers decide; its memory is that of the places asked for.

    A Feistel network mixes the bits of a place. It permutes a power of two of places; one that leads out of `size` is
    sent through again until it does not (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002).

    Args:
        size: How many numbers there are.
        numbers: Decide the order: a seed, an epoch.
    """

    def __init__(self, size: int, *numbers: int) -> None:
        self.size = size
        bits = max(4, (size - 1).bit_length())
        self._low, self._high = U64(bits // 2), U64(bits - bits // 2)
        self._keys = np.random.SeedSequence(numbers).generate_state(ROUNDS, np.uint64)

    def __call__(self, places: Int64[np.ndarray, " places"]) -> Int64[np.ndarray, " places"]:
        """The numbers at these places; all must be from 0 to below `size`."""
        found = places.astype(np.uint64)
        out = np.arange(len(found))
        while len(out):
            found[out] = self._mixed(found[out])
            out = out[found[out] >= self.size]
        return found.astype(np.int64)

    def _mixed(self, values: np.ndarray) -> np.ndarray:
        low_bits, high_bits = self._low, self._high
        low, high = values & _mask(low_bits), values >> low_bits
        for key in self._keys:
            # The halves change places, and where they differ in length their lengths too.
            low, high = high, low ^ (hash_bits(high ^ key) & _mask(low_bits))
            low_bits, high_bits = high_bits, low_bits
        return low | high << low_bits


class BlockPermutation:
    """As `Permutation`, of numbers in blocks that are costly to reach (shards far away): few are needed at a time.

    The blocks are shuffled, and the numbers within a window of so many blocks that follow each other.

    Args:
        begins: Where each block begins, and where the last one ends.
        window: Blocks.
        numbers: Decide the order.
    """

    def __init__(self, begins: Int64[np.ndarray, " edges"], window: int, *numbers: int) -> None:
        lengths = np.diff(begins)
        there = np.flatnonzero(lengths)
        self.blocks = there[Permutation(len(there), *numbers)(np.arange(len(there)))]
        self._begins, self._window, self._numbers = begins[:-1], window, numbers
        self._starts = np.concatenate(([0], np.cumsum(lengths[self.blocks])))  # of each block, in the new order

    def __call__(self, places: Int64[np.ndarray, " places"]) -> Int64[np.ndarray, " places"]:
        """The numbers at these places."""
        found = np.empty_like(places)
        windows = self.window_of(places)
        for window in np.unique(windows):
            mine = windows == window
            start, end = self._starts[[window * self._window, min((window + 1) * self._window, len(self.blocks))]]
            shuffled = start + Permutation(int(end - start), *self._numbers, int(window))(places[mine] - start)
            block = np.searchsorted(self._starts, shuffled, side="right") - 1
            found[mine] = self._begins[self.blocks[block]] + shuffled - self._starts[block]
        return found

    def window_of(self, places: Int64[np.ndarray, " places"]) -> Int64[np.ndarray, " places"]:
        """The number of each place's window."""
        return (np.searchsorted(self._starts, places, side="right") - 1) // self._window

    def blocks_of(self, window: int) -> list[int]:
        """The blocks of a window; none past the last."""
        return self.blocks[window * self._window : (window + 1) * self._window].tolist()


def hash_bits(values: np.ndarray) -> np.ndarray:
    """64 bits, each of which depends on all (the finisher of SplitMix64: Steele et al., 2014)."""
    values = (values ^ values >> U64(30)) * U64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> U64(27)) * U64(0x94D049BB133111EB)
    return values ^ values >> U64(31)


def uniform(places: Int64[np.ndarray, " places"], *numbers: int) -> np.ndarray:
    """Numbers from 0 to below 1, one a place, evenly spread and independent of each other."""
    key = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return (hash_bits(hash_bits(places.astype(np.uint64) + U64(1)) ^ key) >> U64(11)) / 2.0**53


def _mask(bits: np.uint64) -> np.uint64:
    return (U64(1) << bits) - U64(1)
