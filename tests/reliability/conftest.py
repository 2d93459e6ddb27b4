from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from commands import here
from reliability_cases import FAST, plan_file


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A finished run on the digits."""
    out = tmp_path_factory.mktemp("trained") / "run"
    done = here("train", "--out", out, *FAST)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def compared(tmp_path_factory) -> Path:
    """A finished study on the digits: one seed, two arms."""
    folder = tmp_path_factory.mktemp("compared")
    done = here("compare", "--study", plan_file(folder), "--out", folder / "study")
    assert done.returncode == 0, done.stderr
    return folder / "study"


@pytest.fixture
def study(compared: Path, tmp_path: Path) -> Path:
    """A copy of the study, to be spoilt."""
    return Path(shutil.copytree(compared, tmp_path / "study"))
