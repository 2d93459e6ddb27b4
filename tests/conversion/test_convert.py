"""`ffvit convert`, from the command line to a run folder."""

from __future__ import annotations

import json
import shutil
import signal
from unittest import mock

import numpy as np
import pytest
import torch
from scipy.stats import entropy

import ffvit
from commands import here
from ffvit.config.architecture import Architecture, transformer
from ffvit.config.recipe import RECIPES
from ffvit.conversion import convert as conversion
from ffvit.conversion import layerwise
from ffvit.conversion.branches import attention_places
from ffvit.conversion.order import divergence, fit_each, greedy_order
from ffvit.conversion.record import read_record
from ffvit.errors import RequeueError, UserError
from ffvit.inference.predictions import Predictions
from ffvit.models.weights import load
from ffvit.signals import stop_error
from ffvit.terminal import Terminal

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = ffvit.Hardware(accelerator="cpu", precision="fp32", workers=0)
SHORT = ("--workers", 0, "--precision", "fp32", "--batch-size", 256, "--images", 200, "--quiet")


@pytest.fixture(scope="module", autouse=True)
def _few_steps():
    """What is tested here does not ask for good fits."""
    with mock.patch.object(layerwise, "STEPS", 20):
        yield


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A trained ViT of three blocks."""
    out = tmp_path_factory.mktemp("trained") / "vit"
    network = Architecture(
        width=24, depth=3, block=transformer(heads=2), img_size=8, patch=2, in_chans=1, readout="mean", position="vectors",
        position_std=0.5, init="pytorch",
    )  # fmt: skip
    recipe = RECIPES["digits"].replace(epochs=3, warmup_epochs=0.5, lr=4e-3)
    return ffvit.train(network, "digits", recipe, out=out, hardware=CPU, loggers=())


@pytest.fixture(scope="module")
def converted(vit, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "out"
    result = here("convert", vit.path, "--out", out, "--max-loss", 100, *SHORT)
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_the_whole_curve_with_both_controls_ends_in_a_run_folder_without_attention(vit, converted):
    out, printed = converted
    record = read_record(out)
    assert [(step.arm, step.left) for step in record.steps] == [
        (arm, left) for left in (2, 1, 0) for arm in ("static", "removed", "refitted attention")
    ]
    assert sorted(block for block, _ in record.order) == [0, 1, 2]
    assert record.chosen == record.of_arm("static")[-1]
    network = load(out)
    assert attention_places(network) == []
    assert ffvit.evaluate(out, hardware=CPU).evaluation.top1.value == record.chosen.measured.test.value
    assert "*0" in printed
    assert f"{100 * record.chosen.measured.test.value:.1f}" in printed
    assert (out / "conversion.png").stat().st_size > 10_000
    original = ffvit.evaluate(vit.path, hardware=CPU).evaluation.top1.value
    assert record.original.test.value == original
    assert len(record.costs) == 4
    assert record.costs[0].parameters > record.costs[1].parameters > record.costs[3].parameters
    assert [attention_places(load(out / step.run)) for step in record.of_arm("removed")][-1] == []
    assert len(attention_places(load(out / record.of_arm("refitted attention")[-1].run))) == 3
    assert "class" in here("predict", out, "--help").stdout


def test_differences_are_those_of_the_predictions_image_by_image(vit, converted):
    record = read_record(converted[0])
    step = record.of_arm("removed")[1]
    ours, theirs = (ffvit.evaluate(path, hardware=CPU).predictions for path in (converted[0] / step.run, vit.path))
    assert step.measured.less_original.value == pytest.approx(ours.correct.mean() - theirs.correct.mean())


def test_a_conversion_that_was_stopped_goes_on_to_the_same_bits(vit, converted, tmp_path, monkeypatch):
    out = tmp_path / "out"
    made, whole = [], conversion.Chain.run

    def stopped(self, step, *given):
        if (step, self.name) == (2, "removed"):
            raise stop_error(signal.SIGTERM, "stopped; resume with: ffvit train")
        made.append((step, self.name))
        return whole(self, step, *given)

    fields = {"out": out, "max_loss": 100, "hardware": CPU, "recipe": {"batch_size": 256}, "images": 200}
    with monkeypatch.context() as patch:
        patch.setattr(conversion.Chain, "run", stopped)
        with pytest.raises(RequeueError, match=f"^stopped; finished steps are kept: .* --out {out} --resume$"):
            ffvit.convert(vit.path, **fields)
    assert len(made) == 4
    before = (out / "steps" / "static-02" / "best.safetensors").stat().st_mtime_ns
    with pytest.raises(UserError, match="begun with other weights, images or options"):
        ffvit.convert(vit.path, **fields, seed=1, resume=True)
    record = ffvit.convert(vit.path, **fields, resume=True)
    assert (out / "steps" / "static-02" / "best.safetensors").stat().st_mtime_ns == before
    reference = read_record(converted[0])
    assert record.steps == reference.steps
    assert record.layers == reference.layers
    for step in record.steps:
        files = [folder / step.run / "last.safetensors" for folder in (out, converted[0])]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_it_stops_where_more_is_lost_than_allowed(vit, tmp_path, monkeypatch):
    lost = iter([0.5, 3.0, 3.0, 3.0])
    monkeypatch.setattr("ffvit.conversion.record.Conversion.lost", lambda *_: next(lost, 3.0))
    monkeypatch.setattr(conversion, "CONTROLS", {})
    out = tmp_path / "out"
    record = ffvit.convert(
        vit.path, out=out, replacement="pooling", hardware=CPU, recipe={"batch_size": 256}, images=50, max_loss=1.0
    )
    assert [step.left for step in record.steps] == [2, 1]


def test_what_cannot_be_used_is_said_before_anything_is_written(vit, converted, tmp_path):
    refused = here("convert", vit.path, "--out", converted[0], *SHORT)
    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr
    few = here("convert", vit.path, "--out", tmp_path / "a", "--images", 5)
    assert (few.returncode, "needs 14 training images" in few.stderr) == (2, True)
    other = tmp_path / "images"
    for name in "xy":
        (other / "train" / name).mkdir(parents=True)
        for number in range(20):
            shutil.copy(_png(tmp_path), other / "train" / name / f"{number}.png")
    foreign = here("convert", vit.path, "--data", other, "--out", tmp_path / "b")
    assert (foreign.returncode, "class 'x', which the network does not know" in foreign.stderr) == (2, True)
    alone = tmp_path / "alone.safetensors"
    shutil.copy(vit.best_file, alone)
    assert "give --data" in here("convert", alone).stderr
    assert "--resume needs" in here("convert", vit.path, "--resume").stderr
    (tmp_path / "empty").mkdir()
    nothing = here("convert", vit.path, "--out", tmp_path / "empty", "--resume")
    assert (nothing.returncode, "holds no conversion.json, so there is nothing" in nothing.stderr) == (2, True)
    unsplit = here("convert", vit.path, "--data.validation", 0, "--out", tmp_path / "c")
    assert (unsplit.returncode, "no validation split: the order of the layers" in unsplit.stderr) == (2, True)
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "b").exists()


def test_a_folder_of_a_conversion_is_replaced_and_one_with_files_of_ones_own_is_not(vit, converted, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(converted[0], out)
    (out / "notes.txt").write_text("mine")
    refused = here("convert", vit.path, "--out", out, "--overwrite", *SHORT)
    assert (refused.returncode, "notes.txt" in refused.stderr) == (2, True)
    assert (out / "steps").is_dir()
    (out / "notes.txt").unlink()
    damaged = json.loads((out / "conversion.json").read_text())
    damaged["order"] = "?"
    (out / "conversion.json").write_text(json.dumps(damaged, indent=2))
    assert "is damaged (order" in here("convert", vit.path, "--out", out, "--resume", *SHORT).stderr


@torch.no_grad()
def test_layers_are_replaced_in_the_order_of_what_they_cost(vit):
    """A layer whose maps never change costs nothing; one whose output is large costs most."""
    network = load(vit.path)
    for block, size in enumerate((4.0, 1.0, 8.0)):
        mixer = network.blocks[block][0].mixer
        mixer.qkv.weight[:48] *= 0.0 if block == 1 else 4.0
        mixer.qkv.bias[:48] *= 0.0
        mixer.proj.weight *= size if block == 2 else 1.0
    images = torch.randn(64, 1, 8, 8)
    places = attention_places(network)

    labels = torch.zeros(64, dtype=torch.long)

    def score(changed):
        return Predictions.of(changed(images), labels, tuple("0123456789"))

    fitted = fit_each(network, places, "static", lambda: [images])
    order = greedy_order(network, fitted, score(network), score, Terminal())
    alone = [divergence(score(network).logits, _with(network, fitted, place, score)) for place in places]
    assert order[0] == places[1]
    assert alone[1] < 1e-6 < min(alone[0], alone[2])
    assert (
        fitted[places[1]].static_share > 1 - 1e-6 > max(fitted[places[0]].static_share, fitted[places[2]].static_share)
    )


def _with(network, fitted, place, score):
    from ffvit.conversion.branches import mixers_in

    with mixers_in(network, [(place, fitted[place].mixer)]):
        return score(network).logits


def test_divergence_is_scipys():
    draws = np.random.default_rng(0)
    one, two = draws.normal(size=(2, 6, 5)).astype(np.float32)
    shares = [np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True) for logits in (one, two)]
    assert divergence(one, two) == pytest.approx(entropy(*shares, axis=1).mean(), rel=1e-5)


def _png(folder):
    from PIL import Image

    path = folder / "pixels.png"
    Image.new("L", (8, 8)).save(path)
    return path
