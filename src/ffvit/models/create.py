"""Build a network from a name or an `Architecture`, ours or timm's."""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

import timm
import torch
from torch import nn

from ffvit.config.architecture import NAMED, Architecture, Network
from ffvit.errors import ModelError, UserError, did_you_mean
from ffvit.models.description import ANY_BACKBONE, input_config, note_for_timm, preprocess_of, set_preprocess
from ffvit.models.registry import build, default_cfgs, register_with_timm


def create_model(
    model: str | Architecture | Network,
    num_classes: int | None = None,
    *,
    in_chans: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    pretrained: bool = False,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> nn.Module:
    """Build a network, with random initial weights unless `pretrained`.

    Args:
        model: A name of ours or of timm's, or an `Architecture`.
        num_classes: Number of classes; 0 for no head, as in timm. Default: the network's own.
        in_chans: Channels of the image. Default: the network's own.
        img_size: Image size in pixels, (height, width) or one number for a square. Default: the network's own.
        pretrained: Download the published weights, through timm.
        dropout: Rate inside the branches; for a timm network, what timm calls `drop_rate`.
        drop_path: Stochastic depth of the last block.

    Returns:
        The network, in training mode. `network_of` tells how to build it again.

    Raises:
        UserError: The name is unknown (says the nearest), a size does not fit, or there are no published weights.
    """
    if isinstance(img_size, int):
        img_size = (img_size, img_size)
    if isinstance(model, Architecture):
        model = Network(architecture=model)
    elif isinstance(model, str):
        model = Network(name=model)
    asked = {"num_classes": num_classes, "in_chans": in_chans, "img_size": img_size}
    sizes: dict[str, Any] = {name: getattr(model, name) if value is None else value for name, value in asked.items()}
    if model.architecture is None:
        return _by_name(str(model.name), sizes, pretrained, dropout, drop_path)
    if pretrained:
        raise ModelError("an architecture of your own has no published weights: leave out pretrained, or give a name")
    network: Any = build(model.architecture, **sizes, proj_drop_rate=dropout, drop_path_rate=drop_path)
    network.pretrained_cfg = default_cfgs.get(model.name or "") or input_config(network.architecture)
    return _described(network, Network(name=model.name, architecture=network.architecture))


def _by_name(name: str, sizes: dict[str, Any], pretrained: bool, dropout: float, drop_path: float) -> nn.Module:
    check_name(name)
    ours = name in NAMED
    options: dict[str, Any] = {
        **sizes,
        "proj_drop_rate" if ours else "drop_rate": dropout or None,
        "drop_path_rate": drop_path or None,
    }
    options = {option: value for option, value in options.items() if value is not None}
    if pretrained and not timm.get_pretrained_cfg(name).has_weights:
        raise ModelError(f"no weights were published for {name}: leave out pretrained")
    network = _by_timm(name, pretrained, options)
    own_channels, *own_size = network.pretrained_cfg["input_size"]
    input_size = (sizes["in_chans"] or own_channels, *(sizes["img_size"] or own_size))
    network.pretrained_cfg = {**network.pretrained_cfg, "input_size": input_size}
    return _described(network, Network(name=name, **({"architecture": network.architecture} if ours else sizes)))


def _by_timm(name: str, pretrained: bool, options: dict[str, Any]) -> Any:
    try:
        network = timm.create_model(name, pretrained=pretrained, **options)
        if not hasattr(network, "_model_args"):  # which newer versions of timm note
            network._model_args = {size: options[size] for size in ("in_chans", "img_size") if size in options}
        return network
    except TypeError as error:
        refused = [option for option in options if f"'{option}'" in str(error)]
        if refused == ["img_size"]:  # a convolutional network takes any size, and has no such argument
            return _by_timm(name, pretrained, {key: value for key, value in options.items() if key != "img_size"})
        if refused:
            raise ModelError(f"{name} has no {refused[0]}: set it to 0 in the recipe") from None
        raise
    except (AssertionError, ValueError, RuntimeError) as error:  # of timm's networks
        # On the meta device a network that reads numbers while it is built raises a RuntimeError, whatever the image.
        on_meta = isinstance(error, RuntimeError) and torch.get_default_device().type == "meta"
        if isinstance(error, UserError) or "img_size" not in options or on_meta:
            raise
        height, width = options["img_size"]
        raise ModelError(f"{name} cannot take images of {height} x {width}: {error}") from None


def _described(network: Any, built_from: Network) -> nn.Module:
    """The network, with notes on how it was built and how its images are prepared."""
    network.built_from = built_from
    set_preprocess(network, preprocess_of(network))
    note_for_timm(network)
    described: nn.Module = network
    return described


def check_name(name: str) -> None:
    """Check that there is a network of that name, ours or timm's.

    Raises:
        UserError: There is none; says the nearest.
    """
    register_with_timm()
    if not timm.is_model(name):
        names = timm.list_models()
        raise ModelError(f"no network is called {name!r}{did_you_mean(name, names)} (`ffvit models 'ff_*'` lists them)")


def list_models(pattern: str) -> list[str]:
    """The names that match a shell pattern, ours first, then timm's."""
    register_with_timm()
    ours = [name for name in NAMED if fnmatch(name, pattern)]
    return ours + [name for name in timm.list_models(pattern) if name not in NAMED and name != ANY_BACKBONE]
