"""Data sets that timm opens: torchvision's, Hugging Face's, TensorFlow's and WebDataset shards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from timm.data import create_dataset
from torch.utils.data import IterableDataset

from ffvit.data.decode import to_rgb
from ffvit.data.images import (
    SPLIT_NAMES,
    ArrayImages,
    Images,
    LabeledImages,
    Labels,
    TimmImages,
    natural_sort,
    only_image_formats,
    read_file,
)
from ffvit.errors import DataError, UserError
from ffvit.terminal import track

MEMORY_LIMIT = 8 * 2**30
"""Bytes of pixels to hold of a source that can only be read in order."""


def split_names(source: str, root: Path | None) -> dict[str, str]:
    """What the data set calls its splits train, val and test, as far as it has them.

    Raises:
        UserError: A package is missing, or timm cannot open the data set.
    """
    if _prefix(source) == "torch":
        return {"train": "train", "val": "validation"}
    reader = _open(source, root, "train").reader
    if hasattr(reader, "info"):  # WebDataset's _info.json
        names = reader.info.get("splits", {})
    else:
        names = (reader.builder if hasattr(reader, "builder") else reader.dataset).info.splits or {}
    return {"train": "train"} | {SPLIT_NAMES[name]: name for name in names if name in SPLIT_NAMES}


def open_split(source: str, root: Path | None, split: str) -> LabeledImages | None:
    """A split of the data set, or None if its labels are withheld, as those of many public test splits are.

    Raises:
        UserError: A package is missing, timm cannot open or read the data set, or it is too large to be held.
    """
    dataset = _open(source, root, split)
    with _as_user_error(source, split):
        images: Images
        names: tuple[str, ...] = ()
        if isinstance(dataset, IterableDataset):
            images = _read_stream(source, split, dataset)
        else:
            names, labels = _labels(dataset)
            images = TimmImages(f"{source}:{split}", dataset, labels)
        if (images.labels < 0).any():
            return None
        names = names or _class_names(dataset)
        count = int(images.labels.max()) + 1
        return LabeledImages(images, names if len(names) >= count else tuple(map(str, range(count))))


def _prefix(source: str) -> str:
    return source.split("/", 1)[0].lower()


def _open(source: str, root: Path | None, split: str) -> Any:
    prefix = _prefix(source)
    if root is None and prefix == "wds":
        raise DataError("data.source: say with data.root in which folder the shards (and _info.json) lie")
    root = root or Path.home() / ".cache" / "ffvit" / source
    with _as_user_error(source, split):
        dataset = create_dataset(
            source, root=str(root), split=split, search_split=True, download=prefix in ("torch", "tfds")
        )
    if hasattr(dataset, "loader"):  # torchvision's would decode, and ignore which way is up
        dataset.loader = read_file
    return dataset


@contextmanager
def _as_user_error(source: str, split: str) -> Iterator[None]:
    """Turn what timm and the libraries under it raise into an error that names the source."""
    try:
        with only_image_formats():
            yield
    except UserError:
        raise
    except Exception as error:
        raise DataError(
            f"data.source: timm cannot open {source!r} ({split}): {type(error).__name__}: {error}"
        ) from error


def _labels(dataset: Any) -> tuple[tuple[str, ...], Labels]:
    """The class names, if the labels are names, and the labels; no image is opened."""
    if hasattr(dataset, "reader"):
        given = np.asarray(dataset.reader.dataset[dataset.reader.label_key][:])
    elif hasattr(dataset, "targets"):
        given = np.asarray(dataset.targets)
    else:
        given = np.asarray([label for label, _ in dataset.index])  # iNaturalist
    if given.dtype.kind in "UO":
        return natural_sort([str(name) for name in given])
    return (), given.reshape(len(dataset), -1)[:, 0].astype(np.int64)  # QMNIST's rows say more than the digit


def _class_names(dataset: Any) -> tuple[str, ...]:
    if hasattr(dataset, "reader"):
        places = dataset.reader.class_to_idx or {}
        return tuple(sorted(places, key=places.__getitem__))
    names: Any = getattr(dataset, "classes", None) or getattr(dataset, "all_categories", ())
    # ImageNet's classes are tuples of synonyms, the first of which is not always theirs alone.
    return tuple(name if isinstance(name, str) else ", ".join(name) for name in names)


def _read_stream(source: str, split: str, dataset: Any) -> ArrayImages:
    """Read a stream to its end and keep its pixels, so that it can be split, shuffled and resumed like other sources."""
    dataset.reader.dist_rank, dataset.reader.dist_num_replicas = 0, 1  # every process holds the whole split
    arrays: list[np.ndarray] = []
    labels: list[int] = []
    size = 0
    for image, label in track(dataset, f"reading {source}:{split} into memory"):
        arrays.append(np.asarray(to_rgb(image)))
        labels.append(int(label))
        size += arrays[-1].nbytes
        if size > MEMORY_LIMIT:
            instead = (
                f"use {source.replace('hfids', 'hfds', 1)}, which reads from disk"
                if _prefix(source) == "hfids"
                else "unpack it into a folder of class folders and give that"
            )
            raise DataError(
                f"data.source: {source} can only be read in order, so it is held in memory, and its split {split} "
                f"takes more than {MEMORY_LIMIT / 2**30:g} GiB; {instead}"
            )
    if not arrays:
        raise DataError(f"data.source: {source} ({split}) holds no image")
    return ArrayImages(f"{source}:{split}", arrays, np.array(labels, dtype=np.int64))
