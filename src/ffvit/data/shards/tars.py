"""Tar files that others wrote, WebDataset's way: the headers are walked once, and what they say is kept as an index."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ffvit.config.base import short
from ffvit.data.folders import SUFFIXES, visible
from ffvit.data.images import MAX_FILE_BYTES, LabeledImages
from ffvit.data.progress import progress_bar
from ffvit.data.shards.index import (
    INFO,
    RECORD,
    VERSION,
    Shard,
    ShardFolder,
    Split,
    is_plain_name,
    open_index,
    read_info_file,
    write_index,
    write_info,
)
from ffvit.errors import DataError, OutputError, UserError
from ffvit.terminal import Terminal, printable

MOST_CLASSES = 10_000_000
"""A label beyond is no class's number."""

_MOST_LABEL = _MOST_HEADER = 2**20
_MOST_PADDING = 2**21
"""Bytes of a label's file, of a long name, and behind the end mark, where zeros fill a tar file up."""

_PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_WORDS = re.compile(r"[a-z]+")
_KEY = re.compile(rb"((?:.*/|)[^./]+)[.]([^/]*)", re.DOTALL)
"""WebDataset's: a sample is what shares its name up to the first dot."""
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}")


def holds_tars(folder: Path) -> bool:
    """Whether tar files lie in the folder, and no folders."""
    inside = visible(folder)
    return any(entry.name.endswith(".tar") for entry in inside) and not any(entry.is_dir() for entry in inside)


def open_tars(folder: Path) -> dict[str, LabeledImages]:
    """The images of a folder of tar files, in the parts that the files' names (or an `_info.json`) tell.

    The index is kept in ~/.cache/ffvit, and made again when a file was changed.

    Raises:
        UserError: A file is no tar file, is cut off, is empty, or holds an image without a label.
    """
    parts = _parts(folder)
    index = Path.home() / ".cache" / "ffvit" / "shards" / _key(folder, parts)
    with suppress(UserError):  # there is none yet, or it is damaged
        opened = open_index(index, partial(ShardFolder, folder))
        log_skipped(index, folder)
        return opened
    try:
        _make_index(folder, parts, index)
    except OSError as error:
        raise OutputError(f"{index}: the index of {folder} cannot be kept there ({error.strerror or error})") from None
    log_skipped(index, folder)
    return open_index(index, partial(ShardFolder, folder))


def log_skipped(index: Path, source: object) -> None:
    """Say on stderr, once, what was left out when an index was made."""
    made_of = read_info_file(index).get("made_of")
    notes = made_of.get("notes") if isinstance(made_of, Mapping) else None
    for sentence in notes if isinstance(notes, list) else ():
        _tell(f"{source}: {sentence}")


@cache
def _tell(sentence: str) -> None:
    Terminal(stderr=True).say(sentence)


def _make_index(folder: Path, parts: dict[str, list[str]], index: Path) -> None:
    go_on = "start again"
    index.mkdir(parents=True, exist_ok=True)
    notes = SkippedFiles()
    splits: list[Split] = []
    highest = -1
    for part, files in parts.items():
        shards = (
            read_shard(folder / file, notes)
            for file in progress_bar(files, f"looking through the tar files of {folder}")
        )
        split = write_index(index, part, shards, go_on)
        labels = np.load(index / f"{part}.index", mmap_mode="r")["label"]
        if labels.min() >= 0:  # Below: labels that are withheld, as those of many a public test split are
            splits.append(split)
            highest = max(highest, int(labels.max()))
    write_info(index, map(str, range(highest + 1)), splits, {"source": str(folder), "notes": notes.sentences()}, go_on)


def _parts(folder: Path) -> dict[str, list[str]]:
    """Which files belong to which part: as an `_info.json` says, or else as their names do."""
    if (folder / INFO).exists() and (told := read_info_file(folder).get("splits")) is not None:
        try:
            named = {_PARTS[name]: list(split["filenames"]) for name, split in told.items() if name in _PARTS}
        except (KeyError, TypeError, AttributeError):
            named = {"": [""]}
        for file in (file for its in named.values() for file in its or [""]):
            if not is_plain_name(file):
                raise DataError(
                    f"{folder / INFO}: is damaged: it does not tell the files of each part; mend it, or move it away"
                )
        if named:
            return named
    files = sorted(entry.name for entry in visible(folder) if entry.name.endswith(".tar"))
    named = {}
    for file in files:
        words = (_PARTS[word] for word in _WORDS.findall(file.lower()) if word in _PARTS)
        named.setdefault(next(words, ""), []).append(file)
    if "" in named and len(named) > 1:
        raise DataError(
            f"{folder}: {named[''][0]} does not say which part it belongs to, while others do; put train, val or test "
            "into its name, or move it away"
        )
    return {part or "train": its for part, its in named.items()}


def _key(folder: Path, parts: dict[str, list[str]]) -> str:
    """A name for these files as they are now."""
    seen: list[Any] = [VERSION, os.fsencode(folder.resolve()).hex()]
    for part, files in parts.items():
        for file in files:
            try:
                stat = (folder / file).stat()
            except OSError as error:
                raise DataError(f"{folder / file}: cannot be read ({error.strerror})") from None
            seen.append((part, file, stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:24]


class _Found(NamedTuple):
    """An image in a tar file, and what its label may be read from."""

    name: bytes
    offset: int
    length: int
    label: int


def read_shard(path: Path, notes: SkippedFiles | None = None) -> Shard:
    """Walk through the headers of a tar file.

    Args:
        path: The file.
        notes: Told what is left out of it.

    Raises:
        UserError: As `open_tars`.
    """
    found = list(_images(path, notes or SkippedFiles()))
    if not found:
        raise DataError(f"{path}: there is no image in it (looked for {' '.join(SUFFIXES)}); move it away")
    records = np.zeros(len(found), RECORD)
    for field in ("offset", "length", "label"):
        records[field] = [getattr(image, field) for image in found]
    records["name_end"] = np.cumsum([len(image.name) for image in found])
    return Shard(path.name, path.stat().st_size, records, b"".join(image.name for image in found))


class SkippedFiles:
    """What is left out of tar files that are otherwise read: how much, and the first of it."""

    _words: ClassVar = {
        "beside": "{:,} samples hold more than one image, of which one is taken (first: {})",
        "bare": "{:,} samples have a label but no image, and are left out (first: {})",
        "special": "{:,} images are links or sparse files in their tar file, and are left out (first: {})",
    }

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def add(self, kind: str, example: str) -> None:
        """Count one more of a kind."""
        self._counts[kind] += 1
        self._first.setdefault(kind, example)

    def sentences(self) -> list[str]:
        """A sentence a kind."""
        return [self._words[kind].format(count, self._first[kind]) for kind, count in self._counts.items()]


class _Member(tarfile.TarInfo):
    """Headers of strangers: none points backwards, and names stay small."""

    def _block(self, count: int) -> int:
        if count < 0:
            raise tarfile.HeaderError("a negative size")
        return super()._block(count)  # type: ignore[misc]

    def _small(self) -> None:
        if not 0 <= self.size <= _MOST_HEADER:
            raise tarfile.HeaderError(f"a header of {self.size:,} bytes")

    def _proc_gnulong(self, tar: tarfile.TarFile) -> Any:
        self._small()
        return super()._proc_gnulong(tar)  # type: ignore[misc]

    def _proc_pax(self, tar: tarfile.TarFile) -> Any:
        self._small()
        return super()._proc_pax(tar)  # type: ignore[misc]


def _images(path: Path, notes: SkippedFiles) -> Iterator[_Found]:
    """The images of a tar file with their labels; what belongs to one image lies together."""
    key: bytes | None = None
    sample: list[tuple[str, tarfile.TarInfo]] = []
    try:
        if not path.exists() or path.is_file():
            with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:", tarinfo=_Member) as tar:
                for member in _files(tar, path.stat().st_size, notes):
                    matched = _KEY.fullmatch(os.fsencode(member.name))
                    if matched is None:
                        continue
                    if matched[1] != key:
                        yield from _image(path, file.fileno(), sample, notes)
                        key, sample = matched[1], []
                    sample.append((os.fsdecode(matched[2]).lower(), member))
                _check_end(file.fileno(), int(tar.offset))  # first, for where it is cut a label may be missing
                yield from _image(path, file.fileno(), sample, notes)
            return
        reason = "it is no regular file"
    except UserError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (tarfile.TarError, EOFError, zlib.error, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        reason = str(error) or "its headers are damaged"
    raise DataError(f"{path}: is cut off, or no tar file ({reason}); copy it anew, or move it away")


def _files(tar: tarfile.TarFile, end: int, notes: SkippedFiles) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # or it would keep them all
        if member.isreg() and not member.issparse():
            if member.size < 0 or member.offset_data + member.size > end:
                raise EOFError(f"{shown_name(member)} goes beyond the file's end")
            yield member
        elif member.name.lower().endswith(SUFFIXES) and not member.isdir():
            notes.add("special", shown_name(member))


def _check_end(descriptor: int, at: int) -> None:
    """Nothing, if the file has a tar file's end mark where its last member ends, and nothing behind it.

    Raises:
        EOFError: It was cut off between two members, one in the middle is damaged, or there is more behind the end.
    """
    mark = os.pread(descriptor, tarfile.BLOCKSIZE, at)
    if len(mark) < tarfile.BLOCKSIZE:
        raise EOFError(f"it ends at byte {at:,} without a tar file's end mark")
    if mark.strip(b"\0"):
        raise EOFError(f"the header at byte {at:,} is damaged")
    if os.pread(descriptor, _MOST_PADDING, at).strip(b"\0"):
        raise EOFError(f"more lies behind its end mark at byte {at:,}, as where two tar files were joined")


def shown_name(member: tarfile.TarInfo) -> str:
    """A member's name for a message."""
    return printable(member.name)


def _image(
    path: Path, descriptor: int, sample: list[tuple[str, tarfile.TarInfo]], notes: SkippedFiles
) -> Iterator[_Found]:
    """The image of a sample, if there is one in it."""
    labels = {kind: member for kind, member in sample if kind.rsplit(".", 1)[-1] in ("cls", "json")}
    images = [(kind, member) for kind, member in sample if f".{kind}".endswith(SUFFIXES)]
    if not images:
        if "cls" in labels:
            notes.add("bare", shown_name(labels["cls"]))
        return
    image = _chosen(path, images, notes)
    if image.size > MAX_FILE_BYTES:
        raise DataError(
            f"{path}: {shown_name(image)} has {image.size:,} bytes; an image has at most {MAX_FILE_BYTES:,}: leave it out"
        )
    given: object = None
    for kind, member in sorted(labels.items(), key=lambda item: ("." in item[0], item[0])):  # a.cls before a.b.cls
        if given is None and member.size <= _MOST_LABEL:
            given = _label(kind, os.pread(descriptor, member.size, member.offset_data))
    label = int(str(given)) if given is not None and _NUMBER.fullmatch(str(given)) else MOST_CLASSES
    if label >= MOST_CLASSES:
        what = "has no label (.cls, or label or cls in .json)" if given is None else f"has {short(given)} as its label"
        raise DataError(f"{path}: {shown_name(image)} {what}; a label is the number of a class")
    yield _Found(os.fsencode(image.name), image.offset_data, image.size, max(label, -1))


def _chosen(path: Path, images: list[tuple[str, tarfile.TarInfo]], notes: SkippedFiles) -> tarfile.TarInfo:
    """The one image that stands for a sample: `a.jpg` before `a.png` before `a.mask.png`.

    Raises:
        DataError: There are several, and no telling which: one would be lost.
    """
    plain = sorted(
        (SUFFIXES.index(f".{kind}"), place) for place, (kind, _) in enumerate(images) if f".{kind}" in SUFFIXES
    )
    places = [place for _, place in plain] or list(range(len(images)))
    chosen = images[places[0]][1]
    if len(places) > 1 and (not plain or plain[0][0] == plain[1][0]):
        raise DataError(
            f"{path}: {shown_name(chosen)} and {shown_name(images[places[1]][1])} are images of one sample, for a sample's "
            "name ends at its first dot, as in WebDataset; give each image a name of its own (a_1.jpg instead of a.1.jpg)"
        )
    if len(images) > 1:
        beside = next(member for place, (_, member) in enumerate(images) if place != places[0])
        notes.add("beside", f"{shown_name(chosen)}, and not {shown_name(beside)}")
    return chosen


def _label(kind: str, text: bytes) -> object:
    if kind.endswith("cls"):
        return text.decode(errors="replace").strip()
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    return said.get("label", said.get("cls"))
