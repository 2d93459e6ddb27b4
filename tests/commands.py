"""The command line as a person types it: a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def ffvit(*arguments: object, cwd: Path | None = None, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run `ffvit ...` to its end; stdout, stderr and the exit code as they were."""
    return subprocess.run(
        command(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )


def started(*arguments: object) -> subprocess.Popen[str]:
    """Start `ffvit ...` in a process group of its own, to be interrupted or killed."""
    return subprocess.Popen(
        command(*arguments),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ffvit", *map(str, arguments)]


def environment() -> dict[str, str]:
    """This one's, without what would make two runs differ, and wide enough that no sentence is wrapped."""
    return os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
