"""Matching the arms on one quantity: widths solved for parameters or latency, epochs solved for training FLOPs."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable

import torch
from torch import nn

from ffvit.config.architecture import Architecture, Network
from ffvit.config.base import Value
from ffvit.errors import ConfigError
from ffvit.hardware.devices import device_type
from ffvit.models.convnet import convnet_by_flops
from ffvit.models.create import create_model
from ffvit.profiling.count import count_described
from ffvit.profiling.timing import latency
from ffvit.study.arms import Arm, first_body, make_arms, make_comparisons, with_controls
from ffvit.study.plan import Plan

CONVNET = "small ConvNet"
"""The name of the arm that any network for images should keep up with."""

TOLERANCE = 0.03
"""How far from equal a counted quantity may be."""

LATENCY_TOLERANCE = 0.10
"""How far from equal a measured one may be: the measurement itself is no more exact."""


class MatchedArms(Value):
    """The arms of a study, matched; and what they were matched on and how close it came, a sentence each."""

    arms: tuple[Arm, ...]
    notes: tuple[str, ...]

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)


def all_arms(plan: Plan, classes: int) -> tuple[Arm, ...]:
    """The plan's arms with their controls, and a small ConvNet of about the FLOPs of the first body as a baseline.

    Raises:
        UserError: As `make_arms`.
    """
    arms = make_arms(plan)
    body = first_body(arms)
    if not with_controls(plan, arms) or body is None or body.network.architecture is None:
        return arms
    channels, image = body.network.architecture.in_chans, body.network.architecture.img_size
    name = convnet_by_flops(count_described(body.network, classes).flops, image, channels, classes)
    network = Network(name=name, in_chans=channels, img_size=image)
    return (*arms, Arm(name=CONVNET, role="control", network=network, recipe=body.recipe))


def match_arms(plan: Plan, arms: tuple[Arm, ...], classes: int) -> MatchedArms:
    """Make the arms equal in what the plan matches, for data of so many classes. Controls stay as they are.

    Raises:
        UserError: An arm cannot be matched; says which, how near it came, and what to do.
    """
    started = next((arm.name for arm in arms if arm.start_from is not None), None)
    if started is not None and plan.match in ("parameters", "latency"):
        raise ConfigError(
            f"match: {plan.match} are matched by other widths, and {started!r} starts from weights of one width: match epochs, "
            "flops or time"
        )
    reference = next(arm for arm in arms if arm.name == make_comparisons(plan, arms)[0][1])
    match plan.match:
        case "epochs":
            epochs = reference.recipe.epochs
            note = f"Epochs: {epochs} for every arm, of the same images in the same order."
            if any(arm.recipe.epochs != epochs for arm in arms):
                note = "Nothing but the recipe says how long an arm trains: the arms' epochs differ as the plan says."
            return MatchedArms(arms=arms, notes=(note,))
        case "time":
            minutes = f"{plan.recipe.minutes:g} minutes a run"
            return MatchedArms(
                arms=arms, notes=(f"Training time: {minutes}, each with the same share of this machine.",)
            )
        case "flops":
            return _match_flops(arms, reference, classes)
        case "parameters":
            return _match_parameters(arms, reference, classes)
        case "latency":
            return _match_latency(arms, reference, classes, torch.device(device_type(plan.hardware)))


def _match_each(
    arms: tuple[Arm, ...], reference: Arm, head: str, fit: Callable[[Arm], tuple[Arm, str, str]]
) -> MatchedArms:
    """All arms but the controls and the reference fitted to it; `fit` also says what it changed and how near it came."""
    matched, notes = [], []
    for arm in arms:
        if arm.role == "control" or arm is reference:
            matched.append(arm)
            continue
        fitted, change, off = fit(arm)
        matched.append(fitted)
        notes.append(f"{arm.name}: {change} ({off})")
    return MatchedArms(arms=tuple(matched), notes=("; ".join([head, *notes]) + ".",))


def _match_flops(arms: tuple[Arm, ...], reference: Arm, classes: int) -> MatchedArms:
    """Epochs in inverse proportion to the FLOPs of an image (a training step is three forward passes for all)."""
    flops = {arm.name: count_described(arm.network, classes).flops for arm in arms}
    ratio = {arm.name: flops[reference.name] / flops[arm.name] for arm in arms if arm.role != "control"}

    def off(name: str, epochs: int) -> float:
        return max(1, round(epochs * ratio[name])) / (epochs * ratio[name]) - 1

    epochs = reference.recipe.epochs
    far = [name for name in ratio if abs(off(name, epochs)) > TOLERANCE]
    if far:
        enough = next((n for n in range(1, 2000) if all(abs(off(name, n)) <= TOLERANCE for name in ratio)), None)
        raise ConfigError(
            f"match: {epochs} epochs cannot be cut to equal training FLOPs: {far[0]!r} comes no nearer than "
            f"{off(far[0], epochs):+.1%}, as epochs are whole. Try recipe.epochs {enough}"
        )

    def fit(arm: Arm) -> tuple[Arm, str, str]:
        own = round(epochs * ratio[arm.name])
        return arm.replace(recipe=arm.recipe.lasting(own)), f"{own} epochs", f"{off(arm.name, epochs):+.1%}"

    total = f"{3 * flops[reference.name] / 1e9:.3g} GFLOPs an image and epoch"
    return _match_each(
        arms, reference, f"Training FLOPs: those of {reference.name} over {epochs} epochs ({total})", fit
    )


def _match_parameters(arms: tuple[Arm, ...], reference: Arm, classes: int) -> MatchedArms:
    """Widths by bisection, as the size rises with the width; where a step is too coarse, the hidden size fills up."""

    def size(arm: Arm) -> int:
        return count_described(arm.network, classes).parameters

    target = size(reference)

    def fit(arm: Arm) -> tuple[Arm, str, str]:
        fitted, architecture = arm, arm.network.architecture
        if architecture is not None:
            fitted = min(_nearest_widths(arm, architecture, target, size), key=lambda near: abs(size(near) - target))
            if abs(size(fitted) / target - 1) > TOLERANCE and fitted.network.architecture is not None:
                fitted = _with_hidden_size(fitted, fitted.network.architecture, target, size)
        off = size(fitted) / target - 1
        if abs(off) > TOLERANCE:
            body = "is an external network" if arm.role == "external" else "comes no nearer, whatever its width"
            raise ConfigError(
                f"match: {arm.name!r} {body}: {size(fitted):,} parameters against {target:,} of {reference.name!r} "
                f"({off:+.1%}, more than {TOLERANCE:.0%}). Leave it out, or match something else"
            )
        return fitted, _difference(arm, fitted), f"{off:+.1%}"

    return _match_each(arms, reference, f"Parameters: {target:,}, as {reference.name}", fit)


def _step(architecture: Architecture) -> int:
    """What a width must be a multiple of: heads along patches divide it, and gMLP halves it."""
    return math.lcm(2, *(branch.heads or 1 for branch in architecture.block if branch.axis == "patches"))


def _with_width(arm: Arm, architecture: Architecture, width: int) -> Arm:
    return arm.replace(network=Network(architecture=architecture.replace(width=width)))


def _nearest_widths(arm: Arm, architecture: Architecture, target: int, size: Callable[[Arm], int]) -> list[Arm]:
    """The arm at the widest width below the target size and the narrowest above it."""
    step = _step(architecture)

    def with_steps(steps: int) -> Arm:
        return _with_width(arm, architecture, steps * step)

    below = bisect_left(range(1, 2**16 // step), target, key=lambda steps: size(with_steps(steps)))
    return [with_steps(max(1, below)), with_steps(below + 1)]


def _with_hidden_size(arm: Arm, architecture: Architecture, target: int, size: Callable[[Arm], int]) -> Arm:
    """The arm with the hidden size of its first feed-forward branch over features, if any, moved to meet the target."""
    feedforward = (
        (number, branch)
        for number, branch in enumerate(architecture.block)
        if branch.mixer == "feedforward" and branch.axis == "features"
    )
    number, branch = next(feedforward, (None, None))
    if number is None or branch is None:
        return arm

    def with_hidden(hidden: int) -> Arm:
        block = list(architecture.block)
        block[number] = type(branch)(**branch.model_dump(exclude={"ratio"}) | {"hidden": hidden})
        return arm.replace(network=Network(architecture=architecture.replace(block=tuple(block))))

    hidden = architecture.hidden(branch)
    slope = (size(with_hidden(hidden + 8)) - size(with_hidden(hidden))) / 8
    return with_hidden(max(1, hidden + round((target - size(arm)) / slope)))


def _difference(before: Arm, after: Arm) -> str:
    old, new = before.network.architecture, after.network.architecture
    if old is None or new is None or old == new:
        return "as it is"
    changes = [f"width {old.width} to {new.width}"] if old.width != new.width else []
    branches = zip(old.block, new.block, strict=True)
    hidden = {new.hidden(branch) for unchanged, branch in branches if branch.hidden != unchanged.hidden}
    return ", ".join([*changes, *(f"hidden size {size}" for size in hidden)])


def _match_latency(arms: tuple[Arm, ...], reference: Arm, classes: int, device: torch.device) -> MatchedArms:
    """Widths by measuring: each step moves by the ratio that was measured beside the reference, in turns."""

    def build(arm: Arm) -> nn.Module:
        network: nn.Module = create_model(arm.network, classes).eval().to(device)
        return network

    base = build(reference)

    def fit(arm: Arm) -> tuple[Arm, str, str]:
        tried: dict[int, tuple[float, Arm]] = {}
        architecture, candidate, width = arm.network.architecture, arm, 0
        for _ in range(8):
            ratio = _relative_latency(build(candidate), base)
            if candidate.network.architecture is not None:
                width = candidate.network.architecture.width
            tried[width] = (ratio - 1, candidate)
            if architecture is None or abs(ratio - 1) < LATENCY_TOLERANCE / 4:
                break
            step = _step(architecture)
            width = max(step, round(width * ratio**-0.7 / step) * step)
            if width in tried:
                break
            candidate = _with_width(arm, architecture, width)
        off, fitted = min(tried.values(), key=lambda trial: abs(trial[0]))
        if abs(off) > LATENCY_TOLERANCE:
            raise ConfigError(
                f"match: the latency of {arm.name!r} comes no nearer to that of {reference.name!r} than {off:+.0%} "
                f"(more than {LATENCY_TOLERANCE:.0%}): leave it out, or match something else"
            )
        return fitted, _difference(arm, fitted), f"{off:+.0%}"

    milliseconds = f"{1e3 * latency(base).median:.3g} ms"
    return _match_each(
        arms, reference, f"Latency of one image, measured here: {milliseconds}, as {reference.name}", fit
    )


def _relative_latency(network: nn.Module, base: nn.Module) -> float:
    """Median of ratios measured in turns, so that what disturbs the machine disturbs both."""
    ratios = sorted(latency(network, calls=10).median / latency(base, calls=10).median for _ in range(5))
    return ratios[2]
