"""What a report says, in order: the one source of the page and of the Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from ffvit.study.findings import Comparison, Disagreement, Findings
from ffvit.study.report import formatting
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
    Statement,
    Statements,
    Table,
    Terms,
)
from ffvit.study.report.drawing import Plot
from ffvit.study.report.figures import CLASSES

MISSING_SHOWN = 6
"""So many missing runs are named at the top; the rest further down."""

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
PAPER = (
    "The question is that of Melas-Kyriazi (2021). On ImageNet, its base network with feed-forward layers alone reaches "
    "74.9 %, the ViT of that size 77.9 % (trained at 384 px, the former at 224)."
)
PAPER_LINK = ("arXiv 2105.02723", "https://arxiv.org/abs/2105.02723")


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
        yield Note("exploratory", formatting.EXPLORATORY, findings.exploratory)
    if findings.warnings:
        yield Note("warning", formatting.WARNINGS, findings.warnings)
    if findings.comparisons:
        main = findings.comparisons[0]
        yield Paragraph(main.headline, "withheld headline" if main.withheld else "headline")
        yield from _concluded(main)
        yield from _figure(
            figures,
            "verdict",
            f"Top-1 of {main.arm} less that of {main.reference}, with its {formatting.level(main.difference)} interval, on "
            f"{findings.test_images:,} test images.",
        )
    else:
        yield Paragraph(formatting.NO_VERDICT, "withheld headline")
        yield Paragraph(formatting.WHY_NO_VERDICT, "verdict")
    if findings.missing:
        rest = len(findings.missing) - MISSING_SHOWN
        more = (f"And {rest} more, listed under “How sure this is”.",) if rest > 0 else ()
        yield Note("missing", formatting.MISSING, (*findings.missing[:MISSING_SHOWN], *more))
    yield Details("How to read this", (Terms(READING), Paragraph(PAPER, link=PAPER_LINK)), open=True)


def _concluded(comparison: Comparison) -> Iterator[Block]:
    """What a comparison shows: the two statements, then the verdict in sentences."""
    direction, size = formatting.conclusions(comparison)
    pairs = (
        ("Direction", direction, formatting.direction_reason(comparison)),
        ("Size", size, formatting.size_reason(comparison)),
    )
    if comparison.withheld:
        yield Statements(tuple(Statement(name, value, "", "withheld") for name, value, _ in pairs))
    else:
        yield Statements(
            tuple(
                Statement(name, value, reason, "not shown" if value == "not shown" else "shown")
                for name, value, reason in pairs
            )
        )
    yield Paragraph(comparison.words, "verdict")


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
    yield Table(
        "The arms",
        formatting.arm_headings(findings),
        tuple(formatting.arm_row(arm, findings) for arm in arms),
        styles=tuple("control" if arm.role == "control" else "" for arm in arms),
        wide=True,
    )
    yield Paragraph(formatting.arm_notes(findings), "soft")
    same, differ, rows = formatting.settings(arms)
    if same or differ:
        yield Heading("Settings of each arm", 3)
    if same:
        yield Paragraph(f"Same for all arms: {'; '.join(f'{name}: {value}' for name, value in same.items())}.")
    if differ:
        yield Table("Settings of each arm", ("arm", *differ), tuple(rows), text=tuple(range(len(differ) + 1)))
    if findings.baselines:
        yield Heading("Baselines on the same images", 3)
        yield Paragraph(formatting.baselines(findings))
        yield Table(
            "Baselines", formatting.BASELINES, tuple(map(formatting.baseline_row, findings.baselines)), text=(0, 3)
        )
    if "costs" in figures:
        yield Heading("Accuracy against cost", 3)
        unmeasured = " An arm whose cost was not measured is not in that panel." * any(not arm.cost for arm in arms)
        yield from _figure(
            figures, "costs", f"Bars: intervals of 95 %. Dashed: the arms that no other beats in both.{unmeasured}"
        )


def _comparisons(findings: Findings, figures: dict[str, Plot]) -> Iterator[Block]:
    comparisons = findings.comparisons
    if comparisons:
        yield Heading("Every comparison")
        yield from _figure(
            figures,
            "differences",
            "Top-1 of the first less that of the second. Filled: a direction or a size was shown; hollow: neither; grey: no "
            "conclusion is drawn. The band: the margin.",
        )
        yield Table(
            "Every comparison",
            formatting.COMPARISONS,
            tuple(map(formatting.comparison_row, comparisons)),
            text=(0, 1, 6, 7),
            styles=tuple("main" if each.main else "control" if each.withheld else "" for each in comparisons),
            wide=True,
        )
        for comparison in comparisons[1:]:
            yield Details(comparison.headline, tuple(_concluded(comparison)))
        if rows := formatting.repeated(findings):
            yield Details(
                "What more repetitions would show",
                (Table("More repetitions", formatting.REPEATED, rows, text=(0, 1, 2)),),
            )
    if findings.effects:
        yield Heading("Effects of each factor", 3)
        yield Table("Effects", formatting.EFFECTS, formatting.effects(findings), text=(0, 1))


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
    rows = tuple(formatting.search_row(arm, search) for arm, search in searched)
    yield Table("The search of each arm", formatting.SEARCHES, rows, text=(0, 1, 5, 6), wide=True)
    tried = tuple(row for arm, search in searched for row in formatting.trials(arm, search))
    yield Details(
        "Everything that was tried", (Table("Everything that was tried", formatting.TRIALS, tried, text=(0, 1, 2, 5)),)
    )


def _runs(findings: Findings, figures: dict[str, Plot]) -> Iterator[Block]:
    rows = formatting.runs(findings)
    if not rows:
        return
    yield Heading("Run by run")
    yield from _figure(
        figures,
        "runs",
        "A dot: two runs with the same seed (and fold). Upright: their mean. Line: its interval.",
    )
    yield Details("Every run in numbers", (Table("Every run", formatting.RUNS, rows, text=(0, 1)),))
    yield from _figure(figures, "curves", "Learning curves. Thin: a run. Bold: the mean of an arm.")


def _disagreements(findings: Findings, figures: dict[str, Plot]) -> Iterator[Block]:
    if not findings.disagreements:
        return
    yield Heading("Where they disagree")
    yield Paragraph(
        "Correct or incorrect: in most of an arm's runs. Below each image its label, then what the other arm predicts most "
        "often. Images on which the arms differ most are shown, from as many classes as possible.",
        "soft",
    )
    first, *others = findings.disagreements
    if len(first.classes) > CLASSES:
        count = f"{CLASSES} classes of {len(first.classes):,}"
        yield Paragraph(f"The {count} on which {first.arm} and {first.reference} differ most:")
    caption = "In brackets the class's test images: with few of them, much of a difference is chance."
    yield from _figure(figures, "classes", caption)
    yield from _disagreement(first)
    for other in others:
        yield Details(f"{other.arm} and {other.reference}", tuple(_disagreement(other)))


def _disagreement(its: Disagreement) -> Iterator[Block]:
    if its.classes:
        rows = tuple(
            (name, f"{images:,}", f"{100 * one:.1f} %", f"{100 * other:.1f} %", formatting.points(one - other))
            for name, images, one, other in its.classes[:CLASSES]
        )
        headings = ("class", "test images", its.arm, its.reference, "difference, points")
        yield Details("The classes in numbers", (Table(f"Classes of {its.arm} and {its.reference}", headings, rows),))
    for correct, incorrect, images, count in (
        (its.arm, its.reference, its.only_arm, its.counts[0]),
        (its.reference, its.arm, its.only_reference, its.counts[1]),
    ):
        if images:
            yield Paragraph(f"{formatting.disagreement_sentence(correct, incorrect, count, len(images))}:")
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
