"""What `data.source` may name: one row of `SOURCES` for each kind of source, asked in their order."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ffvit.data import folders, lists
from ffvit.data.images import SPLITS, ArrayImages, LabeledImages
from ffvit.data.shards import addresses, index, local, reader, remote, unpack
from ffvit.errors import DataError, MissingPackageError, did_you_mean

Opener = Callable[[], LabeledImages | None]
"""Opens one split; None if its labels are withheld."""


@dataclass(frozen=True)
class DataSource:
    """One kind of data source.

    Attributes:
        name: How a person names one, for messages.
        matches: Whether it is what `data.source` names (as given, and as a path).
        splits: What opens each split (train, val, test; train alone where the source is not split), of `data.source`,
            its path and `data.root`.
        package: The package that it needs besides ffvit's own.
        install: What `pip install` needs to hear for that package.
    """

    name: str
    matches: Callable[[str, Path], bool]
    splits: Callable[[str, Path, Path | None], dict[str, Opener]]
    package: str | None = None
    install: str = ""


def _opened(splits: dict[str, LabeledImages]) -> dict[str, Opener]:
    return {split: partial(LabeledImages, *images) for split, images in splits.items()}


def _digits() -> LabeledImages:
    """8 x 8 scans of handwritten digits, which come with scikit-learn; their levels go from 0 to 16."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    arrays = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return LabeledImages(ArrayImages("digits", arrays, digits.target.astype(np.int64)), tuple("0123456789"))


def _folder_splits(_source: str, path: Path, _root: Path | None) -> dict[str, Opener]:
    return {split: partial(folders.read_folder, folder) for split, folder in folders.split_folders(path).items()}


def _list_splits(source: str, path: Path, _root: Path | None) -> dict[str, Opener]:
    if path.suffix.lower() not in lists.SUFFIXES:
        raise DataError(
            f"data.source: {source} is a file; give a folder of images or shards, a tar file (.tar, .tar.gz, .tgz), a Parquet "
            "file with columns image and label, or a list (.csv, .parquet)"
        )
    return _opened(lists.read_list(path))


def _timm_splits(source: str, _path: Path, root: Path | None) -> dict[str, Opener]:
    from ffvit.data import timm_datasets  # imports PyTorch, which `ffvit prepare` does without

    names = timm_datasets.split_names(source, root)
    return {split: partial(timm_datasets.open_split, source, root, name) for split, name in names.items()}


def _has_prefix(prefix: str, source: str, _path: Path) -> bool:
    return "/" in source and source.split("/", 1)[0].lower() == prefix


def _timm(prefix: str, package: str, install: str = "'ffvit[sources]'") -> DataSource:
    return DataSource(f"{prefix}/...", partial(_has_prefix, prefix), _timm_splits, package, install)


SOURCES = (
    DataSource("digits", lambda source, _: source == "digits", lambda *_: {"train": _digits}),
    DataSource(
        "remote shards",
        lambda source, _: addresses.is_remote(source),
        lambda source, _, root: _opened(remote.open_remote(source, root)),
    ),
    DataSource(
        "a prepared folder",
        lambda _, path: path.is_dir() and index.is_prepared(path),
        lambda _, path, __: _opened(reader.open_shards(path)),
    ),
    DataSource(
        "tar files",
        lambda _, path: local.find_files(path, local.TARS) is not None,
        lambda _, path, __: _opened(local.open_files(path, local.TARS)),
    ),
    DataSource(
        "Parquet files of images",
        lambda _, path: (
            local.find_files(path, local.PARQUET) is not None and (not path.is_file() or unpack.holds_images(path))
        ),
        lambda _, path, __: _opened(local.open_files(path, local.PARQUET)),
        "pyarrow",
        "'ffvit[sources]'",
    ),
    DataSource("a folder", lambda _, path: path.is_dir(), _folder_splits),
    DataSource("a list", lambda _, path: path.is_file(), _list_splits),
    _timm("torch", "torchvision", "torchvision"),
    _timm("hfds", "datasets"),
    _timm("hfids", "datasets"),
    _timm("wds", "webdataset"),
    _timm("tfds", "tensorflow_datasets", "tensorflow tensorflow-datasets"),
)


def open_source(source: str, root: Path | None) -> dict[str, Opener]:
    """What opens each split of a source: train, val and test as far as it has them, or train alone.

    Raises:
        UserError: The source cannot be used, or a package is missing.
    """
    check_source(source)
    path = Path(os.path.expanduser(source))  # noqa: PTH111 (never raises)
    row = next((row for row in SOURCES if row.matches(source, path)), None)
    if row is None:
        raise DataError(_unknown_source(source, path))
    if row.package and find_spec(row.package) is None:
        raise MissingPackageError(
            f"data.source: {row.name.removesuffix('...')} needs the package {row.package}: pip install {row.install}"
        )
    openers = row.splits(source, path, root)
    return {split: openers[split] for split in SPLITS if split in openers}


def load_labeled_splits(source: str, root: Path | None) -> dict[str, LabeledImages]:
    """The splits of a source; those whose labels are withheld are left out.

    Raises:
        UserError: The source cannot be used.
    """
    loaded = {split: opener() for split, opener in open_source(source, root).items()}
    return {split: images for split, images in loaded.items() if images is not None}


def load_splits(source: str, root: Path | None) -> dict[str, LabeledImages]:
    """The splits of a source to train on: train, and val and test if it has them; all with the same classes.

    Raises:
        UserError: The source cannot be used, has no train, or its splits differ in their classes.
    """
    splits = load_labeled_splits(source, root)
    if "train" not in splits:
        raise DataError(f"data.source: {source} has {' and '.join(splits) or 'no split'} but no train to train on")
    classes = splits["train"].classes
    for split, (_, names) in splits.items():
        if set(names) != set(classes):
            sides = (("train", classes, split, set(names)), (split, names, "train", set(classes)))
            differences = [
                f"{shortened(missing)} in {one} but not in {other}"
                for one, here, other, there in sides
                if (missing := [name for name in here if name not in there])
            ]
            raise DataError(f"data.source: the splits of {source} differ in their classes: {'; '.join(differences)}")
        assert names == classes, f"{split} numbers the classes in another order than train"
    return splits


def check_source(source: str) -> None:
    """Raise an error for a source that is empty or a path that cannot be looked at.

    Raises:
        DataError: A loop of links, a name that is too long, a folder that may not be read.
    """
    if not source.strip():
        raise DataError("data.source: is empty; give a folder, a list, an address or a name")
    if addresses.is_remote(source):
        return
    try:
        os.stat(os.path.expanduser(source))  # noqa: PTH111, PTH116 (expanding never raises)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"data.source: {source}: cannot be opened ({reason})") from None


def shortened(names: Sequence[str], limit: int = 5) -> str:
    """The names in quotes; of many only the first ones, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit:,} more"


def _unknown_source(source: str, path: Path) -> str:
    names = [row.name for row in SOURCES if row.name.endswith("/...") or row.name == "digits"]
    known, prefix = ", or ".join((names[0], ", ".join(names[1:]))), source.split("/", 1)[0].lower()
    near = did_you_mean(prefix, [name.removesuffix("/...") for name in names[1:]])
    if "/" in source and near:
        return f"data.source: there is no {source!r}, nor a kind of data set {prefix!r}{near} (known: {known})"
    missing = path
    while not missing.parent.is_dir():
        missing = missing.parent
    siblings = [entry.name for entry in folders.visible(missing.parent)]
    near = did_you_mean(missing.name, [*siblings, "digits"])
    return f"data.source: there is no {missing.name!r} in {missing.parent.resolve()}{near} (or a name: {known})"
