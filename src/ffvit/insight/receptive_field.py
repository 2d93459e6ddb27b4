"""Which pixels a token depends on: the effective receptive field (Luo et al. 2016, arXiv 1701.04128, section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ffvit.insight.layers import LayeredNetwork


@dataclass(frozen=True)
class ReceptiveField:
    """The field of the patch in the middle.

    Attributes:
        blocks: After how many blocks.
        field: Mean absolute derivative with respect to each pixel, the largest 1.
        half_radius: Half of the field lies no further than this from the patch's centre, in pixels.
        own_patch: Share of the field that lies in the patch itself.
        images: How many images it is from.
    """

    blocks: int
    field: Float[Tensor, "height width"]
    half_radius: float
    own_patch: float
    images: int


def receptive_fields(
    network: LayeredNetwork,
    images: Float[Tensor, "images channels height width"],
    depths: Sequence[int],
    seed: int = 0,
) -> list[ReceptiveField]:
    """Mean over images and channels of |d (v . token) / d pixel|, v a random vector of signs for each image.

    Args:
        network: The network.
        images: The images.
        depths: After how many blocks to look, rising.
        seed: Of v.
    """
    generator = torch.Generator().manual_seed(seed)
    pixels = images.detach().requires_grad_()
    kept: dict[int, Tensor] = {}
    with torch.enable_grad():
        tokens = network.embed(pixels)
        for layer, before, update in network.run(tokens):
            tokens = before + update
            if layer.block + 1 in depths:
                kept[layer.block + 1] = tokens
    fields = []
    for depth in depths:
        token = kept[depth][:, network.center]
        signs = torch.randint(0, 2, token.shape, generator=generator).to(token) * 2 - 1
        (slope,) = torch.autograd.grad(token, pixels, signs, retain_graph=depth != depths[-1])
        fields.append(_measure(network, slope.abs().double().mean(dim=(0, 1)).cpu(), depth, len(images)))
    return fields


def _measure(network: LayeredNetwork, field: Float[Tensor, "height width"], blocks: int, images: int) -> ReceptiveField:
    height, width = network.patch
    row, column = (place // 2 for place in network.grid)
    top, left = row * height, column * width
    total = field.sum()
    rows = torch.arange(field.shape[0]) - (top + (height - 1) / 2)
    columns = torch.arange(field.shape[1]) - (left + (width - 1) / 2)
    radius, order = (rows[:, None] ** 2 + columns**2).sqrt().flatten().sort()
    reached = field.flatten()[order].cumsum(0)
    half = radius[int(torch.searchsorted(reached, total / 2).clamp(max=len(radius) - 1))]
    own = field[top : top + height, left : left + width].sum() / total
    return ReceptiveField(blocks, field / field.max(), float(half), float(own), images)
