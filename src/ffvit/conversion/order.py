"""What each attention branch would cost if it were replaced, before anything is trained, and in which order they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32
from rich.console import Console
from scipy.special import log_softmax
from torch import Tensor, nn

from ffvit.conversion.branches import Kind, Nothing, Place, branch_at, mixers_in, substitute, visit_mixers
from ffvit.conversion.closed_form import CLOSED_FORMS, StaticMaps
from ffvit.inference.predictions import Predictions
from ffvit.insight.attention_maps import MapStatistics, attention_maps
from ffvit.models.backbone import Backbone
from ffvit.models.mixers import build_mixer
from ffvit.terminal import track

Score = Callable[[nn.Module], Predictions]
Batches = Callable[[], Iterable[Float[Tensor, "_ channels height width"]]]


@dataclass(frozen=True)
class Estimate:
    """What is known of an attention branch before anything is trained.

    Attributes:
        block: Its block, counted from 0.
        static_share: Of its maps, the mean over heads (`MapStatistics`).
        unexplained: The share of its output's squares that the closed form leaves over; None: there is no closed form.
        divergence: KL divergence of the predictions from the original ones if this branch alone is replaced, untrained, in nats an image,
            on validation images.
        top1_lost: Top-1 lost by that, as a share.
    """

    block: int
    static_share: float
    unexplained: float | None
    divergence: float
    top1_lost: float


def fit_each(network: Backbone, places: Sequence[Place], kind: Kind, batches: Batches) -> dict[Place, Fitted]:
    """A replacement for each attention branch, fitted in closed form on what enters and leaves it in the network as it is."""
    tokens = network.architecture.tokens
    forms = (
        {place: CLOSED_FORMS[kind](branch_at(network, place).mixer, tokens) for place in places}
        if kind in CLOSED_FORMS
        else {}
    )
    statistics = {place: MapStatistics() for place in places}

    def add(place: Place, x: Tensor, y: Tensor) -> None:
        form = forms.get(place)
        if form is not None:
            form.add(x, y)
        if isinstance(form, StaticMaps):
            statistics[place] = form.statistics
        else:
            statistics[place].add(attention_maps(branch_at(network, place).mixer, x))

    visit_mixers(network, places, batches(), add)
    fitted = {}
    for place in places:
        form = forms.get(place)
        mixer = form.fit() if form is not None else untrained(network, place, kind)
        share = statistics[place].static_share.mean().item()
        fitted[place] = Fitted(mixer, share, form.unexplained if form is not None else None)
    return fitted


@dataclass(frozen=True)
class Fitted:
    """A mixer that can take the place of attention, and what was seen of that attention."""

    mixer: nn.Module
    static_share: float
    unexplained: float | None


def untrained(network: Backbone, place: Place, kind: Kind) -> nn.Module:
    """A mixer with initial weights in the place of attention; for `identity` one that adds nothing."""
    attention = network.architecture.blocks[place.block][place.branch]
    branch = substitute(kind, attention)
    if branch is None:
        return Nothing()
    device = next(network.parameters()).device
    return build_mixer(branch, network.architecture, 0.0).eval().to(device)


def estimate(
    network: Backbone, fitted: dict[Place, Fitted], original: Predictions, score: Score, console: Console
) -> list[Estimate]:
    """Replace each branch alone, and score the network."""
    found = []
    for place, fit in track(list(fitted.items()), "each layer replaced alone", console):
        with mixers_in(network, [(place, fit.mixer)]) as changed:
            predictions = score(changed)
        lost = float(original.correct.mean() - predictions.correct.mean())
        found.append(
            Estimate(
                place.block, fit.static_share, fit.unexplained, divergence(original.logits, predictions.logits), lost
            )
        )
    return found


def greedy_order(
    network: Backbone, fitted: dict[Place, Fitted], original: Predictions, score: Score, console: Console
) -> list[Place]:
    """The branches in the order in which they are replaced: at each step, the one whose replacement changes the predictions least.

    The replacements are those fitted to the network as it is; nothing is trained in between.
    """
    order: list[Place] = []
    count = len(fitted)
    steps = track(_candidates(list(fitted), order), "order of the layers", console, total=count * (count + 1) // 2)
    costs: dict[Place, float] = {}
    for place, is_last in steps:
        replaced = [(other, fitted[other].mixer) for other in (*order, place)]
        with mixers_in(network, replaced) as changed:
            costs[place] = divergence(original.logits, score(changed).logits)
        if is_last:
            order.append(min(costs, key=lambda candidate: (costs[candidate], candidate)))
            costs.clear()
    return order


def _candidates(places: Sequence[Place], order: list[Place]) -> Iterator[tuple[Place, bool]]:
    """The branches that are left, again and again until `order` has all of them; True with the last of each round."""
    while len(order) < len(places):
        left = [place for place in places if place not in order]
        for place in left:
            yield place, place == left[-1]


def divergence(
    original: Float32[np.ndarray, "images classes"], changed: Float32[np.ndarray, "images classes"]
) -> float:
    """Mean KL divergence of changed predictions from the original ones, in nats an image."""
    before, after = (log_softmax(logits.astype(np.float64), axis=1) for logits in (original, changed))
    return float((np.exp(before) * (before - after)).sum(axis=1).mean())
