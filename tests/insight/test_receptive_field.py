"""Receptive fields that are known."""

import pytest
import torch

from ffvit.config.architecture import Branch
from ffvit.insight.layers import layers_of
from ffvit.insight.receptive_field import receptive_fields
from insight_networks import small

IMAGES = torch.randn(4, 1, 6, 8, generator=torch.Generator().manual_seed(0))


def test_without_mixing_the_field_is_one_patch():
    network = layers_of(small(Branch("identity", "patches"), Branch("feedforward", "features")))
    for field in receptive_fields(network, IMAGES, [1, 2]):
        inside = torch.zeros(6, 8, dtype=torch.bool)
        inside[2:4, 4:6] = True  # the patch in row 1, column 2 of 3 x 4
        assert field.own_patch == pytest.approx(1.0)
        assert (field.field[~inside] == 0).all()
        assert (field.field[inside] > 0).all()
        assert field.half_radius == pytest.approx(0.5 * 2**0.5)


def test_mixing_reaches_as_far_as_its_kernel_and_further_with_every_block():
    branch = Branch("convolution", "patches", kernel=3)
    network = layers_of(small(branch, depth=2, img_size=(14, 14)))  # 7 x 7 patches, the middle one in row 3
    first, second = receptive_fields(network, torch.randn(2, 1, 14, 14), [1, 2])
    reached = [torch.nonzero(field.field.sum(dim=1)).flatten().tolist() for field in (first, second)]
    assert reached == [list(range(4, 10)), list(range(2, 12))]
    assert second.own_patch < first.own_patch
    assert float(first.field.max()) == 1.0
