"""Which networks have attention, and along which axis, judged by the classes of their modules, never by their names."""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

import timm
import torch
from torch import nn

from ffvit.config.architecture import NAMED, Network
from ffvit.config.mixers import Axis
from ffvit.models.backbone import Backbone, ResidualBranch
from ffvit.models.create import check_name

NAME = re.compile(r"Attention|Attn")
"""What timm and torch call modules that compute attention, but for those below."""

WITH_MLP = frozenset({"ParallelScalingBlock", "DiffParallelScalingBlock"})
"""timm's ViT blocks that compute attention and MLP side by side, out of shared matrices."""

OTHER_NAMES = frozenset({
    "GPSA", "MHSA",  # ConViT
    "LambdaLayer",  # LambdaNetworks: query (softmax(keys)^T values), a linear attention
    "LiteMLA",  # EfficientViT (MIT)
    "SHMA",  # iFormer
    "SHSA",  # SHViT
    *WITH_MLP,
    "SpatialTransformerBlock",  # CSATv2
    "XCA",  # XCiT
})  # fmt: skip
"""Attention under other names."""

GATES = frozenset({
    "ChannelAttn", "LightChannelAttn", "SpatialAttn", "LightSpatialAttn",  # CBAM
    "CoordAttn", "SimpleCoordAttn", "EfficientLocalAttn", "StripAttn",
    "SelectiveKernelAttn", "SplitAttn",  # SKNet, ResNeSt
    "timm.models.nextvit.ConvAttention",  # a grouped convolution
})  # fmt: skip
"""Called attention, but no token weighs another by what both hold: factors on channels or places, and convolutions."""

OVER_FEATURES = frozenset({"XCA", "CrossCovarianceAttn", "ChannelAttention", "ChannelAttentionV2"})
"""Attention between channels: XCiT (arXiv 2106.09681), EdgeNeXt, DaViT (arXiv 2204.03645)."""


def attention_modules(network: nn.Module) -> dict[nn.Module, Axis]:
    """The innermost modules that compute attention, with the axis they attend along.

    Windowed, pooled, linear, additive and outlook attention count, so do class attention and attention pooling in a head.
    Squeeze-and-excite, CBAM and other gates do not, nor state spaces (EfficientViM) and focal modulation.
    """
    if isinstance(network, Backbone):
        modules = [module for module in network.modules() if isinstance(module, ResidualBranch)]
        branches = [branch for block in network.architecture.blocks[: len(network.blocks)] for branch in block]
        return {
            module.mixer: branch.axis
            for module, branch in zip(modules, branches, strict=True)
            if branch.row.is_attention
        }
    matches = {module for module in network.modules() if _is_attention(type(module))}
    return {
        module: "features" if type(module).__name__ in OVER_FEATURES else "patches"
        for module in network.modules()
        if module in matches and not any(inner in matches for inner in module.modules() if inner is not module)
    }


def attention_over_patches(network: nn.Module) -> bool:
    """Whether tokens attend to tokens anywhere in the network, its head included."""
    return "patches" in attention_modules(network).values()


@cache
def attention_of(network: Network) -> Literal["patches", "features only", "none"]:
    """Where a network has attention. It is built on the meta device, which computes nothing and takes no memory.

    XCiT is `patches`: its blocks attend between channels, but its last two layers are class attention.

    Raises:
        UserError: There is no network of that name.
    """
    architecture = network.architecture or NAMED.get(str(network.name))
    if architecture is not None:
        axes = {branch.axis for block in architecture.blocks for branch in block if branch.row.is_attention}
    else:
        check_name(str(network.name))
        try:
            with torch.device("meta"):
                built = timm.create_model(network.name)
        except NotImplementedError:  # some networks compute with their weights while they are built
            built = timm.create_model(network.name)
        axes = set(attention_modules(built).values())
    return "patches" if "patches" in axes else "features only" if axes else "none"


def _is_attention(kind: type[nn.Module]) -> bool:
    name = kind.__name__
    if name in GATES or f"{kind.__module__}.{name}" in GATES:
        return False
    return name in OTHER_NAMES or NAME.search(name) is not None
