"""Whether attributions tell what a network reads: its prediction as patches are covered, or uncovered, in their order.

Petsiuk et al., RISE (arXiv 1806.07421), section 4.2: deletion and insertion. Here both end or begin at the mean colour;
there, insertion begins at a blurred image.

The formulas are written out: Quantus, which has them, asks for opencv-python, and that would replace the
opencv-python-headless that ffvit needs. A test compares with Quantus where it is installed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import stats
from scipy.special import softmax
from torch import nn

from ffvit.config.preprocess import Preprocess
from ffvit.data.jpeg import Pixels
from ffvit.errors import DataError
from ffvit.inference.evaluator import evaluation_mode
from ffvit.insight.image.attribution import attributions, check_captum
from ffvit.insight.image.patches import PatchedImage, device_of, first_covered

RANDOM = "random order"


@dataclass(frozen=True)
class MeanDifference:
    """The mean of paired differences over images, with its 95 % interval by Student's t; of one image, NaN for its ends."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, differences: Float64[np.ndarray, " images"]) -> MeanDifference:
        """The mean and interval of these."""
        value, images = float(differences.mean()), len(differences)
        if images < 2:
            return cls(value, float("nan"), float("nan"))
        half = float(stats.t.ppf(0.975, images - 1) * differences.std(ddof=1) / np.sqrt(images))
        return cls(value, value - half, value + half)


@dataclass(frozen=True)
class Faithfulness:
    """How faithful a method's attributions are, over a set of images.

    Attributes:
        method: Its name, or `random order`.
        images: How many.
        deletion: Mean area under the deletion curve, 0 to 1: lower is better.
        insertion: Mean area under the insertion curve, 0 to 1: higher is better.
        deletion_gain: By how much random orders have a larger area of deletion: above 0, better than random. None for
            random orders themselves.
        insertion_gain: By how much random orders have a smaller area of insertion, likewise.
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

    def to_dict(self) -> dict[str, Any]:
        """The areas as JSON holds them."""
        gains = {"deletion_gain": self.deletion_gain, "insertion_gain": self.insertion_gain}
        return {
            "method": self.method,
            "images": self.images,
            "deletion": self.deletion,
            "insertion": self.insertion,
            **{name: None if gain is None else asdict(gain) for name, gain in gains.items()},
        }


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
        points: Of a curve, about so many, beside its first.
        steps: Of integrated gradients.
        random_orders: For each image.
        seed: Of the random orders.
        advance: Told of every image that is done: 1.

    Raises:
        MissingPackageError: Captum is not installed.
        DataError: There is no image, or one has another size or other channels.
        ModelError: The logits or gradients are not finite.
    """
    check_captum()
    if not images:
        raise DataError("to measure how faithful attributions are takes an image at least; got none")
    curves: dict[str, list[_Curves]] = defaultdict(list)
    with evaluation_mode(network, device_of(network)):
        for number, pixels in enumerate(images):
            image = PatchedImage(network, preprocess, pixels)
            counts = _counts(image.patches, points)
            whole = image.logits(np.zeros((1, image.patches), dtype=bool))[0]
            predicted = int(whole.argmax())
            for method in attributions(image, predicted, steps):
                covered = first_covered(method.order, counts)
                curves[method.method].append(
                    _Curves(probabilities(image, predicted, covered), probabilities(image, predicted, ~covered))
                )
            curves[RANDOM].append(_random_curves(image, predicted, counts, random_orders, (seed, number)))
            advance(1)
    shares = counts / counts[-1]
    random = curves.pop(RANDOM)
    return tuple(_result(name, of_images, random, shares) for name, of_images in {**curves, RANDOM: random}.items())


class _Curves(NamedTuple):
    """Of one image and one method: probabilities as more and more patches are covered, and as they are uncovered."""

    deletion: Float64[np.ndarray, " points"]
    insertion: Float64[np.ndarray, " points"]


def _counts(patches: int, points: int) -> Int64[np.ndarray, " points"]:
    """Numbers of patches at which a curve is known: evenly spaced, and the same seen from both ends."""
    counts = np.round(np.linspace(0, patches, min(points, patches) + 1)).astype(np.int64)
    return np.unique(np.concatenate((counts, patches - counts)))


def probabilities(
    image: PatchedImage, class_index: int, covered: Bool[np.ndarray, "variants patches"]
) -> Float64[np.ndarray, " variants"]:
    """The probability of a class with patches covered."""
    shares: np.ndarray = softmax(image.logits(covered), axis=1)[:, class_index]
    return shares


def area(curve: Float64[np.ndarray, " points"], shares: Float64[np.ndarray, " points"]) -> float:
    """The area under a curve, by trapezoids."""
    return float(np.trapezoid(curve, shares))


def _random_curves(
    image: PatchedImage,
    class_index: int,
    counts: Int64[np.ndarray, " points"],
    orders: int,
    seed: tuple[int, int],
) -> _Curves:
    """The mean over random orders. The insertion of an order is the deletion of its reverse: one prediction for both."""
    draw = np.random.default_rng(seed)
    covered = np.concatenate([first_covered(draw.permutation(image.patches), counts) for _ in range(orders)])
    deletion = probabilities(image, class_index, covered).reshape(orders, -1).mean(axis=0)
    return _Curves(deletion, deletion[::-1])


def _result(
    method: str, curves: Sequence[_Curves], random: Sequence[_Curves], shares: Float64[np.ndarray, " points"]
) -> Faithfulness:
    deletion, insertion = (np.array([area(curve, shares) for curve in kind]) for kind in zip(*curves, strict=True))
    by_chance = np.array([area(curve.deletion, shares) for curve in random])
    is_random = method == RANDOM
    return Faithfulness(
        method=method,
        images=len(curves),
        deletion=float(deletion.mean()),
        insertion=float(insertion.mean()),
        deletion_gain=None if is_random else MeanDifference.of(by_chance - deletion),
        insertion_gain=None if is_random else MeanDifference.of(insertion - by_chance),
        shares=shares,
        deletion_curve=np.mean([curve.deletion for curve in curves], axis=0),
        insertion_curve=np.mean([curve.insertion for curve in curves], axis=0),
    )
