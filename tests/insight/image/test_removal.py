"""The patches whose removal changes the answer."""

import numpy as np
import pytest
from scipy.special import softmax

from explained import PATCH, PREPROCESS, ReadsOnePatch, bright, linear, noise
from ffvit.insight.image.patches import PatchedImage
from ffvit.insight.image.removal import removal


def test_the_patch_that_is_read_is_found_and_no_other():
    image = PatchedImage(ReadsOnePatch(), PREPROCESS, bright(0))
    order = np.roll(np.arange(16), -6)  # 6 is the patch that is read
    found = removal(image, order, "known", random_orders=20)
    assert found.patches == (PATCH,)
    assert (found.method, found.becomes, found.total) == ("known", 0, 16)
    assert found.probabilities[0] > 0.5 > found.probabilities[1]
    assert len(found.probabilities) == 2
    assert 1 <= min(found.random_counts) <= max(found.random_counts) <= 16
    assert found.random_mean == pytest.approx(8.5, abs=3)  # uniform over 1 to 16: 3 is 2.9 standard errors


def test_the_count_is_that_of_the_order_one_patch_after_another():
    image = PatchedImage(ReadsOnePatch(), PREPROCESS, bright(0))
    order = np.roll(np.arange(16), 6)  # the patch that is read comes 13th, beyond the first batches
    found = removal(image, order, "known", random_orders=1)
    assert found.patches == tuple(divmod(int(number), 4) for number in order[:13])
    assert found.patches[-1] == PATCH


def test_an_answer_that_never_changes_takes_all_patches():
    network = linear()
    network[1].bias.data[0] = 1000.0
    found = removal(PatchedImage(network, PREPROCESS, noise(0)), np.arange(16), "any", random_orders=2)
    assert found.becomes is None
    assert len(found.patches) == 16
    assert len(found.probabilities) == 17
    assert found.random_counts == (16, 16)


def test_probabilities_are_those_at_the_temperature():
    image = PatchedImage(linear(), PREPROCESS, noise(4))
    logits = image.logits(np.zeros((1, 16), dtype=bool))[0]
    found = removal(image, np.arange(16), "any", random_orders=1, temperature=0.3)
    assert found.probabilities[0] == pytest.approx(softmax(logits / 0.3).max())


def test_random_orders_are_those_of_the_seed():
    image = PatchedImage(ReadsOnePatch(), PREPROCESS, bright(0))
    counts = [removal(image, np.arange(16), "any", random_orders=8, seed=seed).random_counts for seed in (0, 0, 1)]
    assert counts[0] == counts[1] != counts[2]
