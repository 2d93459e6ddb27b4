"""What every exported file computes: levels of an image of any size in, logits out.

The preprocessing is part of it. It resizes as Pillow does, with plain arithmetic that every format knows: the weights of
a resampling filter are a matrix made of the image's height or width, and a resize is one matrix product along each axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from ffvit.config.preprocess import Preprocess

GREY = (19595, 38470, 7471)
"""Pillow's weights of red, green and blue in grey, of 65536 (ITU-R 601-2)."""


def _bicubic(x: Tensor) -> Tensor:
    x = x.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _bilinear(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _sinc(x: Tensor) -> Tensor:
    angle = math.pi * torch.where(x == 0, torch.ones_like(x), x)
    return torch.where(x == 0, torch.ones_like(x), angle.sin() / angle)


def _hamming(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1, _sinc(x) * (0.54 + 0.46 * (math.pi * x).cos()), torch.zeros_like(x))


def _lanczos(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 3, _sinc(x) * _sinc(x / 3), torch.zeros_like(x))


FILTERS: dict[str, Callable[[Tensor], Tensor]] = {
    "bicubic": _bicubic, "bilinear": _bilinear, "hamming": _hamming, "lanczos": _lanczos,
}  # fmt: skip
"""Pillow's resampling filters (its Resample.c), of the distance from the centre. Its `box` and `nearest` are left out: at
the many places that lie on the edge of two pixels, they go by the rounding of sums in float64."""


def resize_matrix(
    places: Int64[Tensor, " size"], size: Tensor, resized: Tensor, crop: int, interpolation: str
) -> Float[Tensor, "crop size"]:
    """The weights of all pixels along an axis in each pixel of the central crop of the resized axis.

    Args:
        places: 0 to size - 1.
        size: How many there are.
        resized: To how many they are resized.
        crop: How many of those are kept; places beyond them are 0, which is black.
        interpolation: As in `Preprocess`.
    """
    over = resized - crop
    half = over.abs() // 2
    # CenterCrop rounds half a pixel to the even one, and pads the more behind.
    first = torch.where(over >= 0, half + (over % 2) * (half % 2), -half)
    kept = first + torch.arange(crop)
    # In integers up to the division, so that float32 is enough for large images.
    apart = (2 * places + 1) * resized - (2 * kept[:, None] + 1) * size
    weights = FILTERS[interpolation](apart.float() / (2 * torch.maximum(size, resized)).float())
    inside = (kept >= 0) & (kept < resized)
    sums = torch.where(inside, weights.sum(dim=1), torch.ones(crop))
    return inside[:, None].float() * weights / sums[:, None]


class Preprocessing(nn.Module):
    """Resize, central crop and normalisation, as `ffvit evaluate` prepares images with Pillow.

    Levels differ from Pillow's by at most 1 of 255, where a sum falls on the middle between two. Images whose shorter
    side is as `Preprocess` resizes it, and whose size it therefore leaves, are cropped and normalised alone, to the bit.
    """

    mean: Tensor
    std: Tensor
    grey: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.resize_to = [math.floor(side / preprocess.crop_pct) for side in preprocess.img_size]
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocess, name)).view(-1, 1, 1)
            self.register_buffer(name, values, persistent=False)
        self.register_buffer("grey", torch.tensor(GREY, dtype=torch.float32).view(3, 1, 1), persistent=False)

    def forward(self, images: UInt8[Tensor, "batch height width 3"]) -> Float[Tensor, "batch channels rows columns"]:
        rows, columns = torch.arange(images.shape[1]), torch.arange(images.shape[2])
        # Sizes as tensors: nothing below depends on which side is longer.
        height, width = rows[-1] + 1, columns[-1] + 1
        high, wide = self._resized(height, width)
        (top, across), how = self.preprocess.img_size, self.preprocess.interpolation
        levels = images.permute(0, 3, 1, 2).float()
        levels = _rounded(levels @ resize_matrix(columns, width, wide, across, how).mT)
        levels = _rounded(resize_matrix(rows, height, high, top, how) @ levels)
        if self.preprocess.in_chans == 1:
            levels = (((levels * self.grey).sum(dim=1, keepdim=True) + 32768) / 65536).floor()
        return (levels / 255 - self.mean) / self.std

    def _resized(self, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """Height and width after resizing, as torchvision's `Resize` and timm's `ResizeKeepRatio` have them."""
        high, wide = self.resize_to
        if high == wide:
            shorter = torch.minimum(height, width)
            return high * height // shorter, wide * width // shorter
        by_height = height * wide <= width * high
        return (
            torch.where(by_height, torch.full_like(height, high), _half_to_even(height * wide, width)),
            torch.where(by_height, _half_to_even(width * high, height), torch.full_like(width, wide)),
        )


def _rounded(levels: Tensor) -> Tensor:
    return (levels + 0.5).floor().clamp(0, 255)


def _half_to_even(numerator: Tensor, denominator: Tensor) -> Tensor:
    """A quotient of whole numbers, rounded as Python does."""
    rounded = (2 * numerator + denominator) // (2 * denominator)
    tie = (2 * numerator + denominator) % (2 * denominator) == 0
    return rounded - torch.where(tie, rounded % 2, torch.zeros_like(rounded))


BLOCKS = ("blocks", "stages", "layers")
"""What networks call their blocks, ours and timm's."""


class Program(nn.Module):
    """The network with its preprocessing in front: `images` (batch height width 3, uint8, RGB) to `logits`."""

    def __init__(self, network: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(preprocess)
        self.network = network

    def forward(self, images: UInt8[Tensor, "batch height width 3"]) -> Float[Tensor, "batch classes"]:
        return self.network(self.preprocessing(images))


class Stages(nn.Module):
    """A program that also hands out what it has between its stages, to find the one where two programs part.

    Attributes:
        names: preprocessing, embedding, block 1 and so on, head: one for each output of `forward`.
    """

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        blocks = next((program.network.get_submodule(name) for name in BLOCKS if hasattr(program.network, name)), None)
        self.blocks = list(blocks.children()) if blocks is not None else []
        embedding = ["embedding"] if self.blocks else []
        numbered = [f"block {number}" for number in range(1, len(self.blocks) + 1)]
        self.names = ["preprocessing", *embedding, *numbered, "head"]

    def forward(self, images: UInt8[Tensor, "batch height width 3"]) -> tuple[Tensor, ...]:
        return self.after(self.program.preprocessing(images))

    def after(self, pixels: Float[Tensor, "batch channels rows columns"]) -> tuple[Tensor, ...]:
        """All outputs for images that are prepared already."""
        kept = [pixels]
        hooks = [block.register_forward_hook(lambda *args: kept.append(args[2])) for block in self.blocks]
        if self.blocks:
            hooks.append(self.blocks[0].register_forward_pre_hook(lambda _, args: kept.append(args[0])))
        try:
            logits = self.program.network(pixels)
        finally:
            for hook in hooks:
                hook.remove()
        return (*kept, logits)
