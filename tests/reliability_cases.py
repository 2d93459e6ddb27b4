"""What the tests of folders, locks and splits share: quick runs and studies, and a user who may write nowhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

FAST = ("--recipe.epochs", 1, "--recipe.warmup-epochs", 0, "--recipe.batch-size", 256, "--workers", 0)
PLAN = {
    "title": "Small and quick",
    "data": "digits",
    "recipe": {"base": "digits", "epochs": 1, "warmup_epochs": 0},
    "network": {
        "width": 8,
        "depth": 1,
        "img_size": 8,
        "patch": 4,
        "in_chans": 1,
        "readout": "mean",
        "position": "vectors",
        "block": [{"mixer": "feedforward", "axis": "patches"}, {"mixer": "feedforward", "axis": "features"}],
    },
    "factors": {"mixer": {"feed-forward": {}, "attention": {"network.patches": {"mixer": "attention", "heads": 2}}}},
    "seeds": 1,
    "search": "none",
    "controls": False,
}


def plan_file(folder: Path, **fields: object) -> Path:
    file = folder / "plan.yaml"
    file.write_text(yaml.safe_dump({**PLAN, **fields}, sort_keys=False))
    return file


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder but locks, whose content says only who held them."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@contextmanager
def unprivileged(folder: Path) -> Iterator[None]:
    """As a user who may look into a folder and write nowhere near it."""
    above = [path for path in (folder, *folder.parents) if path.stat().st_uid == os.getuid() and path != path.parent]
    modes = {path: path.stat().st_mode for path in above if path.stat().st_mode & 0o1777 != 0o1777}
    for path in modes:
        path.chmod(0o555)
    root = os.getuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)
