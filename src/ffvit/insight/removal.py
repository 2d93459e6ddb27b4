"""The patches whose removal changes the answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64


@dataclass(frozen=True)
class Removal:
    """The fewest patches that change the predicted class when they are covered in the order of an attribution.

    Attributes:
        method: Whose order it is.
        patches: Row and column of each patch that was covered, in order; all of them if the answer never changes.
        becomes: The class that is predicted then; None if the answer never changes.
        probabilities: Of the class that was predicted at first, with 0, 1, 2, ... patches covered.
        total: How many patches the image has.
        random_counts: How many patches it takes in each random order; `total` if the answer never changes.
    """

    method: str
    patches: tuple[tuple[int, int], ...]
    becomes: int | None
    probabilities: Float64[np.ndarray, " steps"]
    total: int
    random_counts: tuple[int, ...]

    @property
    def random_mean(self) -> float:
        """The mean number of patches that it takes in random order."""
        return float(np.mean(self.random_counts))
