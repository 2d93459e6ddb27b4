"""The plan that a person asked for: a file's, the named networks', or one chosen for the question itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ffvit.config import recipe as recipes
from ffvit.config.architecture import Network
from ffvit.config.base import Value, parse
from ffvit.config.data import Data, absolute_path
from ffvit.config.hardware import Hardware
from ffvit.errors import UserError
from ffvit.models.create import check_name
from ffvit.study.folder import Study
from ffvit.study.plan import Plan, Search, read_fields
from ffvit.study.plan_defaults import Fit, fit_plan


def make_plan(
    networks: Sequence[str] = (),
    source: str | None = None,
    study: Path | None = None,
    recipe: str | None = None,
    recipe_fields: Value | None = None,
    data_fields: Value | None = None,
    image: Sequence[int] | None = None,
    hardware: Value | None = None,
    minutes: float | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan, with what was asked put over it.

    Args:
        networks: To be compared as they are.
        source: Images.
        study: A plan's file, or the folder of a study.
        recipe: Name of the recipe.
        recipe_fields: Single fields over it.
        data_fields: Single fields of the data.
        image: Image size for all networks.
        hardware: Fields of what one run computes on.
        minutes: For the whole study.
        changes: Fields of the plan; None leaves one as it is.

    Raises:
        UserError: Something that was asked cannot be used, or contradicts the rest.
    """
    asked = {name: value for name, value in (changes or {}).items() if value is not None}
    if "search" in asked:
        asked["search"] = Search() if asked["search"] else None
    if "seeds" in asked:
        asked["seeds"] = tuple(range(asked["seeds"]))
    if study is not None:
        if networks:
            raise UserError("give networks, or a --study that says which: not both")
        path = Study(study).plan_file if study.is_dir() else study
        fields = read_fields(path)
        data = _data(fields.get("data", {}), source, data_fields, str(path))
        if minutes is not None:
            fields["minutes"] = minutes
        if "network" not in fields:  # a plan that leaves the body to us
            loose = parse(Plan, {**fields, "network": "ff_tiny_patch16_224", "recipe": "small"}, str(path))
            seeds = asked.get("seeds", loose.seeds if "seeds" in fields else None)
            fit = fit_plan(
                data,
                dict(loose.factors),
                loose.minutes,
                asked.get("controls", loose.controls),
                _changed(loose.hardware, hardware),
                seeds,
                asked.get("search", loose.search),
            )
            fields = {**_known(fit), **fields}
        plan = parse(Plan, {**fields, "data": data}, str(path))
    else:
        data = _data({}, source, data_fields, "data")
        if networks:
            plan = _of_names(networks, data, minutes)
        else:
            fit = fit_plan(
                data,
                None,
                minutes,
                asked.get("controls", True),
                _changed(Hardware(), hardware),
                asked.get("seeds"),
                asked.get("search", Search()),
            )
            plan = Plan(**_known(fit) | {"data": data})
            if data.source != "digits":
                plan = plan.replace(title=f"Do you even need attention? On {source or data.source}")
    asked["hardware"] = _changed(plan.hardware, hardware)
    if recipe is not None or recipe_fields is not None:
        base = recipes.named_recipe(recipe) if recipe is not None else plan.recipe
        asked["recipe"] = _changed(base, recipe_fields)
    how = asked.get("recipe", plan.recipe)
    if how.teacher is not None:
        asked["recipe"] = how.replace(teacher=absolute_path(how.teacher))
    if image is not None:
        if len(image) > 2:
            raise UserError(f"--image: give one number for a square, or height and width; got {len(image)} numbers")
        asked["network"] = plan.network.replace(img_size=(image[0], image[-1]))
    return plan.replace(**asked)


def _known(fit: Fit) -> dict[str, Any]:
    """The fields of a plan that fits, with what it gave up."""
    return {**fit.fields, "compromises": fit.compromises}


def _data(fields: object, source: str | None, given: Value | None, where: str) -> Data:
    """The data of a plan, with what was asked put over it."""
    data = parse(Data, {"source": fields} if isinstance(fields, str) else fields, where)
    data = _changed(data, given)
    return (data.replace(source=source) if source is not None else data).located()


def _of_names(networks: Sequence[str], data: Data, minutes: float | None) -> Plan:
    if len(set(networks)) < 2:
        raise UserError("compare: give at least two different networks, or none for the question's own")
    for name in networks:
        check_name(name)
    return Plan(
        title=" against ".join(networks) if len(networks) == 2 else f"{len(networks)} networks compared",
        network=Network(name=networks[0]),
        recipe=recipes.named_recipe("digits" if data.source == "digits" else "small"),
        data=data,
        factors={"network": {name: {"network": name} for name in networks}},
        minutes=minutes,
    )


def _changed(value: Any, given: Value | None) -> Any:
    """A value with the fields that were given put over its own."""
    if given is None:
        return value
    return value.replace(**{name: getattr(given, name) for name in given.model_fields_set})
