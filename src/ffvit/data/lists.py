"""Lists of images: a CSV or Parquet table with columns path, label and optionally split."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from ffvit.data.images import SPLIT_NAMES, FileImages, LabeledImages, natural_sort
from ffvit.errors import DataError, MissingPackageError, did_you_mean
from ffvit.terminal import track

SUFFIXES = (".csv", ".parquet")


def read_list(path: Path) -> dict[str, LabeledImages]:
    """The splits that a list names in its column `split`, or without one all its images as train.

    Paths are relative to the list's folder. Labels are names; numbers are names too.

    Raises:
        UserError: The table cannot be read, lacks a column or a label, names an unknown split, lists an image twice,
            or lists files that do not exist.
    """
    table = _table(path)
    empty = table[table["label"] == ""]
    if len(empty):
        raise DataError(f"{path}: {len(empty):,} rows have no label (first: {empty['path'].iloc[0]})")
    twice = table["path"][table["path"].duplicated()]
    if len(twice):
        raise DataError(
            f"{path}: {len(twice):,} images are listed more than once (first: {twice.iloc[0]}), and could fall into "
            "training and test both; list each once"
        )
    _check_files(path, table["path"])
    splits: dict[str, LabeledImages] = {}
    for split, rows in table.groupby(_split(path, table), sort=False):
        classes, labels = natural_sort(rows["label"].tolist())
        splits[str(split)] = LabeledImages(FileImages(path.parent, rows["path"].tolist(), labels), classes)
    return splits


def _check_files(path: Path, names: pd.Series) -> None:
    """Raise an error if an image does not exist or is listed twice under two paths."""
    missing: list[str] = []
    seen: dict[tuple[int, int], str] = {}
    for name in track(names, f"looking for the images of {path}"):
        file = os.path.join(path.parent, name)  # noqa: PTH118 (a million names)
        try:
            status = os.stat(file)  # noqa: PTH116
        except (OSError, ValueError):
            missing.append(name)
            continue
        first = seen.setdefault((status.st_dev, status.st_ino), name)
        # Hard links count as separate files: deduplication tools make them of images that are listed twice on purpose.
        if first != name and (status.st_nlink == 1 or os.path.realpath(path.parent / first) == os.path.realpath(file)):
            raise DataError(
                f"{path}: {first} and {name} are the same file, which could fall into training and test both; list each once"
            )
    if missing:
        raise DataError(
            f"{path}: {len(missing):,} of its {len(names):,} images do not exist (first: {path.parent / missing[0]}); "
            "paths are relative to the list's folder"
        )


def read_column(path: Path, column: str) -> dict[str, str]:
    """The values of a column by the images' paths as they are listed.

    Raises:
        UserError: There is no such column, or it is empty for some image.
    """
    table = _table(path, column)
    empty = table[table[column] == ""]
    if len(empty):
        raise DataError(
            f"{path}: {len(empty):,} rows have nothing in the column {column!r} (first: {empty['path'].iloc[0]}); "
            "an image that belongs with no other needs a value of its own"
        )
    return dict(zip(table["path"], table[column], strict=True))


def _table(path: Path, *columns: str) -> pd.DataFrame:
    """The table: path, label, split if there is one, and these columns, as text."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: is no regular file")
    try:
        if path.suffix.lower() == ".csv":
            # A class may well be called NA or 007, so nothing is read as a number or as missing.
            table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
        else:
            table = pd.read_parquet(path)
    except ImportError as error:
        raise MissingPackageError(f"{path}: to read Parquet, pip install 'ffvit[sources]'") from error
    except (OSError, ValueError) as error:  # pandas' and pyarrow's own errors are ValueErrors
        raise DataError(f"{path}: cannot be read as a table ({error})") from error
    known = [str(name) for name in table]
    missing = [name for name in ("path", "label") if name not in known]
    if missing:
        raise DataError(
            f"{path}: has no column {' nor '.join(map(repr, missing))}; its columns are: {', '.join(known)}"
        )
    for column in columns:
        if column not in known:
            near, others = did_you_mean(column, known), ", ".join(name for name in known if name != "path")
            raise DataError(f"data.groups: {path} has no column {column!r}{near}; its columns are: {others}")
    if not len(table):
        raise DataError(f"{path}: lists no image")
    chosen = table[[name for name in dict.fromkeys(("path", "label", "split", *columns)) if name in table]]
    return chosen.astype(object).where(chosen.notna(), "").astype(str)


def _split(path: Path, table: pd.DataFrame) -> pd.Series:
    """The split of each row."""
    if "split" not in table:
        return pd.Series("train", index=table.index)
    for name in table["split"].unique():
        if name not in SPLIT_NAMES:
            near, known = did_you_mean(name, SPLIT_NAMES), ", ".join(SPLIT_NAMES)
            raise DataError(f"{path}: unknown split {name!r}{near} (known: {known})")
    return table["split"].map(SPLIT_NAMES)
