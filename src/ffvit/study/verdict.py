"""What a comparison shows, in words a person would use: its scope, direction, size, cost, and what it cannot say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from ffvit.study import decision
from ffvit.study.arms import Arm, differ_in_mixers_alone, has_attention, without_attention
from ffvit.study.decision import Direction, Size
from ffvit.study.findings import ArmFinding, BaselineFinding, Comparison
from ffvit.study.formatting import bounds, capitalize, count, join, large, level, percent, points
from ffvit.study.power import chance_of_winning_again, seeds_until_conclusive
from ffvit.study.statistics import Difference, failure_interval


@dataclass(frozen=True)
class Case:
    """One comparison with all that its verdict rests on.

    Attributes:
        arm: The first arm; `difference` is its accuracy less that of the second.
        reference: The second arm.
        arm_finding: What the first reached.
        reference_finding: What the second reached.
        difference: Between them.
        margin: That applies.
        plan_margin: The plan's, before few mistakes lowered it.
        over_control: Of each of both arms, its difference over the same body without mixing, where there is one.
        baselines: What trivial methods reach.
        train_images: How many each repetition trains on.
        main: The main comparison, if this is another.
    """

    arm: Arm
    reference: Arm
    arm_finding: ArmFinding
    reference_finding: ArmFinding
    difference: Difference
    margin: float
    plan_margin: float
    over_control: Mapping[str, Difference]
    baselines: tuple[BaselineFinding, ...]
    train_images: int
    main: Comparison | None

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
        return decision.direction(self.difference, self.main.direction if self.main is not None else None)

    @property
    def size(self) -> Size:
        """Equivalent, larger or not shown."""
        return decision.size(self.difference, self.margin, self.main.size if self.main is not None else None)

    @property
    def withheld(self) -> str | None:
        """Why no conclusion is drawn, in a sentence; None where one is."""
        if self.difference.runs == 1:
            return "One repetition says nothing about architectures: another seed can move accuracy by more than this."
        beats_both = [one for one in self.baselines if {self.arm.name, self.reference.name} <= {*one.beats}]
        if beats_both:
            best = max(beats_both, key=lambda baseline: baseline.top1.value)
            return f"Both networks are underfit: {best.name} reaches {percent(best.top1.value)}, more than either."
        over = self.over_control.get(self.reference.name)
        if self.about_attention and over is not None and decision.direction(over) != "better":
            return (
                "Attention does not surely beat the same body without mixing "
                f"({points(over.value)} points, {_interval(over)}): attention trains badly here or the task needs no mixing."
            )
        return None


def compared(case: Case, per_run: Sequence[tuple[tuple[int, int | None], float]]) -> Comparison:
    """The comparison with its verdict."""
    return Comparison(
        arm=case.arm.name,
        reference=case.reference.name,
        difference=case.difference,
        per_run=tuple(per_run),
        main=case.main is None,
        direction=case.direction,
        size=case.size,
        margin=case.margin,
        withheld=case.withheld,
        headline=headline(case),
        words=words(case),
        win_again=chance_of_winning_again(case.difference),
        more_seeds=seeds_until_conclusive(case.difference, case.margin),
    )


def headline(case: Case) -> str:
    """The verdict in a line; about attention only where the arms differ in the mixer alone."""
    one, two = case.arm.name, case.reference.name
    if case.withheld is not None:
        return f"No conclusion about {'attention' if case.about_attention else f'{one} and {two}'}"
    direction, size = case.direction, case.size
    margin = {"larger": ", by more than the margin", "equivalent": ", within the margin", "not shown": ""}[size]
    slightly = "slightly " if size == "equivalent" else ""
    if case.about_attention:
        helps = {"larger": "is needed", "equivalent": "helps a little", "not shown": "helps"}[size]
        equivalent = "Attention is not needed here: equivalent without it"
        return {
            "better": f"Attention is not needed here: {slightly}better without it{margin}",
            "worse": f"Attention {helps} here: worse without it{margin}",
            "not shown": equivalent if size == "equivalent" else "Not shown whether attention helps",
        }[direction]
    if direction != "not shown":
        return f"{capitalize(one)} is {slightly}{direction} than {two}{margin}"
    if size == "equivalent":
        return f"{capitalize(one)} and {two} are equivalent within the margin"
    return f"Not shown whether {one} or {two} is better"


def words(case: Case) -> str:
    """The verdict in a few sentences, its scope first."""
    return " ".join(_sentences(case))


def warnings(arms: Sequence[ArmFinding], baselines: Sequence[BaselineFinding], bad: tuple[int, int]) -> Iterator[str]:
    """What a reader must know before the verdict.

    Args:
        arms: All arms.
        baselines: All baselines.
        bad: Unreadable images of the run that met most of them, and all images of it.
    """
    for baseline in sorted(baselines, key=lambda baseline: -baseline.top1.value):
        if baseline.beats:
            needs = "are underfit: they need" if len(baseline.beats) > 1 else "is underfit: it needs"
            yield (
                f"{capitalize(join(baseline.beats))} {needs} more training, or more fitting training: {baseline.name} "
                f"reaches {percent(baseline.top1.value)} on the same images in {max(1.0, baseline.seconds):.0f} s."
            )
    for arm in arms:
        if arm.search is not None and arm.search.at_the_edge:
            yield (
                f"{capitalize(arm.name)} is not tuned: its best {arm.search.field} lay at the edge of what was tried in "
                f"{arm.search.at_the_edge} of {arm.search.repetitions} repetitions."
            )
        if arm.search is not None and arm.search.failed:
            yield (
                f"{capitalize(arm.name)} is not tuned: every trial of its search failed in {arm.search.failed} of "
                f"{arm.search.repetitions} repetitions, which kept the recipe's own {arm.search.field}."
            )
        if arm.failed:
            share = failure_interval(arm.failed, arm.planned)
            yield (
                f"{arm.failed} of {count(arm.planned, 'run')} of {arm.name} diverged or failed (95 % interval "
                f"{percent(share.low)} to {percent(share.high)}); its accuracy and differences are those of the runs that "
                "finished."
            )
    unread, tested = bad
    if unread:
        yield f"Up to {unread:,} images could not be read in a run that was tested on {tested:,}: ffvit check lists them."


def _interval(difference: Difference) -> str:
    """97.5 % interval +1.2 to +3.1."""
    return f"{level(difference)} interval {bounds(difference)}"


def _sentences(case: Case) -> Iterator[str]:
    one, two, difference = case.arm_finding, case.reference_finding, case.difference
    assert one.top1 is not None
    assert two.top1 is not None
    length = f", {one.epochs} epochs a run" if one.epochs is not None and one.epochs == two.epochs else ""
    yield (
        f"With these networks ({large(one.parameters)} and {large(two.parameters)} parameters), this recipe{length} and "
        f"{case.train_images:,} training images: {one.name} reaches {percent(one.top1.value)}, {two.name} "
        f"reaches {percent(two.top1.value)}."
    )
    repetitions = (
        f"{difference.seeds} repetitions, paired" if difference.runs > 1 else "one repetition: test images alone"
    )
    runs = len(one.runs), len(two.runs)
    unpaired = f"; the accuracies are means of {runs[0]} and {runs[1]} runs" if runs[0] != runs[1] else ""
    yield f"Difference {points(difference.value)} points ({_interval(difference)}; {repetitions}{unpaired})."
    if case.withheld is not None:
        yield case.withheld
    else:
        yield from _shown(case)
    yield from _over_control(case)
    yield from _cost(case)


def _shown(case: Case) -> Iterator[str]:
    neither = case.direction == "not shown" and case.size == "not shown"
    if neither and case.main is not None and "not shown" in (case.main.direction, case.main.size):
        yield "The main comparison is not conclusive, so no other comparison is concluded."
        return
    margin = f"the margin of {100 * case.margin:.3g} point{'s' * (case.margin != 0.01)}"
    if case.margin < case.plan_margin:
        margin += f" (lowered from {100 * case.plan_margin:.3g}: so few mistakes are left)"
    direction = {
        "better": f"Direction: {case.arm.name} is better.",
        "worse": f"Direction: {case.arm.name} is worse.",
        "not shown": "Direction: not shown, the interval contains 0.",
    }[case.direction]
    size = {
        "equivalent": f"Size: equivalent within {margin}.",
        "larger": f"Size: beyond {margin}.",
        "not shown": f"Size: not shown, the interval crosses {margin}.",
    }[case.size]
    yield f"{direction} {size}"
    again = chance_of_winning_again(case.difference)
    if again is not None and case.direction != "not shown":
        ahead = case.arm.name if case.difference.value > 0 else case.reference.name
        yield f"In a new repetition {ahead} would win with a chance of about {100 * again:.0f} %."
    more = seeds_until_conclusive(case.difference, case.margin)
    if neither and more is not None:
        yield f"{more[0]} to {more[1]} more repetitions would likely make it conclusive."


def _over_control(case: Case) -> Iterator[str]:
    """How much the better arm gains over the body without mixing."""
    if not case.over_control:
        return
    name, gain = max(case.over_control.items(), key=lambda pair: pair[1].value)
    verb = {"better": "gains over", "worse": "loses to", "not shown": "is not shown to differ from"}[
        decision.direction(gain)
    ]
    yield f"Of the two, {name} {verb} the same body without mixing: {points(gain.value)} points ({_interval(gain)})."


def _cost(case: Case) -> Iterator[str]:
    one, two = case.arm_finding, case.reference_finding
    costs = [f"{one.parameters / two.parameters:.2f}x the parameters", f"{one.flops / two.flops:.2f}x the FLOPs"]
    if one.cost is not None and two.cost is not None and len(one.cost.latencies) == len(two.cost.latencies) > 2:
        ratios = [mine / theirs for mine, theirs in zip(one.cost.latencies, two.cost.latencies, strict=True)]
        if not min(ratios) <= 1 <= max(ratios):  # else it says nothing
            costs.append(f"{median(ratios):.2f}x the latency ({min(ratios):.2f} to {max(ratios):.2f} over rounds)")
    yield f"{capitalize(one.name)} has {', '.join(costs)} of {two.name}."
