"""Compressed tar files and Parquet files, unpacked once into plain tar files, whose images can be read at random.

Of 3,000 images of 110 kB in Parquet (row groups of 100), 219 a second are read at random from the row groups, 39,000 by
`datasets`, which first makes its own copy, and 60,000 from a plain tar file (benchmarks/random_reads.py).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ffvit.config.base import short
from ffvit.data.folders import SUFFIXES
from ffvit.data.shards.cache import file_lock
from ffvit.errors import DataError, OutputError, UserError
from ffvit.files.atomic_write import atomic_path, is_disk_full
from ffvit.terminal import track


def plain_tar(path: Path) -> Path:
    """The plain tar file of a file: itself, or what it was unpacked into, in ~/.cache/ffvit.

    Raises:
        UserError: It is damaged, or no such file, or takes more than half of what the disk has left.
    """
    if path.suffix == ".tar":
        return path
    with _damage_told(path):
        status = path.stat()
    key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]
    target = Path.home() / ".cache" / "ffvit" / "unpacked" / key / f"{status.st_size}-{status.st_mtime_ns}.tar"
    if not target.exists():
        with file_lock(target.parent / ".lock"):  # one process unpacks it, the others wait
            if not target.exists():
                with atomic_path(target, "start again") as temporary, _damage_told(path):
                    (_unpack_parquet if path.suffix == ".parquet" else _unpack_gzip)(path, temporary)
                for other in target.parent.glob("*.tar"):  # of the file as it was before
                    if other != target:
                        other.unlink(missing_ok=True)
    return target


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # pyarrow raises nearly anything
        if is_disk_full(error):
            raise
        reason = short(str(error) or type(error).__name__)
        raise DataError(f"{path}: is cut off or damaged ({reason}); copy it again, or move it away") from None


def _check_room(path: Path, target: Path, size: int) -> None:
    """Raise an error once a file takes more room than it leaves; what is unpacked may be a thousand times as large."""
    free = shutil.disk_usage(target.parent).free
    if size > free:
        raise OutputError(
            f"{path}: unpacked it takes more than half of the disk's free room in {target.parent} (stopped after "
            f"{size / 2**30:,.1f} GiB); free some space, or unpack it elsewhere"
        )


def _unpack_gzip(path: Path, target: Path) -> None:
    with gzip.open(path) as packed, target.open("wb") as file:
        for chunk in track(iter(partial(packed.read, 2**20), b""), f"unpacking {path}", unit="MiB"):
            file.write(chunk)
            _check_room(path, target, file.tell())


def _unpack_parquet(path: Path, target: Path) -> None:
    """Write each row as an image and its label, named for the row's number."""
    import pyarrow.parquet as pq

    _check_columns(path)
    names, readable = class_names([path]), False
    with (
        path.open("rb") as source,
        pq.ParquetFile(source, buffer_size=2**20) as table,
        tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar,
    ):
        # One row at a time: a few hundred bytes of Parquet may hold the same large image in every row.
        rows = table.iter_batches(1, columns=["image", "label"], use_threads=False)
        for number, row in enumerate(track(rows, f"unpacking {path}", total=table.metadata.num_rows, unit="images")):
            image, label = row["image"][0].as_py(), row["label"][0].as_py()
            if label is None or (names and isinstance(label, int) and label >= len(names)):
                raise DataError(f"{path}: row {number} has {short(label)} as its label, which is no class")
            fields = {"bytes": image} if isinstance(image, bytes) else image or {}
            suffix = PurePosixPath(str(fields.get("path") or "")).suffix.lower()
            _add(tar, f"{number:08}{suffix if suffix in SUFFIXES else '.jpg'}", fields.get("bytes") or b"")
            _add(tar, f"{number:08}.cls", str(label).encode())
            readable = readable or bool(fields.get("bytes"))
            _check_room(path, target, tar.offset)
    if not readable:
        raise DataError(f"{path}: no row holds the bytes of an image; a list of paths has columns path and label")


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
    tar.members = []  # type: ignore[attr-defined]  # or it would keep them all


def holds_images(path: Path) -> bool:
    """Whether a Parquet file has the columns of images, and not of a list; False without pyarrow, or if it is damaged."""
    with suppress(Exception):  # the list's reader tells of it
        columns = _schema(path).names
        return "image" in columns or "path" not in columns
    return False


def class_names(paths: Iterable[Path]) -> tuple[str, ...]:
    """The names of the classes that Parquet files give to the numbers of their labels, as `datasets` writes them.

    Raises:
        DataError: Two files differ, or a name is there twice.
    """
    first: tuple[Path, tuple[str, ...]] | None = None
    for path in (path for path in paths if path.suffix == ".parquet"):
        with _damage_told(path):
            told = (_schema(path).metadata or {}).get(b"huggingface", b"{}")
        names: Any = ()
        with suppress(ValueError, KeyError, TypeError, RecursionError):
            names = json.loads(told)["info"]["features"]["label"]["names"]
        names = tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()
        first = first or (path, names)
        if names != first[1] or len(set(names)) < len(names):
            raise DataError(f"{path}: names its classes twice, or otherwise than {first[0]}; write both anew")
    return first[1] if first else ()


def _schema(path: Path) -> Any:
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        return pq.read_schema(file)


def _check_columns(path: Path) -> None:
    """Raise an error unless there is one column of images, called image, and one of labels, called label."""
    from pyarrow import types

    def is_image(kind: Any) -> bool:
        if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        return types.is_binary(kind) or types.is_large_binary(kind)

    def is_label(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)

    schema = _schema(path)
    images = [field.name for field in schema if is_image(field.type)]
    labels = [field.name for field in schema if field.name == "label" and is_label(field.type)]
    if images != ["image"] or labels != ["label"]:
        columns = short(", ".join(f"{field.name} ({field.type})" for field in schema), 500)
        raise DataError(
            f"{path}: looked for one column of images, image (bytes, or a struct with bytes), and a column label (numbers or "
            f"text), or for a list with columns path and label; its columns are {columns}"
        )
