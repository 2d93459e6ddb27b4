"""Downloads from `https://`, `s3://` and whatever else fsspec reads: whole files, resumed where a connection broke."""

from __future__ import annotations

import glob
import hashlib
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

import aiohttp
import fsspec
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.implementations.http import HTTPFileSystem

from ffvit.data.shards.addresses import printable_address
from ffvit.errors import DownloadError, MissingPackageError, OutputError, UserError
from ffvit.files.atomic_write import is_disk_full
from ffvit.terminal import Terminal

CHUNK = 16 * 2**20
"""Bytes of one request to a file system that is not HTTP."""

REPORT_SECONDS = 10.0
"""How often a download says on stderr how far it is."""

_READ = 2**18
_MAKE_ROOM = "free some space, or keep downloaded shards elsewhere"
_TRANSIENT = (408, 425, 429)  # the 4xx answers that another try may change
_jitter = random.Random()  # separate: a retry must not advance the global generator


@dataclass(frozen=True)
class RetryPolicy:
    """When to try a download again, and when to give up."""

    tries: int = 8  # failures in a row before giving up
    stall_seconds: float = 30.0  # silence that counts as a failure
    first_wait: float = 0.5  # seconds before the second try; doubled for each after it, give or take a half
    longest_wait: float = 30.0  # the most it grows to
    slowest: float = 8 * 2**10  # bytes a second; fewer over `stall_seconds` count as a failure

    def wait(self, failures: int) -> float:
        """Seconds to wait after so many failures; random, so that many processes do not come back at once."""
        return min(self.first_wait * 2.0 ** (failures - 1), self.longest_wait) * _jitter.uniform(0.5, 1.5)


RETRY = RetryPolicy()


class _FailedTry(Exception):  # noqa: N818
    """A try failed: why, and whether every other would fail too."""

    def __init__(self, reason: str, final: bool = False) -> None:
        super().__init__(reason)
        self.reason = " ".join(reason.split())[:200]
        self.final = final


def download(
    address: str, target: Path, size: int | None = None, *, most: int | None = None, quiet: bool = False, hint: str = ""
) -> None:
    """Download a file, whole or not at all; only one process at a time may download to a target.

    What came before a connection broke is kept beside the target, and the next try, or run, continues there. Time,
    memory and disk are bounded whatever the server sends.

    Args:
        address: The file's.
        target: Where to put it.
        size: Its bytes, where they are known.
        most: Its bytes at most. Default: what the disk has room for.
        quiet: Say nothing on stderr.
        hint: What to do where there is no connection. Default: to put the file at `target`.

    Raises:
        UserError: It is not there, may not be read, is too large, or does not come in that many tries; or the disk is
            full.
    """
    name = printable_address(address)
    report = _Report(name, quiet)
    failures, most_kept = 0, _kept(target)
    while True:
        try:
            return _try(address, target, size, most, report)
        except OSError as error:
            what = f"cannot be written to ({error})"
            if is_disk_full(error):
                free = shutil.disk_usage(target.parent).free / 2**20
                what = f"the disk is full ({free:,.0f} MiB left) while {name} is downloaded; {_MAKE_ROOM}"
            raise OutputError(f"{target.parent}: {what}") from None
        except _FailedTry as error:
            if error.final:
                raise DownloadError(
                    f"{name}: cannot be downloaded ({error.reason}); check address and access"
                ) from error
            kept = _kept(target)
            gained = kept - most_kept >= RETRY.slowest * RETRY.stall_seconds
            failures, most_kept = 1 if gained else failures + 1, max(kept, most_kept)
            if failures >= RETRY.tries:
                resume = f" (the {kept:,} bytes that came are kept)" if kept else ""
                raise DownloadError(
                    f"{name}: not downloaded in {failures} tries (the last: {error.reason}); check the connection and give "
                    f"the same command again{resume}, or {hint or f'put the file at {target} yourself'}"
                ) from error
            report(f"{error.reason}; trying again (after {failures} of {RETRY.tries} tries)")
            time.sleep(RETRY.wait(failures))


class _Report:
    """Says now and then on stderr how far a download is, if it takes long."""

    def __init__(self, name: str, quiet: bool) -> None:
        self._name, self._quiet = name, quiet
        self._last = time.monotonic()

    def __call__(self, text: str) -> None:
        if not self._quiet and time.monotonic() - self._last >= REPORT_SECONDS:
            self._last = time.monotonic()
            Terminal(stderr=True).say(f"{self._name}: {text}")


def _try(address: str, target: Path, size: int | None, most: int | None, report: _Report) -> None:
    with _explained():
        files, path = _file_system(address)
        info = files.info(path, **_deadline(files, 2 * RETRY.stall_seconds))
    length = info.get("size")
    if length is None:
        raise _FailedTry("the server does not say how long it is, so what comes cannot be checked", final=True)
    if size is not None and length != size:
        raise _FailedTry(f"it is {length:,} bytes long there, not {size:,}", final=True)
    if most is not None and length > most:
        raise _FailedTry(f"it is {length:,} bytes long there, and should be {most:,} at most", final=True)
    partial = target.with_name(f".{_version(info)}.{target.name}.part")
    for old in _partials(target):
        if old != partial:  # of a file that was replaced there since
            old.unlink()
    with partial.open("ab") as file:
        free = shutil.disk_usage(target.parent).free
        if length - file.tell() > free:
            raise OutputError(
                f"{target.parent}: {printable_address(address)} is {length:,} bytes long, and the disk has only {free:,} "
                f"left; {_MAKE_ROOM}"
            )
        since, count = time.monotonic(), 0
        for piece in _pieces(files, path, file, length):
            file.write(piece)
            report(f"{file.tell() / 2**20:,.1f} of {length / 2**20:,.1f} MiB downloaded")
            count += len(piece)
            seconds = time.monotonic() - since
            if seconds > RETRY.stall_seconds:
                if count < seconds * RETRY.slowest:
                    raise _FailedTry(f"only {count:,} bytes came in {seconds:.0f} s")
                since, count = time.monotonic(), 0
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)


def _pieces(files: Any, path: str, file: IO[bytes], length: int) -> Iterator[bytes]:
    """What is still missing of a partial file, as it comes; a server without ranges sends all, into a file emptied."""
    if file.tell() == length:
        return
    if not isinstance(files, HTTPFileSystem):
        for start in range(file.tell(), length, CHUNK):
            end = min(start + CHUNK, length)
            with _explained():
                piece = files.cat_file(path, start=start, end=end, **_deadline(files, 10 * RETRY.stall_seconds))
            if len(piece) != end - start:
                raise _FailedTry(f"{len(piece):,} bytes came where {end - start:,} were asked for")
            yield piece
        return
    with _explained():
        response = sync(files.loop, _get, files, path, file.tell(), timeout=2 * RETRY.stall_seconds)
    try:
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            file.seek(0)
            file.truncate()
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {file.tell()}-{length - 1}/"):
            raise _FailedTry("the server sends another part of the file than it was asked for")
        while True:
            with _explained():
                piece = sync(files.loop, response.content.read, _READ)
            if not piece:
                break
            if file.tell() + len(piece) > length:
                raise _FailedTry(f"more than the {length:,} bytes came that it should have")
            yield piece
    finally:
        files.loop.call_soon_threadsafe(response.close)
    if file.tell() < length:
        raise _FailedTry(f"it ended after {file.tell():,} of {length:,} bytes")


async def _get(files: HTTPFileSystem, address: str, start: int) -> aiohttp.ClientResponse:
    """The answer to a request for the file's bytes from `start` on."""
    headers = files.kwargs["headers"] | ({"Range": f"bytes={start}-"} if start else {})
    session = await files.set_session()
    response: aiohttp.ClientResponse = await session.get(files.encode_url(address), headers=headers)
    response.raise_for_status()
    return response


def _file_system(address: str) -> tuple[Any, str]:
    scheme = address.partition("://")[0].lower()
    seconds = RETRY.stall_seconds
    options: dict[str, Any] = {}
    if scheme in ("http", "https"):
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
        options = {
            "client_kwargs": {"timeout": timeout, "trust_env": True},
            "headers": {"Accept-Encoding": "identity"},  # a range of the file, not of a packed form of it
        }
    elif scheme in ("s3", "s3a"):
        # No tries of its own: botocore draws the waits between them where training draws.
        retries = {"total_max_attempts": 1}
        options = {"config_kwargs": {"connect_timeout": seconds, "read_timeout": seconds, "retries": retries}}
    try:
        return fsspec.url_to_fs(address, **options)
    except ImportError as error:
        install = "pip install 'ffvit[s3]'" if scheme in ("s3", "s3a") else str(error)
        raise MissingPackageError(
            f"{printable_address(address)}: a package that reads {scheme}:// is missing; {install}"
        ) from error


def _deadline(files: Any, seconds: float) -> dict[str, float]:
    """A server that trickles never stalls: a deadline ends it too, where fsspec can set one."""
    return {"timeout": seconds} if isinstance(files, AsyncFileSystem) else {}


def _version(info: dict[str, Any]) -> str:
    """What tells a file from one that replaces it, as far as the file system says."""
    keys = ("size", "ETag", "etag", "Last-Modified", "LastModified", "mtime", "created")
    return hashlib.sha256(repr([info.get(key) for key in keys]).encode()).hexdigest()[:16]


def _partials(target: Path) -> list[Path]:
    return list(target.parent.glob(f".{'?' * 16}.{glob.escape(target.name)}.part"))


def _kept(target: Path) -> int:
    """Bytes of a file that are here already."""
    return sum(path.stat().st_size for path in _partials(target))


@contextmanager
def _explained() -> Iterator[None]:
    """Every file system has its own errors; they become a `_FailedTry`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # fsspec says of any trouble with http:// that there is no such file; the cause says what it is.
        cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
        raise _failed_try(cause) from error


def _failed_try(error: BaseException) -> _FailedTry:
    if isinstance(error, aiohttp.ClientResponseError):  # its text would repeat the address, query and all
        final = 400 <= error.status < 500 and error.status not in _TRANSIENT
        return _FailedTry(f"the server answers {error.status} {error.message}", final)
    if isinstance(error, TimeoutError):
        return _FailedTry(f"nothing came for {RETRY.stall_seconds:g} seconds")
    if isinstance(error, aiohttp.InvalidURL):
        return _FailedTry("no valid address", final=True)
    if isinstance(error, FileNotFoundError):
        return _FailedTry("there is no such file", final=True)
    final = isinstance(error, (PermissionError, IsADirectoryError)) or "Credentials" in type(error).__name__
    return _FailedTry(str(error) or type(error).__name__, final)
