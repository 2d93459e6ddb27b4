from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import timm
import torch
from rich.console import Console

import ffvit
from ffvit import recipe as recipes
from ffvit.data.config import Data
from ffvit.data.parts import open_parts
from ffvit.evaluation.evaluate import Score
from ffvit.evaluation.ready import ready_to_answer
from ffvit.run import Run

CPU = ffvit.Machine(accelerator="cpu")


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
            recipe=recipes.NAMED["digits"].replace(epochs=2, warmup_epochs=1, batch_size=128),
            machine=CPU,
            out=tmp_path_factory.mktemp("evaluate") / "run",
            console=Console(quiet=True),
        )


@pytest.fixture(scope="session")
def whole(run) -> Score:
    with one_thread():
        return ffvit.evaluate(run.path, machine=CPU)


def write_digits(folder: Path, classes: str, called=str) -> tuple[Path, np.ndarray]:
    """The test part's images of some classes as files, and their places in it, in the order of the files."""
    images = open_parts(Data()).test
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
    assert len(whole.names) == len(whole.answers.labels) == 359


def test_some_of_the_classes_are_matched_by_name(run, whole, tmp_path):
    folder, places = write_digits(tmp_path, "37")
    score = ffvit.evaluate(run.path, folder, machine=CPU)
    assert score.answers.classes == tuple("0123456789")
    assert set(score.answers.labels) == {3, 7}
    np.testing.assert_array_equal(score.answers.labels, whole.answers.labels[places])
    np.testing.assert_array_equal(score.answers.predicted, whole.answers.predicted[places])
    np.testing.assert_allclose(score.answers.loss, whole.answers.loss[places], rtol=1e-4, atol=1e-5)


def test_a_class_the_network_does_not_know_is_named(run, tmp_path):
    write_digits(tmp_path, "37", called={"3": "3", "7": "seven"}.get)
    with pytest.raises(ffvit.UserError, match=r"the network does not know 'seven' \(it knows 10 classes: '0', '1'"):
        ffvit.evaluate(run.path, tmp_path, machine=CPU)


def test_bad_images_are_named_and_left_out(run, whole, tmp_path):
    folder, places = write_digits(tmp_path, "5")
    files = sorted(folder.rglob("*.png"))
    for bad in (0, 4):
        files[bad].write_bytes(b"no image")
    score = ffvit.evaluate(run.path, folder, machine=CPU, batch_size=3)
    assert [each.name for each in score.bad] == [str(files[0]), str(files[4])]
    assert score.names == [str(file) for place, file in enumerate(files) if place not in (0, 4)]
    read = np.delete(places, [0, 4])
    np.testing.assert_array_equal(score.answers.predicted, whole.answers.predicted[read])


def test_images_are_prepared_as_in_the_run(run, whole):
    alone = {"machine": CPU, "crop": 1.0, "interpolation": "bilinear"}  # what the digits recipe says
    np.testing.assert_array_equal(ffvit.evaluate(run.best_file, **alone).answers.logits, whole.answers.logits)
    for other in ({"crop": 0.8}, {"interpolation": "bicubic", "crop": 0.8}):
        changed = ffvit.evaluate(run.path, machine=CPU, **other).answers.logits
        assert not np.allclose(changed, whole.answers.logits)
        np.testing.assert_array_equal(ffvit.evaluate(run.best_file, **alone | other).answers.logits, changed)


def test_the_temperature_is_the_runs(run, whole):
    assert whole.evaluation.temperature is not None
    alone = ffvit.evaluate(run.best_file, machine=CPU, crop=1.0, interpolation="bilinear")
    assert alone.evaluation.temperature != whole.evaluation.temperature
    assert alone.evaluation.top1 == whole.evaluation.top1


def test_a_network_is_scored_as_it_is(run, whole):
    network = ffvit.load(run.path).train()
    score = ffvit.evaluate(network, machine=CPU, crop=1.0, interpolation="bilinear")
    np.testing.assert_array_equal(score.answers.logits, whole.answers.logits)


def test_the_size_of_a_batch_moves_no_answer(run, whole):
    score = ffvit.evaluate(run.path, machine=CPU, batch_size=50)
    np.testing.assert_array_equal(score.answers.predicted, whole.answers.predicted)
    np.testing.assert_allclose(score.answers.loss, whole.answers.loss, rtol=1e-4, atol=1e-5)


def test_a_network_without_names_for_its_classes_takes_the_sources_in_natural_order(tmp_path):
    for number in (10, 2, 1):
        (tmp_path / f"class{number}").mkdir()
        PIL.Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"class{number}" / "0.png")
    network = ffvit.create_model("ff_micro_patch2_8", classes=3)
    score = ffvit.evaluate(network, tmp_path, machine=CPU)
    assert score.answers.classes == ("0", "1", "2")
    assert [Path(name).parent.name for name in score.names] == ["class1", "class10", "class2"]
    assert score.answers.labels.tolist() == [0, 2, 1]


class TestReady:
    def test_a_run(self, run):
        ready = ready_to_answer(run.path)
        assert (ready.crop, ready.interpolation) == (1.0, "bilinear")
        assert ready.temperature == run.summary()["temperature"]
        assert ready.class_names == tuple("0123456789")
        assert not ready.network.training

    def test_a_network_of_timms_has_its_own(self):
        network = timm.create_model("test_vit", num_classes=3).train()
        network.pretrained_cfg |= {"crop_pct": 0.95, "interpolation": "bilinear"}
        ready = ready_to_answer(network)
        assert ready.network is network
        assert not network.training
        assert (ready.crop, ready.interpolation) == (0.95, "bilinear")
        assert (ready.class_names, ready.temperature) == (None, None)

    def test_a_network_that_does_not_say(self):
        network = torch.nn.Linear(1, 1)
        ready = ready_to_answer(network)
        assert (ready.crop, ready.interpolation) == (0.875, "bicubic")
