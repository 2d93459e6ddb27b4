"""Files that a command writes where the user says: whether it can, and what it would replace."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from ffvit.errors import OutputError


def is_predictions(beginning: bytes) -> bool:
    """Whether a file that begins so is a list of predictions."""
    return beginning.startswith(b"image,label,predicted,correct,confidence,loss")


def is_evaluation(beginning: bytes) -> bool:
    """Whether a file that begins so holds the figures of an evaluation."""
    return beginning.startswith(b'{\n  "weights": ')


def is_benchmark(beginning: bytes) -> bool:
    """Whether a file that begins so holds the numbers of a benchmark."""
    return beginning.startswith(b'{\n "machine": ')


def is_inspection(beginning: bytes) -> bool:
    """Whether a file that begins so holds the numbers of `ffvit inspect`."""
    return beginning.startswith(b'{\n  "inspect": ')


def is_inspection_page(beginning: bytes) -> bool:
    """Whether a file that begins so is a page that `ffvit inspect` wrote."""
    return beginning.startswith(b"<!doctype html>\n<!-- ffvit inspect -->")


def is_plot(beginning: bytes) -> bool:
    """Whether a file that begins so is a picture that ffvit drew."""
    return beginning.startswith(b"\x89PNG") and b"Software\0ffvit" in beginning


def is_weights(beginning: bytes) -> bool:
    """Whether a file that begins so holds weights that ffvit wrote."""
    return beginning[8:].startswith(b'{"__metadata__":{"ffvit":')


def check_output(path: Path, option: str, kind: str, is_ours: Callable[[bytes], bool]) -> None:
    """Check, before any work, that a file can be written and replaces nothing but one of its kind.

    Args:
        path: The file, device or pipe.
        option: The option that names it, for messages.
        kind: What is written, for messages.
        is_ours: Whether a file that begins with these bytes is of that kind.

    Raises:
        OutputError: It cannot, or would replace another file.
    """
    folder = path.absolute().parent
    try:
        if path.is_dir():
            raise OutputError(f"{option} {path}: is a folder; give the name of a file")
        if not folder.is_dir():
            raise OutputError(f"{option} {path}: there is no folder {path.parent}; make it, or give another place")
        try:
            path.stat()
        except FileNotFoundError:
            if path.is_symlink():
                raise
        else:
            if not path.is_file():
                return
            with path.open("rb") as file:
                if not is_ours(file.read(1000)):
                    raise OutputError(f"{option} {path}: is there, and is no {kind}; give another name")
    except OSError as error:
        raise OutputError(f"{option} {path}: cannot be written ({error.strerror}); give another place") from None
    if not is_writable(folder):
        raise OutputError(f"{option} {path}: no permission to write in {folder}; give another place")


def is_writable(folder: Path) -> bool:
    """Whether this process may make files in a folder."""
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)
