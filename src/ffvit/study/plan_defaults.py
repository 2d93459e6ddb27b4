"""A plan for images that nobody told us more about: backbone, recipe and seeds to fit the images and the time."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ffvit.config import recipe as recipes
from ffvit.config.architecture import Network
from ffvit.config.data import Data
from ffvit.config.hardware import Hardware
from ffvit.data.decode import typical_side
from ffvit.data.splits import Splits, open_splits
from ffvit.errors import ConfigError
from ffvit.study.default_backbone import ATTENTION_ONLY, Size, backbone, mixer_levels, recipe_for, sizes_for
from ffvit.study.jobs import shorten
from ffvit.study.matching import all_arms
from ffvit.study.pixels import patch_spread, survives_mirroring
from ffvit.study.plan import Plan, Search
from ffvit.study.time_estimate import estimate_study

Factors = Mapping[str, Mapping[str, Mapping[str, Any]]]

MINUTES = 30.0
"""What a study takes where nobody says."""

FULL = 0.96
"""Share of the time that is planned: a study that is a little slower still does all its rounds."""

DIGITS_POSITIONS = 0.5
"""Standard deviation of the initial positions on the digits: about that of the patch embeddings, see `patch_spread`."""

DIGITS_EPOCHS = 36
"""At 25 epochs attention is half a point to a point below what it reaches with these (docs/baselines.md)."""

ENOUGH_VIEWS = 150_000
"""Images that a run is shown, in 10 to 100 epochs, before a larger network or more seeds are worth their time."""

MOST_SEEDS = 10
LONGEST = 3
"""Times the epochs that are enough, before time goes into more seeds."""

SHORTEST_TRIAL = 0.15
"""Share of the epochs that a trial takes at least, where whole epochs keep it from a fifth: see docs/baselines.md."""


class Extent(NamedTuple):
    """How much a study does: seeds of the main pair and of side arms, the arm `attention only`, epochs as a share of enough."""

    seeds: int
    side_seeds: int
    attention_only: bool
    epochs: float


FULL_EXTENT = Extent(5, 2, True, 1.0)

SMALLER_EXTENTS = (
    Extent(5, 1, True, 1.0),
    Extent(5, 1, False, 1.0),
    Extent(4, 1, False, 0.7),
    Extent(3, 1, False, 0.25),
    Extent(2, 1, False, 0.15),
    Extent(1, 1, False, 0.0),
)
"""What is tried, in order, where the full extent does not even fit on the smallest network."""


def fit_plan(
    data: Data,
    factors: Factors | None = None,
    minutes: float | None = None,
    controls: bool = True,
    hardware: Hardware | None = None,
    seeds: tuple[int, ...] | None = None,
    search: Search | None = Search(),  # noqa: B008  (a frozen value)
) -> dict[str, Any]:
    """The fields of a plan that fits images and time: network, recipe, factors, seeds, minutes, compromises.

    The digits get a backbone and a recipe of their own. Other images get, at their own size, the largest backbone that
    the time is enough for with five seeds, then up to three times as many epochs, then more seeds. If it is short, the
    smallest backbone gets fewer seeds of side arms, fewer arms, and then fewer seeds and epochs.

    Raises:
        UserError: The time is too short for any backbone, even with one seed.
    """
    hardware = hardware or Hardware()
    if data.source != "digits":
        given = {"data": data, "controls": controls, "search": search}
        return _Fitting(given, factors or {}, minutes or MINUTES, hardware, seeds).fit()
    size = Size(8, 2, 64, 3, heads=4)
    return {
        "hardware": _with_precision(hardware, size),
        "network": Network(architecture=backbone(size, DIGITS_POSITIONS, channels=1)),
        "recipe": recipes.named_recipe("digits").lasting(DIGITS_EPOCHS).replace(lr=4e-3, crop_scale=(0.8, 1.0)),
        "factors": factors or {"mixer": mixer_levels(size.heads, attention_only=False)},
        "side_seeds": None if factors else 1,
        "search": search and Search(configurations=3, length=0.2, seeds=2),
        **({"minutes": minutes} if minutes is not None else {}),
    }


def _with_precision(hardware: Hardware, size: Size) -> Hardware:
    return hardware.replace(precision="fp32") if size.small and hardware.precision == "auto" else hardware


class _Fitting:
    """Looks for the plan that fits; see `fit_plan`."""

    def __init__(
        self, given: dict[str, Any], factors: Factors, minutes: float, hardware: Hardware, seeds: tuple[int, ...] | None
    ) -> None:
        self.started = time.monotonic()
        self.given, self.factors, self.minutes, self.hardware, self.seeds = given, factors, minutes, hardware, seeds
        self.splits: Splits = open_splits(given["data"])
        self.images, self.side = len(self.splits.train), typical_side(self.splits.train)
        self.sizes = sizes_for(self.side, self.images)
        self.flip = 0.5 if survives_mirroring(self.splits, seed=0) else 0.0
        self.spreads: dict[tuple[int, int], float] = {}
        self.enough = int(np.clip(ENOUGH_VIEWS / self.images, 10, 100))

    def fit(self) -> dict[str, Any]:
        """The fields of the plan."""
        size, extent, larger = self.sizes[0], FULL_EXTENT, None
        if self.fits(size, extent, self.enough):
            for larger in self.sizes[1:]:
                if not self.fits(larger, extent, self.enough):
                    break
                size, larger = larger, None
        else:
            extent = self.smaller_extent(size)
        more = range(2, LONGEST * self.enough + 1)  # a single epoch is taken to fit
        epochs = 1 + bisect_left(more, True, key=lambda epochs: not self.fits(size, extent, epochs))
        epochs, search = self.with_shorter_trials(size, extent, epochs)
        if extent is FULL_EXTENT:
            larger_extents = (extent._replace(seeds=seeds) for seeds in range(MOST_SEEDS, extent.seeds, -1))
            extent = next((extent for extent in larger_extents if self.fits(size, extent, epochs)), extent)
        compromises = tuple(self.compromises(size, extent, epochs, larger))
        fields = {"search": search, "minutes": self.minutes, "compromises": compromises}
        return self.fields(size, extent, epochs) | fields

    def smaller_extent(self, size: Size) -> Extent:
        for extent in SMALLER_EXTENTS:
            if self.fits(size, extent, max(1, round(self.enough * extent.epochs))):
                return extent
        needed = math.ceil(self.minutes_of(size, SMALLER_EXTENTS[-1], 1))
        seeds = f"{len(self.seeds)} seeds" if self.seeds else "one seed"
        raise ConfigError(
            f"minutes: {self.minutes:g} is too short: on these {self.images:,} training images even the smallest network "
            f"with {seeds} of one epoch would take about {needed} minutes"
        )

    def with_shorter_trials(self, size: Size, extent: Extent, epochs: int) -> tuple[int, Search | None]:
        """The most epochs that there is time for if trials stay as short as now, and the search with that trial length.

        One more epoch in every trial of every search costs far more than one more epoch in every run.
        """
        search: Search | None = self.given["search"]
        if search is None:
            return epochs, None
        trial = shorten(recipe_for(self.images, epochs, size, self.flip), search).epochs
        for more in range(epochs + 1, min(int(trial / SHORTEST_TRIAL), LONGEST * self.enough) + 1):
            shorter = search.replace(length=round(trial / more, 4))
            if not self.fits(size, extent, more, search=shorter):
                break
            epochs, search = more, shorter
        return epochs, search

    def fits(self, size: Size, extent: Extent, epochs: int, **fields: Any) -> bool:
        """Whether there is time for such a study; `fields` replace those of its plan."""
        return self.minutes_of(size, extent, epochs, **fields) <= FULL * self.minutes

    def minutes_of(self, size: Size, extent: Extent, epochs: int, **fields: Any) -> float:
        """Predicted minutes of such a study, with those that planning took so far."""
        plan = Plan(**self.fields(size, extent, epochs) | fields)
        estimate = estimate_study(plan, all_arms(plan, len(self.splits.classes)), self.splits)
        return (estimate.seconds + time.monotonic() - self.started) / 60

    def fields(self, size: Size, extent: Extent, epochs: int) -> dict[str, Any]:
        """The fields of such a plan."""
        if size[:2] not in self.spreads:
            self.spreads[size[:2]] = patch_spread(self.splits, size.image, size.patch)
        positions = max(0.05, round(self.spreads[size[:2]], 2))  # should all patches of an image be alike
        seeds = self.seeds or tuple(range(extent.seeds))
        return {
            **self.given,
            "hardware": _with_precision(self.hardware, size),
            "network": Network(architecture=backbone(size, positions)),
            "recipe": recipe_for(self.images, epochs, size, self.flip),
            "factors": self.factors or {"mixer": mixer_levels(size.heads, extent.attention_only)},
            "seeds": seeds,
            # Arms that a person named are all compared.
            "side_seeds": None if self.factors else min(extent.side_seeds, len(seeds)),
        }

    def compromises(self, size: Size, extent: Extent, epochs: int, larger: Size | None) -> Iterator[str]:
        """What the plan does without, and what more minutes would allow."""
        if size.image < 0.9 * self.side:
            yield f"The images are shrunk from about {self.side} to {size.image} px, the largest that is planned by itself."
        if larger is not None:
            finer = f", patches of {larger.patch} instead of {size.patch} px" if larger.patch < size.patch else ""
            minutes = math.ceil(self.minutes_of(larger, FULL_EXTENT, self.enough))
            yield (
                f"About {minutes} minutes would allow the next larger network: {larger.width} features, "
                f"{larger.depth} blocks{finer}."
            )
        if extent.seeds >= FULL_EXTENT.seeds and extent.side_seeds == FULL_EXTENT.side_seeds:
            return
        finest = self.sizes[-1].patch
        if size.patch > finest:
            yield f"The network is the smallest, with patches of {size.patch} px rather than {finest}."
        lacks = []
        if not self.seeds and extent.seeds < FULL_EXTENT.seeds:
            seeds = f"{extent.seeds} seed{'s' * (extent.seeds > 1)}"
            lacks.append(f"{seeds} of the main pair instead of {FULL_EXTENT.seeds}")
        if extent.side_seeds < min(FULL_EXTENT.side_seeds, len(self.seeds or range(FULL_EXTENT.seeds))):
            lacks.append(f"{extent.side_seeds} seed of the other arms instead of {FULL_EXTENT.side_seeds}")
        if not self.factors and not extent.attention_only:
            lacks.append(f"no arm {ATTENTION_ONLY!r}")
        if epochs < self.enough:
            lacks.append(f"{epochs} epochs instead of {self.enough}, so every arm may be underfit")
        if lacks:
            minutes = math.ceil(self.minutes_of(size, FULL_EXTENT, self.enough))
            yield f"For lack of time: {'; '.join(lacks)}. About {minutes} minutes would allow all of it."
