"""The connections of a server: slow ones, many, and what is no HTTP."""

from __future__ import annotations

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


async def app(scope, receive, send) -> None:
    """Reads the body and says that it has."""
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    protocol = type("Quick", (bounded(Limits(connections=OPEN)),), {"head_seconds": 0.5})
    config = uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


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


def test_connections_beyond_the_limit_are_refused_and_places_come_free(port):
    connections = [connect(port) for _ in range(OPEN + 1)]
    assert status_of(rest(connections[-1])) == 503
    for connection in connections:
        connection.close()
    for _ in range(1000):
        with connect(port) as connection:
            connection.sendall(REQUEST + bytes(1000))
            if b"200 OK" in connection.recv(2**16):
                return
        time.sleep(0.02)
    raise AssertionError("no place came free")


@pytest.mark.parametrize(
    ("sent", "status"), [(b"no HTTP at all\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 2**17, 431)]
)
def test_what_is_no_request_is_told(port, sent, status):
    with connect(port) as connection:
        connection.sendall(sent)
        assert b" %d " % status in connection.recv(2**16)
