"""What a comparison shows, in words a person would use: its scope, direction, size, cost, and what it cannot say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from ffvit.study import decision, power, statistics
from ffvit.study.arms import Arm, differ_in_mixers_alone, has_attention, without_attention
from ffvit.study.decision import Direction, Size
from ffvit.study.findings import ArmFinding, BaselineFinding, Comparison
from ffvit.study.report.formatting import join, large, points
from ffvit.study.statistics import Difference


@dataclass(frozen=True)
class Case:
    """One comparison with all that its verdict rests on.

    Attributes:
        arm: The first arm; `difference` is its accuracy less that of the second.
        reference: The second arm.
        found: What the first reached.
        found_reference: What the second reached.
        difference: Between them.
        margin: That applies.
        plan_margin: The plan's, before few mistakes lowered it.
        over_control: Of each of both arms, its difference over the same body without mixing, where there is one.
        baselines: What trivial methods reach.
        train_images: How many each repetition trains on.
        resampled: Whether every repetition was tested on images of its own draw.
        gate: The main comparison, if this is another.
    """

    arm: Arm
    reference: Arm
    found: ArmFinding
    found_reference: ArmFinding
    difference: Difference
    margin: float
    plan_margin: float
    over_control: Mapping[str, Difference]
    baselines: tuple[BaselineFinding, ...]
    train_images: int
    resampled: bool
    gate: Comparison | None

    @property
    def about_attention(self) -> bool:
        """Whether the two differ in the mixers alone, and only the second has attention."""
        return (
            without_attention(self.arm)
            and has_attention(self.reference)
            and differ_in_mixers_alone(self.arm, self.reference)
        )

    @property
    def direction(self) -> Direction:
        """Better, worse or not shown."""
        return decision.direction(self.difference, self.gate.direction if self.gate is not None else None)

    @property
    def size(self) -> Size:
        """Equivalent, larger or not shown."""
        return decision.size(self.difference, self.margin, self.gate.size if self.gate is not None else None)

    @property
    def withheld(self) -> str | None:
        """Why no conclusion is drawn, in a sentence; None where one is."""
        if self.difference.runs == 1:
            return "One repetition says nothing about architectures: another seed can move accuracy by more than this."
        beaten = [each for each in self.baselines if {self.arm.name, self.reference.name} <= {*each.beats}]
        if beaten:
            best = max(beaten, key=lambda each: each.top1.value)
            return f"Both networks are underfit: {best.name} reaches {percent(best.top1.value)}, more than either."
        over = self.over_control.get(self.reference.name)
        if self.about_attention and over is not None and decision.direction(over) != "better":
            return (
                "Attention does not surely beat the same body without mixing "
                f"({points(over.value)} points, {interval(over)}): attention trains badly here or the task needs no mixing."
            )
        return None

    @property
    def win_again(self) -> float | None:
        """Chance that the arm that is ahead wins again in a new repetition."""
        return power.chance_of_winning_again(self.difference)

    @property
    def more_seeds(self) -> tuple[int, int] | None:
        """How many more repetitions would likely settle it, from and to."""
        return power.seeds_to_settle(self.difference, self.margin)


def headline(case: Case) -> str:
    """The verdict in a line; about attention only where the arms differ in the mixer alone."""
    if case.about_attention:
        if case.withheld is not None:
            return "No conclusion about attention"
        return {
            ("better", "larger"): "Attention is not needed here: better without it, by more than the margin",
            ("better", "equivalent"): "Attention is not needed here: slightly better without it, within the margin",
            ("better", "not shown"): "Attention is not needed here: better without it",
            ("worse", "larger"): "Attention is needed here: worse without it, by more than the margin",
            ("worse", "equivalent"): "Attention helps a little here: worse without it, within the margin",
            ("worse", "not shown"): "Attention helps here: worse without it",
            ("not shown", "equivalent"): "Attention is not needed here: equivalent without it",
        }.get((case.direction, case.size), "Not shown whether attention helps")
    one, other = case.arm.name, case.reference.name
    if case.withheld is not None:
        return f"No conclusion about {one} and {other}"
    return {
        ("better", "larger"): f"{_capital(one)} is better than {other}, by more than the margin",
        ("better", "equivalent"): f"{_capital(one)} is slightly better than {other}, within the margin",
        ("better", "not shown"): f"{_capital(one)} is better than {other}",
        ("worse", "larger"): f"{_capital(one)} is worse than {other}, by more than the margin",
        ("worse", "equivalent"): f"{_capital(one)} is slightly worse than {other}, within the margin",
        ("worse", "not shown"): f"{_capital(one)} is worse than {other}",
        ("not shown", "equivalent"): f"{_capital(one)} and {other} are equivalent within the margin",
    }.get((case.direction, case.size), f"Not shown whether {one} or {other} is better")


def words(case: Case) -> str:
    """The verdict in a few sentences, its scope first."""
    return " ".join(_sentences(case))


def warnings(arms: Sequence[ArmFinding], baselines: Sequence[BaselineFinding], bad: tuple[int, int]) -> Iterator[str]:
    """What a reader must know before the verdict."""
    for each in sorted(baselines, key=lambda each: -each.top1.value):
        if each.beats:
            needs = "are underfit: they need" if len(each.beats) > 1 else "is underfit: it needs"
            yield (
                f"{_capital(join(each.beats))} {needs} more training, or more fitting training: {each.name} reaches {percent(each.top1.value)} on the same images"
                f" in {max(1.0, each.seconds):.0f} s."
            )
    for arm in arms:
        if arm.search is not None and arm.search.at_the_edge:
            yield (
                f"{_capital(arm.name)} is not tuned: its best {arm.search.field} lay at the edge of what was tried in "
                f"{arm.search.at_the_edge} of {arm.search.repetitions} repetitions."
            )
        if arm.failed:
            share = statistics.failure_interval(arm.failed, arm.planned)
            yield (
                f"{arm.failed} of {_count(arm.planned, 'run')} of {arm.name} diverged or failed (95 % interval {percent(share.low)} to "
                f"{percent(share.high)}); its accuracy and differences are those of the runs that finished."
            )
    unread, of = bad
    if unread:
        yield f"Up to {unread:,} images could not be read in a run that was tested on {of:,}: ffvit check lists them."


def percent(share: float) -> str:
    """98.9 %."""
    return f"{100 * share:.1f} %"


def interval(difference: Difference) -> str:
    """97.5 % interval +1.2 to +3.1."""
    return f"{100 * difference.level:.4g} % interval {points(difference.low)} to {points(difference.high)}"


def _sentences(case: Case) -> Iterator[str]:
    found, other, difference = case.found, case.found_reference, case.difference
    assert found.top1 is not None
    assert other.top1 is not None
    length = f", {found.epochs} epochs a run" if found.epochs is not None and found.epochs == other.epochs else ""
    yield (
        f"With these networks ({large(found.parameters)} and {large(other.parameters)} parameters), this recipe{length} and "
        f"{case.train_images:,} training images: {found.name} {percent(found.top1.value)}, {other.name} "
        f"{percent(other.top1.value)}."
    )
    repetitions = (
        f"{difference.seeds} repetitions, paired" if difference.runs > 1 else "one repetition: test images alone"
    )
    runs = len(found.runs), len(other.runs)
    unpaired = f"; the accuracies are means of {runs[0]} and {runs[1]} runs" if runs[0] != runs[1] else ""
    yield f"Difference {points(difference.value)} points ({interval(difference)}; {repetitions}{unpaired})."
    if case.withheld is not None:
        yield case.withheld
    else:
        yield from _shown(case)
    yield from _over_control(case)
    yield from _cost(case)


def _shown(case: Case) -> Iterator[str]:
    if (
        case.gate is not None
        and "not shown" in (case.gate.direction, case.gate.size)
        and (case.direction == "not shown" and case.size == "not shown")
    ):
        yield "The main comparison is not conclusive, so that no other is concluded."
        return
    margin = f"the margin of {100 * case.margin:.3g} point{'s' * (case.margin != 0.01)}"
    if case.margin < case.plan_margin:
        margin += f" (lowered from {100 * case.plan_margin:.3g}: so few mistakes are left)"
    direction = {
        "better": f"Direction: {case.arm.name} is better.",
        "worse": f"Direction: {case.arm.name} is worse.",
        "not shown": "Direction: not shown, the interval holds 0.",
    }[case.direction]
    size = {
        "equivalent": f"Size: equivalent within {margin}.",
        "larger": f"Size: beyond {margin}.",
        "not shown": f"Size: not shown, the interval crosses {margin}.",
    }[case.size]
    yield f"{direction} {size}"
    if case.win_again is not None and case.direction != "not shown":
        ahead = case.arm.name if case.difference.value > 0 else case.reference.name
        yield f"In a new repetition {ahead} would win with a chance of about {100 * case.win_again:.0f} %."
    if case.direction == "not shown" and case.size == "not shown" and case.more_seeds is not None:
        low, high = case.more_seeds
        yield f"{low} to {high} more repetitions would likely settle it."


def _over_control(case: Case) -> Iterator[str]:
    """How much the better arm gains over the body without mixing."""
    if not case.over_control:
        return
    name = max(case.over_control, key=lambda name: case.over_control[name].value)
    its = case.over_control[name]
    shown = decision.direction(its)
    verb = {"better": "gains over", "worse": "loses to", "not shown": "is not shown to differ from"}[shown]
    yield f"Of the two, {name} {verb} the same body without mixing: {points(its.value)} points ({interval(its)})."


def _cost(case: Case) -> Iterator[str]:
    found, other = case.found, case.found_reference
    said = [f"{found.parameters / other.parameters:.2f}x the parameters", f"{found.flops / other.flops:.2f}x the FLOPs"]
    if found.cost is not None and other.cost is not None and len(found.cost.latencies) == len(other.cost.latencies) > 2:
        ratios = [one / two for one, two in zip(found.cost.latencies, other.cost.latencies, strict=True)]
        if not min(ratios) <= 1 <= max(ratios):  # else it says nothing
            said.append(f"{median(ratios):.2f}x the latency ({min(ratios):.2f} to {max(ratios):.2f} over rounds)")
    yield f"{_capital(found.name)} has {', '.join(said)} of {other.name}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
