from __future__ import annotations

import random

import numpy as np
import PIL.Image
import pytest
import torch
from timm.data import create_transform
from torchvision.transforms import functional

from ffvit import recipe
from ffvit.data.draws import generators_kept, seed_everything_for, seed_torch
from ffvit.data.transform import evaluation_transform, training_transform
from ffvit.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@pytest.fixture
def photo(photos) -> PIL.Image.Image:
    return PIL.Image.open(photos / "val" / "pagoda" / "0000.jpg").convert("RGB")


def test_deit_recipe_is_what_deit_gives_timm_pixel_for_pixel(photo):
    ours = training_transform(recipe.named("deit"), (64, 64), 3, MEAN, STD)
    # datasets.py::build_transform of the code released with DeiT, with its defaults (main.py::get_args_parser)
    theirs = create_transform(
        input_size=64,
        is_training=True,
        color_jitter=0.3,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=0.25,
        re_mode="pixel",
        re_count=1,
    )
    erased = 0
    for index in range(40):
        with seed_everything_for(0, 0, index, 0):
            mine = ours(photo)
        with seed_everything_for(0, 0, index, 0):
            their = theirs(photo)
        assert torch.equal(mine, their)
        erased += bool(mine.abs().max() > 2.7)  # only noise goes beyond white
    assert 0 < erased < 40


def test_a_recipe_moves_what_it_names(photo):
    whole = recipe.Recipe(crop_scale=(1, 1), flip=1.0)
    square = photo.crop((0, 0, 96, 96))
    transform = training_transform(whole, (96, 96), 3, ZERO, ONE)
    # Nothing left to chance: the whole image, mirrored.
    expected = torch.from_numpy(np.asarray(square)[:, ::-1].copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(transform(square), expected)
    still = training_transform(whole.replace(flip=0.0), (96, 96), 3, ZERO, ONE)
    torch.testing.assert_close(still(square), expected.flip(-1))
    wide = training_transform(whole.replace(crop_scale=(0.5, 0.5), crop_ratio=(2.0, 2.0)), (96, 96), 3, ZERO, ONE)
    y, x = np.mgrid[:96, :96].astype(np.uint8)
    across, down, _ = wide(PIL.Image.fromarray(np.dstack([x, y, x]))).mul(255).unbind()
    assert across.max() - across.min() > 90
    assert down.max() - down.min() < 50
    noisy = training_transform(whole.replace(erase=1.0, flip=0.0), (96, 96), 3, ZERO, ONE)
    assert noisy(square).min() < 0


@pytest.mark.parametrize("named", list(recipe.NAMED))
@pytest.mark.parametrize("channels", [1, 3])
def test_every_recipe_makes_tensors_of_the_networks_size(photo, named, channels):
    transform = training_transform(recipe.named(named), (48, 80), channels, MEAN[:channels], STD[:channels])
    for index in range(30):
        with seed_everything_for(0, 0, index, 0):
            made = transform(photo)
        assert made.shape == (channels, 48, 80)
        assert made.isfinite().all()


def test_grey_is_the_grey_of_the_augmented_colour(photo):
    strong = recipe.named("deit").replace(erase=0.0)
    grey, colour = (training_transform(strong, (40, 60), n, (0.5,) * n, (1.0,) * n) for n in (1, 3))
    for index in range(40):
        with seed_everything_for(0, 0, index, 0):
            made = grey(photo)
        with seed_everything_for(0, 0, index, 0):
            pixels = ((colour(photo) + 0.5) * 255).round().byte().permute(1, 2, 0).numpy()
        expected = np.asarray(PIL.Image.fromarray(pixels).convert("L"))
        np.testing.assert_array_equal(((made[0] + 0.5) * 255).round(), expected)


def test_grey_of_one_colour():
    red = PIL.Image.new("RGB", (20, 20), (200, 0, 0))
    expected = torch.full((1, 12, 12), (round(200 * 0.299) / 255 - 0.5) / 0.25)
    still = recipe.Recipe(crop_scale=(0.5, 1), flip=0.5)
    torch.testing.assert_close(training_transform(still, (12, 12), 1, (0.5,), (0.25,))(red), expected)
    torch.testing.assert_close(evaluation_transform(1.0, "bicubic", (12, 12), 1, (0.5,), (0.25,))(red), expected)


@pytest.mark.parametrize(
    ("size", "crop", "between"), [(224, 0.875, 256), (384, 0.875, 438), (96, 1.0, 96), (96, 0.5, 192)]
)
def test_evaluation_resizes_the_shorter_side_and_crops_the_centre(photo, size, crop, between):
    transform = evaluation_transform(crop, "bicubic", (size, size), 3, ZERO, ONE)
    width, height = photo.size
    assert width > height
    wide = int(between * width / height)
    left, top = round((wide - size) / 2), round((between - size) / 2)
    resized = photo.resize((wide, between), PIL.Image.Resampling.BICUBIC)
    expected = np.asarray(resized)[top : top + size, left : left + size]
    np.testing.assert_array_equal((transform(photo) * 255).round().byte().permute(1, 2, 0), expected)


def test_evaluation_of_rectangles_keeps_proportions():
    """A circle stays a circle, whatever the rectangle."""
    y, x = np.mgrid[:200, :300]
    disc = PIL.Image.fromarray((((y - 100) ** 2 + (x - 150) ** 2 < 50**2) * 255).astype(np.uint8)).convert("RGB")
    for size in ((96, 160), (160, 96), (64, 64)):
        made = evaluation_transform(0.9, "bilinear", size, 3, ZERO, ONE)(disc)[0] > 0.5
        assert made.shape == size
        assert abs(int(made.any(0).sum()) - int(made.any(1).sum())) <= 2
        assert 0.1 < made.float().mean() < 0.8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluation_transform(0.875, "bicubic", (8, 8), 4, (0.0,) * 4, (1.0,) * 4), "images have 3 .* takes 4"),
        (lambda: training_transform(recipe.Recipe(), (8, 8), 2, (0.0,) * 2, (1.0,) * 2), "images have 3 .* takes 2"),
        (
            lambda: evaluation_transform(0.875, "bicubic", (8, 8), 1, MEAN, STD),
            r"one number a channel \(1\); got 3 and",
        ),
        (
            lambda: training_transform(recipe.Recipe(auto_augment="random"), (8, 8), 3, MEAN, STD),
            "recipe.auto_augment: timm does not know 'random'",
        ),
        (
            lambda: training_transform(recipe.Recipe(auto_augment="best"), (8, 8), 3, MEAN, STD),
            "recipe.auto_augment: timm does not know 'best'",
        ),
    ],
)
def test_what_cannot_be_is_said(call, message):
    with pytest.raises(UserError, match=message):
        call()


@pytest.mark.parametrize(
    ("mode", "mean", "std"), [("RGB", MEAN, STD), ("L", (0.1307,), (0.3081,)), ("L", (0.5,), (0.5,))]
)
def test_tensors_are_torchvisions_to_the_bit(mode, mean, std):
    levels = PIL.Image.fromarray(np.arange(256, dtype=np.uint8).reshape(8, 32))
    image = PIL.Image.merge("RGB", [levels.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT), levels, levels])
    made = evaluation_transform(1.0, "bilinear", (8, 32), len(mean), mean, std)(image)
    expected = functional.normalize(functional.to_tensor(image.convert(mode)), mean, std)
    assert made.is_contiguous()
    assert torch.equal(made, expected)


class TestSeedEverythingFor:
    def draws(self, *numbers):
        with seed_everything_for(*numbers):
            return random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002

    def test_draws_are_a_function_of_the_numbers_alone(self):
        first = self.draws(1, 2, 3, 4)
        torch.rand(7), random.random(), np.random.random()  # noqa: NPY002
        assert self.draws(1, 2, 3, 4) == first

    def test_every_number_and_its_place_matters(self):
        seen = [self.draws(*numbers) for numbers in [(0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0), (0,) * 4]]
        for generator in zip(*seen, strict=True):
            assert len(set(generator)) == 5

    def test_afterwards_all_is_as_if_it_had_not_been(self):
        def outside():
            return random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002

        random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
        expected = outside()
        random.seed(5), np.random.seed(5), torch.manual_seed(5)  # noqa: NPY002
        with pytest.raises(ZeroDivisionError), seed_everything_for(1, 2, 3, 4):  # noqa: PT012
            outside()
            raise ZeroDivisionError
        assert outside() == expected


def test_seeding_torch_past_the_gpus_is_seeding_torch():
    with generators_kept():
        torch.manual_seed(5)
        expected = torch.rand(3)
        seed_torch(5, torch.device("cpu"))
        assert torch.equal(torch.rand(3), expected)


def test_posterizing_to_nothing_is_black_whatever_pillow_says():
    """timm's rand-m9-mstd0.5-inc1 asks for 0 bits now and then; Pillow 13 refuses them."""
    augment = training_transform(
        recipe.Recipe(auto_augment="rand-m10-inc1-n1-p1"), (8, 8), 3, (0.0,) * 3, (1.0,) * 3
    ).transforms[1]
    operations = augment.transforms[0].ops
    (posterize,) = [each for each in operations if each.name == "PosterizeIncreasing"]
    assert not any(posterize(PIL.Image.new("RGB", (4, 4), "red")).getextrema()[0])
