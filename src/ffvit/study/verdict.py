"""What a comparison shows, in words a person would use: its scope, direction, size, cost, and what it cannot say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median

from ffvit.study import decision
from ffvit.study.arms import Arm, differ_in_mixers_alone, has_attention, without_attention
from ffvit.study.findings import ArmFinding, BaselineFinding, Comparison, Key
from ffvit.study.formatting import bounds, capitalize, count, join, large, level, points
from ffvit.study.power import chance_of_winning_again, seeds_until_conclusive
from ffvit.study.statistics import Difference, failure_interval
from ffvit.terminal import percent


def compare_arms(
    arms: tuple[Arm, Arm],
    findings: tuple[ArmFinding, ArmFinding],
    difference: Difference,
    *,
    per_run: Sequence[tuple[Key, float]],
    margin: float,
    plan_margin: float,
    over_control: Mapping[str, Difference],
    baselines: Sequence[BaselineFinding],
    train_images: int,
    main: Comparison | None,
) -> Comparison:
    """What the difference of two arms shows, with its verdict.

    Args:
        arms: The arm and its reference.
        findings: What they reached.
        difference: The first less the second.
        per_run: The same, pair by pair of runs.
        margin: That applies.
        plan_margin: The plan's, before few mistakes lowered it.
        over_control: Of each of both arms, its difference over the same body without mixing, where there is one.
        baselines: What trivial methods reach.
        train_images: How many each repetition trains on.
        main: The main comparison, if this is another.
    """
    about_attention = without_attention(arms[0]) and has_attention(arms[1]) and differ_in_mixers_alone(*arms)
    control = over_control.get(arms[1].name) if about_attention else None
    comparison = Comparison(
        arm=arms[0].name,
        reference=arms[1].name,
        difference=difference,
        per_run=tuple(per_run),
        main=main is None,
        direction=decision.direction(difference, main.direction if main is not None else None),
        size=decision.size(difference, margin, main.size if main is not None else None),
        margin=margin,
        withheld=_withheld(arms, difference, baselines, control),
        headline="",
        words="",
        win_again=chance_of_winning_again(difference),
        more_seeds=seeds_until_conclusive(difference, margin),
    )
    words = [
        *_scope(findings, difference, train_images),
        *([comparison.withheld] if comparison.withheld else _shown(comparison, plan_margin, main)),
        *_over_control(over_control),
        _cost(*findings),
    ]
    return replace(comparison, headline=_headline(comparison, about_attention), words=" ".join(words))


def _withheld(
    arms: tuple[Arm, Arm],
    difference: Difference,
    baselines: Sequence[BaselineFinding],
    attention_over_control: Difference | None,
) -> str | None:
    """Why no conclusion is drawn, in a sentence; None where one is."""
    if difference.runs == 1:
        return "One repetition says nothing about architectures: another seed can move accuracy by more than this."
    beats_both = [baseline for baseline in baselines if {arm.name for arm in arms} <= {*baseline.beats}]
    if beats_both:
        best = max(beats_both, key=lambda baseline: baseline.top1.value)
        return f"Both networks are underfit: {best.name} reaches {percent(best.top1.value)}, more than either."
    if attention_over_control is not None and decision.direction(attention_over_control) != "better":
        return (
            f"Attention does not surely beat the same body without mixing ({points(attention_over_control.value)} points, "
            f"{_interval(attention_over_control)}): attention trains badly here or the task needs no mixing."
        )
    return None


def _headline(comparison: Comparison, about_attention: bool) -> str:
    """The verdict in a line; about attention only where the arms differ in the mixer alone."""
    one, two = comparison.arm, comparison.reference
    if comparison.withheld is not None:
        return f"No conclusion about {'attention' if about_attention else f'{one} and {two}'}"
    direction, size = comparison.direction, comparison.size
    margin = {"larger": ", by more than the margin", "equivalent": ", within the margin", "not shown": ""}[size]
    slightly = "slightly " if size == "equivalent" else ""
    if about_attention:
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


def _scope(findings: tuple[ArmFinding, ArmFinding], difference: Difference, train_images: int) -> Iterator[str]:
    """What was compared, and what came out."""
    one, two = findings
    assert one.top1 is not None
    assert two.top1 is not None
    length = f", {one.epochs} epochs a run" if one.epochs is not None and one.epochs == two.epochs else ""
    yield (
        f"With these networks ({large(one.parameters)} and {large(two.parameters)} parameters), this recipe{length} and "
        f"{train_images:,} training images: {one.name} reaches {percent(one.top1.value)}, {two.name} reaches "
        f"{percent(two.top1.value)}."
    )
    repetitions = (
        f"{difference.seeds} repetitions, paired" if difference.runs > 1 else "one repetition: test images alone"
    )
    runs = len(one.runs), len(two.runs)
    unpaired = f"; the accuracies are means of {runs[0]} and {runs[1]} runs" if runs[0] != runs[1] else ""
    yield f"Difference {points(difference.value)} points ({_interval(difference)}; {repetitions}{unpaired})."


def _shown(comparison: Comparison, plan_margin: float, main: Comparison | None) -> Iterator[str]:
    """Direction and size in words, and what more repetitions would show."""
    neither = comparison.direction == "not shown" and comparison.size == "not shown"
    if neither and main is not None and "not shown" in (main.direction, main.size):
        yield "The main comparison is not conclusive, so no other comparison is concluded."
        return
    margin = f"the margin of {100 * comparison.margin:.3g} point{'s' * (comparison.margin != 0.01)}"
    if comparison.margin < plan_margin:
        margin += f" (lowered from {100 * plan_margin:.3g}: so few mistakes are left)"
    direction = {
        "better": f"Direction: {comparison.arm} is better.",
        "worse": f"Direction: {comparison.arm} is worse.",
        "not shown": "Direction: not shown, the interval contains 0.",
    }[comparison.direction]
    size = {
        "equivalent": f"Size: equivalent within {margin}.",
        "larger": f"Size: beyond {margin}.",
        "not shown": f"Size: not shown, the interval crosses {margin}.",
    }[comparison.size]
    yield f"{direction} {size}"
    if comparison.win_again is not None and comparison.direction != "not shown":
        ahead = comparison.arm if comparison.difference.value > 0 else comparison.reference
        yield f"In a new repetition {ahead} would win with a chance of about {100 * comparison.win_again:.0f} %."
    if neither and comparison.more_seeds is not None:
        fewest, most = comparison.more_seeds
        yield f"{fewest} to {most} more repetitions would likely make it conclusive."


def _over_control(over_control: Mapping[str, Difference]) -> Iterator[str]:
    """How much the better arm gains over the body without mixing."""
    if over_control:
        name, gain = max(over_control.items(), key=lambda pair: pair[1].value)
        direction = decision.direction(gain)
        verb = {"better": "gains over", "worse": "loses to", "not shown": "is not shown to differ from"}[direction]
        yield f"Of the two, {name} {verb} the same body without mixing: {points(gain.value)} points ({_interval(gain)})."


def _cost(one: ArmFinding, two: ArmFinding) -> str:
    costs = [f"{one.parameters / two.parameters:.2f}x the parameters", f"{one.flops / two.flops:.2f}x the FLOPs"]
    if one.cost is not None and two.cost is not None and len(one.cost.latencies) == len(two.cost.latencies) > 2:
        ratios = [mine / theirs for mine, theirs in zip(one.cost.latencies, two.cost.latencies, strict=True)]
        if not min(ratios) <= 1 <= max(ratios):  # else it says nothing
            costs.append(f"{median(ratios):.2f}x the latency ({min(ratios):.2f} to {max(ratios):.2f} over rounds)")
    return f"{capitalize(one.name)} has {', '.join(costs)} of {two.name}."
