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
_TRANSIENT = (408, 425, 429)  # the 4xx answers that another try may change
_jitter = random.Random()  # a generator of its own, so that training's draws stay where they are


@dataclass(frozen=True)
class RetryPolicy:
    """When to try a download again, and when to give up.

    Args:
        tries: Failures in a row before giving up.
        stall_seconds: Silence that counts as a failure.
        first_wait: Seconds before the second try; doubled for each after it, give or take a half.
        longest_wait: The most it grows to.
        slowest: Bytes a second; fewer over `stall_seconds` count as a failure.
    """

    tries: int = 8
    stall_seconds: float = 30.0
    first_wait: float = 0.5
    longest_wait: float = 30.0
    slowest: float = 8 * 2**10

    def wait(self, failures: int) -> float:
        """Seconds to wait after so many failures; random, so that many processes do not come back at once."""
        return min(self.first_wait * 2.0 ** (failures - 1), self.longest_wait) * _jitter.uniform(0.5, 1.5)


class _FailedTry(Exception):  # noqa: N818
    """A try failed: why, and whether every other would fail too."""

    def __init__(self, reason: str, final: bool = False) -> None:
        super().__init__(reason)
        self.reason = " ".join(reason.split())[:200]
        self.final = final


def download(
    address: str,
    target: Path,
    size: int | None = None,
    policy: RetryPolicy | None = None,
    *,
    most: int | None = None,
    quiet: bool = False,
    instead: str | None = None,
) -> None:
    """Download a file, whole or not at all; only one process at a time may download to a target.

    What came before a connection broke is kept beside the target, and the next try, or run, continues there. Time,
    memory and disk are bounded whatever the server sends.

    Args:
        address: The file's.
        target: Where to put it.
        size: Its bytes, where they are known.
        policy: When to give up.
        most: Its bytes at most. Default: what the disk has room for.
        quiet: Say nothing on stderr.
        instead: What to do where there is no connection. Default: to put the file at `target`.

    Raises:
        UserError: It is not there, may not be read, is too large, or does not come in that many tries; or the disk is
            full.
    """
    policy = policy or RetryPolicy()
    name = printable_address(address)
    instead = instead or f"put the file at {target} yourself"
    report = _Report(name, quiet)
    failures, most_kept = 0, _kept(target)
    while True:
        try:
            return _try(address, target, size, policy, most, report)
        except OSError as error:
            raise _local_error(error, target, name) from None
        except _FailedTry as error:
            if error.final:
                raise DownloadError(
                    f"{name}: cannot be downloaded ({error.reason}); check address and access"
                ) from error
            kept = _kept(target)
            gained = kept - most_kept >= policy.slowest * policy.stall_seconds
            failures, most_kept = 1 if gained else failures + 1, max(kept, most_kept)
            if failures >= policy.tries:
                raise DownloadError(
                    f"{name}: not downloaded in {failures} tries (the last: {error.reason}); check the connection and give "
                    f"the same command again (the {kept:,} bytes that came are kept), or {instead}"
                ) from error
            report(f"{error.reason}; trying again (after {failures} of {policy.tries} tries)")
            time.sleep(policy.wait(failures))


class _Report:
    """Says now and then on stderr how far a download is, if it takes long."""

    def __init__(self, name: str, quiet: bool) -> None:
        self._name, self._quiet = name, quiet
        self._last = time.monotonic()

    def __call__(self, text: str) -> None:
        if not self._quiet and time.monotonic() - self._last >= REPORT_SECONDS:
            self._last = time.monotonic()
            Terminal(stderr=True).say(f"{self._name}: {text}")


def _local_error(error: OSError, target: Path, name: str) -> OutputError:
    if not is_disk_full(error):
        return OutputError(f"{target.parent}: cannot be written to ({error})")
    free = shutil.disk_usage(target.parent).free / 2**20
    return OutputError(
        f"{target.parent}: the disk is full ({free:,.0f} MiB left) while {name} is downloaded; free some space, or keep "
        "downloaded shards elsewhere"
    )


def _try(address: str, target: Path, size: int | None, policy: RetryPolicy, most: int | None, report: _Report) -> None:
    with _explained(policy):
        files, path = _file_system(address, policy)
        info = files.info(path, **_deadline(files, 2 * policy.stall_seconds))
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
                "left; free some space, or keep downloaded shards elsewhere"
            )
        since, count = time.monotonic(), 0
        for piece in _pieces(files, path, file, length, policy):
            file.write(piece)
            report(f"{file.tell() / 2**20:,.1f} of {length / 2**20:,.1f} MiB downloaded")
            count += len(piece)
            seconds = time.monotonic() - since
            if seconds > policy.stall_seconds:
                if count < seconds * policy.slowest:
                    raise _FailedTry(f"only {count:,} bytes came in {seconds:.0f} s")
                since, count = time.monotonic(), 0
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)


def _pieces(files: Any, path: str, file: IO[bytes], length: int, policy: RetryPolicy) -> Iterator[bytes]:
    """What is still missing of a partial file, as it comes; a server without ranges sends all, into a file emptied."""
    if file.tell() == length:
        return
    if not isinstance(files, HTTPFileSystem):
        for start in range(file.tell(), length, CHUNK):
            end = min(start + CHUNK, length)
            with _explained(policy):
                piece = files.cat_file(path, start=start, end=end, **_deadline(files, 10 * policy.stall_seconds))
            if len(piece) != end - start:
                raise _FailedTry(f"{len(piece):,} bytes came where {end - start:,} were asked for")
            yield piece
        return
    with _explained(policy):
        response = sync(files.loop, _get, files, path, file.tell(), timeout=2 * policy.stall_seconds)
    try:
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            file.seek(0)
            file.truncate()
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {file.tell()}-{length - 1}/"):
            raise _FailedTry("the server sends another part of the file than it was asked for")
        while True:
            with _explained(policy):
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


def _file_system(address: str, policy: RetryPolicy) -> tuple[Any, str]:
    scheme = address.partition("://")[0].lower()
    seconds = policy.stall_seconds
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
def _explained(policy: RetryPolicy) -> Iterator[None]:
    """Every file system has its own errors; they become a `_FailedTry`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # fsspec says of any trouble with http:// that there is no such file; the cause says what it is.
        cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
        raise _FailedTry(_reason(cause, policy), _is_final(cause)) from error


def _is_final(error: BaseException) -> bool:
    if isinstance(error, aiohttp.ClientResponseError):
        return 400 <= error.status < 500 and error.status not in _TRANSIENT
    final = (aiohttp.InvalidURL, FileNotFoundError, PermissionError, IsADirectoryError)
    return isinstance(error, final) or "Credentials" in type(error).__name__


def _reason(error: BaseException, policy: RetryPolicy) -> str:
    if isinstance(error, aiohttp.ClientResponseError):  # in full it would repeat the address, query and all
        return f"the server answers {error.status} {error.message}".rstrip()
    if isinstance(error, TimeoutError):
        return f"nothing came for {policy.stall_seconds:g} seconds"
    if isinstance(error, aiohttp.InvalidURL):
        return "no valid address"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return str(error) or type(error).__name__
