"""How well a network predicts images that were made worse, beside the images as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from rich.console import Console
from torch import nn

from ffvit.inference.corruptions import (
    CLEAN,
    PATCHES,
    Condition,
    CorruptedImages,
    as_prepared,
    check_corruptions,
)
from ffvit.inference.evaluator import Evaluator
from ffvit.inference.intervals import PairedDifference, Proportion
from ffvit.terminal import progress


@dataclass(frozen=True, eq=False)
class Robustness:
    """A network's correct predictions under several conditions, all for the same images.

    Attributes:
        conditions: What was done to the images; the first is nothing (`CLEAN`).
        correct: Whether each prediction is correct.
        seed: Of what was drawn.
    """

    conditions: tuple[Condition, ...]
    correct: Bool[np.ndarray, "conditions images"]
    seed: int

    @property
    def corruptions(self) -> tuple[str, ...]:
        """The corruptions, in their order."""
        return tuple(dict.fromkeys(condition.corruption for condition in self.conditions[1:]))

    @property
    def severities(self) -> tuple[int, ...]:
        """The severities, mildest first."""
        return tuple(dict.fromkeys(condition.severity for condition in self.conditions[1:]))

    @property
    def averaged(self) -> tuple[str, ...]:
        """ImageNet-C's corruptions, whose accuracies are also averaged."""
        return tuple(name for name in self.corruptions if name not in PATCHES)

    def table(self, corruptions: Sequence[str], severity: int | None = None) -> Bool[np.ndarray, "some images"]:
        """Correct predictions under some of the conditions.

        Args:
            corruptions: Under these.
            severity: At this severity. Default: at all.
        """
        return self.correct[
            [
                place
                for place, condition in enumerate(self.conditions)
                if condition.corruption in corruptions and severity in (None, condition.severity)
            ]
        ]

    def top1(self, corruptions: Sequence[str], severity: int | None = None) -> Proportion:
        """Mean top-1 accuracy under some of the conditions, with an interval over images."""
        return Proportion.of_table(self.table(corruptions, severity))

    def less(self, other: Robustness, corruptions: Sequence[str], severity: int | None = None) -> PairedDifference:
        """The same of this network less another one's, image by image."""
        first, second = (each.table(corruptions, severity).mean(axis=0) for each in (self, other))
        return PairedDifference.of(first, second)

    def to_dict(self, reference: Robustness | None = None) -> dict[str, Any]:
        """As JSON holds it, with the differences to a reference."""

        def figures(corruptions: Sequence[str], severity: int | None = None) -> dict[str, Any]:
            figures = {"top1": asdict(self.top1(corruptions, severity))}
            if reference is not None:
                figures["less_reference"] = asdict(self.less(reference, corruptions, severity))
            return figures

        return {
            "images": self.correct.shape[1],
            "seed": self.seed,
            "clean": figures([CLEAN.corruption]),
            **({"mean": figures(self.averaged)} if self.averaged else {}),
            "corruptions": {
                name: {
                    "mean": figures([name]),
                    **{f"severity_{severity}": figures([name], severity) for severity in self.severities},
                }
                for name in self.corruptions
            },
        }


def score_corrupted(
    networks: Sequence[nn.Module],
    evaluator: Evaluator,
    corruptions: Sequence[str],
    severities: Sequence[int],
    seed: int,
    console: Console,
) -> list[Robustness]:
    """Score networks on corrupted images.

    Args:
        networks: In evaluation mode, all for the same preprocessing.
        evaluator: What scores them on the images as they are.
        corruptions: As `choose_corruptions` gives them.
        severities: Each from 1 to 5.
        seed: Of what is drawn.
        console: Where progress is shown.

    Raises:
        UserError: A package is missing, images are too small, or they are prepared inside an exported file.
    """
    preprocess = evaluator.preprocess
    check_corruptions(corruptions, preprocess)
    assert preprocess is not None
    levels = sorted(set(severities))
    conditions = CLEAN, *(Condition(name, severity) for name in corruptions for severity in levels)
    images = CorruptedImages(evaluator.images, preprocess, conditions, seed)
    corrupted = evaluator.on(images, transform=as_prepared)
    results = []
    with progress(console, "images", auto_refresh=False) as bar:
        task = bar.add_task("corrupted images", total=len(networks) * len(images))
        for network in networks:
            predictions, _ = corrupted(network, lambda count: bar.update(task, advance=count, refresh=True))
            correct = predictions.correct.reshape(-1, len(conditions)).T
            results.append(Robustness(tuple(conditions), correct, seed))
    return results
