from __future__ import annotations

from pathlib import Path

import pytest

from photos import write_photos


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of photographs: train/ (12 a class) and val/ (3 a class) of four classes."""
    return write_photos(tmp_path_factory.mktemp("photos"), per_class=12)
