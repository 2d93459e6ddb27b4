"""Jacobians, distances and shares of mixers whose answers are known."""

import math

import pytest
import torch
from torch import nn

from ffvit.config.architecture import Branch
from ffvit.insight.distance import mean_distance, patch_distances
from ffvit.insight.layers import layers_of
from ffvit.insight.token_jacobian import evenly_spread, token_jacobian
from insight_networks import small

ROWS, COLUMNS = 3, 4


def of_matrix(matrix: torch.Tensor, queries: list[int]):
    """The Jacobian of a linear mixer with this matrix over 3 x 4 patches and no norm."""
    network = small(Branch("linear", "patches", norm="none"), depth=1)
    layer = layers_of(network).layers[0]
    layer.module.fc.weight = nn.Parameter(matrix)
    tokens = torch.randn(5, ROWS * COLUMNS, 8, generator=torch.Generator().manual_seed(1))
    return token_jacobian(layer.update, tokens, queries, projections=1)


def test_a_shift_by_one_patch_mixes_over_exactly_one_patch():
    shift = torch.zeros(12, 12)
    for row in range(ROWS):
        for column in range(1, COLUMNS):
            shift[row * COLUMNS + column, row * COLUMNS + column - 1] = 2.0
    queries = [row * COLUMNS + column for row in range(ROWS) for column in range(1, COLUMNS)]
    jacobian = of_matrix(shift, queries)
    assert mean_distance(jacobian.strength, (ROWS, COLUMNS), queries) == pytest.approx(1.0, abs=1e-12)
    assert jacobian.static == pytest.approx(1.0)
    assert jacobian.uniform == pytest.approx(1 / 12)
    # Of each of the 8 features 2: a norm of 2 sqrt(8).
    assert float(jacobian.strength.max()) == pytest.approx(2 * math.sqrt(8))


def test_reading_all_patches_alike_is_wholly_uniform_and_as_far_as_patches_are():
    queries = list(range(12))
    jacobian = of_matrix(torch.full((12, 12), 0.3), queries)
    expected = float(patch_distances((ROWS, COLUMNS)).mean())
    assert float(mean_distance(jacobian.strength, (ROWS, COLUMNS), queries)) == pytest.approx(expected)
    assert (jacobian.static, jacobian.uniform) == (pytest.approx(1.0), pytest.approx(1.0))


def test_without_mixing_the_distance_is_zero():
    network = small(Branch("identity", "patches"), Branch("feedforward", "features"))
    layered = layers_of(network)
    jacobian = token_jacobian(layered.layers[0].update, torch.randn(3, 12, 8), [5, 6], projections=2)
    assert float(mean_distance(jacobian.strength, (ROWS, COLUMNS), [5, 6])) == 0.0


def test_the_strength_is_the_norm_of_the_whole_jacobian():
    """By many random vectors, against `torch.autograd.functional.jacobian`."""
    network = small(Branch("attention", "patches", heads=2), depth=1)
    update = layers_of(network).layers[0].update
    tokens = torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(2))
    whole = torch.autograd.functional.jacobian(update, tokens)[0, 4, :, 0]  # features, tokens, features
    found = token_jacobian(update, tokens, [4], projections=1500)
    torch.testing.assert_close(found.strength[0].float(), whole.square().sum(dim=(0, 2)).sqrt(), rtol=0.06, atol=1e-4)


def test_what_changes_with_the_image_is_not_static():
    """An update x * sign: half of the images have one sign, half the other."""
    signs = torch.tensor([1.0, 1, -1, -1])[:, None, None]
    jacobian = token_jacobian(lambda x: x * signs, torch.randn(4, 12, 8), [0], projections=1)
    # E <x_a, x_b> over pairs of different images: 4 of 12 ordered pairs agree, 8 disagree: below 0, so no share.
    assert jacobian.static == 0.0
    mostly = torch.tensor([1.0, 1, 1, -1])[:, None, None]
    assert token_jacobian(lambda x: x * mostly, torch.randn(4, 12, 8), [0], projections=1).static == 0.0
    scales = torch.tensor([1.0, 3.0])[:, None, None]
    # <x_a, x_b> = 3 of a mean square of (1 + 9) / 2 = 5.
    found = token_jacobian(lambda x: x * scales, torch.randn(2, 12, 8), [0], projections=1)
    assert found.static == pytest.approx(0.6)


def test_queries_are_spread_and_behind_the_class_token():
    network = layers_of(small(Branch("feedforward", "patches"), readout="class_token"))
    assert evenly_spread(network, 4) == [1 + 1, 1 + 3, 1 + 9, 1 + 11]
    assert evenly_spread(network, 10_000) == list(range(1, 13))
