from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_sample_image

from ffvit.data.check.perceptual_hash import near_pairs, perceptual_hash

WORDS = st.integers(0, 2**64 - 1)


def apart(one: np.ndarray, other: np.ndarray) -> int:
    return sum(bin(int(a) ^ int(b)).count("1") for a, b in zip(one, other, strict=True))


def brute(hashes: np.ndarray, distance: int) -> list[tuple[int, int, int]]:
    pairs = ((one, other) for other in range(len(hashes)) for one in range(other))
    every = sorted((one, other, apart(hashes[one], hashes[other])) for one, other in pairs)
    return [each for each in every if each[2] <= distance]


@st.composite
def families(draw: st.DrawFn) -> np.ndarray:
    """Hashes of which many are a few bits from another."""
    hashes = [draw(st.tuples(WORDS, WORDS)) for _ in range(draw(st.integers(0, 4)))]
    for _ in range(draw(st.integers(0, 12)) if hashes else 0):
        words = list(draw(st.sampled_from(hashes)))
        for bit in draw(st.lists(st.integers(0, 127), max_size=12)):
            words[bit // 64] ^= 1 << bit % 64
        hashes.append((words[0], words[1]))
    return np.array(hashes, dtype=np.uint64).reshape(-1, 2)


class TestNearPairs:
    @given(families(), st.integers(0, 32))
    def test_finds_what_comparing_all_with_all_finds(self, hashes, distance):
        pairs, bits, cut = near_pairs(hashes, distance)
        assert [(*pair, apart) for pair, apart in zip(pairs.tolist(), bits.tolist(), strict=True)] == brute(
            hashes, distance
        )
        assert not cut

    def test_stops_at_its_limit(self):
        pairs, bits, cut = near_pairs(np.zeros((50, 2), np.uint64), 3, limit=100)
        assert (len(pairs), len(bits), cut) == (100, 100, True)

    def test_all_alike_takes_no_more_than_its_limit(self):
        pairs, _, cut = near_pairs(np.ones((200_000, 2), np.uint64), 9, limit=1000)
        assert (len(pairs), cut) == (1000, True)

    def test_many_random_ones_are_compared_by_band_not_all_with_all(self):
        hashes = np.random.default_rng(0).integers(0, 2**64, (100_000, 2), dtype=np.uint64)
        hashes[77_777] = hashes[5] ^ np.uint64(0b10011)
        pairs, bits, _ = near_pairs(hashes, 9)
        assert (pairs.tolist(), bits.tolist()) == ([[5, 77_777]], [6])


def again(image: PIL.Image.Image, **options) -> PIL.Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return PIL.Image.open(file)


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
class TestLookHash:
    def test_survives_another_quality_size_and_colour(self, name):
        photo = PIL.Image.fromarray(load_sample_image(name))
        seen = perceptual_hash(photo)
        for changed in (again(photo, quality=40), photo.resize((200, 140)), photo.resize((64, 64)), photo.convert("L")):
            assert apart(seen, perceptual_hash(changed)) <= 9

    def test_tells_different_regions_apart(self, name):
        photo = PIL.Image.fromarray(load_sample_image(name))
        boxes = [(left, top, left + 160, top + 140) for left in (0, 160, 320, 480) for top in (0, 140, 280)]
        hashes = np.stack([perceptual_hash(photo.crop(box)) for box in boxes])
        assert not brute(hashes, 19)


def test_nothing_to_see_has_no_hash():
    assert perceptual_hash(PIL.Image.new("RGB", (90, 90), (200, 10, 10))) is None
    noise = np.random.default_rng(0).integers(100, 104, (90, 90, 3), dtype=np.uint8)
    assert perceptual_hash(PIL.Image.fromarray(noise)) is None
