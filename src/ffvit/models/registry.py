"""Our named networks in timm's registry, so that `timm.create_model("ff_base_patch16_224")` builds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any

import torch
from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

from ffvit.config.architecture import NAMED, Architecture
from ffvit.config.base import parse
from ffvit.config.mixers import refuse_imports
from ffvit.config.preprocess import Preprocess
from ffvit.errors import ModelError
from ffvit.models.backbone import Backbone
from ffvit.models.convnet import CONVNETS, ConvNet
from ffvit.models.description import ANY_BACKBONE, input_config, timm_config
from ffvit.models.vit_conversion import to_ours

RELEASE = "https://github.com/lukemelas/do-you-even-need-attention/releases/download/v0.0.1/"
RELEASED = {
    "ff_tiny_patch16_224": RELEASE + "linear-tiny-checkpoint.pth",
    "ff_base_patch16_224": RELEASE + "linear-base-checkpoint.pth",
}
"""The weights the paper released."""


PAPER = {
    "license": "apache-2.0",
    "paper_ids": "arXiv:2105.02723",
    "paper_name": "Do You Even Need Attention? A Stack of Feed-Forward Layers Does Surprisingly Well on ImageNet",
    "origin_url": "https://github.com/lukemelas/do-you-even-need-attention",
}
default_cfgs: dict[str, dict[str, Any]] = {
    name: input_config(architecture) | {"url": RELEASED.get(name, "")} | PAPER for name, architecture in NAMED.items()
}
_CONVNET_CONFIG = timm_config(
    Preprocess(img_size=(32, 32)),
    10,
    "stages.0",
    fixed_input_size=False,
    min_input_size=(3, 8, 8),
    license="apache-2.0",
)
default_cfgs |= dict.fromkeys(CONVNETS, _CONVNET_CONFIG)


def build(
    architecture: Architecture,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | Sequence[int] | None = None,
    global_pool: str | None = None,
    drop_rate: float = 0.0,
    proj_drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
) -> Backbone:
    """A backbone with timm's keywords. With `num_classes=0` it has no head and returns features."""
    given = {"num_classes": num_classes, "in_chans": in_chans, "img_size": img_size}
    fields = {field: value for field, value in given.items() if value is not None}
    network = Backbone(architecture.replace(**fields), drop_rate, proj_drop_rate, drop_path_rate)
    if global_pool is not None:
        network.reset_classifier(network.num_classes, global_pool)
    return network


def _saved(architecture: Mapping[str, Any] | None = None, pretrained_cfg: Any = None, **options: Any) -> dict[str, Any]:
    """What builds a backbone of an architecture that a file describes: its own sizes, unless others are given.

    Raises:
        UserError: It describes none, or one with a mixer that would have to be imported.
    """
    if architecture is None:
        raise ModelError(f"{ANY_BACKBONE} needs an architecture, as a folder that ffvit wrote for the Hub has")
    with refuse_imports():
        saved = parse(Architecture, dict(architecture), "model_args.architecture")
    sizes = {field: getattr(saved, field) for field in ("num_classes", "in_chans", "img_size")}
    return {"architecture": saved, "pretrained_cfg": pretrained_cfg or input_config(saved), **sizes, **options}


@cache
def register_with_timm() -> None:
    """Register our named networks with timm: `timm.create_model` builds them, `timm.list_models` lists them.

    Importing ffvit registers nothing; `ffvit.create_model` and the commands call this themselves.
    """
    for name in (*default_cfgs, ANY_BACKBONE):
        register_model(_entry_point(name))


def _entry_point(name: str) -> Callable[..., nn.Module]:
    options: dict[str, Any]
    if name in NAMED or name == ANY_BACKBONE:
        options = {
            "model_cls": build,
            "pretrained_filter_fn": _released_to_ours,
            "feature_cfg": {"out_indices": 3, "feature_cls": "getter"},
        }
        options |= {"architecture": NAMED[name]} if name in NAMED else {}
    else:
        width, stride = CONVNETS[name]
        options = {"model_cls": ConvNet, "width": width, "stride": stride}

    def create(
        pretrained: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> nn.Module:
        kwargs = _saved(**kwargs) if name == ANY_BACKBONE else kwargs
        with nullcontext() if device is None else torch.device(device):
            network: nn.Module = build_model_with_cfg(variant=name, pretrained=pretrained, **options, **kwargs)
        return network if dtype is None else network.to(dtype)

    create.__name__ = create.__qualname__ = name
    return create


def _released_to_ours(state: dict[str, Any], _network: nn.Module) -> dict[str, Tensor]:
    """What timm does to a downloaded file before it loads it."""
    return to_ours(state.get("model", state))
