"""How much of each patch reaches the readout through all layers of attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ffvit.hardware.precision import float32
from ffvit.insight.attention_maps import attention_maps, attention_over_patches
from ffvit.insight.image.patches import own_grid
from ffvit.models.backbone import Backbone


def attention_rollout(
    network: nn.Module, images: Float[Tensor, "1 channels height width"]
) -> Float64[np.ndarray, " patches"] | None:
    """The share of each patch in what the head reads, if attention and residuals alone decided it.

    Abnar and Zuidema, Quantifying Attention Flow in Transformers (arXiv 2005.00928), eq. 1: the product over layers of
    (A + I) / 2, where A is the mean map of the heads. It does not depend on the class, and leaves out what values and
    feed-forward layers do.

    Args:
        network: Any classifier, in evaluation mode.
        images: A normalized image.

    Returns:
        Shares of the network's own patches, which sum to 1 where no class token keeps one. None unless attention, by
        modules whose maps are known, is all that mixes patches.
    """
    height, width = images.shape[2:]
    grid, modules = own_grid(network, height, width), attention_over_patches(network)
    if grid is None or not modules or not _mixes_by_attention_alone(network):
        return None
    layers: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        layers.append(attention_maps(module, inputs[0])[0].double().mean(dim=0))

    hooks = [module.register_forward_pre_hook(keep) for module in modules.values()]
    try:
        with torch.inference_mode(), float32(images.device):
            network(images)
    finally:
        for hook in hooks:
            hook.remove()
    part: Any = network
    prefix, tokens = int(part.num_prefix_tokens), len(layers[0])
    if tokens != prefix + grid[0] * grid[1]:
        return None
    flow = torch.eye(tokens, dtype=torch.float64, device=images.device)
    for maps in layers:
        flow = (maps + torch.eye(tokens, dtype=torch.float64, device=images.device)) / 2 @ flow
    read = flow[0] if part.global_pool == "token" else flow[prefix:].mean(dim=0)
    weights: np.ndarray = read[prefix:].cpu().numpy()
    return weights


def _mixes_by_attention_alone(network: nn.Module) -> bool:
    if isinstance(network, Backbone):
        branches = [branch for block in network.architecture.blocks for branch in block]
        return all(branch.row.is_attention or not branch.mixes_patches for branch in branches)
    return isinstance(network, VisionTransformer) and network.global_pool in ("token", "avg")
