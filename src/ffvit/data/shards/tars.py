"""Tar files that others wrote, as WebDataset does: their headers are read once and kept as an index."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ffvit.config.base import short
from ffvit.data.folders import SUFFIXES
from ffvit.data.images import MAX_FILE_BYTES, Labels, natural_sort
from ffvit.data.shards.index import RECORD, Shard, Split, read_info_file, write_index, write_info
from ffvit.errors import DataError, UserError
from ffvit.terminal import Terminal, printable

MOST_CLASSES = 10_000_000
"""A label beyond is no class's number."""

MOST_LETTERS = 255
"""A label that is longer is no class's name."""

_MOST_LABEL = _MOST_HEADER = 2**20
_MOST_PADDING = 2**21
"""Bytes of a label's file, of a long name, and behind the end mark, where zeros fill a tar file up."""

_KEY = re.compile(rb"((?:.*/|)[^./]+)[.]([^/]*)", re.DOTALL)
"""WebDataset's: a sample is what shares its name up to the first dot."""
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}")


def log_skipped(index: Path, source: object) -> None:
    """Say on stderr, once, what was left out when an index was made."""
    made_of = read_info_file(index).get("made_of")
    notes = made_of.get("notes") if isinstance(made_of, Mapping) else None
    for sentence in notes if isinstance(notes, list) else ():
        _say_once(f"{source}: {sentence}")


@cache
def _say_once(sentence: str) -> None:
    Terminal(stderr=True).say(sentence)


def make_index(
    folder: Path,
    source: str,
    shards_of_splits: Mapping[str, Iterable[Shard]],
    skipped: SkippedFiles,
    labels: ClassNames,
) -> None:
    """Write the index of the shards of each split into a folder; a split whose labels are withheld is left out.

    Raises:
        UserError: None is left.
    """
    resume = "start again"
    splits: list[Split] = []
    highest = lowest = -1
    for name, shards in shards_of_splits.items():
        split = write_index(folder, name, shards, resume)
        numbers = np.load(folder / f"{name}.index", mmap_mode="r")["label"]
        lowest = int(numbers.min())
        if lowest >= 0:
            splits.append(split)
            highest = max(highest, int(numbers.max()))
    if not splits:
        raise DataError(f"{source}: holds images whose label is withheld ({lowest}); leave them out")
    made_of = {"source": source, "notes": skipped.sentences()}
    if labels.as_found:
        classes, places = natural_sort(list(labels.as_found))
        splits = [_renumber(folder, split, places) for split in splits]
    else:
        classes = labels.named or tuple(map(str, range(highest + 1)))
    write_info(folder, classes, splits, made_of, resume)


def _renumber(folder: Path, split: Split, places: Labels) -> Split:
    """The split once its labels, numbered as they were found, are places among the sorted names."""
    records = np.load(folder / f"{split.name}.index", mmap_mode="r+")
    records["label"] = places[records["label"]]
    records.flush()
    return dataclasses.replace(split, index_checksum=zlib.crc32(records.data))


class SkippedFiles:
    """What is left out of tar files that are otherwise read: how much, and the first of it."""

    _sentences: ClassVar = {
        "beside": "{:,} samples hold more than one image, of which one is taken (first: {})",
        "bare": "{:,} samples have a label but no image, and are left out (first: {})",
        "special": "{:,} images are links or sparse files in their tar file, and are left out (first: {})",
    }

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def add(self, kind: str, example: str) -> None:
        """Count one more of a kind."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._first.setdefault(kind, example)

    def sentences(self) -> list[str]:
        """A sentence a kind."""
        return [self._sentences[kind].format(count, self._first[kind]) for kind, count in self._counts.items()]


class ClassNames:
    """The classes of a source: all its labels are numbers, or all are names.

    Attributes:
        as_found: The names that are labels, each with its number in the order in which they were found.
        named: The names of the numbers, where the source gives them.
    """

    def __init__(self) -> None:
        self.as_found: dict[str, int] = {}
        self.named: tuple[str, ...] = ()
        self._examples: dict[bool, str] = {}

    def number(self, label: object, image: str) -> int | None:
        """The number of a label, -1 if it is withheld; None if it is no label.

        Raises:
            DataError: The source has both numbers and names.
        """
        text = str(label)
        is_number = _NUMBER.fullmatch(text) is not None
        if is_number:
            number = int(text)
        elif isinstance(label, str) and _is_name(text):
            number = self.as_found.setdefault(text, len(self.as_found))
        else:
            return None
        if number >= 0:
            self._examples.setdefault(is_number, f"{image} has {text!r}")
        if len(self._examples) > 1:
            raise DataError(
                f"{'; '.join(self._examples.values())}: some labels are numbers and some are names; write all in one way"
            )
        return max(number, -1) if number < MOST_CLASSES else None


def _is_name(text: str) -> bool:
    if not text.isprintable() or not 0 < len(text) <= MOST_LETTERS:
        return False
    with suppress(ValueError):
        float(text)  # a number, but of no class
        return False
    return True


def read_shard(
    path: Path, skipped: SkippedFiles | None = None, labels: ClassNames | None = None, plain: Path | None = None
) -> Shard:
    """Read the headers of a tar file.

    Args:
        path: The file.
        skipped: Told what is left out of it.
        labels: The classes of the files before it, to which those of this one are added.
        plain: The plain tar file that it was unpacked into, if it is none.

    Raises:
        UserError: It is no tar file, is cut off, is empty, holds an image without a label, or both numbers and names.
    """
    plain = plain or path
    try:
        if plain.exists() and not plain.is_file():
            raise tarfile.ReadError("it is no regular file")
        with plain.open("rb") as file, tarfile.open(fileobj=file, mode="r:", tarinfo=_Member) as tar:
            images = list(_images(path, tar, file.fileno(), skipped or SkippedFiles(), labels or ClassNames()))
            size = os.fstat(file.fileno()).st_size
    except UserError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (tarfile.TarError, EOFError, zlib.error, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        reason = str(error) or "its headers are damaged"
        raise DataError(f"{path}: is cut off, or no tar file ({reason}); copy it again, or move it away") from None
    if not images:
        raise DataError(f"{path}: there is no image in it (looked for {' '.join(SUFFIXES)}); move it away")
    records = np.zeros(len(images), RECORD)
    for field in ("offset", "length", "label"):
        records[field] = [getattr(image, field) for image in images]
    records["name_end"] = np.cumsum([len(image.name) for image in images])
    return Shard(path.name, size, records, b"".join(image.name for image in images))


class _Member(tarfile.TarInfo):
    """Headers that anyone may have written: sizes are not negative, and names are short."""

    def _block(self, count: int) -> int:
        if count < 0:
            raise tarfile.HeaderError("a negative size")
        return super()._block(count)  # type: ignore[misc]

    def _proc_gnulong(self, tar: tarfile.TarFile) -> Any:
        self._check_size()
        return super()._proc_gnulong(tar)  # type: ignore[misc]

    def _proc_pax(self, tar: tarfile.TarFile) -> Any:
        self._check_size()
        return super()._proc_pax(tar)  # type: ignore[misc]

    def _check_size(self) -> None:
        if not 0 <= self.size <= _MOST_HEADER:
            raise tarfile.HeaderError(f"a header of {self.size:,} bytes")


class _Image(NamedTuple):
    """An image in a tar file, with its label."""

    name: bytes
    offset: int
    length: int
    label: int


def _images(
    path: Path, tar: tarfile.TarFile, descriptor: int, skipped: SkippedFiles, labels: ClassNames
) -> Iterator[_Image]:
    """The images of a tar file with their labels; a sample's files follow each other."""
    named = (
        (match[1], os.fsdecode(match[2]).lower(), member)
        for member in _members(tar, descriptor, skipped)
        if (match := _KEY.fullmatch(os.fsencode(member.name)))
    )
    for _, files in groupby(named, key=lambda item: item[0]):
        image = _image(path, descriptor, [(suffix, member) for _, suffix, member in files], skipped, labels)
        if image is not None:
            yield image


def _members(tar: tarfile.TarFile, descriptor: int, skipped: SkippedFiles) -> Iterator[tarfile.TarInfo]:
    end = os.fstat(descriptor).st_size
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # or it would keep them all
        if member.isreg() and not member.issparse():
            if member.size < 0 or member.offset_data + member.size > end:
                raise EOFError(f"{printable(member.name)} goes beyond the file's end")
            yield member
        elif member.name.lower().endswith(SUFFIXES) and not member.isdir():
            skipped.add("special", printable(member.name))
    _check_end(descriptor, int(tar.offset))  # before the last sample is looked at, which may lack its label


def _check_end(descriptor: int, at: int) -> None:
    """Nothing, if the file has a tar file's end mark where its last member ends, and nothing behind it.

    Raises:
        EOFError: It was cut off between two members, one in the middle is damaged, or there is more behind the end.
    """
    padding = os.pread(descriptor, _MOST_PADDING, at)
    if len(padding) < tarfile.BLOCKSIZE:
        raise EOFError(f"it ends at byte {at:,} without a tar file's end mark")
    if padding[: tarfile.BLOCKSIZE].strip(b"\0"):
        raise EOFError(f"the header at byte {at:,} is damaged")
    if padding.strip(b"\0"):
        raise EOFError(f"more lies behind its end mark at byte {at:,}, as where two tar files were joined")


def _image(
    path: Path, descriptor: int, files: list[tuple[str, tarfile.TarInfo]], skipped: SkippedFiles, classes: ClassNames
) -> _Image | None:
    """The image of a sample, if there is one; its files are given with what follows the first dot of their names."""
    labels = {
        suffix: member for suffix, member in files if suffix.rsplit(".", 1)[-1] in ("cls", "json") or suffix == "txt"
    }
    images = [(suffix, member) for suffix, member in files if f".{suffix}".endswith(SUFFIXES)]
    if not images:
        if "cls" in labels:
            skipped.add("bare", printable(labels["cls"].name))
        return None
    image = _main_image(path, images, skipped)
    name = printable(image.name)
    if image.size > MAX_FILE_BYTES:
        raise DataError(
            f"{path}: {name} has {image.size:,} bytes; an image has at most {MAX_FILE_BYTES:,}: leave it out"
        )
    label: object = None
    for suffix, member in sorted(labels.items(), key=_label_order):
        if label is None and member.size <= _MOST_LABEL:
            label = _read_label(suffix, os.pread(descriptor, member.size, member.offset_data))
    number = None if label is None else classes.number(label, f"{path}: {name}")
    if number is None:
        what = "has no label (.cls, .txt, or label or cls in .json)"
        what = what if label is None else f"has {short(label)} as its label"
        raise DataError(f"{path}: {name} {what}; a label is the number or the name of a class")
    return _Image(os.fsencode(image.name), image.offset_data, image.size, number)


def _label_order(item: tuple[str, tarfile.TarInfo]) -> tuple[bool, bool, str]:
    """a.cls before a.b.cls, and a text, which may be a caption, last."""
    return item[0] == "txt", "." in item[0], item[0]


def _main_image(path: Path, images: list[tuple[str, tarfile.TarInfo]], skipped: SkippedFiles) -> tarfile.TarInfo:
    """The one image that stands for a sample: `a.jpg` before `a.png` before `a.mask.png`.

    Raises:
        DataError: Several could: one would be lost.
    """

    def rank(suffix: str) -> int:
        return SUFFIXES.index(f".{suffix}") if f".{suffix}" in SUFFIXES else len(SUFFIXES)

    (first, image), *others = sorted(images, key=lambda item: rank(item[0]))
    if others and rank(first) == rank(others[0][0]):
        raise DataError(
            f"{path}: {printable(image.name)} and {printable(others[0][1].name)} are images of one sample, for a sample's "
            "name ends at its first dot, as in WebDataset; give each image a name of its own (a_1.jpg instead of a.1.jpg)"
        )
    if others:
        other = next(member for _, member in images if member is not image)
        skipped.add("beside", f"{printable(image.name)}, and not {printable(other.name)}")
    return image


def _read_label(suffix: str, text: bytes) -> object:
    if suffix.endswith(("cls", "txt")):
        return text.decode(errors="surrogateescape").strip()
    with suppress(ValueError, RecursionError):
        fields = json.loads(text)
        if isinstance(fields, dict):
            return fields.get("label", fields.get("cls"))
    return None
