"""Weights over patches for another patch grid: the algebra, written once for every mixer.

A token-mixing matrix reads with its rows (input fields) and writes with its columns (output fields), both maps of the patch
grid. If tokens `x` of the old grid become `B x` on the new one, an output field becomes `B w`, and an input field
must give on `B x` what it gave on `x`: it becomes `w B+`, with the pseudo-inverse (FlexiViT's algebra for patch embeddings,
arXiv 2212.08013, section 3.4, applied to the fields of feed-forward layers over patches).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ffvit.config.mixers import TokenResizeMethod

METHODS: tuple[str, ...] = get_args(TokenResizeMethod)

Grid = tuple[int, int]


@dataclass(frozen=True)
class TokenResize:
    """How what belongs to the tokens of one grid becomes what belongs to those of another.

    Attributes:
        old: Rows and columns of patches that the weights are for.
        new: Rows and columns that they shall serve.
        prefix: Class tokens in front of the patches (0 or 1). They keep their own rows and columns.
        method: `pinv`: as above, where a patch of the new grid holds the mean of what it covers of the old one. `bilinear`: the same,
            with tokens interpolated bilinearly. `interpolate`: input fields interpolated bilinearly too, and not scaled. `block`:
            the old network on each of K x K parts of the image (MLP-Mixer, arXiv 2105.01601, appendix C).
    """

    old: Grid
    new: Grid
    prefix: int
    method: TokenResizeMethod = "pinv"

    @cached_property
    def fields(self) -> list[tuple[Float[Tensor, "new old"], Float[Tensor, "new old"]]]:
        """Pairs of matrices for output fields and input fields; as many as copies of each hidden unit."""
        if self.method == "block":
            return self._blocks()
        grids = zip(self.old, self.new, strict=True)
        one_axis = _area_matrix if self.method == "pinv" else _bilinear_matrix
        resize = self._with_prefix(torch.kron(*(one_axis(old, new) for old, new in grids)))
        return [(resize, resize if self.method == "interpolate" else torch.linalg.pinv(resize).T)]

    @property
    def copies(self) -> int:
        """How many hidden units each becomes."""
        return len(self.fields)

    def read(self, weight: Float[Tensor, "hidden old"]) -> Float[Tensor, "more_hidden new"]:
        """A matrix that reads all tokens."""
        return torch.cat([weight @ field.to(weight).T for _, field in self.fields])

    def write(self, weight: Float[Tensor, "old hidden"]) -> Float[Tensor, "new more_hidden"]:
        """A matrix that writes all tokens."""
        return torch.cat([field.to(weight) @ weight for field, _ in self.fields], dim=1)

    def mix(self, weight: Float[Tensor, "*heads old old"]) -> Float[Tensor, "*heads new new"]:
        """A matrix from tokens to tokens."""
        products = [out.to(weight) @ weight @ field.to(weight).T for out, field in self.fields]
        return torch.stack(products).sum(dim=0)

    def values(self, vector: Float[Tensor, " old"]) -> Float[Tensor, " new"]:
        """A number for every token."""
        return self.write(vector[:, None]).sum(dim=1)

    def hidden(self, vector: Float[Tensor, " hidden"]) -> Float[Tensor, " more_hidden"]:
        """A number for every hidden unit."""
        return vector.repeat(self.copies)

    def _with_prefix(
        self, patches: Float[Tensor, "new old"], weight: float = 1.0
    ) -> Float[Tensor, "more_new more_old"]:
        return torch.block_diag(weight * torch.eye(self.prefix, dtype=patches.dtype), patches)

    def _blocks(self) -> list[tuple[Tensor, Tensor]]:
        factors = [new / old for old, new in zip(self.old, self.new, strict=True)]
        if any(factor % 1 for factor in factors):
            raise ValueError(
                f"block needs a grid that is a multiple of {self.old[0]} x {self.old[1]} patches; got {self.new[0]} x {self.new[1]}"
            )
        rows, columns = map(int, factors)
        pairs = []
        for place in range(rows * columns):
            part = [
                torch.eye(new, dtype=torch.float64)[:, start * old : (start + 1) * old]
                for old, new, start in zip(self.old, self.new, divmod(place, columns), strict=True)
            ]
            patches = torch.kron(*part)
            # The class token is read by every part, and gets the mean of what they write.
            pairs.append((self._with_prefix(patches, 1 / (rows * columns)), self._with_prefix(patches)))
        return pairs


def _area_matrix(old: int, new: int) -> Float[Tensor, "new old"]:
    """Along one axis, the share of each new cell that each old cell covers."""
    edges_old = torch.arange(old + 1, dtype=torch.float64) / old
    edges_new = torch.arange(new + 1, dtype=torch.float64) / new
    ends = torch.minimum(edges_new[1:, None], edges_old[None, 1:])
    starts = torch.maximum(edges_new[:-1, None], edges_old[None, :-1])
    return (ends - starts).clamp(min=0) * new


def _bilinear_matrix(old: int, new: int) -> Float[Tensor, "new old"]:
    """Along one axis, linear interpolation, with antialiasing where the grid becomes smaller."""
    units = torch.eye(old, dtype=torch.float64)[:, None, :, None]
    resized = torch.nn.functional.interpolate(units, size=(new, 1), mode="bilinear", antialias=new < old)
    return resized[:, 0, :, 0].T.contiguous()
