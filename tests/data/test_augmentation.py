"""Our operations beside timm's on Pillow images, over the whole range of their strength."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
from sklearn.datasets import load_sample_images
from timm.data import auto_augment as timms

from ffvit.data.augmentation import ON_ARRAYS, on_arrays, operations

PHOTOS = [PIL.Image.fromarray(photo).resize((112, 96), box=(60, 20, 390, 300)) for photo in load_sample_images().images]
FILL = (124, 116, 104)
CUBIC, LINEAR = PIL.Image.Resampling.BICUBIC, PIL.Image.Resampling.BILINEAR

STRENGTH = {
    timms.shear_x: (-0.3, 0.3),
    timms.shear_y: (-0.3, 0.3),
    timms.translate_x_abs: (-50, 50),
    timms.translate_y_abs: (-50, 50),
    timms.translate_x_rel: (-0.45, 0.45),
    timms.translate_y_rel: (-0.45, 0.45),
    timms.rotate: (-30, 30),
    timms.posterize: (1, 8),
    timms.solarize: (0, 256),
    timms.solarize_add: (0, 128),
    timms.color: (0.1, 1.9),
    timms.contrast: (0.1, 1.9),
    timms.brightness: (0.1, 1.9),
    timms.sharpness: (0.1, 1.9),
    timms.desaturate: (0, 1),
}
WHOLE = (timms.posterize, timms.solarize, timms.solarize_add)
EXACT = (timms.auto_contrast, timms.equalize, timms.invert, *WHOLE, timms.contrast, timms.brightness)
MOVE = {each: (LINEAR, CUBIC) for each in ON_ARRAYS if each in (timms.shear_x, timms.shear_y, timms.rotate)}
SLIDE = [each for each in ON_ARRAYS if each.__name__.startswith("translate")]
CASES = [(each, how) for each in ON_ARRAYS for how in ((LINEAR, CUBIC) if each in (*MOVE, *SLIDE) else (CUBIC,))]


@pytest.mark.parametrize(("theirs", "resample"), CASES, ids=[f"{each.__name__}-{how.name}" for each, how in CASES])
def test_agrees_with_timms(theirs, resample):
    for number in range(41):
        arguments = ()
        if theirs in STRENGTH:
            low, high = STRENGTH[theirs]
            strength = low + (high - low) * number / 40
            arguments = (round(strength) if theirs in WHOLE else strength,)
        photo = PHOTOS[number % 2]
        expected = np.asarray(theirs(photo, *arguments, fillcolor=FILL, resample=resample)).astype(int)
        made = ON_ARRAYS[theirs](np.asarray(photo), *arguments, fillcolor=FILL, resample=resample)
        assert made.dtype == np.uint8
        assert made.flags.c_contiguous
        differs = np.abs(made.astype(int) - expected)
        if theirs in EXACT:
            assert differs.max() == 0
        elif theirs in MOVE:  # the seam to the filling is softer, the cubic another
            assert differs.mean() < (2.5 if resample == CUBIC else 1.2)
            assert np.median(differs) <= 1
        else:
            assert differs.max() <= 2


def test_one_colour_stays_whole():
    for level in (0, 128, 255):
        flat = PIL.Image.new("RGB", (16, 12), (level,) * 3)
        for theirs in (timms.auto_contrast, timms.equalize, timms.contrast):
            arguments = (1.7,) if theirs is timms.contrast else ()
            np.testing.assert_array_equal(ON_ARRAYS[theirs](np.asarray(flat), *arguments), theirs(flat, *arguments))


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "original", "v0", "3a"])
def test_a_policy_keeps_its_draws_and_strengths(policy):
    hparams = {"translate_const": 50, "img_mean": FILL}
    plain, ours = (timms.auto_augment_transform(policy, dict(hparams)) if not policy.startswith("rand") else timms.rand_augment_transform(policy, dict(hparams)) for _ in range(2))  # fmt: skip
    on_arrays(ours)
    for mine, their in zip(operations(ours), operations(plain), strict=True):
        assert (mine.prob, mine.magnitude, mine.level_fn) == (their.prob, their.magnitude, their.level_fn)
