"""The process of a server: its socket, its networks, its end."""

from __future__ import annotations

import errno
import gc
import logging
import socket
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from types import FrameType

import uvicorn

from ffvit.config.hardware import Hardware
from ffvit.errors import DeviceError, UserError
from ffvit.inference.predictor import Predictor
from ffvit.serving.app import make_app
from ffvit.serving.connections import bounded
from ffvit.serving.limits import HEAD_SECONDS, Limits
from ffvit.serving.metrics import LOG, JsonLines
from ffvit.serving.service import Service

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
BATCH_SIZES = {"cpu": 16, "cuda": 64}
"""Images in a batch at most: all of them wait for its end."""

BACKLOG = 128
"""Connections that are accepted in one turn of the event loop: between turns, those that give way to them are closed."""

TOKEN_LENGTH = 16
"""Characters of a token at least."""


def serve(
    weights: Sequence[str | Path],
    *,
    host: str,
    port: int,
    engine: str,
    precision: str,
    hardware: Hardware,
    limits: Limits,
    batch_size: int | None = None,
    token: str | None = None,
    hosts: Collection[str] = (),
    logs: bool = False,
    ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve networks until SIGTERM or SIGINT; what was accepted by then is answered.

    Args:
        weights: Run folders or files of weights.
        host: Name or address to listen on.
        port: 0 for any free one.
        engine: See `Predictor`.
        precision: See `Predictor`.
        hardware: Where to compute.
        limits: What is granted.
        batch_size: Images in a batch at most. Default: `BATCH_SIZES`.
        token: What requests must bear.
        hosts: Names that requests may call the server by. Default: any; on loopback, its own.
        logs: Whether to write a line of JSON for each request to stderr.
        ready: Told of the address, once requests are answered.

    Raises:
        UserError: The address cannot be listened on, or the weights cannot be used so.
    """
    if token is not None and (len(token) < TOKEN_LENGTH or not token.isascii() or not token.isprintable()):
        raise UserError(f"the token must have {TOKEN_LENGTH} printable ASCII characters or more")
    with listening(host, port) as listener, logging_json(logs):
        names = _names(weights)
        predictors = {
            name: Predictor(path, engine=engine, precision=precision, hardware=hardware)
            for name, path in zip(names, weights, strict=True)
        }
        kind = next(iter(predictors.values())).device.type
        service = Service(predictors, limits, batch_size or BATCH_SIZES.get(kind, 16), engine == "compiled")
        service.warm()
        own = LOOPBACK_NAMES if is_loopback(listener.getsockname()[0]) else ()
        app = make_app(service, token=token, hosts={*hosts, *own} if hosts or own else None)
        config = uvicorn.Config(
            app,
            http=bounded(limits),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=int(limits.seconds + HEAD_SECONDS) + 1,
        )
        server = _Server(config, service, lambda: ready(_address(host, listener)))
        gc.collect()
        gc.freeze()  # a collection over all of PyTorch's objects would hold up requests for a third of a second
        server.run([listener])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.service, self.ready = service, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.service.draining = True
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # which uvicorn would raise again at the end: being asked to end is no failure


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is bound, and accepts no connection yet.

    Raises:
        DeviceError: It cannot be bound.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:  # the latter of what cannot be a name, as a..b
        raise DeviceError(f"host: {host} is no address of this machine ({error})") from None
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            reason = {
                errno.EADDRINUSE: f"port {port} is in use: give another --port, or 0 for any free one",
                errno.EADDRNOTAVAIL: f"{host} is no address of this machine",
                errno.EACCES: f"port {port} needs more rights: give a --port from 1024",
            }.get(error.errno or 0, f"port {port} of {host} cannot be listened on ({error.strerror})")
            raise DeviceError(reason) from None
        yield listener


def _address(host: str, listener: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def is_loopback(host: str) -> bool:
    """Whether this machine alone reaches an address or name."""
    try:
        return host == "localhost" or ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _names(weights: Sequence[str | Path]) -> list[str]:
    """What networks are called: by their folder or file, with the folder around it where two would be called the same."""
    paths = [path.resolve() for path in map(Path, weights)]
    short = [path.name if path.is_dir() else path.stem for path in paths]
    names = [
        name if short.count(name) == 1 else f"{path.parent.name}/{name}"
        for name, path in zip(short, paths, strict=True)
    ]
    return [name if name not in names[:number] else f"{name} ({number + 1})" for number, name in enumerate(names)]


@contextmanager
def logging_json(wanted: bool) -> Iterator[None]:
    """Inside, the server's log goes to stderr, uvicorn's warnings with it."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr) if wanted else logging.NullHandler()
    handler.setFormatter(JsonLines())
    levels = {LOG: logging.INFO, logging.getLogger("uvicorn"): logging.ERROR}
    before = [(logger, logger.level, logger.propagate) for logger in levels]
    for logger, level in levels.items():
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, old_level, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(old_level)
            logger.propagate = propagate
