"""Files that are written whole or not at all: beside their place, then moved into it."""

from __future__ import annotations

import errno
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from ffvit.errors import DiskFullError


@contextmanager
def atomic_path(path: Path, remedy: str = "resume with --resume") -> Iterator[Path]:
    """A temporary file to write to; what stands at `path` is replaced only when the block ends well.

    Args:
        path: The file.
        remedy: What to do once a full disk has room again.

    Raises:
        RunStoppedError: The disk is full (or a quota is); what stood at `path` is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    remove_leftovers(path.parent, path.name)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # safetensors makes files that only their owner can read
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if is_disk_full(error):
            free = shutil.disk_usage(path.parent).free / 2**20
            raise DiskFullError(
                f"{path}: the disk is full ({free:,.0f} MiB left); what was there before is untouched. "
                f"Free some space, then {remedy}"
            ) from None
        raise


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove temporary files of `atomic_path` whose process was killed: those for one name, or all in the folder."""
    for path in folder.glob(f".{glob.escape(name) if name != '*' else name}.*.tmp"):
        process = path.name.split(".")[-2]
        if process.isdecimal() and path.is_file() and not _is_running(int(process)):
            with suppress(OSError):  # another process did, or may not
                path.unlink()


def _is_running(process: int) -> bool:
    """Whether a process can still write: one that was killed keeps its number until its parent asks for its end."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full; torch and safetensors say so in their messages alone."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    signs = ("No space left on device", "PytorchStreamWriter failed", "unexpected pos", "os error 28")
    return any(sign in str(error) for sign in signs)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
