"""Remote shards: a run reads their images as it would read those of local shards."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ffvit.data.images import Images, LabeledImages, Labels, Subset
from ffvit.data.shards.addresses import expand_braces, join_address, printable_address
from ffvit.data.shards.cache import ShardCache, default_folder, file_lock
from ffvit.data.shards.download import download
from ffvit.data.shards.index import INFO, Shard, Split, read_info
from ffvit.data.shards.reader import ShardImages, open_index
from ffvit.data.shards.tars import ClassNames, SkippedFiles, log_skipped, make_index, read_shard
from ffvit.errors import DataError, UserError
from ffvit.files.atomic_write import atomic_path
from ffvit.terminal import track

AHEAD = 2
"""Tar files to download while one is indexed."""

_MOST_INFO = 2**27
"""Bytes of an `_info.json`; a million shards take half of it."""


def remote_blocks(images: Images) -> tuple[Labels, Callable[[list[int]], None]] | None:
    """Where each shard's images begin (and the last one's end), and what prefetches shards; None for local images.

    An order that jumped between shards would need all of them at once.
    """
    indices: Labels | None = None
    while isinstance(images, Subset):
        indices = images.indices if indices is None else images.indices[indices]
        images = images.images
    if not isinstance(images, ShardImages) or not isinstance(images.shards, ShardCache):
        return None
    shard_of = images.records["shard"] if indices is None else images.records["shard"][indices]
    return np.searchsorted(shard_of, np.arange(len(images.shards.files) + 1)), images.shards.prefetch


def open_remote(address: str, root: Path | None = None) -> dict[str, LabeledImages]:
    """The splits of a remote prepared folder, or of tar files that others wrote (all of them train).

    Args:
        address: The folder's, or that of tar files, with braces: `https://host/train-{0000..0127}.tar`.
        root: Where to keep what is downloaded. Default: ~/.cache/ffvit/shards.

    Raises:
        UserError: Something cannot be downloaded, or is not what it should be.
    """
    if "{" in address or printable_address(address).endswith(".tar"):
        return _open_tars(address, root)
    return _open_prepared(address, root)


def _open_prepared(address: str, root: Path | None) -> dict[str, LabeledImages]:
    with tempfile.TemporaryDirectory() as temporary:
        info_file = Path(temporary) / INFO
        hint = "download the whole folder yourself and give its path"
        download(join_address(address, INFO), info_file, most=_MOST_INFO, hint=hint)
        info = info_file.read_bytes()
    # Named for what the folder holds too: once it is prepared again, nothing old is taken for it.
    folder = _folder(root, address, f"{len(info)} {zlib.crc32(info)}")
    with file_lock(folder / ".info.lock"):
        with atomic_path(folder / INFO, "start again") as temporary_file:
            temporary_file.write_bytes(info)
        _, splits = read_info(folder)
        index_files = [folder / f"{split}.{kind}" for split in splits for kind in ("index", "names")]
        for file in index_files:
            if not file.exists():
                download(join_address(address, file.name), file)

        def shards(split: Split) -> ShardCache:
            return ShardCache(tuple(join_address(address, file) for file in split.filenames), folder, split.shard_bytes)

        try:
            return open_index(folder, shards)
        except UserError as error:
            for file in index_files:
                file.unlink()
            raise DataError(f"{printable_address(address)}: {error} (what came is not kept here)") from None


def _open_tars(address: str, root: Path | None) -> dict[str, LabeledImages]:
    addresses, name = expand_braces(address), printable_address(address)
    folder = _folder(root, *addresses)

    def open_indexed() -> dict[str, LabeledImages]:
        return open_index(folder, lambda split: ShardCache(addresses, folder, split.shard_bytes))

    with file_lock(folder / ".info.lock"):  # one process indexes them, the others wait
        try:
            splits = open_indexed()
        except (UserError, ValueError):  # there is no index yet, or it is damaged
            skipped, labels = SkippedFiles(), ClassNames()
            shards = _read_shards(ShardCache(addresses, folder), name, skipped, labels)
            make_index(folder, name, {"train": shards}, skipped, labels)
            splits = open_indexed()
    log_skipped(folder, name)
    return splits


def _read_shards(cache: ShardCache, name: str, skipped: SkippedFiles, labels: ClassNames) -> Iterator[Shard]:
    """Download every tar file once and read its headers."""
    count = len(cache.addresses)
    for number in track(range(count), f"downloading and indexing {name}"):
        cache.prefetch(range(number, min(number + 1 + AHEAD, count)))
        descriptor = cache.open(number)  # while it is open, it is not removed
        try:
            yield read_shard(cache.path(number), skipped, labels)
        except UserError as error:
            reason = "a web page came, and no tar file" if _is_html(descriptor) else str(error)
            cache.discard(number)
            raise DataError(
                f"{printable_address(cache.addresses[number])}: {reason} (it is not kept here): check address and "
                "access, then start again"
            ) from None
        finally:
            os.close(descriptor)


def _is_html(descriptor: int) -> bool:
    """What a server sends that wants a login, or has lost the file."""
    return os.pread(descriptor, 512, 0).lstrip()[:1] == b"<"


def _folder(root: Path | None, *addresses: str) -> Path:
    folder = default_folder(*addresses)
    return folder if root is None else root / folder.name
