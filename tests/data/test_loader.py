from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ffvit import Data
from ffvit.config import recipe
from ffvit.config.preprocess import Preprocess
from ffvit.data.decode import open_image
from ffvit.data.images import ArrayImages, Subset
from ffvit.data.loader import PADDING, evaluation_loader, training_loader, worker_count
from ffvit.data.sampler import TrainingOrder, View
from ffvit.data.splits import open_splits
from ffvit.data.transforms import LazyImage, evaluation_transform, training_transform

SHAPE = (3, 20, 24)
MEAN = (0.5, 0.5, 0.5)
RECIPE = recipe.RECIPES["deit"].replace(batch_size=8)


def shown(transform, images, index):
    return torch.from_numpy(transform(LazyImage(images.read(index), images.name(index))).pixels.copy()).permute(2, 0, 1)


def loaded(images, workers=0, epoch=0, first_step=0, seed=0, **shared):
    order = TrainingOrder(len(images), seed, 8, 8, repeats=3, **shared)
    order.epoch, order.first_step = epoch, first_step
    return list(
        training_loader(
            images, training_transform(RECIPE, Preprocess(img_size=SHAPE[1:], mean=MEAN)), SHAPE, order, seed, workers
        )
    )


@pytest.fixture(scope="module")
def images(photos):
    return open_splits(Data(source=str(photos))).train


def test_pixels_do_not_depend_on_who_loads_them(images):
    for here, there in zip(loaded(images), loaded(images, workers=2), strict=True):
        assert torch.equal(here.images, there.images)
        assert here.indices == there.indices
    torch.rand(3), np.random.rand(3)  # noqa: NPY002  (and not on what was drawn before)
    assert torch.equal(loaded(images)[0].images, loaded(images)[0].images)


@pytest.mark.parametrize("shared", [{"processes": 2}, {"processes": 4}, {"micro_batch": 4}])
def test_pixels_do_not_depend_on_how_a_batch_is_shared(images, shared):
    whole = loaded(images)
    processes = shared.get("processes", 1)
    splits = [loaded(images, **shared, process=process) for process in range(processes)]
    a_step = len(splits[0]) // len(whole)
    for step, batch in enumerate(whole):
        of_step = [split for its in splits for split in its[step * a_step : (step + 1) * a_step]]
        assert len(of_step) > 1
        expected = dict(zip(batch.positions, batch.images, strict=True))
        got = {place: image for split in of_step for place, image in zip(split.positions, split.images, strict=True)}
        assert expected.keys() == got.keys()
        assert all(torch.equal(got[place], image) for place, image in expected.items())


def test_pixels_are_a_function_of_seed_epoch_image_and_view_alone(images):
    photo = np.asarray(open_image(images, 0))
    alike = ArrayImages("alike", [photo] * 5, np.zeros(5, dtype=np.int64))  # what differs is drawn
    transform = training_transform(RECIPE, Preprocess(img_size=SHAPE[1:], mean=MEAN))

    def pixels(seed=1, epoch=2, image=3, view=0, group=0, position=0):
        order = TrainingOrder(len(alike), seed, 4, 4)
        dataset = training_loader(alike, transform, SHAPE, order, seed, 0).dataset
        return dataset.__getitems__([View(epoch, image, view, group, position)])[0].image

    def same(one, other):
        return np.array_equal(one.pixels, other.pixels) and one.erased == other.erased

    assert same(pixels(), pixels(group=5, position=7))
    for other in ({"seed": 2}, {"epoch": 1}, {"image": 4}, {"view": 1}, {"epoch": 3, "image": 2}):
        assert not same(pixels(), pixels(**other))


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_leaves_every_generator_as_it_was(images, workers):
    before = np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002  (beartype draws from Python's)
    loaded(images, workers)
    assert np.random.get_state()[1].tolist() == before[0]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])


def test_views_of_an_image_differ_and_a_later_step_is_the_rest(images):
    first = loaded(images)[0]
    assert not torch.equal(first.images, loaded(images, epoch=1)[0].images)
    views = [row for row, index in enumerate(first.indices) if index == first.indices[0]]
    assert len(views) > 1
    assert not torch.equal(first.images[views[0]], first.images[views[1]])
    assert torch.equal(loaded(images, first_step=2)[0].images, loaded(images)[2].images)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_keeps_its_place_with_weight_0(photos, tmp_path, workers):
    folder = shutil.copytree(photos, tmp_path / "photos")
    before = open_splits(Data(source=str(folder))).train
    whole = loaded(before)
    bad = whole[0].indices[3]
    Path(before.name(bad)).write_bytes(b"no image")
    after = loaded(open_splits(Data(source=str(folder))).train, workers)
    for old, new in zip(whole, after, strict=True):
        hit = torch.tensor(new.indices) == bad
        assert torch.equal(new.weights, (~hit).float())
        assert torch.equal(new.images[~hit], old.images[~hit])
        assert not new.images[hit].any()
        assert {each.name for each in new.bad} == ({before.name(bad)} if hit.any() else set())


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_evaluation_shows_every_image_once_in_equally_many_batches(images, processes):
    transform = evaluation_transform(Preprocess(img_size=SHAPE[1:]))
    loaders = [list(evaluation_loader(images, transform, SHAPE, 5, 0, p, processes)) for p in range(processes)]
    assert len({len(each) for each in loaders}) == 1
    assert len({tuple(len(batch.indices) for batch in each) for each in loaders}) == 1
    batches = [batch for each in loaders for batch in each]
    seen = [index for batch in batches for index in batch.indices if index != PADDING]
    assert sorted(seen) == list(range(len(images)))
    for batch in batches:
        assert torch.equal(batch.weights, (torch.tensor(batch.indices) != PADDING).float())
        for index, label, pixels in zip(batch.indices, batch.labels.tolist(), batch.images, strict=True):
            assert torch.equal(
                pixels, torch.zeros(SHAPE).byte() if index == PADDING else shown(transform, images, index)
            )
            assert label == (0 if index == PADDING else images.labels[index])


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_names_a_bad_image_and_weighs_it_0(photos, tmp_path, workers):
    folder = shutil.copytree(photos, tmp_path / "photos")
    images = open_splits(Data(source=str(folder))).test
    Path(images.name(7)).write_bytes(b"no image")
    transform = evaluation_transform(Preprocess(img_size=SHAPE[1:]))
    batches = list(evaluation_loader(images, transform, SHAPE, 5, workers))
    assert [index for batch in batches for index in batch.indices] == list(range(12))
    weights = torch.cat([batch.weights for batch in batches])
    assert torch.equal(weights, (torch.arange(12) != 7).float())
    assert [str(each) for batch in batches for each in batch.bad] == [
        f"{images.name(7)}: is empty, damaged, or no image"
    ]


def test_images_in_memory_need_no_other_process(images):
    digits = open_splits(Data()).train
    some = np.arange(4)
    for in_memory in (digits, Subset(digits, some), Subset(Subset(digits, some), some)):
        assert worker_count(in_memory, 1) == 0
        assert worker_count(in_memory, 1, torch.device("cuda")) > 0  # which would wait for this process


def test_processes_that_are_not_forked_load_the_same(photos):
    # As on macOS. Apart from this process, whose checks of types draw from the generator that augmentation draws from.
    program = f"""
import multiprocessing, sys, torch
sys.path[:0] = {[str(Path(__file__).parent)]}
from test_loader import Data, loaded, open_splits
images = open_splits(Data(source={str(photos)!r})).train
multiprocessing.set_start_method("spawn")
for here, there in zip(loaded(images), loaded(images, workers=1), strict=True):
    assert torch.equal(here.images, there.images)
print("the same")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("the same\n", 0), done.stderr


def test_files_share_the_processor_among_the_processes(images, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(12)))
    some = Subset(images, np.arange(4))
    assert [worker_count(some, processes) for processes in (1, 2, 3, 12, 100)] == [12, 6, 4, 1, 1]


def test_no_process_is_started_that_would_have_no_batch(images):
    transform = evaluation_transform(Preprocess(img_size=SHAPE[1:]))
    assert evaluation_loader(images, transform, SHAPE, len(images), 2).num_workers == 1
