"""The images of a run as they were when it began: which ones, in which split, with what label, size and content.

Splits are drawn from the list of images, so an image more or less moves others from training to test. A run keeps a
record of its images, and whatever resumes the run or scores it compares them with the record first.

What is noticed: images added, removed, renamed or put in another order, labels changed, sizes changed; and contents
changed at the same size, for all images where they take up to `READ` bytes together, else for a sample of about so many
bytes, evenly spread (of 1.3 million images of 110 kB every 1,100th). Shards made by `ffvit prepare` give the checksum of
each image, so nothing is read. What is not noticed: an image outside the sample that is replaced by one of the same size.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool

from ffvit.data.images import ArrayImages, BadImageError, FileImages, Images, without_subsets
from ffvit.data.shards.reader import ShardFolder, ShardImages
from ffvit.data.splits import Splits
from ffvit.errors import DataError, RunFolderError
from ffvit.files.atomic_write import atomic_path
from ffvit.terminal import track

READ = 128 * 2**20
"""Bytes to read of the images, about."""

_COLUMNS = ("image", "label", "split", "bytes", "crc32")


def record_split(splits: Splits, source: str, hashed: frozenset[str] | None = None) -> pd.DataFrame:
    """A row for each image, as text: image (its path in the source), label, split, bytes, crc32.

    Args:
        splits: The images.
        source: As in `Data.source`.
        hashed: The images to read for their crc32. Default: as this module says.
    """
    by_split = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    present = {split: images for split, images in by_split.items() if images is not None}
    tables = [
        pd.DataFrame(
            {
                "image": [_relative(images.name(index), source) for index in range(len(images))],
                "label": np.array(splits.classes, dtype=object)[images.labels],
                "split": split,
                "bytes": [str(size) if size >= 0 else "" for size in _sizes(images)],
            },
            dtype=object,
        )
        for split, images in present.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    if hashed is None:
        sizes = pd.to_numeric(table["bytes"], errors="coerce").fillna(100_000)
        count = min(len(table), max(16, int(READ * len(table) / max(1.0, float(sizes.sum())))))
        wanted = np.zeros(len(table), dtype=bool)
        wanted[np.linspace(0, len(table) - 1, count).astype(np.int64)] = True
    else:
        wanted = table["image"].isin(list(hashed)).to_numpy()
    by_table = np.split(wanted, np.cumsum([len(rows) for rows in tables])[:-1])
    table["crc32"] = [
        checksum
        for images, some in zip(present.values(), by_table, strict=True)
        for checksum in _checksums(images, some)
    ]
    return table


def write_record(table: pd.DataFrame, path: Path) -> None:
    """Write a record: CSV, compressed, the same bytes for the same images."""
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", errors="surrogateescape", newline="") as text,
    ):
        table.to_csv(text, index=False, lineterminator="\n", quoting=csv.QUOTE_ALL)


def read_record(path: Path) -> pd.DataFrame:
    """Read a record.

    Raises:
        RunFolderError: It is damaged.
    """
    try:
        # Not by pandas, whose text holds no bytes that are not UTF-8.
        with gzip.open(path, "rt", encoding="utf-8", errors="surrogateescape", newline="") as text:
            header, *rows = csv.reader(text)
        table = pd.DataFrame(rows, columns=header, dtype=object)
    except (OSError, ValueError, EOFError, zlib.error, csv.Error) as error:
        raise RunFolderError(
            f"{path}: cannot be read, so whether the images are still the same cannot be told ({error})"
        ) from None
    if tuple(table) != _COLUMNS:
        raise RunFolderError(f"{path}: is no record of a run's images; its columns are {', '.join(map(str, table))}")
    return table


def check_split(path: Path, splits: Splits, source: str, advice: str, same_split: bool = True) -> None:
    """Raise an error unless the images are those of a record.

    Args:
        path: The record.
        splits: The images as they are now.
        source: As in `Data.source`.
        advice: What to do if they are not, for a person.
        same_split: Whether each image must be in the same split, too.

    Raises:
        DataError: They are not; says how many changed and which first.
        RunFolderError: The record is damaged.
    """
    before = read_record(path)
    now = record_split(splits, source, frozenset(before["image"][before["crc32"] != ""]))
    if not same_split:
        before, now = (table.drop(columns="split").sort_values("image", ignore_index=True) for table in (before, now))
    if before.to_numpy().tolist() == now.to_numpy().tolist():
        return
    changes = _changes(before, now) or "their order changed"
    raise DataError(f"{source}: the images are not those of {path.parent}: {changes}. {advice}")


def check_own(record: Path, splits: Splits, source: str) -> None:
    """Raise an error unless a run's images are those it was trained on, so that it has seen none of its test images."""
    if record.is_file():
        advice = "Its test split now holds images that it was trained on: put them back, or name other images (--data)"
        check_split(record, splits, source, advice)


def _relative(name: str, source: str) -> str:
    """The name of an image without the source's folder, which may be moved."""
    path = Path(source).expanduser()
    folder = os.path.join(path if path.is_dir() else path.parent, "")  # noqa: PTH118 (the slash)
    return name.removeprefix(folder)


def _sizes(images: Images) -> list[int]:
    """The bytes of each image as it is stored; -1 where they are not known without reading it."""
    whole, indices = without_subsets(images)
    if isinstance(whole, ShardImages):
        return [int(size) for size in whole.records["length"][indices]]
    if isinstance(whole, ArrayImages):
        return [whole.arrays[index].nbytes for index in indices]
    if not isinstance(whole, FileImages):
        return [-1] * len(indices)
    names = (whole.name(int(index)) for index in indices)
    return [_file_size(name) for name in track(names, "looking at the sizes of images")]


def _file_size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 (a million files)
    except OSError:
        return -1


def _checksums(images: Images, wanted: Bool[np.ndarray, " images"]) -> Iterator[str]:
    """The crc32 of each image that is wanted, or that is known without reading it; else nothing."""
    whole, indices = without_subsets(images)
    if isinstance(whole, ShardImages) and (
        whole.records["checksum"].any() or not isinstance(whole.shards, ShardFolder)
    ):
        yield from (f"{crc:08x}" if crc else "" for crc in whole.records["checksum"][indices].tolist())
        return
    for index, is_wanted in zip(indices.tolist(), wanted.tolist(), strict=True):
        yield _checksum(whole, index) if is_wanted else ""


def _checksum(images: Images, index: int) -> str:
    try:
        stored = images.read(index)
    except BadImageError:
        return "unreadable"
    return f"{zlib.crc32(stored if isinstance(stored, bytes) else stored.tobytes()):08x}"


def _changes(before: pd.DataFrame, now: pd.DataFrame) -> str:
    """What changed, in words."""
    old, new = before.set_index("image"), now.set_index("image")
    both = old.index[old.index.isin(new.index)]
    was, is_now = old.loc[both], new.loc[both]
    changes = {
        "added": new.index[~new.index.isin(old.index)],
        "removed": old.index[~old.index.isin(new.index)],
        "changed in content": both[(was["bytes"] != is_now["bytes"]) | (was["crc32"] != is_now["crc32"])],
        "changed in label": both[was["label"] != is_now["label"]],
    }
    if "split" in was:
        changes["in another split"] = both[was["split"] != is_now["split"]]
    return "; ".join(f"{len(names):,} {what} (first: {names[0]})" for what, names in changes.items() if len(names))
