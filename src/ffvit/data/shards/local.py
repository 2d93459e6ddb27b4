"""Local tar and Parquet files of others: one file, a folder, a folder a split, or names with braces."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffvit.data.folders import is_folder, visible
from ffvit.data.images import SPLIT_NAMES, LabeledImages
from ffvit.data.shards.addresses import expand_braces
from ffvit.data.shards.index import INFO, VERSION, Shard, Split, is_plain_name, read_info_file
from ffvit.data.shards.reader import ShardFolder, open_index
from ffvit.data.shards.tars import ClassNames, SkippedFiles, log_skipped, make_index, read_shard
from ffvit.data.shards.unpack import class_names, plain_tar
from ffvit.errors import DataError, OutputError, UserError
from ffvit.terminal import track

TARS = ((".tar",), (".tar.gz", ".tgz"))
PARQUET = ((".parquet",),)
"""What names end in; of a folder the first kind is taken that it holds, so a tar file before what it was unpacked from."""

_LETTERS = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class TarFiles(ShardFolder):
    """Files by the names they are shown by, each read where its plain tar file lies."""

    plain: tuple[Path, ...]

    def open(self, number: int) -> int:
        """See `Shards.open`."""
        return os.open(self.plain[number], os.O_RDONLY | os.O_CLOEXEC)


def find_files(path: Path, kinds: tuple[tuple[str, ...], ...]) -> tuple[Path, list[str]] | None:
    """The files that a path stands for, and the folder that their names are relative to; None if they are no such files.

    Args:
        path: A file; a folder of files without folders; a folder with such a folder for each split, or with one called
            `data`, as the Hub has it; or names with braces, of files that may be missing.
        kinds: What their names end in, by kind.

    Raises:
        UserError: A folder cannot be listed, braces are wrong or name a file twice, or two folders are one split.
    """
    suffixes = sum(kinds, ())
    if path.is_dir():
        return _files_in(path, kinds)
    if path.is_file():
        return (path.parent, [path.name]) if path.name.endswith(suffixes) else None
    if "{" not in str(path) or not str(path).endswith(suffixes):
        return None
    paths = [os.path.abspath(name) for name in expand_braces(str(path))]  # noqa: PTH100 (follows no links)
    if len(set(paths)) < len(paths):
        raise DataError(f"{path}: the braces name a file twice, which could fall into training and test both")
    folder = os.path.commonpath([os.path.dirname(name) for name in paths])  # noqa: PTH120 (maybe a million)
    return Path(folder), [os.path.relpath(name, folder) for name in paths]


def _files_in(folder: Path, kinds: tuple[tuple[str, ...], ...]) -> tuple[Path, list[str]] | None:
    inside = visible(folder)
    folders = {entry.name for entry in inside if is_folder(entry)}
    if not folders:
        by_kind = (sorted(entry.name for entry in inside if entry.name.endswith(kind)) for kind in kinds)
        names = next((names for names in by_kind if names), None)
        return None if names is None else (folder, names)
    if folders == {"data"}:
        return _files_in(folder / "data", kinds)
    splits = [name for name in SPLIT_NAMES if name in folders]
    if len(splits) < 2 and set(splits) != folders:
        return None
    names = []
    for split in splits:
        files = _files_in(folder / split, kinds)
        if files is None or files[0] != folder / split:
            return None
        names += [f"{split}/{name}" for name in files[1]]
    if len({SPLIT_NAMES[split] for split in splits}) < len(splits):
        raise DataError(f"{folder}: two of {', '.join(splits)} are one split; rename the one that is not to be used")
    return folder, names


def open_files(path: Path, kinds: tuple[tuple[str, ...], ...] = TARS) -> dict[str, LabeledImages]:
    """The images of tar or Parquet files, in the splits that the files' names and folders (or an `_info.json`) say.

    The index is kept in ~/.cache/ffvit, and made again when a file was changed; what is compressed is unpacked there.

    Args:
        path: What `find_files` finds files by.
        kinds: As `find_files`.

    Raises:
        UserError: A file is no such file, is cut off, is empty, or holds an image without a label; numbers and names are
            both labels; or the disk has no room for what is unpacked.
    """
    found = find_files(path, kinds)
    assert found is not None, f"{path} was not asked for what it is"
    folder, names = found
    files = {"train": names} if path.is_file() else _splits_by_info(folder, names) or _splits_by_name(folder, names)
    index = Path.home() / ".cache" / "ffvit" / "shards" / _fingerprint(folder, files)
    plain = {split: tuple(plain_tar(folder / file) for file in names) for split, names in files.items()}

    def shards(split: Split) -> TarFiles:
        return TarFiles(folder, tuple(files[split.name]), plain[split.name])

    try:
        opened = open_index(index, shards)
    except UserError:  # there is none yet, or it is damaged
        try:
            index.mkdir(parents=True, exist_ok=True)
            skipped, labels = SkippedFiles(), ClassNames()
            labels.named = class_names(folder / file for names in files.values() for file in names)
            read = {split: _read_shards(folder, files[split], plain[split], skipped, labels) for split in files}
            make_index(index, str(folder), read, skipped, labels)
        except OSError as error:
            raise OutputError(
                f"{index}: the index of {folder} cannot be kept there ({error.strerror or error})"
            ) from None
        opened = open_index(index, shards)
    log_skipped(index, folder)
    return opened


def _read_shards(
    folder: Path, files: list[str], plain: Iterable[Path], skipped: SkippedFiles, labels: ClassNames
) -> Iterator[Shard]:
    for file, tar in track(list(zip(files, plain, strict=True)), f"indexing the files of {folder}"):
        try:
            yield read_shard(folder / file, skipped, labels, tar)
        except UserError:
            if tar != folder / file:
                tar.unlink(missing_ok=True)  # nothing in ~/.cache is kept that is of no use
            raise


def _splits_by_info(folder: Path, names: list[str]) -> dict[str, list[str]]:
    """The files of each split as an `_info.json` beside them says."""
    if not all(map(is_plain_name, names)) or (info := read_info_file(folder).get("splits")) is None:
        return {}
    try:
        files = {SPLIT_NAMES[name]: list(split["filenames"]) for name, split in info.items() if name in SPLIT_NAMES}
    except (KeyError, TypeError, AttributeError):
        files = {"": []}
    if not all(names and all(map(is_plain_name, names)) for names in files.values()):
        raise DataError(
            f"{folder / INFO}: is damaged: it does not give the files of each split; repair it, or move it away"
        )
    return files


def _splits_by_name(folder: Path, names: list[str]) -> dict[str, list[str]]:
    """The files of each split as the first such word in their names says."""
    files: dict[str, list[str]] = {}
    for name in names:
        words = (SPLIT_NAMES[word] for word in _LETTERS.findall(name.lower()) if word in SPLIT_NAMES)
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
