"""A lock on a folder: one process at a time writes to it.

The system holds the lock (flock) for as long as the process lives, so what a crash or a reboot leaves behind, the
file `.lock`, holds nobody up. The file says who holds the lock, for the message to the one who is refused.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from weakref import WeakSet

from ffvit.errors import OutputError

LOCK_FILE = ".lock"

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems answer that know no locks (Lustre, unless mounted with `flock`)."""

_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW  # a link could lead to a file that is not ours

_held: WeakSet[FolderLock] = WeakSet()


class FolderLock:
    """The lock on a folder that exists; as a context manager it is acquired and released.

    Args:
        folder: The folder.
        what: What it is, for a person: a `run`, a `study`.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.folder, self.what = folder, what
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            UserError: Another process holds it, or the folder cannot be written to.
        """
        try:
            descriptor = os.open(self.folder / LOCK_FILE, _FLAGS, 0o666)
        except OSError as error:
            raise OutputError(f"{self.folder}: cannot be written to: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                holder, since = _holder(os.pread(descriptor, 1000, 0))
                os.close(descriptor)
                raise OutputError(
                    f"{self.folder}: {holder} has been writing to this {self.what}{since}: wait for it, or end it"
                ) from None
            print(
                f"ffvit: {self.folder}: cannot be locked ({error.strerror}): make sure that no other process writes to it",
                file=sys.stderr,
            )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with suppress(OSError):  # on a full disk: it holds all the same
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}).encode())
        self._descriptor = descriptor
        _held.add(self)

    def release(self) -> None:
        """Let go; nothing, if it is not held."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            self.forget()

    def forget(self) -> None:
        """Close this process's copy of the lock: a copy in the process that this one was forked from still holds it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> FolderLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _holder(said: bytes) -> tuple[str, str]:
    """Who says in the lock's file to hold it, and since when."""
    try:
        fields = json.loads(said)
        process, since = f"process {fields['pid']} on {fields['host']}", f" since {fields['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process", ""
    return (process, since) if (process + since).isprintable() else ("another process", "")


def _forget_all() -> None:
    for lock in _held:
        lock.forget()


# Loading processes are forked, and one that outlives its parent would hold the lock on.
os.register_at_fork(after_in_child=_forget_all)
