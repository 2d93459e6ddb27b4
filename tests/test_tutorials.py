"""The tutorials do what they say: their Python blocks run in order, as a reader would run them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from commands import environment
from docs_code import code

PAGES = {"tutorial_paper.md": 4, "tutorial_images.md": 4}  # with how much code


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_tutorial_runs(tmp_path, page):
    pieces = code(page)
    # What runs must be importable by the processes that load images, so it is guarded as in every script.
    body = "\n".join(pieces).replace("\n", "\n    ")
    (tmp_path / "tutorial.py").write_text(f"if __name__ == '__main__':\n    {body}\n")
    done = subprocess.run(
        [sys.executable, "tutorial.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(pieces) >= PAGES[page]
    assert "top-1" in done.stdout
