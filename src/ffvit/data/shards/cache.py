"""Shards that lie far away, kept here one by one as they are needed, and removed when others need the room."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from ffvit.data.shards.download import RetryPolicy, fetch, printable_address
from ffvit.errors import OutputError

MOST_BYTES = 64 * 2**30
"""What the shards of a data set may take here, unless that is more than half of what the disk has left."""

HELD = 8
"""Shards that a process keeps from being removed: those it asked for last."""

FETCHERS = 2
"""Threads of a process that fetch ahead."""


class ShardCache:
    """Shards by number, as files here; any number of processes and runs may share the folder.

    A shard is fetched once, by whoever needs it first, while the others wait. When the limit is passed, the least
    recently used shards go, but none that a process holds.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        sizes: Sequence[int] | None = None,
        folder: Path | None = None,
        limit: int | None = None,
        patience: RetryPolicy | None = None,
    ) -> None:
        """Nothing is fetched yet.

        Args:
            addresses: Where the shards lie.
            sizes: Their bytes, where they are known.
            folder: Where to keep them. Default: a folder in ~/.cache/ffvit/shards, named for the addresses.
            limit: Bytes to keep at most, besides what is held or being fetched. Default: see `MOST_BYTES`.
            patience: With a server that fails.
        """
        self.addresses = tuple(addresses)
        self.sizes = None if sizes is None else tuple(sizes)
        self.folder = folder or default_folder(*addresses)
        self.limit = limit
        self.patience = patience or RetryPolicy()
        self._names = _names(self.addresses)
        self._process: _Process | None = None

    def __len__(self) -> int:
        return len(self.addresses)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_process": None}

    def path(self, n: int) -> Path:
        """The file of shard `n`, fetched if it is not here; it stays at least until `HELD` others are asked for.

        Raises:
            UserError: It cannot be fetched, see `remote.fetch`.
        """
        path, process = self._place(n), self._this_process()
        if not process.holds(n):
            process.hold(n, self._opened(n))
        return path

    def discard(self, n: int) -> None:
        """Remove shard `n` from here, for what came is not what it should be."""
        self._this_process().let_go(n)
        self._place(n).unlink(missing_ok=True)

    def prefetch(self, ns: Iterable[int]) -> None:
        """Fetch these in the background, first things first, instead of what was still to be fetched of the last ones.

        A shard that another process is fetching is left to it. What goes wrong here shows when the shard is asked for.
        """
        process = self._this_process()
        with process.lock:
            process.wanted = deque(n for n in ns if not self._place(n).exists())
            missing = min(FETCHERS, len(process.wanted)) - process.fetchers
            process.fetchers += max(missing, 0)
        for _ in range(missing):
            # Daemons, so that an interpreter that ends waits for none; what they leave half done is gone on with.
            threading.Thread(target=self._fetch_wanted, args=[process], name="ffvit-prefetch", daemon=True).start()

    def _place(self, n: int) -> Path:
        return self.folder / self._names[n]

    def _size(self, n: int) -> int | None:
        return None if self.sizes is None else self.sizes[n]

    def _this_process(self) -> _Process:
        """What this process holds; a forked one begins with nothing."""
        if self._process is None or self._process.id != os.getpid():
            self._process = _Process()
        return self._process

    def _opened(self, n: int) -> int:
        """A descriptor that holds the shard, fetched if need be."""
        while True:
            if (held := _hold(self._place(n), self._size(n))) is not None:
                return held
            with self._fetching(n, wait=True):
                if (held := _hold(self._place(n), self._size(n))) is not None:
                    return held  # another fetched it meanwhile
                self._fetch(n)
            # Held anew, lest it was removed between.

    def _fetch_wanted(self, process: _Process) -> None:
        while True:
            with process.lock:
                if not process.wanted:
                    process.fetchers -= 1
                    return
                n = process.wanted.popleft()
            with suppress(Exception), self._fetching(n, wait=False) as mine:
                if mine and not self._place(n).exists():
                    self._fetch(n)

    def _fetch(self, n: int) -> None:
        fetch(self.addresses[n], self._place(n), self._size(n), self.patience)
        self._keep_to_limit(besides=n)

    def _fetching(self, n: int, wait: bool) -> AbstractContextManager[bool]:
        return file_lock(self.folder / f".{self._names[n]}.lock", wait)

    def _keep_to_limit(self, besides: int) -> None:
        """Remove shards, those first that were used longest ago."""
        shards, used = [], 0
        names = set(self._names)
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):
                status = entry.stat()
                used += status.st_size
                if entry.name in names and entry.name != self._names[besides]:
                    shards.append((status.st_mtime, status.st_size, Path(entry.path)))
        limit = self.limit
        if limit is None:
            limit = min(MOST_BYTES, (shutil.disk_usage(self.folder).free + used) // 2)
        for _, size, path in sorted(shards):
            if used <= limit:
                return
            if _removed(path):
                used -= size


class _Process:
    """What one process holds and wants; the locks of a process are not those of its forks."""

    def __init__(self) -> None:
        self.id = os.getpid()
        self.lock = threading.Lock()
        self.wanted: deque[int] = deque()
        self.fetchers = 0
        self._held: OrderedDict[int, int] = OrderedDict()

    def holds(self, n: int) -> bool:
        with self.lock:
            if n in self._held:
                self._held.move_to_end(n)
                return True
            return False

    def let_go(self, n: int) -> None:
        with self.lock:
            if (descriptor := self._held.pop(n, None)) is not None:
                os.close(descriptor)

    def hold(self, n: int, descriptor: int) -> None:
        with self.lock:
            if n in self._held:  # another thread was faster
                os.close(descriptor)
                return
            self._held[n] = descriptor
            if len(self._held) > HELD:
                _let_go(self._held.popitem(last=False)[1])

    def __del__(self) -> None:
        for descriptor in self._held.values():
            os.close(descriptor)


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
        raise OutputError(f"{file.parent}: fetched shards cannot be kept there ({error.strerror})") from None
    try:
        yield _lock(descriptor, fcntl.LOCK_EX, file.parent, wait)
    finally:
        os.close(descriptor)


def default_folder(*of: str) -> Path:
    """Where files from far away are kept unless another place is given, by what tells them from others."""
    return Path.home() / ".cache" / "ffvit" / "shards" / hashlib.sha256("\n".join(of).encode()).hexdigest()[:24]


def _names(addresses: Sequence[str]) -> list[str]:
    """A file name for each: its own, or with a number before it where that is not one shard's alone."""
    names = [PurePosixPath(printable_address(address)).name for address in addresses]
    return names if len(set(names)) == len(names) else [f"{n:06}-{name}" for n, name in enumerate(names)]


def _hold(path: Path, size: int | None) -> int | None:
    """A descriptor that keeps the file from being removed, or None if it is not there (or not of this size)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    _lock(descriptor, fcntl.LOCK_SH, path.parent, wait=True)  # waits only while someone removes it
    status = os.fstat(descriptor)
    if status.st_nlink == 0 or (size is not None and status.st_size != size):
        os.close(descriptor)
        return None
    _just_used(descriptor)
    return descriptor


def _let_go(descriptor: int) -> None:
    _just_used(descriptor)
    os.close(descriptor)


def _just_used(descriptor: int) -> None:
    with suppress(OSError):  # someone else's file
        os.utime(descriptor)


def _removed(path: Path) -> bool:
    """Remove the file if no process holds it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        free = _lock(descriptor, fcntl.LOCK_EX, path.parent, wait=False)
        if free:
            path.unlink(missing_ok=True)
        return free
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int, folder: Path, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise OutputError(
                f"{folder}: files cannot be locked there, which processes that share it need; "
                "keep fetched shards on another disk"
            ) from None
        raise
    return True
