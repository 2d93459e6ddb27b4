"""Whether an image is of none of the classes, from the run that fits the threshold to what a user is told."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

import ffvit
from ffvit.inference.ood import energy_score, fit_threshold
from ffvit.inference.predict import write_predictions
from ffvit.inference.predictor import Prediction
from ffvit.terminal import Terminal

CPU = ffvit.Hardware(accelerator="cpu", precision="fp32", workers=0)
pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_score_is_the_negative_energy():
    logits = np.array([[1.0, 2.0, -3.0], [500.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(energy_score(logits), [np.log(np.exp([1.0, 2.0, -3.0]).sum()), 500.0])


def test_at_least_95_percent_of_the_validation_images_are_kept():
    logits = np.random.default_rng(0).normal(size=(144, 10)).astype(np.float32)
    below = (energy_score(logits) < fit_threshold(logits)).sum()
    assert below == 7  # of 144; 8 would be more than 5 %
    assert fit_threshold(logits[:3]) == energy_score(logits[:3]).min()


@pytest.fixture(scope="module")
def run(tmp_path_factory, one_thread) -> ffvit.Run:
    recipe = {"base": "digits", "epochs": 1, "warmup_epochs": 0}
    return ffvit.train("ff_micro_patch2_8", recipe=recipe, hardware=CPU, out=tmp_path_factory.mktemp("ood") / "run")


def test_the_threshold_is_fitted_on_validation_images_and_goes_where_the_weights_go(run, tmp_path):
    summary = run.summary()
    threshold = summary["ood_threshold"]
    assert ffvit.load(run.best_file).ood_threshold == threshold
    assert ffvit.load(run.last_file).ood_threshold is None
    assert ffvit.load(run.best_file, num_classes=3).ood_threshold is None
    predictor = ffvit.Predictor(run.path, hardware=CPU)
    logits = ffvit.evaluate(run.path, hardware=CPU).predictions.logits
    assert float((energy_score(logits) < threshold).mean()) == summary["test_none_of_these"]
    assert 0 < summary["test_none_of_these"] < 0.2
    images = np.random.default_rng(0).integers(0, 256, (40, 20, 20, 3), dtype=np.uint8)
    said = [prediction.none_of_these for prediction in predictor(images)]
    assert said == (energy_score(predictor.logits(images)) < threshold).tolist()
    for form, name in (("pt2", "run.pt2"), ("timm", "timm")):
        done = ffvit.export(run.path, format=form, out=tmp_path / name)
        other = ffvit.Predictor(done.path, hardware=CPU)
        assert other.ood_threshold == threshold
        assert [prediction.none_of_these for prediction in other(images[:3])] == said[:3]


def test_without_a_threshold_nothing_is_said(run):
    network = ffvit.load(run.best_file)
    network.ood_threshold = None
    (prediction,) = ffvit.Predictor(network, hardware=CPU)(np.zeros((8, 8), np.uint8))
    assert prediction.none_of_these is None
    for threshold, said in ((np.inf, True), (-np.inf, False)):
        network.ood_threshold = threshold
        (prediction,) = ffvit.Predictor(network, hardware=CPU)(np.zeros((8, 8), np.uint8))
        assert prediction.none_of_these is said


def test_every_output_says_it(capsys):
    predictions = [Prediction(f"{said}.png", ("cat", "dog"), (0.9, 0.1), said) for said in (True, False, None)]
    page = io.StringIO()
    write_predictions(iter(predictions), "table", Terminal(file=page))
    assert page.getvalue().count("probably none of these classes; the nearest:") == 1
    assert page.getvalue().splitlines()[:2] == ["True.png", "  probably none of these classes; the nearest:"]
    write_predictions(iter(predictions), "csv", Terminal(file=page))
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["none_of_these"] for row in rows] == ["yes", "yes", "no", "no", "", ""]
    write_predictions(iter(predictions), "json", Terminal(file=page))
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["none_of_these"] for line in lines] == [True, False, None]


def test_a_threshold_that_is_no_number_is_refused(run, tmp_path):
    network = ffvit.load(run.best_file)
    ffvit.save_weights(tmp_path / "w.safetensors", network, network.class_names, ood_threshold=float("nan"))
    with pytest.raises(ffvit.UserError, match=r"metadata\.ood_threshold"):
        ffvit.load(tmp_path / "w.safetensors")
