"""Connections that send nothing, or too slowly, or too large headers, are closed.

Where there are too many, a new one takes the place of the one that has kept the server waiting for longest: so whoever
opens thousands and sends nothing keeps nobody out.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from itertools import chain
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ffvit.serving.limits import BODY_RATE, HEAD_BYTES, HEAD_SECONDS, Limits

READ_ON = 4
"""Times the largest body: so much is read of one that was refused, so that its sender comes to read why."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits, which uvicorn leaves to a proxy: it waits for ever for the rest of a request.

    Attributes:
        limits: Set by `bounded`.
        silent: Those without a request, or whose headers are not complete, the longest first.
        sending: Those whose body is not complete.
        head_seconds: See `HEAD_SECONDS`.
    """

    limits: ClassVar[Limits]
    silent: ClassVar[dict[BoundedProtocol, None]]
    sending: ClassVar[dict[BoundedProtocol, None]]
    head_seconds: ClassVar[float] = HEAD_SECONDS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._timer: asyncio.TimerHandle | None = None
        self._begun = 0.0
        self._in_head = False
        self._received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            next(chain(self.silent, self.sending), self)._close(503, "too many connections: try again later")
        if not self.transport.is_closing():
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._received += len(data)  # afterwards: a message that begins in here has it, too
        if self._in_head and self._received > HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, f"the headers have more than {HEAD_BYTES // 1024} KiB")
        if self in self.sending and self._received > READ_ON * self.limits.request_bytes:
            self._stop_timer()
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._received = True, 0
        self._start_timer()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self.silent.pop(self, None)
        self.sending[self] = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stop_timer()
        super().on_message_complete()
        if self.cycle.response_complete:  # answered before its body was complete
            self._start_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None and self._timer is None:
            self._start_timer()  # uvicorn's own ends with the next byte, even if it begins no request

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn calls it so)
        self._refuse(400, "this is no valid HTTP request")

    def _start_timer(self) -> None:
        self._stop_timer()
        self.silent[self] = None
        self._begun = self.loop.time()
        self._timer = self.loop.call_later(self.head_seconds, self._too_slow)

    def _stop_timer(self) -> None:
        self.silent.pop(self, None)
        self.sending.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        allowed = self._begun + self.head_seconds + self._received / BODY_RATE
        if self in self.sending and self.loop.time() < allowed:
            self._timer = self.loop.call_at(allowed, self._too_slow)
        else:
            self._close(408, "the request came too slowly")

    def _close(self, status: int, detail: str) -> None:
        """Say why to who has begun a request; what is idle is closed without a word."""
        if self in self.silent and not self._in_head:
            self._stop_timer()
            self.transport.close()
        else:
            self._refuse(status, detail)

    def _refuse(self, status: int, detail: str) -> None:
        """Answer without the app, where no other answer is on its way, and close."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if not self.transport.is_closing() and not (busy and (self.cycle.response_started or self._in_head)):
            title = HTTPStatus(status).phrase
            body = json.dumps({"status": status, "title": title, "detail": detail}).encode()
            head = (
                f"HTTP/1.1 {status} {title}\r\ncontent-type: application/problem+json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self._stop_timer()
        self.transport.close()


def bounded(limits: Limits) -> type[BoundedProtocol]:
    """The protocol with these limits."""
    return type("Bounded", (BoundedProtocol,), {"limits": limits, "silent": {}, "sending": {}})
