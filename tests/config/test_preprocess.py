from __future__ import annotations

import subprocess
import sys

import pytest

from ffvit.config import recipe
from ffvit.config.base import parse
from ffvit.config.preprocess import Preprocess
from ffvit.errors import UserError


def test_defaults_are_imagenets_for_colour_and_half_for_other_channels():
    assert Preprocess(img_size=(8, 8)).mean == (0.485, 0.456, 0.406)
    for channels in (1, 4):
        plain = Preprocess(img_size=(8, 8), in_chans=channels)
        assert plain.mean == plain.std == (0.5,) * channels


def test_timms_fields_there_and_back():
    given = {
        "input_size": (3, 10, 20), "crop_pct": 0.9, "interpolation": "bilinear", "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
    }  # fmt: skip
    assert Preprocess.from_timm(given | {"num_classes": 7}).to_timm() == given
    assert Preprocess.from_timm({}) == Preprocess(img_size=(224, 224))


def test_other_channels_than_timm_has_numbers_for_get_their_average():
    grey = Preprocess.from_timm(
        {"input_size": (3, 8, 8), "mean": (0.25, 0.5, 0.75), "std": (0.5, 0.5, 0.5)}, in_chans=1
    )
    assert (grey.mean, grey.std) == ((0.5,), (0.5,))
    four = Preprocess.from_timm({"input_size": (1, 8, 8), "mean": (0.3,), "std": (0.2,)}, in_chans=4)
    assert (four.mean, four.std) == ((0.3,) * 4, (0.2,) * 4)


def test_numbers_of_a_billion_channels_are_refused_before_they_are_made():
    with pytest.raises(UserError, match="32768"):
        parse(Preprocess, {"img_size": (8, 8), "in_chans": 10**13}, "weights")
    with pytest.raises(UserError, match="32768"):
        Preprocess.from_timm({"input_size": (10**13, 8, 8), "mean": (0.5,), "std": (0.2,)})


@pytest.mark.parametrize(("exact", "backend"), [("never", "fast"), ("evaluation", "pillow"), ("always", "pillow")])
def test_a_recipe_sets_crop_interpolation_and_backend(exact, backend):
    how = recipe.Recipe(evaluation_crop=0.7, interpolation="bilinear", exact=exact)
    base = Preprocess(img_size=(8, 8), in_chans=1, mean=(0.2,), std=(0.3,))
    assert base.with_recipe(how) == base.replace(crop_pct=0.7, interpolation="bilinear", pixel_backend=backend)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"in_chans": 1, "mean": (0.1, 0.2, 0.3)}, r"mean: must have one number a channel \(1\); got 3"),
        ({"std": (0.1, 0.0, 0.1)}, r"std\.1: input should be greater than 0; got 0\.0"),
        ({"interpolation": "random"}, r"interpolation: must be 'nearest', .*; got 'random'"),
        ({"interpolation": "lanczos", "pixel_backend": "fast"}, "'fast' resizes bilinear or bicubic; got 'lanczos'"),
        ({"pixel_backend": "pilow"}, r"must be 'pillow' or 'fast'; got 'pilow', did you mean 'pillow'\?"),
        ({"in_chans": "many"}, "in_chans: .* got 'many'"),
    ],
)
def test_what_cannot_be_is_said(fields, sentence):
    with pytest.raises(UserError, match=sentence):
        parse(Preprocess, {"img_size": (8, 8), **fields})


def test_it_needs_no_torch():
    code = "import sys, ffvit.config.preprocess; assert not {'torch', 'timm', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
