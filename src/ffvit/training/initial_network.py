"""The networks that a training starts with: its own with initial weights, and its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ffvit.config.architecture import Network
from ffvit.config.recipe import Recipe
from ffvit.errors import ModelError
from ffvit.models.create import create_model
from ffvit.models.description import classes_of, preprocess_of, set_preprocess
from ffvit.models.image_size import resized_network, set_image_size
from ffvit.models.weights import load
from ffvit.models.weights_file import read_weights
from ffvit.run_folder import Config


def network_to_start_from(weights: str, image_size: tuple[int, int] | None) -> Network | None:
    """What weights say of their network, resized if another image size is asked for; None, if they do not say.

    Raises:
        UserError: They cannot be read, or not be resized so.
    """
    _, info = read_weights(Path(weights))
    if info.network is None or image_size is None:
        return info.network
    return resized_network(info.network, image_size)


def initial_network(config: Config, classes: int) -> tuple[nn.Module, str]:
    """The network with its initial weights, and words on where they came from.

    Weights of the same network for another image size are resized.

    Raises:
        UserError: The weights cannot be read, or belong to another network.
    """
    dropout, drop_path = config.recipe.dropout, config.recipe.drop_path
    if config.start_from is None or config.start_from == "pretrained":
        pretrained = config.start_from == "pretrained"
        network: Any = create_model(
            config.network, classes, pretrained=pretrained, dropout=dropout, drop_path=drop_path
        )
        if config.preprocess is not None:
            set_preprocess(network, config.preprocess)
        return network, "published weights" if pretrained else f"random initial weights (seed {config.seed})"
    own = _network_to_resize(config)
    network = load(config.start_from, own or config.network, classes, dropout=dropout, drop_path=drop_path)
    resized = ""
    if own is not None:
        before = preprocess_of(network).img_size
        set_image_size(network, _image_size(config.network))
        resized = f", resized from {before[0]} x {before[1]} px"
    head = f", with a new head for {classes} classes" if network.new_head else ""
    return network.train(), f"weights of {config.start_from}{resized}{head}"


def _network_to_resize(config: Config) -> Network | None:
    """What the weights say of their network, if that becomes the run's when it is resized; else None."""
    own = network_to_start_from(str(config.start_from), None)
    size = _image_size(config.network)
    if own is None or size == _image_size(own):
        return None
    same = resized_network(own, size).architecture == config.network.architecture and own.name == config.network.name
    return own if same else None


def _image_size(network: Network) -> tuple[int, int]:
    with torch.device("meta"):
        return preprocess_of(create_model(network)).img_size


def teacher_network(recipe: Recipe, classes: int, channels: int) -> nn.Module | None:
    """The network that a recipe distills, if it names one.

    Raises:
        UserError: It cannot be loaded, or predicts other classes or takes other images.
    """
    if recipe.teacher is None:
        return None
    if Path(recipe.teacher).exists():
        teacher = load(recipe.teacher)
    else:
        teacher = create_model(recipe.teacher, pretrained=True).eval()
    if classes_of(teacher) != classes:
        raise ModelError(
            f"recipe.teacher: {recipe.teacher} predicts {classes_of(teacher)} classes, the data has {classes}; "
            "train it on this data first and give its run folder"
        )
    if preprocess_of(teacher).in_chans != channels:
        raise ModelError(
            f"recipe.teacher: {recipe.teacher} takes images of {preprocess_of(teacher).in_chans} channels, the network of "
            f"{channels}: they must see the same"
        )
    return teacher
