"""Folders of images: a folder a class, alone or under train/, val/ and test/."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ffvit.data.images import FileImages, LabeledImages, natural_sort
from ffvit.data.progress import progress_bar
from ffvit.errors import DataError, OutputError
from ffvit.files.output_folder import has_marks

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
"""What a file's name must end in, upper or lower case, to be taken for an image."""

PARTS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
"""Folders that are parts, and which."""


def split_folders(folder: Path) -> dict[str, Path]:
    """Which folder holds which split: train, val and test, or the folder itself as train if it has no splits.

    A test/ without folders in it holds no labels (ImageNet's), so it is no part.

    Raises:
        UserError: The folder cannot be listed, or has both val/ and validation/.
    """
    inside = {entry.name for entry in visible(folder) if is_folder(entry) and not _is_output(folder / entry.name)}
    if {"val", "validation"} <= inside:
        raise DataError(f"{folder}: has both val/ and validation/; rename the one that is not to be used")
    named = {part: folder / name for name, part in PARTS.items() if name in inside}
    if "test" in named and not any(is_folder(entry) for entry in visible(named["test"])):
        del named["test"]
    # Other folders beside a lone train/ or test/ make it a class (of vehicles, say) like them.
    return named if len(named) > 1 or (inside <= set(PARTS) and named) else {"train": folder}


def read_folder(folder: Path) -> LabeledImages:
    """The images of class folders, however deep inside them; hidden files and folders are passed over.

    Raises:
        UserError: There is no image in a class folder, or a folder cannot be listed.
    """
    found = list(progress_bar(image_files(folder), f"looking through {folder}"))
    paths = [path for path in found if os.sep in path]
    if not paths:
        if found:
            raise DataError(
                f"{folder}: its {len(found):,} images (first: {found[0]}) lie directly in it; "
                "put those of each class into a folder named for the class"
            )
        raise DataError(f"{folder}: there is no image in it (looked for {' '.join(SUFFIXES)})")
    classes, labels = natural_sort([path.split(os.sep, 1)[0] for path in paths])
    return LabeledImages(FileImages(folder, paths, labels), classes)


def image_files(folder: Path) -> Iterator[str]:
    """Image files below the folder, relative to it, however deep; a loop of links is walked once.

    The folders of runs and studies are left out.
    """

    def below(path: Path, prefix: str, above: frozenset[str]) -> Iterator[str]:
        real = os.path.realpath(path)
        if real in above:  # A link to a folder that it lies in: around this loop there is nothing new
            return
        for entry in sorted(visible(path), key=lambda entry: entry.name):
            if is_folder(entry):
                if not has_marks(path / entry.name):  # its figures are no images to train on
                    yield from below(path / entry.name, f"{prefix}{entry.name}{os.sep}", above | {real})
            elif entry.name.lower().endswith(SUFFIXES):
                yield prefix + entry.name

    return below(folder, "", frozenset())


def check_outside(out: Path, source: str) -> None:
    """Nothing, unless what a command writes would lie in the folder of a class.

    Raises:
        OutputError: It would.
    """
    folder = Path(os.path.expanduser(source))  # noqa: PTH111 (never raises)
    place = out.resolve()
    if not os.path.isdir(folder) or not place.is_relative_to(folder.resolve()):  # noqa: PTH112 (never raises)
        return
    for part in split_folders(folder).values():
        if place.is_relative_to(part.resolve()) and place != part.resolve():
            first = part.resolve() / place.relative_to(part.resolve()).parts[0]
            if first.is_dir() and not _is_output(first) and next(image_files(first), None) is not None:
                raise OutputError(f"{out}: lies in {first}, the images of a class; name an --out outside of them")


def _is_output(folder: Path) -> bool:
    """Whether a folder is a run's or a study's, or holds such and no images: `runs/`, `studies/`."""
    if has_marks(folder):
        return True
    try:
        inside = visible(folder)
    except DataError:
        return False
    folders = [entry for entry in inside if is_folder(entry)]
    return (
        bool(folders)
        and all(has_marks(folder / entry.name) for entry in folders)
        and not any(entry.name.lower().endswith(SUFFIXES) for entry in inside)
    )


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one; a link that leads nowhere is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


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
