"""Linear CKA against what is known of it."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from ffvit.insight.similarity import Similarity, gram, hsic


def cka(first: torch.Tensor, second: torch.Tensor, size: int = 32) -> float:
    similarity = Similarity()
    for one, other in zip(first.split(size), second.split(size), strict=True):
        similarity.add(gram(one)[None], gram(other)[None])
    assert similarity.images == len(first)
    return float(similarity.cka)


def test_rotated_scaled_and_shifted_features_are_the_same():
    torch.manual_seed(0)
    features = torch.randn(64, 7)
    rotation = torch.linalg.qr(torch.randn(7, 7)).Q
    assert abs(cka(features, 3 * features @ rotation + 5) - 1) < 1e-5


def test_independent_features_have_none_and_a_shared_half_has_half():
    torch.manual_seed(0)
    first, second, shared = (torch.randn(960, 20) for _ in range(3))
    assert abs(cka(first, second)) < 0.02
    # Half of the features is shared: the cross-covariance has half the squared norm of either covariance.
    joined = cka(torch.cat((first, shared), dim=1), torch.cat((second, shared), dim=1))
    assert abs(joined - 0.5) < 0.05


@given(st.integers(4, 9), st.integers(0, 100))
def test_hsic_is_songs_estimate_with_sums_written_out(images, seed):
    generator = torch.Generator().manual_seed(seed)
    first, second = (gram(torch.randn(images, 3, generator=generator)) for _ in range(2))
    ones = torch.ones(images, dtype=torch.float64)
    expected = (
        torch.trace(first @ second)
        + ones @ first @ ones * (ones @ second @ ones) / ((images - 1) * (images - 2))
        - 2 / (images - 2) * (ones @ first @ second @ ones)
    ) / (images * (images - 3))
    torch.testing.assert_close(hsic(first[None], second[None])[0, 0], expected)


def test_a_layer_that_is_the_same_for_every_image_has_no_similarity():
    assert cka(torch.ones(8, 3), torch.randn(8, 3), size=8) != cka(torch.randn(8, 3), torch.randn(8, 3), size=8)
    similarity = Similarity()
    similarity.add(gram(torch.ones(8, 3))[None], gram(torch.randn(8, 3))[None])
    assert similarity.cka.isnan().all()
