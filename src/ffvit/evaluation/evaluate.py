"""How good weights are on a set of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ffvit.data.images import BadImageError, Images
from ffvit.data.parts import open_images
from ffvit.evaluation.answers import Answers
from ffvit.evaluation.measures import Evaluation, measure
from ffvit.evaluation.ready import ready_to_answer
from ffvit.evaluation.scorer import BATCH, Scorer, answered
from ffvit.machine import Machine, keep_freed_memory, start
from ffvit.network.create import classes_of


@dataclass(frozen=True)
class Score:
    """A network's figures on a set, its answer to each image that could be read, and the images that could not be."""

    evaluation: Evaluation
    answers: Answers
    images: Images
    bad: list[BadImageError]

    @property
    def names(self) -> list[str]:
        """The images answered, in the order of the answers."""
        return answered(self.images, self.bad)


def evaluate(
    weights: str | Path | nn.Module,
    data: str | Path = "digits",
    *,
    model: str | None = None,
    machine: Machine | None = None,
    batch_size: int = BATCH,
    crop: float | None = None,
    interpolation: str | None = None,
    root: Path | None = None,
) -> Score:
    """Score weights on images, whose classes are matched to the network's by name.

    Args:
        weights: A run folder, a file of weights, or a network from `load`.
        data: A folder, a list, `digits` (its test part) or a data set that timm opens.
        model: The network's name, for weights that do not say.
        machine: Where to compute.
        batch_size: Images at once on each device.
        crop: Share of the resized image that the central crop keeps. Default: the run's, or the network's own.
        interpolation: How images are resized. Default: likewise.
        root: Where a data set that timm opens lies.

    Raises:
        UserError: The weights or the images cannot be used.
    """
    ready = ready_to_answer(weights, model)
    machine = machine or Machine()
    classes = ready.class_names or tuple(map(str, range(classes_of(ready.network))))
    images = open_images(str(data), root, ready.class_names)
    fabric = start(machine)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    scorer = Scorer(
        fabric,
        images,
        ready.network,
        classes,
        crop if crop is not None else ready.crop,
        interpolation or ready.interpolation,
        ready.exact,
        batch_size,
        machine.workers,
    )
    answers, bad = scorer(ready.network.to(fabric.device))
    return Score(measure(answers, ready.temperature), answers, images, bad)
