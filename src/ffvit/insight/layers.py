"""A network as what it is to this room: tokens to which one branch after another adds an update."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from ffvit.config.mixers import Axis
from ffvit.errors import ModelError
from ffvit.models.backbone import Backbone, ResidualBranch

Map = Callable[[Tensor], Tensor]

WHICH = "networks of ffvit's own architectures and timm's plain ViT and DeiT"


@dataclass(frozen=True)
class Layer:
    """One residual branch: x + update(x).

    Attributes:
        block: Number of its block, from 0.
        branch: Its place in the block, from 0.
        mixer: The mixer's name.
        axis: The axis it mixes along.
        mixes_patches: Whether an update of a token can depend on other tokens.
        module: The mixer itself.
        normalized: Tokens to what the mixer reads.
        update: Tokens to what is added to them.
    """

    block: int
    branch: int
    mixer: str
    axis: Axis
    mixes_patches: bool
    module: nn.Module
    normalized: Map
    update: Map

    @property
    def title(self) -> str:
        """What to call it before people."""
        return f"block {self.block + 1}, {self.mixer} over {self.axis}"


@dataclass(frozen=True)
class LayeredNetwork:
    """A network in layers.

    Attributes:
        network: The network.
        embed: Images to tokens.
        layers: In order.
        readout: Tokens to logits: the last norm, pooling and the head.
        grid: Rows and columns of patches.
        patch: Height and width of a patch in pixels.
        prefix: How many tokens stand in front of the patches.
        has_class_token: Whether the first of these is a class token.
    """

    network: nn.Module
    embed: Map
    layers: tuple[Layer, ...]
    readout: Map
    grid: tuple[int, int]
    patch: tuple[int, int]
    prefix: int
    has_class_token: bool

    @property
    def tokens(self) -> int:
        """How many tokens there are, those in front included."""
        return self.prefix + self.grid[0] * self.grid[1]

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        return 1 + max((layer.block for layer in self.layers), default=-1)

    @property
    def center(self) -> int:
        """The token of the patch in the middle of the image."""
        rows, columns = self.grid
        return self.prefix + (rows // 2) * columns + columns // 2

    def run(
        self, tokens: Float[Tensor, "batch tokens features"], first: int = 0
    ) -> Iterator[tuple[Layer, Tensor, Tensor]]:
        """Layer by layer: the layer, its input, its update."""
        for layer in self.layers[first:]:
            update = layer.update(tokens)
            yield layer, tokens, update
            tokens = tokens + update

    def after(self, tokens: Float[Tensor, "batch tokens features"], first: int = 0) -> Tensor:
        """The tokens behind the last layer, of those in front of the layer with this number."""
        for _, before, update in self.run(tokens, first):
            tokens = before + update
        return tokens

    @torch.no_grad()
    def check(self, images: Float[Tensor, "batch channels height width"]) -> None:
        """Check on images that the layers compute what the network computes.

        Raises:
            ModelError: They do not, or the logits are not finite.
        """
        expected = self.network(images)
        if not expected.isfinite().all():
            raise ModelError("the network's logits are not finite, so there is nothing to inspect")
        logits = self.readout(self.after(self.embed(images)))
        scale = float(expected.abs().max()) + 1e-6
        if logits.shape != expected.shape or float((logits - expected).abs().max()) > 1e-3 * scale:
            raise ModelError(f"{type(self.network).__name__} is no stack of residual branches; ffvit inspects {WHICH}")


def layers_of(network: nn.Module) -> LayeredNetwork:
    """A network in layers; it must be in evaluation mode.

    Raises:
        ModelError: It is none of those that can be taken apart so, or has no head.
    """
    if not getattr(network, "num_classes", 0):
        raise ModelError("this network has no head, so there are no predictions to inspect")
    if isinstance(network, Backbone):
        return _backbone(network)
    if isinstance(network, VisionTransformer) and all(type(block) is Block for block in network.blocks):
        return _vision_transformer(network)
    raise ModelError(
        f"{type(network).__name__} is not a stack of residual branches that ffvit can separate; it inspects {WHICH}"
    )


def _backbone(network: Backbone) -> LayeredNetwork:
    layers = []
    for number, (block, branches) in enumerate(zip(network.blocks, network.architecture.blocks, strict=True)):
        for place, (module, branch) in enumerate(zip(cast("Any", block), branches, strict=True)):
            assert isinstance(module, ResidualBranch)
            mixes = branch.axis == "patches" or branch.mixes_patches
            layers.append(
                Layer(
                    number, place, branch.row.name, branch.axis, mixes, module.mixer, module.normalized, module.update
                )
            )
    architecture, prefix = network.architecture, network.num_prefix_tokens
    return LayeredNetwork(
        network, network.embed, tuple(layers), lambda tokens: network.forward_head(network.norm(tokens)),
        architecture.grid, architecture.patch, prefix, bool(prefix),
    )  # fmt: skip


def _vision_transformer(network: VisionTransformer) -> LayeredNetwork:
    """As `VisionTransformer.forward` and `Block.forward` of timm compute."""
    layers = []
    for number, block in enumerate(network.blocks):
        parts: tuple[tuple[str, Axis, nn.Module, nn.Module, nn.Module], ...] = (
            ("attention", "patches", block.norm1, block.attn, block.ls1),
            ("feedforward", "features", block.norm2, block.mlp, block.ls2),
        )
        for place, (mixer, axis, norm, module, scale) in enumerate(parts):
            update = nn.Sequential(norm, module, scale)
            layers.append(Layer(number, place, mixer, axis, axis == "patches", module, norm, update))

    def embed(images: Tensor) -> Tensor:
        return network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(images))))

    grid, patch = network.patch_embed.grid_size, network.patch_embed.patch_size
    return LayeredNetwork(
        network, embed, tuple(layers), lambda tokens: network.forward_head(network.norm(tokens)),
        tuple(grid), tuple(patch), network.num_prefix_tokens, network.cls_token is not None,
    )  # fmt: skip
