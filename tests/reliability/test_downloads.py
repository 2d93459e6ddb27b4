"""Servers that trickle, never end, or lie: bounded time, memory and disk, and words meanwhile."""

from __future__ import annotations

import contextlib
import gzip
import shutil
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ffvit.data.shards import download as downloading
from ffvit.data.shards.addresses import expand_braces
from ffvit.data.shards.download import RetryPolicy, download
from ffvit.data.shards.remote import open_remote
from ffvit.errors import UserError
from memory import most_memory
from servers import serving


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Downloads are given up on after a short while."""
    monkeypatch.setattr(
        downloading, "RETRY", RetryPolicy(tries=4, stall_seconds=0.5, first_wait=0.01, longest_wait=0.05)
    )


Answer = Callable[[str, socket.socket], None]
"""Answers a request by its method, byte for byte."""


@contextlib.contextmanager
def answering(answer: Answer) -> Iterator[str]:
    """The address of a server that answers as it likes."""
    over = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            request = b""
            with contextlib.suppress(OSError):
                while b"\r\n\r\n" not in request and (piece := self.request.recv(4096)):
                    request += piece
                answer(request.split(b" ")[0].decode(), self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/x.tar"
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def headers(length: object, status: str = "200 OK", *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {length}", "Connection: close", *more, "", ""]
    return "\r\n".join(lines).encode()


def trickle(content: bytes, connection: socket.socket, seconds: float = 0.05) -> None:
    for byte in content:
        connection.sendall(bytes([byte]))
        time.sleep(seconds)


def refused(address: str, tmp_path, match: str, seconds: float, **options) -> None:
    """A download ends with this message in time, and leaves little behind."""
    started = time.monotonic()
    with pytest.raises(UserError, match=match) as caught:
        download(address, tmp_path / "x.tar", **options)
    assert time.monotonic() - started < seconds
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x.tar").exists()
    assert sum(path.stat().st_size for path in tmp_path.rglob("*")) <= 100_000


def test_a_body_that_trickles_is_given_up(tmp_path, capsys, monkeypatch):
    """A byte now and then is no stall, and would take days."""
    monkeypatch.setattr(downloading, "REPORT_SECONDS", 0.0)

    def answer(method: str, connection: socket.socket) -> None:
        connection.sendall(headers(100_000))
        if method == "GET":
            trickle(bytes(1000), connection)

    with answering(answer) as address:
        refused(address, tmp_path, r"x\.tar: not downloaded in 4 tries .the last: only \d+ bytes came in \d s", 9)
    told = capsys.readouterr().err
    assert "x.tar: 0.0 of 0.1 MiB downloaded" in told
    assert "s; trying again (after 3 of 4 tries)" in told


def test_headers_that_trickle_are_given_up(tmp_path):
    with answering(lambda _, connection: trickle(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000, connection)) as address:
        refused(address, tmp_path, r"x\.tar: not downloaded in 4 tries", 9)


def test_headers_of_the_file_that_trickle_are_given_up(tmp_path):
    def answer(method: str, connection: socket.socket) -> None:
        if method == "HEAD":
            connection.sendall(headers(100_000))
        else:
            trickle(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000, connection)

    with answering(answer) as address:
        refused(address, tmp_path, r"x\.tar: not downloaded in 4 tries", 9)


def test_a_body_without_end_takes_no_memory_and_no_disk(tmp_path):
    """A server without ranges sends everything: as much as it said, and not a byte more is kept.

    What it sends in vain is what the system holds of a connection: 36 MiB at most on Linux, at each of some tries.
    """
    sent: list[int] = []

    def answer(method: str, connection: socket.socket) -> None:
        if method == "HEAD":
            connection.sendall(headers(100_000))
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
            sent.append(0)
            for _ in range(4000):  # 256 MiB, if it were taken
                sent[-1] += connection.send(bytes(2**16))

    with most_memory() as most, answering(answer) as address:
        refused(address, tmp_path, r"more than the 100,000 bytes came that it should have", 10)
    assert most() < 16 * 2**20
    assert max(sent) < 64 * 2**20


def test_a_packed_body_is_not_unpacked_without_end(tmp_path):
    bomb = gzip.compress(bytes(2**28))

    def answer(method: str, connection: socket.socket) -> None:
        if method == "HEAD":
            connection.sendall(headers(100_000))
        else:
            connection.sendall(headers(len(bomb), "200 OK", "Content-Encoding: gzip") + bomb)

    with most_memory() as most, answering(answer) as address:
        refused(address, tmp_path, "not downloaded in 4 tries", 20)
    assert most() < 256 * 2**20


def test_a_range_answered_with_more_is_refused(tmp_path):
    def answer(method: str, connection: socket.socket) -> None:
        if method == "HEAD":
            connection.sendall(headers(50_000))
        else:
            connection.sendall(
                headers(90_000, "206 Partial Content", "Content-Range: bytes 0-49999/50000") + bytes(90_000)
            )

    with answering(answer) as address:
        refused(address, tmp_path, "more than the 50,000 bytes came", 5)


def test_a_length_beyond_the_disk_is_refused_before_a_byte_comes(tmp_path):
    asked = []

    def answer(method: str, connection: socket.socket) -> None:
        asked.append(method)
        connection.sendall(headers(10**18))

    with answering(answer) as address:
        refused(address, tmp_path, r"x\.tar is 1,000,000,000,000,000,000 bytes long, and the disk has only", 5)
    assert asked == ["HEAD"]


def test_a_disk_that_has_no_room_is_said_before_a_byte_comes(tmp_path, monkeypatch):
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "x.tar").write_bytes(bytes(50_000))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 49_999))
    with serving(tmp_path / "served") as server:
        refused(server.address("x.tar"), tmp_path, "the disk has only 49,999 left; free some space", 5)


def test_an_info_of_any_length_is_refused(tmp_path):
    def answer(method: str, connection: socket.socket) -> None:
        connection.sendall(headers(10**9))

    with answering(answer) as address, pytest.raises(UserError, match=r"_info\.json: .*it is 1,000,000,000 bytes long"):
        open_remote(address.removesuffix("/x.tar"), tmp_path)


@pytest.mark.parametrize("length", ["-5", "1e9", "9" * 5000, ""])
def test_lengths_that_are_none_are_refused(tmp_path, length):
    with answering(lambda _, connection: connection.sendall(headers(length))) as address:
        refused(address, tmp_path, r"x\.tar: ", 9)


def test_redirections_without_end_are_refused(tmp_path):
    def answer(method: str, connection: socket.socket) -> None:
        connection.sendall(headers(0, "302 Found", "Location: /x.tar"))

    with answering(answer) as address:
        refused(address, tmp_path, r"x\.tar: ", 9)


@pytest.mark.parametrize("pause", [0.05, 0.15])
def test_a_slow_but_steady_server_without_ranges_is_waited_for(tmp_path, capsys, monkeypatch, pause):
    """It was given a minute for the whole file, so large ones never came."""
    monkeypatch.setattr(downloading, "REPORT_SECONDS", 0.0)
    content = bytes(range(256)) * 256

    def answer(method: str, connection: socket.socket) -> None:
        connection.sendall(headers(len(content)))
        if method == "GET":
            for at in range(0, len(content), 4096):
                connection.sendall(content[at : at + 4096])
                time.sleep(pause)

    with answering(answer) as address:
        download(address, tmp_path / "x.tar")
    assert (tmp_path / "x.tar").read_bytes() == content
    assert "MiB downloaded" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["x{1.." + "9" * 5000 + "}", "x{" + "0" * 5000 + "..1}"])
def test_addresses_of_very_long_numbers_are_refused(text):
    with pytest.raises(UserError, match="neither a range"):
        expand_braces(text)
