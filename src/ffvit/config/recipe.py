"""How a network is trained: one value for everything that moves its accuracy, and the named recipes.

`deit` is what the paper trains with ("exactly the same hyperparameters as DeiT", section 3), reproduced exactly: where
DeiT's code does something it does not say, that is a field here whose other value is the sane one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from ffvit.config.base import Value
from ffvit.errors import ConfigError, did_you_mean

Share = Annotated[float, Field(ge=0, le=1)]


class Recipe(Value):
    """A training recipe. Durations are in epochs; one epoch shows about as many images as the training split holds."""

    # Duration
    epochs: PositiveInt = Field(
        100, description="Epochs to train; with minutes, the epochs the schedule is defined over."
    )
    minutes: PositiveFloat | None = Field(
        None, description="Train for this many minutes; the schedule follows the clock."
    )
    batch_size: PositiveInt = Field(
        128, description="Images per optimizer step, over all devices and accumulated micro-batches."
    )

    # Optimizer
    optimizer: str = Field("adamw", description="Any optimizer of timm, by timm's name.")
    lr: PositiveFloat = Field(1e-3, description="Peak learning rate.")
    lr_base_batch_size: PositiveInt | None = Field(
        None, description="Scale lr by batch_size / this. None: do not scale."
    )
    betas: tuple[Share, Share] = Field((0.9, 0.999), description="AdamW's two decay rates.")
    epsilon: PositiveFloat = Field(1e-8, description="AdamW's epsilon.")
    weight_decay: NonNegativeFloat = Field(
        0.05, description="Weight decay of matrices; biases, norms, positions and class tokens are not decayed."
    )
    decay_position_map: bool = Field(
        False,
        description="Decay a position map too: the released code does, its exclusion list misspelling the name.",
    )
    clip_grad_norm: PositiveFloat | None = Field(None, description="Largest gradient norm. None: not clipped.")

    # Schedule
    schedule: Literal["cosine", "constant"] = Field("cosine", description="Learning rate after the warm-up.")
    schedule_per: Literal["step", "epoch"] = Field("step", description="How often the learning rate changes.")
    warmup_epochs: NonNegativeFloat | None = Field(
        None,
        description="Epochs of linear warm-up, or a fraction of one. None: 5, but no more than a fifth of the epochs.",
    )
    warmup_lr: NonNegativeFloat = Field(1e-6, description="Learning rate at the start of the warm-up.")
    min_lr: NonNegativeFloat = Field(1e-5, description="Learning rate at the end of the cosine.")
    cooldown_epochs: NonNegativeFloat = Field(
        0.0,
        description="Epochs at the end that stay at min_lr (DeiT's option for it has no effect).",
    )
    cosine_under_warmup: bool = Field(
        False, description="Draw the cosine from the start, the warm-up on top (DeiT), not from the warm-up's end."
    )
    schedule_late: bool = Field(
        False, description="Run epoch e at the rate of epoch e - 1: DeiT's loop steps with the finished epoch's number."
    )

    # Regularisation
    drop_path: Share = Field(0.0, description="Stochastic depth of the last block; linear from 0 in the first.")
    dropout: Share = Field(0.0, description="Dropout inside the branches.")
    label_smoothing: Share = Field(0.1, description="Label smoothing.")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        0.999, description="Decay per step of the moving average (EMA) of the weights. None: no EMA."
    )
    ema_warmup: bool = Field(
        True,
        description="Raise the decay to that as (1 + t) / (10 + t) over steps t, so that a short run does not average its initial weights.",
    )

    # Augmentation
    crop_scale: tuple[Share, Share] = Field((0.35, 1.0), description="Share of the image's area a random crop holds.")
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = Field((3 / 4, 4 / 3), description="Width / height of a crop.")
    interpolation: Literal["bicubic", "bilinear"] = Field("bicubic", description="How images are resized.")
    exact: Literal["never", "evaluation", "always"] = Field(
        "never",
        description="When images are decoded, resized and augmented by Pillow and timm, as DeiT does it, to the bit. "
        "Else faster, with the same draws and pixels that differ by their rounding.",
    )
    image_scales: tuple[Annotated[float, Field(gt=0, le=16)], ...] = Field(
        (),
        description="Train at several image sizes in turn, one each step: multiples of the image size (such as 1 0.5 1.5), in whole patches. "
        "Empty: at the image size alone.",
    )
    flip: Share = Field(0.5, description="Probability of a horizontal flip.")
    auto_augment: str | None = Field(None, description="timm's RandAugment or AutoAugment, as timm spells it.")
    random_erase_prob: Share = Field(0.0, description="Probability of erasing a random rectangle with noise.")
    aug_repeats: PositiveInt = Field(
        1,
        description="Augmented views of an image in a batch (repeated augmentation); an epoch then has fewer distinct images.",
    )
    evaluation_crop: Annotated[float, Field(gt=0, le=1)] = Field(
        0.875, description="In evaluation the image is resized so that the central crop is this share of it."
    )

    # Mixing
    mixup: NonNegativeFloat = Field(0.0, description="Mixup's alpha; 0: no mixup.")
    cutmix: NonNegativeFloat = Field(0.0, description="CutMix's alpha; 0: no CutMix.")
    mixup_prob: Share = Field(1.0, description="Probability that a group of images is mixed.")
    mixup_switch_prob: Share = Field(0.5, description="Probability of CutMix where mixup and CutMix are both on.")
    mixup_group_size: PositiveInt = Field(
        128, description="Images that share one mixup or CutMix draw and are mixed with each other (DeiT: 128 per GPU)."
    )

    # Loss
    loss: Literal["soft_target", "bce"] = Field(
        "soft_target", description="Cross entropy with soft targets, or binary cross entropy a class (DeiT III)."
    )
    balance: Literal["none", "weights", "sampler"] = Field(
        "none", description="For imbalanced classes: weight the loss, or draw every class equally often."
    )

    # Distillation
    teacher: str | None = Field(
        None, description="A teacher to distil from: a timm model, a run folder or a weights file."
    )
    distillation: Literal["soft", "hard"] = Field(
        "hard", description="Distil from the teacher's probabilities (soft) or its top class (hard)."
    )
    distillation_weight: Share = Field(0.5, description="Share of the loss that comes from the teacher.")
    distillation_temperature: PositiveFloat = Field(1.0, description="Temperature of soft distillation.")

    @field_validator("*", mode="before")
    @classmethod
    def _none(cls, value: object, info: Any) -> object:
        """The word none, as a command line gives it, where a field may be None."""
        optional = type(None) in get_args(cls.model_fields[str(info.field_name)].annotation)
        return None if optional and value == "none" else value

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, name)
            if low > high or low == 0:
                raise ValueError(f"{name}: must rise from above 0; got {low} to {high}")
        if not self.cosine_under_warmup and self.warmup + self.cooldown_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup:g} and cooldown_epochs {self.cooldown_epochs:g} leave nothing of "
                f"{self.epochs} epochs; lower them (--recipe.warmup-epochs {self.epochs / 5:g}) or raise epochs"
            )
        if self.image_scales and self.teacher is not None:
            raise ValueError("image_scales: a teacher sees images of one size; leave out one of the two")
        if self.mixes and (self.batch_size % 2 or self.mixup_group_size % 2):
            raise ValueError("mixup and CutMix mix images in pairs: batch_size and mixup_group_size must be even")
        return self

    def lasting(self, epochs: int) -> Recipe:
        """This recipe drawn out or cut to so many epochs, with warm-up and cool-down in proportion."""
        share = epochs / self.epochs
        return self.replace(
            epochs=epochs, warmup_epochs=self.warmup * share, cooldown_epochs=self.cooldown_epochs * share
        )

    @property
    def warmup(self) -> float:
        """Epochs of warm-up, the default filled in."""
        return min(5.0, self.epochs / 5) if self.warmup_epochs is None else self.warmup_epochs

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with each other."""
        return (self.mixup > 0 or self.cutmix > 0) and self.mixup_prob > 0

    @property
    def peak_lr(self) -> float:
        """The highest learning rate, scaled to the batch."""
        scale = self.batch_size / self.lr_base_batch_size if self.lr_base_batch_size else 1.0
        return self.lr * scale


RECIPES: dict[str, Recipe] = {
    # Touvron et al., Training data-efficient image transformers, arXiv 2012.12877, and the code released with it.
    "deit": Recipe(
        epochs=300,
        batch_size=1024,
        lr=5e-4,
        lr_base_batch_size=512,
        weight_decay=0.05,
        decay_position_map=True,
        schedule_per="epoch",
        warmup_lr=1e-6,
        min_lr=1e-5,
        cosine_under_warmup=True,
        schedule_late=True,
        drop_path=0.1,
        label_smoothing=0.1,
        ema_decay=0.99996,
        ema_warmup=False,
        crop_scale=(0.08, 1.0),
        exact="evaluation",
        auto_augment="rand-m9-mstd0.5-inc1",
        random_erase_prob=0.25,
        aug_repeats=3,
        mixup=0.8,
        cutmix=1.0,
    ),
    # Up to about 100,000 small images (CIFAR, flowers): fewer views, a higher rate, milder crops.
    "small": Recipe(
        epochs=100,
        batch_size=128,
        lr=1e-3,
        weight_decay=0.05,
        clip_grad_norm=1.0,
        drop_path=0.1,
        ema_decay=0.9998,
        auto_augment="rand-m7-mstd0.5-inc1",
        random_erase_prob=0.1,
        mixup=0.2,
        cutmix=1.0,
    ),
    # 8 x 8 handwritten digits: a mirrored 2 is no 2, and a crop must keep the stroke.
    "digits": Recipe(
        epochs=25,
        batch_size=64,
        lr=2e-3,
        weight_decay=0.05,
        clip_grad_norm=1.0,
        ema_decay=0.99,
        crop_scale=(0.7, 1.0),
        crop_ratio=(0.8, 1.25),
        interpolation="bilinear",
        exact="always",  # of so few pixels it is the faster way
        flip=0.0,
        evaluation_crop=1.0,
    ),
}
"""The named recipes."""


def named_recipe(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UserError: There is none; says the nearest.
    """
    if name not in RECIPES:
        raise ConfigError(
            f"recipe: none is called {name!r}{did_you_mean(name, RECIPES)} (there are: {', '.join(RECIPES)})"
        )
    return RECIPES[name]
