"""What is timed: predictions of a batch, and training steps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from ffvit.benchmarking.targets import Target
from ffvit.config.architecture import Network
from ffvit.config.hardware import Hardware
from ffvit.config.recipe import Recipe
from ffvit.data.images import ArrayImages
from ffvit.data.splits import Splits
from ffvit.hardware.launch import start_fabric
from ffvit.models.compiling import compile_unavailable_reason
from ffvit.models.description import classes_of, preprocess_of
from ffvit.profiling.timing import forward_call, random_images
from ffvit.run_folder import Config
from ffvit.training.setup import set_up

PLAIN = "torch", "fp32"
"""The engine and precision with which others are compared."""


def build_predictor(target: Target, engine: str, precision: str, device: torch.device) -> nn.Module:
    """The network on an engine: normalized images on the device to logits."""
    network = target.network().to(device)
    if (engine, precision) == PLAIN:
        return network
    from ffvit.inference.engines import build

    calibration = target.calibration_images() if precision == "int8" else None
    return build(network, engine, precision, device, None if calibration is None else calibration.to(device))


def prediction_call(
    target: Target, engine: str, precision: str, device: torch.device, batch: int
) -> Callable[[], object]:
    """Prediction of a random batch, as something to call."""
    images = random_images(target.network().to(device), batch)
    return forward_call(build_predictor(target, engine, precision, device), images)


def training_call(target: Target, precision: str, device: torch.device, batch: int) -> Callable[[], object]:
    """A training step of `ffvit train` on a random batch, compiled as in a long run, as something to call."""
    network = target.network()
    compiled = hasattr(network, "blocks") and compile_unavailable_reason(device) is None
    return train_step_call(network, precision, device, batch, compiled)


def train_step_call(
    network: nn.Module, precision: str, device: torch.device, batch: int, compiled: bool, recipe: Recipe | None = None
) -> Callable[[], object]:
    """A training step of `ffvit train` with a network, on a random batch, as something to call.

    Args:
        network: It is moved to the device and trained.
        precision: fp32 or bf16.
        device: What to compute on.
        batch: Images a step.
        compiled: Compile its blocks.
        recipe: Default: that of `ffvit.Recipe()`.
    """
    preprocess, classes = preprocess_of(network), classes_of(network)
    shape = (batch, *preprocess.img_size, *([] if preprocess.in_chans == 1 else [3]))
    generator = np.random.default_rng(0)
    labels = generator.integers(classes, size=batch)
    images = ArrayImages("random", generator.integers(256, size=shape, dtype=np.uint8), labels)
    splits = Splits(tuple(map(str, range(classes))), images, None, images, "")
    config = Config(
        network=Network(),
        recipe=(recipe or Recipe()).replace(batch_size=batch),
        hardware=Hardware(
            accelerator="cuda" if device.type == "cuda" else "cpu",
            precision=precision,
            compile="always" if compiled else "never",
            workers=0,
        ),
    )
    setup = set_up(start_fabric(config.hardware), config, network.train(), None, splits, lambda _: None)
    batches = [next(iter(setup.loader))]
    return lambda: setup.step(0, 0, batches)
