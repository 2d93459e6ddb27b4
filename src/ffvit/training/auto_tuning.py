"""What makes steps fast, or a batch fit, on this device: chosen before the first one, and said.

None of it moves a result by more than rounding.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn

from ffvit.errors import DeviceError
from ffvit.hardware.devices import free_memory
from ffvit.hardware.precision import autocast, precision_of
from ffvit.hardware.ranks import all_gather
from ffvit.models.compiling import compile_unavailable_reason
from ffvit.models.description import preprocess_of
from ffvit.models.mixers import FeedForward
from ffvit.profiling.count import count
from ffvit.profiling.memory import activation_bytes

if TYPE_CHECKING:
    from ffvit.config.hardware import Hardware
    from ffvit.config.recipe import Recipe
    from ffvit.hardware.fabric import Fabric

LONG = {"cuda": 1e17, "cpu": 2e14}
"""Operations: ten minutes of a GPU at 170 TFLOP/s, of a processor at 330 GFLOP/s; a compilation takes one at most."""

STATE = 5
"""Numbers kept for each parameter while training: itself, its gradient, AdamW's two, the moving average."""

ROOM = 0.8
"""Share of the free memory that a step may take by this estimate."""


def should_compile(hardware: Hardware, network: nn.Module, recipe: Recipe, images: int, device: torch.device) -> bool:
    """Whether a run's network is compiled: if asked for, or by itself in a long run of a network of equal blocks.

    docs/speed.md says what it gains. `images` is the number of an epoch.

    Raises:
        UserError: It was asked for, and is not possible here.
    """
    reason = compile_unavailable_reason(device)
    if recipe.image_scales:
        reason = "recipe.image_scales changes the weights' shapes at each step"
    if hardware.compile == "always" and reason is not None:
        raise DeviceError(f"--compile always: {reason}; or leave it out")
    if hardware.compile != "auto" or reason is not None or not hasattr(network, "blocks"):
        return hardware.compile == "always"
    if recipe.minutes is not None:
        return recipe.minutes >= 10
    return 3.0 * count(network).flops * images * recipe.epochs >= LONG[device.type]


def should_recompute(network: nn.Module, batch: int, fabric: Fabric) -> Literal["GELUs", "blocks"] | None:
    """Have a network recompute in the backward pass what is too much for the device to keep, and say what that is.

    At first the GELUs of feed-forward branches: two fifths of what an FF-only network keeps, for a few percent of a
    step's time. If that is not enough whole blocks: nine tenths, for a fifth and more (docs/speed.md). `batch` is the
    number of images at once on the device.
    """
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        return None  # recomputed, a batch would move its statistics again
    room = ROOM * free_memory(fabric.device)

    def fits() -> bool:
        return not any(all_gather(fabric, _needed(network, batch, fabric) > room))

    if fits():
        return None
    branches = [module for module in network.modules() if isinstance(module, FeedForward)]
    for branch in branches:
        branch.recomputes = True
    if branches and fits():
        return "GELUs"
    for branch in branches:
        branch.recomputes = False
    try:
        cast("Any", network).set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError):  # timm gives the method to networks that refuse it
        return None
    return "blocks"


def has_free_memory(network: nn.Module, batch: int, fabric: Fabric) -> bool:
    """Whether a step takes no more than half of the memory that a processor has left: it may keep what it frees."""
    return fabric.device.type == "cpu" and 2 * _needed(network, batch, fabric) < free_memory(fabric.device)


def _needed(network: nn.Module, batch: int, fabric: Fabric) -> float:
    """Bytes of weights and their like, and of what a step keeps of the images for the backward pass."""
    from lightning_fabric.strategies import ModelParallelStrategy

    shape, was_training = preprocess_of(network).shape, network.training
    device = next(network.parameters()).device  # before a network is sharded that is not yet the device it trains on
    kept = []
    network.eval()
    for number in (1, 2):
        images = torch.zeros(number, *shape, device=device)
        with autocast(precision_of(fabric), device):
            kept.append(activation_bytes(partial(network, images), network))
    network.train(was_training)
    shares = fabric.world_size if isinstance(fabric.strategy, ModelParallelStrategy) else 1
    state = STATE * sum(weight.nbytes for weight in network.parameters()) / shares
    return state + kept[0] + (batch - 1) * (kept[1] - kept[0])  # a pass keeps its weights in half precision, too
