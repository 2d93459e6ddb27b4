"""Parameter names of the paper's code, timm and DeiT in ours, and the architecture that the shapes of weights imply.

| layout | where it comes from |
|---|---|
| ours | this library |
| released | the paper's code: `blocks.0.mlp1.fc1.weight`, `pos_encoding.pos_embed` |
| timm ViT | timm and DeiT: `blocks.0.attn.qkv.weight`, `pos_embed` |
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import timm
from torch import Tensor

from ffvit.config.architecture import FF_ONLY, Architecture, transformer
from ffvit.config.preprocess import Preprocess
from ffvit.errors import ModelError

_RENAMED = {
    "released": (
        (r"^pos_encoding\.pos_embed$", "position.map"),
        (r"^pos_encoding\.cls_pos_embed$", "position.class_token"),
        (r"^blocks\.(\d+)\.norm1\.", r"blocks.\1.0.norm."),
        (r"^blocks\.(\d+)\.mlp1\.", r"blocks.\1.0.mixer."),
        (r"^blocks\.(\d+)\.norm2\.", r"blocks.\1.1.norm."),
        (r"^blocks\.(\d+)\.mlp2\.", r"blocks.\1.1.mixer."),
    ),
    "timm ViT": (
        (r"^pos_embed$", "position.vectors"),
        (r"^blocks\.(\d+)\.norm1\.", r"blocks.\1.0.norm."),
        (r"^blocks\.(\d+)\.attn\.", r"blocks.\1.0.mixer."),
        (r"^blocks\.(\d+)\.norm2\.", r"blocks.\1.1.norm."),
        (r"^blocks\.(\d+)\.mlp\.", r"blocks.\1.1.mixer."),
    ),
}
_MARKER_NAMES = {
    "ours": {"blocks.0.0.norm.weight", "patch_embed.proj.weight"},
    "released": {"pos_encoding.pos_embed", "blocks.0.mlp1.fc1.weight", "blocks.0.mlp2.fc1.weight"},
    "timm ViT": {"pos_embed", "cls_token", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"},
}
_NOT_PLAIN_VIT = re.compile(
    r"dist_token|reg_token|\.ls1\.|q_norm|fc_norm|norm_pre|relative_position|\.norm3\.|attn_pool"
)


def layout_of(names: Mapping[str, object]) -> str | None:
    """The layout of these parameter names: `ours`, `released`, `timm ViT`, or None."""
    for layout, markers in _MARKER_NAMES.items():
        if markers <= names.keys():
            if layout == "timm ViT" and any(_NOT_PLAIN_VIT.search(name) for name in names):
                return None
            return layout
    return None


def to_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under our names; unchanged if they have those already or are of another kind of network."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, ours in _RENAMED.get(layout_of(state) or "", ()):
            name = re.sub(pattern, ours, name)
        renamed[name] = tensor
    return renamed


def preprocess_of_vit(architecture: Architecture) -> Preprocess:
    """How timm prepares images for its plain ViT of this size (mean and deviation 0.5), or of no named size."""
    size = {192: "tiny", 384: "small", 768: "base", 1024: "large"}.get(architecture.width)
    name = f"vit_{size}_patch{architecture.patch[0]}_{architecture.img_size[0]}"
    config = timm.get_pretrained_cfg(name if timm.is_model(name) else "vit_base_patch16_224")
    return Preprocess.from_timm(config.to_dict(), img_size=architecture.img_size, in_chans=architecture.in_chans)


def architecture_of(state: Mapping[str, Tensor]) -> Architecture | None:
    """The architecture of weights in the paper's or timm ViT's layout, read off their shapes; none for others.

    Shapes leave two things open: the image is assumed square, and a ViT's heads to have 64 features, as in all that
    were released.

    Raises:
        UserError: The number of tokens is no square and a class token.
    """
    layout = layout_of(state)
    if layout not in ("released", "timm ViT"):
        return None
    depth = 1 + max(int(match[1]) for name in state if (match := re.match(r"blocks\.(\d+)\.", name)))
    width, channels, *patch = state["patch_embed.proj.weight"].shape
    tokens = state["blocks.0.norm2.weight"].shape[0] if layout == "released" else state["pos_embed"].shape[1]
    side = math.isqrt(tokens - 1)
    if side * side != tokens - 1:
        raise ModelError(
            f"these weights have {tokens} tokens, which is no square of patches and a class token: "
            "name the network they belong to"
        )
    common = {
        "width": width,
        "depth": depth,
        "img_size": (side * patch[0], side * patch[1]),
        "patch": tuple(patch),
        "in_chans": channels,
        "num_classes": state["head.weight"].shape[0] if "head.weight" in state else 0,
    }
    if layout == "released":
        return Architecture(
            block=FF_ONLY, position="map", position_grid=tuple(state["pos_encoding.pos_embed"].shape[-2:]), **common
        )
    return Architecture(block=transformer(heads=max(1, width // 64)), position="vectors", **common)
