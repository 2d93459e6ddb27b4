"""The ways a command ends badly, each with a sentence for the person who typed it and a code that stays.

Everything else that is raised is a fault of ours and shows its traceback. docs/errors.md lists the codes.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class FfvitError(Exception):
    """The base of all errors of ffvit: the message says what was wrong, where, and what to do."""

    code: ClassVar[str] = "E-FFVIT"
    """What the command line prints behind the message, to search for."""
    exit_code: ClassVar[int] = 1
    speaks: bool | None = None
    """Whether this process says it, where a run has several and not all have it. Default: the first one does."""


class UserError(FfvitError, ValueError):
    """What was given cannot be used; the subclasses say what kind of thing it was. Exit code 2."""

    code = "E-USAGE"
    exit_code = 2


class ConfigError(UserError):
    """A field or value of a recipe, a configuration or a plan cannot be used."""

    code = "E-CONFIG"


class DataError(UserError):
    """Images, their labels or their splits cannot be used."""

    code = "E-DATA"


class ModelError(UserError):
    """A network or weights cannot be used."""

    code = "E-MODEL"


class RunFolderError(UserError):
    """A run, study or prepared folder cannot be read or continued."""

    code = "E-RUN"


class OutputError(UserError):
    """A file or folder cannot be written, or would replace something."""

    code = "E-OUTPUT"


class DeviceError(UserError):
    """This machine or cluster does not have what was asked for."""

    code = "E-DEVICE"


class DownloadError(UserError):
    """Something could not be downloaded."""

    code = "E-DOWNLOAD"


class MissingPackageError(UserError):
    """An optional package is not installed."""

    code = "E-PACKAGE"


class RunStoppedError(FfvitError, RuntimeError):
    """A run had to stop on its way. Exit code 1.

    The message says what is kept and how to go on.
    """

    code = "E-STOPPED"
    asked: bool = False
    """Whether a person or a scheduler asked for the stop; otherwise something failed."""


class RequeueError(RunStoppedError):
    """It was asked to stop by SIGTERM, SIGHUP or a scheduler's warning, SIGUSR1: run the same again. Exit code 75."""

    code = "E-REQUEUE"
    exit_code = 75  # EX_TEMPFAIL of sysexits.h: no fault, try again later


class DiskFullError(RunStoppedError):
    """The disk, or a quota, is full."""

    code = "E-DISK"


class OutOfMemoryError(RunStoppedError):
    """The memory of the device or of the machine is too small."""

    code = "E-MEMORY"


class DivergedError(RunStoppedError):
    """The loss or the weights are not finite."""

    code = "E-DIVERGED"


class BadImagesError(RunStoppedError):
    """Too many images could not be read."""

    code = "E-IMAGES"


class WorkerError(RunStoppedError):
    """A process of the run was lost."""

    code = "E-WORKER"


SYNONYMS = {
    "gpu": "cuda",
    "nvidia": "cuda",
    "learning_rate": "lr",
    "learning-rate": "lr",
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "32-true": "fp32",
    "16-mixed": "fp16",
    "bf16-mixed": "bf16",
}
"""Words of others for something of ours that is spelled otherwise."""


def did_you_mean(wrong: str, allowed: Iterable[str]) -> str:
    """`", did you mean X?"` for the allowed name nearest to a wrong one, or nothing if none is near."""
    names = list(allowed)
    close = [SYNONYMS.get(wrong.lower(), ""), *difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)]
    return next((f", did you mean {name!r}?" for name in close if name in names), "")
