"""Fuzzes the reader of prepared folders: the first byte says which of its files the rest stands for."""

from __future__ import annotations

import contextlib
import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["ffvit.data.shards.index", "ffvit.data.shards.reader"]):
        import ffvit.data.shards.reader  # noqa: F401

from fuzzing import fuzz, scratch

from ffvit.data.images import BadImageError
from ffvit.data.shards.index import RECORD, Shard, write_index, write_info
from ffvit.data.shards.reader import ShardFolder, open_index
from ffvit.errors import UserError

FILES = ("_info.json", "train.index", "train.names")


@cache
def whole() -> tuple[Path, dict[str, bytes]]:
    """A small prepared folder, and what its files hold."""
    folder = scratch() / "prepared"
    folder.mkdir()
    records = np.zeros(2, RECORD)
    records["length"], records["offset"], records["name_end"] = 3, (0, 3), (5, 10)
    (folder / "train-0.tar").write_bytes(b"abcdef")
    split = write_index(folder, "train", [Shard("train-0.tar", 6, records, b"a.jpgb.jpg")], "again")
    write_info(folder, ["a"], [split], {}, "again")
    return folder, {name: (folder / name).read_bytes() for name in FILES}


def target(data: bytes) -> None:
    folder, right = whole()
    if not data:
        return
    names = dict(right)
    kind, content = FILES[data[0] % 3], data[1:]
    if data[0] & 4 and kind == "train.index":  # with the checksum that is right for it
        info = json.loads(right["_info.json"])
        with contextlib.suppress(Exception):
            (folder / "train.index").write_bytes(content)
            records = np.load(folder / "train.index", mmap_mode="r")
            info["splits"]["train"] |= {
                "num_samples": len(records),
                "index_checksum": zlib.crc32(np.ascontiguousarray(records).data),
            }
        names["_info.json"] = json.dumps(info).encode()
    names[kind] = content
    for name, content in names.items():
        (folder / name).unlink()  # what is mapped stays what it was
        (folder / name).write_bytes(content)
    with contextlib.suppress(UserError):
        for images, classes in open_index(folder, lambda split: ShardFolder(folder, split.filenames)).values():
            assert 0 <= images.labels.min() <= images.labels.max() < len(classes)
            for index in range(min(len(images), 5)):
                assert isinstance(images.name(index), str)
                with contextlib.suppress(BadImageError):
                    assert len(images.read(index)) <= 6


def seeds() -> list[bytes]:
    _, right = whole()
    made = [bytes([number]) + right[name] for number, name in enumerate(FILES)]
    return [*made, bytes([4]) + right["train.index"]]


if __name__ == "__main__":
    fuzz(target, seeds)
