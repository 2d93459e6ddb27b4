"""Trivial baselines on a study's images: the largest class, nearest neighbours and logistic regression on pixels.

A network that does not beat them has learned little of the images. They are trained on the training split, their one
setting is chosen on the validation split, and they are scored on the test split, as the runs are.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ffvit.data.decode import typical_side
from ffvit.data.splits import Splits
from ffvit.study.pixels import Pixels, read_pixels

SIDE = 16
"""Pixels to which images are resized; smaller ones keep their own size."""

MOST_TRAINING, MOST_VALIDATION, MOST_TEST = 20_000, 5_000, 10_000
"""At most so many images of each split are looked at, drawn at random: enough for these methods, and bounded in time."""

NEIGHBOURS = (1, 3, 5, 10, 20)
REGULARISATION = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""What is tried on the validation split: the k of the neighbours, scikit-learn's C of the regression (on standardised pixels)."""

ITERATIONS = 100
PRODUCTS = 3e11
"""Steps of the regression at most, and images x pixels x classes x steps at most, so that a thousand classes take minutes."""

PRODUCTS_A_SECOND = 1.5e10
"""Of a processor, for a prediction of the time."""


@dataclass(frozen=True)
class Baseline:
    """What a method without a network predicts for the test images that can be read."""

    name: str
    correct: Bool[np.ndarray, " images"]
    images: tuple[str, ...]  # their names, in the same order
    seconds: float  # without reading the images
    notes: str  # what was chosen, and which images it saw

    @property
    def accuracy(self) -> float:
        """Top-1, from 0 to 1."""
        return float(self.correct.mean())


def measure_baselines(splits: Splits, seed: int) -> tuple[Baseline, ...]:
    """The largest class, k nearest neighbours, and logistic regression: how often each is correct on the test split.

    Args:
        splits: The images of a run.
        seed: Draws the images, where there are more than are used.

    Raises:
        UserError: None of the images of a split can be read.
    """
    side = min(SIDE, typical_side(splits.train))
    train = read_pixels(splits.train, MOST_TRAINING, side, seed)
    test = read_pixels(splits.test, MOST_TEST, side, seed)
    if splits.validation is not None:
        fit, validation = train, read_pixels(splits.validation, MOST_VALIDATION, side, seed)
    else:  # where a run chooses nothing, the setting is chosen on a fifth of the training images
        parts = train_test_split(np.arange(len(train.labels)), test_size=0.2, random_state=seed)
        fit, validation = (Pixels(train.values[part], train.labels[part], ()) for part in parts)
    seen = f"{side} x {side} px"
    for split, images, pixels in (("training", splits.train, train), ("test", splits.test, test)):
        if len(pixels.labels) < len(images):
            seen += f", {len(pixels.labels):,} of {len(images):,} {split} images"

    def baseline(name: str, predicted: Int[np.ndarray, " images"], started: float, notes: str) -> Baseline:
        return Baseline(name, predicted == test.labels, test.names, time.perf_counter() - started, notes)

    started = time.perf_counter()
    largest = int(np.bincount(train.labels).argmax())
    share = f"{splits.classes[largest]}: {np.mean(train.labels == largest):.1%} of the training images"
    baselines = [baseline("largest class", np.full(len(test.labels), largest), started, share)]
    if min(len(np.unique(pixels.labels)) for pixels in (fit, train)) < 2:
        return tuple(baselines)  # nothing to tell apart
    steps = _steps(fit.values.size, len(splits.classes))
    neighbours: dict[float, Any] = {k: KNeighborsClassifier(k, algorithm="brute") for k in NEIGHBOURS}
    regressions = {c: make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=steps)) for c in REGULARISATION}
    for name, setting, models in (
        ("nearest neighbours", "k", {k: model for k, model in neighbours.items() if k <= len(fit.labels)}),
        ("logistic regression", "C", regressions),
    ):
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of steps is bounded on purpose
            scores = {
                value: model.fit(fit.values, fit.labels).score(validation.values, validation.labels)
                for value, model in models.items()
            }
            best = max(scores, key=lambda value: scores[value])
            predicted = models[best].fit(train.values, train.labels).predict(test.values)
        baselines.append(baseline(name, predicted, started, f"{setting} = {best:g}, on {seen}"))
    return tuple(baselines)


def predicted_seconds(splits: Splits, load: float) -> float:
    """About what `measure_baselines` will take, where an image is read in `load` seconds on one core."""
    train, test = min(len(splits.train), MOST_TRAINING), min(len(splits.test), MOST_TEST)
    validation = min(len(splits.validation or ()), MOST_VALIDATION)
    values = train * 3 * min(SIDE, typical_side(splits.train)) ** 2
    steps = _steps(values, len(splits.classes)) * (1 + len(REGULARISATION))
    products = 2 * values * (len(NEIGHBOURS) * validation + test) + 4 * values * len(splits.classes) * steps
    return 1.0 + (train + validation + test) * load + products / PRODUCTS_A_SECOND


def _steps(values: int, classes: int) -> int:
    return int(np.clip(PRODUCTS / (values * classes), 20, ITERATIONS))
