"""Checked values: what a network, a recipe, a data set or a machine is, as data that prints, compares and is frozen.

Whatever a person gives (keyword, YAML, command line) passes through here once; below, code takes what was checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    model_serializer,
)

from ffvit.config.strict_yaml import parse_yaml
from ffvit.errors import ConfigError, did_you_mean

Model = TypeVar("Model", bound=BaseModel)
Same = TypeVar("Same", bound="Value")


class Value(BaseModel):
    """A frozen pydantic model that refuses unknown fields, changes only into a checked copy, and speaks YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: Callable[[Any], Any]) -> dict[str, Any]:
        """Leave out what is None by default and still None; a None that was chosen is kept."""
        fields = type(self).model_fields
        return {
            name: value
            for name, value in handler(self).items()
            if value is not None or fields[name].default is not None
        }

    def replace(self: Same, **fields: Any) -> Same:
        """A copy with some fields changed, checked again.

        Raises:
            UserError: A field is unknown, or a value does not fit the others.
        """
        return parse(type(self), {**self.model_dump(exclude_unset=True), **fields})

    def to_yaml(self) -> str:
        """This value as YAML, every field that is set spelled out; `from_yaml` reads it back equal."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    @classmethod
    def from_yaml(cls: type[Same], text: str) -> Same:
        """Read what `to_yaml` wrote, or what a person wrote like it.

        Raises:
            UserError: It is no YAML mapping, or a field or value is wrong; says which, and the nearest right one.
        """
        return parse(cls, parse_yaml(text, cls.__name__.lower()))

    def __str__(self) -> str:
        return self.to_yaml()


def parse(model: type[Model], fields: object, where: str | None = None) -> Model:
    """Check `fields` against a model and say everything that is wrong with them in words, all at once.

    Raises:
        UserError: One line a fault: where it is (a dotted path from `where`), what is wrong, what was given.
    """
    where = model.__name__.lower() if where is None else where
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(error_sentences(error, model, where)) from None


def error_sentences(error: ValidationError, model: type[Any], where: str) -> str:
    """What a validation found wrong with the fields of a model, a line a fault."""
    return "\n".join(_sentence(model, fault, where) for fault in error.errors())


def _sentence(model: type[Any], fault: Any, where: str) -> str:
    place = ".".join(str(part) for part in (where, *fault["loc"]) if part != "")
    place = f"{place}: " if place else ""
    match fault["type"]:
        case "extra_forbidden":
            return (
                f"{place}there is no such field{did_you_mean(str(fault['loc'][-1]), _fields_at(model, fault['loc']))}"
            )
        case "missing":
            return f"{place}is needed"
        case "value_error":
            return f"{place}{fault['ctx']['error']}"
        case "literal_error":
            allowed = [name.strip("'") for name in fault["ctx"]["expected"].replace(" or ", ", ").split(", ")]
            hint = did_you_mean(str(fault["input"]), allowed)
            return f"{place}must be {fault['ctx']['expected']}; got {short(fault['input'])}{hint}"
        case "int_parsing" | "int_from_float" | "int_type":
            return f"{place}must be a whole number; got {short(fault['input'])}"
        case "float_parsing" | "float_type":
            return f"{place}must be a number; got {short(fault['input'])}"
        case "model_type":
            return f"{place}must be fields and their values; got {short(fault['input'])}"
        case _:
            return f"{place}{fault['msg'][0].lower()}{fault['msg'][1:]}; got {short(fault['input'])}"


def short(value: object, most: int = 200) -> str:
    """A value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _fields_at(model: type[Any], place: tuple[int | str, ...]) -> list[str]:
    """The names that would have been right where an unknown field was given."""
    for part in place[:-1]:
        if isinstance(part, str) and part in model.__pydantic_fields__:
            inner = model.__pydantic_fields__[part].annotation
            models = [
                kind for kind in (inner, *get_args(inner)) if isinstance(kind, type) and issubclass(kind, BaseModel)
            ]
            model = models[0] if models else model
    return list(model.__pydantic_fields__)
