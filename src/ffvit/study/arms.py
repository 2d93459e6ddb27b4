"""The arms of a study: the cells that a plan's factors span, and the controls under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal, get_args

from pydantic import Field

from ffvit.config import recipe as recipes
from ffvit.config.architecture import NAMED, Architecture, Branch, Network
from ffvit.config.base import Value
from ffvit.config.mixers import SETTINGS, Axis
from ffvit.config.recipe import Recipe
from ffvit.errors import ConfigError, did_you_mean
from ffvit.models.attention import attention_of
from ffvit.study.plan import Plan

AXES = get_args(Axis)

NO_MIXING = "no mixing"
"""The control that says whether mixing over patches is worth anything on these images."""

CONTROLS = {NO_MIXING: "identity", "random mixing": "random"}
"""The controls' names, and what stands in the place of the base's mixers over patches."""

CONTROLS_RATE = 4.0
"""Times the arms' learning rate, where the search of a control begins: it trains best at 2 to 8 times (docs/baselines.md)."""


class Arm(Value):
    """One variant: a network and the recipe it is trained by; `cell` holds its level of each of the plan's factors."""

    name: str
    cell: dict[str, str] = Field({}, description="Its level of each of the plan's factors.")
    role: Literal["arm", "control", "external"] = "arm"
    network: Network
    recipe: Recipe


def make_arms(plan: Plan) -> tuple[Arm, ...]:
    """Every cell of the plan's factors, crossed, then the controls.

    Raises:
        UserError: A cell is impossible (says which and why), two cells are the same, a path names no field, or a
            comparison names no arm.
    """
    levels = [[(factor, level, changes) for level, changes in its.items()] for factor, its in plan.factors.items()]
    arms: list[Arm] = []
    for cell in product(*levels):
        arm = _arm(plan, cell)
        for other in arms:
            if (other.network.architecture or other.network.name, other.recipe) == (
                arm.network.architecture or arm.network.name,
                arm.recipe,
            ):
                raise ConfigError(f"factors: {other.name!r} and {arm.name!r} are the same network and recipe")
        arms.append(arm)
    if plan.controls:
        arms += _controls(arms, CONTROLS_RATE if plan.search is not None else 1.0)
    names = [arm.name for arm in arms]
    for name in (plan.reference, *(name for pair in plan.comparisons or () for name in pair), *plan.published):
        if name is not None and name not in names:
            raise ConfigError(f"there is no arm {name!r}{did_you_mean(name, names)} (there are: {', '.join(names)})")
    for one, reference in plan.comparisons or ():
        if one == reference:
            raise ConfigError(f"comparisons: {one!r} is compared with itself")
    return tuple(arms)


def make_comparisons(plan: Plan, arms: tuple[Arm, ...]) -> tuple[tuple[str, str], ...]:
    """The pairs (arm, reference) that the study compares, the main one first.

    With several factors, arms are compared that differ in one of them alone: the one in which attention comes and goes,
    or else the first. An arm without attention comes before others.

    Raises:
        UserError: There is nothing to compare.
    """
    if plan.comparisons is not None:
        return plan.comparisons
    asked = sorted((arm for arm in arms if arm.role != "control"), key=without_attention, reverse=True)
    if len(asked) == 1:  # one arm alone is asked whether its mixing is worth anything
        controls = [arm.name for arm in arms if arm.role == "control"]
        if not controls:
            name = asked[0].name
            raise ConfigError(f"factors: there is only one arm, {name!r}, and no control: nothing to compare it with")
        return tuple((asked[0].name, other) for other in controls)
    named = next((arm for arm in asked if arm.name == plan.reference), None)
    if named is not None or len(plan.factors) < 2:
        reference = named or next((arm for arm in asked if has_attention(arm)), None) or arms[0]
        return tuple((arm.name, reference.name) for arm in asked if arm is not reference)
    factor = next((each for each in plan.factors if _decides_attention(each, asked)), next(iter(plan.factors)))
    level = next((arm for arm in asked if has_attention(arm)), arms[0]).cell[factor]
    pairs = []
    for other in (arm for arm in arms if arm.cell.get(factor) == level):
        rest = {**other.cell, factor: ""}
        pairs += [(arm.name, other.name) for arm in asked if arm is not other and {**arm.cell, factor: ""} == rest]
    return tuple(pairs)


def _decides_attention(factor: str, arms: Sequence[Arm]) -> bool:
    """Whether arms that differ in this factor alone differ in having attention over patches."""
    return any(
        has_attention(one) and not has_attention(other) and {**one.cell, factor: ""} == {**other.cell, factor: ""}
        for one, other in product(arms, arms)
    )


def differ_in_mixers_alone(one: Arm, other: Arm) -> bool:
    """Whether nothing but the mixers and their own settings sets two arms apart."""
    mine, theirs = one.network.architecture, other.network.architecture
    if mine is None or theirs is None or one.recipe != other.recipe:
        return False
    axes = [branch.axis for branch in mine.block] == [branch.axis for branch in theirs.block]
    return axes and mine.replace(block=theirs.block) == theirs


def has_attention(arm: Arm) -> bool:
    """Whether tokens attend to tokens anywhere in the network, ours or timm's."""
    return attention_of(arm.network) == "patches"


def without_attention(arm: Arm) -> bool:
    """Whether the network, ours or timm's, has attention nowhere, neither over patches nor over features."""
    return attention_of(arm.network) == "none"


def _arm(plan: Plan, cell: tuple[tuple[str, str, dict[str, Any]], ...]) -> Arm:
    where = "the cell " + ", ".join(f"{factor} = {level}" for factor, level, _ in cell) if cell else "the base"
    try:
        network, recipe = _resolved(plan.network), plan.recipe
        changes = {path: value for _, _, its in cell for path, value in its.items()}
        if "network" in changes:
            network = _resolved(Network(name=str(changes.pop("network")), img_size=plan.network.img_size))
        if "recipe" in changes:
            recipe = recipes.named_recipe(str(changes.pop("recipe")))
        of_recipe = {path: value for path, value in changes.items() if path.split(".")[0] in Recipe.model_fields}
        of_network = {path: value for path, value in changes.items() if path not in of_recipe}
        for path in of_network:
            if path.split(".")[0] not in (*Architecture.model_fields, *AXES):
                known = [*Architecture.model_fields, *AXES, *Recipe.model_fields]
                raise ConfigError(
                    f"neither an architecture nor a recipe has a field {path!r}{did_you_mean(path, known)}"
                )
        if of_recipe:
            recipe = Recipe.model_validate(_put(recipe.model_dump(exclude_unset=True), of_recipe))
        if of_network:
            if network.architecture is None:
                raise ConfigError(f"{network.name} has a body of its own: {', '.join(of_network)} cannot be set in it")
            numbered = next((path for path in of_network if path.startswith("block.")), None)
            if network.name is not None and numbered is not None:
                raise ConfigError(
                    f"{numbered}: named networks differ in the order of their branches: say 'patches' or 'features' "
                    f"in place of {'.'.join(numbered.split('.')[:2])!r}"
                )
            fields = _put(network.architecture.model_dump(), of_network)
            network = Network(architecture=Architecture.model_validate(fields))
    except ValueError as error:
        raise ConfigError(f"factors: {where} is impossible: {_words(error)}") from None
    name = ", ".join(level for _, level, _ in cell) or network.title
    role: Literal["arm", "external"] = "external" if network.architecture is None else "arm"
    levels = {factor: level for factor, level, _ in cell}
    return Arm(name=name, cell=levels, role=role, network=network, recipe=recipe)


def _words(error: ValueError) -> str:
    """What a check said, in words; a pydantic error says it of each field."""
    from pydantic import ValidationError

    from ffvit.config.base import error_sentences

    if isinstance(error, ValidationError):
        return error_sentences(error, Architecture if error.title == "Architecture" else Recipe, "").replace("\n", "; ")
    return str(error)


def _resolved(network: Network) -> Network:
    """The network with its architecture, if it is one of ours, and nothing said beside it."""
    architecture = network.architecture or NAMED.get(str(network.name))
    if architecture is None:
        return network
    said = {name: getattr(network, name) for name in ("num_classes", "in_chans", "img_size")}
    said = {name: value for name, value in said.items() if value is not None}
    return Network(name=network.name, architecture=architecture.replace(**said) if said else architecture)


def _put(fields: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Fields with some of them, deep inside perhaps, replaced; `patches.mixer` is that of the branch along patches.

    Raises:
        UserError: A path leads nowhere.
    """
    for path, value in changes.items():
        steps = path.split(".")
        if (axis := steps[0]) in AXES:
            steps[:1] = _place(path, axis, fields["block"])
            if path == axis:
                if not isinstance(value, dict) or value.get("axis", axis) != axis:
                    raise ConfigError(
                        f"{path}: give the fields of a branch along {axis}, its mixer first; got {value!r}"
                    )
                value = {**value, "axis": axis}
        *way, last = steps
        inside: Any = fields
        for number, part in enumerate(way):
            key: Any = int(part) if isinstance(inside, list | tuple) and part.isdecimal() else part
            try:
                found = inside[key]
            except (KeyError, IndexError, TypeError):
                raise ConfigError(f"{path}: there is no {'.'.join(way[: number + 1])!r} to change") from None
            inside[key] = list(found) if isinstance(found, tuple) else found
            inside = inside[key]
        if isinstance(inside, list):
            if not last.isdecimal() or int(last) >= len(inside):
                raise ConfigError(f"{path}: there is no {path!r} to change")
            inside[int(last)] = value
        elif isinstance(inside, dict):
            if last == "mixer" and inside.get("mixer") != value:  # another mixer's settings mean nothing to this one
                for setting in (*SETTINGS, "norm"):
                    if f"{path.removesuffix('mixer')}{setting}" not in changes:
                        inside.pop(setting, None)
            inside[last] = value
        else:
            raise ConfigError(f"{path}: there is no {path!r} to change")
    return fields


def _place(path: str, axis: str, block: Any) -> tuple[str, str]:
    """Where in a block the only branch along an axis is."""
    places = [number for number, branch in enumerate(block) if branch.get("axis") == axis]
    if len(places) != 1:
        raise ConfigError(f"{path}: names the one branch along {axis}, of which this block has {len(places)}")
    return "block", str(places[0])


def _controls(arms: list[Arm], rate: float) -> list[Arm]:
    """The first body of ours with no mixing over patches, and with a random one, trained by that arm's recipe.

    Their learning rate is so many times the arm's.

    Without mixing the class token would hear nothing of the image, so there the mean over patches is read.
    """
    body = next((arm for arm in arms if arm.network.architecture is not None), None)
    if body is None or body.network.architecture is None:
        return []
    architecture, controls = body.network.architecture, []
    for name, mixer in CONTROLS.items():
        block = tuple(Branch(mixer, "patches") if branch.axis == "patches" else branch for branch in architecture.block)
        # Attention and gating along features read vectors of patches: they would mix those.
        if any(each.mixes_patches for each in block if each.axis == "features"):
            block = tuple(
                Branch("feedforward", "features") if each.axis == "features" and each.mixes_patches else each
                for each in block
            )
        readout = "mean" if mixer == "identity" else architecture.readout
        network = Network(architecture=architecture.replace(block=block, readout=readout))
        if any(arm.network.architecture == network.architecture and arm.recipe == body.recipe for arm in arms):
            continue  # the plan has it already
        recipe = body.recipe.replace(lr=rate * body.recipe.lr)
        controls.append(Arm(name=name, role="control", network=network, recipe=recipe))
    return controls
