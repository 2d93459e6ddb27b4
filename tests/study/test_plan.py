from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ffvit.config.architecture import NAMED
from ffvit.config.recipe import Recipe, named_recipe
from ffvit.errors import UserError
from ffvit.study.plan import Plan, Search, read_plan

LEAST = {"network": "ff_micro_patch2_8", "recipe": "digits"}


def test_plan_survives_the_way_through_yaml():
    plan = Plan(
        **LEAST,
        data="photos",
        factors={"network.width": [32, 64], "mixer": {"none": {"network.block.0.mixer": "identity"}, "as it is": {}}},
        seeds=4,
        search="none",
        published={"a": {"top1": 61.4, "source": "paper"}},
    )
    assert Plan.from_yaml(plan.to_yaml()) == plan
    assert plan.seeds == (0, 1, 2, 3)
    assert plan.search is None
    assert plan.data.source == "photos"
    assert list(plan.factors["width"]) == ["width 32", "width 64"]


def test_recipe_changes_a_named_one():
    plan = Plan(network="ff_micro_patch2_8", recipe={"base": "deit", "epochs": 30})
    assert plan.recipe == named_recipe("deit").replace(epochs=30)


def test_network_is_given_by_its_fields():
    fields = NAMED["ff_micro_patch2_8"].model_dump()
    assert Plan(network=fields, recipe="digits").network.architecture == NAMED["ff_micro_patch2_8"]


def test_networks_are_levels_by_their_names():
    plan = Plan(**LEAST, factors={"networks": ["ff_micro_patch2_8", "vit_micro_patch2_8"]})
    assert plan.factors["networks"]["vit_micro_patch2_8"] == {"network": "vit_micro_patch2_8"}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"sedes": 3}, "sedes: there is no such field, did you mean 'seeds'?"),
        ({"seeds": [1, 2, 1]}, "1 is there twice"),
        ({"seeds": 0}, "at least one seed"),
        ({"folds": 1}, "folds"),
        ({"match": "flop"}, "did you mean 'flops'?"),
        ({"match": "time"}, "recipe.minutes"),
        ({"recipe": {"base": "digits", "minutes": 1}}, "recipe.minutes"),
        ({"recipe": "digit"}, "did you mean 'digits'?"),
        ({"search": {"fields": {"rate": None}}}, "a recipe has no field 'rate'"),
        ({"search": {"fields": {"drop_path": None}}}, "say which values"),
        ({"search": {"fields": {"lr": [1e-3]}}}, "at least two"),
        ({"data": {"source": "digits", "validation": 0}}, "validation"),
        ({"sequential": True, "folds": 3}, "not with folds"),
        ({"sequential": True, "seeds": 5, "max_seeds": 4}, "max_seeds"),
        ({"margin": -1}, "margin"),
        ({"factors": {"network.width": [64, 64]}}, "twice"),
        ({"factors": {"network.width": [64], "width": {"a": {}}}}, "the same name"),
        ({"network": None}, "network"),
    ],
)
def test_faults_are_named(tmp_path: Path, fields: dict, words: str):
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump({**LEAST, **fields}))
    with pytest.raises(UserError) as error:
        read_plan(file)
    assert words in str(error.value)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "", "just words"])
def test_a_file_that_is_no_plan_is_named(tmp_path: Path, text: str):
    file = tmp_path / "plan.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"plan\.yaml"):
        read_plan(file)
    with pytest.raises(UserError, match="cannot be read"):
        read_plan(tmp_path / "absent.yaml")


def test_search_tries_around_the_recipes_own_rate():
    assert Search().grid(Recipe(lr=4e-3)) == {"lr": (4e-3, 8e-3, 2e-3, 1.6e-2, 1e-3)}
    assert Search(fields={"drop_path": (0.0, 0.1)}).grid(Recipe()) == {"drop_path": (0.0, 0.1)}
    assert Search(fields={"lr": None, "drop_path": (0.0, 0.1)}).planned(Recipe()) == 10
