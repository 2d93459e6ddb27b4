"""The answer to a question, in words a person would use."""

from __future__ import annotations

from typing import Literal

from ffvit.study.arms import Arm, has_attention, without_attention
from ffvit.study.findings import ArmFinding
from ffvit.study.report.words import points
from ffvit.study.statistics import Difference

Outcome = Literal["better", "worse", "as good", "not worse", "open"]


def headline(arm: Arm, against: Arm, outcome: Outcome) -> str:
    """The verdict in a line; of attention, if that is what the two differ in."""
    if without_attention(arm) and has_attention(against):
        return {
            "better": "You don't need attention: better without it",
            "worse": "You need attention",
            "as good": "You don't need attention: as good without it",
            "not worse": "You likely don't need attention: no worse without it",
            "open": "Not settled yet whether you need attention",
        }[outcome]
    name = arm.name[0].upper() + arm.name[1:]
    return {
        "better": f"{name} is better than {against.name}",
        "worse": f"{name} is worse than {against.name}",
        "as good": f"{name} is as good as {against.name}",
        "not worse": f"{name} is no worse than {against.name}",
        "open": f"Not settled yet: {arm.name} or {against.name}",
    }[outcome]


def words(
    arm: Arm,
    against: Arm,
    found: ArmFinding,
    found_against: ArmFinding,
    difference: Difference,
    outcome: Outcome,
    margin: float,
    more_seeds: int | None,
    control: ArmFinding | None,
) -> str:
    """The verdict in a few sentences: the figures, what they show within the margin, what it costs.

    And, if the body without mixing is about as good, that the question means little on these images.
    """
    assert found.top1 is not None
    assert found_against.top1 is not None
    subject = (
        "Without attention" if without_attention(arm) and has_attention(against) else arm.name[0].upper() + arm.name[1:]
    )
    versus = "" if subject == "Without attention" else f" of {against.name}"
    over = f"{difference.seeds} seeds, paired" if difference.seeds > 1 else "one seed: of the test images alone"
    said = [
        f"{subject}: {100 * found.top1.value:.1f} % against {100 * found_against.top1.value:.1f} %{versus}.",
        f"Difference {points(difference.value)} points ({_level(difference.level)} interval {points(difference.low)} to "
        f"{points(difference.high)}; {over}).",
        _within(difference, outcome, margin, more_seeds),
        _cost(found, found_against),
        _ease(found, found_against, control, margin),
    ]
    return " ".join(each for each in said if each)


def _level(level: float) -> str:
    return f"{100 * level:.3g} %"


def _within(difference: Difference, outcome: Outcome, margin: float, more_seeds: int | None) -> str:
    within = f"your margin of {100 * margin:g} point{'s' * (margin != 0.01)}"
    match outcome:
        case "as good":
            return f"As good, within {within}."
        case "better" | "worse":
            beyond = abs(difference.value) > margin
            return f"That is {'beyond' if beyond else 'real, though on average within'} {within}."
    so_far = (
        "No worse than by"
        if outcome == "not worse"
        else "On average within"
        if abs(difference.value) <= margin
        else "On average beyond"
    )
    rest = "but not yet shown to be as good or better" if outcome == "not worse" else "not yet shown to be"
    if difference.seeds == 1:
        more = "one seed cannot tell how much training itself varies; more seeds would"
    elif more_seeds is None:
        more = "more seeds alone would hardly settle it: that takes more test images, or a wider margin"
    else:
        more = f"{more_seeds} more seed{'s' * (more_seeds != 1)} would likely settle it"
    return f"{so_far} {within}, {rest}: {more}."


def _ease(found: ArmFinding, against: ArmFinding, control: ArmFinding | None, margin: float) -> str:
    if control is None or control.top1 is None or found.top1 is None or against.top1 is None:
        return ""
    if control.top1.value < min(found.top1.value, against.top1.value) - margin:
        return ""
    return f"Without any mixing it is {100 * control.top1.value:.1f} %: these images hardly ask for mixing at all."


def _cost(found: ArmFinding, against: ArmFinding) -> str:
    ratios = [f"{found.parameters / against.parameters:.2f}x the parameters"]
    if found.cost is not None and against.cost is not None:
        ratios.insert(0, f"{found.cost.latency / against.cost.latency:.2f}x the time a prediction")
    return f"It costs {' and '.join(ratios)}."
