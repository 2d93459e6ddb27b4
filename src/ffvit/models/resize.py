"""A backbone for images of another size, its weights kept (timm's `set_input_size`)."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor, nn
from torch.func import functional_call

from ffvit.config.architecture import Architecture, Branch
from ffvit.config.mixers import TokenResizeMethod
from ffvit.models.description import note_for_timm, preprocess_of, set_preprocess
from ffvit.models.embedding import PositionMap, PositionVectors, SinCosPositions, has_class_token
from ffvit.models.mixers import OnPatchGrid
from ffvit.models.token_resize import TokenResize

Backbone = Any
"""A `ffvit.models.backbone.Backbone`, which uses this module."""

Size = int | tuple[int, int] | None


def resize(network: Backbone, img_size: Size, patch_size: Size = None, method: TokenResizeMethod = "pinv") -> None:
    """Make a backbone take images of another size, in pixels.

    The patch keeps its size unless another is given; then its embedding is resampled so that an image that is enlarged with it gives
    the same tokens (FlexiViT, arXiv 2212.08013, section 3.4). Weights over patches are resized to the new grid
    (`TokenResize`), learned positions as timm does.

    Raises:
        ValueError: The image is no multiple of the patch, the method does not know this grid, or a mixer is tied to the number
            of patches.
    """
    new = resized_architecture(network.architecture, img_size, patch_size, method)
    with torch.no_grad():
        weights = _resized_weights(network, new, method)
    for name, tensor in weights.items():
        *path, last = name.split(".")
        module = network.get_submodule(".".join(path))
        old = getattr(module, last)
        new_tensor = nn.Parameter(tensor, old.requires_grad) if isinstance(old, nn.Parameter) else tensor
        setattr(module, last, new_tensor)
        if isinstance(module, nn.Linear) and last == "weight":
            module.out_features, module.in_features = tensor.shape
    _set_sizes(network, new)
    set_preprocess(network, preprocess_of(network))
    note_for_timm(network)
    for info in network.feature_info:
        info["reduction"] = max(new.patch)


def call_at_size(network: Backbone, images: Float[Tensor, "batch channels height width"]) -> Tensor:
    """What a backbone computes of images of another size with weights that are resized for this call; gradients reach its own."""
    old = network.architecture
    new = resized_architecture(old, (images.shape[2], images.shape[3]))
    with torch.autocast(images.device.type, enabled=False):  # weights are resized in their own precision
        weights = _resized_weights(network, new, "pinv")
    _set_sizes(network, new)
    try:
        return functional_call(network, weights, (images,))
    finally:
        _set_sizes(network, old)


def resized_architecture(
    old: Architecture, img_size: Size, patch_size: Size = None, method: TokenResizeMethod = "pinv"
) -> Architecture:
    """What `resize` makes of an architecture.

    Raises:
        ValueError: As `resize`.
    """
    new = old.replace(img_size=_pair(img_size) or old.img_size, patch=_pair(patch_size) or old.patch)
    if old.position == "map":
        new = new.replace(position_grid=old.position_grid or old.grid)
    if new.grid == old.grid:
        return new
    tokens = TokenResize(old.grid, new.grid, int(has_class_token(old)), method)
    blocks = [tuple(_resized(branch, old, tokens) for branch in block) for block in old.blocks]
    new = new.replace(block=tuple(_resized(branch, old, tokens) for branch in old.block), replaced=None)
    return new.with_blocks(blocks)


def _pair(size: Size) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size


def _resized(branch: Branch, old: Architecture, tokens: TokenResize) -> Branch:
    """A branch whose sizes are numbers, no longer multiples of the grid.

    Raises:
        ValueError: Its weights are tied to the number of patches.
    """
    row = branch.row
    if branch.axis == "features":
        if row.read_axis("features") == "patches" or row.token_weights is None:
            raise ValueError(
                f"{row.name} along features has weights for {old.grid[0]} x {old.grid[1]} patches, which cannot be resized: "
                "change the patch with the image"
            )
        return branch
    if row.token_weights is None:
        raise ValueError(
            f"how the weights of the mixer {row.name!r} go by the number of patches is not known: its row says so in "
            "token_weights (docs/custom_mixers.md)"
        )
    sizes: dict[str, Any] = {}
    if "kernel" in row.settings:
        sizes["kernel"] = old.kernel(branch)
    if "hidden" in row.settings:
        grows = "hidden" in row.token_weights.values()
        sizes |= {"hidden": old.hidden(branch) * (tokens.copies if grows else 1), "ratio": None}
    return branch.replace(**sizes)


def _resized_weights(network: Backbone, new: Architecture, method: TokenResizeMethod) -> dict[str, Tensor]:
    """The weights that another size changes, by their names."""
    old, state = network.architecture, dict(chain(network.named_parameters(), network.named_buffers()))
    weights: dict[str, Tensor] = {}
    if new.patch != old.patch:
        name = "patch_embed.proj.weight"
        weights[name] = resample_patch_embed(state[name], list(new.patch))
    if new.grid == old.grid:
        return weights
    if isinstance(network.position, PositionVectors):
        name, prefix = "position.vectors", network.num_prefix_tokens
        grids = list(new.grid), list(old.grid)
        weights[name] = resample_abs_pos_embed(state[name], *grids, num_prefix_tokens=prefix)
    tokens = TokenResize(old.grid, new.grid, network.num_prefix_tokens, method)
    places = ((block, number, branch) for block, body in enumerate(old.blocks) for number, branch in enumerate(body))
    for block, number, branch in places:
        uses: dict[str, str] = {}
        if branch.normalised_axis == "patches":
            uses |= {"norm.weight": "values", "norm.bias": "values"}
        if branch.axis == "patches":
            uses |= {f"mixer.{name}": use for name, use in (branch.row.token_weights or {}).items()}
        for name, use in uses.items():
            full = f"blocks.{block}.{number}.{name}"
            weights[full] = getattr(tokens, use)(state[full])
    return weights


def _set_sizes(network: Backbone, new: Architecture) -> None:
    """Note the sizes in every module that knows them."""
    network.architecture = new
    conv, position = network.patch_embed.proj, network.position
    conv.kernel_size = conv.stride = new.patch
    if isinstance(position, PositionMap):
        position.grid = new.grid
    elif isinstance(position, SinCosPositions):
        position.architecture = new
        position.init_non_persistent_buffers()
    for body, block in zip(new.blocks, network.blocks, strict=True):
        for branch, layer in zip(body, block, strict=True):
            if branch.normalised_axis == "patches":
                layer.norm.normalized_shape = (new.tokens,)
            if isinstance(layer.mixer, OnPatchGrid):
                layer.mixer.grid = new.grid
