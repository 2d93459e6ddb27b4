"""The page of `ffvit inspect`: one HTML file that needs no network."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from ffvit.files.atomic_write import atomic_path
from ffvit.insight.findings import Inspection
from ffvit.insight.report.sections import sections
from ffvit.insight.report.tables import layer_rows, summary

MARK = "<!doctype html>\n<!-- ffvit inspect -->"
"""How a page begins, so that it is known again before it is replaced (`files.output_file`)."""


def page(inspection: Inspection) -> str:
    """The page; whatever came from outside is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(
        files("ffvit.insight.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    )
    names = [network.name for network in inspection.networks] or [name for name, _ in inspection.image]
    text = template.render(
        title=f"ffvit inspect: {' and '.join(names)}",
        several=len(names) > 1,
        introduction=_introduction(inspection),
        warnings=inspection.warnings,
        summary=summary(inspection) if inspection.networks else [],
        sections=list(sections(inspection)),
        details=[(network.name, layer_rows(network)) for network in inspection.networks],
        class_names=inspection.class_names,
        style=files("ffvit.pages").joinpath("style.css").read_text(encoding="utf-8"),
    )
    return text.lstrip().replace("<!doctype html>", MARK, 1)


def write_page(inspection: Inspection, path: Path) -> None:
    """Write the page to a file."""
    with atomic_path(path, "inspect again") as temporary:
        # A file's name may hold bytes that are no letters: they become question marks.
        temporary.write_text(page(inspection), encoding="utf-8", errors="replace")


def _introduction(inspection: Inspection) -> str:
    sizes = {
        f"{rows} x {columns} patches of {height} x {width} px"
        for (rows, columns), (height, width) in ((n.network.grid, n.network.patch) for n in inspection.networks)
    }
    if not inspection.networks:
        return "What is seen in one image."
    text = (
        f"Measured on {inspection.data}, in {' and '.join(sorted(sizes))}. Each section asks one question, says how its "
        "pictures are read, and from how many images they are."
    )
    return re.sub(r"(?<=\d) (?=px|x)", "\N{NO-BREAK SPACE}", text)
