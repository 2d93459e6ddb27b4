"""Reading files of weights: known by what they hold, not by their names, and never trusted.

A pickle is opened weights-only, with the one harmless class that the paper's and DeiT's checkpoints need. Nothing that a
file says of itself makes Python import a module.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, InstanceOf
from safetensors import safe_open
from torch import Tensor

from ffvit.config.architecture import Network
from ffvit.config.base import Value, parse
from ffvit.config.mixers import refuse_imports
from ffvit.config.preprocess import Preprocess
from ffvit.config.strict_yaml import read_yaml
from ffvit.errors import ModelError, UserError
from ffvit.models.checkpoint_info import info_of_checkpoint, info_of_hub_config, state_in
from ffvit.models.hub import CONFIG, HUB, WEIGHTS, download

HUB_WEIGHTS = (WEIGHTS, "pytorch_model.bin")
"""What timm, Accelerate and the Hub call a folder's weights."""

RUN_CONFIG = "config.yaml"
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
        ood_threshold: Energy score below which an image is of none of the classes.
        wrapped: Whether the weights lie under `model` in their file.
        global_pool: How the network pools its features, in timm's words, if that was noted.
    """

    network: Network | None = None
    class_names: tuple[InstanceOf[str], ...] | None = None  # of folders, whose bytes may be no text
    preprocess: Preprocess | None = None
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    ood_threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None
    wrapped: bool = False
    global_pool: str | None = None


def read_weights(path: Path) -> tuple[dict[str, Tensor], WeightsInfo]:
    """The weights in a file, a folder or a repository on the Hub (`hf-hub:user/name`), and what is said there of them.

    Raises:
        UserError: As `load`.
    """
    path = _weights_file(download(str(path)) if str(path).startswith(HUB) else path)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if not head:
        raise ModelError(f"{path}: the file is empty")
    config = path.with_name(CONFIG)
    from_hub = info_of_hub_config(config) if path.name in HUB_WEIGHTS and config.is_file() else {}
    if head[8:9] == b"{":
        state, info = _read_safetensors(path)
        with refuse_imports():
            return state, parse(WeightsInfo, info or from_hub, f"{path}: metadata")
    if head[:2] == b"PK" or head[:1] == b"\x80":
        content = _read_pickle(path)
        with refuse_imports():
            if from_hub:
                return state_in(content, path), parse(WeightsInfo, from_hub, str(config))
            return state_in(content, path), parse(WeightsInfo, info_of_checkpoint(content, path), f"{path}: args")
    raise ModelError(f"{path}: neither a PyTorch nor a safetensors file")


def _weights_file(path: Path) -> Path:
    """The regular file of weights that a path means: itself, or the first that a folder holds."""
    try:
        path.stat()
        folder = path.is_dir()
        if folder:
            names = [name for name in WEIGHTS_OF_A_FOLDER if (path / name).is_file()]
            if not names:
                raise ModelError(f"{path}: no weights in this folder (looked for {', '.join(WEIGHTS_OF_A_FOLDER)})")
    except FileNotFoundError:
        raise ModelError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    if folder:
        if names[0] in WEIGHTS_OF_A_RUN:
            _import_mixers_of_run(path / RUN_CONFIG)
        return path / names[0]
    if not path.is_file():
        raise ModelError(f"{path}: is no regular file")
    return path


def _import_mixers_of_run(config: Path) -> None:
    """Import the mixers that a run's configuration names: unlike a file of weights, it is something a person runs."""
    with suppress(UserError):  # a damaged configuration is nothing that weights need
        fields = read_yaml(config)
        parse(Network, fields.get("network") if isinstance(fields, dict) else None)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        info = json.loads(metadata.get("ffvit", "{}"))
        if not isinstance(info, dict):
            raise TypeError("its metadata holds no fields")
        return state, info
    except Exception as error:  # safetensors', torch's and json's own
        raise ModelError(f"{path}: truncated or damaged: {str(error)[:200]}") from None


def _read_pickle(path: Path) -> object:
    _check_zip(path)
    try:
        # Opened here, for PyTorch goes by the name of a file it opens itself.
        with warnings.catch_warnings(), torch.serialization.safe_globals(ALLOWED), path.open("rb") as file:
            warnings.simplefilter("ignore")  # about old formats
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
    """Refuse a compressed archive: PyTorch never compresses, and a few bytes could unpack to any number."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist())
    except Exception:  # no archive: an older format, or damaged, which PyTorch will say
        return
    if packed:
        raise ModelError(
            f"{path}: not opened: its archive is compressed, as PyTorch's never are; unpack and pack it anew"
        )
