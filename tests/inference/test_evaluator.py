"""The scorer against a plain loop. Run as a program, this scores the same sets on two processes (see `on_two`)."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import Normalize
from torchvision.transforms.functional import to_tensor

from ffvit.config.architecture import FF_ONLY, Architecture
from ffvit.config.hardware import Hardware
from ffvit.config.preprocess import Preprocess
from ffvit.data.images import ArrayImages, BadImageError, StoredImage
from ffvit.data.transforms import LazyImage, evaluation_transform
from ffvit.errors import UserError
from ffvit.hardware.launch import start_fabric
from ffvit.inference import evaluator
from ffvit.inference.evaluator import PER_IMAGE, Evaluator
from ffvit.inference.predictions import Predictions
from ffvit.models.create import create_model

PREPROCESS = Preprocess(img_size=(8, 10), crop_pct=0.8, interpolation="bilinear")
CLASSES = ("ant", "bee", "cat", "dog", "emu", "fox", "gnu")
SETS = {"even": (24, ()), "odd": (25, ()), "bad": (25, (0, 7, 8, 24)), "one readable": (9, range(1, 9)), "one": (1, ())}


class Some(ArrayImages):
    """Noise, of which some cannot be read."""

    def __init__(self, count: int, bad=()) -> None:
        draws = np.random.default_rng(count)
        arrays = draws.integers(0, 256, (count, 9, 12, 3), dtype=np.uint8)
        super().__init__("some", arrays, draws.integers(len(CLASSES), size=count))
        object.__setattr__(self, "bad", set(bad))

    def read(self, index: int) -> StoredImage:
        if index in self.bad:
            raise BadImageError(self.name(index), "is damaged")
        return super().read(index)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """A second thread costs more than it brings on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network() -> nn.Module:
    torch.manual_seed(0)
    small = Architecture(width=12, depth=1, block=FF_ONLY, img_size=(8, 10), patch=(4, 5), num_classes=len(CLASSES))
    return create_model(small, dropout=0.5)


def scored(images: Some, fabric=None, batch_size: int = 4, advance=lambda _: None, workers: int | None = None):
    net = network()
    fabric = fabric or start_fabric(Hardware(accelerator="cpu", precision="fp32"))
    return Evaluator(fabric, images, PREPROCESS, CLASSES, batch_size, workers)(net, advance)


def by_a_plain_loop(images: Some) -> Predictions:
    net = network().eval()
    transform = evaluation_transform(PREPROCESS)
    normalized = Normalize(PREPROCESS.mean, PREPROCESS.std)
    read = [index for index in range(len(images)) if index not in images.bad]
    with torch.no_grad():
        logits = torch.cat(
            [
                net(normalized(to_tensor(transform(LazyImage(images.read(index), "")).pixels.copy()))[None])
                for index in read
            ]
        )
    return Predictions.of(logits, torch.from_numpy(images.labels[read]), CLASSES)


def assert_same(mine: Predictions, its: Predictions) -> None:
    """Up to the order of sums, which a matrix product chooses by the size of its batch."""
    assert mine.classes == its.classes
    for name in (*PER_IMAGE, "logits", "logits_of"):
        one, other = getattr(mine, name), getattr(its, name)
        assert one.dtype == other.dtype, name
        if one.dtype.kind == "f":
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(one, other, err_msg=name)


@pytest.fixture(scope="module")
def on_two(tmp_path_factory) -> list[dict]:
    """What each of two processes was handed, for every set."""
    out = tmp_path_factory.mktemp("two")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, __file__, out], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [pickle.loads((out / f"{process}.pickle").read_bytes()) for process in (0, 1)]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("batch_size", [4, 256])
def test_answers_are_a_plain_loops(name, batch_size):
    images = Some(*SETS[name])
    answers, bad = scored(images, batch_size=batch_size)
    assert_same(answers, by_a_plain_loop(images))
    assert [each.name for each in bad] == [f"some[{index}]" for index in sorted(images.bad)]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("process", [0, 1])
def test_on_two_processes_each_has_all_answers(on_two, name, process):
    images = Some(*SETS[name])
    answers, bad, seen = on_two[process][name]
    assert_same(answers, by_a_plain_loop(images))
    assert sorted(each.name for each in bad) == sorted(f"some[{index}]" for index in images.bad)
    assert seen == 2 * -(-len(images) // 2)  # all, and one that fills up


def test_on_two_processes_kept_logits_are_those_kept_on_one(on_two, monkeypatch):
    monkeypatch.setattr(evaluator, "KEPT_LOGITS", 60)
    assert_same(on_two[0]["kept"][0], scored(Some(*SETS["bad"]))[0])


def test_on_two_processes_all_say_that_no_image_can_be_read(on_two):
    assert [each["none"] for each in on_two] == [
        "none of the 5 images could be read; the first: some[0]: is damaged"
    ] * 2


def test_of_a_large_set_logits_of_evenly_spaced_images_are_kept(monkeypatch):
    images = Some(25, bad=(3, 4))
    whole = by_a_plain_loop(images)
    monkeypatch.setattr(evaluator, "KEPT_LOGITS", 60)  # 25 x 7 are three times that: every third image
    answers, _ = scored(images)
    spaced = [index for index in range(0, 25, 3) if index != 3]
    read = [index for index in range(25) if index not in (3, 4)]
    kept = [read.index(index) for index in spaced]
    assert answers.logits_of.tolist() == kept
    np.testing.assert_allclose(answers.logits, whole.logits[kept], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(answers.loss, whole.loss, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(answers.labels[answers.logits_of], images.labels[spaced])
    assert answers.logits.size <= 60


def test_a_set_without_a_readable_image_is_refused():
    with pytest.raises(UserError, match=r"none of the 3 images could be read; the first: some\[0\]: is damaged"):
        scored(Some(3, bad=range(3)))


@pytest.mark.parametrize("training", [True, False])
def test_the_network_keeps_its_mode_and_gradients(training):
    net = network().train(training)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    net.head.register_forward_hook(lambda *_: tracked.append(torch.is_grad_enabled()))
    tracked: list[bool] = []
    Evaluator(start_fabric(Hardware(accelerator="cpu", precision="fp32")), Some(5), PREPROCESS, CLASSES, 4)(net)
    assert net.training == net.blocks[0].training == training
    assert tracked == [False, False]
    assert net.head.weight.requires_grad
    assert net.head.weight.grad.eq(1).all()


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_scores_are_in_float32_whatever_the_precision_of_training(precision):
    answers, _ = scored(Some(25), start_fabric(Hardware(accelerator="cpu", precision=precision)))
    expected, _ = scored(Some(25))
    np.testing.assert_array_equal(answers.logits, expected.logits)


@pytest.mark.parametrize(("kept", "times"), [(25 * 3 * 8 * 10, 1), (25 * 3 * 8 * 10 - 1, 2)])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_small_set_is_loaded_once_however_often_it_is_scored(monkeypatch, kept, times, workers):
    monkeypatch.setattr(evaluator, "KEPT_IMAGES", kept)
    loads: list[int] = []
    load = evaluator.evaluation_loader
    monkeypatch.setattr(evaluator, "evaluation_loader", lambda *arguments: Counted(load(*arguments), loads))
    images, net = Some(*SETS["bad"]), network()
    scores = Evaluator(
        start_fabric(Hardware(accelerator="cpu", precision="fp32")), images, PREPROCESS, CLASSES, 4, workers
    )
    (first, bad), (second, bad_again) = scores(net), scores(net)
    assert sum(loads) == times
    assert [str(each) for each in bad] == [str(each) for each in bad_again]
    for name in (*PER_IMAGE, "logits", "logits_of"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def with_statistics(mean: float) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 8 * 10, len(CLASSES)))
    net[0].running_mean.fill_(mean)
    return net


def test_all_processes_score_with_the_first_ones_statistics(on_two):
    """Each gathers its own while training; those that are saved are the first one's."""
    fabric = start_fabric(Hardware(accelerator="cpu", precision="fp32"))
    expected, _ = Evaluator(fabric, Some(24), PREPROCESS, CLASSES, 4)(with_statistics(0.0))
    for of_process in on_two:
        np.testing.assert_allclose(of_process["statistics"].logits, expected.logits, rtol=1e-4, atol=1e-5)


class Counted:
    def __init__(self, loader, times: list[int]) -> None:
        self.loader, self.times = loader, times

    def __iter__(self):
        self.times.append(1)
        return iter(self.loader)


def test_progress_is_told_batch_by_batch():
    seen: list[int] = []
    scored(Some(10), advance=seen.append)
    assert seen == [4, 4, 2]


def main(out: Path) -> None:
    fabric = start_fabric(Hardware(accelerator="cpu", devices=2, precision="fp32"))
    got = {}
    for name, (count, bad) in SETS.items():
        seen: list[int] = []
        answers, unread = scored(Some(count, bad), fabric, advance=seen.append)
        got[name] = (answers, unread, sum(seen))
    try:
        scored(Some(5, range(5)), fabric)
    except UserError as error:
        got["none"] = str(error)
    got["statistics"], _ = Evaluator(fabric, Some(24), PREPROCESS, CLASSES, 4)(with_statistics(fabric.global_rank))
    evaluator.KEPT_LOGITS = 60
    got["kept"] = scored(Some(*SETS["bad"]), fabric)
    (out / f"{fabric.global_rank}.pickle").write_bytes(pickle.dumps(got))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
