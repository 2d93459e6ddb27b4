"""Parameter names of the paper's code, timm and DeiT in ours, and the architecture that the shapes of weights imply.

| layout | where it comes from |
|---|---|
| ours | this library |
| released | the paper's code: `blocks.0.mlp1.fc1.weight`, `pos_encoding.pos_embed` |
| timm ViT | timm and DeiT: `blocks.0.attn.qkv.weight`, `pos_embed` |
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from ffvit.config.architecture import FF_ONLY, NAMED, Architecture, transformer
from ffvit.config.preprocess import Preprocess
from ffvit.errors import ModelError
from ffvit.models.backbone import Backbone
from ffvit.models.description import preprocess_of, set_preprocess

Layout = Literal["released", "timm ViT"]

_OUR_NAMES: dict[str, dict[str, str]] = {
    "released": {
        "pos_encoding.pos_embed": "position.map",
        "pos_encoding.cls_pos_embed": "position.class_token",
        "norm1": "0.norm",
        "mlp1": "0.mixer",
        "norm2": "1.norm",
        "mlp2": "1.mixer",
    },
    "timm ViT": {
        "pos_embed": "position.vectors",
        "norm1": "0.norm",
        "attn": "0.mixer",
        "norm2": "1.norm",
        "mlp": "1.mixer",
    },
}
"""What each layout calls parameters of ours: positions, and the parts of a block."""

_MARKER_NAMES = {
    "ours": {"blocks.0.0.norm.weight", "patch_embed.proj.weight"},
    "released": {"pos_encoding.pos_embed", "blocks.0.mlp1.fc1.weight", "blocks.0.mlp2.fc1.weight"},
    "timm ViT": {"pos_embed", "cls_token", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"},
}
_BLOCK = re.compile(r"(blocks\.\d+\.)?(.*)", re.DOTALL)
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
    names = _OUR_NAMES.get(layout_of(state) or "", {})
    return {_renamed(name, names): tensor for name, tensor in state.items()}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """The name with the first part that stands in the table, of a block or of the whole network, replaced."""
    block, rest = _BLOCK.fullmatch(name).groups("")  # type: ignore[union-attr]
    for old, new in names.items():
        if rest == old or (block and rest.startswith(f"{old}.")):
            return block + new + rest.removeprefix(old)
    return name


def preprocess_of_vit(architecture: Architecture) -> Preprocess:
    """How timm prepares images for its plain ViT of this size (mean and deviation 0.5), or of no named size."""
    config = timm.get_pretrained_cfg(_vit_name(architecture))
    return Preprocess.from_timm(config.to_dict(), img_size=architecture.img_size, in_chans=architecture.in_chans)


def _vit_name(architecture: Architecture) -> str:
    """Timm's name for a plain ViT of this size, or of no named size."""
    size = {192: "tiny", 384: "small", 768: "base", 1024: "large"}.get(architecture.width)
    name = f"vit_{size}_patch{architecture.patch[0]}_{architecture.img_size[0]}"
    return name if timm.is_model(name) else "vit_base_patch16_224"


def architecture_of(state: Mapping[str, Tensor]) -> Architecture | None:
    """The architecture of weights in the paper's or timm ViT's layout, read off their shapes; none for others.

    Weights under our names are those of a named network, or tell nothing. Of the other layouts, shapes leave two things
    open: the image is assumed square, and a ViT's heads to have 64 features, as in all that were released.

    Raises:
        UserError: The number of tokens is no square and a class token.
    """
    layout = layout_of(state)
    if layout == "ours":
        return _named_like(state)
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


def _named_like(state: Mapping[str, Tensor]) -> Architecture | None:
    """The named network whose weights have these names and shapes, whatever its classes and channels."""
    shapes = {name: tensor.shape for name, tensor in state.items()}
    sizes = {
        "num_classes": shapes["head.weight"][0] if "head.weight" in shapes else 0,
        "in_chans": shapes["patch_embed.proj.weight"][1],
    }
    for named in NAMED.values():
        architecture = named.replace(**sizes)
        with torch.device("meta"):
            outline = Backbone(architecture).state_dict()
        if {name: tensor.shape for name, tensor in outline.items()} == shapes:
            return architecture
    return None


def to_layout(network: Backbone, layout: Layout) -> dict[str, Tensor]:
    """The weights of a network of ours under the names of the paper's released class, or of timm's ViT and DeiT.

    Raises:
        UserError: No network of that kind computes the same.
    """
    plain, released = network.architecture, layout == "released"
    if plain.position == "map" and plain.position_grid is None:
        plain = plain.replace(position_grid=plain.grid)
    counterpart = plain.replace(
        block=FF_ONLY if released else transformer(heads=plain.block[0].heads or 1),
        readout="class_token",
        position="map" if released else "vectors",
        position_grid=(14, 14) if released else None,
        # The released class counts the tokens of 224 x 224 images, whatever it is given.
        **({"img_size": (224, 224), "patch": (plain.patch[0],) * 2} if released else {}),
    )
    same_block = _spelled_out(plain) == _spelled_out(counterpart)
    if not same_block or plain.replace(block=counterpart.block) != counterpart or network.global_pool != "token":
        raise ModelError(f"this network has no counterpart in {_COUNTERPARTS[layout]}")
    names = {ours: theirs for theirs, ours in _OUR_NAMES[layout].items()}
    return {_renamed(name, names): tensor for name, tensor in network.state_dict().items()}


_COUNTERPARTS = {
    "released": "the paper's class: feed-forward over features, then over patches; class token; a position map of "
    "14 x 14; images of 224 x 224",
    "timm ViT": "timm's ViT: attention over patches, then feed-forward over features; class token; a learned vector for "
    "each position",
}


def _spelled_out(architecture: Architecture) -> list[tuple[object, ...]]:
    """The block with every default filled in."""
    return [
        (branch.mixer, branch.axis, branch.normalised_axis, architecture.hidden(branch), branch.heads or 1)
        for branch in architecture.block
    ]


def backbone_of_vit(network: nn.Module) -> Backbone:
    """A backbone of ours with the weights of a plain ViT or DeiT of timm's, in evaluation mode.

    Raises:
        UserError: It is another network, or a ViT that computes something else.
    """
    state = network.state_dict()
    architecture = architecture_of(state) if layout_of(state) == "timm ViT" else None
    if architecture is None or not isinstance(network, timm.models.VisionTransformer):
        raise ModelError(
            f"{type(network).__name__} is neither one of ffvit's networks nor a plain ViT or DeiT of timm's: it cannot be "
            "converted"
        )
    vit: Any = copy.deepcopy(network).eval()
    backbone: Any = Backbone(architecture.replace(block=transformer(heads=vit.blocks[0].attn.num_heads))).eval()
    backbone.load_state_dict(to_ours(state))
    set_preprocess(backbone, preprocess_of(network))
    backbone.class_names = getattr(network, "class_names", None)
    images = torch.randn(2, architecture.in_chans, *architecture.img_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # an activation or a norm of another kind has the same weights
        close = torch.allclose(backbone(images), vit(images), rtol=1e-3, atol=1e-3)
    if not close:
        raise ModelError("this ViT computes something that ffvit's does not: it cannot be converted")
    converted: Backbone = backbone
    return converted


def timm_vit_of(network: Backbone) -> nn.Module:
    """Timm's ViT with the weights of a network of ours.

    Raises:
        UserError: As `to_layout`.
    """
    state, plain = to_layout(network, "timm ViT"), network.architecture
    vit: nn.Module = timm.create_model(
        _vit_name(plain),
        img_size=plain.img_size,
        patch_size=plain.patch,
        in_chans=plain.in_chans,
        num_classes=plain.num_classes,
        embed_dim=plain.width,
        depth=plain.depth,
        num_heads=plain.block[0].heads or 1,
    )
    vit.load_state_dict(state)
    return vit.train(network.training)
