"""Images that look alike: a hash of what is seen, and the pairs of images whose hashes are nearly the same."""

from __future__ import annotations

from itertools import count

import numpy as np
import PIL.Image
from jaxtyping import Int64, UInt8, UInt64

PLAIN = 8
"""A grid whose brightness varies by fewer of the 256 levels shows nothing to compare by."""

_GRID = 9
_SPREAD = np.arange(64) * 37 % 64  # neighbouring places are alike; spread over the bits, few images share a band


def perceptual_hash(image: PIL.Image.Image) -> UInt64[np.ndarray, " words"] | None:
    """The difference hash of an image, across and down, 64 bits each; None where there is next to nothing to see.

    A bit says whether brightness rises from one place of a grid to the next. Another size, format or quality changes a
    few bits, and so does a narrow crop. See N. Krawetz, "Kind of like that" (2013), for the hash across.
    """
    side = 8 * _GRID
    grey = np.asarray(image.convert("L").resize((side, side), PIL.Image.Resampling.BOX), dtype=np.float32)
    across = grey.reshape(8, side // 8, _GRID, side // _GRID).mean((1, 3))
    down = grey.reshape(_GRID, side // _GRID, 8, side // 8).mean((1, 3))
    if np.ptp(across) < PLAIN:
        return None
    rises = (np.diff(across, axis=1) > 0).ravel(), (np.diff(down, axis=0) > 0).ravel()
    return np.concatenate([np.packbits(bits[_SPREAD]).view(np.uint64) for bits in rises])


def near_pairs(
    hashes: UInt64[np.ndarray, "images 2"], distance: int, limit: int = 5_000_000
) -> tuple[Int64[np.ndarray, "pairs 2"], UInt8[np.ndarray, " pairs"], bool]:
    """The pairs of hashes that differ in at most `distance` of their 128 bits.

    The bits are cut into more bands than may differ, so at least one band of a pair is the same in both: only
    hashes that share a band are compared.

    Args:
        hashes: One an image.
        distance: In how many bits two may differ.
        limit: Of pairs to hold in memory.

    Returns:
        The pairs, each once and the lower index first, in order; the bits in which each differs; and whether the
        search stopped at the limit, with more pairs to find.
    """
    bands = distance // 2 + 1  # of each of the two words: distance + 1 at least in all
    keys = np.zeros(0, dtype=np.int64)
    for word in (0, 1):
        for band in range(bands):
            if len(keys) > limit:
                break
            start, end = 64 * band // bands, 64 * (band + 1) // bands
            shared = hashes[:, word] >> np.uint64(start) & np.uint64((1 << (end - start)) - 1)
            keys = np.union1d(keys, _near_in_band(shared, hashes, distance, limit))
    incomplete = len(keys) > limit
    pairs = np.stack(np.divmod(keys[:limit], max(len(hashes), 1)), axis=1)
    return pairs, _differing_bits(hashes[pairs[:, 0]], hashes[pairs[:, 1]]), incomplete


def _near_in_band(
    shared: UInt64[np.ndarray, " images"], hashes: UInt64[np.ndarray, "images 2"], distance: int, limit: int
) -> Int64[np.ndarray, " pairs"]:
    """Pairs with the same band and at most the distance, each as lower index x images + higher index.

    Stops at more pairs than the limit.
    """
    order = np.argsort(shared, kind="stable")
    in_order, hashes = shared[order], hashes[order]
    last = np.searchsorted(in_order, in_order, side="right")  # where the hashes with the same band end
    keys, pairs = [np.zeros(0, dtype=np.int64)], 0
    left = np.arange(len(order))
    for step in count(1):  # each with the next but `step` of the same band
        left = left[left + step < last[left]]
        if not len(left) or pairs > limit:
            break
        near = left[_differing_bits(hashes[left], hashes[left + step]) <= distance]
        pairs += len(near)
        keys.append(order[near] * len(order) + order[near + step])  # stable: the lower index comes first
    return np.concatenate(keys)


def _differing_bits(
    first: UInt64[np.ndarray, "pairs 2"], second: UInt64[np.ndarray, "pairs 2"]
) -> UInt8[np.ndarray, " pairs"]:
    """In how many bits each pair of hashes differs."""
    return np.bitwise_count(first ^ second).sum(axis=1, dtype=np.uint8)
