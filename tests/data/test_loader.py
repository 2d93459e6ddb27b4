from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from ffvit import Data, recipe
from ffvit.data.loader import PADDING, evaluation_loader, training_loader, workers_for
from ffvit.data.order import TrainingOrder
from ffvit.data.parts import open_parts
from ffvit.data.transform import evaluation_transform, training_transform

SHAPE = (3, 20, 24)
STATISTICS = ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
RECIPE = recipe.NAMED["deit"].replace(batch_size=8)


def loaded(images, workers=0, epoch=0, first_step=0, seed=0):
    order = TrainingOrder(len(images), seed, 8, 8, repeats=3)
    order.epoch, order.first_step = epoch, first_step
    return list(
        training_loader(images, training_transform(RECIPE, SHAPE[1:], 3, *STATISTICS), SHAPE, order, seed, workers)
    )


@pytest.fixture(scope="module")
def images(photos):
    return open_parts(Data(source=str(photos))).train


def test_pixels_do_not_depend_on_who_loads_them(images):
    for here, there in zip(loaded(images), loaded(images, workers=2), strict=True):
        assert torch.equal(here.images, there.images)
        assert here.indices == there.indices
    torch.rand(3), np.random.rand(3)  # noqa: NPY002  (and not on what was drawn before)
    assert torch.equal(loaded(images)[0].images, loaded(images)[0].images)


def test_pixels_belong_to_seed_epoch_image_and_view(images):
    first = loaded(images)[0]
    assert not torch.equal(first.images, loaded(images, epoch=1)[0].images)
    views = [row for row, index in enumerate(first.indices) if index == first.indices[0]]
    assert len(views) > 1
    assert not torch.equal(first.images[views[0]], first.images[views[1]])
    assert torch.equal(loaded(images, first_step=2)[0].images, loaded(images)[2].images)


def test_a_bad_image_keeps_its_place_with_weight_0(photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    before = open_parts(Data(source=str(folder))).train
    whole = loaded(before)
    bad = whole[0].indices[3]
    with open(before.name(bad), "wb") as file:  # noqa: PTH123
        file.write(b"no image")
    after = loaded(open_parts(Data(source=str(folder))).train)
    for old, new in zip(whole, after, strict=True):
        hit = torch.tensor(new.indices) == bad
        assert torch.equal(new.weights, (~hit).float())
        assert torch.equal(new.images[~hit], old.images[~hit])
        assert not new.images[hit].any()
        assert {each.name for each in new.bad} == ({before.name(bad)} if hit.any() else set())


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_evaluation_shows_every_image_once_in_equally_many_batches(images, processes):
    transform = evaluation_transform(0.875, "bicubic", SHAPE[1:], 3, *STATISTICS)
    loaders = [list(evaluation_loader(images, transform, SHAPE, 5, 0, p, processes)) for p in range(processes)]
    assert len({len(each) for each in loaders}) == 1
    batches = [batch for each in loaders for batch in each]
    seen = [index for batch in batches for index in batch.indices if index != PADDING]
    assert sorted(seen) == list(range(len(images)))
    for batch in batches:
        assert torch.equal(batch.weights, (torch.tensor(batch.indices) != PADDING).float())


def test_images_in_memory_need_no_other_process(images):
    assert workers_for(open_parts(Data()).train, 1) == 0
    assert workers_for(images, 1) >= 1
