"""Random erasing: the rectangle is drawn with the image, the noise is put in on the device."""

from __future__ import annotations

import math
import random
from functools import cache

import torch
from jaxtyping import Float, Int64
from torch import Tensor

Erased = tuple[int, int, int, int, int]
"""Top, left, height and width of the rectangle, and which noise fills it."""

NOTHING: Erased = (0, 0, 0, 0, 0)

AREA = 0.02, 1 / 3
"""Share of the image, drawn evenly."""

RATIO = 0.3, 1 / 0.3
"""Height / width, drawn evenly in its logarithm."""

NOISE = 2**20
"""Noise values kept in memory; each image reads consecutive ones from a random offset."""


def draw(probability: float, height: int, width: int) -> Erased:
    """Draw from Python's generator whether and where an image is erased, as timm's RandomErasing does.

    Source: Zhong et al., Random Erasing Data Augmentation, arXiv 1708.04896, algorithm 1.
    """
    if not probability or random.random() > probability:
        return NOTHING
    for _ in range(10):
        area = random.uniform(*AREA) * height * width
        ratio = math.exp(random.uniform(*map(math.log, RATIO)))
        down, across = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if down < height and across < width:
            return (
                random.randint(0, height - down), random.randint(0, width - across), down, across, random.randrange(NOISE)
            )  # fmt: skip
    return NOTHING


def erase(
    images: Float[Tensor, "batch channels height width"], erased: Int64[Tensor, "batch 5"]
) -> Float[Tensor, "batch channels height width"]:
    """Fill each image's rectangle with noise of the normal distribution, in place.

    Args:
        images: Normalised already, on whatever device.
        erased: Rectangles, not on a GPU: counting them there would wait for it.
    """
    which = erased[:, 2].nonzero()[:, 0]
    if not len(which):
        return images
    _, channels, height, width = images.shape
    which, erased = (tensor.to(images.device, non_blocking=True) for tensor in (which, erased[which]))
    top, left, down, across, at = (column[:, None] for column in erased.unbind(1))
    y, x = (torch.arange(size, device=images.device) for size in (height, width))
    rows, columns = (y >= top) & (y < top + down), (x >= left) & (x < left + across)
    inside = (rows[:, None, :, None] & columns[:, None, None, :]).expand(-1, channels, -1, -1)
    consecutive = torch.arange(channels * height * width, device=images.device)
    noise = _noise(images.device)[(at + consecutive) % NOISE].view(-1, channels, height, width)
    images[which] = torch.where(inside, noise.to(images.dtype), images[which])
    return images


@cache
def _noise(device: torch.device) -> Float[Tensor, " noise"]:
    return torch.randn(NOISE, generator=torch.Generator().manual_seed(0)).to(device)
