"""The patches that speak for an answer: how the answer changes as each of them is covered.

Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, section 4.2. It asks the network itself, so it
is exact, and holds for every network and engine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from scipy.special import logit, softmax

from ffvit.config.preprocess import Preprocess
from ffvit.data.jpeg import Pixels
from ffvit.insight.image.patches import grid_side, patch_numbers


@dataclass(frozen=True)
class Occlusion:
    """What covering each patch does to one class.

    Attributes:
        class_index: The class.
        probability: Of the class, for the whole image.
        covered: The same with each patch covered, row by row.
        evidence: By how much the log-odds of the class fall as a patch is covered, in nats: above 0, it speaks for it.
    """

    class_index: int
    probability: float
    covered: list[list[float]]
    evidence: list[list[float]]


def covered(pixels: Pixels, preprocess: Preprocess) -> UInt8[np.ndarray, "images height width channels"]:
    """The image, and behind it the image with each patch in turn covered by the mean colour."""
    height, width = pixels.shape[:2]
    side = grid_side(height, width)
    colour = np.round(255 * np.array(preprocess.mean)).astype(np.uint8)
    number = np.arange(-1, side * side)[:, None, None, None]  # -1: nothing is covered
    return np.where(patch_numbers(height, width, side, side)[:, :, None] == number, colour, pixels)


def occlusion(logits: Float32[np.ndarray, "images classes"], temperature: float, class_index: int | None) -> Occlusion:
    """What the logits of `covered` images say.

    Args:
        logits: Of the image, then of it with each patch covered.
        temperature: What logits are divided by.
        class_index: The class. Default: the likeliest one of the whole image.
    """
    shares = softmax(logits.astype(np.float64) / temperature, axis=1)
    index = int(shares[0].argmax()) if class_index is None else class_index
    probability = shares[:, index]
    odds = logit(np.clip(probability, 1e-12, 1 - 1e-12))
    side = round((len(logits) - 1) ** 0.5)
    return Occlusion(
        index,
        float(probability[0]),
        probability[1:].reshape(side, side).tolist(),
        (odds[0] - odds[1:]).reshape(side, side).tolist(),
    )
