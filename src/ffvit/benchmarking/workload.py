"""What is timed: answers to a batch of images, and steps of training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ffvit.benchmarking.targets import Target
from ffvit.config.recipe import Recipe
from ffvit.models.compiling import compile_blocks, compile_unavailable_reason
from ffvit.models.create import classes_of, preprocess_of
from ffvit.profiling.timing import forward_call
from ffvit.training.optimizer import build_optimizer

PLAIN = "torch", "fp32"
"""The engine and precision that a network is trained in, and that others are compared with."""

Step = Callable[[Float[Tensor, "batch channels height width"], Int[Tensor, " batch"]], None]


def build_predictor(subject: Target, engine: str, precision: str, device: torch.device) -> nn.Module:
    """The network on an engine: normalised images on the device to logits."""
    network = subject.network().to(device)
    if (engine, precision) == PLAIN:
        return network
    from ffvit.inference.engines import build

    calibration = subject.calibration().to(device) if precision == "int8" else None
    return build(network, engine, precision, device, calibration)


def training_step(network: nn.Module, precision: str, compiled: bool) -> Step:
    """A step as `ffvit train` makes it: forward, cross entropy, backward, the recipe's optimizer."""
    network.train()
    optimizer = build_optimizer(network, Recipe())
    if compiled:
        compile_blocks(network)

    def step(images: Tensor, labels: Tensor) -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def images_for(network: nn.Module, batch: int, device: torch.device) -> Float[Tensor, "batch channels height width"]:
    """Random images such as the network takes, normalised."""
    takes = preprocess_of(network)
    return torch.randn(batch, takes.in_chans, *takes.img_size, device=device)


def predicting(subject: Target, engine: str, precision: str, device: torch.device, batch: int) -> Callable[[], object]:
    """Prediction of a batch, everything it needs made."""
    images = images_for(subject.network(), batch, device)
    return forward_call(build_predictor(subject, engine, precision, device), images)


def training(subject: Target, precision: str, device: torch.device, batch: int) -> Callable[[], object]:
    """A training step on a batch, everything it needs made."""
    network = subject.network().to(device)
    compiled = hasattr(network, "blocks") and compile_unavailable_reason(device) is None
    step = training_step(network, precision, compiled)  # as a long run of `ffvit train` would be
    images = images_for(network, batch, device)
    labels = torch.randint(classes_of(network), (batch,), device=device)
    return lambda: step(images, labels)
