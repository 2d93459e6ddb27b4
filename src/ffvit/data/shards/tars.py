"""Tar files that others wrote, WebDataset's way: the headers are walked once, and what they say is kept as an index."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ffvit.data.folders import SUFFIXES, visible
from ffvit.data.images import Labelled
from ffvit.data.shards.index import (
    INFO,
    RECORD,
    VERSION,
    Shard,
    ShardFolder,
    Split,
    open_index,
    write_index,
    write_info,
)
from ffvit.data.waiting import counted
from ffvit.errors import DataError, OutputError, UserError

MOST_CLASSES = 10_000_000
"""A label beyond is no class's number."""

_PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_WORDS = re.compile(r"[a-z]+")
_KEY = re.compile(rb"((?:.*/|)[^./]+)[.]([^/]*)", re.DOTALL)
"""WebDataset's: a sample is what shares its name up to the first dot."""


def holds_tars(folder: Path) -> bool:
    """Whether tar files lie in the folder, and no folders."""
    inside = visible(folder)
    return any(entry.name.endswith(".tar") for entry in inside) and not any(entry.is_dir() for entry in inside)


def open_tars(folder: Path) -> dict[str, Labelled]:
    """The images of a folder of tar files, in the parts that the files' names (or an `_info.json`) tell.

    The index is kept in ~/.cache/ffvit, and made again when a file was changed.

    Raises:
        UserError: A file is no tar file, is cut off, is empty, or holds an image without a label.
    """
    parts = _parts(folder)
    index = Path.home() / ".cache" / "ffvit" / "shards" / _key(folder, parts)
    with suppress(UserError):  # there is none yet, or it is damaged
        return open_index(index, partial(ShardFolder, folder))
    try:
        _make_index(folder, parts, index)
    except OSError as error:
        raise OutputError(f"{index}: the index of {folder} cannot be kept there ({error.strerror or error})") from None
    return open_index(index, partial(ShardFolder, folder))


def _make_index(folder: Path, parts: dict[str, list[str]], index: Path) -> None:
    go_on = "start again"
    index.mkdir(parents=True, exist_ok=True)
    splits: list[Split] = []
    highest = -1
    for part, files in parts.items():
        shards = (read_shard(folder / file) for file in counted(files, f"looking through the tar files of {folder}"))
        split = write_index(index, part, shards, go_on)
        labels = np.load(index / f"{part}.index", mmap_mode="r")["label"]
        if labels.min() >= 0:  # Below: labels that are withheld, as those of many a public test part are
            splits.append(split)
            highest = max(highest, int(labels.max()))
    write_info(index, map(str, range(highest + 1)), splits, {"source": str(folder)}, go_on)


def _parts(folder: Path) -> dict[str, list[str]]:
    """Which files belong to which part."""
    try:
        told = json.loads((folder / INFO).read_bytes())["splits"]
        if parts := {_PARTS[name]: list(split["filenames"]) for name, split in told.items() if name in _PARTS}:
            return parts
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # There is none, or it does not tell: the files' names do
    files = sorted(entry.name for entry in visible(folder) if entry.name.endswith(".tar"))
    named: dict[str, list[str]] = {}
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


def read_shard(path: Path) -> Shard:
    """Walk through the headers of a tar file.

    Raises:
        UserError: As `open_tars`.
    """
    found = list(_images(path))
    if not found:
        raise DataError(f"{path}: there is no image in it (looked for {' '.join(SUFFIXES)}); move it away")
    records = np.zeros(len(found), RECORD)
    for field in ("offset", "length", "label"):
        records[field] = [getattr(image, field) for image in found]
    records["name_end"] = np.cumsum([len(image.name) for image in found])
    return Shard(path.name, path.stat().st_size, records, b"".join(image.name for image in found))


def _images(path: Path) -> Iterator[_Found]:
    """The images of a tar file with their labels; what belongs to one image lies together."""
    key: bytes | None = None
    sample: dict[str, tarfile.TarInfo] = {}
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in _files(tar):
                matched = _KEY.fullmatch(os.fsencode(member.name))
                if matched is None:
                    continue
                if matched[1] != key:
                    yield from _image(path, file.fileno(), sample)
                    key, sample = matched[1], {}
                sample["." + os.fsdecode(matched[2]).lower().rsplit(".", 1)[-1]] = member
            yield from _image(path, file.fileno(), sample)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: is cut off, or no tar file ({error}); copy it anew, or move it away") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # or it would keep them all
        if member.isreg():
            yield member


def _image(path: Path, descriptor: int, sample: dict[str, tarfile.TarInfo]) -> Iterator[_Found]:
    """The image of a sample, if there is one in it."""
    image = next((sample[suffix] for suffix in SUFFIXES if suffix in sample), None)
    if image is None:
        return
    given: object = None
    for suffix in (".cls", ".json"):
        if suffix in sample and given is None:
            member = sample[suffix]
            text = os.pread(descriptor, member.size, member.offset_data)
            given = _label(suffix, text)
    try:
        label = int(str(given))
    except ValueError:
        label = MOST_CLASSES
    if given is None or label >= MOST_CLASSES:
        what = "has no label (.cls, or label or cls in .json)" if given is None else f"has {given!r} as its label"
        raise DataError(f"{path}: {image.name} {what}; a label is the number of a class")
    yield _Found(os.fsencode(image.name), image.offset_data, image.size, max(label, -1))


def _label(suffix: str, text: bytes) -> object:
    if suffix == ".cls":
        return text.decode(errors="replace").strip()
    try:
        said = json.loads(text)
    except ValueError:
        return None
    if not isinstance(said, dict):
        return None
    return said.get("label", said.get("cls"))
