"""Images into tokens: the patch embedding, and what is added to tell positions apart."""

from __future__ import annotations

import torch
from jaxtyping import Float
from timm.layers import build_sincos2d_pos_embed
from torch import Tensor, nn
from torch.nn import functional

from ffvit.config.architecture import Architecture


def has_class_token(architecture: Architecture) -> bool:
    """Whether a class token stands in front of the patches."""
    return architecture.readout == "class_token"


class PatchEmbedding(nn.Module):
    """One convolution with kernel = stride = patch, its output in rows as tokens."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        patch = architecture.patch
        self.proj = nn.Conv2d(architecture.in_chans, architecture.width, kernel_size=patch, stride=patch)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch patches features"]:
        return self.proj(images).flatten(2).transpose(1, 2)


class PositionMap(nn.Module):
    """A learned map resized bilinearly to the patch grid, and a vector for the class token (the paper's code)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.grid = architecture.grid
        rows, columns = architecture.position_grid or architecture.grid
        self.map = nn.Parameter(torch.empty(1, architecture.width, rows, columns))
        self.class_token = (
            nn.Parameter(torch.empty(1, 1, architecture.width)) if has_class_token(architecture) else None
        )

    def forward(self, tokens: Float[Tensor, "batch tokens features"]) -> Float[Tensor, "batch tokens features"]:
        resized = functional.interpolate(self.map, size=self.grid, mode="bilinear", align_corners=False)
        resized = resized.flatten(2).transpose(1, 2)
        return tokens + (resized if self.class_token is None else torch.cat((self.class_token, resized), dim=1))


class PositionVectors(nn.Module):
    """A learned vector for every token (ViT)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(1, architecture.tokens, architecture.width))

    def forward(self, tokens: Float[Tensor, "batch tokens features"]) -> Float[Tensor, "batch tokens features"]:
        return tokens + self.vectors


class SinCosPositions(nn.Module):
    """Fixed 2-D sine-cosine vectors (MoCo v3, arXiv 2104.02057, section 4.2); zero for a class token, as there."""

    vectors: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.register_buffer("vectors", self._computed(), persistent=False)

    def _computed(self) -> Tensor:
        grid = build_sincos2d_pos_embed(list(self.architecture.grid), dim=self.architecture.width)[None]
        if has_class_token(self.architecture):
            grid = torch.cat((grid.new_zeros(1, 1, self.architecture.width), grid), dim=1)
        return grid

    def init_non_persistent_buffers(self) -> None:
        """Compute the vectors again where they are, as timm's modules do and transformers asks for."""
        self.vectors = self._computed().to(self.vectors)

    def forward(self, tokens: Float[Tensor, "batch tokens features"]) -> Float[Tensor, "batch tokens features"]:
        return tokens + self.vectors


POSITIONS = {
    "map": PositionMap,
    "vectors": PositionVectors,
    "sincos": SinCosPositions,
    "none": nn.Identity,  # which ignores its arguments
}
