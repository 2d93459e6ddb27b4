"""Metrics of a network's predictions, each with its uncertainty."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import inf, sqrt
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from scipy import stats

from ffvit.errors import UserError
from ffvit.inference.calibration import calibration_error, confidence_at, cross_fitted_confidence, fit_temperature
from ffvit.inference.intervals import Proportion
from ffvit.inference.predictions import Predictions


@dataclass(frozen=True)
class Mean:
    """A mean over images of what is never negative, with its 95 % interval by Student's t; one image has none."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Float32[np.ndarray, " images"]) -> Mean:
        """The mean of one value an image."""
        count, value = len(values), values.mean(dtype=np.float64).item()
        if count == 1:
            return cls(value, None, None)
        half = stats.t.ppf(0.975, count - 1).item() * values.std(ddof=1, dtype=np.float64).item() / sqrt(count)
        return cls(value, max(value - half, 0.0), value + half)


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class. All three are None where it has no image; precision also where it was never predicted."""

    name: str
    support: int
    precision: Proportion | None
    recall: Proportion | None
    f1: Proportion | None


@dataclass(frozen=True)
class Confusion:
    """How many images of a class were predicted as another one, and their share of the class's images."""

    label: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All metrics of one network on one set of images. Shares and errors are from 0 to 1, intervals are 95 %.

    Attributes:
        images: How many images could be read.
        top1: Share of images predicted correctly.
        top5: Share of images whose class is among the five highest logits; None with five classes or fewer.
        loss: Mean negative log likelihood, in nats.
        balanced_accuracy: Mean recall of the classes that have images.
        macro_precision: Mean precision of those classes; one that was never predicted counts as 0, as in scikit-learn.
        macro_f1: Mean F1 of those classes.
        calibration_images: How many images the calibration is measured on: those whose logits were kept.
        calibration_error: Expected calibration error of the network as it is; None without logits.
        temperature: What the logits are divided by to calibrate them; None if there were too few to fit it, two.
        temperature_given: Whether the temperature was fitted elsewhere, rather than on these images.
        calibration_error_at_temperature: Expected calibration error at the temperature given. If it was fitted here,
            by cross-fitting instead: each half of the images is judged at the temperature of the other half, so that
            no image judges a temperature it helped to fit.
        per_class: The metrics of each class.
        confusion: How many images of each class (row) were predicted as each class (column).
        worst_pairs: The ten most frequent mistakes, most frequent first.
    """

    images: int
    top1: Proportion
    top5: Proportion | None
    loss: Mean
    balanced_accuracy: float
    macro_precision: float
    macro_f1: float
    calibration_images: int
    calibration_error: float | None
    temperature: float | None
    temperature_given: bool
    calibration_error_at_temperature: float | None
    per_class: tuple[ClassMetrics, ...]
    confusion: Int64[np.ndarray, "label predicted"]
    worst_pairs: tuple[Confusion, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it; the confusion matrix is None over 100 classes, where the worst pairs have to do."""
        confusion = self.confusion.tolist() if len(self.per_class) <= 100 else None
        return {**asdict(self), "confusion": confusion}


def compute_metrics(predictions: Predictions, temperature: float | None = None) -> Evaluation:
    """Compute all metrics of a network's predictions.

    Args:
        predictions: The predictions.
        temperature: The calibration temperature if it was fitted elsewhere, on the validation split for example;
            otherwise one is fitted here.

    Raises:
        UserError: The temperature is not above 0 and finite.
    """
    if temperature is not None and not 0 < temperature < inf:
        raise UserError(f"temperature: must be above 0 and finite; got {temperature}")
    count, classes = len(predictions.labels), predictions.classes
    pairs = np.bincount(predictions.labels * len(classes) + predictions.predicted, minlength=len(classes) ** 2)
    confusion = pairs.reshape(len(classes), len(classes))
    per_class = tuple(_per_class(classes, confusion))
    present = [metrics for metrics in per_class if metrics.support]
    return Evaluation(
        images=count,
        top1=Proportion.of(predictions.correct.sum().item(), count),
        top5=Proportion.of(predictions.in_top5.sum().item(), count) if len(classes) > 5 else None,
        loss=Mean.of(predictions.loss),
        balanced_accuracy=_mean([metrics.recall for metrics in present]),
        macro_precision=_mean([metrics.precision for metrics in present]),
        macro_f1=_mean([metrics.f1 for metrics in present]),
        **_calibration(predictions, temperature),
        per_class=per_class,
        confusion=confusion,
        worst_pairs=tuple(_worst_pairs(classes, confusion)),
    )


def _mean(shares: list[Proportion | None]) -> float:
    return sum(share.value for share in shares if share) / len(shares)


def _calibration(predictions: Predictions, temperature: float | None) -> dict[str, Any]:
    # Before and after are of the same images, those with logits, or the difference would be partly one of images.
    kept, logits = predictions.logits_of, predictions.logits
    labels, correct = predictions.labels[kept], predictions.correct[kept]
    given = temperature is not None
    at_temperature = None
    if temperature is not None and len(kept):
        at_temperature = calibration_error(confidence_at(temperature, logits), correct)
    elif temperature is None and len(kept) > 1:
        temperature = fit_temperature(logits, labels)
        at_temperature = calibration_error(cross_fitted_confidence(logits, labels), correct)
    return {
        "calibration_images": len(kept),
        "calibration_error": calibration_error(predictions.confidence[kept], correct) if len(kept) else None,
        "temperature": temperature,
        "temperature_given": given,
        "calibration_error_at_temperature": at_temperature,
    }


def _per_class(classes: tuple[str, ...], confusion: Int64[np.ndarray, "label predicted"]) -> Iterator[ClassMetrics]:
    counts = confusion.diagonal().tolist(), confusion.sum(axis=1).tolist(), confusion.sum(axis=0).tolist()
    for name, correct, support, predicted in zip(classes, *counts, strict=True):
        yield ClassMetrics(
            name=name,
            support=support,
            precision=Proportion.of(correct, predicted) if support and predicted else None,
            recall=Proportion.of(correct, support) if support else None,
            f1=Proportion.f1(correct, support + predicted - correct) if support else None,
        )


def _worst_pairs(classes: tuple[str, ...], confusion: Int64[np.ndarray, "label predicted"]) -> Iterator[Confusion]:
    mistakes = confusion.copy()
    np.fill_diagonal(mistakes, 0)
    # Stable, so that pairs of equal count stay in the order of the classes.
    for place in np.argsort(-mistakes, axis=None, kind="stable")[:10]:
        label, predicted = divmod(place.item(), len(classes))
        count = mistakes[label, predicted].item()
        if count:
            yield Confusion(classes[label], classes[predicted], count, count / confusion[label].sum().item())
