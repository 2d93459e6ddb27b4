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
    """What a method without a network predicts.

    Attributes:
        name: What it is.
        correct: Whether it predicts each test image's class.
        images: The names of those images, in the same order; those that cannot be read are left out.
        seconds: What it took, without reading the images.
        notes: What was chosen, and which images it saw.
    """

    name: str
    correct: Bool[np.ndarray, " images"]
    images: tuple[str, ...]
    seconds: float
    notes: str

    @property
    def accuracy(self) -> float:
        """Top-1, from 0 to 1."""
        return float(self.correct.mean())


def measure_baselines(splits: Splits, seed: int) -> tuple[Baseline, ...]:
    """The largest class, k nearest neighbours, and logistic regression: how often each is right on the test split.

    Args:
        splits: The images of a run.
        seed: Draws the images, where there are more than are looked at.

    Raises:
        UserError: None of the images of a split can be read.
    """
    side = min(SIDE, typical_side(splits.train))
    train = read_pixels(splits.train, MOST_TRAINING, side, seed)
    test = read_pixels(splits.test, MOST_TEST, side, seed)
    if splits.validation is not None:
        fit, validation = train, read_pixels(splits.validation, MOST_VALIDATION, side, seed)
    else:
        fit, validation = _without_validation(train, seed)
    seen = f"{side} x {side} px"
    for split, images, pixels in (("training", splits.train, train), ("test", splits.test, test)):
        if len(pixels.labels) < len(images):
            seen += f", {len(pixels.labels):,} of {len(images):,} {split} images"

    began = time.perf_counter()
    largest = int(np.bincount(train.labels).argmax())
    share = f"{splits.classes[largest]}: {np.mean(train.labels == largest):.1%} of the training images"
    found = [_baseline("largest class", np.full(len(test.labels), largest), test, began, share)]
    if min(len(np.unique(each.labels)) for each in (fit, train)) < 2:
        return tuple(found)  # nothing to tell apart
    for name, setting, models in (
        ("nearest neighbours", "k", _neighbours(fit)),
        ("logistic regression", "C", _regressions(fit, len(splits.classes))),
    ):
        began = time.perf_counter()
        tried = {value: _fitted(model, fit).score(validation.values, validation.labels) for value, model in models}
        best = max(tried, key=lambda value: tried[value])
        model = _fitted(dict(models)[best], train)
        found.append(_baseline(name, model.predict(test.values), test, began, f"{setting} = {best:g}, on {seen}"))
    return tuple(found)


def _baseline(name: str, predicted: Int[np.ndarray, " images"], test: Pixels, began: float, notes: str) -> Baseline:
    return Baseline(name, predicted == test.labels, test.names, time.perf_counter() - began, notes)


def predicted_seconds(splits: Splits, load: float) -> float:
    """What `measure_baselines` will take, about.

    Args:
        splits: The images of a run.
        load: Seconds in which one of them is read on one core.
    """
    side, sizes = (
        min(SIDE, typical_side(splits.train)),
        (len(splits.train), len(splits.validation or ()), len(splits.test)),
    )
    train, validation, test = (
        min(each) for each in zip(sizes, (MOST_TRAINING, MOST_VALIDATION, MOST_TEST), strict=True)
    )
    values = train * 3 * side**2
    steps = _steps(values, len(splits.classes)) * (1 + len(REGULARISATION))
    products = 2 * values * (len(NEIGHBOURS) * validation + test) + 4 * values * len(splits.classes) * steps
    return 1.0 + (train + validation + test) * load + products / PRODUCTS_A_SECOND


def _steps(values: int, classes: int) -> int:
    return int(np.clip(PRODUCTS / (values * classes), 20, ITERATIONS))


def _neighbours(train: Pixels) -> list[tuple[int | float, Any]]:
    return [(k, KNeighborsClassifier(k, algorithm="brute")) for k in NEIGHBOURS if k <= len(train.labels)]


def _regressions(train: Pixels, classes: int) -> list[tuple[int | float, Any]]:
    steps = _steps(train.values.size, classes)
    return [(c, make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=steps))) for c in REGULARISATION]


def _fitted(model: Any, train: Pixels) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of steps is bounded on purpose
        return model.fit(train.values, train.labels)


def _without_validation(train: Pixels, seed: int) -> tuple[Pixels, Pixels]:
    """Where a run chooses nothing, the setting is chosen on a fifth of the training images."""
    halves = train_test_split(np.arange(len(train.labels)), test_size=0.2, random_state=seed)
    some, others = (Pixels(train.values[its], train.labels[its], ()) for its in halves)
    return some, others
