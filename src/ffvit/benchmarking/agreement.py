"""How well an engine predicts the test images of a run, compared with plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ffvit.benchmarking.targets import Target
from ffvit.config.hardware import Hardware
from ffvit.hardware.launch import start_fabric
from ffvit.inference.evaluator import Evaluator
from ffvit.models.description import class_names_of, preprocess_of


@dataclass(frozen=True)
class Agreement:
    """Predictions of the test images.

    Attributes:
        top1: Share of correct predictions, 0 to 1.
        differ: How many predictions differ from those of PyTorch in fp32.
        images: Of how many.
    """

    top1: float
    differ: int
    images: int


def measure_agreement(target: Target, models: Sequence[nn.Module], device: torch.device, batch: int) -> list[Agreement]:
    """Evaluate a network on engines as `ffvit evaluate` does, on the test split of its run.

    Args:
        target: A run folder.
        models: The network on each engine.
        device: What they compute on.
        batch: Images at once.

    Raises:
        UserError: The run's images cannot be used.
    """
    plain = target.network().to(device)
    evaluate = Evaluator(
        start_fabric(Hardware(accelerator="cuda" if device.type == "cuda" else "cpu", precision="fp32")),
        target.splits().test,
        preprocess_of(plain),
        class_names_of(plain),
        batch,
    )
    reference, _ = evaluate(plain)
    agreements = []
    for model in models:
        predictions, _ = evaluate(model)
        differ = int((predictions.predicted != reference.predicted).sum())
        agreements.append(Agreement(float(predictions.correct.mean()), differ, len(predictions.labels)))
    return agreements
