"""The arms of a study: the cells that a plan's factors span, and the controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError

from ffvit.config import recipe as recipes
from ffvit.config.architecture import NAMED, Architecture, Branch, Network
from ffvit.config.base import Value, error_sentences
from ffvit.config.data import absolute_path
from ffvit.config.mixers import SETTINGS, Axis
from ffvit.config.recipe import Recipe
from ffvit.errors import ConfigError, did_you_mean
from ffvit.models.attention import attention_of
from ffvit.models.image_size import resized_network
from ffvit.models.weights_file import read_weights
from ffvit.study.plan import Plan

AXES = get_args(Axis)

NO_MIXING = "no mixing"
"""The control that says whether mixing over patches is worth anything on these images."""

CONTROLS = {NO_MIXING: "identity", "random mixing": "random"}
"""The controls' names, and the mixer over patches that each has in place of the arm's."""

CONTROLS_RATE = 4.0
"""Times the arms' learning rate, where the search of a control begins: it trains best at 2 to 8 times (docs/baselines.md)."""


class Arm(Value):
    """One variant: a network and the recipe it is trained by; `cell` holds its level of each of the plan's factors."""

    name: str
    cell: dict[str, str] = Field({}, description="Its level of each of the plan's factors.")
    role: Literal["arm", "control", "external"] = "arm"
    network: Network
    recipe: Recipe
    start_from: str | None = Field(None, description="Weights that its runs start from; None: initial weights.")


def make_arms(plan: Plan) -> tuple[Arm, ...]:
    """Every cell of the plan's factors, crossed, then the controls.

    Raises:
        UserError: A cell is impossible (says which and why), two cells are the same, a path names no field, or a
            comparison names no arm.
    """
    levels = [[(name, *level) for level in levels.items()] for name, levels in plan.factors.items()]
    arms: list[Arm] = []
    for cell in product(*levels):
        arm = _arm(plan, cell)
        for earlier in arms:
            if _key(earlier) == _key(arm):
                raise ConfigError(f"factors: {earlier.name!r} and {arm.name!r} are the same network and recipe")
        arms.append(arm)
    if with_controls(plan, arms):
        arms += _controls(arms, CONTROLS_RATE if plan.search is not None else 1.0)
    names = [arm.name for arm in arms]
    for name in (plan.reference, *(name for pair in plan.comparisons or () for name in pair), *plan.published):
        if name is not None and name not in names:
            raise ConfigError(f"there is no arm {name!r}{did_you_mean(name, names)} (there are: {', '.join(names)})")
    for one, reference in plan.comparisons or ():
        if one == reference:
            raise ConfigError(f"comparisons: {one!r} is compared with itself")
    return tuple(arms)


def with_controls(plan: Plan, arms: Sequence[Arm]) -> bool:
    """Whether controls stand beside the arms: not beside trained weights, for they would start from initial ones."""
    return plan.controls and all(arm.start_from is None for arm in arms)


def make_comparisons(plan: Plan, arms: tuple[Arm, ...]) -> tuple[tuple[str, str], ...]:
    """The pairs (arm, reference) that the study compares, the main one first.

    With several factors, arms are compared that differ in one of them alone: the one in which attention comes and goes,
    or else the first. An arm without attention comes before others.

    Raises:
        UserError: There is nothing to compare.
    """
    if plan.comparisons is not None:
        return plan.comparisons
    compared = sorted((arm for arm in arms if arm.role != "control"), key=without_attention, reverse=True)
    if len(compared) == 1:  # one arm alone is compared with the controls: is its mixing worth anything?
        name, controls = compared[0].name, [arm.name for arm in arms if arm.role == "control"]
        if not controls:
            raise ConfigError(f"factors: there is only one arm, {name!r}, and no control: nothing to compare it with")
        return tuple((name, control) for control in controls)
    named = next((arm for arm in compared if arm.name == plan.reference), None)
    attending = next((arm for arm in compared if has_attention(arm)), arms[0])
    if named is not None or len(plan.factors) < 2:
        reference = named or attending
        return tuple((arm.name, reference.name) for arm in compared if arm is not reference)
    factors = list(plan.factors)
    factor = next((factor for factor in factors if _decides_attention(factor, compared)), factors[0])
    references = [arm for arm in arms if arm.cell.get(factor) == attending.cell[factor]]
    return tuple(
        (arm.name, reference.name)
        for reference in references
        for arm in compared
        if arm is not reference and _same_but_for(factor, arm, reference)
    )


def _decides_attention(factor: str, arms: Sequence[Arm]) -> bool:
    """Whether arms that differ in this factor alone differ in having attention over patches."""
    return any(
        has_attention(arm) and not has_attention(reference) and _same_but_for(factor, arm, reference)
        for arm, reference in product(arms, arms)
    )


def _same_but_for(factor: str, arm: Arm, reference: Arm) -> bool:
    return {**arm.cell, factor: ""} == {**reference.cell, factor: ""}


def differ_in_mixers_alone(arm: Arm, reference: Arm) -> bool:
    """Whether two arms differ in nothing but the mixers and their settings."""
    ours, theirs = arm.network.architecture, reference.network.architecture
    if ours is None or theirs is None or (arm.recipe, arm.start_from) != (reference.recipe, reference.start_from):
        return False
    axes, other_axes = ([[branch.axis for branch in block] for block in body.blocks] for body in (ours, theirs))
    return axes == other_axes and ours.replace(block=theirs.block, replaced=theirs.replaced) == theirs


def has_attention(arm: Arm) -> bool:
    """Whether tokens attend to tokens anywhere in the network, ours or timm's."""
    return attention_of(arm.network) == "patches"


def without_attention(arm: Arm) -> bool:
    """Whether the network, ours or timm's, has attention nowhere, neither over patches nor over features."""
    return attention_of(arm.network) == "none"


def first_body(arms: Sequence[Arm]) -> Arm | None:
    """The first arm whose network is ours, so that it has an architecture."""
    return next((arm for arm in arms if arm.network.architecture is not None), None)


def _key(arm: Arm) -> object:
    """What makes an arm's runs what they are."""
    return arm.network.architecture or arm.network.name, arm.recipe, arm.start_from


def _arm(plan: Plan, cell: tuple[tuple[str, str, dict[str, Any]], ...]) -> Arm:
    where = "the cell " + ", ".join(f"{factor} = {level}" for factor, level, _ in cell) if cell else "the base"
    changes = {path: value for _, _, level in cell for path, value in level.items()}
    try:
        network, recipe = _network(plan.network, changes), _recipe(plan.recipe, changes)
        start_from = absolute_path(str(changes["start_from"])) if "start_from" in changes else None
        for path in changes:
            if path.partition(".")[0] not in ("network", "recipe", "start_from"):
                group = "recipe" if path.partition(".")[0] in Recipe.model_fields else "network"
                raise ConfigError(f"{path}: a path begins with network. or recipe.: say {group}.{path}")
        if start_from is not None and network != _resolved(plan.network):
            raise ConfigError("start_from: the network is that of the weights: change nothing in it")
        if start_from is not None:
            network = network_of_weights(start_from, plan.network.img_size)
    except ValidationError as error:
        model, group = (Architecture, "network") if error.title == "Architecture" else (Recipe, "recipe")
        reasons = error_sentences(error, model, group).replace("\n", "; ")
        raise ConfigError(f"factors: {where} is impossible: {reasons}") from None
    except ValueError as error:
        raise ConfigError(f"factors: {where} is impossible: {error}") from None
    return Arm(
        name=", ".join(level for _, level, _ in cell) or network.title,
        cell={factor: level for factor, level, _ in cell},
        role="external" if network.architecture is None else "arm",
        network=network,
        recipe=recipe,
        start_from=start_from,
    )


def network_of_weights(weights: str, size: tuple[int, int] | None = None) -> Network:
    """The network that weights belong to, for images of another size if one is given.

    Raises:
        UserError: They cannot be read, or do not say.
    """
    network = read_weights(Path(weights))[1].network
    if network is None:
        raise ConfigError(
            f"start_from: {weights} does not say which network it belongs to: give a run folder, or a file of ffvit's"
        )
    return _resolved(network if size is None else resized_network(network, size))


def _network(base: Network, changes: Mapping[str, Any]) -> Network:
    """The network of a cell: another one by name, then single fields of its architecture changed."""
    network = _resolved(base)
    if "network" in changes:
        network = _resolved(Network(name=str(changes["network"]), img_size=base.img_size))
    paths = {path.removeprefix("network."): value for path, value in changes.items() if path.startswith("network.")}
    if not paths:
        return network
    if network.architecture is None:
        names = ", ".join(f"network.{path}" for path in paths)
        raise ConfigError(f"{network.name} is an external network: {names} cannot be set in it")
    numbered = next((path for path in paths if path.startswith("block.")), None)
    if network.name is not None and numbered is not None:
        raise ConfigError(
            f"network.{numbered}: named networks differ in the order of their branches: say 'patches' or 'features' "
            f"in place of {'.'.join(numbered.split('.')[:2])!r}"
        )
    known = [*Architecture.model_fields, *AXES]
    return Network(
        architecture=Architecture.model_validate(_put(network.architecture.model_dump(), paths, "network", known))
    )


def _recipe(base: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe of a cell: another one by name, then single fields of it changed."""
    recipe = recipes.named_recipe(str(changes["recipe"])) if "recipe" in changes else base
    paths = {path.removeprefix("recipe."): value for path, value in changes.items() if path.startswith("recipe.")}
    fields = _put(recipe.model_dump(exclude_unset=True), paths, "recipe", list(Recipe.model_fields))
    return Recipe.model_validate(fields) if paths else recipe


def _resolved(network: Network) -> Network:
    """The network with its architecture, if it is one of ours, and nothing said beside it."""
    architecture = network.architecture or NAMED.get(str(network.name))
    if architecture is None:
        return network
    said = {name: getattr(network, name) for name in ("num_classes", "in_chans", "img_size")}
    said = {name: value for name, value in said.items() if value is not None}
    return Network(name=network.name, architecture=architecture.replace(**said) if said else architecture)


def _put(fields: dict[str, Any], changes: Mapping[str, Any], group: str, known: Sequence[str]) -> dict[str, Any]:
    """Fields with some of them, perhaps deep inside, replaced; `patches.mixer` is that of the branch along patches.

    Raises:
        UserError: A path leads nowhere.
    """
    for path, value in changes.items():
        steps, where = path.split("."), f"{group}.{path}"
        if steps[0] not in known:
            hint = did_you_mean(steps[0], known)
            raise ConfigError(
                f"{where}: a {'recipe' if group == 'recipe' else 'network'} has no field {steps[0]!r}{hint}"
            )
        if (axis := steps[0]) in AXES:
            steps[:1] = _branch_of(where, axis, fields["block"])
            if path == axis:
                if not isinstance(value, dict) or value.get("axis", axis) != axis:
                    raise ConfigError(
                        f"{where}: give the fields of a branch along {axis}, its mixer first; got {value!r}"
                    )
                value = {**value, "axis": axis}
        *parents, last = steps
        inside: Any = fields
        for number, step in enumerate(parents):
            key: Any = int(step) if isinstance(inside, list | tuple) and step.isdecimal() else step
            try:
                child = inside[key]
            except (KeyError, IndexError, TypeError):
                raise ConfigError(f"{where}: there is no {'.'.join(parents[: number + 1])!r} to change") from None
            inside[key] = list(child) if isinstance(child, tuple) else child
            inside = inside[key]
        if isinstance(inside, list) and last.isdecimal() and int(last) < len(inside):
            inside[int(last)] = value
        elif isinstance(inside, dict):
            if last == "mixer" and inside.get("mixer") != value:  # another mixer's settings mean nothing to this one
                for setting in (*SETTINGS, "norm"):
                    if f"{path.removesuffix('mixer')}{setting}" not in changes:
                        inside.pop(setting, None)
            inside[last] = value
        else:
            raise ConfigError(f"{where}: there is no {path!r} to change")
    return fields


def _branch_of(where: str, axis: str, block: Any) -> tuple[str, str]:
    """The path of the only branch along an axis."""
    places = [number for number, branch in enumerate(block) if branch.get("axis") == axis]
    if len(places) != 1:
        raise ConfigError(f"{where}: names the one branch along {axis}, of which this block has {len(places)}")
    return "block", str(places[0])


def _controls(arms: list[Arm], rate: float) -> list[Arm]:
    """The first body of ours without mixing over patches, and with random mixing, by that arm's recipe at `rate` times its lr.

    Without mixing the class token would hear nothing of the image, so there the mean over patches is read.
    """
    body = first_body(arms)
    if body is None or body.network.architecture is None:
        return []
    architecture, controls = body.network.architecture, []
    for name, mixer in CONTROLS.items():
        block = tuple(Branch(mixer, "patches") if branch.axis == "patches" else branch for branch in architecture.block)
        # Attention and gMLP along features read vectors of patches: they would mix those.
        block = tuple(
            Branch("feedforward", "features") if branch.axis == "features" and branch.mixes_patches else branch
            for branch in block
        )
        readout = "mean" if mixer == "identity" else architecture.readout
        network = Network(architecture=architecture.replace(block=block, replaced=None, readout=readout))
        if any(arm.network.architecture == network.architecture and arm.recipe == body.recipe for arm in arms):
            continue  # the plan has it already
        recipe = body.recipe.replace(lr=rate * body.recipe.lr)
        controls.append(Arm(name=name, role="control", network=network, recipe=recipe))
    return controls
