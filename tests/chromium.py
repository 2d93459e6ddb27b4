"""Debian's Chromium, driven by Playwright, for the tests of pages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

MISSING = (
    "playwright: pip install 'ffvit[browser]'"
    if find_spec("playwright") is None
    else "Chromium: apt install chromium, or the variable CHROMIUM"
    if CHROMIUM is None
    else ""
)
needs_chromium = pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}")


@contextmanager
def chromium(*arguments: str) -> Iterator[Any]:
    """A browser, started with these arguments."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as drivers:
        browser = drivers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", *arguments])
        yield browser
        browser.close()
