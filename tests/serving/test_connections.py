"""The connections of a server: slow ones, many, and what is no HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from ffvit.serving.connections import bounded
from ffvit.serving.limits import Limits

OPEN = 8
REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"


SLOW, GO = threading.Semaphore(0), threading.Event()
"""/slow has begun; it may end."""


async def app(scope, receive, send) -> None:
    """Reads the body and says that it has; /early does not read it, /slow waits."""
    more = scope["path"] != "/early"
    if scope["path"] == "/slow":
        SLOW.release()
        await asyncio.to_thread(GO.wait, 60)
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@contextlib.contextmanager
def serving(head_seconds: float) -> Iterator[int]:
    protocol = type("Quick", (bounded(Limits(connections=OPEN, request_bytes=2**20)),), {"head_seconds": head_seconds})
    config = uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.force_exit = server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(0.5) as port:
        yield port


@pytest.fixture
def patient() -> Iterator[int]:
    """The port of a server on whose time nothing depends."""
    with serving(600.0) as port:
        yield port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def rest(connection: socket.socket) -> bytes:
    """All that comes until the connection is closed."""
    received = b""
    while part := connection.recv(2**16):
        received += part
    return received


def status_of(response: bytes) -> int:
    head, _, body = response.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == status
    return status


def test_slow_headers_and_bodies_are_told_and_silent_connections_closed(port):
    with connect(port) as silent, connect(port) as head, connect(port) as body, connect(port) as kept:
        head.sendall(b"POST / HTTP/1.1\r\nx: ")
        body.sendall(REQUEST + b"x")
        assert status_of(rest(head)) == 408
        assert status_of(rest(body)) == 408
        assert rest(silent) == b""
        assert rest(kept) == b""


def bytes_until_closed(connection: socket.socket, most: int) -> int:
    """How many bytes can be sent, one after another, before the connection is closed."""
    for sent in range(most):
        try:
            connection.sendall(b"x")
        except OSError:
            return sent
        time.sleep(0.05)
    return most


def test_a_drop_now_and_then_does_not_keep_a_request_open(port):
    with connect(port) as connection:
        connection.sendall(REQUEST)
        assert bytes_until_closed(connection, 999) < 999


def whole(port: int) -> bytes:
    """The response to a request that comes at once, over a connection of its own."""
    with connect(port) as connection:
        connection.sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + bytes(1000))
        return rest(connection)


@pytest.mark.parametrize("begun", [b"", b"POST / HTTP/1.1\r\nx: ", REQUEST + b"x"], ids=["silent", "head", "body"])
def test_hundreds_of_connections_that_send_nothing_more_keep_nobody_out(patient, begun):
    """Each new one takes the place of the oldest of them, long before its time is over."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(connect(patient)) for _ in range(300)]
        for connection in opened[-OPEN:-1]:
            connection.sendall(begun)
        opened[-1].sendall(REQUEST.replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n"))
        assert b"100 Continue" in opened[-1].recv(2**16)  # by now the server has read what the others sent
        for _ in range(3):
            assert b"200 OK" in whole(patient)
        assert [rest(connection) for connection in opened[:-OPEN]] == [b""] * (300 - OPEN)
        assert rest(opened[-OPEN])[9:12] == (b"503" if begun else b"")


def test_connections_beyond_the_limit_are_refused_where_all_are_at_work(patient):
    with contextlib.ExitStack() as stack:
        busy = [stack.enter_context(connect(patient)) for _ in range(OPEN)]
        for connection in busy:
            connection.sendall(b"GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            SLOW.acquire()
        with connect(patient) as connection:
            assert status_of(rest(connection)) == 503
        GO.set()
        assert all(b"200 OK" in rest(connection) for connection in busy)


@pytest.mark.parametrize("more", [bytes(1000), b"\r\n"], ids=["its body", "an empty line"])
def test_a_connection_whose_request_is_answered_does_not_stay_for_ever(port, more):
    """Bytes that begin no request end uvicorn's own timer."""
    with connect(port) as connection:
        connection.sendall(REQUEST.replace(b"/", b"/early", 1) if len(more) > 2 else b"GET /early HTTP/1.1\r\n\r\n")
        assert b"200 OK" in connection.recv(2**16)
        connection.sendall(more)
        assert rest(connection) == b""


def test_a_body_without_end_is_not_read_for_ever(patient):
    with connect(patient) as connection:
        connection.sendall(b"POST /early HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        chunks = (b"10000\r\n" + bytes(2**16) + b"\r\n") * 1000
        with pytest.raises(OSError, match=r"reset|Broken"):
            connection.sendall(chunks)


@pytest.mark.parametrize(
    ("sent", "status"), [(b"no HTTP at all\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 2**17, 431)]
)
def test_what_is_no_request_is_told(port, sent, status):
    with connect(port) as connection:
        connection.sendall(sent)
        assert b" %d " % status in connection.recv(2**16)
