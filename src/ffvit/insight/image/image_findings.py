"""What a network sees in one image: the classes it predicts, what speaks for one, and what would change the prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.special import softmax
from torch import nn

from ffvit.config.preprocess import Preprocess
from ffvit.data.jpeg import Pixels
from ffvit.errors import ModelError, UserError
from ffvit.inference.evaluator import evaluation_mode
from ffvit.insight.image.attribution import Attribution, attributions, check_captum, integrated_gradients
from ffvit.insight.image.patches import PatchedImage, device_of
from ffvit.insight.image.removal import Removal, removal


@dataclass(frozen=True)
class ImageFindings:
    """What a network sees in one image.

    Attributes:
        pixels: The image as the network is given it, in levels 0 to 255.
        class_names: In the order of the logits.
        probabilities: Of each class, of logits divided by the temperature.
        predicted: Index of the likeliest class.
        class_index: Index of the class that is explained: the predicted one, or as asked.
        attributions: What speaks for it, by each method: integrated gradients, gradient x input, occlusion, and for
            networks with attention maps over patches attention rollout.
        removal: The patches whose removal changes the prediction, in the order of the integrated gradients of the predicted
            class.
    """

    pixels: Pixels
    class_names: tuple[str, ...]
    probabilities: Float64[np.ndarray, " classes"]
    predicted: int
    class_index: int
    attributions: tuple[Attribution, ...]
    removal: Removal

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = self.attributions[0].patches.shape
        return rows, columns


def image_findings(
    network: nn.Module,
    preprocess: Preprocess,
    pixels: Pixels,
    class_names: tuple[str, ...],
    *,
    class_index: int | None = None,
    steps: int = 16,
    random_orders: int = 3,
    temperature: float = 1.0,
    seed: int = 0,
) -> ImageFindings:
    """What a network sees in one image.

    It takes 3 times `steps` predictions for integrated gradients (a backward pass counts two), one a patch for occlusion,
    and up to one a patch for the removal and for each random order.

    Args:
        network: Any classifier, on the device where it is to compute.
        preprocess: How its images are prepared.
        pixels: An image that is prepared (`Predictor.prepare`), in levels 0 to 255.
        class_names: In the order of the logits.
        class_index: The class to explain. Default: the predicted one.
        steps: Of integrated gradients.
        random_orders: With how many the removal of patches is compared.
        temperature: What logits are divided by for probabilities.
        seed: Of the random orders.

    Raises:
        MissingPackageError: Captum is not installed.
        DataError: The image has another size or other channels.
        ModelError: The logits or gradients are not finite, or of another number of classes.
        UserError: There is no class of this index.
    """
    check_captum()
    with evaluation_mode(network, device_of(network)):
        image = PatchedImage(network, preprocess, pixels)
        logits = image.logits(np.zeros((1, image.patches), dtype=bool))[0]
        if len(logits) != len(class_names):
            raise ModelError(f"the network has {len(logits)} classes, but {len(class_names)} names were given")
        predicted = int(logits.argmax())
        index = predicted if class_index is None else class_index
        if not 0 <= index < len(logits):
            raise UserError(f"class_index: must be 0 to {len(logits) - 1}; got {index}")
        found = attributions(image, index, steps)
        of_predicted = found[0] if index == predicted else integrated_gradients(image, predicted, steps)
        removed = removal(
            image,
            of_predicted.order,
            of_predicted.method,
            random_orders=random_orders,
            temperature=temperature,
            seed=seed,
        )
    return ImageFindings(pixels, class_names, softmax(logits / temperature), predicted, index, found, removed)
