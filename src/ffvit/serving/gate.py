"""What every request passes before the app: host, origin, token, rate; and after it: headers, log, metrics."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Collection
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ffvit.serving.limits import Rates, RefusedError
from ffvit.serving.metrics import LOG, Metrics

OPEN_PATHS = frozenset({"/", "/page.js", "/style.css", "/icon.svg", "/healthz", "/readyz", "/openapi.json", "/models"})
"""What needs no token: the page, which asks for it, and what says nothing of anybody's images."""

UNCOUNTED_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""What the rate leaves alone."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def problem(refused: RefusedError) -> JSONResponse:
    """The response of a request that is refused, as RFC 9457 wants it."""
    title = HTTPStatus(refused.status).phrase
    content = {"status": refused.status, "title": title, "detail": refused.detail}
    return JSONResponse(content, refused.status, refused.headers, "application/problem+json")


class Gate:
    """Wraps the app.

    Args:
        app: What answers.
        metrics: Counts.
        paths: The paths that the app has; metrics call all others `other`.
        rates: Requests of each address, or None for any number.
        token: What requests must bear, or None.
        hosts: Names that a request may call this server by, or None for any. On loopback, it keeps the pages of
            others from reaching it by a name of their own (DNS rebinding).
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        paths: Collection[str],
        rates: Rates | None = None,
        token: str | None = None,
        hosts: Collection[str] | None = None,
    ) -> None:
        self.app, self.metrics, self.paths, self.rates, self.hosts = app, metrics, paths, rates, hosts
        self.token = token.encode() if token is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 499  # nginx's number for a client that went away
        scope.setdefault("state", {})
        fields = scope["state"]["log"] = {}

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        try:
            try:
                self._admit(scope)
                await self.app(scope, receive, answer)
            except RefusedError as refused:
                fields["detail"] = refused.detail
                await problem(refused)(scope, receive, answer)
        except ClientDisconnect:
            pass
        except Exception:
            LOG.exception("failed")
            if status == 499:
                failure = RefusedError(500, "the server failed; its log says why")
                await problem(failure)(scope, receive, answer)
        finally:
            self._record(scope, status, time.perf_counter() - start)

    def _admit(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = urlsplit(f"//{headers.get('host', '')}").hostname if _is_host(headers.get("host", "")) else None
        if self.hosts is not None and host not in self.hosts:
            raise RefusedError(421, "this server is not known by the name in the Host header: see --allowed-hosts")
        origin = headers.get("origin")
        if scope["method"] == "POST" and origin is not None and origin.partition("://")[2] != headers.get("host"):
            raise RefusedError(403, "pages of other origins may not use this server")
        if self.token is not None and scope["path"] not in OPEN_PATHS:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self.token):
                raise RefusedError(401, "a bearer token is needed", www_authenticate="Bearer")
        if self.rates is not None and scope["path"] not in UNCOUNTED_PATHS:
            self.rates.take(_address(scope))

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        path = scope["path"] if scope["path"] in self.paths else "other"
        self.metrics.requests.labels(path, status).inc()
        self.metrics.seconds.labels(path).observe(seconds)
        if LOG.isEnabledFor(logging.INFO):
            fields = {
                "address": _address(scope),
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status,
                "seconds": round(seconds, 4),
                **scope["state"]["log"],
            }
            LOG.info("request", extra={"fields": fields})


def _address(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def _is_host(host: str) -> bool:
    """Whether a Host header can be parsed: brackets of IPv6 that do not match are an error of urllib's."""
    return host.count("[") == host.count("]") <= 1 and not set(host) & set("@/?#\\")
