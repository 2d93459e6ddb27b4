"""Fuzzes the reader of lists of images."""

from __future__ import annotations

import contextlib

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["ffvit.data.lists"]):
        import ffvit.data.lists  # noqa: F401

from fuzzing import fuzz, scratch

from ffvit.data.lists import read_column, read_list
from ffvit.errors import UserError


def target(data: bytes) -> None:
    path = scratch() / "list.csv"
    for name in ("a.jpg", "b.jpg", "é.jpg"):
        (scratch() / name).touch()
    path.write_bytes(data)
    with contextlib.suppress(UserError):
        for images, classes in read_list(path).values():
            assert 0 <= images.labels.min() <= images.labels.max() < len(classes)
    with contextlib.suppress(UserError):
        assert read_column(path, "patient")


def seeds() -> list[bytes]:
    return [
        b"path,label\na.jpg,cat\nb.jpg,dog\n",
        'path,label,split,patient\n"a.jpg", cat,train,1\nb.jpg,2,val,NA\né.jpg,,test,\n'.encode(),
        b"\xef\xbb\xbfpath;label\r\na.jpg;cat\r\n",
    ]


if __name__ == "__main__":
    fuzz(target, seeds)
