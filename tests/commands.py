"""The command line as a person types it, in this process (which has PyTorch loaded) or in one of its own."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

import torch

from ffvit.cli import main
from ffvit.run_folder import Config


def here(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `ffvit ...` in this process; stdout, stderr and the exit code as they were."""
    out, err, code, threads = io.StringIO(), io.StringIO(), 0, torch.get_num_threads()
    torch.set_num_threads(1)
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(cwd or Path.cwd()),
        mock.patch.dict(os.environ, {"COLUMNS": "200"}),
        mock.patch.object(sys, "argv", ["ffvit", *map(str, arguments)]),
        warnings.catch_warnings(),
    ):
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
    torch.set_num_threads(threads)
    return subprocess.CompletedProcess(sys.argv, code, out.getvalue(), err.getvalue())


def asked(*arguments: object, cwd: Path | None = None) -> Config:
    """The configuration of the run that `ffvit train ...` asks for; the run is not made."""
    with mock.patch("ffvit.training.train.run_config") as run_config:
        done = here("train", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    config: Config = run_config.call_args.args[0]
    return config


def ffvit(*arguments: object, cwd: Path | None = None, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run `ffvit ...` in a process of its own to its end."""
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
