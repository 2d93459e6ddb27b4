"""How good weights are on a set of images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ffvit.data.images import BadImageError, Images
from ffvit.data.parts import open_images
from ffvit.errors import UserError
from ffvit.evaluation.answers import Answers
from ffvit.evaluation.measures import Evaluation, measure
from ffvit.evaluation.scorer import BATCH, Scorer
from ffvit.machine import Machine, start
from ffvit.network.weights import load
from ffvit.run import Run

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
        bad = {each.name for each in self.bad}
        return [name for name in map(self.images.name, range(len(self.images))) if name not in bad]


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
    network = weights if isinstance(weights, nn.Module) else load(weights, model)
    config = getattr(network, "pretrained_cfg", None) or {}
    temperature = None
    crop_of, interpolation_of = config.get("crop_pct", 0.875), config.get("interpolation", "bicubic")
    if not isinstance(weights, nn.Module) and (Path(weights) / "config.yaml").is_file():
        run = Run(weights)
        crop_of, interpolation_of = run.config.recipe.evaluation_crop, run.config.recipe.interpolation
        temperature = (run.summary() or {}).get("temperature")
    names: tuple[str, ...] | None = getattr(network, "class_names", None)
    images, classes = open_images(str(data), root, names)
    if len(classes) != network.num_classes:
        raise UserError(f"{data}: {len(classes)} classes, but the network answers with {network.num_classes}")
    fabric = start(machine or Machine())
    network = network.to(fabric.device)
    scorer = Scorer(
        fabric, images, network, classes, crop or crop_of, interpolation or interpolation_of, batch_size,
        (machine or Machine()).workers,
    )  # fmt: skip
    answers, bad = scorer(network)
    return Score(measure(answers, temperature), answers, images, bad)
