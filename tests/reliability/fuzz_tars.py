"""Fuzzes the reader of WebDataset tars."""

from __future__ import annotations

import contextlib
import io
import tarfile

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["ffvit.data.shards.tars", "tarfile"]):
        import ffvit.data.shards.tars  # noqa: F401

from fuzzing import fuzz, scratch

from ffvit.data.shards.tars import SkippedFiles, read_shard
from ffvit.errors import UserError


def target(data: bytes) -> None:
    path = scratch() / "x.tar"
    path.write_bytes(data)
    notes = SkippedFiles()
    with contextlib.suppress(UserError):
        shard = read_shard(path, notes)
        assert len(shard.records) > 0
        assert (shard.records["offset"] + shard.records["length"] <= len(data)).all()
        assert shard.records["name_end"][-1] == len(shard.names)
        assert (shard.records["label"] >= -1).all()
    assert all(isinstance(sentence, str) for sentence in notes.sentences())


def seeds() -> list[bytes]:
    made = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        for name, label in (("a", b"1"), ("é" * 60, b"cat"), ("n" * 120, b"-1")):
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode="w", format=form) as tar:
                for suffix, content in (
                    (".jpg", b"1"),
                    (".seg.png", b"2"),
                    (".cls", label),
                    (".json", b'{"label": 2}'),
                ):
                    with contextlib.suppress(ValueError):
                        member = tarfile.TarInfo(name + suffix)
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
            made.append(file.getvalue()[:6144])
    return made


if __name__ == "__main__":
    fuzz(target, seeds)
