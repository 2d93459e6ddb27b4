"""A recipe, data or hardware as people give them: a name, a file, a value, or single fields to change."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ffvit.config.base import Value, parse
from ffvit.config.data import Data
from ffvit.config.hardware import Hardware
from ffvit.config.recipe import Recipe, named_recipe
from ffvit.config.strict_yaml import read_yaml

Choice = TypeVar("Choice", bound=Value)

RecipeChoice = str | Path | Recipe | Mapping[str, Any] | None
DataChoice = str | Path | Data | Mapping[str, Any] | None
HardwareChoice = Hardware | Mapping[str, Any] | None


def choose_recipe(choice: RecipeChoice, base: Recipe) -> Recipe:
    """The recipe that was asked for.

    Args:
        choice: A name; a YAML file; a `Recipe`; or fields over `base`, which can itself be given as the field `base`.
        base: What the fields change, and the recipe if nothing was asked for.

    Raises:
        UserError: No recipe has that name, the file cannot be read, or a field or value is wrong.
    """
    if isinstance(choice, str | Path):
        return _recipe_file(Path(choice)) if _is_yaml(choice) else named_recipe(str(choice))
    if isinstance(choice, Mapping) and "base" in choice:
        fields = {name: value for name, value in choice.items() if name != "base"}
        return _changed(choose_recipe(choice["base"], base), fields)
    return _changed(base, choice)


def choose_data(choice: DataChoice, base: Data | None = None) -> Data:
    """The data that was asked for: a source, a `Data`, or fields over `base`.

    Raises:
        UserError: A field or value is wrong.
    """
    return _changed(base or Data(), {"source": str(choice)} if isinstance(choice, str | Path) else choice)


def choose_hardware(choice: HardwareChoice, base: Hardware | None = None) -> Hardware:
    """The hardware that was asked for: a `Hardware`, or fields over `base`.

    Raises:
        UserError: A field or value is wrong.
    """
    return _changed(base or Hardware(), choice)


def fields_of(choice: RecipeChoice | DataChoice | HardwareChoice, key: str = "") -> dict[str, Any]:
    """The fields that a choice sets, not yet checked.

    Args:
        choice: What was asked for.
        key: The field that a name sets: `base` of a recipe, `source` of data.

    Raises:
        UserError: A recipe's file cannot be read, or a field or value in it is wrong.
    """
    if isinstance(choice, str | Path):
        choice = {key: str(choice)}
    fields = dict(choice or {})
    if key == "base" and _is_yaml(fields.get(key, "")):
        fields = {**dict(_recipe_file(Path(fields.pop(key)))), **fields}
    return fields


def _changed(base: Choice, choice: Choice | Mapping[str, Any] | None) -> Choice:
    if choice is None:
        return base
    return base.replace(**choice) if isinstance(choice, Mapping) else choice


def _is_yaml(choice: str | Path) -> bool:
    return Path(choice).suffix in (".yaml", ".yml")


def _recipe_file(path: Path) -> Recipe:
    fields = read_yaml(path)
    if isinstance(fields, dict) and "base" in fields:
        return named_recipe(str(fields.pop("base"))).replace(**fields)
    return parse(Recipe, fields, str(path))
