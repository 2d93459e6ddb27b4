"""The report on disk: one page that needs no network, the same as Markdown, the figures as files."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ffvit.atomic import writing
from ffvit.study.findings import Findings
from ffvit.study.report import words
from ffvit.study.report.figures import Drawn, draw

FLOORS = (
    "Floors: the same body with no mixing over patches, and with a random mixing that is never trained. "
    "What stands above them is what mixing is worth."
)


def write_report(findings: Findings) -> Path:
    """Write `report.html`, `report.md` and `figures/` into the study's folder; hands back the page's path."""
    figures = draw(findings)
    folder = findings.folder / "figures"
    folder.mkdir(exist_ok=True)
    for name, drawn in figures.items():
        with writing(folder / f"{name}.svg") as temporary:
            temporary.write_text(drawn.svg)
        with writing(folder / f"{name}.png") as temporary:
            temporary.write_bytes(drawn.png)
    with writing(findings.folder / "report.md") as temporary:
        temporary.write_text(markdown(findings, figures))
    path = findings.folder / "report.html"
    with writing(path) as temporary:
        temporary.write_text(page(findings, figures))
    return path


def page(findings: Findings, figures: dict[str, Drawn]) -> str:
    """The report as one HTML page; whatever came from outside is escaped."""
    here = files("ffvit.study.report")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["picture"] = _data_address
    template = environment.from_string(here.joinpath("page.html.jinja").read_text())
    return template.render(
        findings=findings,
        figures={name: Markup(drawn.inline) for name, drawn in figures.items()},  # noqa: S704 (our own drawing)
        titles={name: drawn.title for name, drawn in figures.items()},
        style=Markup(here.joinpath("style.css").read_text()),  # noqa: S704 (our own)
        headings=words.headings(findings),
        rows=[(arm, words.row(arm, findings)) for arm in findings.arms],
        difference=words.difference,
        outcomes=words.OUTCOMES,
        floors=FLOORS if any(arm.role == "floor" for arm in findings.arms) else "",
    )


def markdown(findings: Findings, figures: dict[str, Drawn]) -> str:
    """The report as GitHub's Markdown, with the figures beside it."""
    lines = [f"# {_plain(findings.title)}", ""]
    if findings.comparisons:
        first = findings.comparisons[0]
        lines += [f"**{_plain(first.headline)}.** {_plain(first.words)}", ""]
    else:
        lines += ["**No verdict:** no two arms have a finished run in common.", ""]
    lines += _image(figures, "verdict")
    if findings.missing:
        lines += ["## Missing", "", *(f"- {_plain(each)}" for each in findings.missing), ""]
    lines += ["## The arms", "", _plain(findings.images), ""]
    lines += _table(words.headings(findings), (words.row(arm, findings) for arm in findings.arms))
    if any(arm.role == "floor" for arm in findings.arms):
        lines += [FLOORS, ""]
    if findings.measured_on:
        lines += [f"Latency and throughput measured on: {_plain(findings.measured_on)}.", ""]
    if len(findings.comparisons) > 1:
        lines += ["## Every question", "", *_image(figures, "differences")]
        lines += _table(
            ["arm", "against", "difference", "outcome"],
            (
                [each.arm, each.against, words.difference(each), words.OUTCOMES[each.outcome]]
                for each in findings.comparisons
            ),
        )
    for name, heading in (
        ("runs", "Pair by pair"),
        ("costs", "Accuracy against cost"),
        ("curves", "Learning curves"),
        ("classes", "Where they disagree"),
    ):
        if name in figures:
            lines += [f"## {heading}", "", *_image(figures, name)]
    lines += ["## What was held equal", "", *(f"- {_plain(each)}" for each in findings.held), ""]
    differs = [f"- {_plain(arm.name)}: {_plain('; '.join(arm.differs))}" for arm in findings.arms if arm.differs]
    if differs:
        lines += ["What else differs:", "", *differs, ""]
    lines += ["## How sure this is", "", *(f"- {_plain(each)}" for each in findings.statistics), ""]
    lines += ["## To repeat it", "", *(f"- {_plain(name)}: {_plain(value)}" for name, value in findings.repeat), ""]
    return "\n".join([*lines, "```yaml", findings.plan.strip().replace("```", "` ` `"), "```", ""])


def _image(figures: dict[str, Drawn], name: str) -> list[str]:
    return [f"![{figures[name].title}](figures/{name}.png)", ""] if name in figures else []


def _table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    headings = list(headings)
    lines = ["| " + " | ".join(map(_plain, headings)) + " |", "|" + "---|" * len(headings)]
    return [*lines, *("| " + " | ".join(map(_plain, row)) + " |" for row in rows), ""]


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is, in a table too."""
    text = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for sign in "\\|*_[]`#":
        text = text.replace(sign, f"\\{sign}")
    return text


def _data_address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
