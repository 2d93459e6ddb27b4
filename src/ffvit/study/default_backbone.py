"""The backbones and recipes that are planned by default: what fits images of a size, a number and a training time."""

from __future__ import annotations

from typing import Any, NamedTuple

from ffvit.config import recipe as recipes
from ffvit.config.architecture import Architecture, Branch
from ffvit.config.recipe import Recipe

LARGEST_IMAGE = 224
LARGEST_PATCH = 16
GRID = 8
COARSEST = 4
"""Pixels of the largest image side and of the largest fine patch's; rows of patches where it is smaller, and at least."""

MILD_FROM, STRONG_FROM = 30, 200
"""Epochs from which images are cropped and flipped, and from which they are augmented as strongly as the recipe `small`.

Top-1 on 5,852 drawings of 64 px in 9 classes (attention, 64 features, 4 blocks, one run each):

| epochs | patch | none | crops of 60 to 100 % and flips | `small` |
|---|---|---|---|---|
| 10 | 8 px | 65.2 | 60.8 | below 55 |
| 40 | 16 px | 68.5 | 69.0 | 57.9 |
"""

ATTENTION_ONLY = "attention only"


class Size(NamedTuple):
    """Image side and patch side in pixels, width, depth, heads."""

    image: int
    patch: int
    width: int
    depth: int
    heads: int

    @property
    def small(self) -> bool:
        """Whether runs compute in fp32 by default: in bf16 such attention takes up to three times as long on a CPU."""
        return self.image // self.patch <= GRID and self.width <= 96


COARSE = ((64, 4, 2), (96, 4, 3))
FINE = ((64, 4, 2), (96, 6, 3), (128, 6, 4), (192, 8, 3), (192, 12, 3), (384, 12, 6), (768, 12, 12))
"""Width, depth and heads, smallest first: with patches of twice the side, then with fine ones."""

WIDEST = ((5_000, 128), (20_000, 192), (100_000, 384))
"""Below so many training images no wider network is tried."""


def sizes_for(side: int, images: int) -> tuple[Size, ...]:
    """The sizes for images of a side, smallest first. None enlarges the images, or shrinks them but to fit the patches.

    A network's cost follows the number of patches, not of pixels: short of time, patches are larger and the network
    narrower, and the images stay as they are. Few training images do not ask for a wide network.
    """
    side = min(side, LARGEST_IMAGE)
    patch = 1 if side < GRID else max(2, min(LARGEST_PATCH, round(side / GRID)))
    rows = side // patch
    coarse_rows = -(-rows // 2)
    coarse = [Size(side // coarse_rows * coarse_rows, side // coarse_rows, *size) for size in COARSE]
    fine = [Size(patch * rows, patch, *size) for size in FINE]
    widest = next((width for below, width in WIDEST if images < below), FINE[-1][0])
    return tuple(size for size in (*(coarse if coarse_rows >= COARSEST else ()), *fine) if size.width <= widest)


def backbone(size: Size, positions: float, channels: int = 3) -> Architecture:
    """The backbone that the arms share.

    The mean over patches is read, so that a control without mixing can be the same backbone. Initial weights are
    PyTorch's, which follow the width: the paper's 0.02 fits a width of 768, and at 64 it starves attention above all (on
    the digits 88 % instead of 96 %). `positions` is the standard deviation of the initial positions, near that of an
    image's patch embeddings: far below it, attention starts blind to position; far above it, blind to the image
    (docs/baselines.md).
    """
    return Architecture(
        width=size.width,
        depth=size.depth,
        img_size=(size.image, size.image),
        patch=(size.patch, size.patch),
        in_chans=channels,
        block=(Branch("feedforward", "patches"), Branch("feedforward", "features")),
        readout="mean",
        position="vectors",
        position_std=positions,
        init="pytorch",
    )


def mixer_levels(heads: int, attention_only: bool = True) -> dict[str, dict[str, Any]]:
    """The arms that are planned by default: feed-forward only, ViT's block, attention only."""
    attention = {"mixer": "attention", "heads": heads}
    levels: dict[str, dict[str, Any]] = {
        "feed-forward": {"network.patches.mixer": "feedforward"},
        "attention": {"network.patches": attention},
    }
    if attention_only:
        levels[ATTENTION_ONLY] = {
            "network.patches": attention,
            "network.features": {"mixer": "attention", "heads": 1},
        }
    return levels


def recipe_for(images: int, epochs: int, size: Size, flip: float) -> Recipe:
    """`small`, with batch size and EMA fitted to the number of steps, and the augmentation to the epochs."""
    batch = 32 if images < 1_000 else 64 if images < 10_000 else 128
    steps = max(1, images // batch) * epochs
    tiny = size.image <= 32
    fields: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch,
        "lr": 4e-3 if size.width <= 96 else 2e-3 if size.width <= 192 else 1e-3,
        "warmup_epochs": min(max(1, epochs // 10), epochs - 1),
        "ema_decay": float(f"{1 - min(0.1, 10 / steps):.3g}"),
        "flip": flip,
    }
    if tiny:  # a crop must keep the stroke of a letter, and Pillow is the faster way for so few pixels
        fields |= {"crop_ratio": (0.8, 1.25), "interpolation": "bilinear", "exact": "always"}
    if size.image < 128:
        fields |= {"evaluation_crop": 1.0}
    if epochs < STRONG_FROM:
        fields |= {"drop_path": 0.0, "auto_augment": None, "random_erase_prob": 0.0, "mixup": 0.0, "cutmix": 0.0}
        fields |= {"crop_scale": (0.6, 1.0)}
    elif tiny:
        fields |= {"crop_scale": (0.6, 1.0), "auto_augment": "rand-m5-mstd0.5-inc1" if flip else None}
    if epochs < MILD_FROM:
        fields |= {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0.0}
    return recipes.named_recipe("small").replace(**fields)
