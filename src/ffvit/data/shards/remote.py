"""Images in shards that lie far away: what a run sees of them is what it would see of the same shards here."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ffvit.data.images import Images, LabeledImages, Labels, Subset
from ffvit.data.progress import progress_bar
from ffvit.data.shards.cache import ShardCache, default_folder, file_lock
from ffvit.data.shards.download import RetryPolicy, expand_braces, fetch, printable_address
from ffvit.data.shards.index import INFO, Shard, ShardImages, open_index, read_info, write_index, write_info
from ffvit.data.shards.tars import SkippedFiles, log_skipped, read_shard
from ffvit.errors import DataError, UserError
from ffvit.files.atomic_write import atomic_path

AHEAD = 2
"""Tar files to fetch while one is looked through."""

_MOST_INFO = 2**27
"""Bytes of an `_info.json`; a million shards take half of it."""

_GO_ON = "give the same command again"


@dataclass(frozen=True)
class CachedShards:
    """Shards of a part, brought here as they are needed; see `shards.Shards`."""

    files: tuple[str, ...]
    cache: ShardCache
    first: int
    """Which of the cache's shards is the part's first."""

    def local(self, number: int) -> Path:
        """See `shards.Shards.local`; a shard that does not come is no bad image, but ends the run.

        Raises:
            UserError: It cannot be fetched.
        """
        return self.cache.path(self.first + number)

    def prefetch(self, numbers: Iterable[int]) -> None:
        """Fetch shards in the background, first things first."""
        self.cache.prefetch(self.first + number for number in numbers)


def remote_blocks(images: Images) -> tuple[Labels, Callable[[list[int]], None]] | None:
    """Where the images of each shard begin (and the last end), and what fetches shards; None for images close by.

    An order that jumped between shards would need all of them at once.
    """
    indices: Labels | None = None
    while isinstance(images, Subset):
        indices = images.indices if indices is None else images.indices[indices]
        images = images.images
    if not isinstance(images, ShardImages) or not isinstance(images.shards, CachedShards):
        return None
    of_shard = images.records["shard"] if indices is None else images.records["shard"][indices]
    return np.searchsorted(of_shard, np.arange(len(images.shards.files) + 1)), images.shards.prefetch


def open_remote(
    address: str, root: Path | None = None, patience: RetryPolicy | None = None
) -> dict[str, LabeledImages]:
    """The parts of a prepared folder far away, or of tar files that others wrote (all of them train).

    Args:
        address: The folder's, or that of tar files, with braces: `https://host/train-{0000..0127}.tar`.
        root: Where to keep what is fetched. Default: ~/.cache/ffvit/shards.
        patience: With a server that fails.

    Raises:
        UserError: Something cannot be fetched, or is not what it should be.
    """
    if "{" in address or printable_address(address).endswith(".tar"):
        return _open_tars(address, root, patience)
    return _open_prepared(address, root, patience)


def _open_prepared(address: str, root: Path | None, patience: RetryPolicy | None) -> dict[str, LabeledImages]:
    info = _fetched(_inside(address, INFO), patience)
    # Named for what the folder holds too: once it is prepared anew, nothing old is taken for it.
    folder = _folder(root, address, f"{len(info)} {zlib.crc32(info)}")
    with file_lock(folder / ".info.lock"), atomic_path(folder / INFO, _GO_ON) as temporary:
        temporary.write_bytes(info)
    _, splits = read_info(folder)
    beside = [_inside(address, f"{part}.{kind}") for part in splits for kind in ("index", "names")]
    whole = ShardCache(beside, folder=folder, patience=patience)
    for number in range(len(beside)):
        whole.path(number)
    files = [file for split in splits.values() for file in split.filenames]
    sizes = [size for split in splits.values() for size in split.shard_bytes]
    cache = ShardCache([_inside(address, file) for file in files], sizes, folder, patience=patience)
    try:
        return open_index(folder, lambda its: CachedShards(its, cache, files.index(its[0])))
    except UserError as error:
        for number in range(len(beside)):
            whole.discard(number)
        raise DataError(f"{printable_address(address)}: {error} (what came is not kept here)") from None


def _open_tars(address: str, root: Path | None, patience: RetryPolicy | None) -> dict[str, LabeledImages]:
    every = expand_braces(address)
    folder = _folder(root, *every)

    def opened() -> dict[str, LabeledImages]:
        (split,) = read_info(folder)[1].values()
        cache = ShardCache(every, split.shard_bytes, folder, patience=patience)
        return open_index(folder, lambda files: CachedShards(files, cache, first=0))

    with file_lock(folder / ".info.lock"):  # one process looks through them, the others wait
        try:
            parts = opened()
        except (UserError, ValueError):  # there is no index yet, or it is damaged
            _make_index(address, ShardCache(every, folder=folder, patience=patience))
            parts = opened()
    log_skipped(folder, printable_address(address))
    return parts


def _make_index(address: str, cache: ShardCache) -> None:
    """Fetch every tar file once and look through its headers."""
    notes = SkippedFiles()

    def walked() -> Iterator[Shard]:
        for number in progress_bar(range(len(cache)), f"fetching and looking through {printable_address(address)}"):
            cache.prefetch(range(number, min(number + 1 + AHEAD, len(cache))))
            path = cache.path(number)
            try:
                shard = read_shard(path, notes)
            except UserError as error:
                page = _is_page(path)
                cache.discard(number)
                what = "a web page came, and no tar file" if page else str(error)
                raise DataError(
                    f"{printable_address(cache.addresses[number])}: {what} (it is not kept here): check address and access, then start again"
                ) from None
            yield shard

    split = write_index(cache.folder, "train", walked(), _GO_ON)
    labels = np.load(cache.folder / "train.index", mmap_mode="r")["label"]
    if labels.min() < 0:
        raise DataError(
            f"{printable_address(address)}: holds images whose label is withheld ({labels.min()}); leave them out"
        )
    write_info(
        cache.folder,
        map(str, range(int(labels.max()) + 1)),
        [split],
        {"source": printable_address(address), "notes": notes.sentences()},
        _GO_ON,
    )


def _is_page(path: Path) -> bool:
    """Whether a file is HTML: what a server sends that wants a login, or has lost the file."""
    with path.open("rb") as file:
        return file.read(512).lstrip()[:1] == b"<"


def _folder(root: Path | None, *of: str) -> Path:
    folder = default_folder(*of)
    return folder if root is None else root / folder.name


def _inside(address: str, name: str) -> str:
    """The address of a file in the folder at an address, which may end in a query."""
    folder, mark, query = address.partition("?")
    return f"{folder.rstrip('/')}/{name}{mark}{query}"


def _fetched(address: str, patience: RetryPolicy | None) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        fetch(address, Path(folder) / "file", patience=patience, most=_MOST_INFO)
        return (Path(folder) / "file").read_bytes()
