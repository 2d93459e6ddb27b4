from __future__ import annotations

import io
import json
import pkgutil

import numpy as np
import pytest
import timm.data
import torch
from rich.console import Console
from timm.data import ImageNetInfo

import ffvit
from ffvit.data.splits import open_images
from ffvit.errors import DataError
from ffvit.inference.predictions import Predictions
from ffvit.inference.robustness_report import robustness_report
from ffvit.inference.shift import _places, score_real
from untrained import CPU, network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The first digits that are 3 or 7, and two images of a class that the network does not know."""
    images, folder = open_images("digits", None, None), tmp_path_factory.mktemp("shift")
    for index in np.flatnonzero(np.isin(images.labels, (3, 7)))[:12].tolist():
        file = folder / str(images.labels[index]) / f"{index:04d}.png"
        file.parent.mkdir(exist_ok=True)
        images.read(index).save(file)
    (folder / "ten").mkdir()
    for index in range(2):
        images.read(index).save(folder / "ten" / f"{index}.png")
    return folder


def test_logits_of_absent_classes_are_left_out(folder):
    net = network(0)
    score = ffvit.evaluate(net, "digits", hardware=CPU, shift=str(folder), reference=network(1))
    (shift,) = score.shifts
    labels = score.predictions.labels
    of_both = np.isin(labels, (3, 7))
    usual = np.array([3, 7])[score.predictions.logits[of_both][:, [3, 7]].argmax(axis=1)] == labels[of_both]
    np.testing.assert_array_equal(shift.usual, usual)
    assert len(shift.correct) == 12
    files = [path.stem for name in "37" for path in sorted((folder / name).iterdir())]
    places = [np.flatnonzero(of_both).tolist().index(int(stem)) for stem in files]
    np.testing.assert_array_equal(shift.correct, usual[places])  # the same images, as files
    assert shift.change.value == pytest.approx(shift.correct.mean() - usual.mean())
    assert shift.notes == (
        f"{folder} has 2 of the network's 10 classes: the logits of the other 8 are left out, here and for the usual "
        "images of these classes",
        f"2 images of {folder} are left out, whose classes the network does not know: 'ten'",
    )
    assert not net.training or all(module.training for module in net.modules())
    figures = score.to_dict("a", "b")["shift"][0]
    assert figures["images"] == 12
    assert figures["less_reference"]["value"] == shift.less(score.reference.shifts[0]).value
    console = Console(file=io.StringIO(), width=80)
    console.print(robustness_report(score, "a", "b"))
    text = " ".join(console.file.getvalue().split())
    assert "the logits of the other 8 are left out" in text


def test_a_folder_of_unknown_classes_is_refused(folder):
    with pytest.raises(
        DataError, match=r"shift: .*: the network knows none of its classes, '3', '7', 'ten' \(it knows 2"
    ):
        ffvit.evaluate(network(0, "ab"), _two(folder), hardware=CPU, shift=[folder])


def _two(folder):
    images = folder.parent / "ab"
    for name, source in (("a", "3"), ("b", "7")):
        (images / name).mkdir(parents=True, exist_ok=True)
        (images / name / "x.png").write_bytes(next((folder / source).iterdir()).read_bytes())
    return images


def test_classes_are_known_by_name_and_imagenets_by_number():
    wordnet = ImageNetInfo().label_names()
    assert _places([wordnet[7], wordnet[900]], wordnet) == {wordnet[7]: 7, wordnet[900]: 900}
    assert _places(["10", "2"], wordnet) == {"10": 10, "2": 2}
    assert _places(["2", "10"], ("cat", "dog", "emu")) == {}


def test_real_labels_are_sets():
    labels = json.loads(pkgutil.get_data(timm.data.__name__, "_info/imagenet_real_labels.json"))
    several = next(number for number, real in enumerate(labels) if len(real) > 1)
    none = next(number for number, real in enumerate(labels) if not real)
    numbers = [several, none, several]
    predicted = torch.tensor([labels[several][1], 0, min(set(range(1000)) - set(labels[several]))])
    logits = torch.nn.functional.one_hot(predicted, 1000).float()
    original = torch.tensor([labels[several][0], 0, labels[several][0]])
    predictions = Predictions.of(logits, original, ImageNetInfo().label_names())
    names = [f"val/x/ILSVRC2012_val_{number + 1:08d}.JPEG" for number in numbers]
    real = score_real(predictions, names)
    assert real.correct.tolist() == [True, False]
    assert real.usual.tolist() == [False, False]
    assert real.change.value == 0.5
    assert real.notes == ("1 images are left out, which have no label of ReaL's",)
    with pytest.raises(DataError, match=r"real has labels of ImageNet's validation images, .*; these are 'a', 'b'"):
        score_real(predictions, ["a", "b", "c"])
    with pytest.raises(DataError, match="real has labels of ImageNet-1k's 1,000 WordNet ids"):
        score_real(Predictions.of(logits[:, :3], torch.tensor([0, 1, 2]), "abc"), names)
