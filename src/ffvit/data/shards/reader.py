"""Reads images from shards: the index is mapped into memory, the tar files are opened as they are needed."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from ffvit.config.base import short
from ffvit.data.images import BadImageError, LabeledImages, Labels, StoredImage
from ffvit.data.shards.index import INFO, PLAN, PREPARE_AGAIN, RECORD, Split, read_info, unusable
from ffvit.errors import DataError

_CHECKED_AT_ONCE = 2**15  # records


@runtime_checkable
class Shards(Protocol):
    """The shard files of a split."""

    open_files: ClassVar[int]
    """How many a process keeps open."""

    @property
    def files(self) -> tuple[str, ...]:
        """Their names."""
        ...

    def open(self, number: int) -> int:
        """Open a shard for reading, and return the descriptor.

        Raises:
            OSError: It cannot be opened.
        """
        ...


@dataclass(frozen=True)
class ShardFolder:
    """Shards in a folder."""

    open_files: ClassVar[int] = 128  # thousands would pass the system's limit

    folder: Path
    files: tuple[str, ...]

    def open(self, number: int) -> int:
        """See `Shards.open`."""
        return os.open(self.folder / self.files[number], os.O_RDONLY | os.O_CLOEXEC)


class ShardImages:
    """Images in shards, any of them read with one system call. Workers share the index, and open shards themselves."""

    def __init__(self, index: Path, shards: Shards) -> None:
        """Map the index.

        Args:
            index: The split's .index file, with its .names beside it.
            shards: The split's shards.

        Raises:
            UserError: The index or the names are missing, damaged, or of another version.
        """
        self.index = index
        self.shards = shards
        self.records = _map_records(index)
        self._names = _map_names(index, self.records)
        self.labels: Labels = self.records["label"].astype(np.int64)
        self._open: dict[int, _OpenFile] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardImages, (self.index, self.shards)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """The shard and the image's original name: train-000003.tar:n01440764/10026.jpg."""
        begin = int(self.records["name_end"][index - 1]) if index else 0
        name = self._names[begin : int(self.records["name_end"][index])].tobytes()
        return f"{self.shards.files[int(self.records['shard'][index])]}:{os.fsdecode(name)}"

    def read(self, index: int) -> StoredImage:
        """The image's bytes, see `Images.read`."""
        shard, offset, length, _, _, _, checksum, _ = self.records[index].item()
        try:
            stored = self._open_file(shard).read(offset, length)
        except OSError as error:
            raise BadImageError(
                self.name(index), f"cannot be read at byte {offset} ({error.strerror or error})"
            ) from None
        if len(stored) < length:
            raise BadImageError(
                self.name(index), f"the shard is cut off: {length} bytes should lie at byte {offset}, {len(stored)} do"
            )
        if checksum and zlib.crc32(stored) != checksum:
            raise BadImageError(self.name(index), f"its bytes at byte {offset} are not those that were written")
        return stored

    def _open_file(self, shard: int) -> _OpenFile:
        file = self._open.pop(shard, None) or _OpenFile(self.shards.open(shard))
        self._open[shard] = file  # the last is the most recently used
        if len(self._open) > self.shards.open_files:
            self._open.pop(next(iter(self._open)))
        return file


class _OpenFile:
    """A descriptor that is closed when nothing refers to it any more."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)  # has no position, so forked processes may share it

    def __del__(self) -> None:
        os.close(self._descriptor)


def open_shards(folder: Path) -> dict[str, LabeledImages]:
    """The splits of a folder that `ffvit prepare` wrote.

    Raises:
        UserError: It is not finished, a shard is missing or not as it was written, or as `open_index`.
    """
    if (folder / PLAN).exists() and not (folder / INFO).exists():
        raise DataError(f"{folder}: is not fully prepared; give the same ffvit prepare command again to continue")
    for split in read_info(folder)[1].values():
        _check_shards(folder, split)
    return open_index(folder, lambda split: ShardFolder(folder, split.filenames))


def open_index(folder: Path, shards: Callable[[Split], Shards]) -> dict[str, LabeledImages]:
    """The splits of a folder that holds an index, wherever the shards are.

    Args:
        folder: Where `_info.json`, indices and names are.
        shards: Makes the shards of a split.

    Raises:
        UserError: A file is missing, damaged, of another version or of other shards, or a label has no class.
    """
    classes, splits = read_info(folder)
    opened = {}
    for name, split in splits.items():
        index = folder / f"{name}.index"
        images = ShardImages(index, shards(split))
        if len(images) != split.num_samples or zlib.crc32(images.records.data) != split.index_checksum:
            raise unusable(index, f"is not the index that {folder / INFO} describes")
        _check_records(index, images.records, split)
        low, high = int(images.labels.min()), int(images.labels.max())
        if low < 0 or high >= len(classes):
            wrong = low if low < 0 else high
            raise unusable(
                index, f"has an image of class {wrong}, but {folder / INFO} names {len(classes):,} classes (from 0)"
            )
        opened[name] = LabeledImages(images, classes)
    return opened


def _check_shards(folder: Path, split: Split) -> None:
    """Nothing, if all shards of a split are there with the size they were written with."""
    missing = []
    for file, written in zip(split.filenames, split.shard_bytes, strict=True):
        try:
            size = (folder / file).stat().st_size
        except OSError:
            missing.append(file)
            continue
        if size != written:
            what = "is cut off" if size < written else "is another file"
            raise DataError(
                f"{folder / file}: {what}: it has {size:,} bytes, and was written with {written:,}; copy it again, or "
                f"{PREPARE_AGAIN}"
            )
    if missing:
        raise DataError(
            f"{folder}: {len(missing):,} of the {len(split.filenames):,} shards of {split.name} are missing (first: "
            f"{missing[0]}); copy them there, or {PREPARE_AGAIN}"
        )


def _map_records(index: Path) -> np.ndarray:
    try:
        records: np.ndarray = np.lib.format.open_memmap(index, mode="r")
    except FileNotFoundError:
        raise unusable(index, "is missing") from None
    except Exception as error:  # numpy's reader raises nearly anything on damaged headers
        raise unusable(index, f"cannot be read as an index ({short(str(error))})") from None
    if records.dtype != RECORD or records.ndim != 1:
        raise unusable(index, "is an index of another version")
    if not len(records):
        raise unusable(index, "holds no image")
    return records.view(np.ndarray)  # np.memmap takes four times as long to get an item


def _map_names(index: Path, records: np.ndarray) -> np.ndarray:
    names = index.with_suffix(".names")
    try:
        size = names.stat().st_size
    except OSError:
        raise unusable(names, "is missing") from None
    if size != records["name_end"][-1]:
        raise unusable(names, f"are not the names of the images in {index}")
    return np.memmap(names, mode="r").view(np.ndarray) if size else np.zeros(0, np.uint8)


def _check_records(index: Path, records: np.ndarray, split: Split) -> None:
    """Nothing, if every record describes bytes that lie in a shard, and a name among the names."""
    sizes = np.array(split.shard_bytes, np.uint64)
    last = np.uint64(0)
    for first in range(0, len(records), _CHECKED_AT_ONCE):
        some = records[first : first + _CHECKED_AT_ONCE]
        valid = bool((some["shard"] < len(sizes)).all())
        if valid:
            room = sizes[some["shard"]]
            valid = bool((some["offset"] <= room).all() and (some["length"] <= room - some["offset"]).all())
        ends = some["name_end"]
        if not valid or ends[0] < last or (ends[1:] < ends[:-1]).any():
            raise unusable(index, "is damaged: it describes images that lie in no shard")
        last = ends[-1]
