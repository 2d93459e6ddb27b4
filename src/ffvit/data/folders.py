"""Folders of images: a folder a class, alone or under train/, val/ and test/."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ffvit.data.images import FileImages, Labelled, numbered
from ffvit.data.waiting import counted
from ffvit.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
"""What a file's name must end in, upper or lower case, to be taken for an image."""

PARTS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
"""Folders that are parts, and which."""


def part_folders(folder: Path) -> dict[str, Path]:
    """Which folder holds which part: train, val and test, or the folder itself as train if it is not parted.

    A test/ without folders in it holds no labels (ImageNet's), so it is no part.

    Raises:
        UserError: The folder cannot be listed, or has both val/ and validation/.
    """
    inside = {entry.name for entry in visible(folder) if entry.is_dir()}
    if {"val", "validation"} <= inside:
        raise DataError(f"{folder}: has both val/ and validation/; rename the one that is not to be used")
    named = {part: folder / name for name, part in PARTS.items() if name in inside}
    if "test" in named and not any(entry.is_dir() for entry in visible(named["test"])):
        del named["test"]
    # Other folders beside a lone train/ or test/ make it a class (of vehicles, say) like them.
    return named if len(named) > 1 or (inside <= set(PARTS) and named) else {"train": folder}


def read_folder(folder: Path) -> Labelled:
    """The images of class folders, however deep inside them; hidden files and folders are passed over.

    Raises:
        UserError: There is no image in a class folder, or a folder cannot be listed.
    """
    found = list(counted(image_files(folder), f"looking through {folder}"))
    paths = [path for path in found if os.sep in path]
    if not paths:
        if found:
            raise DataError(
                f"{folder}: its {len(found):,} images (first: {found[0]}) lie directly in it; "
                "put those of each class into a folder named for the class"
            )
        raise DataError(f"{folder}: there is no image in it (looked for {' '.join(SUFFIXES)})")
    classes, labels = numbered([path.split(os.sep, 1)[0] for path in paths])
    return Labelled(FileImages(folder, paths, labels), classes)


def image_files(folder: Path) -> Iterator[str]:
    """Image files below the folder, relative to it, however deep; a loop of links is walked once."""

    def below(path: Path, prefix: str, above: frozenset[str]) -> Iterator[str]:
        real = os.path.realpath(path)
        if real in above:  # A link to a folder that it lies in: around this loop there is nothing new
            return
        for entry in sorted(visible(path), key=lambda entry: entry.name):
            if entry.is_dir():
                yield from below(path / entry.name, f"{prefix}{entry.name}{os.sep}", above | {real})
            elif entry.name.lower().endswith(SUFFIXES):
                yield prefix + entry.name

    return below(folder, "", frozenset())


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, without hidden things and what macOS adds to archives.

    Raises:
        UserError: The folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error
