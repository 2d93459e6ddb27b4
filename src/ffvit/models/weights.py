"""Weights in and out of files: read by what a file holds, not by what it is called; written as safetensors.

A pickle is opened weights-only, with the one harmless class the paper's and DeiT's checkpoints need on the allow-list.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, InstanceOf
from safetensors import safe_open
from safetensors.torch import save_file
from timm.data import ImageNetInfo
from torch import Tensor, nn

from ffvit.config.architecture import Architecture, Network
from ffvit.config.base import Value, parse, short
from ffvit.config.preprocess import Preprocess
from ffvit.errors import ModelError, UserError
from ffvit.files.atomic_write import atomic_path
from ffvit.models.create import create_model, network_of, preprocess_of, set_preprocess
from ffvit.models.vit_conversion import architecture_of, layout_of, preprocess_of_vit, to_ours

HUB_CONFIG = "config.json"
HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What timm and the Hub call a folder's files."""

WEIGHTS_OF_A_RUN = ("best.safetensors", "last.safetensors")
WEIGHTS_OF_A_FOLDER = (*WEIGHTS_OF_A_RUN, *HUB_WEIGHTS)
"""Where a folder's weights are: ours, then the Hub's."""

ALLOWED: list[Any] = [argparse.Namespace]
"""Classes a pickle may name beside tensors: released checkpoints carry their command line."""


class WeightsInfo(Value):
    """What a file says of its weights. Anyone may have written it, so every field is checked.

    Attributes:
        network: How to build the network.
        class_names: In the order of the logits.
        preprocess: How images are prepared for it.
        temperature: What its logits are divided by to calibrate its probabilities.
        wrapped: Whether the weights lie under `model` in their file.
    """

    network: Network | None = None
    class_names: tuple[InstanceOf[str], ...] | None = None  # of folders, whose bytes may be no text
    preprocess: Preprocess | None = None
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    wrapped: bool = False


def save_weights(
    path: Path,
    network: nn.Module,
    class_names: Sequence[str] | None,
    state: Mapping[str, Tensor] | None = None,
    *,
    temperature: float | None = None,
) -> None:
    """Write weights as safetensors with all that their answers need in the metadata; whole or not at all.

    That is the network, its class names, how images are prepared for it (`preprocess_of`), and its temperature.

    Args:
        path: The file.
        network: Made by `create_model` or `load`, or a `Backbone`.
        class_names: In the order of the logits.
        state: The weights, where they are not simply the network's (sharded over processes).
        temperature: What its logits are divided by to calibrate its probabilities, if it was fitted for these weights.
    """
    about = {
        "network": network_of(network).model_dump(mode="json"),
        "class_names": list(class_names) if class_names is not None else None,
        "preprocess": preprocess_of(network).model_dump(mode="json"),
        "temperature": temperature,
    }
    state = network.state_dict() if state is None else state
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"ffvit": json.dumps(about)})  # one key: several come in random order


def load(
    path: str | Path,
    model: str | Architecture | Network | None = None,
    classes: int | None = None,
    *,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> nn.Module:
    """Load a network from a run folder, one of our files, the paper's released checkpoints, or DeiT's and timm's ViT.

    How images are prepared is told by our file's metadata or by the `config.json` of a folder from the Hub. A ViT without
    either is normalised as timm's ViTs are, by 0.5, unless it lies under `model` in its file, as DeiT's checkpoints do;
    naming the network (`model`) takes what timm has for that name.

    Args:
        path: A file or folder; what it is, is seen from its content.
        model: The network, for weights that do not say (those of other timm networks): a name or an `Architecture`.
        classes: Another number of classes than the weights have: the head is then new (see `new_head`).
        dropout: As in `create_model`, for training on.
        drop_path: Likewise.

    Returns:
        The network in evaluation mode. `class_names` is a tuple in the order of the logits (ImageNet's WordNet ids for
        1,000 classes without names), or None; `temperature` is what its run fitted to calibrate it, or None; `new_head`
        is True if `classes` asked for a fresh head. `pretrained_cfg` tells how images are prepared, as in timm.

    Raises:
        UserError: There is no such file; it is truncated, would run code, or holds no weights; or it belongs to
            another network (says which parameters are missing, extra, or of another shape).
    """
    state, about = read_weights(Path(path))
    network: Network | Architecture
    preprocess = about.preprocess
    if model is not None:
        network = Network(name=model) if isinstance(model, str) else model
    elif about.network is not None:
        network = about.network
    else:
        found = architecture_of(state)
        if found is None:
            raise ModelError(f"{path}: these weights do not tell which network they belong to: name it (--model NAME)")
        network = found
        if layout_of(state) == "timm ViT" and not about.wrapped:
            preprocess = preprocess_of_vit(found)
    of_file = _classes_in(state, network)
    _check_outline(network, of_file, state, path)
    built: Any = create_model(network, of_file, dropout=dropout, drop_path=drop_path)
    fit(built, state, str(path))
    if preprocess is not None:  # its image size is that of the network, which may have been asked for in another
        own = preprocess_of(built)
        set_preprocess(built, preprocess.replace(img_size=own.img_size))
    names, temperature = about.class_names, about.temperature
    if names is not None and len(names) != built.num_classes:
        raise ModelError(f"{path}: it names {len(names):,} classes, and its network has {built.num_classes:,}")
    if names is None and of_file == 1000:
        names = ImageNetInfo().label_names()
    built.new_head = classes is not None and classes != built.num_classes
    if built.new_head:
        assert classes is not None
        built.reset_classifier(classes)
        names = temperature = None
    built.class_names = tuple(names) if names is not None else None
    built.temperature = temperature
    return built.eval()


def fit(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put weights into a network, every one in its place.

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


def _check_outline(
    network: Network | Architecture, classes: int | None, state: Mapping[str, Tensor], path: str | Path
) -> None:
    """Nothing, if weights fit a network, which is not built: what a file claims may be too large for any memory.

    Raises:
        UserError: As `fit`.
    """
    architecture = network if isinstance(network, Architecture) else network.architecture
    if architecture is not None and state and architecture.depth > len(state):
        raise ModelError(
            f"{path}: weights of another network: {len(state):,} parameters for {architecture.depth:,} blocks"
        )
    with torch.device("meta"):
        try:
            outline = create_model(network, classes)
        except (NotImplementedError, RuntimeError, TypeError):  # a network that reads numbers as it is built
            return
    fit(outline, state, str(path))


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is what weights are: numbers in memory, one after the other."""
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and not tensor.is_nested
        and not tensor.is_complex()
    )


def read_weights(path: Path) -> tuple[dict[str, Tensor], WeightsInfo]:
    """The weights in a file or folder, and what is said of them there, as in the metadata that `save_weights` writes.

    Raises:
        UserError: As `load`.
    """
    try:
        path.stat()
    except FileNotFoundError:
        raise ModelError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if path.is_dir():
        found = [path / name for name in WEIGHTS_OF_A_FOLDER if (path / name).is_file()]
        if not found:
            raise ModelError(f"{path}: no weights in this folder (looked for {', '.join(WEIGHTS_OF_A_FOLDER)})")
        path = found[0]
    try:
        if path.exists() and not path.is_file():
            raise ModelError(f"{path}: is no regular file")
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if not head:
        raise ModelError(f"{path}: the file is empty")
    config = path.with_name(HUB_CONFIG)
    from_hub = _about_hub(config) if path.name in HUB_WEIGHTS and config.is_file() else {}
    if head[8:9] == b"{":
        state, about = _read_safetensors(path)
        return state, parse(WeightsInfo, about or from_hub, f"{path}: metadata")
    if head[:2] == b"PK" or head[:1] == b"\x80":
        content = _read_pickle(path)
        wrapped = isinstance(content, Mapping) and isinstance(content.get("model"), Mapping)
        return _weights_among(content, path), parse(WeightsInfo, from_hub or {"wrapped": wrapped}, str(config))
    raise ModelError(f"{path}: neither a PyTorch nor a safetensors file")


def _about_hub(path: Path) -> dict[str, Any]:
    """What timm's `config.json` says, as our metadata says it; nothing, if it is another library's."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(2**24))
        if "architecture" not in content:
            return {}
        config = content.get("pretrained_cfg", content)
        preprocess = Preprocess.from_timm(config, f"{path}: pretrained_cfg")
        names = content.get("label_names") or config.get("label_names")
        if isinstance(names, Mapping):  # by number
            names = [names[str(number)] for number in range(len(names))]
        return {
            "network": {
                "name": content["architecture"],
                "classes": content.get("num_classes", config.get("num_classes")),
                "channels": preprocess.in_chans,
                "image": preprocess.img_size,
            },
            "class_names": names,
            "preprocess": preprocess,
        }
    except UserError:
        raise
    except Exception as error:  # whatever its fields may be
        raise ModelError(f"{path}: cannot be read as timm's description of a network: {short(error)}") from None


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        about = json.loads(metadata.get("ffvit", "{}"))
        if not isinstance(about, dict):
            raise TypeError("its metadata holds no fields")
        return state, about
    except Exception as error:  # safetensors', torch's and json's own
        raise ModelError(f"{path}: truncated or damaged: {str(error)[:200]}") from None


def _read_pickle(path: Path) -> object:
    _check_zip(path)
    try:
        # Opened here, for PyTorch goes by the name of a file it opens itself.
        with warnings.catch_warnings(), torch.serialization.safe_globals(ALLOWED), path.open("rb") as file:
            warnings.simplefilter("ignore")  # a foreign file's age is nothing its reader can mend
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"(?:GLOBAL|global:?|Unsupported class) ([\w.]+)", str(error))
        if refused or "Unsupported" in str(error) or "not an allowed" in str(error):
            what = f" ({refused[1]})" if refused else ""
            raise ModelError(
                f"{path}: not opened: a pickle that asks to run code{what}, and weights need none"
            ) from None
        raise ModelError(f"{path}: truncated or damaged") from None
    except Exception:  # damaged pickles fail in many ways
        raise ModelError(f"{path}: truncated or damaged") from None


def _check_zip(path: Path) -> None:
    """Refuse an archive that is packed: PyTorch packs nothing, and a few bytes may unpack to any number.

    Raises:
        ModelError: It is.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            packed = any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist())
    except Exception:  # no archive: an older format, or damaged, which PyTorch will say
        return
    if packed:
        raise ModelError(
            f"{path}: not opened: its archive is compressed, as PyTorch's never are; unpack and pack it anew"
        )


def _weights_among(content: object, path: Path) -> dict[str, Tensor]:
    """The state dictionary in what a checkpoint holds: itself, or under the usual names."""
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(each, Tensor) for each in content.values())
    ):
        raise ModelError(f"{path}: no weights in this file (neither a state dictionary nor one under `model`)")
    return {re.sub(r"^(module\.|_orig_mod\.)+", "", str(name)): tensor for name, tensor in content.items()}


def _classes_in(state: Mapping[str, Tensor], network: Network | Architecture) -> int | None:
    """How many classes the weights' head has, where a head can be told by its name."""
    bias = next(
        (state[name] for name in ("head.bias", "fc.bias", "classifier.bias", "head.fc.bias") if name in state), None
    )
    if bias is not None:
        return len(bias)
    return network.classes


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _first(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
