"""A shuffle as a function: the number at a position is computed from the position, and nothing is kept."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

ROUNDS = 10
"""More than the 4 that a Feistel network needs with good round functions (Luby and Rackoff, 1988)."""

U64 = np.uint64


class Permutation:
    """The numbers below `size` in an order given by a few numbers.

    A Feistel network mixes the bits of a position. It permutes a power of two of positions; a result that is not below
    `size` is permuted again until it is (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002).

    Args:
        size: How many numbers there are.
        numbers: What the order depends on: a seed, an epoch.
    """

    def __init__(self, size: int, *numbers: int) -> None:
        self.size = size
        bits = max(4, (size - 1).bit_length())
        self._low_bits, self._high_bits = U64(bits // 2), U64(bits - bits // 2)
        self._keys = np.random.SeedSequence(numbers).generate_state(ROUNDS, np.uint64)

    def __call__(self, positions: Int64[np.ndarray, " positions"]) -> Int64[np.ndarray, " positions"]:
        """The numbers at these positions, which must all be from 0 to below `size`."""
        values = positions.astype(np.uint64)
        outside = np.arange(len(values))
        while len(outside):
            values[outside] = self._permute(values[outside])
            outside = outside[values[outside] >= self.size]
        return values.astype(np.int64)

    def _permute(self, values: np.ndarray) -> np.ndarray:
        low_bits, high_bits = self._low_bits, self._high_bits
        low, high = values & _mask(low_bits), values >> low_bits
        for key in self._keys:
            # The halves change places, and where they differ in length their lengths too.
            low, high = high, low ^ (hash_bits(high ^ key) & _mask(low_bits))
            low_bits, high_bits = high_bits, low_bits
        return low | high << low_bits


class BlockPermutation:
    """As `Permutation`, of numbers in blocks that are costly to reach (remote shards): few are needed at a time.

    The blocks are shuffled, and the numbers within a window of so many blocks that follow each other.

    Args:
        begins: Where each block begins, and where the last one ends.
        window: Blocks.
        numbers: What the order depends on.
    """

    def __init__(self, begins: Int64[np.ndarray, " edges"], window: int, *numbers: int) -> None:
        lengths = np.diff(begins)
        nonempty = np.flatnonzero(lengths)
        self.blocks = nonempty[Permutation(len(nonempty), *numbers)(np.arange(len(nonempty)))]
        self._begins, self._window, self._numbers = begins[:-1], window, numbers
        self._starts = np.concatenate(([0], np.cumsum(lengths[self.blocks])))  # of each block, in the new order

    def __call__(self, positions: Int64[np.ndarray, " positions"]) -> Int64[np.ndarray, " positions"]:
        """The numbers at these positions."""
        values = np.empty_like(positions)
        windows = self.window_of(positions)
        for window in np.unique(windows):
            inside = windows == window
            start, end = self._starts[[window * self._window, min((window + 1) * self._window, len(self.blocks))]]
            shuffled = start + Permutation(int(end - start), *self._numbers, int(window))(positions[inside] - start)
            block = np.searchsorted(self._starts, shuffled, side="right") - 1
            values[inside] = self._begins[self.blocks[block]] + shuffled - self._starts[block]
        return values

    def window_of(self, positions: Int64[np.ndarray, " positions"]) -> Int64[np.ndarray, " positions"]:
        """The number of each position's window."""
        return (np.searchsorted(self._starts, positions, side="right") - 1) // self._window

    def blocks_of(self, window: int) -> list[int]:
        """The blocks of a window; none past the last."""
        return self.blocks[window * self._window : (window + 1) * self._window].tolist()


def hash_bits(values: np.ndarray) -> np.ndarray:
    """64 bits, each of which depends on all (the finisher of SplitMix64: Steele et al., 2014)."""
    values = (values ^ values >> U64(30)) * U64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> U64(27)) * U64(0x94D049BB133111EB)
    return values ^ values >> U64(31)


def uniform(positions: Int64[np.ndarray, " positions"], *numbers: int) -> np.ndarray:
    """A number from 0 to below 1 for each position, evenly spread and independent of each other."""
    key = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return (hash_bits(hash_bits(positions.astype(np.uint64) + U64(1)) ^ key) >> U64(11)) / 2.0**53


def _mask(bits: np.uint64) -> np.uint64:
    return (U64(1) << bits) - U64(1)
