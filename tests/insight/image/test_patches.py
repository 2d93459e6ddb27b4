"""Which pixel belongs to which patch, and images with patches covered."""

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from explained import PREPROCESS, linear, noise
from ffvit.errors import DataError
from ffvit.insight.image.patches import (
    PatchedImage,
    first_covered,
    grid_side,
    own_grid,
    patch_grid,
    patch_numbers,
    spread,
)
from ffvit.models.create import create_model


@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_patches_are_rectangles_whose_sides_differ_by_a_pixel_at_most(height, width, data):
    rows, columns = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    numbers = patch_numbers(height, width, rows, columns)
    sizes = set()
    for number in range(rows * columns):
        row, column = np.nonzero(numbers == number)
        assert len(row) == (row.max() - row.min() + 1) * (column.max() - column.min() + 1)
        sizes.add((row.max() - row.min() + 1, column.max() - column.min() + 1))
    heights, widths = zip(*sizes, strict=True)
    assert max(heights) - min(heights) <= 1
    assert max(widths) - min(widths) <= 1


@pytest.mark.parametrize(
    ("name", "size", "own", "covered"),
    [
        ("ff_micro_patch2_8", (8, 8), (4, 4), (4, 4)),
        ("vit_tiny_patch16_224", (224, 224), (14, 14), (7, 7)),
        ("mixer_s32_224", (224, 224), (7, 7), (7, 7)),
        ("swin_tiny_patch4_window7_224", (224, 224), (56, 56), (8, 8)),
        ("resnet18", (224, 224), None, (7, 7)),
        ("resnet18", (299, 299), None, (7, 7)),
        ("resnet18", (3, 299), None, (1, 1)),
    ],
)
def test_grid_is_of_the_networks_patches_merged_or_goes_by_the_images_size(name, size, own, covered):
    with torch.device("meta"):
        network = timm.create_model(name) if "ff_" not in name else create_model(name)
    assert own_grid(network, *size) == own
    assert patch_grid(network, *size) == covered


def test_patches_that_do_not_divide_the_image_are_not_known():
    with torch.device("meta"):
        network = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True)
    assert own_grid(network, 100, 112) is None
    assert patch_grid(network, 100, 112) == (grid_side(100, 112),) * 2 == (4, 4)


def test_covered_patches_have_the_mean_colour_and_others_are_as_they_were():
    image = PatchedImage(nn.Flatten(), PREPROCESS, noise(0))
    assert image.grid == (4, 4)
    covered = np.zeros((2, 16), dtype=bool)
    covered[1, 6] = True
    seen = image.logits(covered).reshape(2, 3, 8, 12)
    mean, std = (np.array(values)[:, None, None] for values in (PREPROCESS.mean, PREPROCESS.std))
    np.testing.assert_allclose(seen[0], (noise(0).transpose(2, 0, 1) / 255 - mean) / std, rtol=1e-5, atol=1e-5)
    assert not seen[1, :, 2:4, 6:9].any()
    seen[:, :, 2:4, 6:9] = 0
    np.testing.assert_array_equal(seen[0], seen[1])


def test_first_patches_of_an_order_are_covered():
    covered = first_covered(np.array([2, 0, 3, 1]), np.array([0, 1, 3]))
    assert covered.tolist() == [[False] * 4, [False, False, True, False], [True, False, True, True]]


def test_what_is_spread_over_pixels_sums_to_the_same():
    image = PatchedImage(linear(), PREPROCESS, noise(0))
    values = np.arange(16.0) - 5
    np.testing.assert_allclose(image.summed(spread(values, image.numbers)), values.reshape(4, 4))


def test_an_image_of_another_size_is_refused():
    with pytest.raises(DataError, match=r"8 x 12 x 3 \(height, width, channels\); got 12 x 8 x 3: use Predictor"):
        PatchedImage(linear(), PREPROCESS, noise(0).transpose(1, 0, 2))
