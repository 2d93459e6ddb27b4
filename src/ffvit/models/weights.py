"""Networks from weights, and weights into safetensors files that say everything needed to use them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torch import Tensor, nn

from ffvit.config.architecture import Architecture, Network
from ffvit.errors import ModelError
from ffvit.files.atomic_write import atomic_path
from ffvit.models.create import create_model
from ffvit.models.description import info_of, preprocess_of, set_preprocess
from ffvit.models.vit_conversion import architecture_of, layout_of, preprocess_of_vit, to_ours
from ffvit.models.weights_file import WeightsInfo, read_weights


def save_weights(
    path: str | Path,
    network: nn.Module,
    class_names: Sequence[str] | None,
    state: Mapping[str, Tensor] | None = None,
    *,
    temperature: float | None = None,
    ood_threshold: float | None = None,
) -> None:
    """Write weights as safetensors, whole or not at all.

    The metadata holds the network, its class names, how images are prepared for it (`preprocess_of`), its temperature
    and its threshold.

    Args:
        path: The file.
        network: Made by `create_model` or `load`, or a `Backbone`.
        class_names: In the order of the logits.
        state: The weights, where they are not simply the network's (sharded over processes).
        temperature: What its logits are divided by to calibrate its probabilities, if it was fitted for these weights.
        ood_threshold: Energy score (`ffvit.inference.ood`) below which an image is of none of the classes, likewise.
    """
    info = info_of(network, class_names, temperature, ood_threshold)
    state = network.state_dict() if state is None else state
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    with atomic_path(Path(path)) as temporary:
        save_file(tensors, temporary, metadata={"ffvit": json.dumps(info)})  # one key: several come in random order


def load(
    path: str | Path,
    model: str | Architecture | Network | None = None,
    num_classes: int | None = None,
    *,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> nn.Module:
    """Load a network from a run folder, a Hub folder or repository, one of our files, or a checkpoint of others.

    Checkpoints of others are the paper's released ones, DeiT's and timm's ViT, those of timm's train.py (which name their
    network, and whose moving average is taken if they have one), and state dictionaries of our named networks, also as
    DDP, torch.compile and Accelerate write them.

    The file's metadata, or the `config.json` of a folder from the Hub, says how images are prepared. A ViT without either
    is normalized as timm's ViTs are, by 0.5, unless it lies under `model` in its file, as DeiT's checkpoints do; with
    `model`, timm's preparation for that name is used.

    Args:
        path: A file or folder; its content says what it is. `hf-hub:user/name`, or `hf-hub:user/name@revision`, downloads.
        model: The network, for weights that do not say (those of other timm networks): a name or an `Architecture`.
        num_classes: Another number of classes than the weights have: the head is then new (see `new_head`).
        dropout: As in `create_model`, for training on.
        drop_path: Likewise.

    Returns:
        The network in evaluation mode. `class_names` is a tuple in the order of the logits (ImageNet's WordNet ids for
        1,000 classes without names), or None; `temperature` and `ood_threshold` are what its run fitted on validation
        images, or None; `new_head` is True if `num_classes` asked for a fresh head. `pretrained_cfg` tells how images are prepared, as in timm.

    Raises:
        UserError: There is no such file; it is truncated, would run code or import a mixer, or holds no weights; or it
            belongs to another network (says which parameters are missing, extra, or of another shape).
    """
    state, info = read_weights(Path(path))
    network, preprocess = _network(model, state, info, path), info.preprocess
    if model is None and info.network is None and layout_of(state) == "timm ViT" and not info.wrapped:
        assert network.architecture is not None
        preprocess = preprocess_of_vit(network.architecture)
    saved_classes = _classes_in(state, network)
    _check_outline(network, saved_classes, state, path)
    built: Any = create_model(network, saved_classes, dropout=dropout, drop_path=drop_path)
    fit(built, state, str(path))
    pool = getattr(built, "global_pool", None)
    if info.global_pool is not None and isinstance(pool, str) and pool != info.global_pool:
        raise ModelError(
            f"{path}: its network pools by {info.global_pool!r}, and ffvit builds it with {pool!r}: use it with timm"
        )
    if preprocess is not None:  # its image size is that of the network, which may have been asked for in another
        set_preprocess(built, preprocess.replace(img_size=preprocess_of(built).img_size))
    names, temperature, ood_threshold = info.class_names, info.temperature, info.ood_threshold
    if names is not None and len(names) != built.num_classes:
        raise ModelError(f"{path}: it names {len(names):,} classes, and its network has {built.num_classes:,}")
    if names is None and saved_classes == 1000:
        names = ImageNetInfo().label_names()
    built.new_head = num_classes is not None and num_classes != built.num_classes
    if built.new_head:
        built.reset_classifier(num_classes)
        names = temperature = ood_threshold = None
    built.class_names = tuple(names) if names is not None else None
    if names is not None:
        built.pretrained_cfg |= {"label_names": list(names), "num_classes": len(names)}
    built.temperature, built.ood_threshold = temperature, ood_threshold
    loaded: nn.Module = built.eval()
    return loaded


def _network(
    model: str | Architecture | Network | None, state: Mapping[str, Tensor], info: WeightsInfo, path: str | Path
) -> Network:
    """The network that weights belong to: as named, as their file says, or read off their shapes."""
    if isinstance(model, str):
        return Network(name=model)
    if isinstance(model, Architecture):
        return Network(architecture=model)
    network = model or info.network
    if network is None:
        architecture = architecture_of(state)
        if architecture is None:
            raise ModelError(f"{path}: these weights do not tell which network they belong to: name it (--model NAME)")
        network = Network(architecture=architecture)
    return network


def fit(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load weights into a network; every one must fit.

    Raises:
        UserError: Some are missing, left over, or of another shape or kind: says which and which shapes.
    """
    state = to_ours(state) if layout_of(network.state_dict()) == "ours" else state
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    faults = {
        "missing": [name for name in wanted if name not in given],
        "not of this network": [name for name in given if name not in wanted],
        "of another shape": [
            f"{name} {_by(given[name])} for {_by(wanted[name])}"
            for name in wanted
            if name in given and given[name] != wanted[name]
        ],
        "of no usable kind": [f"{name} {tensor.dtype}" for name, tensor in state.items() if not _is_plain(tensor)],
    }
    said = [f"{len(names)} {what} ({_first(names)})" for what, names in faults.items() if names]
    if said:
        raise ModelError(f"{source}: weights of another network: {'; '.join(said)}")
    if not next(iter(network.state_dict().values())).is_meta:
        network.load_state_dict(dict(state))


def _check_outline(network: Network, num_classes: int | None, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Check that weights fit a network without building it: what a file claims may be too large for any memory.

    Raises:
        UserError: As `fit`.
    """
    architecture = network.architecture
    if architecture is not None and state and architecture.depth > len(state):
        raise ModelError(
            f"{path}: weights of another network: {len(state):,} parameters for {architecture.depth:,} blocks"
        )
    with torch.device("meta"):
        try:
            outline = create_model(network, num_classes)
        except (NotImplementedError, RuntimeError, TypeError):  # a network that reads numbers as it is built
            return
    fit(outline, state, str(path))


def check_finite(network: nn.Module, name: str) -> None:
    """Check that no weight is NaN or infinite.

    Raises:
        UserError: One is; says which.
    """
    for weight, values in network.state_dict().items():
        if values.is_floating_point() and not values.isfinite().all():
            raise ModelError(
                f"{name}: weights are not finite (the first: {weight}): its training diverged, or the file is damaged"
            )


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is an ordinary dense tensor."""
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_nested
        and not tensor.is_complex()
    )


def _classes_in(state: Mapping[str, Tensor], network: Network) -> int | None:
    """How many classes the weights' head has, if it has one of the usual names."""
    for name in ("head.bias", "fc.bias", "classifier.bias", "head.fc.bias"):
        if name in state:
            return len(state[name])
    return network.num_classes


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _first(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
