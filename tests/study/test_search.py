"""What a search tries next and what it chooses, from losses that are given."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from ffvit.config import recipe as recipes
from ffvit.errors import UserError
from ffvit.study.plan import Plan, Search
from ffvit.study.search import SearchState, replay_search

RECIPE = recipes.named_recipe("digits").replace(lr=1e-3)


def run(search: Search, loss, most: int = 100) -> tuple[SearchState, int]:
    """The search carried out on a function of the learning rate and the trial's number; and how many trials it took."""
    known: dict[tuple[str, int], float] = {}

    def loss_of(values, number):
        return known.get((str(values), number))

    for _ in range(most):
        reached = replay_search(search, RECIPE, loss_of)
        if reached.chosen is not None:
            return reached, len(known)
        assert reached.wanted
        for values, number in reached.wanted:
            assert (str(values), number) not in known  # nothing is tried twice
            known[str(values), number] = loss(values["lr"], number)
    raise AssertionError("the search does not end")


def valley(at: float):
    return lambda rate, _: abs(math.log(rate / at))


def test_the_optimum_inside_the_grid_is_chosen():
    reached, _ = run(Search(), valley(2e-3))
    assert reached.chosen == {"lr": 2e-3}
    assert not reached.at_the_edge


@pytest.mark.parametrize(("at", "wanted"), [(3.2e-2, 3.2e-2), (3.1e-5, 3.1e-5), (8e-3, 8e-3)])
def test_a_best_rate_at_the_edge_extends_the_grid(at: float, wanted: float):
    reached, _ = run(Search(extend=6), valley(at))
    assert reached.chosen is not None
    assert reached.chosen["lr"] == pytest.approx(wanted, rel=0.02)
    assert not reached.at_the_edge


def test_a_rate_that_is_still_at_the_edge_is_said_to_be():
    reached, _ = run(Search(extend=1), valley(1.0))
    assert reached.at_the_edge
    assert reached.chosen == {"lr": 8e-3}


def test_half_of_the_configurations_are_tried_again():
    """Of five, three are tried with a second seed, and of those two with a third."""
    _, trials = run(Search(extend=0), valley(1e-3))
    assert trials == 5 + 3
    _, trials = run(Search(extend=0, seeds=3), valley(1e-3))
    assert trials == 5 + 3 + 2


def test_a_second_seed_can_overrule_the_first():
    luck = {(1e-3, 0): 0.5, (1e-3, 1): 2.0, (2e-3, 0): 0.6, (2e-3, 1): 0.6}
    reached, _ = run(Search(extend=0), lambda rate, number: luck.get((rate, number), 5.0 + rate))
    assert reached.chosen == {"lr": 2e-3}


def test_a_trial_that_diverged_is_never_chosen():
    reached, _ = run(Search(extend=0), lambda rate, _: math.inf if rate > 1e-3 else 1 / rate)
    assert reached.chosen == {"lr": 1e-3}


def test_a_search_whose_trials_all_diverged_says_so_and_keeps_the_recipe():
    reached, _ = run(Search(), lambda *_: math.inf)
    assert reached.failed
    assert reached.chosen == {}


def test_several_fields_are_crossed():
    search = Search(fields={"lr": (1e-3, 2e-3), "weight_decay": (0.0, 0.05)}, seeds=1, extend=0)
    reached = replay_search(search, RECIPE, lambda *_: None)
    assert len(reached.wanted) == 4
    few = replay_search(search.replace(configurations=3), RECIPE, lambda *_: None)
    assert len(few.wanted) == 3
    assert few == replay_search(search.replace(configurations=3), RECIPE, lambda *_: None)


def test_of_few_rates_the_nearest_to_the_recipe_are_tried():
    reached = replay_search(Search(configurations=3), RECIPE, lambda *_: None)
    tried = {values["lr"] / RECIPE.lr for values, _ in reached.tried}
    assert tried == {0.5, 1.0, 2.0}


@given(st.lists(st.floats(0.01, 10), min_size=16, max_size=16), st.integers(1, 3))
def test_the_choice_is_the_best_of_those_with_all_seeds(losses: list[float], seeds: int):
    place: dict[float, int] = {}

    def loss(rate: float, number: int) -> float:
        return losses[place.setdefault(rate, len(place)) % 8 * 2 + number % 2]

    reached, _ = run(Search(seeds=seeds), loss)
    whole = {str(values): sum(its) / len(its) for values, its in reached.tried if len(its) == seeds}
    assert whole[str(reached.chosen)] == min(whole.values())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"weight_deca": None}, "did you mean 'weight_decay'"),
        ({"weight_decay": None}, "say which values of weight_decay"),
        ({"lr": [1e-3]}, "at least two values"),
        ({"epochs": [1, 2]}, "cannot be searched"),
        ({}, "at least one field"),
    ],
)
def test_a_search_that_cannot_be_is_refused(fields, words: str):
    with pytest.raises(UserError, match=words):
        Plan(network="ff_tiny_patch16_224", recipe="small").replace(search={"fields": fields})
