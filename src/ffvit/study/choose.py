"""A plan for the question itself, on images nobody told us more about: body, recipe and seeds to fit data and time."""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

import numpy as np

from ffvit import recipe as recipes
from ffvit.architecture import Architecture, Branch, Network
from ffvit.data.config import Data
from ffvit.data.decode import typical_side
from ffvit.data.parts import open_parts
from ffvit.errors import UserError
from ffvit.machine import Machine
from ffvit.recipe import Recipe
from ffvit.study.arms import arms_of
from ffvit.study.local import slots_for
from ffvit.study.plan import Plan
from ffvit.study.predict import measure

Factors = dict[str, dict[str, dict[str, Any]]]

MINUTES = 30.0
"""What a study takes where nobody says."""

FULL = 0.75
"""Share of the time that is planned: predictions err, and the last round must fit."""

SEEDS = 3
MOST_SEEDS = 10
SHORTEST, LONGEST = 1 / 3, 3.0
"""How much less, and more, than the epochs needed a run is trained, before there are fewer seeds, or more."""


class Body(NamedTuple):
    """Image side and patch side in pixels, width, depth, heads."""

    image: int
    patch: int
    width: int
    depth: int
    heads: int


BODIES = (
    Body(32, 8, 64, 4, 2),
    Body(32, 4, 64, 4, 2),
    Body(48, 6, 96, 6, 3),
    Body(64, 8, 128, 6, 4),
    Body(96, 12, 160, 8, 5),
    Body(128, 16, 192, 8, 3),
    Body(160, 16, 192, 12, 3),
    Body(224, 16, 192, 12, 3),
    Body(224, 16, 384, 12, 6),
    Body(224, 16, 768, 12, 12),
)
"""From what a laptop trains in seconds to the paper's base size."""


def body(side: int, patch: int, width: int, depth: int, channels: int = 3) -> Architecture:
    """The body that the question's arms share.

    The mean over patches is read, so that a control without mixing can be the same body. Start values are PyTorch's,
    which follow the width: the paper's 0.02 fits a width of 768, and at 64 it starves attention above all (on the
    digits 88 % instead of 96 %).
    """
    block = Branch("feedforward", "patches"), Branch("feedforward", "features")
    return Architecture(
        width=width,
        depth=depth,
        image=(side, side),
        patch=(patch, patch),
        channels=channels,
        block=block,
        readout="mean",
        position="vectors",
        start="pytorch",
    )


def mixers(heads: int) -> dict[str, dict[str, Any]]:
    """What makes the question's arms of the body: FF only, ViT's block, attention only."""
    attention = {"mixer": "attention", "heads": heads}
    return {
        "feed-forward": {"patches.mixer": "feedforward"},
        "attention": {"patches": attention},
        "attention only": {"patches": attention, "features": {"mixer": "attention", "heads": 1}},
    }


def fitted(
    data: Data, factors: Factors | None, minutes: float | None, controls: bool, machine: Machine
) -> dict[str, Any]:
    """The fields of a plan that fit images and time: network, recipe, factors, seeds, minutes.

    The digits get the body and the recipe that are theirs. Other images get the largest body that the time is enough
    for with three seeds, then up to three times as many epochs, then more seeds; if it is short, a third as many
    epochs, then fewer seeds.

    Args:
        data: The images.
        factors: What varies on the body; None: the question's mixers.
        minutes: What the whole study may take; None: 30, but for the digits.
        controls: Whether controls are trained too.
        machine: What one run computes on.

    Raises:
        UserError: The time is too short for any body, even with one seed.
    """
    if data.source == "digits":
        return {
            "machine": _computing(machine, 8),
            "network": Network(architecture=body(8, 2, width=64, depth=3, channels=1)),
            "recipe": recipes.named("digits"),
            "factors": factors or {"mixer": mixers(heads=2)},
        } | ({"minutes": minutes} if minutes is not None else {})
    minutes = minutes or MINUTES
    parts = open_parts(data)
    side = typical_side(parts.train)
    images, need = len(parts.train), _epochs_needed(len(parts.train))
    at_once = slots_for(machine, sys.maxsize, 0.0, None, threads=1).count
    seconds = minutes * 60 * FULL * at_once
    best: tuple[Body, float] | None = None
    for size in (each for each in BODIES if each.image <= max(side * 1.5, BODIES[0].image)):
        # Of runs with as many epochs as are needed: how many seeds there is time for, the search's trials aside.
        plan = Plan(**_fields(size, _recipe(images, need), data, factors, controls, machine))
        speeds = [(arm.recipe, measure(arm.network, arm.recipe, parts, 1, plan.machine)) for arm in arms_of(plan)]
        each = sum(speed.run(recipe, parts).seconds for recipe, speed in speeds)
        seeds = seconds / each - _trials(plan)
        if seeds < SEEDS and best is not None:
            break
        best = size, seeds
        if seeds < SEEDS:
            break
    assert best is not None
    size, seeds = best
    trials = _trials(plan)
    # A run's length, as a share of the epochs needed, with three seeds; time beyond three times that goes into seeds.
    length = (seeds + trials) / (SEEDS + trials)
    share = min(LONGEST, max(SHORTEST, length))
    count = min(MOST_SEEDS, int((seeds + trials) / share - trials + 1e-9))
    if count < 1:
        enough = math.ceil(minutes * SHORTEST * (1 + trials) / (seeds + trials))
        raise UserError(
            f"minutes: {minutes:g} is too short: on these {images:,} training images even the smallest body with one "
            f"seed would take about {enough} minutes"
        )
    return _fields(size, _recipe(images, max(1, int(need * share))), data, factors, controls, machine) | {
        "seeds": tuple(range(count)),
        "minutes": minutes,
    }


def _trials(plan: Plan) -> float:
    """What the search takes, in whole runs of every arm."""
    return 3 * plan.search.length * plan.search.seeds if plan.search is not None else 0.0


def _fields(
    size: Body, recipe: Recipe, data: Data, factors: Factors | None, controls: bool, machine: Machine
) -> dict[str, Any]:
    return {
        "machine": _computing(machine, size.image),
        "network": Network(architecture=body(size.image, size.patch, size.width, size.depth)),
        "recipe": recipe,
        "data": data,
        "factors": factors or {"mixer": mixers(size.heads)},
        "controls": controls,
    }


def _computing(machine: Machine, image: int) -> Machine:
    """In fp32, unless asked, where bodies are small: in bf16 their attention takes up to thrice as long on a processor."""
    small = image <= 32 and machine.precision == "auto"
    return machine.replace(precision="32-true") if small else machine


def _epochs_needed(images: int) -> int:
    """Enough that small sets are seen often and large ones often enough: 50,000 views, in 10 to 100 epochs."""
    return int(np.clip(50_000 / images, 10, 100))


def _recipe(images: int, epochs: int) -> Recipe:
    """`small`, with a batch and an average fitted to how many steps there are."""
    batch = 32 if images < 1_000 else 64 if images < 10_000 else 128
    steps = max(1, images // batch) * epochs
    return recipes.named("small").replace(
        epochs=max(1, epochs),
        batch_size=batch,
        warmup_epochs=max(1, epochs // 10),
        average_decay=float(f"{1 - min(0.1, 10 / steps):.3g}"),
    )
