"""What the files of others say of their network: timm's `config.json` on the Hub, the checkpoints of timm's train.py.

Anyone may have written them: what they say is checked as `WeightsInfo`, and nothing of it is run.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_data_config
from torch import Tensor

from ffvit.config.base import short
from ffvit.config.preprocess import Preprocess
from ffvit.errors import ModelError, UserError
from ffvit.models.description import ANY_BACKBONE
from ffvit.models.registry import register_with_timm

STATES = ("model", "state_dict_ema", "state_dict", "model_state_dict")
"""Where checkpoints keep their weights: DeiT's; timm's, whose moving average timm prefers too; Lightning's and others'."""


def state_in(content: object, path: Path) -> dict[str, Tensor]:
    """The weights in what a checkpoint holds: itself, or under one of the usual names.

    Raises:
        UserError: There are none.
    """
    for key in STATES:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(value, Tensor) for value in content.values())
    ):
        raise ModelError(f"{path}: no weights in this file (neither a state dictionary nor one under `model`)")
    return {re.sub(r"^(module\.|_orig_mod\.)+", "", str(name)): tensor for name, tensor in content.items()}


def info_of_checkpoint(content: object, path: Path) -> dict[str, Any]:
    """What a checkpoint says of its weights, as our metadata says it; timm's train.py notes `arch` and its `args`.

    Raises:
        UserError: Its arguments cannot be used.
    """
    if not isinstance(content, Mapping):
        return {}
    wrapped = {"wrapped": isinstance(content.get("model"), Mapping)}
    name, args = content.get("arch"), content.get("args")
    register_with_timm()
    if not isinstance(name, str) or not timm.is_model(name):
        return wrapped
    given: dict[str, Any] = dict(vars(args)) if isinstance(args, argparse.Namespace) else {}
    own = timm.get_pretrained_cfg(name)
    try:
        config = resolve_data_config(given, pretrained_cfg=own.to_dict() if own else {})
        preprocess = Preprocess.from_timm(config, f"{path}: args")
        classes = given.get("num_classes")
    except UserError:
        raise
    except Exception as error:  # whatever its fields may be
        raise ModelError(f"{path}: args: cannot be read as those of timm's train.py: {short(error)}") from None
    network = {"name": name, "num_classes": classes, "in_chans": preprocess.in_chans, "img_size": preprocess.img_size}
    return {**wrapped, "network": network, "preprocess": preprocess}


def info_of_hub_config(path: Path) -> dict[str, Any]:
    """What a `config.json` says, as our metadata says it; nothing, if it is another library's.

    Raises:
        UserError: It cannot be used.
    """
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(2**24))
        if "architecture" not in content:
            return {}
        if "ffvit" in content:
            return dict(content["ffvit"])
        args = content.get("model_args") or {}
        config = content.get("pretrained_cfg", content)
        preprocess = Preprocess.from_timm(config, f"{path}: pretrained_cfg")
        names = content.get("label_names") or config.get("label_names")
        if isinstance(names, Mapping):  # by number
            names = [names[str(number)] for number in range(len(names))]
        network = {
            "num_classes": content.get("num_classes", config.get("num_classes")),
            "in_chans": preprocess.in_chans,
            "img_size": preprocess.img_size,
        }
        if content["architecture"] == ANY_BACKBONE:
            network = {"architecture": {**args["architecture"], **network}}
        else:
            network["name"] = content["architecture"]
        return {
            "network": network,
            "class_names": names,
            "preprocess": preprocess,
            "global_pool": args.get("global_pool"),
        }
    except UserError:
        raise
    except Exception as error:  # whatever its fields may be
        raise ModelError(f"{path}: cannot be read as timm's description of a network: {short(error)}") from None
