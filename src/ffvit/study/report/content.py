"""What a report says, in order: the one source of the page and of the Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from ffvit.pages.drawing import Plot
from ffvit.study.findings import Comparison, Disagreement, Findings
from ffvit.study.formatting import bounds, count, join, level, margin
from ffvit.study.report import tables
from ffvit.study.report.blocks import (
    Block,
    Code,
    Details,
    Figure,
    Heading,
    Items,
    Note,
    Paragraph,
    Pictures,
    Statements,
    Terms,
)
from ffvit.study.report.figures import CLASSES

MISSING_SHOWN = 6
"""So many missing runs are named at the top; the rest further down."""

NO_VERDICT = "No verdict yet"
WHY_NO_VERDICT = "No two arms that are compared have a finished run in common."
EXPLORATORY = "Exploratory: the study was changed after results existed, so its error rates do not hold"
WARNINGS = "Know this before reading the verdict"
MISSING = "Some runs are missing"

READING = (
    (
        "patch, token",
        "The image is cut into square patches. Each becomes a vector, its token.",
    ),
    (
        "block, mixer",
        "A network is a stack of blocks. A block has two residual branches: one mixes the features within each token, the "
        "other mixes over patches, so that tokens exchange information. What does it is the mixer: attention, a feed-forward "
        "layer or another.",
    ),
    (
        "arm, repetition",
        "An arm is one network with its training settings. A repetition trains every arm once with the same seed, so arms "
        "are compared pair by pair.",
    ),
    (
        "control",
        "The same body with no mixing over patches, or with a random mixing that is never trained. If a control does as "
        "well as attention, the images say nothing about attention.",
    ),
    (
        "direction, size",
        "Two separate statements. Direction: is the arm better or worse, that is, does the interval of the difference "
        "exclude 0? Size: is the difference surely smaller than the margin (equivalent) or surely larger? Either may be "
        "“not shown”, which is not the same as “no difference”.",
    ),
)
BLOCKS = (
    "One block of each network; tokens run from left to right. A branch's output is added to its input, which passes by "
    "above it."
)
PAPER = (
    "The question is that of Melas-Kyriazi (2021). On ImageNet, its base network with feed-forward layers alone (62 M "
    "parameters, trained at 224 px) reaches 74.9 % top-1, ViT base (86 M parameters, trained at 384 px) 77.9 %."
)
PAPER_LINK = ("arXiv 2105.02723", "https://arxiv.org/abs/2105.02723")

CONTROLS = (
    "Controls have the same body, but no mixing over patches, or a random mixing that is never trained: they show what "
    "mixing is worth on these images."
)
EXTERNAL = "An external network differs in more than the mixer."
UNITS = (
    "FLOPs: of one prediction; a multiply-add counts two. Training: of one run, the median. Memory: of the process, the "
    "largest of the runs."
)
NOT_MAIN = "nothing is concluded, because the main comparison shows none"


def content(findings: Findings, figures: dict[str, Plot]) -> Iterator[Block]:
    """The report of these findings, with those figures that there are."""
    yield from _verdict(findings, figures)
    yield from _arms(findings, figures)
    yield from _comparisons(findings, figures)
    yield from _search(findings, figures)
    yield from _runs(findings, figures)
    yield from _disagreements(findings, figures)
    yield from _method(findings)
    yield from _repeat(findings)


def _verdict(findings: Findings, figures: dict[str, Plot]) -> Iterator[Block]:
    yield Heading(findings.title, level=1)
    if findings.exploratory:
        yield Note("exploratory", EXPLORATORY, findings.exploratory)
    if findings.warnings:
        yield Note("warning", WARNINGS, findings.warnings)
    if findings.comparisons:
        main = findings.comparisons[0]
        yield Paragraph(main.headline, "withheld headline" if main.withheld else "headline")
        yield from _concluded(main)
        yield from _figure(
            figures,
            "verdict",
            f"Top-1 of {main.arm} less that of {main.reference}, with its {level(main.difference)} interval, on "
            f"{findings.test_images:,} test images.",
        )
    else:
        yield Paragraph(NO_VERDICT, "withheld headline")
        yield Paragraph(WHY_NO_VERDICT, "verdict")
    if findings.missing:
        rest = len(findings.missing) - MISSING_SHOWN
        more = (f"And {rest} more, listed under “How sure this is”.",) if rest > 0 else ()
        yield Note("missing", MISSING, (*findings.missing[:MISSING_SHOWN], *more))
    blocks = _figure(figures, "blocks", BLOCKS)
    yield Details("How to read this", (Terms(READING), *blocks, Paragraph(PAPER, link=PAPER_LINK)), open=True)


def _concluded(comparison: Comparison) -> Iterator[Block]:
    """What a comparison shows: the two statements, then the verdict in sentences."""
    if comparison.withheld:
        yield Statements(tuple((name, tables.WITHHELD, "", "withheld") for name in ("Direction", "Size")))
    else:
        direction, size = comparison.direction, comparison.size
        yield Statements(
            (
                ("Direction", direction, _direction_reason(comparison), _state(direction)),
                ("Size", size, _size_reason(comparison), _state(size)),
            )
        )
    yield Paragraph(comparison.words, "verdict")


def _state(statement: str) -> Literal["shown", "not-shown"]:
    return "not-shown" if statement == "not shown" else "shown"


def _direction_reason(comparison: Comparison) -> str:
    difference = comparison.difference
    contains = difference.low <= 0 <= difference.high
    reason = (
        f"the {level(difference)} interval, {bounds(difference)} points, {'contains' if contains else 'excludes'} 0"
    )
    return reason if contains or comparison.direction != "not shown" else f"{reason}, but {NOT_MAIN}"


def _size_reason(comparison: Comparison) -> str:
    if not comparison.margin:
        return "the study has no margin"
    within, difference = f"the margin of {margin(comparison.margin)} points", comparison.difference
    if max(abs(difference.low), abs(difference.high)) < comparison.margin:
        reason = f"the whole interval lies within {within}"
    elif difference.low > comparison.margin or difference.high < -comparison.margin:
        reason = f"the whole interval lies outside {within}"
    else:
        return f"the interval lies partly within {within}, partly outside"
    return reason if comparison.size != "not shown" else f"{reason}, but {NOT_MAIN}"


def _arms(findings: Findings, figures: dict[str, Plot]) -> Iterator[Block]:
    arms = findings.arms
    yield Heading("The arms")
    yield Paragraph(findings.images, "soft")
    yield from _figure(
        figures,
        "accuracy",
        "Intervals of 95 %; an arrow marks what lies outside."
        + " Grey squares: baselines; dashed: the best of them." * bool(findings.baselines),
    )
    yield tables.arms(findings)
    roles = {arm.role for arm in arms}
    notes = [CONTROLS] * ("control" in roles) + [EXTERNAL] * ("external" in roles)
    if findings.measured_on:
        notes.append(f"Latency (one image, median) and throughput (batches) measured on: {findings.measured_on}.")
    yield Paragraph(" ".join([*notes, UNITS]), "soft")
    if findings.corruptions:
        yield Paragraph(_corrupted(findings), "soft")
    same, table = tables.settings(arms)
    if same or table:
        yield Heading("Settings of each arm", 3)
    if same:
        yield Paragraph(f"Same for all arms: {'; '.join(f'{name}: {value}' for name, value in same.items())}.")
    if table:
        yield table
    if findings.baselines:
        beating = [f"{baseline.name} beats {join(baseline.beats)}" for baseline in findings.baselines if baseline.beats]
        yield Heading("Baselines on the same images", 3)
        yield Paragraph(f"{'; '.join(beating) or 'No baseline beats an arm by more than the margin'}.")
        yield tables.baselines(findings)
    if "costs" in figures:
        yield Heading("Accuracy against cost", 3)
        unmeasured = " An arm whose cost was not measured is not in that panel." * any(not arm.cost for arm in arms)
        yield from _figure(
            figures, "costs", f"Bars: intervals of 95 %. Dashed: the arms that no other beats in both.{unmeasured}"
        )


def _corrupted(findings: Findings) -> str:
    """What the columns of corrupted images are."""
    names = [name.replace("_", " ") for name in findings.corruptions]
    reference = f" The reference is {findings.comparisons[0].reference}." if findings.comparisons else ""
    return (
        f"Corrupted images: each run's own test images under {join(names)}, at 5 severities each; the mean of all accuracies."
        f"{reference} This is a secondary outcome: no verdict is drawn from it, and its intervals are not widened for the "
        "number of arms or looks."
    )


def _comparisons(findings: Findings, figures: dict[str, Plot]) -> Iterator[Block]:
    if findings.comparisons:
        yield Heading("Every comparison")
        yield from _figure(
            figures,
            "differences",
            "Top-1 of the first less that of the second, with its interval; an arrow marks what lies outside. Filled: a "
            "direction or a size was shown; hollow: neither; grey: no conclusion is drawn. Small dots: pairs of runs with "
            "the same seed (and fold). The band: the margin.",
        )
        yield tables.comparisons(findings)
        for comparison in findings.comparisons[1:]:
            yield Details(comparison.headline, tuple(_concluded(comparison)))
        if table := tables.more_repetitions(findings):
            yield Details("What more repetitions would show", (table,))
    if findings.effects:
        yield Heading("Effects of each factor", 3)
        yield tables.effects(findings)


def _search(findings: Findings, figures: dict[str, Plot]) -> Iterator[Block]:
    searched = [(arm, arm.search) for arm in findings.arms if arm.search is not None and arm.search.trials]
    if not searched:
        return
    yield Heading("The search of each arm")
    yield from _figure(
        figures,
        "search",
        "Lower is better. Thin: a repetition; bold: their mean; dots: chosen; crosses: training diverged. At the edge: the "
        "best value tried is the largest or smallest, so a better one may lie beyond.",
    )
    yield tables.searches(searched)
    yield Details("Everything that was tried", (tables.trials(searched),))


def _runs(findings: Findings, figures: dict[str, Plot]) -> Iterator[Block]:
    table = tables.runs(findings)
    if table is None:
        return
    yield Heading("Run by run")
    yield from _figure(figures, "curves", "Learning curves. Thin: a run. Bold: the mean of an arm.")
    yield Details("Every run in numbers", (table,))


def _disagreements(findings: Findings, figures: dict[str, Plot]) -> Iterator[Block]:
    if not findings.disagreements:
        return
    yield Heading("Where they disagree")
    yield Paragraph(
        "Correct or incorrect: in most of an arm's runs. Below each image its label, then what the other arm predicts most "
        "often. Images on which the arms differ most are shown, from as many classes as possible; among equals, a random "
        "sample (always the same one).",
        "soft",
    )
    first, *others = findings.disagreements
    if len(first.classes) > CLASSES:
        shown = f"{CLASSES} classes of {len(first.classes):,}"
        yield Paragraph(f"The {shown} on which {first.arm} and {first.reference} differ most:")
    caption = "In brackets the class's test images: with few of them, much of a difference is chance."
    yield from _figure(figures, "classes", caption)
    yield from _disagreement(first)
    for disagreement in others:
        summary = f"{disagreement.arm} and {disagreement.reference}"
        yield Details(summary, tuple(_disagreement(disagreement)))


def _disagreement(disagreement: Disagreement) -> Iterator[Block]:
    one, two = disagreement.arm, disagreement.reference
    if disagreement.classes:
        yield Details("The classes in numbers", (tables.classes(disagreement, CLASSES),))
    for correct, incorrect, images, total in (
        (one, two, disagreement.only_arm, disagreement.counts[0]),
        (two, one, disagreement.only_reference, disagreement.counts[1]),
    ):
        if images:
            shown = f", {len(images)} shown" if len(images) < total else ""
            yield Paragraph(f"{correct} is correct, {incorrect} is not ({count(total, 'image')}{shown}):")
            yield Pictures(images)


def _method(findings: Findings) -> Iterator[Block]:
    yield Heading("What was held equal")
    yield Items(findings.held)
    yield Heading("The networks, and what else differs", 3)
    yield Terms(tuple((arm.name, "; ".join((arm.network, *arm.differs))) for arm in findings.arms))
    yield Heading("How sure this is")
    yield Items(findings.statistics)
    if findings.outlook:
        yield Heading("Before anything ran", 3)
        yield Items(findings.outlook)
    if findings.missing:
        yield Heading("What is missing", 3)
        yield Items(findings.missing)


def _repeat(findings: Findings) -> Iterator[Block]:
    yield Heading("To repeat it")
    yield Terms(findings.repeat)
    yield Details("The plan, study.yaml", (Code(findings.plan.strip(), "yaml"),))
    if findings.next:
        yield Heading("What next")
        for purpose, command in findings.next:
            yield Paragraph(f"{purpose}:")
            yield Code(command, "sh")


def _figure(figures: dict[str, Plot], name: str, caption: str) -> Iterator[Figure]:
    if name in figures:
        yield Figure(figures[name], caption)
