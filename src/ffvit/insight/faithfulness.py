"""Whether attributions tell what a network reads: its answer as patches are covered, or uncovered, in their order.

Petsiuk et al., RISE (arXiv 1806.07421), section 4.2: deletion and insertion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from torch import nn

from ffvit.config.preprocess import Preprocess
from ffvit.data.jpeg import Pixels


@dataclass(frozen=True)
class MeanDifference:
    """The mean of paired differences over images, with its 95 % interval; NaN for the ends of one image."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Faithfulness:
    """How faithful a method's attributions are, over a set of images.

    Attributes:
        method: Its name, or `random order`.
        images: How many.
        deletion: Mean area under the deletion curve, 0 to 1: lower is better.
        insertion: Mean area under the insertion curve, 0 to 1: higher is better.
        deletion_gain: By how much random orders have a larger area of deletion: above 0, better than random.
        insertion_gain: By how much random orders have a smaller area of insertion: above 0, better than random.
        shares: Of the patches, from 0 to 1: where the curves are known.
        deletion_curve: The mean probability of the predicted class with so many patches covered.
        insertion_curve: The same with so many patches uncovered.
    """

    method: str
    images: int
    deletion: float
    insertion: float
    deletion_gain: MeanDifference | None
    insertion_gain: MeanDifference | None
    shares: Float64[np.ndarray, " points"]
    deletion_curve: Float64[np.ndarray, " points"]
    insertion_curve: Float64[np.ndarray, " points"]


def measure_faithfulness(
    network: nn.Module,
    preprocess: Preprocess,
    images: Sequence[Pixels],
    *,
    points: int = 16,
    steps: int = 16,
    random_orders: int = 4,
    seed: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[Faithfulness, ...]:
    """How faithful each method's attributions of the predicted class are; random orders come last.

    Args:
        network: Any classifier, on the device where it is to compute.
        preprocess: How its images are prepared.
        images: Prepared images (`Predictor.prepare`), in levels 0 to 255.
        points: Of a curve, at most, beside its begin.
        steps: Of integrated gradients.
        random_orders: For each image.
        seed: Of the random orders.
        advance: Told of every image that is done: 1.

    Raises:
        MissingPackageError: Captum is not installed.
        DataError: An image has another size or other channels.
        ModelError: The logits or gradients are not finite.
    """
    raise NotImplementedError
