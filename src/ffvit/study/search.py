"""The search of one arm in one repetition: which trials it needs next, and what they chose.

Everything follows from the losses of finished trials, replayed in a fixed order: a search that was interrupted goes on
to the same choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ffvit.recipe import Recipe
from ffvit.study.plan import Search

Values = dict[str, Any]
"""What a trial tries: values of recipe fields, by name."""

LossOf = Callable[[Values, int], float | None]
"""Validation loss in nats of a configuration's trial by number; infinite where it failed, None where it is not done."""


@dataclass(frozen=True)
class Step:
    """Where a search stands.

    Attributes:
        wanted: The trials to do next: a configuration and the number of its trial.
        tried: Every configuration with the losses known so far.
        chosen: What was chosen; None while trials are wanted.
        at_the_edge: Whether the chosen learning rate is the largest or smallest that was tried.
        failed: Whether no trial finished, so that the recipe's own values are kept.
    """

    wanted: tuple[tuple[Values, int], ...]
    tried: tuple[tuple[Values, tuple[float, ...]], ...]
    chosen: Values | None
    at_the_edge: bool = False
    failed: bool = False


def step(search: Search, recipe: Recipe, loss_of: LossOf) -> Step:
    """Replay a search up to where it stands.

    Configurations are halved after each seed by successive halving (Li et al. 2020, arXiv 1810.05934, Optuna's). The
    choice is the lowest mean loss among those with all seeds. If its learning rate is the largest or smallest tried, the
    next one beyond it is tried too, up to `search.extend` times.
    """
    configurations = _configurations(search, recipe)
    for extension in range(search.extend + 1):
        reached = _halved(search, configurations, loss_of)
        if reached.chosen is None:
            return reached
        beyond = _beyond(configurations, reached.chosen)
        if beyond is None or extension == search.extend:
            return reached
        configurations.append(beyond)
    raise AssertionError("the loop returns")


def _configurations(search: Search, recipe: Recipe) -> list[Values]:
    """The grid, or so many of its cells as the search may try, by Optuna's grid sampler."""
    grid = search.grid(recipe)
    if len(grid) == 1 and search.configurations is None:
        ((field, values),) = grid.items()
        return [{field: value} for value in values]
    study = _study(list_grid := {field: list(values) for field, values in grid.items()})
    import optuna

    spaces: Any = {field: optuna.distributions.CategoricalDistribution(values) for field, values in list_grid.items()}
    return [dict(study.ask(spaces).params) for _ in range(search.planned(recipe))]


def _halved(search: Search, configurations: Sequence[Values], loss_of: LossOf) -> Step:
    first = [loss_of(values, 0) for values in configurations]
    unknown = [(values, 0) for values, loss in zip(configurations, first, strict=True) if loss is None]
    if unknown:
        known = [(v, (loss,)) for v, loss in zip(configurations, first, strict=True) if loss is not None]
        return Step(tuple(unknown), tuple(known), None)
    study = _study()
    wanted: list[tuple[Values, int]] = []
    tried: list[tuple[Values, tuple[float, ...]]] = []
    for values in configurations:
        trial, losses = study.ask(), []
        for number in range(search.seeds):
            loss = loss_of(values, number)
            if loss is None:
                wanted.append((values, number))
                break
            losses.append(loss)
            trial.report(min(sum(losses) / len(losses), 1e30), number + 1)
            if number + 1 < search.seeds and (math.isinf(loss) or trial.should_prune()):
                break
        tried.append((values, tuple(losses)))
        if wanted and search.seeds > 2:
            break  # later decisions rest on what is not known yet
    if wanted:
        return Step(tuple(wanted), tuple(tried), None)
    finalists = [(sum(losses) / len(losses), values) for values, losses in tried if len(losses) == search.seeds]
    finalists = [each for each in finalists if math.isfinite(each[0])]
    if not finalists:  # a survivor of few seeds is better than nothing; a search without one keeps the recipe
        finalists = [(losses[0], values) for values, losses in tried if math.isfinite(losses[0])]
    if not finalists:
        return Step((), tuple(tried), {}, failed=True)
    chosen = min(finalists, key=lambda each: each[0])[1]
    return Step((), tuple(tried), chosen, at_the_edge=_beyond(configurations, chosen) is not None)


def _beyond(configurations: Sequence[Values], chosen: Values) -> Values | None:
    """The configuration one rate further out, where the chosen learning rate is the largest or smallest tried."""
    if "learning_rate" not in chosen:
        return None
    rates = sorted({float(values["learning_rate"]) for values in configurations})
    own = float(chosen["learning_rate"])
    if own not in (rates[0], rates[-1]) or len(rates) < 2:
        return None
    factor = rates[0] / rates[1] if own == rates[0] else rates[-1] / rates[-2]
    return {**chosen, "learning_rate": float(f"{own * factor:.3g}")}


def _study(grid: dict[str, list[Any]] | None = None) -> Any:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        sampler=optuna.samplers.GridSampler(grid, seed=0) if grid else optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2, min_early_stopping_rate=0),
    )
