"""The one module that every `Architecture` becomes. It knows nothing of devices, data or training.

What is compared is the only thing that differs: initial weights, the ramp of stochastic depth, readout and head are
written here once for every mixer.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from timm.layers import DropPath, calculate_drop_path_rates, trunc_normal_
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.fx import Proxy

from ffvit.config.architecture import Architecture, Branch
from ffvit.config.mixers import TokenResizeMethod, load_part
from ffvit.models.embedding import POSITIONS, PatchEmbedding, has_class_token
from ffvit.models.mixers import build_mixer
from ffvit.models.resize import call_at_size, resize

EPSILON = 1e-6
"""LayerNorm's epsilon, as in the paper's code, ViT and DeiT."""


class ResidualBranch(nn.Module):
    """`x + drop_path(mixer(norm(x)))`, the mixer and the norm each along its own axis."""

    def __init__(self, branch: Branch, architecture: Architecture, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.initialize_mixer = branch.row.initialize
        self.along_features = branch.axis == "features"
        self.norm_over_patches = branch.normalised_axis == "patches"
        normalised = architecture.tokens if self.norm_over_patches else architecture.width
        self.norm = nn.Identity() if branch.normalised_axis == "none" else nn.LayerNorm(normalised, eps=EPSILON)
        self.mixer = build_mixer(branch, architecture, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Float[Tensor, "batch tokens features"]) -> Float[Tensor, "batch tokens features"]:
        return x + self.drop_path(self.update(x))

    def update(self, x: Float[Tensor, "batch tokens features"]) -> Float[Tensor, "batch tokens features"]:
        """What the branch adds to its input."""
        y = self.normalized(x)
        return self.mixer(y.transpose(1, 2)).transpose(1, 2) if self.along_features else self.mixer(y)

    def normalized(self, x: Float[Tensor, "batch tokens features"]) -> Float[Tensor, "batch tokens features"]:
        """What the mixer reads."""
        # Not `.mT`, which PyTorch's older ONNX exporter does not know.
        return self.norm(x.transpose(1, 2)).transpose(1, 2) if self.norm_over_patches else self.norm(x)


class Backbone(nn.Module):
    """A network with timm's interface, built from an `Architecture`.

    Args:
        architecture: What to build; also kept as `.architecture`.
        drop_rate: Dropout before the head.
        proj_drop_rate: Dropout inside the branches and, as in the paper's code (`pos_drop`), of the tokens once positions
            are added. The paper's README trains FF-tiny with 0.1.
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 in the first, and is the same
            for all branches of a block.
    """

    def __init__(
        self,
        architecture: Architecture,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.num_classes = architecture.num_classes
        self.in_chans = architecture.in_chans
        self.embed_dim = self.num_features = self.head_hidden_size = architecture.width
        self.num_prefix_tokens = int(has_class_token(architecture))
        self.global_pool = "token" if self.num_prefix_tokens else "avg"
        self.grad_checkpointing = False
        self.takes_other_sizes = False  # resizes its weights for images of another size, in training at several sizes
        self.feature_info = [
            {"module": f"blocks.{i}", "num_chs": architecture.width, "reduction": max(architecture.patch)}
            for i in range(architecture.depth)
        ]

        self.patch_embed = PatchEmbedding(architecture)
        self.cls_token = nn.Parameter(torch.empty(1, 1, architecture.width)) if self.num_prefix_tokens else None
        self.position = POSITIONS[architecture.position](architecture)
        self.pos_drop = nn.Dropout(proj_drop_rate)
        rates = calculate_drop_path_rates(drop_path_rate, architecture.depth)
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(*(ResidualBranch(branch, architecture, proj_drop_rate, rate) for branch in block))
                for block, rate in zip(architecture.blocks, rates, strict=True)
            )
        )
        self.norm: nn.Module = nn.LayerNorm(architecture.width, eps=EPSILON)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = (
            nn.Linear(architecture.width, architecture.num_classes) if architecture.num_classes else nn.Identity()
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Initial weights of the paper's code: truncated normal of 0.02, zero biases; convolutions keep PyTorch's own."""
        for name, parameter in self.named_parameters():
            if name.startswith("position."):
                std = self.architecture.position_std
                trunc_normal_(parameter, std=std, a=-2 * max(1.0, std), b=2 * max(1.0, std))
            elif name == "cls_token":
                trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                self._init_linear(module)
        for module in self.modules():
            if isinstance(module, ResidualBranch) and module.initialize_mixer is not None:
                load_part(module.initialize_mixer)(module.mixer)

    def _init_linear(self, layer: nn.Linear) -> None:
        """Initial weights of a linear layer, which PyTorch has already given its own."""
        if self.architecture.init == "paper":
            trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def embed(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch tokens features"]:
        """Patches as tokens, the class token in front, positions added."""
        traced = isinstance(images, Proxy)  # torch.fx's stand-in, which has no size
        if not traced and images.shape[1:] != (self.in_chans, *self.architecture.img_size):
            height, width = self.architecture.img_size
            raise ValueError(
                f"this network takes images of {self.in_chans} x {height} x {width} (channels, height, width); "
                f"got {' x '.join(map(str, images.shape[1:]))}"
            )
        tokens = self.patch_embed(images)
        if self.cls_token is not None:
            tokens = torch.cat((self.cls_token.expand(tokens.shape[0], -1, -1), tokens), dim=1)
        return self.pos_drop(self.position(tokens))

    def forward_features(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch tokens features"]:
        """Every token after the last block and the last norm."""
        tokens = self.embed(images)
        if self.grad_checkpointing and self.training:
            tokens = checkpoint_seq(self.blocks, tokens)
        else:
            tokens = self.blocks(tokens)
        return self.norm(tokens)

    def forward_head(self, tokens: Float[Tensor, "batch tokens features"], pre_logits: bool = False) -> Tensor:
        """Pool the tokens as the readout says, and compute the logits.

        Returns:
            `batch classes`; with `pre_logits` or without a head `batch features`; with pooling reset to `""`, the same
            for every token.
        """
        if self.global_pool == "token":
            tokens = tokens[:, 0]
        elif self.global_pool == "avg":
            tokens = tokens[:, self.num_prefix_tokens :].mean(dim=1)
        tokens = self.head_drop(tokens)
        return tokens if pre_logits else self.head(tokens)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Tensor:
        if self.takes_other_sizes and images.shape[2:] != self.architecture.img_size:
            return call_at_size(self, images)
        return self.forward_head(self.forward_features(images))

    # The rest of timm's model interface.

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head with the initial weights that the architecture says, for another number of classes (0: none).

        Raises:
            ValueError: `global_pool` is not `token`, `avg` or `""`, or is `token` where there is no class token.
        """
        if global_pool is not None:
            allowed = ("token", "avg", "") if self.num_prefix_tokens else ("avg", "")
            if global_pool not in allowed:
                raise ValueError(f"global_pool must be one of {', '.join(map(repr, allowed))}; got {global_pool!r}")
            self.global_pool = global_pool
        self.num_classes = num_classes
        self.architecture = self.architecture.replace(num_classes=num_classes)
        anchor = self.patch_embed.proj.weight
        self.head = nn.Identity()
        if num_classes:
            self.head = nn.Linear(self.embed_dim, num_classes, device=anchor.device, dtype=anchor.dtype)
            self._init_linear(self.head)
        self.head.train(self.training)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Parameters of more than one dimension that weight decay leaves alone."""
        return {name for name, _ in self.named_parameters() if name == "cls_token" or name.startswith("position.")}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that order the parameters by depth, for rates that fall with it."""
        blocks = r"^blocks\.(\d+)"
        return {
            "stem": r"^cls_token|^position|^patch_embed",
            "blocks": blocks if coarse else [(blocks, None), (r"^norm", (99999,))],
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only each block's input for the backward pass and compute the rest again: less memory, more time."""
        self.grad_checkpointing = enable

    def forward_intermediates(
        self,
        x: Float[Tensor, "batch channels height width"],
        indices: int | list[int] | tuple[int, ...] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> Any:
        """The tokens after chosen blocks, as timm's ViT gives them.

        Args:
            x: Images.
            indices: The last n blocks (a number), these blocks (a list), or all.
            return_prefix_tokens: Return pairs of patches and class token.
            norm: Apply the last norm to all of them.
            stop_early: Stop after the last block asked for.
            output_fmt: `NCHW` for maps of the patch grid, `NLC` for rows of patches.
            intermediates_only: Return only the list, not the pair with the final tokens.
            output_dict: Return `image_intermediates`, and as asked `image_intermediates_prefix` and `image_features`.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NLC'; got {output_fmt!r}")
        taken, last = feature_take_indices(len(self.blocks), indices)
        tokens = self.embed(x)
        kept = []
        for number, block in enumerate(self.blocks[: last + 1] if stop_early else self.blocks):
            tokens = block(tokens)
            if number in taken:
                kept.append(self.norm(tokens) if norm else tokens)
        prefix = self.num_prefix_tokens
        maps = [tokens[:, prefix:] for tokens in kept]
        if output_fmt == "NCHW":
            maps = [patches.transpose(1, 2).unflatten(2, self.architecture.grid).contiguous() for patches in maps]
        class_tokens = [tokens[:, :prefix] for tokens in kept] if return_prefix_tokens and prefix else None
        if output_dict:
            named = {"image_intermediates": maps, "image_intermediates_prefix": class_tokens}
            named |= {} if intermediates_only else {"image_features": self.norm(tokens)}
            return {name: value for name, value in named.items() if value is not None}
        if class_tokens is not None:
            maps = list(zip(maps, class_tokens, strict=True))
        return maps if intermediates_only else (self.norm(tokens), maps)

    def get_intermediate_layers(
        self,
        x: Float[Tensor, "batch channels height width"],
        n: int | list[int] | tuple[int, ...] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
    ) -> Any:
        """The list of `forward_intermediates`, as DINO's code asks for it."""
        return self.forward_intermediates(
            x, n, return_prefix_tokens, norm, output_fmt="NCHW" if reshape else "NLC", intermediates_only=True
        )

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
        method: TokenResizeMethod = "pinv",
    ) -> None:
        """Take images of another size, in pixels (see `ffvit.models.resize`).

        Raises:
            ValueError: The weights do not allow that size.
        """
        resize(self, img_size, patch_size, method)

    def prune_intermediate_layers(
        self, indices: int | list[int] | tuple[int, ...] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what `forward_intermediates` of these blocks does not need; returns their indices."""
        taken, last = feature_take_indices(len(self.blocks), indices)
        self.blocks = self.blocks[: last + 1]
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.head = nn.Identity()
        return taken
