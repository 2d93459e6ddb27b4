"""Parameters and FLOPs of a network, counted without running it."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ffvit.config.architecture import Network
from ffvit.models.create import create_model
from ffvit.models.description import preprocess_of


@dataclass(frozen=True)
class Count:
    """Parameters, and the FLOPs of one image's forward pass (a multiply-add is two)."""

    parameters: int
    flops: int


def count(network: nn.Module) -> Count:
    """Count a network's parameters, and the FLOPs of its matrix products, convolutions and attention.

    Nothing is computed, so a large network takes no longer.
    """
    preprocess = preprocess_of(network)
    # A copy, because the counter's hooks fail on some parameters.
    network_on_meta = copy.deepcopy(network).to("meta").eval().requires_grad_(False)
    image = torch.empty(1, preprocess.in_chans, *preprocess.img_size, device="meta")
    # Plain attention is made of matrix products that the counter knows; it has no formula for every fused kernel.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network_on_meta(image)
    return Count(sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops())


@functools.cache
def count_described(network: Network, classes: int) -> Count:
    """As `count`, for a network that is not built, on data of so many classes."""
    with torch.device("meta"):
        return count(create_model(network, classes))
