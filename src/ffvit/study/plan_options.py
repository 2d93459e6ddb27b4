"""Makes the plan that a person asked for: a file's, one of named networks, or one chosen for the images and the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ffvit.config import recipe as recipes
from ffvit.config.architecture import Network
from ffvit.config.base import Value, parse
from ffvit.config.data import Data, absolute_path
from ffvit.errors import UserError
from ffvit.models.create import check_name
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
    named = [name for name in networks if "network" in levels[name]]
    return {
        "title": " against ".join(networks) if len(networks) == 2 else f"{len(networks)} networks compared",
        "network": Network(name=named[0] if named else "ff_tiny_patch16_224"),
        "recipe": recipes.named_recipe("digits" if data.source == "digits" else "small"),
        "factors": {"network": levels},
    }


def _with(value: Any, given: Value | None) -> Any:
    """A value with the fields that were given put over its own."""
    if given is None:
        return value
    return value.replace(**{name: getattr(given, name) for name in given.model_fields_set})
