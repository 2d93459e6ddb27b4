"""Folders of images: a folder a class, alone or under train/, val/ and test/."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ffvit.data.images import SPLIT_NAMES, FileImages, LabeledImages, natural_sort
from ffvit.errors import DataError, OutputError
from ffvit.files.output_folder import has_marks
from ffvit.terminal import track

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
"""What a file's name must end in, upper or lower case, to be taken for an image."""


def split_folders(folder: Path) -> dict[str, Path]:
    """Which folder holds which split: train, val and test, or the folder itself as train if it has no splits.

    A test/ without folders in it holds images without labels (ImageNet's) and is left out.

    Raises:
        UserError: The folder cannot be listed, or two of its folders are the same split, as val/ and validation/ are.
    """
    inside = {entry.name for entry in visible(folder) if is_folder(entry) and not _is_output(folder / entry.name)}
    named: dict[str, Path] = {}
    for name, split in SPLIT_NAMES.items():
        if name in inside:
            if split in named:
                raise DataError(
                    f"{folder}: has both {named[split].name}/ and {name}/; rename the one that is not to be used"
                )
            named[split] = folder / name
    if "test" in named and not any(is_folder(entry) for entry in visible(named["test"])):
        del named["test"]
    # A lone train/ or test/ beside other folders is a class (of vehicles, say) like them.
    return named if len(named) > 1 or (named and inside <= set(SPLIT_NAMES)) else {"train": folder}


def read_folder(folder: Path) -> LabeledImages:
    """The images of class folders, however deep inside them, without hidden files and folders.

    Raises:
        UserError: There is no image in a class folder, or a folder cannot be listed.
    """
    files = list(track(image_files(folder), f"looking through {folder}"))
    paths = [path for path in files if os.sep in path]
    if not files:
        raise DataError(f"{folder}: there is no image in it (looked for {' '.join(SUFFIXES)})")
    if not paths:
        raise DataError(
            f"{folder}: its {len(files):,} images (first: {files[0]}) lie directly in it; "
            "put those of each class into a folder named for the class"
        )
    classes, labels = natural_sort([path.split(os.sep, 1)[0] for path in paths])
    return LabeledImages(FileImages(folder, paths, labels), classes)


def image_files(folder: Path) -> Iterator[str]:
    """Image files below the folder, relative to it, however deep; a loop of links is walked once.

    The folders of runs and studies are left out.
    """

    def below(path: Path, prefix: str, above: frozenset[str]) -> Iterator[str]:
        real = os.path.realpath(path)
        if real in above:  # a link to a folder that it lies in
            return
        for entry in sorted(visible(path), key=lambda entry: entry.name):
            if is_folder(entry):
                if not has_marks(path / entry.name):  # its figures are no images to train on
                    yield from below(path / entry.name, f"{prefix}{entry.name}{os.sep}", above | {real})
            elif entry.name.lower().endswith(SUFFIXES):
                yield prefix + entry.name

    return below(folder, "", frozenset())


def check_outside(out: Path, source: str) -> None:
    """Raise an error if what a command writes would lie in the folder of a class.

    Raises:
        OutputError: It would.
    """
    folder = Path(os.path.expanduser(source))  # noqa: PTH111 (never raises)
    place = out.resolve()
    if not os.path.isdir(folder) or not place.is_relative_to(folder.resolve()):  # noqa: PTH112 (never raises)
        return
    for split in (folder.resolve() for folder in split_folders(folder).values()):
        if place.is_relative_to(split) and place != split:
            first = split / place.relative_to(split).parts[0]
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
    """Whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder, without hidden ones and what macOS adds to archives.

    Raises:
        UserError: The folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error
