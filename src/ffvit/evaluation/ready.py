"""A trained network together with what its answers need: how its images are prepared, its class names, its temperature."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ffvit.network.weights import load
from ffvit.run import Run


@dataclass(frozen=True)
class Ready:
    """A network in evaluation mode.

    Attributes:
        network: The network.
        class_names: In the order of the logits, or None.
        crop: Share of the resized image that the central crop keeps.
        interpolation: How images are resized.
        exact: Whether images are decoded and resized by Pillow, to the bit.
        temperature: Fitted on its run's selection part, if there is a run that had one.
    """

    network: nn.Module
    class_names: tuple[str, ...] | None
    crop: float
    interpolation: str
    exact: bool
    temperature: float | None


def ready_to_answer(weights: str | Path | nn.Module, model: str | None = None) -> Ready:
    """Load a run folder or a file of weights, or take a network as it is.

    Raises:
        UserError: As `ffvit.load`.
    """
    network = weights.eval() if isinstance(weights, nn.Module) else load(weights, model)
    config = getattr(network, "pretrained_cfg", None) or {}
    crop, interpolation = config.get("crop_pct") or 0.875, config.get("interpolation") or "bicubic"
    exact, temperature = True, None
    if not isinstance(weights, nn.Module) and (Path(weights) / "config.yaml").is_file():
        run = Run(weights)
        recipe = run.config.recipe
        crop, interpolation, exact = recipe.evaluation_crop, recipe.interpolation, recipe.exact != "never"
        temperature = (run.summary() or {}).get("temperature")
    return Ready(network, getattr(network, "class_names", None), crop, interpolation, exact, temperature)
