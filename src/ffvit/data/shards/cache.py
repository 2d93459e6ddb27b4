"""Remote shards as local files: downloaded as they are needed, and removed when others need the room."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import ClassVar

from ffvit.data.shards.addresses import printable_address
from ffvit.data.shards.download import download
from ffvit.data.shards.index import INFO
from ffvit.errors import OutputError

MOST_BYTES = 64 * 2**30
"""What the shards of a data set may take here, unless that is more than half of what the disk has left."""

THREADS = 2
"""Downloads at once in the background."""


@dataclass
class ShardCache:
    """Remote shards by number (see `reader.Shards`), kept in a folder that any number of processes and runs may share.

    A shard is downloaded once, by the process that needs it first, while the others wait. When the limit is passed, the
    least recently used shards are removed, but none that a process has open.

    Args:
        addresses: Of the shards.
        folder: Where to keep them.
        sizes: Their bytes, where they are known.
    """

    open_files: ClassVar[int] = 16  # what is open is not removed: two windows of the training order

    addresses: tuple[str, ...]
    folder: Path
    sizes: tuple[int, ...] | None = None
    _wanted: deque[int] = field(default_factory=deque, compare=False, repr=False)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The shards' own names, or numbers before them where shards of several folders share a name."""
        names = tuple(PurePosixPath(printable_address(address)).name for address in self.addresses)
        return names if len(set(names)) == len(names) else tuple(f"{n:06}-{name}" for n, name in enumerate(names))

    def path(self, n: int) -> Path:
        """Where shard `n` is kept."""
        return self.folder / self.files[n]

    def open(self, n: int) -> int:
        """Open shard `n`, downloaded if it is not here, and return the descriptor; while it is open, it is not removed.

        Raises:
            UserError: It cannot be downloaded: no bad image, but the end of the run.
        """
        while True:
            if not self._is_here(n):
                with self._lock(n):
                    if not self._is_here(n):  # else another process downloaded it meanwhile
                        self._download(n)
            with suppress(FileNotFoundError):  # another process removed it: download it again
                descriptor = os.open(self.path(n), os.O_RDONLY | os.O_CLOEXEC)
                _flock(descriptor, fcntl.LOCK_SH, self.folder)
                if os.fstat(descriptor).st_nlink:
                    with suppress(PermissionError):  # the file of another user
                        os.utime(descriptor)
                    return descriptor
                os.close(descriptor)

    def discard(self, n: int) -> None:
        """Remove shard `n`, for what came is not what it should be."""
        self.path(n).unlink(missing_ok=True)

    def prefetch(self, ns: Iterable[int]) -> None:
        """Download these in the background, in this order, instead of what is left of the last call's.

        A shard that another process is downloading is left to it. Errors show when the shard is opened.
        """
        self._wanted.clear()  # the last call's threads end with what they are downloading
        wanted = self._wanted = deque(n for n in ns if not self._is_here(n))
        for _ in range(min(THREADS, len(wanted))):
            # Daemons, so that an interpreter that ends waits for none; the next run continues what they leave half done.
            threading.Thread(target=self._download_all, args=[wanted], name="ffvit-prefetch", daemon=True).start()

    def _download_all(self, wanted: deque[int]) -> None:
        while True:
            try:
                n = wanted.popleft()
            except IndexError:
                return
            with suppress(Exception), self._lock(n, wait=False) as acquired:
                if acquired and not self._is_here(n):
                    self._download(n, quiet=True)

    def _is_here(self, n: int) -> bool:
        try:
            size = self.path(n).stat().st_size
        except OSError:
            return False
        return self.sizes is None or size == self.sizes[n]

    def _lock(self, n: int, wait: bool = True) -> AbstractContextManager[bool]:
        return file_lock(self.folder / f".{self.files[n]}.lock", wait)

    def _download(self, n: int, quiet: bool = False) -> None:
        size = None if self.sizes is None else self.sizes[n]
        download(self.addresses[n], self.path(n), size, quiet=quiet)
        self._keep_to_limit(besides=n)

    def _keep_to_limit(self, besides: int) -> None:
        """Remove the least recently used shards."""
        shards, used = [], 0
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):
                status = entry.stat()
                used += status.st_size
                is_shard = not entry.name.startswith((".", INFO)) and not entry.name.endswith((".index", ".names"))
                if is_shard and entry.name != self.files[besides]:
                    shards.append((status.st_mtime, status.st_size, Path(entry.path)))
        limit = min(MOST_BYTES, (shutil.disk_usage(self.folder).free + used) // 2)
        for _, size, path in sorted(shards):
            if used <= limit:
                return
            if _remove_unless_open(path):
                used -= size


@contextmanager
def file_lock(file: Path, wait: bool = True) -> Iterator[bool]:
    """While no other process holds this lock; without waiting, yields whether that is so.

    Raises:
        UserError: Its folder cannot be written to, or knows no locks.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OutputError(f"{file.parent}: files cannot be kept there ({error.strerror})") from None
    try:
        yield _flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB, file.parent)
    finally:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # to close it is not enough: a process forked meanwhile has it open
        os.close(descriptor)


def default_folder(*addresses: str) -> Path:
    """Where what is downloaded from these addresses is kept by default."""
    return Path.home() / ".cache" / "ffvit" / "shards" / hashlib.sha256("\n".join(addresses).encode()).hexdigest()[:24]


def _remove_unless_open(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        is_free = _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, path.parent)
        if is_free:
            path.unlink(missing_ok=True)
        return is_free
    finally:
        os.close(descriptor)


def _flock(descriptor: int, operation: int, folder: Path) -> bool:
    """Whether the file could be locked at once."""
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise OutputError(
                f"{folder}: files cannot be locked there, which processes that share it need; "
                "keep downloaded shards on another disk"
            ) from None
        raise
    return True
