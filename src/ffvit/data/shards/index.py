"""Shards: images packed into a few large tar files, with an index that says where each image is.

A prepared folder holds, for each split (train, val, test):

- `train-000000.tar`, ...: plain tar files, `00000042.jpg` and its label `00000042.cls` side by side, as WebDataset
  and timm read them;
- `train.index`: a numpy array, one `RECORD` an image, mapped into memory and so shared by all processes;
- `train.names`: the images' original names, one after another;

and `_info.json`: the classes, and each split's shards with their sizes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, InstanceOf, TypeAdapter, ValidationError

from ffvit.config.base import short
from ffvit.data.images import BadImageError, read_file
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
PREPARE_AGAIN = "prepare the images again (ffvit prepare SOURCE FOLDER --overwrite)"

_Number = Annotated[int, Field(ge=0, lt=2**63, strict=True)]


@dataclass(frozen=True)
class Split:
    """What `_info.json` says of a split; timm reads the first four there, too."""

    name: str
    num_samples: _Number
    filenames: tuple[InstanceOf[str], ...]  # names may hold bytes that are no text, which pydantic's own str refuses
    shard_lengths: tuple[_Number, ...]
    shard_bytes: tuple[_Number, ...]
    index_checksum: _Number


_CLASSES = TypeAdapter(tuple[InstanceOf[str], ...])
_SPLITS = TypeAdapter(dict[InstanceOf[str], Split])


class Shard(NamedTuple):
    """A shard that was written: its records count shards and names as if it were the only one."""

    file: str
    size: int
    records: np.ndarray
    names: bytes


def is_prepared(folder: Path) -> bool:
    """Whether `ffvit prepare` wrote in this folder."""
    if (folder / PLAN).exists():
        return True
    try:
        return read_info_file(folder).get("format") == FORMAT
    except DataError:
        return False


def read_info(folder: Path) -> tuple[tuple[str, ...], dict[str, Split]]:
    """The classes and the splits in `_info.json`.

    Raises:
        UserError: It is missing, damaged, or of another version.
    """
    path = folder / INFO
    if not path.exists():
        raise unusable(path, "is missing")
    info = read_info_file(folder)
    if info.get("format") == FORMAT and info.get("version") != VERSION:
        version = short(info.get("version"))
        raise unusable(path, f"is of version {version} of the format, this ffvit reads version {VERSION}")
    try:
        classes = _CLASSES.validate_python(info.get("classes"))
        splits = _SPLITS.validate_python(info.get("splits"))
    except ValidationError:
        raise unusable(path, "is damaged, or was not written by ffvit prepare") from None
    for name, split in splits.items():
        for file in (name, *split.filenames):
            if not is_plain_name(file):
                raise unusable(path, f"is damaged: {short(file)} is no name of a split or of a file beside it")
        if not len(split.filenames) == len(split.shard_lengths) == len(split.shard_bytes) > 0:
            raise unusable(path, "is damaged: it does not give the length and size of every shard")
        if 0 in split.shard_lengths:
            raise unusable(folder / split.filenames[split.shard_lengths.index(0)], "is an empty shard")
    return classes, splits


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
        raise unusable(path, "is damaged, or was not written by ffvit prepare")
    return info


def is_plain_name(name: object) -> bool:
    """Whether this is the name of something in a folder, and of nothing elsewhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & {"/", "\0"}


def write_info(folder: Path, classes: Iterable[str], splits: Iterable[Split], made_of: object, resume: str) -> None:
    """Write `_info.json`: what was prepared is whole from here on."""
    info = {
        "format": FORMAT,
        "version": VERSION,
        "made_of": made_of,
        "classes": list(classes),
        "splits": {split.name: asdict(split) for split in splits},
    }
    with atomic_path(folder / INFO, resume) as temporary:
        temporary.write_text(json.dumps(info, indent=1) + "\n")


def write_index(folder: Path, split: str, shards: Iterable[Shard], resume: str) -> Split:
    """Write a split's index and names from its shards, one at a time, in the memory of one shard."""
    written: list[tuple[str, int, int]] = []
    count = checksum = 0
    with (
        atomic_path(folder / f"{split}.names", resume) as names_path,
        atomic_path(folder / f"{split}.index", resume) as index_path,
        names_path.open("wb") as names,
        index_path.open("wb") as index,
    ):
        _write_header(index, 0)
        for shard in shards:
            records = shard.records.copy()
            records["shard"] = len(written)
            records["name_end"] += names.tell()
            checksum = zlib.crc32(records.data, checksum)
            index.write(records.tobytes())
            names.write(shard.names)
            written.append((shard.file, len(records), shard.size))
            count += len(records)
        index.seek(0)
        _write_header(index, count)  # as long as the first: numpy leaves room for the count
    files, lengths, sizes = zip(*written, strict=True) if written else ((), (), ())
    return Split(split, count, files, lengths, sizes, checksum)


def _write_header(index: IO[bytes], count: int) -> None:
    header = {"descr": RECORD.descr, "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(index, header)


def unusable(path: Path, what: str) -> DataError:
    """The error of a file of a prepared folder, which says what to do."""
    return DataError(f"{path}: {what}; {PREPARE_AGAIN}")
