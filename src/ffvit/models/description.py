"""What a network says of itself: how it is built again, by us and by timm; its classes; how its images are prepared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import timm
from torch import nn

from ffvit.config.architecture import NAMED, Architecture, Network
from ffvit.config.preprocess import Preprocess
from ffvit.errors import ModelError

ANY_BACKBONE = "ffvit_backbone"
"""What timm builds from any `Architecture`, given as `architecture` in a Hub folder's `model_args`."""


def architecture_in(network: nn.Module) -> Architecture | None:
    """The architecture of a backbone of ours; None for other networks."""
    architecture = getattr(network, "architecture", None)
    return architecture if isinstance(architecture, Architecture) else None


def input_config(architecture: Architecture) -> dict[str, Any]:
    """Timm's `default_cfg` of a network: its input, how that is normalized, its first and last layers."""
    preprocess = Preprocess(img_size=architecture.img_size, in_chans=architecture.in_chans)
    return timm_config(preprocess, architecture.num_classes, "patch_embed.proj", fixed_input_size=True)


def timm_config(preprocess: Preprocess, num_classes: int, first_conv: str, **fields: Any) -> dict[str, Any]:
    """Timm's `default_cfg`, with more fields."""
    return {
        "url": "",
        "num_classes": num_classes,
        **preprocess.to_timm(),
        "pool_size": None,
        "crop_mode": "center",
        "first_conv": first_conv,
        "classifier": "head",
        **fields,
    }


def network_of(network: nn.Module) -> Network:
    """How to build this network again.

    Raises:
        UserError: It was made neither by `create_model` nor by `load`, nor is it one of our backbones.
    """
    built_from: Network | None = getattr(network, "built_from", None)
    architecture = architecture_in(network)
    if architecture is not None:
        return Network(name=built_from.name if built_from else None, architecture=architecture)
    if built_from is not None:
        return built_from.replace(num_classes=classes_of(network))
    config = getattr(network, "pretrained_cfg", None)
    if config and config.get("architecture"):  # straight from timm.create_model
        _, *size = config["input_size"]
        own = timm.get_pretrained_cfg(config["architecture"])
        return Network(
            name=config["architecture"],
            num_classes=classes_of(network),
            in_chans=getattr(network, "in_chans", None),
            img_size=tuple(size) if own and tuple(own.input_size[1:]) != tuple(size) else None,
        )
    raise ModelError("this network cannot be named, so it could not be built again: make it with ffvit.create_model")


def classes_of(network: nn.Module) -> int:
    """How many classes the network has."""
    return cast("int", network.num_classes)


def class_names_of(network: nn.Module) -> tuple[str, ...]:
    """The names of the classes in the order of the logits; numbers, where they have no names."""
    return getattr(network, "class_names", None) or tuple(map(str, range(classes_of(network))))


def preprocess_of(network: nn.Module) -> Preprocess:
    """How images become what the network takes: by its timm `pretrained_cfg`, for the channels that it takes.

    Raises:
        UserError: It does not say.
    """
    config = getattr(network, "pretrained_cfg", None) or {}
    known: dict[str, Any] = {"pixel_backend": getattr(network, "pixel_backend", "pillow")}
    architecture = architecture_in(network)
    if architecture is not None:
        config = config or input_config(architecture)
        known |= {"img_size": architecture.img_size, "in_chans": architecture.in_chans}
    elif "input_size" not in config:
        raise ModelError("this network does not say what images it takes: make it with ffvit.create_model")
    else:
        known["in_chans"] = getattr(network, "in_chans", config["input_size"][0])
    return Preprocess.from_timm(config, **known)


def info_of(
    network: nn.Module, class_names: Sequence[str] | None, temperature: float | None, ood_threshold: float | None
) -> dict[str, Any]:
    """What is written beside weights, to use them: a `WeightsInfo` as JSON holds it."""
    return {
        "network": network_of(network).model_dump(mode="json"),
        "class_names": list(class_names) if class_names is not None else None,
        "preprocess": preprocess_of(network).model_dump(mode="json"),
        "temperature": temperature,
        "ood_threshold": ood_threshold,
    }


def set_preprocess(network: nn.Module, preprocess: Preprocess) -> None:
    """Note on the network how its images are prepared, for us and for timm."""
    noted: Any = network
    noted.pretrained_cfg = {**(getattr(network, "pretrained_cfg", None) or {}), **preprocess.to_timm()}
    noted.pixel_backend = preprocess.pixel_backend


def note_for_timm(network: Any) -> None:
    """Note on a network how timm builds it again, so that timm's `save_for_hf` and `push_to_hf_hub` take it.

    An architecture that is not registered by a name, or differs from the one that is, is built as `ffvit_backbone`.
    """
    config = getattr(network, "pretrained_cfg", None) or input_config(network.architecture)
    name, args = config.get("architecture"), dict(getattr(network, "_model_args", {}))
    architecture = architecture_in(network)
    if architecture is not None:
        name = network_of(network).name or ""
        own = NAMED.get(name)
        sizes = {field: getattr(architecture, field) for field in ("num_classes", "in_chans", "img_size")}
        args = {"img_size": architecture.img_size}
        if own is None or own.replace(**sizes) != architecture:
            name, args = ANY_BACKBONE, {"architecture": architecture.model_dump(mode="json")}
        network._traits = {**getattr(network, "_traits", {}), "img_size": architecture.img_size}
    network._model_args = args
    network.pretrained_cfg = {**config, "architecture": name or network_of(network).name}
