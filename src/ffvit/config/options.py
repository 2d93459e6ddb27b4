"""The options of a command, read from its fields: the command line, its help and the reference page are made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from ffvit.config.base import Value
from ffvit.config.recipe import RECIPES, Recipe


@dataclasses.dataclass(frozen=True)
class Nested:
    """Marks a field whose value's fields are separate options, such as `--recipe.epochs`.

    Attributes:
        value: The class of the value.
        group: Heading of these options in the help.
        prefix: What their names start with.
        key: The field of the value that the option of this field sets, `--recipe`. Default: it has no such option.
        fields: The fields that the command uses. Default: all.
        common: The fields that the short help shows too.
        short: The fields that can be given without the prefix.
        defaults: Where their defaults are to be found, in words. Default: they are those of the value, of a recipe those of the
            named ones.
    """

    value: type[Value]
    group: str
    prefix: str = ""
    key: str | None = None
    fields: tuple[str, ...] | None = None
    common: tuple[str, ...] = ()
    short: tuple[str, ...] = ()
    defaults: str | None = None


@dataclasses.dataclass(frozen=True)
class Bare:
    """Marks a field whose option needs no value, and says which one it then has."""

    value: str


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a command.

    Attributes:
        path: Where its value goes: ("seed",), ("recipe", "epochs").
        names: How it is given: `--recipe.epochs`, `--epochs`.
        kind: What it takes: bool for a flag, str, int, float, Path or a Literal.
        help: One or two sentences.
        default: As text; None if there is none, or if the help says it.
        group: Heading in the help.
        common: Whether the short help shows it.
        many: Whether it takes several values.
        positional: Whether it can be given without its name.
        required: Whether it must be given.
        values: What a flag and its negation set the field to, where that is not yes and no.
        bare: What it is where it is given without a value; None: it needs one.
    """

    path: tuple[str, ...]
    names: tuple[str, ...]
    kind: Any
    help: str
    default: str | None
    group: str = "Options"
    common: bool = True
    many: bool = False
    positional: bool = False
    required: bool = False
    values: tuple[str, str] | None = None
    bare: str | None = None

    def switch(self) -> Option | None:
        """The flag that sets the same field, if there is one; its path is the field's with the flag's name behind."""
        if self.path[-1] not in SWITCHES:
            return None
        flag, on, off = SWITCHES[self.path[-1]]
        words = f"{flag} is {self.names[0]} {on}, {flag.replace('--', '--no-')} is {self.names[0]} {off}."
        path = (*self.path, flag.removeprefix("--"))
        return dataclasses.replace(
            self, path=path, names=(flag,), kind=bool, help=words, default=None, values=(on, off)
        )


PYTHON_ONLY = "Python only"
"""Marks a field that is no option."""

COMMAS = "with commas between them"
"""Marks a field of several values that its option takes as one word."""

RARE = "rarely needed"
"""Marks a field that the short help leaves out."""

ALIASES = {"accelerator": "--device"}
"""More names for a field's option."""

SWITCHES = {"precision": ("--amp", "bf16", "fp32")}
"""Flags that set a field: the flag, what it stands for, and what its negation does. Its help is made of the field's."""


def options_of(command: type[Any]) -> list[Option]:
    """The options of a command in the order of its fields, those of nested values last."""
    own, nested = [], []
    for field in dataclasses.fields(command):
        info: FieldInfo = command.__pydantic_fields__[field.name]
        if PYTHON_ONLY in info.metadata:
            continue
        inner = next((mark for mark in info.metadata if isinstance(mark, Nested)), None)
        if inner is None:
            own.append(_option((field.name,), field.name, info, positional=not field.kw_only))
            continue
        if inner.key is not None:
            own.append(dataclasses.replace(_option((field.name, inner.key), field.name, info), kind=str))
        for name, inside in inner.value.model_fields.items():
            if name != inner.key and (inner.fields is None or name in inner.fields):
                option = _option((field.name, name), inner.prefix + name, inside)
                names = (*option.names, *([_flag(name)] if name in inner.short else []))
                default = inner.defaults or (_recipe_default(name) if inner.value is Recipe else option.default)
                option = dataclasses.replace(
                    option, names=names, default=default, group=inner.group, common=name in inner.common
                )
                nested += [found for found in (option, option.switch()) if found is not None]
    return own + nested


def _option(path: tuple[str, ...], name: str, info: FieldInfo, positional: bool = False) -> Option:
    kind, many = _kind(info.annotation)
    default = None if info.is_required() or info.default in (None, ()) else _text(info.default)
    if default is not None and COMMAS in info.metadata:
        default = default.replace(" ", ",")
    return Option(
        path=path,
        names=(_flag(name), *([ALIASES[path[-1]]] if path[-1] in ALIASES else [])),
        kind=kind,
        help=info.description or "",
        default=default,
        common=RARE not in info.metadata,
        many=many and COMMAS not in info.metadata,
        positional=positional,
        required=info.is_required(),
        bare=next((mark.value for mark in info.metadata if isinstance(mark, Bare)), None),
    )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | list):
        return " ".join(_text(item) for item in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _recipe_default(name: str) -> str:
    """What a field is in each of the named recipes."""
    values = {recipe: getattr(fields, name) for recipe, fields in RECIPES.items()}
    texts = {recipe: "none" if value in (None, ()) else _text(value) for recipe, value in values.items()}
    if len(set(texts.values())) == 1:
        return texts["deit"]
    return ", ".join(f"{recipe} {text}" for recipe, text in texts.items())


def _kind(annotation: Any) -> tuple[Any, bool]:
    """What an option takes, and whether it takes several: of the types that a field may have, the most telling one."""
    types = list(_flat(annotation))
    many = any(get_origin(kind) in (tuple, list, Sequence) for kind in types)
    if many:
        types = [inner for kind in types for inner in (_flat(get_args(kind)[0]) if get_args(kind) else (kind,))]
    choices = [kind for kind in types if get_origin(kind) is Literal]
    for kind in (bool, *choices, int, float, Path):
        if kind in types:
            return kind, many
    return str, many


def _flat(annotation: Any) -> Sequence[Any]:
    """The types of a union; those of Annotated without its metadata."""
    if hasattr(annotation, "__metadata__"):
        return _flat(annotation.__origin__)
    if get_origin(annotation) in (Union, UnionType):
        return [kind for inner in get_args(annotation) for kind in _flat(inner)]
    return [annotation]
