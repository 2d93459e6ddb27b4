"""What a study is, as a checked value: a base, the factors that vary, seeds, what is matched, what is compared."""

from __future__ import annotations

import math
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

from ffvit.config import recipe as recipes
from ffvit.config.architecture import Network
from ffvit.config.base import Value, parse, short
from ffvit.config.data import Data
from ffvit.config.hardware import Hardware
from ffvit.config.recipe import Recipe
from ffvit.config.strict_yaml import read_yaml
from ffvit.errors import ConfigError, did_you_mean

MAX_SEEDS = 1000
"""Repetitions of a study; its report compares every two of them."""

MAX_ARMS = 1000
"""Arms of a study."""

Match = Literal["epochs", "flops", "parameters", "time", "latency"]


class Search(Value):
    """How every repetition of an arm tunes its recipe: short trials on its own split, judged by validation loss."""

    fields: dict[str, tuple[Any, ...] | None] = Field(
        {"lr": None},
        description="Fields of the recipe and the values tried, crossed. Learning rate without values: the recipe's "
        "times 1/4, 1/2, 1, 2 and 4.",
    )
    configurations: PositiveInt | None = Field(
        None,
        description="Try at most this many of the crossed values, drawn at random; of learning rates without values those "
        "nearest the recipe's. Default: all.",
    )
    length: Annotated[float, Field(gt=0, le=1)] = Field(0.2, description="Share of the recipe's epochs a trial lasts.")
    seeds: PositiveInt = Field(2, description="Trials of a configuration; after each, the worse half is dropped.")
    extend: NonNegativeInt = Field(
        3, description="How many times a best learning rate at the grid's edge extends the grid."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Search:
        if not self.fields:
            raise ValueError("fields: name at least one field of the recipe to search, or set search to none")
        for name, values in self.fields.items():
            if name not in Recipe.model_fields:
                raise ValueError(f"fields: a recipe has no field {name!r}{did_you_mean(name, Recipe.model_fields)}")
            if name in ("epochs", "minutes"):
                raise ValueError(f"fields: {name} is what trials have less of; it cannot be searched")
            if values is None and name != "lr":
                raise ValueError(f"fields: say which values of {name} to try")
            if values is not None and len(set(values)) < 2:
                raise ValueError(f"fields: give at least two values of {name} to choose from")
        return self

    def grid(self, recipe: Recipe) -> dict[str, tuple[Any, ...]]:
        """The values tried around a recipe, by field; the recipe's own learning rate first, then outwards."""
        own = recipe.lr
        ladder = tuple(float(f"{own * factor:.3g}") for factor in (1, 2, 1 / 2, 4, 1 / 4))
        return {name: ladder if values is None else values for name, values in self.fields.items()}

    def planned(self, recipe: Recipe) -> int:
        """Configurations that are tried at least once, the grid's extensions aside."""
        size = math.prod(len(values) for values in self.grid(recipe).values())
        return min(size, self.configurations or size)


class Published(Value):
    """A published accuracy of an arm's network, shown beside ours."""

    top1: Annotated[float, Field(gt=0, le=100, description="Percent.")]
    source: str


class Plan(Value):
    """A study. Any field of the network's architecture or of the recipe can be varied, by its path.

    `factors` maps a factor to its levels, and a level to what it changes: `{network.patches.mixer: attention}`,
    `{recipe.drop_path: 0.1}`, `{network: deit_small_patch16_224}`. A list is short for levels of one field: the factor is
    that field's path. Factors are crossed; networks to be compared as they are make a single factor.
    """

    title: str = "Do you even need attention?"
    network: Network = Field(description="What the factors change: a name, or the fields of an architecture.")
    recipe: Recipe = Field(description="A name; or fields, with `base` for the recipe they change.")
    data: Data = Field(Data(), description="A source, or the fields of one.")
    hardware: Hardware = Field(Hardware(), description="What one run computes on.")
    factors: dict[str, dict[str, dict[str, Any]]] = Field({}, description="Factor, level, changes.")
    seeds: tuple[NonNegativeInt, ...] = Field(
        (0, 1, 2, 3, 4), description="Repetitions: a number of seeds, or the seeds themselves."
    )
    side_seeds: NonNegativeInt | None = Field(
        None,
        description="Repetitions of arms that are neither in the main comparison nor its control. Default: all seeds.",
    )
    redraw: bool = Field(
        True,
        description="Every seed draws its own split (train and validation; test too, unless the data has its own).",
    )
    folds: Annotated[int, Field(ge=2, le=MAX_SEEDS)] | None = Field(
        None, description="Cross-validation with this many folds."
    )
    match: Match = Field("epochs", description="What all arms have equal.")
    search: Search | None = Field(Search(), description="Tuning of each arm, the same for all. none: no tuning.")
    controls: bool = Field(True, description="Also train the body without mixing, and with a frozen random mixer.")
    reference: str | None = Field(
        None, description="The arm that others are compared with. Default: the one with attention."
    )
    comparisons: tuple[tuple[str, str], ...] | None = Field(
        None, description="The pairs compared, the main one first. Default: every arm with `reference`."
    )
    corruptions: tuple[str, ...] = Field(
        (),
        description="Also score every run on corrupted images, as `ffvit evaluate --corruptions` does: these, or families "
        "of them. No verdict is drawn from it.",
    )
    margin: NonNegativeFloat = Field(1.0, description="Equivalent means within this many points of top-1.")
    sequential: bool = Field(False, description="Add seeds until every comparison is conclusive.")
    max_seeds: PositiveInt = Field(20, le=MAX_SEEDS, description="With sequential: no more than these.")
    minutes: PositiveFloat | None = Field(
        None, description="Begin no seed that would end more than 5 % later than this."
    )
    compromises: tuple[str, ...] = Field((), description="What was left out to fit the minutes, a sentence each.")
    published: dict[str, Published] = Field({}, description="Published figures, by arm.")

    @field_validator("network", mode="before")
    @classmethod
    def _network(cls, value: object) -> object:
        if isinstance(value, str):
            return {"name": value}
        if (
            isinstance(value, dict)
            and value
            and not set(value) & set(Network.model_fields) - {"num_classes", "in_chans", "img_size"}
        ):
            return {"architecture": value}
        return value

    @field_validator("recipe", mode="before")
    @classmethod
    def _recipe(cls, value: object) -> object:
        if isinstance(value, str):
            return recipes.named_recipe(value)
        if isinstance(value, dict) and "base" in value:
            fields = {name: field for name, field in value.items() if name != "base"}
            return {**recipes.named_recipe(str(value["base"])).model_dump(exclude_unset=True), **fields}
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
        factors = {_bare(str(name)): _levels(str(name), levels) for name, levels in value.items()}
        if len(factors) < len(value):
            raise ValueError("two factors have the same name")
        return factors

    @field_validator("seeds", mode="before")
    @classmethod
    def _seeds(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 1:
                raise ValueError(f"a study needs at least one seed; got {value}")
            if value > MAX_SEEDS:
                raise ValueError(f"a study has at most {MAX_SEEDS:,} seeds; got {value:,}")
            return tuple(range(value))
        if isinstance(value, list | tuple) and len(value) > MAX_SEEDS:
            raise ValueError(f"a study has at most {MAX_SEEDS:,} seeds; got {len(value):,}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        if twice := sorted({seed for seed in self.seeds if self.seeds.count(seed) > 1}):
            raise ValueError(f"seeds: {', '.join(map(str, twice))} is there twice: the same run would be counted twice")
        arms = math.prod(len(levels) for levels in self.factors.values())
        if arms > MAX_ARMS:
            raise ValueError(f"factors: crossed they make {arms:,} arms; a study has at most {MAX_ARMS:,} arms")
        if not self.seeds:
            raise ValueError("seeds: a study needs at least one")
        if self.network.name is None and self.network.architecture is None:
            raise ValueError("network: give a name or the fields of an architecture")
        if (self.match == "time") != (self.recipe.minutes is not None):
            raise ValueError(
                "recipe.minutes: needed where arms are matched on time (how long each run trains), and only there"
            )
        if self.side_seeds is not None and self.side_seeds > len(self.seeds):
            raise ValueError(f"side_seeds: {self.side_seeds} is more than the {len(self.seeds)} seeds of the main pair")
        if self.search is not None and self.data.validation == 0:
            raise ValueError(
                "data.validation: the search chooses by a validation split: keep one, or set search to none"
            )
        if self.sequential and self.folds is not None:
            raise ValueError("sequential: not with folds, whose runs are few and fixed")
        if self.sequential and self.max_seeds < len(self.seeds):
            raise ValueError(f"max_seeds: {self.max_seeds} is less than the {len(self.seeds)} seeds to begin with")
        return self


def _levels(factor: str, levels: object) -> object:
    """A factor's levels with their changes; a list is short for values of the one field that the factor is named for."""
    if isinstance(levels, list | tuple):
        path = "network" if factor == "networks" else factor
        named = {level_name(path, value): {path: value} for value in levels}
        if len(named) < len(levels):
            raise ValueError(f"{factor}: the same level is there twice")
        return named
    if isinstance(levels, dict):
        return {str(name): changes for name, changes in levels.items()}
    return levels


def level_name(path: str, value: object) -> str:
    """The name of a level: networks and recipes are named by their value alone, other levels by field and value."""
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True).split("\n...")[0].strip()
    return text if path in ("network", "recipe") else f"{_bare(path)} {text}"


def _bare(path: str) -> str:
    """A path without `network.` or `recipe.`."""
    return path.removeprefix("network.").removeprefix("recipe.")


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
    fields = read_yaml(path)
    if not isinstance(fields, dict):
        raise ConfigError(f"{path}: a plan is fields and their values; got {short(fields)}")
    fields.pop("frozen", None)  # a study's mark, no part of its plan
    return fields
