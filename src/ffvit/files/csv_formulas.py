"""Cells of CSV files that no spreadsheet runs as a formula, and back."""

from __future__ import annotations

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_ESCAPED = re.compile(r"'+[=+\-@\t\r\n]")


def escape_formula(cell: str) -> str:
    """The cell with an apostrophe in front, if a spreadsheet would take it for a formula, as OWASP advises."""
    return f"'{cell}" if _FORMULA.match(cell) else cell


def unescape_formula(cell: str) -> str:
    """The cell as it was before `escape_formula`."""
    return cell[1:] if _ESCAPED.match(cell) else cell
