"""What each patch of an image adds to the logit of a class, by several methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64, Int64

from ffvit.errors import ModelError
from ffvit.hardware.precision import float32
from ffvit.inference.exported import check_packages
from ffvit.insight.image.attention_rollout import attention_rollout
from ffvit.insight.image.patches import PatchedImage, own_grid, patch_numbers, spread

Method = Literal["integrated gradients", "gradient x input", "occlusion", "attention rollout"]

GRADIENT_BATCH = 8
"""Images at once whose gradients are computed; FF-base keeps about 70 MB of each."""


@dataclass(frozen=True)
class Attribution:
    """What speaks for a class, by one method.

    Attributes:
        method: Its name.
        pixels: What each pixel adds, summed over channels. A method that knows patches alone spreads each over its pixels.
        patches: The sum over the pixels of each patch. Above 0, the patch speaks for the class.
        error: Of integrated gradients, the sum of all less what it should be: the logit of the image less that of an
            image of the mean colour alone. None for other methods, which promise no sum.
    """

    method: Method
    pixels: Float64[np.ndarray, "height width"]
    patches: Float64[np.ndarray, "rows columns"]
    error: float | None = None

    @property
    def order(self) -> Int64[np.ndarray, " patches"]:
        """The numbers of the patches, from the one that speaks most for the class to the one that speaks most against it."""
        return np.argsort(-self.patches.ravel(), kind="stable")


def check_captum() -> None:
    """Make sure that Captum, which computes the gradients' attributions, is installed.

    Raises:
        MissingPackageError: It is not.
    """
    check_packages(("captum",), "insight", "explaining an image")


def attributions(image: PatchedImage, class_index: int, steps: int = 16) -> tuple[Attribution, ...]:
    """What speaks for a class, by each method that the network allows.

    The class's logit is attributed. The baseline is an image of the mean colour alone.

    Args:
        image: The image.
        class_index: The class.
        steps: Of integrated gradients.

    Raises:
        MissingPackageError: Captum is not installed.
        ModelError: Logits or gradients are not finite.
    """
    found = [
        integrated_gradients(image, class_index, steps),
        gradient_times_input(image, class_index),
        occlusion(image, class_index),
    ]
    weights = attention_rollout(image.network, image.normalized)
    if weights is not None:
        height, width = image.numbers.shape
        grid = own_grid(image.network, height, width)
        assert grid is not None
        pixels = spread(weights, patch_numbers(height, width, *grid))
        found.append(Attribution("attention rollout", pixels, image.summed(pixels)))
    return tuple(found)


def integrated_gradients(image: PatchedImage, class_index: int, steps: int = 16) -> Attribution:
    """The gradient's mean along the line from the baseline to the image, times their difference.

    Sundararajan et al., Axiomatic Attribution for Deep Networks (arXiv 1703.01365), eq. 1; by Gauss-Legendre quadrature.
    """
    check_captum()
    from captum.attr import IntegratedGradients

    images = image.normalized.clone().requires_grad_()
    with float32(image.device):
        values = IntegratedGradients(image.network).attribute(
            images, 0.0, target=class_index, n_steps=steps, internal_batch_size=GRADIENT_BATCH
        )
    pixels = _over_channels(values)
    ends = image.logits(np.array([[False], [True]]).repeat(image.patches, axis=1))[:, class_index]
    return Attribution("integrated gradients", pixels, image.summed(pixels), float(pixels.sum() - (ends[0] - ends[1])))


def gradient_times_input(image: PatchedImage, class_index: int) -> Attribution:
    """The gradient times the difference from the mean colour: exact for a linear network.

    Shrikumar et al., Not Just a Black Box (arXiv 1605.01713), section 3.
    """
    check_captum()
    from captum.attr import InputXGradient

    images = image.normalized.clone().requires_grad_()
    with float32(image.device):
        pixels = _over_channels(InputXGradient(image.network).attribute(images, target=class_index))
    return Attribution("gradient x input", pixels, image.summed(pixels))


def occlusion(image: PatchedImage, class_index: int) -> Attribution:
    """By how much the logit falls as each patch is covered.

    Zeiler and Fergus, Visualizing and Understanding Convolutional Networks (arXiv 1311.2901), section 4.2.
    """
    covered = np.concatenate((np.zeros((1, image.patches), dtype=bool), np.eye(image.patches, dtype=bool)))
    logits = image.logits(covered)[:, class_index]
    patches = logits[0] - logits[1:]
    return Attribution("occlusion", spread(patches, image.numbers), patches.reshape(image.grid))


def _over_channels(values: torch.Tensor) -> Float64[np.ndarray, "height width"]:
    pixels: np.ndarray = values.detach()[0].double().sum(dim=0).cpu().numpy()
    if not np.isfinite(pixels).all():
        raise ModelError(
            "the network's gradients are NaN or infinite: its training diverged, or its weights are damaged"
        )
    return pixels
