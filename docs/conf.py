"""How Sphinx builds these pages: `make docs`."""

from __future__ import annotations

import inspect
import re
from typing import Any

from docutils import nodes

from ffvit import __version__

project = "ffvit"
author = "the ffvit developers"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# Links that leave docs/ are files of the repository, which only its own browser can show.
suppress_warnings = ["myst.xref_missing"]
napoleon_use_ivar = True  # attributes of a class in its own entry, once
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"show-inheritance": True, "exclude-members": "model_config"}
autodoc_preserve_defaults = True
html_theme = "furo"
html_title = "ffvit"
html_static_path = ["_static"]
html_css_files = ["tables.css"]

maximum_signature_line_length = 100
smartquotes_action = "qe"  # quotes and dots, but no dashes: --out stays an option


def shorten_signature(
    _app: Any, _what: str, _name: str, thing: Any, _options: Any, signature: str, returns: str
) -> Any:
    """Remove types that carry pydantic's checks from a signature; the entries of the fields describe them."""
    if not signature or "Annotated[" not in signature:
        return None
    shown = inspect.signature(thing)
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in shown.parameters.values()]
    return str(shown.replace(parameters=plain, return_annotation=inspect.Signature.empty)), returns


def mark_numbers(_app: Any, document: nodes.document, _name: str) -> None:
    """Mark the cells that hold a number, with its range and unit: the style sheet keeps them on one line."""
    for cell in document.findall(nodes.entry):
        if re.fullmatch(r"[-\d.,]+( ?(%|x|s|ms|MiB))?( \([-\d.,]+\))?", cell.astext()):
            cell["classes"].append("number")


def setup(app: Any) -> None:
    """Sphinx calls this."""
    app.connect("doctree-resolved", mark_numbers)
    app.connect("autodoc-process-signature", shorten_signature)
