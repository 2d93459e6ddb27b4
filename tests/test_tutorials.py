"""The tutorials do what they say: their Python blocks run in order, as a reader would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from commands import environment

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {"tutorial_paper.md": 4, "tutorial_images.md": 4, "use_it.md": 1}  # with how much code


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_tutorial_runs(tmp_path, page):
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    script = tmp_path / "tutorial.py"
    # What runs must be importable by the processes that load images, so it is guarded as in every script.
    code = "\n".join(blocks).replace("\n", "\n    ")
    script.write_text(f"if __name__ == '__main__':\n    {code}\n")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(blocks) >= PAGES[page]
    assert "top-1" in done.stdout
