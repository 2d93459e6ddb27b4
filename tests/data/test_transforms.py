from __future__ import annotations

import io
import pickle
import random
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from timm.data import create_transform
from torchvision.transforms import functional

from ffvit.config import recipe
from ffvit.config.preprocess import Preprocess
from ffvit.data.images import BadImageError
from ffvit.data.loader import Batch, NormalizeOnDevice
from ffvit.data.transforms import LazyImage, Transform, TransformedImage, evaluation_transform, training_transform
from ffvit.errors import UserError
from ffvit.seeding import preserve_rng_state, seed_torch, seeded

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ZERO = (0.0, 0.0, 0.0)


def batch_of(seen: TransformedImage) -> Batch:
    return Batch(
        images=torch.from_numpy(seen.pixels.copy()).permute(2, 0, 1)[None],
        erased=torch.tensor([seen.erased]),
        labels=torch.zeros(1, dtype=torch.int64),
        weights=torch.ones(1),
        indices=[0],
        groups=[0],
        positions=[0],
        bad=[],
    )


def evaluation(crop: float, interpolation: str, size: tuple[int, int], channels: int, exact: bool = True) -> Transform:
    return evaluation_transform(
        Preprocess(
            img_size=size,
            in_chans=channels,
            crop_pct=crop,
            interpolation=interpolation,
            pixel_backend="pillow" if exact else "fast",
        )
    )


def training(how: recipe.Recipe, size: tuple[int, int], channels: int, mean: tuple[float, ...]) -> Transform:
    return training_transform(how, Preprocess(img_size=size, in_chans=channels, mean=mean))


@pytest.fixture
def photo(photos) -> PIL.Image.Image:
    return PIL.Image.open(photos / "val" / "pagoda" / "0000.jpg").convert("RGB")


def exactly(named: recipe.Recipe) -> recipe.Recipe:
    return named.replace(exact="always")


def test_deit_recipe_is_what_deit_gives_timm_pixel_for_pixel(photo):
    ours = training(exactly(recipe.named_recipe("deit")), (64, 64), 3, MEAN)
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
    finish = NormalizeOnDevice(Preprocess(img_size=(64, 64)))
    for index in range(40):
        with seeded(0, 0, index, 0):
            mine = ours(LazyImage(photo, ""))
        with seeded(0, 0, index, 0):
            their = theirs(photo)
        finished = finish(batch_of(mine))[0]
        top, left, height, width, _ = mine.erased
        kept = torch.ones(64, 64, dtype=torch.bool)
        kept[top : top + height, left : left + width] = False
        assert torch.equal(finished[:, kept], their[:, kept])
        erased += height > 0
        if height:
            noise, theirs_noise = finished[:, ~kept], their[:, ~kept]
            assert not torch.equal(noise, theirs_noise)
            assert abs(noise.std() - 1) < 0.15
            assert theirs_noise.std() > 0.85  # noise there too, and not pixels
    assert 0 < erased < 40


BESIDE_EACH_OTHER = """
import sys
from pathlib import Path

import numpy as np

from ffvit.config import recipe
from ffvit.config.preprocess import Preprocess
from ffvit.seeding import seeded
from ffvit.data.transforms import LazyImage, training_transform

files = [Path(name).read_bytes() for name in sys.argv[1:]]
deit = recipe.named_recipe("deit")
shown = Preprocess(img_size=(64, 64), mean=(0.5, 0.4, 0.4))
ways = [training_transform(deit.replace(exact=exact), shown) for exact in ("never", "always")]
for index in range(200):
    seen = []
    for transform in ways:
        with seeded(0, 0, index, 0):
            seen.append(transform(LazyImage(files[index % len(files)], "")))
    assert seen[0].erased == seen[1].erased
    print(np.abs(seen[0].pixels.astype(int) - seen[1].pixels).mean())
"""


def test_the_fast_way_draws_the_same_and_shows_nearly_the_same(photos):
    """Of the whole deit recipe; operation by operation: test_operations.py. Apart, for beartype draws numbers too."""
    files = sorted(str(path) for path in (photos / "val" / "pagoda").glob("*.jpg"))
    printed = subprocess.run(
        [sys.executable, "-c", BESIDE_EACH_OTHER, *files], capture_output=True, text=True, check=True
    )
    differences = np.array(printed.stdout.split(), dtype=float)
    assert len(differences) == 200
    assert np.median(differences) < 0.5
    assert np.quantile(differences, 0.9) < 1.5
    assert differences.max() < 40  # equalizing, or a level that falls to the other side of solarize's threshold


def test_a_recipe_moves_what_it_names(photo):
    for exact in ("never", "always"):
        whole = recipe.Recipe(crop_scale=(1, 1), flip=1.0, exact=exact)
        square = photo.crop((0, 0, 96, 96))
        # Nothing left to chance: the whole image, mirrored.
        expected = np.asarray(square)[:, ::-1]
        np.testing.assert_array_equal(training(whole, (96, 96), 3, ZERO)(LazyImage(square, "")).pixels, expected)
        still = training(whole.replace(flip=0.0), (96, 96), 3, ZERO)
        np.testing.assert_array_equal(still(LazyImage(square, "")).pixels, expected[:, ::-1])
        wide = training(whole.replace(crop_scale=(0.5, 0.5), crop_ratio=(2.0, 2.0)), (96, 96), 3, ZERO)
        y, x = np.mgrid[:96, :96].astype(np.uint8)
        made = wide(LazyImage(PIL.Image.fromarray(np.dstack([x, y, x])), "")).pixels
        assert np.ptp(made[..., 0]) > 90
        assert np.ptp(made[..., 1]) < 50
        noisy = training(whole.replace(random_erase_prob=1.0, flip=0.0), (96, 96), 3, ZERO)
        assert noisy(LazyImage(square, "")).erased[2] > 0


@pytest.mark.parametrize("named", [*recipe.RECIPES, "3a", "augmix-m5-w2-d2", "original"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("exact", ["never", "always"])
def test_every_recipe_shows_images_of_the_networks_size(photo, named, channels, exact):
    chosen = recipe.RECIPES.get(named) or recipe.Recipe(auto_augment=named)
    made_here = training(chosen.replace(exact=exact), (48, 80), channels, MEAN[:channels])
    transform = pickle.loads(pickle.dumps(made_here))  # as it travels to workers that are not forked
    for index in range(20):
        with seeded(0, 0, index, 0):
            made = transform(LazyImage(photo, "")).pixels
        assert made.shape == (48, 80, channels)
        assert made.dtype == np.uint8


@pytest.mark.parametrize("exact", ["never", "always"])
def test_grey_is_the_grey_of_the_augmented_colour(photo, exact):
    strong = recipe.named_recipe("deit").replace(random_erase_prob=0.0, exact=exact)
    grey, colour = (training(strong, (40, 60), n, (0.5,) * n) for n in (1, 3))
    for index in range(40):
        with seeded(0, 0, index, 0):
            made = grey(LazyImage(photo, "")).pixels
        with seeded(0, 0, index, 0):
            pixels = colour(LazyImage(photo, "")).pixels
        expected = np.asarray(PIL.Image.fromarray(pixels).convert("L")).astype(int)
        assert np.abs(made[..., 0] - expected).max() <= (exact == "never")


@pytest.mark.parametrize("exact", [True, False])
def test_grey_of_one_colour(exact):
    red = PIL.Image.new("RGB", (20, 20), (200, 0, 0))
    still = recipe.Recipe(crop_scale=(0.5, 1), flip=0.5, exact="always" if exact else "never")
    for made in (
        training(still, (12, 12), 1, (0.5,))(LazyImage(red, "")),
        evaluation(1.0, "bicubic", (12, 12), 1, exact)(LazyImage(red, "")),
    ):
        np.testing.assert_array_equal(made.pixels, np.full((12, 12, 1), round(200 * 0.299)))


@pytest.mark.parametrize(
    ("size", "crop", "between"), [(224, 0.875, 256), (384, 0.875, 438), (96, 1.0, 96), (96, 0.5, 192)]
)
def test_evaluation_resizes_the_shorter_side_and_crops_the_centre(photo, size, crop, between):
    width, height = photo.size
    assert width > height
    wide = int(between * width / height)
    left, top = round((wide - size) / 2), round((between - size) / 2)
    resized = photo.resize((wide, between), PIL.Image.Resampling.BICUBIC)
    expected = np.asarray(resized)[top : top + size, left : left + size]
    exact, fast = (
        evaluation(crop, "bicubic", (size, size), 3, how)(LazyImage(photo, "")).pixels for how in (True, False)
    )
    np.testing.assert_array_equal(exact, expected)
    assert np.abs(fast.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("exact", [True, False])
def test_evaluation_of_rectangles_keeps_proportions(exact):
    """A circle stays a circle, whatever the rectangle."""
    y, x = np.mgrid[:200, :300]
    disc = PIL.Image.fromarray((((y - 100) ** 2 + (x - 150) ** 2 < 50**2) * 255).astype(np.uint8)).convert("RGB")
    for size in ((96, 160), (160, 96), (64, 64)):
        made = evaluation(0.9, "bilinear", size, 3, exact)(LazyImage(disc, "")).pixels[..., 0] > 127
        assert made.shape == size
        assert abs(int(made.any(0).sum()) - int(made.any(1).sum())) <= 2
        assert 0.1 < made.mean() < 0.8


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp", "webp", "tif", "jpg"])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_the_fast_way_is_right_for_every_format(photo, suffix, mode):
    file = io.BytesIO()
    try:
        photo.convert(mode).save(file, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix))
    except (OSError, ValueError):
        pytest.skip(f"{suffix} holds no {mode}")
    exact, fast = (
        evaluation(0.8, "bicubic", (48, 48), 3, how)(LazyImage(file.getvalue(), "")).pixels.astype(int)
        for how in (True, False)
    )
    assert np.abs(exact - fast).max() <= 2


@pytest.mark.parametrize(
    "spoil", [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: whole[:200]]
)
def test_what_pillow_refuses_the_fast_way_refuses_in_the_same_words(photos, spoil):
    whole = (photos / "val" / "pagoda" / "0000.jpg").read_bytes()
    words = []
    for exact in (True, False):
        with pytest.raises(BadImageError) as caught:
            evaluation(0.8, "bicubic", (48, 48), 3, exact)(LazyImage(spoil(whole), "a.jpg"))
        words.append(str(caught.value))
    assert words[0] == words[1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluation(0.875, "bicubic", (8, 8), 4), "images have 3 .* takes 4"),
        (lambda: training(recipe.Recipe(), (8, 8), 2, (0.0,) * 2), "images have 3 .* takes 2"),
        (
            lambda: training(recipe.Recipe(auto_augment="random"), (8, 8), 3, MEAN),
            "recipe.auto_augment: timm does not know 'random'",
        ),
        (
            lambda: training(recipe.Recipe(auto_augment="best"), (8, 8), 3, MEAN),
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
    made = NormalizeOnDevice(Preprocess(img_size=(8, 32), in_chans=len(mean), mean=mean, std=std))(
        batch_of(evaluation(1.0, "bilinear", (8, 32), len(mean))(LazyImage(image, "")))
    )
    expected = functional.normalize(functional.to_tensor(image.convert(mode)), mean, std)
    assert made.is_contiguous()
    assert torch.equal(made[0], expected)


class TestSeedEverythingFor:
    def draws(self, *numbers):
        with seeded(*numbers):
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
        with pytest.raises(ZeroDivisionError), seeded(1, 2, 3, 4):  # noqa: PT012
            outside()
            raise ZeroDivisionError
        assert outside() == expected


def test_seeding_torch_past_the_gpus_is_seeding_torch():
    with preserve_rng_state():
        torch.manual_seed(5)
        expected = torch.rand(3)
        seed_torch(5, torch.device("cpu"))
        assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("exact", ["never", "always"])
def test_posterizing_to_nothing_is_black_whatever_pillow_says(exact):
    """timm's rand-m9-mstd0.5-inc1 asks for 0 bits now and then; Pillow 13 refuses them."""
    strongest = recipe.Recipe(auto_augment="rand-m10-inc1-n9-p1", crop_scale=(1, 1), exact=exact)
    transform = training(strongest, (8, 8), 3, ZERO)
    white = PIL.Image.new("RGB", (8, 8), "white")
    darkest = []
    for index in range(60):
        with seeded(index):
            darkest.append(transform(LazyImage(white, "")).pixels.max())
    assert min(darkest) == 0
