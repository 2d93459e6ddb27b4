"""Parameters and floating-point operations of a network, counted without running it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ffvit.models.create import preprocess_of


@dataclass(frozen=True)
class Count:
    """Parameters, and operations of one prediction for one image (a multiply-add is two)."""

    parameters: int
    flops: int


def count(network: nn.Module) -> Count:
    """Count a network's parameters and operations.

    The operations are those torch counts: matrix products, convolutions and attention, which are nearly all. Nothing is
    computed, so it takes no longer for a large network.
    """
    takes = preprocess_of(network)
    shadow = (
        copy.deepcopy(network).to("meta").eval().requires_grad_(False)
    )  # the counter's hooks fail on some parameters
    image = torch.empty(1, takes.in_chans, *takes.img_size, device="meta")
    # Plain attention is made of matrix products that the counter knows; it has no formula for every fused kernel.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        shadow(image)
    return Count(sum(each.numel() for each in network.parameters()), counter.get_total_flops())
