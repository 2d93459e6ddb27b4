"""Stochastic depth whose draws belong to an image's place in the batch, not to the process that computes it.

So the result does not depend on how many processes and micro-batches share a batch, for timm's networks as for ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from timm.layers import DropPath
from torch import Tensor, nn

CALLS = 6
"""At most so often a block of timm's calls the same `DropPath` (Mixer: for both its branches; CoaT: six times)."""


class DropPathSampler:
    """A factor for each branch and image, made before each step: 0 where the branch is left out.

    Args:
        network: Its `DropPath`s are made to read their factors here.
        batch_size: Images of a step over all processes.
    """

    def __init__(self, network: nn.Module, batch_size: int) -> None:
        self.batch_size = batch_size
        self.branches: list[_DropByPlace] = []
        keep, scale = [], []
        for parent in list(network.modules()):
            children: list[_DropByPlace] = []
            for name, child in list(parent.named_children()):
                if type(child) is DropPath and child.drop_prob:
                    children.append(_DropByPlace().train(child.training))
                    setattr(parent, name, children[-1])
                    keep.append(1.0 - cast("float", child.drop_prob))
                    scale.append(keep[-1] if child.scale_by_keep and keep[-1] > 0 else 1.0)
            if children:  # also when its forward pass is recomputed for the backward pass
                parent.register_forward_pre_hook(partial(_reset_calls, children))
            self.branches += children
        if self.branches:
            network.register_forward_pre_hook(partial(_reset_calls, self.branches))
        self.keep, self.scale = torch.tensor(keep).view(-1, 1, 1), torch.tensor(scale).view(-1, 1, 1)

    def make(self, seed: int, positions: Sequence[int], device: torch.device) -> None:
        """Draw for a whole batch, and keep what falls to the images at these positions in it."""
        if not self.branches:
            return
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(len(self.branches), CALLS, self.batch_size, generator=generator)[..., list(positions)]
        factors = (uniform < self.keep) / self.scale
        if device.type == "cuda":  # else the copy would be waited for
            factors = factors.pin_memory()
        for branch, of_branch in zip(self.branches, factors.to(device, non_blocking=True), strict=True):
            branch.factors = of_branch


class _DropByPlace(nn.Module):
    """A `DropPath` without numbers of its own, which blocks would have to be compiled for one by one."""

    factors: Tensor | None = None
    call = 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.factors is None:
            return x
        self.call += 1
        return x * self.factors[self.call - 1].to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def _reset_calls(branches: Sequence[_DropByPlace], *_: object) -> None:
    for branch in branches:
        branch.call = 0
