"""Our named networks in timm's registry, so that `timm.create_model("ff_base_patch16_224")` builds them.

Imported once timm is there: by `ffvit.create_model`, or as soon as a program has imported both timm and ffvit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from timm.models import build_model_with_cfg, register_model
from torch import Tensor, nn

from ffvit.config.architecture import NAMED, Architecture
from ffvit.config.preprocess import Preprocess
from ffvit.models.backbone import Backbone
from ffvit.models.vit_conversion import to_ours

RELEASE = "https://github.com/lukemelas/do-you-even-need-attention/releases/download/v0.0.1/"
RELEASED = {
    "ff_tiny_patch16_224": RELEASE + "linear-tiny-checkpoint.pth",
    "ff_base_patch16_224": RELEASE + "linear-base-checkpoint.pth",
}
"""The weights the paper released."""


def input_config(architecture: Architecture) -> dict[str, Any]:
    """Timm's `default_cfg` of a network: what goes in, how it is scaled, where its first and last layers are."""
    return {
        "url": "",
        "num_classes": architecture.classes,
        **Preprocess(img_size=architecture.image, in_chans=architecture.channels).to_timm(),
        "pool_size": None,
        "crop_mode": "center",
        "fixed_input_size": True,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


default_cfgs = {
    name: input_config(architecture)
    | {
        "url": RELEASED.get(name, ""),
        "license": "apache-2.0",
        "paper_ids": "arXiv:2105.02723",
        "paper_name": "Do You Even Need Attention? A Stack of Feed-Forward Layers Does Surprisingly Well on ImageNet",
        "origin_url": "https://github.com/lukemelas/do-you-even-need-attention",
    }
    for name, architecture in NAMED.items()
}


def build(
    architecture: Architecture,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    global_pool: str | None = None,
    drop_rate: float = 0.0,
    proj_drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
) -> Backbone:
    """A backbone with timm's keywords. A classless build (`num_classes=0`) hands out features."""
    given = {"classes": num_classes, "channels": in_chans, "image": img_size}
    fields = {field: value for field, value in given.items() if value is not None}
    network = Backbone(architecture.replace(**fields), drop_rate, proj_drop_rate, drop_path_rate)
    if global_pool is not None:
        network.reset_classifier(network.num_classes, global_pool)
    return network


def _released_to_ours(state: dict[str, Any], _network: nn.Module) -> dict[str, Tensor]:
    """What timm does to a downloaded file before it loads it."""
    return to_ours(state.get("model", state))


def _entry_point(name: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return build_model_with_cfg(
            build,
            name,
            pretrained,
            architecture=NAMED[name],
            pretrained_filter_fn=_released_to_ours,
            feature_cfg={"out_indices": 3, "feature_cls": "getter"},
            **kwargs,
        )

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{name}: see `ffvit.NAMED[{name!r}]`."
    return create


for _name in NAMED:
    _function = _entry_point(_name)
    setattr(sys.modules[__name__], _name, _function)
    register_model(_function)
