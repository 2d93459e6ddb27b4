"""Addresses of remote files, one or many: `s3://bucket/train-{0000..0127}.tar`."""

from __future__ import annotations

import itertools
import math
import re

import fsspec

from ffvit.errors import DataError

MOST_ADDRESSES = 1_000_000

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})")


def is_remote(text: str) -> bool:
    """Whether this is an address, `scheme://...`, that fsspec knows the scheme of."""
    match = _SCHEME.match(text)
    return match is not None and match[1].lower() in fsspec.available_protocols()


def printable_address(address: str) -> str:
    """The address without its query, which may hold a signature."""
    return address.partition("?")[0]


def join_address(folder: str, name: str) -> str:
    """The address of a file in a folder, whose address may end in a query."""
    before, mark, query = folder.partition("?")
    return f"{before.rstrip('/')}/{name}{mark}{query}"


def expand_braces(text: str) -> tuple[str, ...]:
    """The addresses that braces stand for: `{000..127}` counts (and keeps the zeros), `{a,b}` lists.

    Raises:
        UserError: The braces do neither.
    """
    pieces = _BRACES.split(text)  # by turns outside and inside of braces
    if any("{" in piece or "}" in piece for piece in pieces[::2]):
        raise DataError(
            f"{text}: a brace is never closed, never opened, or within another; write {{000..127}} or {{a,b}}, side by side"
        )
    choices = [_choices(text, piece) if place % 2 else [piece] for place, piece in enumerate(pieces)]
    if math.prod(map(len, choices)) > MOST_ADDRESSES:
        raise DataError(f"{text}: the braces stand for more than {MOST_ADDRESSES:,} addresses")
    return tuple(map("".join, itertools.product(*choices)))


def _choices(text: str, inside: str) -> list[str]:
    if counted := _RANGE.fullmatch(inside):
        first, last = counted.groups()
        if not 0 <= int(last) - int(first) < MOST_ADDRESSES:
            raise DataError(
                f"{text}: {{{inside}}} must count upwards, over at most {MOST_ADDRESSES:,} numbers, as {{000..127}}"
            )
        width = max(len(first), len(last)) if first[0] == "0" or last[0] == "0" else 0
        return [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]
    if "," in inside:
        return inside.split(",")
    raise DataError(f"{text}: {{{inside}}} is neither a range, as {{000..127}}, nor a list, as {{a,b}}")
