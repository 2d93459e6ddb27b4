"""JSON files of ours, read as if anyone could have changed them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ffvit.errors import RunFolderError

Model = TypeVar("Model", bound=BaseModel)


class AnyObject(BaseModel):
    """Some fields of a file, of the right type; there may be others."""

    model_config = ConfigDict(extra="allow")


def read_json(path: Path, then: str, model: type[BaseModel] = AnyObject) -> dict[str, Any]:
    """The fields that a file holds.

    Args:
        path: The file.
        then: What to do where it is damaged.
        model: Fields that it must have.

    Raises:
        RunFolderError: It cannot be read, is no JSON, or lacks a field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        text = ""
    return parse_json(text, str(path), then, model)


def parse_json(text: str, where: str, then: str, model: type[BaseModel] = AnyObject) -> dict[str, Any]:
    """The fields that a text holds, see `read_json`."""
    try:
        fields = json.loads(text)
        model.model_validate(fields)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        what = f"{place}: {fault['msg'][0].lower()}{fault['msg'][1:]}" if place else "it holds no fields"
        raise RunFolderError(f"{where}: is damaged ({what}); {then}") from None
    except (ValueError, RecursionError):
        raise RunFolderError(f"{where}: is damaged (it is not JSON); {then}") from None
    checked: dict[str, Any] = fields
    return checked
