"""The report on disk: one page that needs no network, the same as Markdown, the figures as files."""

from __future__ import annotations

from pathlib import Path

from ffvit.files.atomic_write import atomic_path
from ffvit.study.findings import Findings
from ffvit.study.report.content import content
from ffvit.study.report.figures import draw_figures
from ffvit.study.report.markdown import markdown
from ffvit.study.report.page import page


def write_report(findings: Findings) -> Path:
    """Write `report.html`, `report.md` and `figures/` into the study's folder; hands back the page's path."""
    figures = draw_figures(findings)
    folder = findings.folder / "figures"
    folder.mkdir(exist_ok=True)
    for name, drawn in figures.items():
        _write(folder / f"{name}.svg", drawn.svg)
        with atomic_path(folder / f"{name}.png") as temporary:
            temporary.write_bytes(drawn.png)
    blocks = list(content(findings, figures))
    _write(findings.folder / "report.md", markdown(blocks))
    path = findings.folder / "report.html"
    _write(path, page(findings.title, blocks))
    return path


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        # A file's name may hold bytes that are no letters: they become question marks.
        temporary.write_text(text, encoding="utf-8", errors="replace")
