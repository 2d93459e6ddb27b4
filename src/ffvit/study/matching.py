"""Holding one thing equal: widths solved for parameters or latency, epochs solved for training operations."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import nn

from ffvit.config.architecture import Architecture, Network
from ffvit.config.base import Value
from ffvit.errors import ConfigError
from ffvit.hardware.devices import device_type
from ffvit.models.convnet import convnet_by_flops
from ffvit.models.create import create_model
from ffvit.profiling.count import Count, count
from ffvit.profiling.timing import latency
from ffvit.study.arms import Arm, make_arms, make_comparisons
from ffvit.study.plan import Plan

CONVNET = "small ConvNet"
"""The name of the arm that any network for images should keep up with."""

TOLERANCE = 0.03
"""How far from equal a counted budget may be."""

LATENCY_TOLERANCE = 0.10
"""How far from equal a measured one may be: here the clock itself is no better."""


class MatchedArms(Value):
    """The arms of a study with its budget held, and in words what was held and how close it came."""

    arms: tuple[Arm, ...]
    words: tuple[str, ...]

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)


def all_arms(plan: Plan, classes: int) -> tuple[Arm, ...]:
    """The plan's arms with their controls, and a small ConvNet of about the FLOPs of the first body as a baseline.

    Raises:
        UserError: As `arms_of`.
    """
    arms = make_arms(plan)
    body = next((arm for arm in arms if arm.network.architecture is not None), None)
    if not plan.controls or body is None or body.network.architecture is None:
        return arms
    its = body.network.architecture
    name = convnet_by_flops(count_arm(body.network, classes).flops, its.img_size, its.in_chans, classes)
    network = Network(name=name, in_chans=its.in_chans, img_size=its.img_size)
    return (*arms, Arm(name=CONVNET, role="control", network=network, recipe=body.recipe))


def match_budget(plan: Plan, arms: tuple[Arm, ...], classes: int) -> MatchedArms:
    """Make the arms equal in what the plan holds equal. Controls follow the base as they are.

    Args:
        plan: Says what is held.
        arms: The plan's.
        classes: How many classes the data has.

    Raises:
        UserError: The budget cannot be met; says by which arm, how near it came, and what to do.
    """
    reference = next(arm for arm in arms if arm.name == make_comparisons(plan, arms)[0][1])
    match plan.budget:
        case "epochs":
            return MatchedArms(arms=arms, words=(_epochs_in_words(arms, reference),))
        case "time":
            minutes = plan.recipe.minutes
            return MatchedArms(
                arms=arms,
                words=(f"Training time: {minutes:g} minutes a run, each with the same share of this machine.",),
            )
        case "flops":
            return _equal_operations(arms, reference, classes)
        case "parameters":
            return _equal_width(
                arms, reference, "parameters", lambda arm: float(count_arm(arm.network, classes).parameters), TOLERANCE
            )
        case "latency":
            return _equal_latency(arms, reference, classes, torch.device(device_type(plan.hardware)))


@functools.cache
def count_arm(network: Network, classes: int) -> Count:
    """Parameters and operations of a network on data of so many classes; nothing is computed."""
    with torch.device("meta"):
        return count(create_model(network, classes))


def _epochs_in_words(arms: tuple[Arm, ...], reference: Arm) -> str:
    if all(arm.recipe.epochs == reference.recipe.epochs for arm in arms):
        return f"Epochs: {reference.recipe.epochs} for every arm, of the same images in the same order."
    return "Nothing but the recipe says how long an arm trains: the arms' epochs differ as the plan says."


def _equal_operations(arms: tuple[Arm, ...], reference: Arm, classes: int) -> MatchedArms:
    """Epochs in inverse proportion to the operations of an image (a training step is three predictions for all)."""
    flops = {arm.name: count_arm(arm.network, classes).flops for arm in arms}
    ratio = {arm.name: flops[reference.name] / flops[arm.name] for arm in arms if arm.role != "control"}

    def off(name: str, epochs: int) -> float:
        return max(1, round(epochs * ratio[name])) / (epochs * ratio[name]) - 1

    wanted = reference.recipe.epochs
    far = [name for name in ratio if abs(off(name, wanted)) > TOLERANCE]
    if far:
        enough = next(
            (each for each in range(1, 2000) if all(abs(off(name, each)) <= TOLERANCE for name in ratio)), None
        )
        raise ConfigError(
            f"budget: {wanted} epochs cannot be cut to equal training operations: {far[0]!r} comes no nearer than "
            f"{off(far[0], wanted):+.1%}, as epochs are whole. Try recipe.epochs {enough}"
        )
    changed, words = [], []
    for arm in arms:
        if arm.role == "control" or arm is reference:
            changed.append(arm)
            continue
        epochs = round(wanted * ratio[arm.name])
        changed.append(arm.replace(recipe=arm.recipe.lasting(epochs)))
        words.append(f"{arm.name}: {epochs} epochs ({off(arm.name, wanted):+.1%})")
    total = 3 * flops[reference.name] / 1e9
    head = (
        f"Training operations: those of {reference.name} over {wanted} epochs ({total:.3g} GFLOPs an image and epoch)"
    )
    return MatchedArms(arms=tuple(changed), words=("; ".join([head, *words]) + ".",))


def _equal_width(
    arms: tuple[Arm, ...], reference: Arm, what: str, size: Callable[[Arm], float], tolerance: float
) -> MatchedArms:
    """Widths by bisection, as the size rises with the width; where a step is too coarse, the hidden size fills up."""
    target = size(reference)
    changed, words = [], []
    for arm in arms:
        if arm.role == "control" or arm is reference:
            changed.append(arm)
            continue
        if arm.network.architecture is None:
            fitted = arm
        else:
            fitted = min(_near(arm, arm.network.architecture, target, size), key=lambda one: abs(size(one) - target))
        off = size(fitted) / target - 1
        if abs(off) > tolerance and fitted.network.architecture is not None:
            fitted = _filled(fitted, fitted.network.architecture, target, size)
            off = size(fitted) / target - 1
        if abs(off) > tolerance:
            body = "has a body of its own" if arm.role == "external" else "comes no nearer, whatever its width"
            raise ConfigError(
                f"budget: {arm.name!r} {body}: {size(fitted):,.0f} {what} against {target:,.0f} of {reference.name!r} "
                f"({off:+.1%}, more than {tolerance:.0%}). Leave it out, or hold something else equal"
            )
        changed.append(fitted)
        words.append(f"{arm.name}: {_difference(arm, fitted)} ({off:+.1%})")
    return MatchedArms(
        arms=tuple(changed), words=(f"{what.capitalize()}: {target:,.0f}, as {reference.name}; {'; '.join(words)}.",)
    )


def _step(architecture: Architecture) -> int:
    """What a width must be a multiple of: heads along patches divide it, and so does gating's halving."""
    heads = [branch.heads or 1 for branch in architecture.block if branch.axis == "patches"]
    return math.lcm(2, *heads)


def _with_width(arm: Arm, architecture: Architecture, width: int) -> Arm:
    return arm.replace(network=Network(architecture=architecture.replace(width=width)))


def _near(arm: Arm, architecture: Architecture, target: float, size: Callable[[Arm], float]) -> list[Arm]:
    """The arm at the widest width below the target size and the narrowest above it."""
    step = _step(architecture)
    low, high = 1, 2
    while size(_with_width(arm, architecture, high * step)) < target and high * step < 2**16:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if size(_with_width(arm, architecture, middle * step)) < target:
            low = middle
        else:
            high = middle
    return [_with_width(arm, architecture, each * step) for each in (low, high)]


def _filled(arm: Arm, architecture: Architecture, target: float, size: Callable[[Arm], float]) -> Arm:
    """The arm with the hidden size of a feed-forward branch over features moved to meet the target."""
    for number, branch in enumerate(architecture.block):
        if branch.mixer == "feedforward" and branch.axis == "features":
            hidden = architecture.hidden(branch)

            def at(hidden: int, number: int = number) -> Arm:
                fields = architecture.block[number].model_dump(exclude={"ratio"}) | {"hidden": hidden}
                block = [*architecture.block]
                block[number] = type(block[number])(**fields)
                return arm.replace(network=Network(architecture=architecture.replace(block=tuple(block))))

            slope = (size(at(hidden + 8)) - size(at(hidden))) / 8
            return at(max(1, hidden + round((target - size(arm)) / slope)))
    return arm


def _difference(before: Arm, after: Arm) -> str:
    old, new = before.network.architecture, after.network.architecture
    if old is None or new is None or old == new:
        return "as it is"
    said = [f"width {old.width} to {new.width}"] if old.width != new.width else []
    hidden = {
        (old.hidden(one), new.hidden(two))
        for one, two in zip(old.block, new.block, strict=True)
        if two.hidden != one.hidden
    }
    return ", ".join(said + [f"hidden size {two}" for _, two in hidden])


def _equal_latency(arms: tuple[Arm, ...], reference: Arm, classes: int, device: torch.device) -> MatchedArms:
    """Widths by measuring: each step moves by the ratio that was measured beside the reference, in turns."""
    base = _built(reference, classes, device)
    changed, words = [], []
    for arm in arms:
        if arm.role == "control" or arm is reference:
            changed.append(arm)
            continue
        tried: dict[int, tuple[float, Arm]] = {}
        architecture = arm.network.architecture
        candidate, step = arm, _step(architecture) if architecture else 1
        for _ in range(8):
            ratio = _relative_latency(_built(candidate, classes, device), base)
            width = candidate.network.architecture.width if candidate.network.architecture else 0
            tried[width] = (ratio - 1, candidate)
            if architecture is None or abs(ratio - 1) < LATENCY_TOLERANCE / 4:
                break
            width = max(step, round(width * ratio**-0.7 / step) * step)
            if width in tried:
                break
            candidate = _with_width(arm, architecture, width)
        off, fitted = min(tried.values(), key=lambda each: abs(each[0]))
        if abs(off) > LATENCY_TOLERANCE:
            raise ConfigError(
                f"budget: the latency of {arm.name!r} comes no nearer to that of {reference.name!r} than {off:+.0%} "
                f"(more than {LATENCY_TOLERANCE:.0%}): leave it out, or hold something else equal"
            )
        changed.append(fitted)
        words.append(f"{arm.name}: {_difference(arm, fitted)} ({off:+.0%})")
    head = f"Latency of one image, measured here: {1e3 * latency(base).median:.3g} ms, as {reference.name}"
    return MatchedArms(arms=tuple(changed), words=("; ".join([head, *words]) + ".",))


def _built(arm: Arm, classes: int, device: torch.device) -> nn.Module:
    network: nn.Module = create_model(arm.network, classes).eval().to(device)
    return network


def _relative_latency(network: nn.Module, base: nn.Module) -> float:
    """Median of ratios measured in turns, so that what disturbs the machine disturbs both."""
    ratios = sorted(latency(network, calls=10).median / latency(base, calls=10).median for _ in range(5))
    return ratios[2]
