"""What was found of a set of images, on a terminal of 80 columns and as a list with a line a finding."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ffvit.data.check.check import LEAK, MISSING, NEAR_LEAK, Check, Finding
from ffvit.errors import OutputError
from ffvit.files.atomic_write import atomic_path
from ffvit.files.csv_formulas import escape_formula
from ffvit.files.output_file import check_output

EXAMPLES = 3
"""Shown of each kind."""

COLUMNS = ("part", "image", "label", "problem", "detail", "other_image")
"""Of the list of findings."""

_INDENT = 6
_HEADER = ",".join(COLUMNS).encode()
_COLOURS = {"serious": "red", "odd": "yellow", "note": "cyan"}


def check_report(check: Check, width: int = 80) -> Group:
    """The check for `rich.console.Console().print`: sizes, then what was found, most serious first.

    Args:
        check: What was found.
        width: Of the terminal; longer names are shortened in their middle.
    """
    return Group(*_parts(check, width))


def write_findings(check: Check, path: Path) -> int:
    r"""Write the list of findings, one line an image and problem, and hand back how many there are.

    Names are made safe: bytes that are no text are written \xe9, and what a spreadsheet would run as a formula gets
    an apostrophe in front.

    Raises:
        UserError: The file cannot be written.
    """
    count = 0
    try:
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            for count, row in enumerate(_rows(check), start=1):  # noqa: B007 (the last one is handed back)
                table.writerow([escape_formula(as_text(cell)) for cell in row])
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); give another place with --out"
        ) from error
    return count


def check_findings_file(path: Path) -> None:
    """Make sure, before hours of work, that the list of findings can be written, and replaces nothing but another.

    Raises:
        UserError: It cannot, or would.
    """
    if path.suffix.lower() != ".csv":
        raise OutputError(f"{path}: the list of findings is a table; give it a name that ends in .csv")
    check_output(path, "--out", "list of findings", lambda beginning: beginning.startswith(_HEADER + b"\n"))


def as_text(name: str) -> str:
    r"""A name that can be written anywhere: bytes of a file's name that are no text as \xe9."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _rows(check: Check) -> Iterator[tuple[str, ...]]:
    whole = check.whole
    for missing in check.missing:
        yield missing.part, "", missing.label, MISSING.name, f"there are some in {missing.elsewhere}", ""
    for finding in check.findings:
        for n, (image, other) in enumerate(zip(finding.images.tolist(), finding.others.tolist(), strict=True)):
            yield (
                whole.part_of(image),
                whole.name(image),
                whole.label_of(image),
                finding.kind.name,
                finding.detail(n),
                whole.name(other) if other >= 0 else "",
            )


def _parts(check: Check, width: int) -> Iterator[RenderableType]:
    images = len(check.whole)
    yield Text(f"{_shown(check.source)}: {images:,} images of {len(check.classes):,} classes\n", style="bold")
    yield _sizes(check)
    if check.missing:
        some = [
            f"{_clipped(_shown(each.label), 40)}: none in {each.part}, some in {each.elsewhere}"
            for each in check.missing
        ]
        yield _heading(MISSING.name, MISSING.weight, len(some), "", MISSING.what)
        yield from _below(MISSING.advice, some)
    for finding in check.findings:
        kind, share = finding.kind, _percent(len(finding.images) / images)
        yield _heading(kind.name, kind.weight, len(finding.images), share, kind.what)
        if kind in (LEAK, NEAR_LEAK):
            yield Text(f"   {_from_where_to_where(check, finding)}")
        yield from _below(kind.advice, _examples(check, finding, width))
    if check.cut:
        yield Text("\nToo many images look alike to find all of them; lower --near.", style="yellow")
    if not check.findings and not check.missing:
        yield Text("\nNothing is wrong with these images.", style="green")


def _sizes(check: Check) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="")
    table.add_column("part")
    for column in ("images", "classes", "smallest", "median", "largest", "ratio", "MiB"):
        table.add_column(column, justify="right")
    for part, of in check.parts.items():
        sizes = of.sizes
        median = (sizes[(len(sizes) - 1) // 2] + sizes[len(sizes) // 2]) / 2
        figures = (of.images, len(sizes), sizes[0], median, sizes[-1])
        stored = f"{of.mebibytes:,.1f}" if of.mebibytes else "-"
        table.add_row(part, *(f"{each:,.10g}" for each in figures), f"{sizes[-1] / sizes[0]:,.1f}", stored)
    return table


def _heading(name: str, weight: str, count: int, share: str, what: str) -> Text:
    return Text.assemble("\n", (f"{name:<13}", f"bold {_COLOURS[weight]}"), f" {count:>9,} {share:>7}  {what}")


def _below(advice: str, examples: list[str]) -> Iterator[RenderableType]:
    yield Text(f"   -> {advice}")
    for example in examples[:EXAMPLES]:
        yield Text(f"{' ' * _INDENT}{example}", style="dim", no_wrap=True, overflow="ellipsis")


def _from_where_to_where(check: Check, finding: Finding) -> str:
    """For example: 12 of test in train, 3 of val in train."""
    parts = check.whole.part
    ways = Counter(zip(parts[finding.images].tolist(), parts[finding.others].tolist(), strict=True))
    names = check.whole.parts
    return ", ".join(f"{count:,} of {names[part]} in {names[other]}" for (part, other), count in ways.most_common())


def _examples(check: Check, finding: Finding, width: int) -> list[str]:
    """The first ones, each with the image it goes with, or with what more there is to say of it."""
    whole, said = check.whole, []
    half = (width - _INDENT - 3) // 2
    for n, image in enumerate(finding.images[:EXAMPLES].tolist()):
        name, other = _short(whole.name(image), check.source), int(finding.others[n])
        if other >= 0:
            said.append(f"{_clipped(name, half)} = {_clipped(_short(whole.name(other), check.source), half)}")
        elif detail := _shown(finding.detail(n)):
            name = _clipped(name, max(half, width - _INDENT - 2 - len(detail)))
            said.append(f"{name}: {detail}")
        else:
            said.append(_clipped(name, width - _INDENT))
    return said


def _short(name: str, source: str) -> str:
    """A path as seen from the set's folder."""
    return _shown(name.removeprefix(source.rstrip(os.sep) + os.sep))


def _shown(name: str) -> str:
    """A name as a terminal may show it: no line breaks, no control characters."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in as_text(name))


def _clipped(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    head = (width - 3) // 3
    return f"{text[:head]}...{text[len(text) - (width - 3 - head) :]}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "<0.1 %"
