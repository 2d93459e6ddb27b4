"""What makes steps fast, or a batch fit, on this device: chosen before the first one, and said.

None of it moves a result by more than rounding.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from lightning_fabric.strategies import ModelParallelStrategy
from torch import nn

from ffvit.data.loader import seconds_per_image
from ffvit.errors import DeviceError
from ffvit.hardware.devices import free_memory
from ffvit.hardware.precision import autocast
from ffvit.hardware.ranks import all_gather
from ffvit.models.compiling import compile_unavailable_reason
from ffvit.models.create import preprocess_of
from ffvit.models.mixers import FeedForward
from ffvit.profiling.count import count
from ffvit.profiling.memory import activation_bytes

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch.utils.data import DataLoader

    from ffvit.config.hardware import Hardware
    from ffvit.config.recipe import Recipe
    from ffvit.data.loader import Batch

LONG = {"cuda": 1e17, "cpu": 2e14}
"""Operations: ten minutes of a GPU at 170 TFLOP/s, of a processor at 330 GFLOP/s; a compilation takes one at most."""

STATE = 5
"""Numbers kept for each parameter while training: itself, its gradient, AdamW's two, the moving average."""

SPARE = 2.0
"""Images are loaded for so many times the speed of the network as it is written: compiled it takes more at a time."""

ROOM = 0.8
"""Share of the free memory that a step may take by this estimate."""


def should_compile(hardware: Hardware, network: nn.Module, recipe: Recipe, images: int, device: torch.device) -> bool:
    """Whether a run's network is compiled.

    By itself only a long run of a network of equal blocks (docs/speed.md: what it gains).

    Args:
        hardware: What was asked for.
        network: Not yet compiled.
        recipe: How long the run is.
        images: Of an epoch.
        device: Where it computes.

    Raises:
        UserError: It was asked for, and is not possible here.
    """
    reason = compile_unavailable_reason(device)
    if hardware.compile == "always" and reason is not None:
        raise DeviceError(f"--compile always: {reason}; or leave it out")
    if hardware.compile != "auto" or reason is not None or not hasattr(network, "blocks"):
        return hardware.compile == "always"
    if recipe.minutes is not None:
        return recipe.minutes >= 10
    return 3.0 * count(network).flops * images * recipe.epochs >= LONG[device.type]


def should_recompute(network: nn.Module, batch: int, fabric: Fabric) -> Literal["GELUs", "blocks"] | None:
    """What is recomputed in the backward pass, where keeping all of it would be too much for the device.

    At first the GELUs of feed-forward branches: two fifths of what an FF-only network keeps, for a few percent of a
    step's time. If that is not enough whole blocks: nine tenths, for a fifth and more (docs/speed.md).

    Args:
        network: On the device, if it fits; told to compute again, if it must and can.
        batch: Images at once on the device.
        fabric: The device and precision.
    """
    if any(isinstance(each, nn.modules.batchnorm._BatchNorm) for each in network.modules()):
        return None  # computed again, a batch would move its statistics again
    room = ROOM * free_memory(fabric.device)

    def fits() -> bool:
        return not any(all_gather(fabric, _needed(network, batch, fabric) > room))

    if fits():
        return None
    feedforward = [each for each in network.modules() if isinstance(each, FeedForward)]
    for each in feedforward:
        each.recomputes = True
    if feedforward and fits():
        return "GELUs"
    for each in feedforward:
        each.recomputes = False
    try:
        cast("Any", network).set_grad_checkpointing(True)
    except (AttributeError, AssertionError, NotImplementedError):  # timm gives the method to networks that refuse it
        return None
    return "blocks"


def has_free_memory(network: nn.Module, batch: int, fabric: Fabric) -> bool:
    """Whether a step takes no more than half of the memory that a processor has left: it may keep what it frees."""
    return fabric.device.type == "cpu" and 2 * _needed(network, batch, fabric) < free_memory(fabric.device)


def loading_workers(loader: DataLoader[Batch], network: nn.Module, batch: int, fabric: Fabric, at_most: int) -> int:
    """How many processes load images as fast as the network takes them: from the time that either needs for a few.

    Args:
        loader: Of the training images, whoever loads them.
        network: On the device.
        batch: Images at once on the device.
        fabric: The device and precision.
        at_most: Where more would be needed.
    """
    if at_most <= 1:
        return at_most
    step = 3 * _forward(network, min(batch, 64) if fabric.device.type != "cpu" else 2, fabric)
    return min(at_most, math.ceil(SPARE * seconds_per_image(loader) / step))


def _forward(network: nn.Module, batch: int, fabric: Fabric) -> float:
    """Seconds of a forward pass for one of so many images."""
    takes, was_training = preprocess_of(network), network.training
    images = torch.zeros(batch, takes.in_chans, *takes.img_size, device=next(network.parameters()).device)
    network.eval()
    with torch.no_grad(), fabric.autocast():
        for _ in range(2):  # the first time loads code
            began = time.perf_counter()
            network(images)
            if fabric.device.type == "cuda":
                torch.cuda.synchronize(fabric.device)
            seconds = time.perf_counter() - began
    network.train(was_training)
    return seconds / batch


def _needed(network: nn.Module, batch: int, fabric: Fabric) -> float:
    """Bytes of weights and their like, and of what a step keeps of the images for the backward pass."""
    takes, was_training = preprocess_of(network), network.training
    here = next(network.parameters()).device  # before a network is sharded that is not yet the device it trains on
    kept = []
    network.eval()
    for images in (1, 2):
        some = torch.zeros(images, takes.in_chans, *takes.img_size, device=here)
        with autocast(fabric.strategy.precision.precision, here):
            kept.append(activation_bytes(partial(network, some), network))
    network.train(was_training)
    shares = fabric.world_size if isinstance(fabric.strategy, ModelParallelStrategy) else 1
    state = STATE * sum(each.nbytes for each in network.parameters()) / shares
    return state + kept[0] + (batch - 1) * (kept[1] - kept[0])  # a pass keeps its weights in half precision, too
