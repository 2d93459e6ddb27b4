"""The pieces of code of a page of the docs, by their language and section."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def code(page: str, language: str = "python", section: str | None = None) -> list[str]:
    """The pieces in order, of the whole page or of the section with this heading."""
    text = (DOCS / page).read_text()
    if section is not None:
        (text,) = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
