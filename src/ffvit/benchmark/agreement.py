"""How good a network's answers are on an engine, on the images its run was tested on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ffvit.benchmark.targets import Target
from ffvit.config.hardware import Hardware
from ffvit.hardware.launch import start_fabric
from ffvit.inference.evaluator import Evaluator
from ffvit.models.create import class_names_of, preprocess_of


@dataclass(frozen=True)
class Agreement:
    """Answers to the test images.

    Attributes:
        top1: Share answered rightly, 0 to 1.
        differ: How many of the answers are others than those of the plain network in fp32.
        images: Of how many.
    """

    top1: float
    differ: int
    images: int


def measure_agreement(
    subject: Target, models: Sequence[nn.Module], device: torch.device, batch: int
) -> list[Agreement]:
    """Score the engines of a network as `ffvit evaluate` scores it, on the test split of its run.

    Args:
        subject: With a run.
        models: The network on engines.
        device: What they compute on.
        batch: Images at once.

    Raises:
        UserError: The run's images cannot be used.
    """
    plain = subject.network().to(device)
    scorer = Evaluator(
        start_fabric(Hardware(accelerator="cuda" if device.type == "cuda" else "cpu", precision="32-true")),
        subject.splits.test,
        preprocess_of(plain),
        class_names_of(plain),
        batch,
    )
    reference, _ = scorer(plain)
    found = []
    for model in models:
        answers, _ = scorer(model)
        differ = int((answers.predicted != reference.predicted).sum())
        found.append(Agreement(float(answers.correct.mean()), differ, len(answers.labels)))
    return found
