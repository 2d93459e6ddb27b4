"""The search of one arm in one repetition: which trials it needs next, and what they chose.

Everything follows from the losses of finished trials, replayed in a fixed order, so an interrupted search resumes to the
same choice.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import isfinite
from statistics import mean
from typing import Any

from ffvit.config.recipe import Recipe
from ffvit.study.plan import Search

Values = dict[str, Any]
"""What a trial tries: values of recipe fields, by name."""

LossOf = Callable[[Values, int], float | None]
"""Validation loss in nats of a configuration's trial by number; infinite where it failed, None where it is not done."""


@dataclass(frozen=True)
class SearchState:
    """Where a search stands."""

    wanted: tuple[tuple[Values, int], ...]  # the trials to do next: a configuration and the number of its trial
    tried: tuple[tuple[Values, tuple[float, ...]], ...]  # every configuration with the losses known so far
    chosen: Values | None  # None while trials are wanted, empty if no trial finished
    at_the_edge: bool = False  # the chosen learning rate is the largest or smallest that was tried

    @property
    def failed(self) -> bool:
        """Whether no trial finished, so that the recipe's own values are kept."""
        return self.chosen == {}


def replay_search(search: Search, recipe: Recipe, loss_of: LossOf) -> SearchState:
    """Replay a search up to where it stands.

    Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943) with seeds for its resource: after each, the worse
    half by mean loss is dropped. The choice is the lowest mean loss of those that are left. If its learning rate is the
    largest or smallest tried, the next one beyond it is tried too, up to `search.extend` times.
    """
    configurations = _configurations(search, recipe)
    for _ in range(search.extend):
        state = _halve(search, configurations, loss_of)
        beyond = _beyond(configurations, state.chosen or {})
        if beyond is None:
            return state
        configurations.append(beyond)
    return _halve(search, configurations, loss_of)


def _configurations(search: Search, recipe: Recipe) -> list[Values]:
    """The grid, or as many of its cells as the search may try: the rates nearest the recipe's, else drawn at random."""
    grid = search.grid(recipe)
    cells = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    count = search.planned(recipe)
    if search.fields == {"lr": None}:
        return cells[:count]
    return cells if count == len(cells) else random.Random(0).sample(cells, count)


def _halve(search: Search, configurations: Sequence[Values], loss_of: LossOf) -> SearchState:
    left, losses = list(range(len(configurations))), [list[float]() for _ in configurations]
    wanted = []
    for number in range(search.seeds):
        for place in left:
            loss = loss_of(configurations[place], number)
            if loss is None:
                wanted.append((configurations[place], number))
            else:
                losses[place].append(loss)
        if wanted:
            break
        left = [place for place in sorted(left, key=lambda place: mean(losses[place])) if isfinite(mean(losses[place]))]
        if number + 1 < search.seeds:
            left = left[: -(-len(left) // 2)]
    tried = tuple(zip(configurations, map(tuple, losses), strict=True))
    if wanted:
        return SearchState(tuple(wanted), tried, None)
    chosen = configurations[left[0]] if left else {}
    return SearchState((), tried, chosen, at_the_edge=_beyond(configurations, chosen) is not None)


def _beyond(configurations: Sequence[Values], chosen: Values) -> Values | None:
    """The configuration one rate further out, where the chosen learning rate is the largest or smallest tried."""
    if "lr" not in chosen:
        return None
    rates = sorted({float(values["lr"]) for values in configurations})
    own = float(chosen["lr"])
    if own not in (rates[0], rates[-1]) or len(rates) < 2:
        return None
    factor = rates[0] / rates[1] if own == rates[0] else rates[-1] / rates[-2]
    return {**chosen, "lr": float(f"{own * factor:.3g}")}
