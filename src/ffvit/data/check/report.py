"""What was found of a set of images, on a terminal of 80 columns and as a list with a line a finding."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ffvit.data.check.check import LEAK, MISSING, NEAR_LEAK, Check, Finding, Kind
from ffvit.errors import OutputError
from ffvit.files.atomic_write import atomic_path
from ffvit.files.csv_formulas import escape_formula
from ffvit.files.output_file import check_output
from ffvit.terminal import build_table

EXAMPLES = 3
"""Shown of each kind."""

COLUMNS = ("split", "image", "label", "problem", "detail", "other_image")
"""Of the list of findings."""

_INDENT = 6
_HEADER = ",".join(COLUMNS).encode()
_COLOURS = {"error": "red", "warning": "yellow", "info": "cyan"}


def check_report(check: Check, width: int = 80) -> Group:
    """The check for `rich.console.Console().print`: sizes, then what was found, errors first.

    Args:
        check: What was found.
        width: Of the terminal; longer names are shortened in their middle.
    """
    return Group(*_blocks(check, width))


def write_findings(check: Check, path: Path) -> int:
    r"""Write the list of findings, one line an image and problem, and return how many there are.

    Names are made safe: bytes that are no text are written \xe9, and what a spreadsheet would run as a formula gets
    an apostrophe in front.

    Raises:
        UserError: The file cannot be written.
    """
    rows = list(_rows(check))
    try:
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            table.writerows([escape_formula(as_text(cell)) for cell in row] for row in rows)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); give another place with --out"
        ) from error
    return len(rows)


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
    images = check.images
    for missing in check.missing:
        yield missing.split, "", missing.label, MISSING.name, f"there are some in {missing.elsewhere}", ""
    for finding in check.findings:
        for n, (image, partner) in enumerate(zip(finding.images.tolist(), finding.partners.tolist(), strict=True)):
            other = images.name(partner) if partner >= 0 else ""
            split, label = images.split_name(image), images.class_name(image)
            yield split, images.name(image), label, finding.kind.name, finding.detail(n), other


def _blocks(check: Check, width: int) -> Iterator[RenderableType]:
    images = len(check.images)
    yield Text(f"{_shown(check.source)}: {images:,} images of {len(check.images.classes):,} classes\n", style="bold")
    yield _sizes(check)
    if check.missing:
        examples = [
            f"{_clipped(_shown(missing.label), 40)}: none in {missing.split}, some in {missing.elsewhere}"
            for missing in check.missing
        ]
        yield from _block(MISSING, len(examples), "", "", examples)
    for finding in check.findings:
        share = len(finding.images) / images
        percent = f"{100 * share:.1f} %" if share >= 0.0005 else "<0.1 %"
        where = _where(check, finding) if finding.kind in (LEAK, NEAR_LEAK) else ""
        yield from _block(finding.kind, len(finding.images), percent, where, _examples(check, finding, width))
    if check.incomplete:
        yield Text("\nToo many images look alike to find all of them; lower --near.", style="yellow")
    if not check.findings and not check.missing:
        yield Text("\nNothing is wrong with these images.", style="green")


def _sizes(check: Check) -> Table:
    table = build_table(("split", "images", "classes", "smallest", "median", "largest", "ratio", "MiB"))
    for split, row in zip(check.sizes.index, check.sizes.to_numpy().tolist(), strict=True):
        *figures, stored = row
        ratio = f"{figures[4] / figures[2]:,.1f}"
        table.add_row(split, *(f"{figure:,.10g}" for figure in figures), ratio, f"{stored:,.1f}" if stored else "-")
    return table


def _block(kind: Kind, count: int, percent: str, where: str, examples: list[str]) -> Iterator[Text]:
    """What was found of one kind, what to do about it, and the first examples."""
    colour = f"bold {_COLOURS[kind.level]}"
    yield Text.assemble("\n", (f"{kind.name:<14}", colour), f" {count:>8,} {percent:>7}  {kind.what}")
    if where:
        yield Text(f"   {where}")
    yield Text(f"   -> {kind.advice}")
    for example in examples[:EXAMPLES]:
        yield Text(f"{' ' * _INDENT}{example}", style="dim", no_wrap=True, overflow="ellipsis")


def _where(check: Check, finding: Finding) -> str:
    """For example: 12 of test in train, 3 of val in train."""
    split, names = check.images.split, check.images.splits
    pairs = Counter(zip(split[finding.images].tolist(), split[finding.partners].tolist(), strict=True))
    return ", ".join(f"{count:,} of {names[own]} in {names[other]}" for (own, other), count in pairs.most_common())


def _examples(check: Check, finding: Finding, width: int) -> list[str]:
    """The first images, each with the image it goes with, or with what more there is to say of it."""
    examples = []
    half = (width - _INDENT - 3) // 2
    for n, image in enumerate(finding.images[:EXAMPLES].tolist()):
        name, partner = _short(check, image), int(finding.partners[n])
        if partner >= 0:
            examples.append(f"{_clipped(name, half)} = {_clipped(_short(check, partner), half)}")
        elif detail := _shown(finding.detail(n)):
            name = _clipped(name, max(half, width - _INDENT - 2 - len(detail)))
            examples.append(f"{name}: {detail}")
        else:
            examples.append(_clipped(name, width - _INDENT))
    return examples


def _short(check: Check, image: int) -> str:
    """An image's path as seen from the set's folder."""
    return _shown(check.images.name(image).removeprefix(check.source.rstrip(os.sep) + os.sep))


def _shown(name: str) -> str:
    """A name as a terminal may show it: no line breaks, no control characters."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in as_text(name))


def _clipped(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    head = (width - 3) // 3
    return f"{text[:head]}...{text[len(text) - (width - 3 - head) :]}"
