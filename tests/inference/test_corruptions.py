from __future__ import annotations

import hashlib
import pickle
import random

import numpy as np
import pytest
import torch

from ffvit.config.preprocess import Preprocess
from ffvit.data.images import ArrayImages
from ffvit.data.loader import evaluation_loader
from ffvit.errors import MissingPackageError, UserError
from ffvit.inference import corruptions
from ffvit.inference.corruptions import (
    CLEAN,
    FAMILIES,
    PATCHES,
    SHARES,
    Condition,
    CorruptedImages,
    as_prepared,
    check_corruptions,
    choose_corruptions,
    corrupt,
    grid_side,
)

FILL = np.array([124, 116, 104], dtype=np.uint8)
SMALL = Preprocess(img_size=(32, 32), crop_pct=1.0)
EVERY = choose_corruptions(["all"])


def picture(side: int = 32) -> np.ndarray:
    """Colours that run in three directions, made of whole numbers."""
    row, column = np.mgrid[:side, :side]
    return np.stack([row * 255 // side, column * 255 // side, (row + column) * 5 % 256], axis=2).astype(np.uint8)


def short_hash(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:8]


PINNED = {
    "gaussian_noise": "1843b16b",
    "shot_noise": "6da33cd6",
    "impulse_noise": "0a3fbd46",
    "defocus_blur": "0b93979d",
    "glass_blur": "2cda6cf3",
    "motion_blur": "aa0395f6",
    "zoom_blur": "2e839d79",
    "snow": "dc2423a0",
    "frost": "d04966a7",
    "fog": "ae1706b2",
    "brightness": "33229c3d",
    "contrast": "90285588",
    "elastic_transform": "50a773a3",
    "pixelate": "9ebc181e",
    "jpeg_compression": "f3819abc",
    "patch_shuffle": "778657f8",
    "patch_drop": "0b2a2e25",
    "occlusion": "4a60912d",
}
"""Of `picture` at severity 3, seed 0."""


def test_pixels_are_pinned():
    pytest.importorskip("imagecorruptions")
    made = {name: short_hash(corrupt(picture(), Condition(name, 3), 0, FILL)) for name in EVERY}
    assert made == PINNED


def test_other_seeds_severities_and_images_draw_something_else():
    one = corrupt(picture(), Condition("patch_drop", 3), 0, FILL)
    assert not np.array_equal(one, corrupt(picture(), Condition("patch_drop", 3), 1, FILL))
    other = picture()
    other[0, 0, 0] += 1
    lost = (corrupt(other, Condition("patch_drop", 3), 0, FILL) == FILL).all(axis=2)
    assert not np.array_equal(lost, (one == FILL).all(axis=2))
    assert corrupt(picture(), CLEAN, 0, FILL) is not None
    np.testing.assert_array_equal(corrupt(picture(), CLEAN, 0, FILL), picture())


def test_random_numbers_of_others_are_left_alone():
    pytest.importorskip("imagecorruptions")
    pixels = [corrupt(picture(), Condition("gaussian_noise", 1), 0, FILL)]
    random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), torch.get_rng_state()
    pixels.append(corrupt(picture(), Condition("gaussian_noise", 1), 0, FILL))
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    np.testing.assert_array_equal(*pixels)


def test_grey_stays_grey():
    pytest.importorskip("imagecorruptions")
    grey = picture()[:, :, :1]
    for name in ("fog", "pixelate", *PATCHES):
        assert corrupt(grey, Condition(name, 2), 0, FILL[:1]).shape == grey.shape


@pytest.mark.parametrize("severity", [1, 5])
def test_patches_move_or_are_lost_in_the_share_that_is_said(severity: int):
    pixels, count = picture(), round(SHARES[severity - 1] * 64)
    patches, side = corruptions._to_patches(pixels)
    assert side == 8
    assert len({patch.tobytes() for patch in patches}) == 64

    moved, _ = corruptions._to_patches(corrupt(pixels, Condition("patch_shuffle", severity), 0, FILL))
    assert (moved != patches).any(axis=(1, 2, 3)).sum() == count
    assert {patch.tobytes() for patch in moved} == {patch.tobytes() for patch in patches}

    dropped, _ = corruptions._to_patches(corrupt(pixels, Condition("patch_drop", severity), 0, FILL))
    lost = (dropped == FILL).all(axis=(1, 2, 3))
    assert lost.sum() == count
    np.testing.assert_array_equal(dropped[~lost], patches[~lost])

    covered = (corrupt(pixels, Condition("occlusion", severity), 0, FILL) == FILL).all(axis=2)
    rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    assert covered.sum() == len(rows) * len(columns) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert covered.mean() == pytest.approx(SHARES[severity - 1], abs=0.03)


def test_grids_are_those_of_usual_networks():
    assert [grid_side(side, side) for side in (224, 384, 256, 32, 8)] == [14, 12, 8, 8, 4]
    assert grid_side(31, 31) is None


def images(count: int = 5) -> ArrayImages:
    arrays = np.stack([np.roll(picture(), number, axis=0) for number in range(count)])
    return ArrayImages("pictures", arrays, np.arange(count))


def test_every_order_and_process_gets_the_same_pixels():
    conditions = (CLEAN, *(Condition(name, level) for name in PATCHES for level in (1, 4)))
    corrupted = CorruptedImages(images(), SMALL, conditions, seed=3)
    assert len(corrupted) == 5 * 7
    assert corrupted.labels.tolist() == np.repeat(range(5), 7).tolist()
    forwards = [np.asarray(corrupted.read(index)) for index in range(35)]
    np.testing.assert_array_equal(forwards[7], images().arrays[1])  # the second image as it is
    backwards = [np.asarray(pickle.loads(pickle.dumps(corrupted)).read(index)) for index in reversed(range(35))]
    np.testing.assert_array_equal(forwards, backwards[::-1])
    for workers, batch_size in ((0, 35), (1, 4)):
        batches = list(evaluation_loader(corrupted, as_prepared, SMALL.shape, batch_size, workers))
        loaded = torch.cat([batch.images for batch in batches]).permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(loaded, forwards)


def test_names_and_families_are_chosen_from():
    assert sum(len(names) for names in FAMILIES.values()) == 18 == len(EVERY)
    assert choose_corruptions(["weather", "fog", "gaussian_noise"]) == (
        "gaussian_noise", "snow", "frost", "fog", "brightness"
    )  # fmt: skip
    with pytest.raises(UserError, match=r"there is no corruption 'fogg', did you mean 'fog'\? \(known: all, noise, "):
        choose_corruptions(["fogg"])


def test_what_cannot_be_is_said(monkeypatch):
    with pytest.raises(UserError, match="an exported file crops images by itself: evaluate the run"):
        check_corruptions(("fog",), None)
    with pytest.raises(UserError, match="images of 31 x 31 pixels cannot be cut into equal patches"):
        check_corruptions(PATCHES, Preprocess(img_size=(31, 31)))
    check_corruptions(PATCHES, Preprocess(img_size=(8, 8)))
    check_corruptions((), None)
    monkeypatch.setattr(corruptions, "missing_packages", lambda names: [])
    with pytest.raises(
        UserError, match=r"32 x 32 pixels or more, and this network takes 8 x 8: give --corruptions pat"
    ):
        check_corruptions(("fog",), Preprocess(img_size=(8, 8)))
    monkeypatch.setattr(corruptions, "missing_packages", lambda names: ["numba"])
    with pytest.raises(
        MissingPackageError, match=r"need numba: pip install 'ffvit\[corruptions\]', then pip install --n"
    ):
        check_corruptions(("fog",), SMALL)
    check_corruptions(PATCHES, SMALL)
