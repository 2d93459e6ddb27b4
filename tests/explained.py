"""Networks whose reading is known, and images for them."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ffvit.config.preprocess import Preprocess

PREPROCESS = Preprocess(img_size=(8, 12), in_chans=3, mean=(0.5, 0.4, 0.2), std=(0.2, 0.3, 0.5))
"""4 x 4 patches of 2 x 3 pixels: no number above 4 divides both sides."""

PATCH = (1, 2)
NAMES = ("empty", "full")


class ReadsOnePatch(nn.Module):
    """Says `full` as long as the mean of one patch is above the mean colour."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        read = images[:, :, 2:4, 6:9].mean(dim=(1, 2, 3))
        return torch.stack((torch.zeros_like(read) + 0.5, 4 * read), dim=1)


def linear(classes: int = 3) -> nn.Sequential:
    """A linear network with random weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 12, classes))


def noise(seed: int, preprocess: Preprocess = PREPROCESS, least: int = 0) -> np.ndarray:
    """An image of random levels."""
    channels, height, width = preprocess.shape
    return np.random.default_rng(seed).integers(least, 256, (height, width, channels), dtype=np.uint8)


def bright(seed: int) -> np.ndarray:
    """An image that is everywhere above the mean colour."""
    return noise(seed, least=150)
