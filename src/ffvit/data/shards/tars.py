"""Tar files that others wrote, as WebDataset does: their headers are read once and kept as an index."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ffvit.config.base import short
from ffvit.data.folders import SUFFIXES, visible
from ffvit.data.images import MAX_FILE_BYTES, LabeledImages
from ffvit.data.shards.index import (
    INFO,
    RECORD,
    VERSION,
    Shard,
    Split,
    is_plain_name,
    read_info_file,
    write_index,
    write_info,
)
from ffvit.data.shards.reader import ShardFolder, open_index
from ffvit.errors import DataError, OutputError, UserError
from ffvit.terminal import Terminal, printable, track

MOST_CLASSES = 10_000_000
"""A label beyond is no class's number."""

_MOST_LABEL = _MOST_HEADER = 2**20
_MOST_PADDING = 2**21
"""Bytes of a label's file, of a long name, and behind the end mark, where zeros fill a tar file up."""

_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_LETTERS = re.compile(r"[a-z]+")
_KEY = re.compile(rb"((?:.*/|)[^./]+)[.]([^/]*)", re.DOTALL)
"""WebDataset's: a sample is what shares its name up to the first dot."""
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}")


def holds_tars(folder: Path) -> bool:
    """Whether there are tar files in the folder, and no folders."""
    inside = visible(folder)
    return any(entry.name.endswith(".tar") for entry in inside) and not any(entry.is_dir() for entry in inside)


def open_tars(folder: Path) -> dict[str, LabeledImages]:
    """The images of a folder of tar files, in the splits that the files' names (or an `_info.json`) say.

    The index is kept in ~/.cache/ffvit, and made again when a file was changed.

    Raises:
        UserError: A file is no tar file, is cut off, is empty, or holds an image without a label.
    """
    files = _files_of_splits(folder)
    index = Path.home() / ".cache" / "ffvit" / "shards" / _fingerprint(folder, files)
    try:
        opened = open_index(index, partial(ShardFolder, folder))
    except UserError:  # there is none yet, or it is damaged
        try:
            index.mkdir(parents=True, exist_ok=True)
            skipped = SkippedFiles()
            shards = {split: _read_shards(folder, names, skipped) for split, names in files.items()}
            make_index(index, str(folder), shards, skipped)
        except OSError as error:
            raise OutputError(
                f"{index}: the index of {folder} cannot be kept there ({error.strerror or error})"
            ) from None
        opened = open_index(index, partial(ShardFolder, folder))
    log_skipped(index, folder)
    return opened


def _read_shards(folder: Path, files: list[str], skipped: SkippedFiles) -> Iterator[Shard]:
    for file in track(files, f"indexing the tar files of {folder}"):
        yield read_shard(folder / file, skipped)


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
    folder: Path, source: str, shards_of_splits: Mapping[str, Iterable[Shard]], skipped: SkippedFiles
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
        labels = np.load(folder / f"{name}.index", mmap_mode="r")["label"]
        lowest = int(labels.min())
        if lowest >= 0:
            splits.append(split)
            highest = max(highest, int(labels.max()))
    if not splits:
        raise DataError(f"{source}: holds images whose label is withheld ({lowest}); leave them out")
    made_of = {"source": source, "notes": skipped.sentences()}
    write_info(folder, map(str, range(highest + 1)), splits, made_of, resume)


def _files_of_splits(folder: Path) -> dict[str, list[str]]:
    """The files of each split: as an `_info.json` says, or else as their names do."""
    if (folder / INFO).exists() and (info := read_info_file(folder).get("splits")) is not None:
        try:
            files = {_SPLITS[name]: list(split["filenames"]) for name, split in info.items() if name in _SPLITS}
        except (KeyError, TypeError, AttributeError):
            files = {"": []}
        if not all(names and all(map(is_plain_name, names)) for names in files.values()):
            raise DataError(
                f"{folder / INFO}: is damaged: it does not give the files of each split; repair it, or move it away"
            )
        if files:
            return files
    files = {}
    for name in sorted(entry.name for entry in visible(folder) if entry.name.endswith(".tar")):
        words = (_SPLITS[word] for word in _LETTERS.findall(name.lower()) if word in _SPLITS)
        files.setdefault(next(words, ""), []).append(name)
    if "" in files and len(files) > 1:
        raise DataError(
            f"{folder}: {files[''][0]} does not say which split it belongs to, while others do; put train, val or test "
            "into its name, or move it away"
        )
    return {split or "train": names for split, names in files.items()}


def _fingerprint(folder: Path, files_of_splits: dict[str, list[str]]) -> str:
    """A name for these files as they are now."""
    values: list[Any] = [VERSION, os.fsencode(folder.resolve()).hex()]
    for split, files in files_of_splits.items():
        for file in files:
            try:
                status = (folder / file).stat()
            except OSError as error:
                raise DataError(f"{folder / file}: cannot be read ({error.strerror})") from None
            values.append((split, file, status.st_size, status.st_mtime_ns))
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:24]


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


def read_shard(path: Path, skipped: SkippedFiles | None = None) -> Shard:
    """Read the headers of a tar file.

    Args:
        path: The file.
        skipped: Told what is left out of it.

    Raises:
        UserError: As `open_tars`.
    """
    try:
        if path.exists() and not path.is_file():
            raise tarfile.ReadError("it is no regular file")
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:", tarinfo=_Member) as tar:
            images = list(_images(path, tar, file.fileno(), skipped or SkippedFiles()))
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


def _images(path: Path, tar: tarfile.TarFile, descriptor: int, skipped: SkippedFiles) -> Iterator[_Image]:
    """The images of a tar file with their labels; a sample's files follow each other."""
    named = (
        (match[1], os.fsdecode(match[2]).lower(), member)
        for member in _members(tar, descriptor, skipped)
        if (match := _KEY.fullmatch(os.fsencode(member.name)))
    )
    for _, files in groupby(named, key=lambda item: item[0]):
        image = _image(path, descriptor, [(suffix, member) for _, suffix, member in files], skipped)
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
    path: Path, descriptor: int, files: list[tuple[str, tarfile.TarInfo]], skipped: SkippedFiles
) -> _Image | None:
    """The image of a sample, if there is one; its files are given with what follows the first dot of their names."""
    labels = {suffix: member for suffix, member in files if suffix.rsplit(".", 1)[-1] in ("cls", "json")}
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
    for suffix, member in sorted(labels.items(), key=lambda item: ("." in item[0], item[0])):  # a.cls before a.b.cls
        if label is None and member.size <= _MOST_LABEL:
            label = _read_label(suffix, os.pread(descriptor, member.size, member.offset_data))
    number = int(str(label)) if label is not None and _NUMBER.fullmatch(str(label)) else MOST_CLASSES
    if number >= MOST_CLASSES:
        what = "has no label (.cls, or label or cls in .json)" if label is None else f"has {short(label)} as its label"
        raise DataError(f"{path}: {name} {what}; a label is the number of a class")
    return _Image(os.fsencode(image.name), image.offset_data, image.size, max(number, -1))


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
    if suffix.endswith("cls"):
        return text.decode(errors="replace").strip()
    with suppress(ValueError, RecursionError):
        fields = json.loads(text)
        if isinstance(fields, dict):
            return fields.get("label", fields.get("cls"))
    return None
