"""Any network that ffvit loads, ours or timm's, for images of another size, its weights kept."""

from __future__ import annotations

from typing import Any

from torch import nn

from ffvit.config.architecture import NAMED, Network
from ffvit.config.mixers import TokenResizeMethod
from ffvit.errors import ModelError
from ffvit.models.description import architecture_in, network_of, note_for_timm, preprocess_of, set_preprocess
from ffvit.models.resize import resized_architecture


def set_image_size(
    network: nn.Module,
    img_size: tuple[int, int],
    patch_size: tuple[int, int] | None = None,
    method: TokenResizeMethod = "pinv",
) -> None:
    """Make a network take images of another size; its temperature and threshold, fitted for the old one, are dropped.

    Args:
        network: Made by `ffvit.load` or `create_model`.
        img_size: Height and width in pixels.
        patch_size: Height and width of a patch in pixels. Default: as it is.
        method: How weights over patches are resized (`TokenResize`).

    Raises:
        ModelError: The network or its weights do not allow that size.
    """
    changed: Any = network
    title = network_of(network).title
    sized: dict[str, Any] = {"img_size": img_size}
    if patch_size is not None:
        sized["patch_size"] = patch_size
    if architecture_in(network) is not None:
        sized["method"] = method
    try:
        if hasattr(network, "set_input_size"):
            changed.set_input_size(**sized)
        elif patch_size is not None or (getattr(network, "pretrained_cfg", None) or {}).get("fixed_input_size"):
            raise ModelError(f"{title}: its weights fit one image size, and timm has no way to change it")
    except (ValueError, AssertionError) as error:
        raise ModelError(f"{title} at {img_size[0]} x {img_size[1]} px: {error}") from None
    if architecture_in(network) is None:
        changed.built_from = network_of(network).replace(img_size=img_size)
        if hasattr(network, "set_input_size"):
            changed._model_args = {**getattr(network, "_model_args", {}), "img_size": img_size}
    set_preprocess(network, preprocess_of(network).replace(img_size=img_size))
    note_for_timm(network)
    changed.temperature = changed.ood_threshold = None


def resized_network(network: Network, img_size: tuple[int, int]) -> Network:
    """What `set_image_size` makes of a description.

    Raises:
        ModelError: As there, for our own networks.
    """
    architecture = network.architecture or NAMED.get(str(network.name))
    if architecture is None:
        return network.replace(img_size=img_size)
    try:
        return network.replace(architecture=resized_architecture(architecture, img_size), img_size=None)
    except ValueError as error:
        raise ModelError(f"{network.title} at {img_size[0]} x {img_size[1]} px: {error}") from None
