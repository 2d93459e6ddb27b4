"""The report as GitHub's Markdown, with the figures beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain

from ffvit.study.findings import Disagreement, Findings
from ffvit.study.report import words
from ffvit.study.report.drawing import Drawn
from ffvit.study.report.figures import CLASSES


def markdown(findings: Findings, figures: dict[str, Drawn]) -> str:
    """The report; whatever came from outside stays text."""
    parts = (
        _verdict(findings, figures),
        _arms(findings),
        _questions(findings, figures),
        _drawn("Accuracy against cost", figures, "costs"),
        _runs(findings, figures),
        _drawn("Learning curves", figures, "curves"),
        _disagreements(findings, figures),
        _sure(findings),
        _again(findings),
    )
    return "\n".join(chain.from_iterable(parts)) + "\n"


def plain(text: str) -> str:
    """Text that Markdown leaves as it is, in a table too."""
    text = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|*_\[\]`#~$])", r"\\\1", text)


def _verdict(findings: Findings, figures: dict[str, Drawn]) -> Iterator[str]:
    yield from (f"# {plain(findings.title)}", "")
    if findings.comparisons:
        first = findings.comparisons[0]
        yield from (f"**{plain(first.headline)}.** {plain(first.words)}", "")
    else:
        yield from (f"**{words.NO_VERDICT}:** {words.WHY_NO_VERDICT}", "")
    yield from _figure(figures, "verdict")
    if findings.missing:
        yield from ("## Missing", "", *_list(findings.missing), "")


def _arms(findings: Findings) -> Iterator[str]:
    yield from ("## The arms", "", plain(findings.images), "")
    marked = (
        [f"{arm.name} ({arm.role})" if arm.role != "arm" else arm.name, *words.row(arm, findings)[1:]]
        for arm in findings.arms
    )
    yield from _table(words.headings(findings), marked)
    for note in words.notes(findings):
        yield from (plain(note), "")


def _questions(findings: Findings, figures: dict[str, Drawn]) -> Iterator[str]:
    if len(findings.comparisons) > 1:
        yield from ("## Every question", "", *_figure(figures, "differences"))
        yield from _table(words.QUESTIONS, map(words.question, findings.comparisons))
        yield from _list(f"{each.headline}. {each.words}" for each in findings.comparisons[1:])
        yield ""


def _drawn(heading: str, figures: dict[str, Drawn], name: str) -> Iterator[str]:
    if name in figures:
        yield from (f"## {heading}", "", *_figure(figures, name))


def _runs(findings: Findings, figures: dict[str, Drawn]) -> Iterator[str]:
    rows = words.runs(findings)
    if rows:
        yield from ("## Run by run", "", *_figure(figures, "runs"), *_table(words.RUNS, rows))


def _disagreements(findings: Findings, figures: dict[str, Drawn]) -> Iterator[str]:
    if findings.disagreements:
        yield from ("## Where they disagree", "", *_figure(figures, "classes"))
    for each in findings.disagreements:
        yield from (f"### {plain(each.arm)} and {plain(each.against)}", "")
        rows = ([name, f"{images:,}", *words.rights(one, other)] for name, images, one, other in each.classes[:CLASSES])
        yield from _table(words.CLASSES, rows)
        yield from _disputed(each)


def _disputed(each: Disagreement) -> Iterator[str]:
    for right, wrong, images, count in (
        (each.arm, each.against, each.only_arm, each.counts[0]),
        (each.against, each.arm, each.only_against, each.counts[1]),
    ):
        if images:
            yield from (f"{plain(words.disputed(right, wrong, count, len(images)))}:", "")
            yield from _table(("image", "truth", "wrong answer"), ([it.name, it.truth, it.answer] for it in images))


def _sure(findings: Findings) -> Iterator[str]:
    yield from ("## What was held equal", "", *_list(findings.held), "")
    yield from ("### The networks, and what else differs", "")
    yield from _list(f"{arm.name}: {'; '.join(words.network(arm))}" for arm in findings.arms)
    yield from ("", "## How sure this is", "", *_list(findings.statistics), "")


def _again(findings: Findings) -> Iterator[str]:
    yield from ("## To repeat it", "", *_list(f"{name}: {value}" for name, value in findings.repeat), "")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", findings.plan)), default=2))
    yield from (f"{fence}yaml", findings.plan.strip(), fence)


def _figure(figures: dict[str, Drawn], name: str) -> list[str]:
    return [f"![{plain(figures[name].title)}](figures/{name}.png)", ""] if name in figures else []


def _list(items: Iterable[str]) -> Iterator[str]:
    return (f"- {plain(each)}" for each in items)


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    headings = list(headings)
    lines = ["| " + " | ".join(map(plain, headings)) + " |", "|" + "---|" * len(headings)]
    return [*lines, *("| " + " | ".join(map(plain, row)) + " |" for row in rows), ""]
