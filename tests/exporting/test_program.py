from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from sklearn.datasets import load_sample_image

from ffvit.config.preprocess import Preprocess
from ffvit.data.transforms import LazyImage, ResizeForCrop, evaluation_transform
from ffvit.exporting.program import FILTERS, Preprocessing

PHOTO = load_sample_image("china.jpg")
LEVELS = {"mean": (0, 0, 0), "std": (1 / 255,) * 3}


def photo(width: int, height: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(PHOTO).resize((width, height))


def with_pillow(preprocess: Preprocess, image: PIL.Image.Image) -> np.ndarray:
    return evaluation_transform(preprocess)(LazyImage(image, "")).pixels.astype(float)


def in_the_program(preprocess: Preprocess, image: PIL.Image.Image) -> np.ndarray:
    return Preprocessing(preprocess)(torch.from_numpy(np.array(image))[None])[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("size", "crop"), [((48, 48), 0.875), ((32, 32), 0.6), ((24, 36), 0.9), ((16, 16), 1.0)])
def test_pixels_are_pillows_but_for_the_last_level_of_a_few(interpolation, size, crop):
    preprocess = Preprocess(img_size=size, crop_pct=crop, interpolation=interpolation, **LEVELS)
    for sides in ((125, 94), (94, 125), (64, 64), (97, 20), (13, 17)):
        difference = np.abs(in_the_program(preprocess, photo(*sides)) - with_pillow(preprocess, photo(*sides)))
        assert difference.max() < 1.01
        assert (difference > 0.01).mean() < 0.05


def test_other_filters_would_be_seen():
    bicubic, bilinear = (Preprocess(img_size=(48, 48), interpolation=how, **LEVELS) for how in ("bicubic", "bilinear"))
    assert np.abs(in_the_program(bicubic, photo(125, 94)) - with_pillow(bilinear, photo(125, 94))).max() > 5


@pytest.mark.parametrize(("size", "crop"), [((23, 23), 0.6), ((24, 24), 0.875), ((20, 36), 0.77)])
def test_what_is_resized_already_is_cropped_alone(size, crop):
    """All offsets of the crop, of odd and even sizes."""
    preprocess = Preprocess(img_size=size, crop_pct=crop, **LEVELS)
    resize = ResizeForCrop(preprocess)
    for width in range(90, 130, 3):
        image = photo(width, 95)
        resized = resize(LazyImage(image, "")).pixels
        assert resized.shape[:2] == resize.size
        np.testing.assert_array_equal(
            in_the_program(preprocess, PIL.Image.fromarray(resized)).round(3), with_pillow(preprocess, image)
        )


def test_grey_is_made_of_colour_as_pillow_makes_it():
    preprocess = Preprocess(img_size=(24, 24), in_chans=1, mean=(0,), std=(1 / 255,))
    difference = np.abs(in_the_program(preprocess, photo(50, 40)) - with_pillow(preprocess, photo(50, 40)))
    assert difference.max() < 1.01
    assert (difference > 0.01).mean() < 0.01
