"""A web server on this machine that fails as one far away does."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(ThreadingHTTPServer):
    """Serves the files of a folder.

    Attributes:
        trouble: Gives the fate of each request: "", "drop", "delay", "truncate", "stall", or a status like "503".
        ranges: Whether it knows ranges.
        asked: (method, name, first byte) of the requests so far.
    """

    daemon_threads = True

    def __init__(self, folder: Path, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.ranges = folder, ranges
        self.asked: list[tuple[str, str, int]] = []
        self.trouble = lambda: ""
        self.pause = 0.0
        self.over = threading.Event()

    def address(self, name: str = "") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"

    def gets(self, name: str) -> list[int]:
        return [at for method, asked, at in self.asked if method == "GET" and asked == name]

    def one_in(self, n: int, seed: int = 0, fates=("drop", "delay", "truncate", "503")) -> None:
        draws = random.Random(seed)
        self.trouble = lambda: draws.choice(fates) if draws.random() < 1 / n else ""

    def handle_error(self, request, client_address) -> None:
        """A client that went away is none of our business."""


@contextlib.contextmanager
def serving(folder: Path, ranges: bool = True) -> Iterator[Server]:
    server = Server(folder, ranges)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *_) -> None: ...

    def do_HEAD(self) -> None:
        self._answer("HEAD")

    def do_GET(self) -> None:
        self._answer("GET")

    def _answer(self, method: str) -> None:
        server, name = self.server, self.path.strip("/").partition("?")[0]
        asked = self.headers.get("Range") if server.ranges else None
        first, last = asked.removeprefix("bytes=").split("-") if asked else ("0", "")
        server.asked.append((method, name, int(first)))
        fate = server.trouble()
        if fate == "drop":
            self.close_connection = True
            return None
        if fate == "delay":
            time.sleep(0.05)
        if fate.isdecimal():
            return self._headers(int(fate), 0)
        if not (server.folder / name).is_file():
            return self._headers(404, 0)
        whole = (server.folder / name).read_bytes()
        part = whole[int(first) : int(last) + 1 if last else None]
        of = f"bytes {first}-{int(first) + len(part) - 1}/{len(whole)}" if asked else None
        self._headers(206 if asked else 200, len(part), of)
        if method == "HEAD":
            return None
        if server.pause:
            time.sleep(server.pause)
        if fate in ("truncate", "stall"):
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            if fate == "stall":
                server.over.wait(10)
            self.close_connection = True
            return None
        self.wfile.write(part)
        return None

    def _headers(self, status: int, length: int, of: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        if of:
            self.send_header("Content-Range", of)
        self.end_headers()
