"""Files at an address (`https://`, `s3://`, ...), brought here whole over connections that break."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

import aiohttp
import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.http import HTTPFileSystem

from ffvit.errors import DataError, DownloadError, MissingPackageError, OutputError, UserError
from ffvit.files.atomic_write import is_disk_full
from ffvit.terminal import Terminal

CHUNK = 16 * 2**20
"""Bytes asked for at once; what a broken connection can lose."""

_PIECE = 2**18
"""Bytes that are kept in memory."""

_TOLD_SECONDS = 30.0
"""How often it is said how far a file is; the first time after a third of it."""

MOST_ADDRESSES = 1_000_000

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})")
_TRANSIENT = (408, 425, 429)  # the answers 4xx that another try may change
_jitter = random.Random()  # its own, so that training's draws stay where they are


@dataclass(frozen=True)
class RetryPolicy:
    """How long to go on with a server that fails.

    Args:
        tries: Failures in a row, without a byte gained, before giving up.
        stall_seconds: Silence that counts as a failure.
        first_wait: Seconds before the second try; doubled for each after it, give or take a half.
        longest_wait: The most it grows to.
        slowest: Bytes a second; fewer, over `stall_seconds`, count as two failures.
    """

    tries: int = 8
    stall_seconds: float = 30.0
    first_wait: float = 0.5
    longest_wait: float = 30.0
    slowest: float = 8 * 2**10

    def wait(self, failures: int) -> float:
        """Seconds to wait after so many failures: spread out, so that many processes do not come back at once."""
        return min(self.first_wait * 2.0 ** (failures - 1), self.longest_wait) * _jitter.uniform(0.5, 1.5)


def is_remote(text: str) -> bool:
    """Whether this is an address, `scheme://...`, of a kind that fsspec knows."""
    found = _SCHEME.match(text)
    return found is not None and found[1].lower() in fsspec.available_protocols()


def expand_braces(text: str) -> list[str]:
    """The addresses that braces stand for: `{000..127}` counts (and keeps the zeros), `{a,b}` lists.

    Raises:
        UserError: The braces do neither.
    """
    found = _BRACES.search(text)
    if found is None:
        if "{" in text or "}" in text:
            raise DataError(f"{text}: a brace is never closed or never opened; write {{000..127}} or {{a,b}}")
        return [text]
    before, after = text[: found.start()], expand_braces(text[found.end() :])
    if "{" in before or "}" in before:
        raise DataError(f"{text}: braces within braces (or one too many); write {{000..127}} or {{a,b}}, side by side")
    choices = _choices(text, found[1])
    if len(choices) * len(after) > MOST_ADDRESSES:
        raise DataError(f"{text}: the braces stand for more than {MOST_ADDRESSES:,} addresses")
    return [before + choice + rest for choice in choices for rest in after]


def printable_address(address: str) -> str:
    """The address without its query, which may hold a signature."""
    return address.partition("?")[0]


def fetch(
    address: str, target: Path, size: int | None = None, patience: RetryPolicy | None = None, most: int | None = None
) -> None:
    """Bring a file here, whole or not at all; one process at a time may fetch a target.

    What came before a connection broke is kept beside the target, and the next try, or run, goes on from there. Memory
    and disk are bounded whatever the server sends; what takes long is told on stderr.

    Args:
        address: Where it lies.
        target: Where to put it.
        size: Its bytes, where they are known.
        patience: With a server that fails.
        most: Its bytes at most. Default: what the disk has room for.

    Raises:
        UserError: It is not there, may not be read, is too large, or does not come in that many tries; or the disk is
            full.
    """
    patience = patience or RetryPolicy()
    gained, failures, told = _gained(target), 0, _Told(address)
    while True:
        try:
            return _try(address, target, size, patience, most, told)
        except UserError:
            raise
        except Exception as error:  # every file system has its own errors for a connection that breaks
            if is_disk_full(error):
                free = shutil.disk_usage(target.parent).free / 2**20
                raise OutputError(
                    f"{target.parent}: the disk is full ({free:,.0f} MiB left) while {printable_address(address)} is fetched; "
                    "free some space, or keep fetched shards elsewhere"
                ) from None
            if _is_local(error, target):
                raise OutputError(f"{target.parent}: cannot be written to ({error})") from None
            reason = " ".join(_reason(error, patience).split())[:200]
            if _is_final(error):
                raise DownloadError(
                    f"{printable_address(address)}: cannot be fetched ({reason}); check address and access"
                ) from error
            before, gained = gained, _gained(target)
            if isinstance(error, _SlowError):  # gains a little, and would for ever
                failures += 2
            else:
                failures = failures + 1 if gained == before else 1
            if failures >= patience.tries:
                raise DownloadError(
                    f"{printable_address(address)}: not fetched in {failures} tries (the last: {reason}); check the connection, "
                    f"then give the same command again (what has come of it, {gained:,} bytes, is kept)"
                ) from error
            told.failure(reason, failures, patience.tries)
            time.sleep(patience.wait(failures))


class _SlowError(Exception):
    """So little comes that it would never end."""


class _Told:
    """What is said on stderr of a file that takes long; nothing of one that a thread fetches ahead."""

    def __init__(self, address: str) -> None:
        self._name = printable_address(address)
        self._silent = threading.current_thread() is not threading.main_thread()
        self._started = self._last = time.monotonic()

    def progress(self, came: int, length: int) -> None:
        """So many bytes of it are here."""
        now = time.monotonic()
        if now - self._last > (_TOLD_SECONDS if self._last > self._started else _TOLD_SECONDS / 3):
            self._say(f"{came / 2**20:,.1f} of {length / 2**20:,.1f} MiB fetched in {now - self._started:.0f} s")

    def failure(self, reason: str, tries: int, most: int) -> None:
        """A try failed, and there will be another."""
        if time.monotonic() - self._started > _TOLD_SECONDS / 3:
            self._say(f"{reason}; trying again (after {tries} of {most} tries)")

    def _say(self, words: str) -> None:
        self._last = time.monotonic()
        if not self._silent:
            Terminal(stderr=True).say(f"{self._name}: {words}")


def _try(address: str, target: Path, size: int | None, patience: RetryPolicy, most: int | None, told: _Told) -> None:
    files, path = _file_system(address, patience)
    # A server that trickles never stalls: a deadline ends it too, where fsspec can set one.
    deadline = {"timeout": 2 * patience.stall_seconds} if isinstance(files, AsyncFileSystem) else {}
    info = files.info(path, **deadline)
    length = info.get("size")
    if length is None:
        raise DownloadError(
            f"{printable_address(address)}: the server does not say how long it is, so what comes cannot be checked"
        )
    if size is not None and length != size:
        raise EOFError(f"it is {length:,} bytes long there, not {size:,}")
    if most is not None and length > most:
        raise DownloadError(
            f"{printable_address(address)}: it is {length:,} bytes long there, and should be {most:,} at most"
        )
    partial = target.with_name(f"{_partial_prefix(target)}{_version(info)}.part")
    for other in _partials(target):
        if other != partial:  # of a file that was replaced there since
            other.unlink()
    with partial.open("ab") as file:
        if length - file.tell() > (free := shutil.disk_usage(target.parent).free):
            raise OutputError(
                f"{target.parent}: {printable_address(address)} is {length:,} bytes long, and the disk has only {free:,} left; "
                "free some space, or keep fetched shards elsewhere"
            )
        pace = _Pace(patience)
        while (at := file.tell()) < length:
            for piece in _pieces(files, path, at, min(CHUNK, length - at), length, file, patience):
                file.write(piece)
                pace.came(len(piece))
                told.progress(file.tell(), length)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)


def _pieces(
    files: Any, path: str, at: int, wanted: int, length: int, file: IO[bytes], patience: RetryPolicy
) -> Iterator[bytes]:
    """The bytes of a range as they come, and never more of them; from a server without ranges all, into a file emptied."""
    if not isinstance(files, HTTPFileSystem):
        chunk = files.cat_file(
            path,
            start=at,
            end=at + wanted,
            **({"timeout": 10 * patience.stall_seconds} if isinstance(files, AsyncFileSystem) else {}),
        )
        if len(chunk) != wanted:
            raise EOFError(f"{len(chunk):,} bytes came where {wanted:,} were asked for")
        yield chunk
        return
    headers = files.kwargs["headers"] | {"Range": f"bytes={at}-{at + wanted - 1}"}
    with files.open(path, block_size=0, size=length, headers=headers) as stream:
        if stream.r.status != HTTPStatus.PARTIAL_CONTENT:
            file.truncate(0)
            wanted = length
        came = 0
        while piece := stream.read(_PIECE):
            came += len(piece)
            if came > wanted:
                raise EOFError(f"more than the {wanted:,} bytes came that were asked for")
            yield piece
    if came < wanted:
        raise EOFError(f"{came:,} bytes came where {wanted:,} were asked for")


class _Pace:
    """How fast bytes come.

    Raises:
        _SlowError: By `came`, where fewer come than the patience asks for.
    """

    def __init__(self, patience: RetryPolicy) -> None:
        self._patience = patience
        self._since, self._bytes = time.monotonic(), 0

    def came(self, count: int) -> None:
        self._bytes += count
        seconds = time.monotonic() - self._since
        if seconds > self._patience.stall_seconds:
            if self._bytes < seconds * self._patience.slowest:
                raise _SlowError(f"only {self._bytes:,} bytes came in {seconds:.0f} s")
            self._since, self._bytes = time.monotonic(), 0


def _file_system(address: str, patience: RetryPolicy) -> tuple[Any, str]:
    scheme = address.partition("://")[0].lower()
    options: dict[str, Any] = {}
    if scheme in ("http", "https"):
        seconds = patience.stall_seconds
        options = {
            "client_kwargs": {
                "timeout": aiohttp.ClientTimeout(total=2 * seconds, sock_connect=seconds, sock_read=seconds),
                "trust_env": True,
            },
            "headers": {"Accept-Encoding": "identity"},  # a range of the file, not of a packed form of it
        }
    elif scheme in ("s3", "s3a"):
        silence = {"connect_timeout": patience.stall_seconds, "read_timeout": patience.stall_seconds}
        # No tries of its own: botocore draws the waits between them where training draws.
        options = {"config_kwargs": silence | {"retries": {"total_max_attempts": 1}}}
    try:
        return fsspec.url_to_fs(address, **options)
    except ImportError as error:
        install = "pip install 'ffvit[s3]'" if scheme in ("s3", "s3a") else str(error)
        raise MissingPackageError(
            f"{printable_address(address)}: a package that reads {scheme}:// is missing; {install}"
        ) from error


def _version(info: dict[str, Any]) -> str:
    """What tells a file from one that replaces it, as far as the file system says."""
    said = [info.get(key) for key in ("size", "ETag", "etag", "Last-Modified", "LastModified", "mtime", "created")]
    return hashlib.sha256(repr(said).encode()).hexdigest()[:16]


def _partial_prefix(target: Path) -> str:
    return f".{target.name}."


def _partials(target: Path) -> Iterator[Path]:
    prefix = _partial_prefix(target)
    for path in target.parent.iterdir():
        if path.name.startswith(prefix) and path.suffix == ".part" and "." not in path.stem.removeprefix(prefix):
            yield path


def _gained(target: Path) -> int:
    return sum(path.stat().st_size for path in _partials(target))


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _is_local(error: BaseException, target: Path) -> bool:
    """Whether the trouble is with the file written here."""
    name = getattr(error, "filename", None)
    return isinstance(name, str) and name.startswith(str(target.parent / _partial_prefix(target)))


def _is_final(error: BaseException) -> bool:
    """Whether another try would end the same."""
    chain = list(_chain(error))
    for cause in chain:
        if isinstance(cause, aiohttp.ClientResponseError):
            return 400 <= cause.status < 500 and cause.status not in _TRANSIENT
        if isinstance(cause, aiohttp.InvalidURL):
            return True
        if isinstance(cause, (aiohttp.ClientError, TimeoutError)):
            return False
    # fsspec says of any trouble with http:// that there is no such file: only where it is not that, it is said truly.
    missing = (FileNotFoundError, PermissionError, IsADirectoryError)
    return any(isinstance(cause, missing) or "Credentials" in type(cause).__name__ for cause in chain)


def _reason(error: BaseException, patience: RetryPolicy) -> str:
    for cause in _chain(error):
        if isinstance(cause, aiohttp.ClientResponseError):  # in full it would repeat the address, query and all
            return f"the server answers {cause.status} {cause.message}".rstrip()
        if isinstance(cause, TimeoutError):
            return f"nothing came for {patience.stall_seconds:g} seconds"
        if isinstance(cause, aiohttp.InvalidURL):
            return "no valid address"
        if isinstance(cause, aiohttp.ClientError):
            return str(cause) or type(cause).__name__
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return str(error) or type(error).__name__


def _choices(text: str, inside: str) -> list[str]:
    if counted := _RANGE.fullmatch(inside):
        first, last = counted.groups()
        if not 0 <= int(last) - int(first) < MOST_ADDRESSES:
            raise DataError(
                f"{text}: {{{inside}}} must count upwards, over at most {MOST_ADDRESSES:,} numbers, as {{000..127}}"
            )
        width = max(len(first), len(last)) if first[0] == "0" or last[0] == "0" else 0
        return [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]
    if "," in inside:
        return inside.split(",")
    raise DataError(f"{text}: {{{inside}}} is neither a range, as {{000..127}}, nor a list, as {{a,b}}")
