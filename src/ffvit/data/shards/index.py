"""Shards: images packed into a few large tar files, with an index that says where each one lies.

A prepared folder holds, for each part (train, val, test):

- `train-000000.tar`, ...: plain tar files, `00000042.jpg` and its label `00000042.cls` side by side, as WebDataset
  and timm read them;
- `train.index`: a numpy array, one `RECORD` an image, mapped into memory and so shared by all processes;
- `train.names`: the images' original names, one after another;

and `_info.json`, which says what there is: classes, and each part's shards with their sizes.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from pydantic import Field, InstanceOf, TypeAdapter, ValidationError

from ffvit.config.base import short
from ffvit.data.images import BadImageError, LabeledImages, Labels, StoredImage, read_file
from ffvit.errors import DataError
from ffvit.files.atomic_write import atomic_path

FORMAT = "ffvit shards"
VERSION = 1
INFO = "_info.json"
PLAN = "prepare.json"
"""What `ffvit prepare` is about to do, or did; a folder with this file but no `_info.json` is not finished."""

RECORD = np.dtype(
    [
        ("shard", "<u4"),
        ("offset", "<u8"),  # of the image's first byte in the tar
        ("length", "<u4"),
        ("label", "<i4"),
        ("height", "<u4"),  # as the image is seen, upright; 0: not known
        ("width", "<u4"),
        ("checksum", "<u4"),  # crc32 of the image's bytes; 0: not known
        ("name_end", "<u8"),  # where its name ends in the names; it begins where the one before ends
    ]
)
OPEN_FILES = 128
"""Shards that a process keeps open; thousands would pass the system's limit."""

_AT_ONCE = 2**15
"""Records that are checked at once."""

AGAIN = "prepare the images again (ffvit prepare SOURCE FOLDER --overwrite)"


_Number = Annotated[int, Field(ge=0, lt=2**63, strict=True)]


@dataclass(frozen=True)
class Split:
    """What `_info.json` says of a part. The first four are what timm reads there."""

    name: str
    num_samples: _Number
    filenames: tuple[InstanceOf[str], ...]
    shard_lengths: tuple[_Number, ...]
    shard_bytes: tuple[_Number, ...]
    index_checksum: _Number


# Names are those of files and folders, whose bytes may be no text: pydantic's own str would refuse them.
_CLASSES = TypeAdapter(tuple[InstanceOf[str], ...])
_SPLITS = TypeAdapter(dict[InstanceOf[str], Split])


class Shard(NamedTuple):
    """A shard that was written: its records count shards and names as if it were the only one."""

    file: str
    size: int
    records: np.ndarray
    names: bytes


@runtime_checkable
class Shards(Protocol):
    """Where the shards of a part are."""

    @property
    def files(self) -> tuple[str, ...]:
        """Their names."""
        ...

    def local(self, number: int) -> Path:
        """The file on this machine that holds a shard (brought here first, if need be).

        Raises:
            OSError: It cannot be had.
        """
        ...


@dataclass(frozen=True)
class ShardFolder:
    """Shards that lie in a folder."""

    folder: Path
    files: tuple[str, ...]

    def local(self, number: int) -> Path:
        """See `Shards.local`."""
        return self.folder / self.files[number]


class ShardImages:
    """Images in shards, any of them read with one system call. Workers share the index, and open shards themselves."""

    def __init__(self, index: Path, shards: Shards) -> None:
        """Map the index.

        Args:
            index: The part's .index file, with its .names beside it.
            shards: Where the part's shards are.

        Raises:
            UserError: The index or the names are missing, damaged, or of another version.
        """
        self.index = index
        self.shards = shards
        self.records = _mapped(index)
        self._names = _mapped_names(index, self.records)
        self.labels: Labels = self.records["label"].astype(np.int64)
        self._files: dict[int, _File] = {}

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
            stored = self._file(shard).read(offset, length)
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

    def _file(self, shard: int) -> _File:
        file = self._files.pop(shard, None) or _File(self.shards.local(shard))
        self._files[shard] = file  # the last is the one used last
        if len(self._files) > OPEN_FILES:
            self._files.pop(next(iter(self._files)))
        return file


class _File:
    """A file open for reading anywhere, closed when it is let go."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._descriptor, length, offset)  # has no place of its own, so forked processes may share it

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


def is_prepared(folder: Path) -> bool:
    """Whether `ffvit prepare` wrote in this folder."""
    if (folder / PLAN).exists():
        return True
    try:
        return read_info_file(folder).get("format") == FORMAT
    except DataError:
        return False


def open_shards(folder: Path) -> dict[str, LabeledImages]:
    """The parts of a folder that `ffvit prepare` wrote.

    Raises:
        UserError: It is not finished, a shard is missing or not as it was written, or as `open_index`.
    """
    if (folder / PLAN).exists() and not (folder / INFO).exists():
        raise DataError(f"{folder}: is not prepared to its end; give the same ffvit prepare command again to go on")
    for split in read_info(folder)[1].values():
        check_shards(folder, split)
    return open_index(folder, partial(ShardFolder, folder))


def open_index(folder: Path, shards: Callable[[tuple[str, ...]], Shards]) -> dict[str, LabeledImages]:
    """The parts of a folder that holds an index, wherever the shards are.

    Args:
        folder: Where `_info.json`, indices and names lie.
        shards: Given a part's file names, says where they are.

    Raises:
        UserError: A file is missing, damaged, of another version or of other shards, or a label has no class.
    """
    classes, splits = read_info(folder)
    parts = {}
    for part, split in splits.items():
        index = folder / f"{part}.index"
        images = ShardImages(index, shards(split.filenames))
        if len(images) != split.num_samples or zlib.crc32(images.records.data) != split.index_checksum:
            raise DataError(f"{index}: is not the index that {folder / INFO} tells of; {AGAIN}")
        _check_records(index, images.records, split)
        low, high = int(images.labels.min()), int(images.labels.max())
        if low < 0 or high >= len(classes):
            raise DataError(
                f"{index}: has an image of class {low if low < 0 else high}, but {folder / INFO} names "
                f"{len(classes):,} classes (from 0); {AGAIN}"
            )
        parts[part] = LabeledImages(images, classes)
    return parts


def read_info(folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
    """The classes and the parts that `_info.json` tells of.

    Raises:
        UserError: It is missing, damaged, or of another version.
    """
    path = folder / INFO
    if not path.exists():
        raise DataError(f"{path}: is missing; {AGAIN}")
    info = read_info_file(folder)
    if info.get("format") == FORMAT and info.get("version") != VERSION:
        raise DataError(
            f"{path}: is of version {short(info.get('version'))} of the format, this ffvit reads version {VERSION}; {AGAIN}"
        )
    try:
        classes = _CLASSES.validate_python(info.get("classes"))
        splits = _SPLITS.validate_python(info.get("splits"))
    except ValidationError:
        raise DataError(f"{path}: is damaged, or was not written by ffvit prepare; {AGAIN}") from None
    for part, split in splits.items():
        for name in (part, *split.filenames):
            if not is_plain_name(name):
                raise DataError(
                    f"{path}: is damaged: {short(name)} is no name of a part or of a file beside it; {AGAIN}"
                )
    for split in splits.values():
        for file, length in zip(split.filenames, split.shard_lengths, strict=False):
            if not length:
                raise DataError(f"{folder / file}: is an empty shard; {AGAIN}")
        if not len(split.filenames) == len(split.shard_lengths) == len(split.shard_bytes) > 0:
            raise DataError(f"{path}: is damaged: it does not tell the length and size of every shard; {AGAIN}")
    return classes, splits


def write_info(folder: Path, classes: Iterable[str], splits: Iterable[Split], made_of: object, go_on: str) -> None:
    """Write `_info.json`: what was prepared is whole from here on."""
    info = {
        "format": FORMAT,
        "version": VERSION,
        "made_of": made_of,
        "classes": list(classes),
        "splits": {split.name: asdict(split) for split in splits},
    }
    with atomic_path(folder / INFO, go_on) as temporary:
        temporary.write_text(json.dumps(info, indent=1) + "\n")


def write_index(folder: Path, part: str, shards: Iterable[Shard], go_on: str) -> Split:
    """Write a part's index and names from its shards, one at a time: a set of any size takes the memory of a shard."""
    files: list[str] = []
    lengths: list[int] = []
    sizes: list[int] = []
    checksum = 0
    with (
        atomic_path(folder / f"{part}.names", go_on) as names_path,
        atomic_path(folder / f"{part}.index", go_on) as index_path,
        names_path.open("wb") as names,
        index_path.open("wb") as index,
    ):
        _write_header(index, 0)
        for shard in shards:
            records = shard.records.copy()
            records["shard"] = len(files)
            records["name_end"] += names.tell()
            checksum = zlib.crc32(records.data, checksum)
            index.write(records.tobytes())
            names.write(shard.names)
            files.append(shard.file)
            lengths.append(len(records))
            sizes.append(shard.size)
        index.seek(0)
        _write_header(index, sum(lengths))  # as long as the first: numpy leaves room for the count
    return Split(part, sum(lengths), tuple(files), tuple(lengths), tuple(sizes), checksum)


def check_shards(folder: Path, split: Split) -> None:
    """Nothing, if all shards of a part are there with the size they were written with.

    Raises:
        UserError: One is not.
    """
    missing = []
    for file, size in zip(split.filenames, split.shard_bytes, strict=True):
        try:
            found = (folder / file).stat().st_size
        except OSError:
            missing.append(file)
            continue
        if found != size:
            what = "is cut off" if found < size else "is another file"
            raise DataError(
                f"{folder / file}: {what}: it has {found:,} bytes, and was written with {size:,}; copy it anew, or "
                f"{AGAIN}"
            )
    if missing:
        raise DataError(
            f"{folder}: {len(missing):,} of the {len(split.filenames):,} shards of {split.name} are missing (first: "
            f"{missing[0]}); copy them there, or {AGAIN}"
        )


def is_plain_name(name: object) -> bool:
    """Whether this is the name of something in a folder, and of nothing elsewhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & {"/", "\0"}


def read_info_file(folder: Path) -> dict[str, Any]:
    """What `_info.json` says; nothing, if it is missing.

    Raises:
        DataError: It is not JSON, or not fields and their values.
    """
    path = folder / INFO
    if not path.exists():
        return {}
    try:
        info = json.loads(read_file(path))
    except BadImageError as error:
        raise DataError(f"{path}: {error.reason}") from None
    except (ValueError, RecursionError):
        info = None
    if not isinstance(info, dict):
        raise DataError(f"{path}: is damaged, or was not written by ffvit prepare; {AGAIN}")
    return info


def _write_header(index: IO[bytes], count: int) -> None:
    header = {"descr": RECORD.descr, "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(index, header)


def _mapped(index: Path) -> np.ndarray:
    try:
        records: np.ndarray = np.lib.format.open_memmap(index, mode="r")
    except FileNotFoundError:
        raise DataError(f"{index}: is missing; {AGAIN}") from None
    except Exception as error:  # numpy's reader, fed damaged headers, raises nearly anything
        raise DataError(f"{index}: cannot be read as an index ({short(str(error))}); {AGAIN}") from None
    if records.dtype != RECORD or records.ndim != 1:
        raise DataError(f"{index}: is an index of another version; {AGAIN}")
    return records.view(np.ndarray)  # np.memmap's own way to an item is four times slower


def _check_records(index: Path, records: np.ndarray, split: Split) -> None:
    """Nothing, if every record tells of bytes that lie in a shard, and of a name among the names."""
    sizes = np.array(split.shard_bytes, np.uint64)
    last = np.uint64(0)
    for first in range(0, len(records), _AT_ONCE):
        some = records[first : first + _AT_ONCE]
        right = bool((some["shard"] < len(sizes)).all())
        if right:
            room = sizes[some["shard"]]
            right = bool((some["offset"] <= room).all() and (some["length"] <= room - some["offset"]).all())
        ends = some["name_end"]
        if not right or ends[0] < last or (ends[1:] < ends[:-1]).any():
            raise DataError(f"{index}: is damaged: it tells of images that lie in no shard; {AGAIN}")
        last = ends[-1]


def _mapped_names(index: Path, records: np.ndarray) -> np.ndarray:
    names = index.with_suffix(".names")
    try:
        size = names.stat().st_size
    except OSError:
        raise DataError(f"{names}: is missing; {AGAIN}") from None
    if not len(records):
        raise DataError(f"{index}: holds no image; {AGAIN}")
    if size != records["name_end"][-1]:
        raise DataError(f"{names}: are not the names of the images in {index}; {AGAIN}")
    return np.memmap(names, mode="r").view(np.ndarray) if size else np.zeros(0, np.uint8)
