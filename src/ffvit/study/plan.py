"""What a study is, as a checked value: a base, the factors that vary, seeds, what is held equal, what is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from ffvit import recipe as recipes
from ffvit.architecture import Network
from ffvit.data.config import Data
from ffvit.errors import UserError
from ffvit.machine import Machine
from ffvit.recipe import Recipe
from ffvit.value import Value, parse

Budget = Literal["epochs", "flops", "parameters", "time", "latency"]


class Search(Value):
    """How each arm's recipe is tuned before it counts: short trials, judged on the selection part alone."""

    field: str = Field("learning_rate", description="The field of the recipe that is searched.")
    values: tuple[Any, ...] | None = Field(None, description="What is tried. Default: the recipe's times 1/3, 1 and 3.")
    length: Annotated[float, Field(gt=0, le=1)] = Field(0.34, description="Share of the recipe's epochs a trial lasts.")
    seeds: PositiveInt = Field(1, description="Trials of each value.")

    @model_validator(mode="after")
    def _consistent(self) -> Search:
        if self.field not in Recipe.model_fields:
            raise ValueError(f"field: a recipe has no field {self.field!r}")
        if self.values is None and self.field != "learning_rate":
            raise ValueError(f"values: say which values of {self.field} to try")
        if self.values is not None and len(self.values) < 2:
            raise ValueError("values: give at least two to choose from")
        if self.field in ("epochs", "minutes"):
            raise ValueError(f"field: {self.field} is what a trial is short of; it cannot be searched")
        return self

    def tried(self, recipe: Recipe) -> tuple[Any, ...]:
        """The values tried around a recipe."""
        if self.values is not None:
            return self.values
        return tuple(float(f"{recipe.learning_rate * factor:.3g}") for factor in (1 / 3, 1, 3))


class Published(Value):
    """A figure that others published for an arm's network, shown beside ours and marked as theirs."""

    top1: Annotated[float, Field(gt=0, le=100, description="Percent.")]
    source: str


class Plan(Value):
    """A study. Any field of an architecture or a recipe can be varied, by its path.

    `factors` maps a factor to its levels, and a level to what it changes: `{patches.mixer: attention}`, `{width: 384}`,
    `{network: deit_small_patch16_224}`. A list is short for levels of one field, named by that field's path. Factors are
    crossed; networks to be compared as they are make a single factor.
    """

    title: str = "Do you even need attention?"
    network: Network = Field(description="The body that the factors change: a name, or the fields of an architecture.")
    recipe: Recipe = Field(description="A name; or fields, with `base` for the recipe they change.")
    data: Data = Field(Data(), description="A source, or the fields of one.")
    machine: Machine = Field(Machine(), description="What one run computes on.")
    factors: dict[str, dict[str, dict[str, Any]]] = Field({}, description="Factor, level, changes.")
    seeds: tuple[NonNegativeInt, ...] = Field((0, 1, 2), description="A number of seeds, or the seeds themselves.")
    folds: Annotated[int, Field(ge=2)] | None = Field(None, description="Cross-validation over so many parts.")
    budget: Budget = Field("epochs", description="What all arms have alike.")
    search: Search | None = Field(Search(), description="Tuning of each arm, alike for all. none: no tuning.")
    floors: bool = Field(True, description="Also train the body without mixing, and with a frozen random mixer.")
    against: str | None = Field(
        None, description="The arm that others are compared with. Default: the one with attention."
    )
    comparisons: tuple[tuple[str, str], ...] | None = Field(
        None, description="The pairs asked about, first the main question. Default: every arm with `against`."
    )
    margin: NonNegativeFloat = Field(1.0, description="`As good as` means within so many points of top-1.")
    until_settled: bool = Field(False, description="Add seeds until every question is settled.")
    max_seeds: PositiveInt = Field(20, description="With until_settled: no more than these.")
    minutes: PositiveFloat | None = Field(None, description="Begin no further round of seeds after this long.")
    published: dict[str, Published] = Field({}, description="Published figures, by arm.")

    @field_validator("network", mode="before")
    @classmethod
    def _network(cls, value: object) -> object:
        if isinstance(value, str):
            return {"name": value}
        if (
            isinstance(value, dict)
            and value
            and not set(value) & set(Network.model_fields) - {"classes", "channels", "image"}
        ):
            return {"architecture": value}
        return value

    @field_validator("recipe", mode="before")
    @classmethod
    def _recipe(cls, value: object) -> object:
        if isinstance(value, str):
            return recipes.named(value)
        if isinstance(value, dict) and "base" in value:
            fields = {name: each for name, each in value.items() if name != "base"}
            return {**recipes.named(str(value["base"])).model_dump(exclude_unset=True), **fields}
        return value

    @field_validator("data", mode="before")
    @classmethod
    def _data(cls, value: object) -> object:
        return {"source": value} if isinstance(value, str) else value

    @field_validator("search", mode="before")
    @classmethod
    def _search(cls, value: object) -> object:
        return None if value == "none" or value is False else Search() if value is True else value

    @field_validator("factors", mode="before")
    @classmethod
    def _factors(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {str(name): _levels(str(name), levels) for name, levels in value.items()}

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 1:
                raise ValueError(f"a study needs at least one seed; got {value}")
            return tuple(range(value))
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        twice = sorted({seed for seed in self.seeds if self.seeds.count(seed) > 1})
        if twice:
            raise ValueError(
                f"seeds: {', '.join(map(str, twice))} is there twice: the same run again would count as evidence it is not"
            )
        if not self.seeds:
            raise ValueError("seeds: a study needs at least one")
        if self.network.name is None and self.network.architecture is None:
            raise ValueError("network: give a name or the fields of an architecture")
        if (self.budget == "time") != (self.recipe.minutes is not None):
            raise ValueError(
                "recipe.minutes: with budget 'time' it says how long each run may train, and with no other budget can it be given"
            )
        if self.search is not None and self.data.selection == 0:
            raise ValueError("data.selection: the search chooses by a selection part: keep one, or set search to none")
        if self.until_settled and self.folds is not None:
            raise ValueError("until_settled: not with folds, whose runs are few and fixed")
        if self.until_settled and self.max_seeds < len(self.seeds):
            raise ValueError(f"max_seeds: {self.max_seeds} is less than the {len(self.seeds)} seeds to begin with")
        return self


def _levels(factor: str, levels: object) -> object:
    """A factor's levels with their changes; a list is short for values of the one field that the factor is named for."""
    if isinstance(levels, list | tuple):
        field = "network" if factor == "networks" else factor
        named = {level_name(field, value): {field: value} for value in levels}
        if len(named) < len(levels):
            raise ValueError(f"{factor}: the same level is there twice")
        return named
    if isinstance(levels, dict):
        return {str(name): changes for name, changes in levels.items()}
    return levels


def level_name(field: str, value: object) -> str:
    """What to call a level: networks and recipes speak for themselves, other values with their field."""
    words = (
        value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n...")[0].strip()
    )
    return words if field in ("network", "recipe") else f"{field} {words}"


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        UserError: It cannot be read, is no YAML, or a field or value is wrong; says which, all at once.
    """
    return parse(Plan, read_fields(path), str(path))


def read_fields(path: Path) -> dict[str, Any]:
    """The fields of a plan's file, not yet checked.

    Raises:
        UserError: It cannot be read, or holds no fields.
    """
    try:
        fields = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    if not isinstance(fields, dict):
        raise UserError(f"{path}: a plan is fields and their values; got {fields!r}")
    return fields
