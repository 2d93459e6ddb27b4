"""Attention maps over patches, and what share of them is the same for every image."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from timm.layers import Attention
from torch import Tensor, nn

from ffvit.models.attention import attention_modules


def attention_over_patches(network: nn.Module) -> dict[str, Attention]:
    """The network's attention modules whose maps can be computed (timm's `Attention`, over patches), by name, in order."""
    axes = attention_modules(network)
    return {
        name: module
        for name, module in network.named_modules()
        if type(module) is Attention and axes.get(module) == "patches"
    }


def attention_maps(
    attention: Attention, x: Float[Tensor, "batch tokens width"]
) -> Float[Tensor, "batch heads tokens tokens"]:
    """softmax(q k^T / sqrt(d)) of each head: row i says what token i reads.

    Args:
        attention: The module.
        x: Its input.
    """
    part: Any = attention
    queries, keys, _ = part.qkv(x).unflatten(2, (3, part.num_heads, -1)).permute(2, 0, 3, 1, 4)
    queries, keys = part.q_norm(queries), part.k_norm(keys)
    maps: Tensor = (queries * part.scale @ keys.transpose(-2, -1)).softmax(dim=-1)
    return maps


class MapStatistics:
    """The mean over images of the maps of one attention module, and of their squared norm.

    Attributes:
        images: How many were added.
    """

    def __init__(self) -> None:
        self.images = 0
        self._sum: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def add(self, maps: Float[Tensor, "batch heads tokens tokens"]) -> None:
        """Add the maps of a batch."""
        maps = maps.double()
        self.images += len(maps)
        self._sum = self._sum + maps.sum(dim=0)
        self._squares = self._squares + maps.square().sum(dim=(0, 2, 3))

    @property
    def mean(self) -> Float[Tensor, "heads tokens tokens"]:
        """The mean map of each head."""
        return torch.as_tensor(self._sum) / self.images

    @property
    def static_share(self) -> Float[Tensor, " heads"]:
        """||mean map||^2 / mean ||map||^2 of each head: 1 where every image has the same map.

        The rest, 1 - this, is the variance of the map over images as a share of its mean square. A map that is uniform
        whatever the image is wholly static too.
        """
        return self.mean.square().sum(dim=(1, 2)) / (torch.as_tensor(self._squares) / self.images)
