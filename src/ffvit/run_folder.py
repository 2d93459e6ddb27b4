"""The run folder: what training writes, and the one thing every later step reads.

| file | what |
|---|---|
| `config.yaml` | everything needed to run it again, and what it ran on |
| `metrics.jsonl` | a line an epoch |
| `checkpoint/state.pt` | everything needed to resume, replaced whole; `state.previous.pt`: the one before, if this is damaged |
| `best.safetensors`, `last.safetensors` | weights, with the network and the class names inside |
| `summary.json` | how good it is on the test split, with uncertainty |
| `predictions.csv` | its prediction for every test image |
| `corruptions.csv` | under which share of the severities each test image is predicted correctly, if a study asks for it |
| `split.csv.gz` | its images as they were when it began, and which split each was in |
| `bad_images.csv` | images that could not be read, if any |
| `tensorboard/` | curves |
| `metrics.csv` | the metrics as a table, if `loggers` has csv |
| `loggers.json` | what W&B and MLflow call the run, if they are told of it |
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from ffvit.config.architecture import Network
from ffvit.config.base import Value, parse
from ffvit.config.command_fields import LoggerName
from ffvit.config.data import Data
from ffvit.config.hardware import Hardware
from ffvit.config.preprocess import Preprocess
from ffvit.config.recipe import Recipe
from ffvit.config.strict_yaml import read_yaml
from ffvit.data.folders import check_outside
from ffvit.errors import RunFolderError
from ffvit.files.atomic_write import atomic_path
from ffvit.files.json_file import AnyObject, parse_json, read_json
from ffvit.files.lock import FolderLock
from ffvit.files.output_folder import RUN, check_writable, existing_paths, make_folder


class Config(Value):
    """Everything that determines a run's result."""

    network: Network
    data: Data = Data()
    recipe: Recipe
    hardware: Hardware = Hardware()
    seed: int = Field(0, ge=0, lt=2**64, description="Reaches the initial weights, the order of images and every draw.")
    loggers: tuple[LoggerName, ...] = Field(("tensorboard",), description="Where metrics go beside metrics.jsonl.")
    start_from: str | None = Field(None, description="Weights to start from: a file, a run folder, or `pretrained`.")
    preprocess: Preprocess | None = Field(
        None, description="How images are prepared, as the file in start_from said: a resumed run no longer reads it."
    )


class _Row(AnyObject):
    """What every row of the metrics has."""

    epoch: int


class _Validation(AnyObject):
    loss: float


class _Summary(AnyObject):
    """What a summary has, if it says it."""

    validation: _Validation | None = None


class Run:
    """A run folder.

    Args:
        path: The folder.

    Raises:
        UserError: It is no run folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.config_file.is_file():
            reason = "holds no config.yaml" if self.path.is_dir() else "does not exist"
            raise RunFolderError(f"{self.path}: not a run folder: it {reason}")

    config_file = property(lambda self: self.path / "config.yaml")
    metrics_file = property(lambda self: self.path / "metrics.jsonl")
    checkpoint_file = property(lambda self: self.path / "checkpoint" / "state.pt")
    previous_checkpoint_file = property(lambda self: self.path / "checkpoint" / "state.previous.pt")
    best_file = property(lambda self: self.path / "best.safetensors")
    last_file = property(lambda self: self.path / "last.safetensors")
    summary_file = property(lambda self: self.path / "summary.json")
    predictions_file = property(lambda self: self.path / "predictions.csv")
    split_file = property(lambda self: self.path / "split.csv.gz")
    loggers_file = property(lambda self: self.path / "loggers.json")
    corruptions_file = property(lambda self: self.path / "corruptions.csv")
    bad_images_file = property(lambda self: self.path / "bad_images.csv")

    @classmethod
    def create(cls, path: Path, config: Config, overwrite: bool = False, lock: FolderLock | None = None) -> Run:
        """A new run folder with its configuration in it.

        Args:
            path: The folder.
            config: What the run computes.
            overwrite: Replace a run folder that exists.
            lock: Of the folder; is acquired, and held afterwards. Default: one that is released in the end.

        Raises:
            UserError: As `check_writable`, or the folder cannot be made.
        """
        held = lock or FolderLock(path, "run")
        try:
            make_folder(path, RUN, held, overwrite, input_paths(config))
            text = config.to_yaml() + yaml.safe_dump({"environment": environment_info()}, sort_keys=False)
            with atomic_path(path / "config.yaml") as temporary:
                temporary.write_text(text)
            (path / "checkpoint").mkdir(exist_ok=True)
        finally:
            if lock is None:
                held.release()
        return cls(path)

    @staticmethod
    def check_writable(path: Path, config: Config, overwrite: bool = False) -> None:
        """Check that a run folder may be made there; see `output_folder.check_writable`.

        Raises:
            UserError: It may not.
        """
        check_writable(path, RUN, overwrite, input_paths(config))
        check_outside(path, config.data.source)

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from, damaged or not."""
        return self.checkpoint_file.is_file() or self.previous_checkpoint_file.is_file()

    @property
    def config(self) -> Config:
        """The run's configuration."""
        return read_config(self.config_file)

    def metrics(self) -> list[dict[str, Any]]:
        """A row for each finished epoch."""
        if not self.metrics_file.exists():
            return []
        try:
            lines = self.metrics_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RunFolderError(f"{self.metrics_file}: cannot be read ({error})") from None
        then = f"train again with --overwrite, or delete {self.metrics_file} to resume without what it held"
        return [
            parse_json(line, f"{self.metrics_file}, line {number}", then, _Row) for number, line in enumerate(lines, 1)
        ]

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add the row of an epoch."""
        self._write_metrics([*self.metrics(), row])

    def truncate_metrics(self, epoch: int) -> None:
        """Drop the rows of epochs that a resumed run will do again."""
        self._write_metrics([row for row in self.metrics() if row["epoch"] <= epoch])

    def _write_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Write the whole file: on a full disk an appended line would be cut off, and the file unreadable."""
        with atomic_path(self.metrics_file) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`: its presence says that the run is finished."""
        with atomic_path(self.summary_file) as temporary:
            temporary.write_text(json.dumps(summary, indent=2) + "\n")

    def summary(self) -> dict[str, Any] | None:
        """The content of `summary.json`, or None if the run is not finished."""
        if not self.summary_file.exists():
            return None
        return read_json(self.summary_file, "delete it, and finish the run again with --resume", _Summary)


def read_config(path: Path) -> Config:
    """Read a `config.yaml`, or one a person wrote like it.

    Raises:
        UserError: There is no such file, it is no YAML, or a field or value is wrong.
    """
    fields = read_yaml(path)
    if isinstance(fields, dict):
        fields.pop("environment", None)
    return parse(Config, fields, str(path))


def input_paths(config: Config) -> dict[str, Path]:
    """The files and folders that a run reads, by what they are; the run must not replace them."""
    places = {
        "the data": config.data.source,
        "the data set's folder (--data.root)": config.data.root,
        "the file of weights to start from": config.start_from,
        "the teacher": config.recipe.teacher,
    }
    return existing_paths(places)


def free_folder(name: str, under: str = "runs") -> Path:
    """`runs/<name>`, or with a number behind it if that exists; a name too long for a folder is cut."""
    name = os.fsencode(name)[:200].decode(errors="ignore")
    path, number = Path(under) / name, 1
    while path.exists():
        number += 1
        path = Path(under) / f"{name}-{number}"
    return path


def environment_info() -> dict[str, Any]:
    """Versions, commit, hardware and command of this process."""
    import torch

    packages = ("ffvit", "torch", "torchvision", "timm", "lightning-fabric", "numpy", "pillow")
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "commit": _commit(),
        "system": platform.platform(),
        "processor": torch.backends.cpu.get_cpu_capability() + f", {os.cpu_count()} cores",
        "devices": devices,
    }


def _commit() -> str | None:
    """The commit of ffvit's own source, if it runs from a checkout."""
    try:
        source = Path(__file__).parent
        answer = subprocess.run(  # noqa: S603
            ["git", "-C", str(source), "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None
