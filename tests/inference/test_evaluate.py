from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import ffvit
from ffvit.config import recipe as recipes
from ffvit.config.architecture import FF_ONLY
from ffvit.config.data import Data
from ffvit.data.splits import open_splits
from ffvit.inference.evaluate import Score
from ffvit.inference.evaluator import evaluation_mode
from ffvit.run_folder import Run

CPU = ffvit.Hardware(accelerator="cpu")


@contextmanager
def one_thread():
    """A second one costs more than it brings on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Run:
    with one_thread():
        return ffvit.train(
            "ff_micro_patch2_8",
            recipe=recipes.RECIPES["digits"].replace(epochs=2, warmup_epochs=1, batch_size=128),
            hardware=CPU,
            out=tmp_path_factory.mktemp("evaluate") / "run",
        )


@pytest.fixture(scope="session")
def whole(run) -> Score:
    with one_thread():
        return ffvit.evaluate(run.path, hardware=CPU)


def write_digits(folder: Path, classes: str, called=str) -> tuple[Path, np.ndarray]:
    """The test split's images of some classes as files, and their places in it, in the order of the files."""
    images = open_splits(Data()).test
    places = [index for name in classes for index in np.flatnonzero(images.labels == int(name)).tolist()]
    for index in places:
        file = folder / called(str(images.labels[index])) / f"{index:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        images.read(index).save(file)
    return folder, np.array(places)


def test_a_runs_answers_are_those_it_wrote_down(run, whole):
    summary = run.summary()
    assert whole.evaluation.to_dict()["top1"] == summary["test"]["top1"]
    assert whole.evaluation.temperature == summary["temperature"]
    assert whole.bad == []
    assert len(whole.names) == len(whole.predictions.labels) == 359


def test_some_of_the_classes_are_matched_by_name(run, whole, tmp_path):
    folder, places = write_digits(tmp_path, "37")
    score = ffvit.evaluate(run.path, folder, hardware=CPU)
    assert score.predictions.classes == tuple("0123456789")
    assert set(score.predictions.labels) == {3, 7}
    np.testing.assert_array_equal(score.predictions.labels, whole.predictions.labels[places])
    np.testing.assert_array_equal(score.predictions.predicted, whole.predictions.predicted[places])
    np.testing.assert_allclose(score.predictions.loss, whole.predictions.loss[places], rtol=1e-4, atol=1e-5)


def test_a_class_the_network_does_not_know_is_named(run, tmp_path):
    write_digits(tmp_path, "37", called={"3": "3", "7": "seven"}.get)
    with pytest.raises(ffvit.UserError, match=r"the network does not know 'seven' \(it knows 10 classes: '0', '1'"):
        ffvit.evaluate(run.path, tmp_path, hardware=CPU)


def test_bad_images_are_named_and_left_out(run, whole, tmp_path):
    folder, places = write_digits(tmp_path, "5")
    files = sorted(folder.rglob("*.png"))
    for bad in (0, 4):
        files[bad].write_bytes(b"no image")
    score = ffvit.evaluate(run.path, folder, hardware=CPU, batch_size=3)
    assert score.warnings == [f"2 of {len(files)} images could not be read"]
    assert [each.name for each in score.bad] == [str(files[0]), str(files[4])]
    assert score.names == [str(file) for place, file in enumerate(files) if place not in (0, 4)]
    read = np.delete(places, [0, 4])
    np.testing.assert_array_equal(score.predictions.predicted, whole.predictions.predicted[read])


def test_the_same_weights_answer_the_same_however_they_are_given(run, whole):
    for weights, data in (
        (run.path, "digits"),
        (run.best_file, None),
        (str(run.best_file), "digits"),
        (ffvit.load(run.path), "digits"),
        (ffvit.load(run.best_file), "digits"),
    ):
        score = ffvit.evaluate(weights, data, hardware=CPU)
        np.testing.assert_array_equal(score.predictions.logits, whole.predictions.logits)
        assert score.evaluation.to_dict() == whole.evaluation.to_dict()
    assert whole.evaluation.temperature == run.summary()["temperature"] is not None


def test_evaluation_takes_no_precision(run):
    with pytest.raises(ffvit.UserError, match=r"evaluation is always in float32, .*: leave out --precision"):
        ffvit.evaluate(run.path, hardware=CPU.replace(precision="bf16"))


def test_a_copy_of_the_file_alone_answers_the_same(run, whole, tmp_path):
    alone = shutil.copy(run.best_file, tmp_path / "weights.safetensors")
    score = ffvit.evaluate(alone, "digits", hardware=CPU)
    np.testing.assert_array_equal(score.predictions.logits, whole.predictions.logits)
    assert score.evaluation.temperature == whole.evaluation.temperature


def test_pixels_of_the_fast_backend_travel_with_the_weights(tmp_path, photos):
    small = ffvit.Architecture(width=12, depth=1, block=FF_ONLY, img_size=24, patch=8)
    recipe = recipes.RECIPES["small"].replace(epochs=1, warmup_epochs=0, batch_size=8)
    run = ffvit.train(small, photos, recipe, hardware=CPU, out=tmp_path / "run")
    assert recipe.exact == "never"
    of_run = ffvit.evaluate(run.path, hardware=CPU).predictions.logits
    alone = shutil.copy(run.best_file, tmp_path / "weights.safetensors")
    np.testing.assert_array_equal(ffvit.evaluate(alone, photos, hardware=CPU).predictions.logits, of_run)
    other = ffvit.evaluate(run.path, hardware=CPU, pixel_backend="pillow").predictions.logits
    assert 0 < np.abs(other - of_run).max() < 0.2


def test_what_is_given_wins(run, whole):
    for given in ({"crop": 0.8}, {"interpolation": "bicubic", "crop": 0.8}, {"crop": 0.8, "pixel_backend": "fast"}):
        changed = ffvit.evaluate(run.path, hardware=CPU, **given).predictions.logits
        assert not np.allclose(changed, whole.predictions.logits)
        np.testing.assert_array_equal(ffvit.evaluate(run.best_file, hardware=CPU, **given).predictions.logits, changed)


@pytest.mark.parametrize("training", [True, False])
def test_the_callers_network_keeps_the_mode_of_each_module(run, training):
    network = ffvit.load(run.path).train(training)
    network.blocks[1].train(not training)
    before = [module.training for module in network.modules()]
    assert len(set(before)) == 2
    ffvit.evaluate(network, "digits", hardware=CPU)
    assert [module.training for module in network.modules()] == before


def test_mode_and_device_are_restored_after_an_error(monkeypatch):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout()).train()
    moves = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: moves.append(str(device)) or module)
    with pytest.raises(ZeroDivisionError), evaluation_mode(network, torch.device("meta")):  # noqa: PT012
        assert not network[1].training
        raise ZeroDivisionError
    assert moves == ["meta", "cpu"]
    assert network[1].training


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photos) -> Path:
    """A folder of classes that is not split: the run draws its own test split."""
    return shutil.copytree(photos / "train", tmp_path_factory.mktemp("own") / "photos")


@pytest.fixture(scope="module")
def own(tmp_path_factory, folder) -> Run:
    with one_thread():
        return ffvit.train(
            ffvit.Architecture(width=12, depth=1, block=FF_ONLY, img_size=24, patch=8),
            ffvit.Data(source=str(folder), split_seed=5),
            recipes.RECIPES["digits"].replace(epochs=1, warmup_epochs=0, batch_size=8),
            hardware=CPU,
            out=tmp_path_factory.mktemp("evaluate") / "own",
        )


def test_the_same_folder_is_scored_on_the_runs_test_split(own, folder):
    test = open_splits(own.config.data).test
    expected = [test.name(index) for index in range(len(test))]
    for data in (None, folder, f"{folder}/../photos"):
        for weights in (own.path, own.best_file):
            score = ffvit.evaluate(weights, data, hardware=CPU)
            assert score.names == expected
            assert score.evaluation.to_dict()["top1"] == own.summary()["test"]["top1"]
            assert score.warnings == []
            assert score.data == f"{folder}, the run's own test split"


def test_training_images_among_others_are_counted(own, folder, tmp_path):
    for number, file in enumerate(sorted(folder.rglob("*.jpg"))):
        target = tmp_path / "links" / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if number % 2:
            target.symlink_to(file)
        else:  # a copy is not known to be the same
            shutil.copy(file, target)
    score = ffvit.evaluate(own.path, tmp_path / "links", hardware=CPU)
    splits = open_splits(own.config.data)
    used = {split.name(index) for split in (splits.train, splits.validation) for index in range(len(split))}
    expected = sum(str(file) in used for file in sorted(folder.rglob("*.jpg"))[1::2])
    assert 0 < expected < 24
    assert score.used_in_training == expected
    assert score.warnings == [
        f"{expected} of 48 images were used to train or select this network: the figures are too good for new images"
    ]


def test_where_the_runs_images_are_gone_nothing_is_claimed(own, folder, photos):
    away = folder.rename(folder.with_name("moved"))
    try:
        assert ffvit.evaluate(own.path, photos / "val", hardware=CPU).used_in_training is None
        with pytest.raises(ffvit.UserError, match="there is no 'photos'"):
            ffvit.evaluate(own.path, hardware=CPU)
    finally:
        away.rename(folder)


def test_other_classes_than_it_was_trained_on_are_refused(own, folder):
    sky = (folder / "sky").rename(folder / "skies")
    try:
        with pytest.raises(ffvit.UserError, match="has other classes now than"):
            ffvit.evaluate(own.path, hardware=CPU)
    finally:
        sky.rename(folder / "sky")


def test_weights_without_a_run_need_images(run):
    with pytest.raises(
        ffvit.UserError, match="do not lie in a run folder, which would say what to test on: give --data"
    ):
        ffvit.evaluate(ffvit.load(run.path), hardware=CPU)


def test_the_size_of_a_batch_moves_no_answer(run, whole):
    score = ffvit.evaluate(run.path, hardware=CPU, batch_size=50)
    np.testing.assert_array_equal(score.predictions.predicted, whole.predictions.predicted)
    np.testing.assert_allclose(score.predictions.loss, whole.predictions.loss, rtol=1e-4, atol=1e-5)


def test_a_network_without_names_for_its_classes_takes_the_sources_in_natural_order(tmp_path):
    for number in (10, 2, 1):
        (tmp_path / f"class{number}").mkdir()
        PIL.Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"class{number}" / "0.png")
    network = ffvit.create_model("ff_micro_patch2_8", num_classes=3)
    score = ffvit.evaluate(network, tmp_path, hardware=CPU)
    assert score.predictions.classes == ("0", "1", "2")
    assert [Path(name).parent.name for name in score.names] == ["class1", "class10", "class2"]
    assert score.predictions.labels.tolist() == [0, 2, 1]
