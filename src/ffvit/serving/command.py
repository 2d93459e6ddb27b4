"""`ffvit serve`: a command's options as a server's settings."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console

from ffvit.config.deploy_commands import Serve
from ffvit.config.hardware import Hardware
from ffvit.errors import MissingPackageError, UserError
from ffvit.serving.limits import MIB, Limits
from ffvit.signals import end_at_sigterm

TOKEN_VARIABLE = "FFVIT_TOKEN"  # noqa: S105 (its name)

RATE = 20.0
"""Requests per second of each address, where others than this machine reach the server."""


def run(command: Serve, console: Console) -> None:
    """Serve as a command asks for; while it still loads, SIGTERM ends it at once.

    Raises:
        UserError: The weights, the address or the token cannot be used, or a package is missing.
    """
    with end_at_sigterm():  # libraries take seconds to import, networks to load and compile
        _run(command, console)


def _run(command: Serve, console: Console) -> None:
    try:
        from ffvit.serving.server import is_loopback, serve
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"{error.name} is missing here: pip install 'ffvit[serve]'") from error

    assert isinstance(command.weights, tuple)  # one needs no tuple to be given, and is one by now
    token = _token(command.token_file)
    loopback = is_loopback(command.host)

    def ready(address: str) -> None:
        console.print(f"serving on {address} (Ctrl-C ends it)", markup=False, highlight=False, soft_wrap=True)
        if not loopback and token is None:
            console.print(
                "everyone who reaches this address may use it: give a token (--token-file), or leave out --host",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    serve(
        command.weights,
        host=command.host,
        port=command.port,
        engine=command.engine,
        precision=command.precision,
        hardware=Hardware(accelerator=command.accelerator),
        limits=Limits(
            request_bytes=command.max_mib * MIB,
            files=command.max_files,
            queue=command.queue,
            seconds=command.seconds,
            rate=command.rate or (None if loopback else RATE),
        ),
        batch_size=command.batch_size,
        token=token,
        hosts=command.allowed_hosts,
        logs=not console.quiet,
        ready=ready,
    )


def _token(file: Path | None) -> str | None:
    """The token that requests must bear: of the file, or of the variable; never an argument, which `ps` shows to all.

    Raises:
        UserError: The file cannot be read.
    """
    if file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"token_file: {file} cannot be read ({getattr(error, 'strerror', None) or 'no text'})"
        ) from None
