"""The images in a request's body: one or several files, or base64 in JSON. They stay in memory."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator
from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from ffvit.serving.limits import RefusedError, Share, too_large
from ffvit.terminal import printable

NAME_LENGTH = 200
"""Characters of a file's name that are kept."""

FIELDS = 16
"""Other fields of a form, which nothing reads."""


class Base64Images(BaseModel):
    """Images in JSON."""

    model_config = ConfigDict(extra="forbid", strict=True)

    images: list[str] = Field(
        min_length=1,
        description="Encoded files in base64, with or without `data:image/...;base64,` in front.",
        examples=[["iVBORw0KGgo..."]],
    )


async def read_images(request: Request, share: Share) -> list[tuple[str, bytes]]:
    """The encoded images in a body, with their names, which are no paths.

    Args:
        request: With a body of `multipart/form-data`, `application/json`, `image/*` or `application/octet-stream`.
        share: What it may hold; has its places in the queue afterwards.

    Raises:
        RefusedError: There is no image, there are too many, or the body is too large, damaged or of another type.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > share.capacity.limits.request_bytes:
        raise too_large(share.capacity.limits.request_bytes)
    if share.capacity.images >= share.capacity.limits.queue:  # told now; a place is taken once the body is there
        raise share.capacity.busy()
    if kind == "multipart/form-data":
        images = await _of_form(request.headers, _limited(request, share), share.capacity.limits.files)
    elif kind == "application/json":
        images = _of_json(await _whole(request, share))
    elif kind.startswith("image/") or kind == "application/octet-stream":
        images = [("image", await _whole(request, share))]
    else:
        raise RefusedError(
            415,
            f"the content type {printable(kind)[:NAME_LENGTH]!r} is not read: send multipart/form-data, "
            "application/json, or an image with its own type",
        )
    if not images:
        raise RefusedError(400, "there is no file in the form")
    if len(images) > share.capacity.limits.files:
        raise too_many(share.capacity.limits.files)
    share.take_images(len(images))
    return images


def too_many(most: int) -> RefusedError:
    """The refusal of more files than so many."""
    return RefusedError(
        413, f"the request has more than {most} images, the limit of this server: send several requests"
    )


async def _limited(request: Request, share: Share) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        share.take_bytes(len(chunk))
        yield chunk


async def _whole(request: Request, share: Share) -> bytes:
    return b"".join([chunk async for chunk in _limited(request, share)])


class _InMemory(MultiPartParser):
    """Starlette's, which writes files of more than 1 MiB to the disk; this one never does."""

    spool_max_size = 2**62


async def _of_form(headers: Headers, body: AsyncIterator[bytes], most: int) -> list[tuple[str, bytes]]:
    parser = _InMemory(headers, body, max_files=most, max_fields=FIELDS)  # type: ignore[arg-type]
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise too_many(most) from None
        raise RefusedError(400, f"the form cannot be read: {error.message[:1].lower()}{error.message[1:]}") from None
    images: list[tuple[str, bytes]] = []
    for _, file in form.multi_items():
        if isinstance(file, UploadFile):
            images.append((_name(file.filename, len(images)), await file.read()))
            await file.close()
    return images


def _of_json(body: bytes) -> list[tuple[str, bytes]]:
    try:
        texts = Base64Images.model_validate_json(body).images
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False, include_input=False)
        if first["type"] == "json_invalid":
            raise RefusedError(400, f"the body is no JSON: {first['ctx']['error']}") from None
        where = ".".join(map(str, first["loc"])) or "the body"
        raise RefusedError(
            422, f'{printable(where)[:NAME_LENGTH]}: {first["msg"]}; the body must be {{"images": ["BASE64", ...]}}'
        ) from None
    return [(f"image {number}", _decoded(text, number)) for number, text in enumerate(texts)]


def _decoded(text: str, number: int) -> bytes:
    head, comma, rest = text.partition(",")
    try:
        return base64.b64decode(rest if comma and head.startswith("data:") else text, validate=True)
    except (ValueError, binascii.Error):
        raise RefusedError(422, f"images.{number}: is no base64") from None


def _name(given: str | None, number: int) -> str:
    """The last part of a path, without what would steer a terminal."""
    name = printable(PurePosixPath((given or "").replace("\\", "/")).name)[:NAME_LENGTH]
    return name or f"image {number}"
