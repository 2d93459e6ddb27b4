"""Makes the plan that a person asked for: a file's, one of named networks, or one chosen for the images and the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ffvit.config import commands
from ffvit.config import recipe as recipes
from ffvit.config.architecture import Network
from ffvit.config.base import Value, parse
from ffvit.config.choices import fields_of
from ffvit.config.data import Data, absolute_path
from ffvit.config.hardware import Hardware
from ffvit.config.recipe import Recipe
from ffvit.errors import UserError
from ffvit.models.create import check_name
from ffvit.study.arms import network_of_weights
from ffvit.study.folder import Study
from ffvit.study.plan import Plan, Search, read_fields
from ffvit.study.plan_defaults import fit_plan


def make_plan(
    networks: Sequence[str] = (),
    source: str | None = None,
    study: Path | None = None,
    recipe: str | None = None,
    recipe_fields: Value | None = None,
    data_fields: Value | None = None,
    image_size: tuple[int, int] | None = None,
    hardware: Value | None = None,
    minutes: float | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Plan:
    """Make a plan.

    Args:
        networks: To be compared as they are.
        source: Images.
        study: A plan's file, or the folder of a study; all that is given besides changes it.
        recipe: Name of the recipe.
        recipe_fields: Single fields over it.
        data_fields: Single fields of the data.
        image_size: Height and width in pixels for all networks.
        hardware: Fields of what one run computes on.
        minutes: For the whole study.
        changes: Fields of the plan; None leaves one as it is.

    Raises:
        UserError: Something that was given cannot be used, or contradicts the rest.
    """
    changed = {name: value for name, value in (changes or {}).items() if value is not None}
    if "search" in changed:
        changed["search"] = Search() if changed["search"] else None
    if "seeds" in changed:
        changed["seeds"] = tuple(range(changed["seeds"]))
    if study is not None and networks:
        raise UserError("give networks, or a --study that says which: not both")
    path = study if study is None or not study.is_dir() else Study(study).plan_file
    fields = read_fields(path) if path is not None else {}
    where = str(path) if path is not None else "data"
    data = fields.get("data", {})
    data = _with(parse(Data, {"source": data} if isinstance(data, str) else data, where), data_fields)
    data = (data.replace(source=source) if source is not None else data).located()
    if minutes is not None:
        fields["minutes"] = minutes
    if networks:
        fields |= _of_networks(networks, data)
    elif "network" not in fields:
        fields = _fitted(fields, data, changed, hardware, where)
        if path is None and data.source != "digits":
            fields["title"] = f"Do you even need attention? On {source or data.source}"
    plan = parse(Plan, {**fields, "data": data}, where if path is not None else "plan")
    changed["hardware"] = _with(plan.hardware, hardware)
    how = _with(recipes.named_recipe(recipe) if recipe is not None else plan.recipe, recipe_fields)
    if how.teacher is not None:
        how = how.replace(teacher=absolute_path(how.teacher))
    if image_size is not None:
        changed["network"] = plan.network.replace(img_size=image_size)
    return plan.replace(**changed, recipe=how)


def plan_of(command: commands.Compare) -> Plan:
    """The plan that a command asks for: that of its study, of the named networks, or one that fits images and time.

    Raises:
        UserError: A value cannot be used, or contradicts another.
    """
    changes = ("seeds", "side_seeds", "folds", "match", "margin", "controls", "search", "sequential", "max_seeds")
    if isinstance(command.study, Plan):
        planned = ("networks", "data", "recipe", "image_size", "minutes", "hardware", "corruptions", *changes)
        if given := [name for name in planned if getattr(command, name) not in (None, ())]:
            raise UserError(f"study: a Plan holds all of this: change it instead of giving {', '.join(given)}")
        return command.study
    assert not isinstance(command.image_size, int)  # a square is a pair by now
    study = Path(command.study) if isinstance(command.study, str | Path) else None
    if command.resume and command.out is None and (study is None or not study.is_dir()):
        raise UserError("--resume needs the study to resume: --study FOLDER")
    if study is not None and study.is_dir() and not command.resume and command.out is None:
        raise UserError(f"{study} is a study that was begun: resume it (--resume), or give a new one --out")
    data, recipe = fields_of(command.data, "source"), fields_of(command.recipe, "base")
    hardware = fields_of(command.hardware)
    return make_plan(
        networks=command.networks,
        source=data.pop("source", None),
        study=command.out if study is None and command.resume else study,
        recipe=recipe.pop("base", None),
        recipe_fields=Recipe.model_construct(**recipe) if recipe else None,
        data_fields=Data.model_construct(**data) if data else None,
        image_size=command.image_size,
        hardware=Hardware.model_construct(**hardware) if hardware else None,
        minutes=command.minutes,
        changes={name: getattr(command, name) for name in changes} | {"corruptions": command.corruptions or None},
    )


def _fitted(
    fields: dict[str, Any], data: Data, changed: Mapping[str, Any], hardware: Value | None, where: str
) -> dict[str, Any]:
    """The fields of a plan that leaves the network to us, completed to fit images and time."""
    plan = parse(Plan, {**fields, "network": "ff_tiny_patch16_224", "recipe": "small"}, where)
    fitted = fit_plan(
        data,
        plan.factors,
        plan.minutes,
        changed.get("controls", plan.controls),
        _with(plan.hardware, hardware),
        changed.get("seeds", plan.seeds if "seeds" in fields else None),
        changed.get("search", plan.search),
    )
    return {**fitted, **fields}


def _of_networks(networks: Sequence[str], data: Data) -> dict[str, Any]:
    """The fields of a plan that compares networks as they are."""
    if len(set(networks)) < 2:
        raise UserError("compare: give at least two different networks, or none to compare attention and feed-forward")
    levels: dict[str, dict[str, str]] = {}
    for name in networks:
        if Path(name).exists():  # weights, a run's or a file's: trained on
            levels[name] = {"start_from": absolute_path(name)}
        else:
            check_name(name)
            levels[name] = {"network": name}
    first = levels[networks[0]]
    return {
        "title": " against ".join(networks) if len(networks) == 2 else f"{len(networks)} networks compared",
        "network": Network(name=networks[0]) if "network" in first else network_of_weights(first["start_from"]),
        "recipe": recipes.named_recipe("digits" if data.source == "digits" else "small"),
        "factors": {"network": levels},
    }


def _with(value: Any, given: Value | None) -> Any:
    """A value with the fields that were given put over its own."""
    if given is None:
        return value
    return value.replace(**{name: getattr(given, name) for name in given.model_fields_set})
