"""A plan for the question itself, on images nobody told us more about: body, recipe and seeds to fit data and time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ffvit.config import recipe as recipes
from ffvit.config.architecture import Architecture, Branch, Network
from ffvit.config.data import Data
from ffvit.config.hardware import Hardware
from ffvit.config.recipe import Recipe
from ffvit.data.decode import typical_side
from ffvit.data.splits import Splits, open_splits
from ffvit.errors import ConfigError, UserError
from ffvit.study.jobs import shorten
from ffvit.study.matching import all_arms
from ffvit.study.pixels import patch_spread, survives_mirroring
from ffvit.study.plan import Plan, Search
from ffvit.study.time_estimate import study_seconds

Factors = dict[str, dict[str, dict[str, Any]]]

MINUTES = 30.0
"""What a study takes where nobody says."""

FULL = 0.96
"""Share of the time that is planned."""

LARGEST_IMAGE = 224
LARGEST_PATCH = 16
GRID = 8
COARSEST = 4
"""Pixels of the largest image side and of the largest fine patch's; rows of patches where it is smaller, and at least."""

DIGITS_POSITIONS = 0.5
"""Standard deviation at which positions start on the digits: about that of the patch embeddings, see `patch_spread`."""

ENOUGH_VIEWS = 150_000
"""Images that a run is shown, in 10 to 100 epochs, before a larger body or more seeds are worth their time."""

DIGITS_EPOCHS = 36
"""At 25 epochs attention is half a point to a point below what it reaches with these (docs/baselines.md)."""

MOST_SEEDS = 10
LONGEST = 3
"""Times the epochs that are enough, before time goes into more seeds."""

SHORTEST_TRIAL = 0.15
"""Share of the epochs that a trial takes at least, where whole epochs keep it from a fifth: see docs/baselines.md."""

MILD_FROM, STRONG_FROM = 30, 200
"""Epochs from which images are cropped and flipped, and from which they are augmented as strongly as the recipe `small`.

Top-1 on 5,852 drawings of 64 px in 9 classes (attention, 64 features, 4 blocks, one run each):

| epochs | patch | none | crops of 60 to 100 % and flips | `small` |
|---|---|---|---|---|
| 10 | 8 px | 65.2 | 60.8 | below 55 |
| 40 | 16 px | 68.5 | 69.0 | 57.9 |
"""


class Body(NamedTuple):
    """Image side and patch side in pixels, width, depth, heads."""

    image: int
    patch: int
    width: int
    depth: int
    heads: int


COARSE = ((64, 4, 2), (96, 4, 3))
FINE = ((64, 4, 2), (96, 6, 3), (128, 6, 4), (192, 8, 3), (192, 12, 3), (384, 12, 6), (768, 12, 12))
"""Width, depth and heads of the bodies, smallest first: with patches of twice the side, then with fine ones."""

WIDEST = ((5_000, 128), (20_000, 192), (100_000, 384))
"""Below so many training images no wider body is tried."""


class RunBudget(NamedTuple):
    """What a study has: seeds of the main pair and of side arms, the arm `attention only`, epochs as a share of enough."""

    seeds: int
    side_seeds: int
    attention_only: bool
    epochs: float


RUN_BUDGETS = (
    RunBudget(5, 2, True, 1.0),
    RunBudget(5, 1, True, 1.0),
    RunBudget(5, 1, False, 1.0),
    RunBudget(4, 1, False, 0.7),
    RunBudget(3, 1, False, 0.25),
    RunBudget(2, 1, False, 0.15),
    RunBudget(1, 1, False, 0.0),
)
"""In the order in which they are tried on the smallest body; only the first is offered on larger ones."""


class Fit(NamedTuple):
    """A plan's fields; and what was given up to keep to the time, and what more minutes would buy, in sentences."""

    fields: dict[str, Any]
    compromises: tuple[str, ...]


def body(side: int, patch: int, width: int, depth: int, positions: float, channels: int = 3) -> Architecture:
    """The body that the question's arms share.

    The mean over patches is read, so that a control without mixing can be the same body. Initial weights are PyTorch's,
    which follow the width: the paper's 0.02 fits a width of 768, and at 64 it starves attention above all (on the
    digits 88 % instead of 96 %).

    Args:
        side: Of the images, in pixels.
        patch: Side of a patch, in pixels.
        width: Features.
        depth: Blocks.
        positions: Standard deviation at which positions start. Near that of an image's patch embeddings: far below it,
            attention starts blind to position; far above it, blind to the image (docs/baselines.md).
        channels: Of the images.
    """
    block = Branch("feedforward", "patches"), Branch("feedforward", "features")
    return Architecture(
        width=width,
        depth=depth,
        img_size=(side, side),
        patch=(patch, patch),
        in_chans=channels,
        block=block,
        readout="mean",
        position="vectors",
        position_std=positions,
        init="pytorch",
    )


def mixers(heads: int) -> dict[str, dict[str, Any]]:
    """What makes the question's arms of the body: FF only, ViT's block, attention only."""
    attention = {"mixer": "attention", "heads": heads}
    return {
        "feed-forward": {"patches.mixer": "feedforward"},
        "attention": {"patches": attention},
        ATTENTION_ONLY: {"patches": attention, "features": {"mixer": "attention", "heads": 1}},
    }


ATTENTION_ONLY = "attention only"


def bodies(side: int, images: int) -> tuple[Body, ...]:
    """The bodies for images of a side, smallest first. None enlarges the images, or shrinks them but to fit the patches.

    A network's cost follows the number of patches, not of pixels: short of time, patches are larger and the network
    narrower, and the images stay as they are.

    Args:
        side: Of the images, in pixels.
        images: To train on; few do not ask for a wide network.
    """
    side = min(side, LARGEST_IMAGE)
    patch = 1 if side < GRID else max(2, min(LARGEST_PATCH, round(side / GRID)))
    rows = side // patch
    fine = [Body(patch * rows, patch, *size) for size in FINE]
    coarse_rows = -(-rows // 2)
    coarse = [Body(side // coarse_rows * coarse_rows, side // coarse_rows, *size) for size in COARSE]
    widest = next((width for below, width in WIDEST if images < below), FINE[-1][0])
    return tuple(each for each in (*(coarse if coarse_rows >= COARSEST else ()), *fine) if each.width <= widest)


def fit_plan(
    data: Data,
    factors: Factors | None = None,
    minutes: float | None = None,
    controls: bool = True,
    hardware: Hardware | None = None,
    seeds: tuple[int, ...] | None = None,
    search: Search | None = Search(),  # noqa: B008  (a frozen value)
) -> Fit:
    """The fields of a plan that fit images and time: network, recipe, factors, seeds, minutes.

    The digits get the body and the recipe that are theirs. Other images get, at their own size, the largest body that
    the time is enough for with five seeds, then up to three times as many epochs, then more seeds. If it is short, the
    smallest body gets fewer seeds of side arms, fewer arms, and then fewer seeds and epochs.

    Args:
        data: The images.
        factors: What varies on the body; None: the question's mixers.
        minutes: What the whole study may take; None: 30, but for the digits.
        controls: Whether controls are trained too.
        hardware: What one run computes on.
        seeds: The seeds, if they are asked for.
        search: How every repetition is tuned; None: not at all.

    Raises:
        UserError: The time is too short for any body, even with one seed.
    """
    hardware = hardware or Hardware()
    if data.source == "digits":
        fields = {
            "hardware": _computing(hardware, Body(8, 2, 64, 3, 2)),
            "network": Network(architecture=body(8, 2, width=64, depth=3, positions=DIGITS_POSITIONS, channels=1)),
            "recipe": recipes.named_recipe("digits").lasting(DIGITS_EPOCHS).replace(lr=4e-3, crop_scale=(0.8, 1.0)),
            "factors": factors
            or {"mixer": {name: its for name, its in mixers(heads=4).items() if name != ATTENTION_ONLY}},
            "side_seeds": None if factors else 1,
            "search": search and Search(configurations=3, length=0.2, seeds=2),
        }
        return Fit(fields | ({"minutes": minutes} if minutes is not None else {}), ())
    return _Fitting(data, factors, minutes or MINUTES, controls, hardware, seeds, search).fit()


class _Fitting:
    """The search for the plan that fits; see `fitted`."""

    def __init__(
        self,
        data: Data,
        factors: Factors | None,
        minutes: float,
        controls: bool,
        hardware: Hardware,
        seeds: tuple[int, ...] | None,
        search: Search | None,
    ) -> None:
        self.began = time.monotonic()
        self.data, self.factors, self.minutes, self.hardware = data, factors, minutes, hardware
        self.asked: dict[str, Any] = {"data": data, "controls": controls, "search": search}
        self.seeds = seeds
        self.splits: Splits = open_splits(data)
        self.images, self.side = len(self.splits.train), typical_side(self.splits.train)
        self.flip = 0.5 if survives_mirroring(self.splits, seed=0) else 0.0
        self.spreads: dict[tuple[int, ...], float] = {}
        self.enough = int(np.clip(ENOUGH_VIEWS / self.images, 10, 100))

    def fit(self) -> Fit:
        """The plan, see `fitted`."""
        ladder = bodies(self.side, self.images)
        size, offer, larger = ladder[0], RUN_BUDGETS[0], None
        if self.takes(size, offer, self.enough) > self.left():
            fitting = (each for each in RUN_BUDGETS[1:] if self.takes(size, each, self.epochs(each)) <= self.left())
            found = next(fitting, None)
            if found is None:
                raise self.too_short(size)
            offer = found
        else:
            for larger in ladder[1:]:
                if self.takes(larger, offer, self.enough) > self.left():
                    break
                size, larger = larger, None
        epochs = _most(lambda epochs: self.takes(size, offer, epochs) <= self.left(), 1, LONGEST * self.enough)
        epochs, search = self.with_shorter_trials(size, offer, epochs)
        if offer is RUN_BUDGETS[0]:
            more = [offer._replace(seeds=seeds) for seeds in range(offer.seeds + 1, MOST_SEEDS + 1)]
            offer = [offer, *(each for each in more if self.takes(size, each, epochs) <= self.left())][-1]
        fields = self.fields(size, offer, epochs) | {"search": search, "minutes": self.minutes}
        return Fit(fields, tuple(self.compromises(size, offer, epochs, larger)))

    def with_shorter_trials(self, size: Body, offer: RunBudget, epochs: int) -> tuple[int, Search | None]:
        """The most epochs that there is time for if trials stay as short as now, and the search with that trial length.

        One more epoch in every trial of every search costs far more than one more epoch in every run.
        """
        search: Search | None = self.asked["search"]
        if search is None:
            return epochs, None
        trial = shorten(_recipe(self.images, epochs, size, self.flip), search).epochs
        for more in range(epochs + 1, min(int(trial / SHORTEST_TRIAL), LONGEST * self.enough) + 1):
            shorter = search.replace(length=round(trial / more, 4))
            if self.takes(size, offer, more, search=shorter) > self.left():
                break
            epochs, search = more, shorter
        return epochs, search

    def left(self) -> float:
        """Seconds that may be planned: a study that is a little slower still does all its rounds."""
        return FULL * 60 * self.minutes - (time.monotonic() - self.began)

    def epochs(self, offer: RunBudget) -> int:
        """The epochs that an offer asks for at least."""
        return max(1, round(self.enough * offer.epochs))

    def takes(self, size: Body, offer: RunBudget, epochs: int, **others: Any) -> float:
        """Predicted seconds of such a study; `others` replace fields of its plan."""
        plan = Plan(**self.fields(size, offer, epochs) | others)
        return study_seconds(plan, all_arms(plan, len(self.splits.classes)), self.splits)

    def fields(self, size: Body, offer: RunBudget, epochs: int) -> dict[str, Any]:
        """The fields of such a plan."""
        factors = self.factors or {"mixer": mixers(size.heads)}
        if not self.factors and not offer.attention_only:
            del factors["mixer"][ATTENTION_ONLY]
        seeds = self.seeds or tuple(range(offer.seeds))
        return {
            **self.asked,
            "hardware": _computing(self.hardware, size),
            "network": Network(architecture=body(*size[:4], positions=self.positions(size))),
            "recipe": _recipe(self.images, epochs, size, self.flip),
            "factors": factors,
            "seeds": seeds,
            # Arms that a person named are all asked about.
            "side_seeds": None if self.factors else min(offer.side_seeds, len(seeds)),
        }

    def positions(self, size: Body) -> float:
        """The standard deviation at which its positions start; 0.05 at least, should all patches of an image be alike."""
        if size[:2] not in self.spreads:
            self.spreads[size[:2]] = patch_spread(self.splits, size.image, size.patch)
        return max(0.05, round(self.spreads[size[:2]], 2))

    def compromises(self, size: Body, offer: RunBudget, epochs: int, larger: Body | None) -> Iterator[str]:
        """What the plan does without, and what more minutes would buy."""
        if size.image < 0.9 * self.side:
            yield f"The images are shrunk from about {self.side} to {size.image} px, the largest that is planned by itself."
        if larger is not None:
            finer = f", patches of {larger.patch} instead of {size.patch} px" if larger.patch < size.patch else ""
            yield (
                f"About {self.in_minutes(larger, RUN_BUDGETS[0])} minutes would allow the next larger network: "
                f"{larger.width} features, {larger.depth} blocks{finer}."
            )
        if offer.seeds >= RUN_BUDGETS[0].seeds and offer.side_seeds == RUN_BUDGETS[0].side_seeds:
            return
        first = RUN_BUDGETS[0]
        finest = bodies(self.side, self.images)[-1].patch
        if size.patch > finest:
            yield f"The network is the smallest, with patches of {size.patch} px rather than {finest}."
        lacks = []
        if not self.seeds and offer.seeds < first.seeds:
            lacks.append(f"{offer.seeds} seed{'s' * (offer.seeds > 1)} of the main pair instead of {first.seeds}")
        if offer.side_seeds < min(first.side_seeds, len(self.seeds or range(first.seeds))):
            lacks.append(f"{offer.side_seeds} seed of the other arms instead of {first.side_seeds}")
        if not self.factors and not offer.attention_only:
            lacks.append(f"no arm {ATTENTION_ONLY!r}")
        if epochs < self.enough:
            lacks.append(f"{epochs} epochs instead of {self.enough}, so every arm may be underfit")
        if lacks:
            yield (
                f"For lack of time: {'; '.join(lacks)}. About {self.in_minutes(size, first)} minutes would allow all of it."
            )

    def in_minutes(self, size: Body, offer: RunBudget) -> int:
        """Minutes that a study takes with enough epochs."""
        return math.ceil((self.takes(size, offer, self.enough) + time.monotonic() - self.began) / 60)

    def too_short(self, size: Body) -> UserError:
        needed = (self.takes(size, RUN_BUDGETS[-1], 1) + time.monotonic() - self.began) / 60
        seeds = f"{len(self.seeds)} seeds" if self.seeds else "one seed"
        return ConfigError(
            f"minutes: {self.minutes:g} is too short: on these {self.images:,} training images even the smallest network "
            f"with {seeds} of one epoch would take about {math.ceil(needed)} minutes"
        )


def _most(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The largest number from `low`, which is taken to fit, to `high` that fits."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _computing(hardware: Hardware, size: Body) -> Hardware:
    """In fp32, unless asked, where bodies are small: in bf16 their attention takes up to thrice as long on a processor."""
    small = size.image // size.patch <= GRID and size.width <= 96 and hardware.precision == "auto"
    return hardware.replace(precision="32-true") if small else hardware


def _recipe(images: int, epochs: int, size: Body, flip: float) -> Recipe:
    """`small`, with a batch and an average fitted to how many steps there are, and the augmentation to the epochs."""
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
