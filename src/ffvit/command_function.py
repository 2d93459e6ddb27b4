"""Makes a function of a command: the command's fields are its keywords, checked and documented as there.

What those functions ask of a command is here, too.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from pydantic import ValidationError

from ffvit.config import commands
from ffvit.config.base import error_sentences
from ffvit.errors import UserError
from ffvit.terminal import Terminal

P = ParamSpec("P")
C = TypeVar("C", bound=commands.Command)
R = TypeVar("R")

RUN: dict[type[commands.Command], Callable[[Any], Any]] = {}
"""What carries out each command."""


def function_of(command: Callable[P, C]) -> Callable[[Callable[[C], R]], Callable[P, R]]:
    """Make a function that takes a command into one that takes the command's fields, checked and documented as there."""

    def decorate(run: Callable[[C], R]) -> Callable[P, R]:
        kind: Any = command
        RUN[kind] = run
        signature = inspect.signature(kind)

        @functools.wraps(run)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return run(checked(kind, signature.bind(*args, **kwargs).arguments))

        returned = inspect.signature(run).return_annotation
        call.__signature__ = signature.replace(return_annotation=returned)  # type: ignore[attr-defined]
        fields = [f"    {name}: {info.description}" for name, info in kind.__pydantic_fields__.items()]
        call.__doc__ = "\n".join([kind.__doc__.rstrip(), "", "Args:", *fields, "", inspect.getdoc(run) or ""])
        return call

    return decorate


def checked(command: type[C], fields: Mapping[str, Any]) -> C:
    """A command of these fields.

    Raises:
        UserError: A value cannot be used; says which, all at once.
    """
    try:
        return command(**fields)
    except ValidationError as error:
        raise UserError(error_sentences(error, command, "")) from None


def console_of(command: commands.Command) -> Any:
    """Where a command prints."""
    if not isinstance(command.verbose, bool):
        return command.verbose
    console = Terminal()
    console.quiet = not command.verbose
    return console


def fields_without(command: commands.Command, *names: str) -> dict[str, Any]:
    """The fields of a command but for some, and for where it prints."""
    fields = {field.name: getattr(command, field.name) for field in dataclasses.fields(command)}
    return {name: value for name, value in fields.items() if name not in ("verbose", *names)}
