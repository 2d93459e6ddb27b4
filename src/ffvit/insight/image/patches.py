"""An image as patches: which pixel belongs to which, and what a network predicts with some of them covered."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import nn

from ffvit.config.preprocess import Preprocess
from ffvit.data.jpeg import Pixels
from ffvit.data.loader import NormalizeOnDevice
from ffvit.errors import DataError
from ffvit.hardware.precision import float32
from ffvit.inference.predictor import check_finite
from ffvit.models.backbone import Backbone

SIDES = (7, 8, 6, 5, 4, 3, 2)
"""Patches along each side: the first that divides the image into patches of 2 pixels or more. At most 64 patches."""

MOST_PATCHES = 64
"""Patches at most: each costs a prediction or several. Smaller patches of a network are merged."""

BATCH = 32
"""Images at once."""


def grid_side(height: int, width: int) -> int:
    """Patches along each side, for a network whose patches are not known; 1 if no number divides the image."""
    return next(
        (side for side in SIDES if not height % side and not width % side and min(height, width) >= 2 * side), 1
    )


def patch_numbers(height: int, width: int, rows: int, columns: int) -> Int64[np.ndarray, "height width"]:
    """The number of the patch that each pixel belongs to, row by row from 0."""
    row = np.arange(height) * rows // height
    column = np.arange(width) * columns // width
    return row[:, None] * columns + column


def own_grid(network: nn.Module, height: int, width: int) -> tuple[int, int] | None:
    """Rows and columns of the network's own patches; None if it has none, or they do not divide the image."""
    patch: Any
    if isinstance(network, Backbone):
        patch = network.architecture.patch
    else:  # timm's Mixers call their patch embedding a stem
        embeddings = [getattr(network, name, None) for name in ("patch_embed", "stem")]
        patch = next((size for size in (getattr(part, "patch_size", None) for part in embeddings) if size), None)
    if isinstance(patch, int):
        patch = (patch, patch)
    if not isinstance(patch, tuple) or len(patch) != 2 or height % patch[0] or width % patch[1]:
        return None
    return height // patch[0], width // patch[1]


def patch_grid(network: nn.Module, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the patches that are covered: the network's own, merged until there are at most `MOST_PATCHES`.

    A network whose patches are not known gets a grid by the size of the image, as `ffvit serve` covers it.
    """
    grid = own_grid(network, height, width)
    if grid is not None:
        rows, columns = grid
        for merged in range(1, min(rows, columns) + 1):
            if not rows % merged and not columns % merged and rows * columns <= MOST_PATCHES * merged**2:
                if rows * columns > merged**2:
                    return rows // merged, columns // merged
                break
    side = grid_side(height, width)
    if side == 1:  # no number divides it: patches whose sizes differ by a pixel
        side = max(1, min(SIDES[0], height // 2, width // 2))
    return side, side


class PatchedImage:
    """An image that a network predicts with patches covered by the mean colour: 0, once it is normalized.

    Attributes:
        normalized: The image as the network takes it, `1 channels height width`.
        grid: Rows and columns of patches.
        numbers: The patch of each pixel.

    Args:
        network: Any classifier, in evaluation mode, on the device where it is to compute.
        preprocess: How its images are prepared.
        pixels: A prepared image, in levels 0 to 255.

    Raises:
        DataError: The image has another size or other channels than the network takes.
    """

    def __init__(self, network: nn.Module, preprocess: Preprocess, pixels: Pixels) -> None:
        channels, height, width = preprocess.shape
        if pixels.shape != (height, width, channels):
            got = " x ".join(map(str, pixels.shape))
            raise DataError(
                f"the image must be prepared as the network takes it, {height} x {width} x {channels} (height, width, "
                f"channels); got {got}: use Predictor.prepare"
            )
        self.network, self.device = network, device_of(network)
        levels = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].to(self.device)
        self.normalized = NormalizeOnDevice(preprocess).normalized(levels)
        self.grid = patch_grid(network, height, width)
        self.numbers = patch_numbers(height, width, *self.grid)

    @property
    def patches(self) -> int:
        """How many there are."""
        return self.grid[0] * self.grid[1]

    def logits(self, covered: Bool[np.ndarray, "variants patches"]) -> Float64[np.ndarray, "variants classes"]:
        """The logits of the image with patches covered.

        Args:
            covered: For each variant of the image, which patches are.

        Raises:
            ModelError: They are not finite.
        """
        numbers, parts = torch.from_numpy(self.numbers).to(self.device), []
        with torch.inference_mode(), float32(self.device):
            for start in range(0, len(covered), BATCH):
                seen = torch.from_numpy(~covered[start : start + BATCH]).to(self.device)
                logits = self.network(self.normalized * seen[:, numbers][:, None])
                parts.append(logits.double().cpu().numpy())
        found = np.concatenate(parts)
        check_finite(found)
        return found

    def summed(self, pixels: Float64[np.ndarray, "height width"]) -> Float64[np.ndarray, "rows columns"]:
        """The sum over the pixels of each patch."""
        return np.bincount(self.numbers.ravel(), pixels.ravel(), self.patches).reshape(self.grid)


def spread(
    patches: Float64[np.ndarray, " patches"], numbers: Int64[np.ndarray, "height width"]
) -> Float64[np.ndarray, "height width"]:
    """The value of each patch, in equal parts over its pixels."""
    return (patches / np.bincount(numbers.ravel(), minlength=len(patches)))[numbers]


def first_covered(
    order: Int64[np.ndarray, " patches"], counts: Int64[np.ndarray, " variants"]
) -> Bool[np.ndarray, "variants patches"]:
    """Variants of an image, each with so many patches covered: the first of an order."""
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank < counts[:, None]


def device_of(network: nn.Module) -> torch.device:
    """Where a network computes."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
