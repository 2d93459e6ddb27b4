"""An image as patches: which pixel belongs to which, and the image with some of them covered by the mean colour."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int64
from torch import nn

from ffvit.models.backbone import Backbone

SIDES = (7, 8, 6, 5, 4, 3, 2)
"""Patches along each side: the first that divides the image into patches of 2 pixels or more. At most 64 patches."""

MOST_PATCHES = 64
"""Patches at most: each costs a prediction or several. Smaller patches of a network are merged."""


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
    if isinstance(network, Backbone):
        patch: Any = network.architecture.patch
    else:
        patch = getattr(getattr(network, "patch_embed", None), "patch_size", None)
    if isinstance(patch, int):
        patch = (patch, patch)
    if not isinstance(patch, tuple) or len(patch) != 2 or height % patch[0] or width % patch[1]:
        return None
    return height // patch[0], width // patch[1]


def patch_grid(network: nn.Module, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the patches that are covered: the network's own, merged until there are at most `MOST_PATCHES`.

    A network whose patches are not known gets 7 x 7, or as `grid_side` says.
    """
    grid = own_grid(network, height, width)
    if grid is not None:
        rows, columns = grid
        for merged in range(1, min(rows, columns)):
            if not rows % merged and not columns % merged and rows * columns <= MOST_PATCHES * merged**2:
                return rows // merged, columns // merged
    side = grid_side(height, width)
    if side == 1:  # patches of uneven size
        side = max(1, min(SIDES[0], min(height, width) // 2))
    return side, side
