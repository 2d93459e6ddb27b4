"""A backbone for images of another size, its weights kept (timm's `set_input_size`)."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor, nn

from ffvit.config.architecture import Architecture
from ffvit.models.description import note_for_timm, preprocess_of, set_preprocess
from ffvit.models.embedding import PositionMap, PositionVectors, SinCosPositions
from ffvit.models.mixers import OnPatchGrid

Backbone = Any
"""A `ffvit.models.backbone.Backbone`, which uses this module."""

Size = int | tuple[int, int] | None


def resize(network: Backbone, img_size: Size, patch_size: Size) -> None:
    """Make a backbone take images of another size, in pixels.

    Attention, pooling and convolution over patches serve any number of patches: the patch stays, and learned positions are
    resampled to the new grid, as timm does. The weights of a feed-forward layer over patches are tied to their number: the
    grid stays, and the patch grows with the image, its embedding resampled so that an enlarged image gives the same
    tokens (FlexiViT, arXiv 2212.08013, section 3.4).

    Raises:
        ValueError: The image is no multiple of the patch, or the weights are tied to another number of patches.
    """
    old = network.architecture
    image = _pair(img_size) or old.img_size
    patch = _pair(patch_size) or old.patch
    tied = _is_tied(network)
    if tied and patch_size is None:
        patch = max(1, image[0] // old.grid[0]), max(1, image[1] // old.grid[1])
    new = old.replace(img_size=image, patch=patch)
    if tied and new.grid != old.grid:
        rows, columns = old.grid
        raise ValueError(
            f"the weights over patches are tied to {rows} x {columns} patches, and images of {image[0]} x {image[1]} in "
            f"patches of {patch[0]} x {patch[1]} have {new.grid[0]} x {new.grid[1]}: choose sizes with {rows} x {columns} patches"
        )
    if old.position == "map":
        new = new.replace(position_grid=old.position_grid or old.grid)
    _resample(network, new)
    network.architecture = new
    set_preprocess(network, preprocess_of(network))
    note_for_timm(network)
    for info in network.feature_info:
        info["reduction"] = max(patch)


def _pair(size: Size) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size


def _is_tied(network: Backbone) -> bool:
    """Whether a mixer depends on the number of patches. What a mixer of somebody else depends on is not known."""
    old = network.architecture
    if any(branch.axis == "patches" and not branch.row.is_built_in for branch in old.block):
        return True
    rows, columns = old.grid
    # Any other grid would do for this; the size that is asked for may be no multiple of the patch.
    other = old.replace(img_size=(old.patch[0] * (rows + 1), old.patch[1] * columns))
    with torch.device("meta"):
        outline = type(network)(other)
    return _shapes(outline.blocks) != _shapes(network.blocks)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


@torch.no_grad()
def _resample(network: Backbone, new: Architecture) -> None:
    old = network.architecture
    conv = network.patch_embed.proj
    if new.patch != old.patch:
        conv.weight = _like(conv.weight, resample_patch_embed(conv.weight, list(new.patch)))
        conv.kernel_size = conv.stride = new.patch
    position = network.position
    if isinstance(position, PositionMap):
        position.grid = new.grid
    elif isinstance(position, PositionVectors):
        vectors = resample_abs_pos_embed(
            position.vectors, list(new.grid), list(old.grid), num_prefix_tokens=network.num_prefix_tokens
        )
        position.vectors = _like(position.vectors, vectors)
    elif isinstance(position, SinCosPositions):
        position.architecture = new
        position.init_non_persistent_buffers()
    for module in network.modules():
        if isinstance(module, OnPatchGrid):
            module.grid = new.grid


def _like(parameter: Tensor, values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=parameter.requires_grad)
