"""A network from a name, an `Architecture` or a file, ours and timm's through one door."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any, cast

import timm
import torch
from torch import nn

from ffvit.config.architecture import NAMED, Architecture, Network
from ffvit.config.preprocess import Preprocess
from ffvit.errors import ModelError, UserError, did_you_mean
from ffvit.models.backbone import Backbone
from ffvit.models.registry import build, default_cfgs, input_config


def create_model(
    model: str | Architecture | Network,
    classes: int | None = None,
    *,
    channels: int | None = None,
    image: int | tuple[int, int] | None = None,
    pretrained: bool = False,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> nn.Module:
    """Build a network, with random initial weights unless `pretrained`.

    Args:
        model: A name of ours or of timm's, or an `Architecture`.
        classes: Number of classes; default: the network's own.
        channels: Channels of the image; default: the network's own.
        image: Image size in pixels, (height, width) or one number for a square; default: the network's own.
        pretrained: Fetch the published weights, through timm.
        dropout: Rate inside the branches; for a timm network, what timm calls `drop_rate`.
        drop_path: Stochastic depth of the last block.

    Returns:
        The network, in training mode, with `network_of(it)` telling how to build it again.

    Raises:
        UserError: The name is unknown (says the nearest), a size does not fit, or there are no published weights.
    """
    if isinstance(model, Network):
        classes, channels, image = classes or model.classes, channels or model.channels, image or model.image
        name, architecture = model.name, model.architecture
    elif isinstance(model, Architecture):
        name, architecture = None, model
    else:
        name, architecture = model, None
    if isinstance(image, int):
        image = (image, image)
    if architecture is None:
        assert name is not None
        return _by_name(name, classes, channels, image, pretrained, dropout, drop_path)
    if pretrained:
        raise ModelError("an architecture of your own has no published weights: leave out pretrained, or give a name")
    backbone: Any = build(architecture, classes, channels, image, proj_drop_rate=dropout, drop_path_rate=drop_path)
    backbone.pretrained_cfg = default_cfgs.get(name or "") or input_config(backbone.architecture)
    backbone.built_from = Network(name=name, architecture=backbone.architecture)
    set_preprocess(backbone, preprocess_of(backbone))
    return backbone


def _by_name(
    name: str,
    classes: int | None,
    channels: int | None,
    image: tuple[int, int] | None,
    pretrained: bool,
    dropout: float,
    drop_path: float,
) -> nn.Module:
    canonical_name(name)
    ours = name in NAMED
    options: dict[str, Any] = {
        "num_classes": classes,
        "in_chans": channels,
        "img_size": image,
        "proj_drop_rate" if ours else "drop_rate": dropout or None,
        "drop_path_rate": drop_path or None,
    }
    options = {option: value for option, value in options.items() if value is not None}
    if pretrained and not timm.get_pretrained_cfg(name).has_weights:
        raise ModelError(f"no weights were published for {name}: leave out pretrained")
    network: Any
    try:
        network = timm.create_model(name, pretrained=pretrained, **options)
    except TypeError as error:
        refused = [option for option in options if f"'{option}'" in str(error)]
        if refused == ["img_size"]:  # a convolutional network takes any size without being told
            del options["img_size"]
            network = timm.create_model(name, pretrained=pretrained, **options)
        elif refused:
            raise ModelError(f"{name} has no {refused[0]}: set it to 0 in the recipe") from None
        else:
            raise
    except (AssertionError, ValueError, RuntimeError) as error:  # timm's networks each have their own
        # On the meta device a network that reads numbers while it is built raises a RuntimeError, whatever the image.
        on_meta = isinstance(error, RuntimeError) and torch.get_default_device().type == "meta"
        if isinstance(error, UserError) or image is None or on_meta:
            raise
        raise ModelError(f"{name} cannot take images of {image[0]} x {image[1]}: {error}") from None
    sizes = (
        {"architecture": network.architecture} if ours else {"classes": classes, "channels": channels, "image": image}
    )
    network.built_from = Network(name=name, **sizes)
    own_channels, *own_image = network.pretrained_cfg["input_size"]
    size = (channels or own_channels, *(image or own_image))
    network.pretrained_cfg = {**network.pretrained_cfg, "input_size": size}
    set_preprocess(network, preprocess_of(network))
    return network


def canonical_name(name: str) -> None:
    """Nothing, if there is a network of that name.

    Raises:
        UserError: There is none; says the nearest.
    """
    if not timm.is_model(name):
        every = timm.list_models()
        raise ModelError(f"no network is called {name!r}{did_you_mean(name, every)} (`ffvit models 'ff_*'` lists them)")


def list_models(pattern: str) -> list[str]:
    """The names that match a shell pattern, ours first, then timm's."""
    ours = [name for name in NAMED if fnmatch(name, pattern)]
    return ours + [name for name in timm.list_models(pattern) if name not in NAMED]


def network_of(network: nn.Module) -> Network:
    """How to build this network again.

    Raises:
        UserError: It was made neither by `create_model` nor by `load`, nor is it one of our backbones.
    """
    if isinstance(network, Backbone):
        made: Network | None = getattr(network, "built_from", None)
        return Network(name=made.name if made else None, architecture=network.architecture)
    made = getattr(network, "built_from", None)
    if made is not None:
        return made.replace(classes=classes_of(network))
    config = getattr(network, "pretrained_cfg", None)
    if config and config.get("architecture"):  # straight from timm.create_model
        _, *image = config["input_size"]
        own = timm.get_pretrained_cfg(config["architecture"])
        return Network(
            name=config["architecture"],
            classes=classes_of(network),
            channels=getattr(network, "in_chans", None),
            image=tuple(image) if own and tuple(own.input_size[1:]) != tuple(image) else None,
        )
    raise ModelError("this network cannot be named, so it could not be built again: make it with ffvit.create_model")


def classes_of(network: nn.Module) -> int:
    """How many classes the network answers with."""
    return cast("int", network.num_classes)


def class_names_of(network: nn.Module) -> tuple[str, ...]:
    """The names of the classes in the order of the logits; numbers, where they have no names."""
    return getattr(network, "class_names", None) or tuple(map(str, range(classes_of(network))))


def preprocess_of(network: nn.Module) -> Preprocess:
    """How images become what the network takes: by its timm `pretrained_cfg`, for the channels it really has.

    Raises:
        UserError: It does not say.
    """
    config = getattr(network, "pretrained_cfg", None) or {}
    known: dict[str, Any] = {"pixel_backend": getattr(network, "pixel_backend", "pillow")}
    if isinstance(network, Backbone):
        config = config or input_config(network.architecture)
        known |= {"img_size": network.architecture.image, "in_chans": network.in_chans}
    elif "input_size" not in config:
        raise ModelError("this network does not say what images it takes: make it with ffvit.create_model")
    else:
        known["in_chans"] = getattr(network, "in_chans", config["input_size"][0])
    return Preprocess.from_timm(config, **known)


def set_preprocess(network: nn.Module, preprocess: Preprocess) -> None:
    """Have the network tell that its images are prepared so, to us and to timm."""
    told: Any = network
    told.pretrained_cfg = {**(getattr(network, "pretrained_cfg", None) or {}), **preprocess.to_timm()}
    told.pixel_backend = preprocess.pixel_backend
