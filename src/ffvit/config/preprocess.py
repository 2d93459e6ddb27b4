"""How an image becomes what a network takes: one value, stored with the weights and read by every way in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, model_validator

from ffvit.config.base import Value, parse

if TYPE_CHECKING:
    from ffvit.config.recipe import Recipe

MOST = 2**15
"""Pixels of a side, and channels, at most."""

Side = Annotated[int, Field(gt=0, le=MOST)]
PixelBackend = Literal["pillow", "fast"]


class Preprocess(Value):
    """How images are prepared for evaluation and prediction, in timm's terms; crop and resizing differ in training."""

    img_size: tuple[Side, Side] = Field(description="Height and width in pixels.")
    in_chans: Side = Field(3, description="3 for colour, 1 for grey.")
    crop_pct: PositiveFloat = Field(
        0.875, ge=0.05, description="Share of the resized image that the central crop keeps (0.875: 224 of 256)."
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"] = "bicubic"
    mean: tuple[float, ...] = Field(
        (), description="Subtracted, for each channel. Default: ImageNet's for 3 channels, else 0.5."
    )
    std: tuple[PositiveFloat, ...] = Field((), description="Divided by, for each channel. Default: likewise.")
    pixel_backend: PixelBackend = Field(
        "pillow",
        description="Decode and resize with Pillow, bit for bit as timm does, or with the faster libraries of docs/data.md.",
    )

    @model_validator(mode="before")
    @classmethod
    def _default_normalization(cls, fields: Any) -> Any:
        if not isinstance(fields, Mapping):
            return fields
        channels = fields.get("in_chans", 3)
        imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
        grey = {name: _per_channel((0.5,), channels) if isinstance(channels, int) else () for name in imagenet}
        return {**(imagenet if channels == 3 else grey), **fields}

    @model_validator(mode="after")
    def _consistent(self) -> Preprocess:
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.in_chans:
                raise ValueError(
                    f"{name}: must have one number a channel ({self.in_chans}); got {len(getattr(self, name))}"
                )
        if self.pixel_backend == "fast" and self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(
                f"interpolation: pixel_backend 'fast' resizes bilinear or bicubic; got {self.interpolation!r}"
            )
        return self

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the network takes."""
        return (self.in_chans, *self.img_size)

    @classmethod
    def from_timm(cls, config: Mapping[str, Any], where: str = "pretrained_cfg", **known: Any) -> Preprocess:
        """What a timm `pretrained_cfg` says; what it leaves out is timm's default.

        A mean and deviation for another number of channels give each channel their average.

        Args:
            config: timm's fields.
            where: What to call it in an error.
            known: Fields of this class that are known better.

        Raises:
            UserError: A value cannot be used.
        """
        channels, *size = config.get("input_size") or (3, 224, 224)
        fields: dict[str, Any] = {"img_size": size, "in_chans": channels} | known
        for name in ("crop_pct", "interpolation", "mean", "std"):
            if name not in known and config.get(name):
                fields[name] = config[name]
        for name in ("mean", "std"):
            if name in fields:
                fields[name] = _per_channel(fields[name], fields["in_chans"])
        return parse(cls, fields, where)

    def to_timm(self) -> dict[str, Any]:
        """As fields of a timm `pretrained_cfg`, which has none for the pixel backend."""
        return {
            "input_size": self.shape,
            "crop_pct": self.crop_pct,
            "interpolation": self.interpolation,
            "mean": self.mean,
            "std": self.std,
        }

    def with_recipe(self, recipe: Recipe) -> Preprocess:
        """As a run of this recipe evaluates: its crop, interpolation and pixel backend."""
        return self.replace(
            crop_pct=recipe.evaluation_crop,
            interpolation=recipe.interpolation,
            pixel_backend="fast" if recipe.exact == "never" else "pillow",
        )


def _per_channel(numbers: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(numbers) == channels:
        return tuple(numbers)
    # An untrusted file may ask for a billion channels; they are refused after this.
    return (sum(numbers) / len(numbers),) * min(channels, MOST)
