"""What a plan reads off the pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ffvit.config.data import Data
from ffvit.config.preprocess import Preprocess
from ffvit.data.images import ArrayImages
from ffvit.data.splits import Splits, open_splits
from ffvit.study.pixels import patch_spread, survives_mirroring


def test_photographs_survive_mirroring_and_digits_do_not(photos: Path):
    assert survives_mirroring(open_splits(Data(source=str(photos))), seed=0)
    assert not survives_mirroring(open_splits(Data()), seed=0)


def of_pixels(pixels: np.ndarray) -> Splits:
    images = ArrayImages("made up", pixels, np.zeros(len(pixels), np.int64))
    return Splits(("a",), images, None, images, "made up")


def embedded_spread(pixels: np.ndarray, patch: int) -> float:
    """The same from embeddings themselves: of many starts, as a start of few features is off by chance."""
    takes = Preprocess(img_size=pixels.shape[1:3])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    images = (images - torch.tensor(takes.mean).view(3, 1, 1)) / torch.tensor(takes.std).view(3, 1, 1)
    torch.manual_seed(0)
    embedding = nn.Conv2d(3, 4_000, patch, patch)
    with torch.no_grad():
        return float(embedding(images).flatten(2).var(2, correction=0).mean().sqrt())


@settings(max_examples=10)
@given(seed=st.integers(0, 2**16), patch=st.sampled_from([2, 4, 8]), contrast=st.floats(0.1, 1))
def test_the_spread_is_that_of_embedded_patches(seed: int, patch: int, contrast: float):
    draw = np.random.RandomState(seed)
    coarse = draw.randint(0, 256, (12, 4, 4, 3)).repeat(4, 1).repeat(4, 2)
    pixels = (128 + contrast * (coarse - 128)).astype(np.uint8)
    assert patch_spread(of_pixels(pixels), 16, patch) == pytest.approx(embedded_spread(pixels, patch), rel=0.05)


def test_images_of_one_colour_have_no_spread():
    pixels = np.arange(12, dtype=np.uint8).repeat(16 * 16 * 3).reshape(12, 16, 16, 3)
    assert patch_spread(of_pixels(pixels), 16, 4) == pytest.approx(0, abs=1e-6)
