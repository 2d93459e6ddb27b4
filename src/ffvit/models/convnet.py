"""Small plain convolutional networks, the baseline that every study of small images should be compared with.

Three stages of 3 x 3 convolution, BatchNorm and ReLU, all but the first halving the image, then global average
pooling and a linear head: no attention, no feed-forward layer over patches, no residual branches. They take images of
any size from 8 px on and any number of channels.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

CONVNETS: dict[str, tuple[int, int]] = {
    f"convnet_w{width}_s{stride}": (width, stride)
    for stride in (1, 2, 4)
    for width in (8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256, 320, 384)
}
"""By name: features of the first stage (each further one has twice as many), and the stride of the first convolution."""


class ConvNet(nn.Module):
    """A small plain convolutional network, with timm's attributes.

    Args:
        width: Features of the first stage.
        stride: Of the first convolution.
        num_classes: Number of classes; 0 for a network without a head.
        in_chans: Channels of the image.
        drop_rate: Dropout before the head.
        drop_path_rate: Without effect: there are no residual branches whose depth could be stochastic.
    """

    def __init__(
        self,
        width: int,
        stride: int,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,  # noqa: ARG002  (an arm's recipe may ask for it)
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.num_features = self.head_hidden_size = 4 * width
        self.stages = nn.Sequential(
            *_layer(in_chans, width, stride),
            *_layer(width, width, 1),
            *_layer(width, 2 * width, 2),
            *_layer(2 * width, 2 * width, 1),
            *_layer(2 * width, 4 * width, 2),
            *_layer(4 * width, 4 * width, 1),
        )
        self.drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head. `avg` is the only pooling."""
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool: a ConvNet has 'avg' only; got {global_pool!r}")
        self.num_classes = num_classes
        at: Any = {"device": self.stages[0].weight.device, "dtype": self.stages[0].weight.dtype}
        self.head = nn.Linear(self.num_features, num_classes, **at) if num_classes else nn.Identity()
        self.head.train(self.training)

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def forward_features(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features rows columns"]:
        """The last feature map."""
        features: Tensor = self.stages(images)
        return features

    def forward_head(
        self, features: Float[Tensor, "batch features rows columns"], pre_logits: bool = False
    ) -> Float[Tensor, "batch outputs"]:
        """The logits of a feature map; with `pre_logits` its mean."""
        pooled = self.drop(features.mean((2, 3)))
        logits: Tensor = pooled if pre_logits else self.head(pooled)
        return logits

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch outputs"]:
        """The logits."""
        return self.forward_head(self.forward_features(images))


def _layer(before: int, after: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)


def convnet_by_flops(flops: int | float, img_size: tuple[int, int], in_chans: int, num_classes: int) -> str:
    """The name of the ConvNet whose FLOPs for one image are nearest to a number, as a ratio.

    The first stride follows the image, so that the last feature map has about 8 to 16 rows.

    Args:
        flops: To come near to (a multiply-add is two).
        img_size: Height and width of the image in pixels.
        in_chans: Channels of the image.
        num_classes: Number of classes.
    """
    stride = 1 if min(img_size) < 48 else 2 if min(img_size) < 96 else 4
    names = [name for name, (_, first_stride) in CONVNETS.items() if first_stride == stride]
    return min(names, key=lambda name: abs(math.log(_flops(name, img_size, in_chans, num_classes) / flops)))


@functools.cache
def _flops(name: str, img_size: tuple[int, int], in_chans: int, num_classes: int) -> int:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        ConvNet(*CONVNETS[name], num_classes, in_chans).eval()(torch.empty(1, in_chans, *img_size))
    return counter.get_total_flops()
