"""The closed form: least squares as numpy solves it, and exact where the replacement can be."""

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Attention

from ffvit.conversion import layerwise
from ffvit.conversion.closed_form import RIDGE, OneMatrix, StaticMaps, TokenRegression, check_enough
from ffvit.conversion.layerwise import regress
from ffvit.errors import UserError
from ffvit.models.mixers import Linear

pytestmark = pytest.mark.usefixtures("one_thread")


def attention(seed: int = 0) -> Attention:
    torch.manual_seed(seed)
    return Attention(12, num_heads=3, qkv_bias=True).eval()


@settings(max_examples=20)
@given(st.integers(0, 1000))
def test_regression_is_that_of_numpy(seed):
    draws = np.random.default_rng(seed)
    features, targets = draws.normal(size=(6, 4, 7)), draws.normal(size=(6, 3, 7))
    start = draws.normal(size=(3, 4))
    regression = TokenRegression(4, 3, torch.device("cpu"))
    for part in (slice(0, 2), slice(2, 6)):
        regression.add(torch.from_numpy(features[part]), torch.from_numpy(targets[part]))
    left, right = (array.transpose(0, 2, 1).reshape(-1, array.shape[1]) for array in (features, targets))
    # A ridge is as many more equations: sqrt(ridge) m = sqrt(ridge) start.
    ridge = np.sqrt(RIDGE * np.square(left).sum(axis=0).mean())
    rows, pulled = np.vstack([left, ridge * np.eye(4)]), np.vstack([right, ridge * start.T])
    expected = np.linalg.lstsq(rows, pulled, rcond=None)[0].T
    matrix = regression.solve(torch.from_numpy(start))
    np.testing.assert_allclose(matrix, expected, rtol=1e-6, atol=1e-8)
    left_over = np.square(right - left @ matrix.numpy().T).sum() / np.square(right).sum()
    assert regression.unexplained(matrix) == pytest.approx(left_over, rel=1e-6, abs=1e-9)


@torch.no_grad()
def test_attention_whose_maps_never_change_is_reproduced():
    module = attention()
    module.qkv.weight[:24] = 0.0  # queries and keys no longer read the image
    x = torch.randn(40, 5, 12)
    form = StaticMaps(module, tokens=5)
    form.add(x, module(x))
    fitted = form.fit()
    torch.testing.assert_close(fitted(x), module(x), rtol=1e-3, atol=1e-4)
    assert form.unexplained < 1e-6
    assert form.statistics.static_share.min() > 1 - 1e-6


@torch.no_grad()
def test_least_squares_explains_more_than_the_mean_maps_and_what_is_left_is_measured():
    module = attention(1)
    module.qkv.weight.mul_(6)  # far from uniform
    x = torch.randn(60, 5, 12)
    form = StaticMaps(module, tokens=5)
    form.add(x[:25], module(x[:25]))
    form.add(x[25:], module(x[25:]))
    fitted, target = form.fit(), module(x) - module.proj.bias
    left_over = (fitted(x) - module(x)).square().sum() / target.square().sum()
    assert form.unexplained == pytest.approx(left_over.item(), rel=1e-3)
    by_mean = form.regression.unexplained(form.statistics.mean.permute(1, 0, 2).flatten(1))
    assert 0.01 < form.unexplained < by_mean < 1


@torch.no_grad()
def test_one_matrix_finds_the_matrix_and_the_biases():
    truth = Linear(5, "patches")
    x = torch.randn(50, 5, 12)
    form = OneMatrix(attention(), tokens=5)
    form.add(x, truth(x))
    found = form.fit()
    torch.testing.assert_close(found.fc.weight, truth.fc.weight, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(found.fc.bias, truth.fc.bias, rtol=1e-2, atol=1e-3)


def test_too_few_images_are_counted():
    check_enough(63, tokens=50, width=8, heads=1)
    with pytest.raises(UserError, match="needs 63 training images for 1 head and 50 tokens; there are 62"):
        check_enough(62, tokens=50, width=8, heads=1)


def test_regression_comes_nearer_and_keeps_the_start_where_it_does_not():
    torch.manual_seed(0)
    truth, x = Linear(5, "patches"), torch.randn(200, 5, 12)
    with torch.no_grad():
        y = truth(x)
    start = Linear(5, "patches")
    before = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    with mock.patch.object(layerwise, "STEPS", 250):
        _, left_over = regress(start, x, y, seed=1)
    assert left_over < 0.2 * layerwise._left_over(start, x, y)
    assert all(torch.equal(tensor, before[name]) for name, tensor in start.state_dict().items())
    with mock.patch.object(layerwise, "STEPS", 20):
        first, again, other = (regress(start, x, y, seed)[0].fc.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    kept, nothing_left = regress(truth, x, y, seed=1)
    assert kept is truth
    assert nothing_left == 0.0
