"""The patches whose removal changes the prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy.special import softmax

from ffvit.insight.image.patches import PatchedImage, first_covered

AT_ONCE = 8
"""Numbers of covered patches that are tried at one time."""


@dataclass(frozen=True)
class Removal:
    """The fewest patches that change the predicted class when they are covered in the order of an attribution.

    Attributes:
        method: Whose order it is.
        patches: Row and column of each patch that was covered, in order; all of them if the prediction never changes.
        becomes: The class that is predicted then; None if the prediction never changes.
        probabilities: Of the class that was predicted at first, with 0, 1, 2, ... patches covered.
        total: How many patches the image has.
        random_counts: How many patches it takes in each random order; `total` if the prediction never changes.
    """

    method: str
    patches: tuple[tuple[int, int], ...]
    becomes: int | None
    probabilities: Float64[np.ndarray, " counts"]
    total: int
    random_counts: tuple[int, ...]

    @property
    def random_mean(self) -> float | None:
        """The mean number of patches that it takes in random order; None if none was tried."""
        return float(np.mean(self.random_counts)) if self.random_counts else None


def removal(
    image: PatchedImage,
    order: Int64[np.ndarray, " patches"],
    method: str,
    *,
    random_orders: int = 3,
    temperature: float = 1.0,
    seed: int = 0,
) -> Removal:
    """Cover patches one after another, until another class is predicted.

    This finds the fewest patches of this order, not of all orders: to try all sets of patches would take too long.

    Args:
        image: The image.
        order: Numbers of the patches, first the one to cover first.
        method: Whose order it is.
        random_orders: Orders that it is compared with. Each takes up to as many predictions as there are patches.
        temperature: What logits are divided by for probabilities.
        seed: Of the random orders.

    Raises:
        ModelError: Logits are not finite.
    """
    draw = np.random.default_rng(seed)
    random = [_until_changed(image, draw.permutation(image.patches)) for _ in range(random_orders)]
    logits = _until_changed(image, order)
    predicted, last = logits[0].argmax(), int(logits[-1].argmax())
    columns = image.grid[1]
    return Removal(
        method,
        tuple(divmod(int(number), columns) for number in order[: len(logits) - 1]),
        last if last != predicted else None,
        softmax(logits / temperature, axis=1)[:, predicted],
        image.patches,
        tuple(len(rows) - 1 for rows in random),
    )


def _until_changed(image: PatchedImage, order: Int64[np.ndarray, " patches"]) -> Float64[np.ndarray, "counts classes"]:
    """The logits with 0, 1, 2, ... patches covered, up to the first that another class is predicted for."""
    parts: list[np.ndarray] = []
    predicted = None
    for start in range(0, image.patches + 1, AT_ONCE):
        counts = np.arange(start, min(start + AT_ONCE, image.patches + 1))
        logits = image.logits(first_covered(order, counts))
        if predicted is None:
            predicted = logits[0].argmax()
        changed = np.flatnonzero(logits.argmax(axis=1) != predicted)
        if len(changed):
            return np.concatenate([*parts, logits[: changed[0] + 1]])
        parts.append(logits)
    return np.concatenate(parts)
