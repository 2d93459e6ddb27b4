"""Whether an image is out of distribution, of none of the classes: by the energy of its logits.

Liu, Wang, Owens and Li, "Energy-based Out-of-distribution Detection" (2020), https://arxiv.org/abs/2010.03759, at
temperature 1. The score takes logits alone, so that every engine and every exported file has it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32
from scipy.special import logsumexp

KEPT = 0.95
"""Share of validation images, at least, that are not said to be of none of the classes (Liu et al., section 4.1)."""


def energy_score(logits: Float32[np.ndarray, "images classes"]) -> Float[np.ndarray, " images"]:
    """The negative energy of each image: the higher, the more it is like the images of the training.

    Liu et al. (2020), equation 4, with the sign turned as in their equation 7.
    """
    score: np.ndarray = logsumexp(logits.astype(np.float64), axis=1)
    return score


def fit_threshold(logits: Float32[np.ndarray, "images classes"]) -> float:
    """The score below which an image is said to be of none of the classes, from the logits of validation images."""
    return float(np.quantile(energy_score(logits), 1 - KEPT, method="lower"))
