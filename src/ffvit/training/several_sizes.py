"""Training at several image sizes in turn, which teaches a network to serve all of them."""

from __future__ import annotations

from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ffvit.errors import ModelError
from ffvit.models.description import architecture_in
from ffvit.models.resize import resized_architecture


class SeveralSizes:
    """Resizes each step's images to the next size in turn. Weights over patches are resized with them, by the network.

    Args:
        network: Trained; is told that images of other sizes come.
        scales: Multiples of its image size. Empty: images stay as they are.

    Raises:
        UserError: The network is not one of ffvit's own, or has weights that cannot be resized.
    """

    def __init__(self, network: nn.Module, scales: tuple[float, ...]) -> None:
        architecture = architecture_in(network)
        self.sizes: list[tuple[int, int]] = []
        if not scales:
            return
        if architecture is None:
            raise ModelError("recipe.image_scales: only ffvit's own networks train at several sizes; leave it out")
        for scale in scales:
            sides = zip(architecture.img_size, architecture.patch, strict=True)
            height, width = (max(1, round(side * scale / patch)) * patch for side, patch in sides)
            try:
                resized_architecture(architecture, (height, width))
            except ValueError as error:
                raise ModelError(f"recipe.image_scales: {error}") from None
            self.sizes.append((height, width))
        cast("Any", network).takes_other_sizes = True

    def __call__(
        self, images: Float[Tensor, "batch channels height width"], step: int
    ) -> Float[Tensor, "batch channels new_height new_width"]:
        """Images of the size of a step, which is counted over all epochs."""
        if not self.sizes:
            return images
        size = self.sizes[step % len(self.sizes)]
        if size == tuple(images.shape[2:]):
            return images
        return functional.interpolate(images, size=size, mode="bilinear", antialias=True)
