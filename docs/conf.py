"""How Sphinx builds these pages: `make docs`."""

from __future__ import annotations

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
autodoc_default_options = {"show-inheritance": True}
autodoc_preserve_defaults = True
html_theme = "furo"
html_title = "ffvit"
