from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from ffvit.inference.calibration import calibration_error, confidence_at, cross_fitted_confidence, fit_temperature


def calibrated(images: int, classes: int = 7, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels that are drawn from just the probabilities they give."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=generator)
    return logits.numpy(), torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0].numpy()


def test_calibration_error_on_paper():
    # Two bins: 0.5 sure and 1 of 4 right, 0.9 sure and 1 of 1 right: (4 * 0.25 + 1 * 0.1) / 5.
    confidence = np.array([0.5, 0.5, 0.5, 0.5, 0.9])
    correct = np.array([True, False, False, False, True])
    assert calibration_error(confidence, correct) == pytest.approx(0.22)


def test_a_confidence_of_one_is_in_the_last_of_fifteen_bins():
    confidence = np.array([1.0, 0.95])
    assert calibration_error(confidence, np.array([False, True])) == pytest.approx(0.975 - 0.5)


def test_calibration_error_agrees_with_torchmetrics_on_all_classes():
    logits, labels = calibrated(997)
    logits = 1.5 * logits
    theirs = multiclass_calibration_error(
        torch.from_numpy(logits), torch.from_numpy(labels), num_classes=7, n_bins=15, norm="l1"
    )
    correct = logits.argmax(axis=1) == labels
    assert calibration_error(confidence_at(1.0, logits), correct) == pytest.approx(theirs.item(), abs=1e-6)


def test_confidence_agrees_with_softmax_and_does_not_overflow():
    logits, _ = calibrated(2500)
    logits[0] *= 1e4
    expected = torch.from_numpy(logits).double().div(0.7).softmax(dim=1).amax(dim=1)
    np.testing.assert_allclose(confidence_at(0.7, logits), expected, rtol=1e-5)


def test_temperature_of_a_calibrated_network_is_one():
    logits, labels = calibrated(20_000)
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=0.03)


def test_temperature_on_paper():
    # Logits 3 and 0, right in 3 of 4: the likelihood is highest where softmax gives 3 / 4, at 3 / T = log 3.
    logits = np.array([[3, 0]] * 4, dtype=np.float32)
    assert fit_temperature(logits, np.array([0, 0, 0, 1])) == pytest.approx(3 / np.log(3), rel=1e-3)


@settings(max_examples=20)
@given(st.floats(0.1, 10))
def test_scaled_logits_scale_the_temperature(factor: float):
    logits, labels = calibrated(500)
    scaled = fit_temperature(np.float32(factor) * logits, labels)
    # Brent's method stops within 0.001 of log T, and does so twice.
    assert scaled == pytest.approx(factor * fit_temperature(logits, labels), rel=3e-3)


def test_a_calibrated_network_has_little_calibration_error_and_a_sharpened_one_much():
    logits, labels = calibrated(20_000)
    sharp = 3 * logits
    correct = logits.argmax(axis=1) == labels
    assert calibration_error(confidence_at(fit_temperature(sharp, labels), sharp), correct) < 0.015
    assert calibration_error(confidence_at(1.0, sharp), correct) > 0.1


def test_no_image_is_judged_at_a_temperature_it_helped_to_fit():
    logits, labels = calibrated(60)
    before = cross_fitted_confidence(logits, labels)
    worst = logits.argmin(axis=1)
    for image in range(0, 60, 7):
        changed = labels.copy()
        changed[image] = worst[image] if worst[image] != labels[image] else logits[image].argmax()
        moved = cross_fitted_confidence(logits, changed) != before
        assert not moved[image]
        assert moved.sum() == 30
