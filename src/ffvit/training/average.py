"""The moving average of the weights, kept beside them as a network of its own."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving average of a network's weights and buffers (DeiT, section 4; timm's ModelEma).

    Args:
        network: What is averaged; the average starts as its copy.
        decay: Share of the old average that each step keeps.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self._move = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the network's present weights, on the device, without a synchronisation."""
        averaged, present = list(self.network.parameters()), list(network.parameters())
        self._move(averaged, present, None)
        for mine, its in zip(self.network.buffers(), network.buffers(), strict=True):
            if mine.is_floating_point():
                self._move([mine], [its], None)
            else:
                mine.copy_(its)
