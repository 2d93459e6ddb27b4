"""Fuzzes the reader of lists of images. The first byte says what is read: the images, or a column."""

from __future__ import annotations

import contextlib
from functools import cache
from pathlib import Path

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["ffvit.data.lists"]):
        import ffvit.data.lists  # noqa: F401

from fuzzing import fuzz, scratch

from ffvit.data.lists import read_column, read_list
from ffvit.errors import UserError


@cache
def listed() -> Path:
    """A list beside three images."""
    for name in ("a.jpg", "b.jpg", "é.jpg"):
        (scratch() / name).touch()
    return scratch() / "list.csv"


def target(data: bytes) -> None:
    path = listed()
    path.write_bytes(data[1:])
    with contextlib.suppress(UserError):
        if data[:1] == b"c":
            assert read_column(path, "patient")
            return
        for images, classes in read_list(path).values():
            assert 0 <= images.labels.min() <= images.labels.max() < len(classes)


def seeds() -> list[bytes]:
    tables = [
        b"path,label\na.jpg,cat\nb.jpg,dog\n",
        'path,label,split,patient\n"a.jpg", cat,train,1\nb.jpg,2,val,NA\né.jpg,,test,\n'.encode(),
        b"\xef\xbb\xbfpath;label\r\na.jpg;cat\r\n",
    ]
    return [kind + table for kind in (b"i", b"c") for table in tables]


if __name__ == "__main__":
    fuzz(target, seeds)
