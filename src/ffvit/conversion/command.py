"""What `ffvit convert` was asked for, with the defaults filled in."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from torch import nn

from ffvit.config.choices import choose_data, choose_hardware, choose_recipe
from ffvit.config.deploy_commands import Convert
from ffvit.config.recipe import Recipe, named_recipe
from ffvit.conversion.convert import Inputs, convert
from ffvit.conversion.record import Conversion
from ffvit.errors import OutputError, UserError
from ffvit.inference.run_images import run_of
from ffvit.models.weights import load
from ffvit.run_folder import Run, free_folder

EPOCHS, RATE = 1, 0.25
"""Of the training after each replacement: epochs, and the learning rate as a share of the run's, whose weights are trained already."""


def run(command: Convert, console: Console) -> Conversion:
    """Convert as the command says.

    Raises:
        UserError: As `convert`, or the weights lie in no run folder and no images are given.
    """
    weights = command.weights
    own = None if isinstance(weights, nn.Module) else run_of(Path(weights))
    if own is None and command.data is None:
        raise UserError("these weights do not lie in a run folder, which would say what to train on: give --data")
    if command.resume and command.out is None:
        raise OutputError("--resume needs the folder to go on in: --out FOLDER")
    network = weights if isinstance(weights, nn.Module) else load(weights, command.model)
    data = choose_data(command.data, own.config.data if own else None).located()
    recipe = choose_recipe(command.recipe, _recipe(own, data.source))
    classes = getattr(network, "num_classes", 1)
    # DeiT's soft distillation is a mean over classes: so weighed, labels and teacher count alike.
    recipe = recipe.replace(distillation="soft", distillation_weight=classes / (classes + 1))
    hardware = choose_hardware(command.hardware, own.config.hardware if own else None)
    stem = "network" if isinstance(weights, nn.Module) else Path(weights).absolute().stem
    return convert(
        Inputs(network, data, recipe, hardware, command.seed or 0, command.images),
        command.replacement,
        command.max_loss,
        command.out or free_folder(f"{stem}-converted"),
        resume=command.resume,
        overwrite=command.overwrite,
        console=console,
    )


def _recipe(run: Run | None, source: str) -> Recipe:
    """The recipe of the run that the weights are from, or a named one, made short."""
    base = run.config.recipe if run else named_recipe("digits" if source == "digits" else "small")
    return base.replace(
        epochs=EPOCHS,
        minutes=None,
        warmup_epochs=0.1,
        cooldown_epochs=0.0,
        lr=RATE * base.lr,
        image_scales=(),
        teacher=None,
    )
