"""The moving average of the weights, kept beside them as a network of its own."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA:
    """Exponential moving average of a network's weights and buffers (DeiT, section 4; timm's ModelEma).

    Args:
        network: What is averaged; the average starts as its copy.
        decay: Share of the old average that each step keeps.
        warmup: Keep no more than (1 + t) / (10 + t) of it in step t, counted from 0 (TensorFlow's
            ExponentialMovingAverage): at a decay of 0.9998, a run of 400 steps would else end at 92 % of its start.
    """

    def __init__(self, network: nn.Module, decay: float, warmup: bool) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay, self.warmup = decay, warmup

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the network's present weights, on the device, without a synchronisation.

        Args:
            network: As it is after the step.
            step: How many steps the run had taken before this one.
        """
        decay = min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
        move = get_ema_multi_avg_fn(decay)
        move(list(self.network.parameters()), list(network.parameters()), None)
        for average, current in zip(self.network.buffers(), network.buffers(), strict=True):
            if average.is_floating_point():
                move([average], [current], None)
            else:
                average.copy_(current)
