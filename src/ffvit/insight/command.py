"""`ffvit inspect` as it is typed: files are checked first, and written last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from ffvit.config.choices import choose_hardware
from ffvit.config.insight_commands import Inspect
from ffvit.errors import OutputError
from ffvit.files.atomic_write import atomic_path
from ffvit.files.output_file import check_output, is_inspection, is_inspection_page
from ffvit.insight.findings import Inspection
from ffvit.insight.inspect import inspect as measure
from ffvit.insight.report.page import write_page


def inspect(command: Inspect, console: Console) -> Inspection:
    """Measure, and write what was asked for.

    Raises:
        UserError: As of `ffvit.insight.inspect.inspect`, or a file cannot be written or exists.
    """
    if command.out.suffix.lower() not in (".html", ".htm"):
        raise OutputError(f"--out {command.out}: is a page; give it a name that ends in .html")
    _check(command.out, "--out", "page that ffvit inspect wrote", is_inspection_page, command.overwrite)
    if command.json is not None:
        _check(command.json, "--json", "file with numbers of ffvit inspect", is_inspection, command.overwrite)
    weights: Any = command.weights
    found = measure(
        weights, image=command.image, data=command.data, root=command.root, images=command.images,
        hardware=choose_hardware(command.hardware), console=console,
    )  # fmt: skip
    write_page(found, command.out)
    if command.json is not None:
        with atomic_path(command.json, "inspect again") as temporary:
            temporary.write_text(json.dumps(found.to_dict(), indent=2) + "\n")
    return found


def _check(path: Path, option: str, kind: str, is_ours: Any, overwrite: bool) -> None:
    check_output(path, option, kind, is_ours)
    if path.is_file() and not overwrite:
        raise OutputError(f"{option} {path}: is there; --overwrite replaces it")
