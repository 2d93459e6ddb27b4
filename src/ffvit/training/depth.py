"""Stochastic depth whose draws belong to an image's place in the batch, not to the process that happens to compute it.

So it moves nothing over how many processes and accumulated parts a batch is spread, for timm's networks as for ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from timm.layers import DropPath
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

CALLS = 6
"""At most so often a block of timm's calls the same `DropPath` (Mixer: for both its branches; CoaT: six times)."""


class Draws:
    """One uniform draw for each branch and image, made before each step; branches take theirs in the order they run.

    Args:
        network: Its `DropPath`s are made to read their draws here.
        batch_size: Images of a step over all processes.
    """

    def __init__(self, network: nn.Module, batch_size: int) -> None:
        self.batch_size = batch_size
        self.branches = 0
        self.taken = 0
        self.uniform: Float[Tensor, "branches images"] | None = None
        for parent in list(network.modules()):
            for name, child in parent.named_children():
                if type(child) is DropPath and child.drop_prob:
                    setattr(parent, name, _ByPlace(child, self).train(child.training))
                    self.branches += CALLS

    def make(self, seed: int, positions: Sequence[int], device: torch.device) -> None:
        """Draw for a whole batch, and keep what falls to the images at these positions in it."""
        generator = torch.Generator().manual_seed(seed)
        of_all = torch.rand(self.branches, self.batch_size, generator=generator)
        self.uniform = of_all[:, list(positions)].to(device, non_blocking=True)
        self.taken = 0

    def take(self) -> Float[Tensor, " images"]:
        """The draws of the branch that runs next."""
        assert self.uniform is not None
        self.taken += 1
        return self.uniform[self.taken - 1]


class _ByPlace(nn.Module):
    def __init__(self, of: DropPath, draws: Draws) -> None:
        super().__init__()
        self.keep = 1.0 - cast("float", of.drop_prob)
        self.scale = bool(of.scale_by_keep)
        self.draws = draws

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.draws.uniform is None:
            return x
        kept = (self.draws.take() < self.keep).to(x.dtype)
        if self.scale and self.keep > 0:
            kept = kept / self.keep
        return x * kept.view(-1, *[1] * (x.ndim - 1))
