"""Which images a run uses, and how they are split, as a checked value (no image is opened here)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, field_validator, model_validator

from ffvit.config.base import Value

NEAR_DUPLICATES = "near-duplicates"


BAD_IMAGES = 0.01
"""Share of the images that may be unreadable, unless another is given."""


def bad_image_limit(allowed: float, images: int) -> int:
    """How many of so many images may be unreadable: `allowed` is a share below 1, a number from 1 on.

    A share stands for 3 images at least, so that a few do not stop a small set; 0 allows none.
    """
    if allowed >= 1 or not allowed:
        return int(allowed)
    return max(3, int(allowed * images))


def parse_groups(groups: str) -> tuple[str | None, bool]:
    """What `Data.groups` says: a column, `folder`, `re:...` or nothing; and whether near-duplicates form groups too."""
    by = groups.removesuffix(NEAR_DUPLICATES)
    if by == groups:
        return groups, False
    return by.removesuffix("+") or None, True


def absolute_path(place: str) -> str:
    """The absolute path of a file or folder that is there, or of files by braces; anything else (a name, an address) as it is.

    Of a file only the folder's links are followed: a list that is a link lists images beside the link.
    """
    path = Path(os.path.expanduser(place))  # noqa: PTH111 (never raises)
    try:
        if not path.exists():
            return os.path.abspath(path) if "{" in place and "://" not in place else place  # noqa: PTH100 (follows no links)
        return str(path.resolve() if path.is_dir() else path.parent.resolve() / path.name)
    except OSError:
        return place  # told where it is opened


class Data(Value):
    """The images of a run.

    What weights and epochs are chosen on is never what the final figure is measured on: `validation` images are held
    out of the training split for choosing wherever the data does not bring three splits itself.
    """

    source: str = Field(
        "digits",
        description="digits; a folder with train/ and val/ (and test/), or of class folders, of shards (.tar, .tar.gz) or of Parquet "
        "files (columns image, label); one such file, or several ('train-{0000..0127}.tar'); a .csv or .parquet list "
        "with columns path, label and optionally split; remote shards: the address of a prepared folder "
        "(s3://bucket/folder, https://...) or of tar files (https://host/train-{0000..0127}.tar); or a data set timm opens: torch/cifar10, hfds/..., wds/...",
    )
    root: Path | None = Field(
        None,
        description="Where a data set that timm opens lies or is downloaded to, and where remote shards are cached (default: ~/.cache/ffvit).",
    )
    validation: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None,
        description="Share of the training images held out to choose epoch and weights on, where the data has no "
        "validation split. Default: 10 %, at most 10,000 images. 0: none, and the last weights are the result.",
    )
    test: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="Share of the images held out for the final accuracy, where the data has no test split."
    )
    class_order: Literal["natural", "alphabetical"] = Field(
        "natural",
        description="How classes are numbered. natural: 2 before 10, whatever the case of letters; where the data numbers them "
        "itself, as it does. alphabetical: by their names as plain text, as torchvision's ImageFolder does.",
    )
    groups: str | None = Field(
        None,
        description="Images that belong together (of one patient, burst or product) and are never split apart: a column of the "
        "list; `folder`, the folder below the class's; `re:PATTERN`, what it matches in the path (its brackets, if it "
        "has any); `near-duplicates`, images that look the same to `ffvit check`; or, say, `patient+near-duplicates`.",
    )
    split_seed: int = Field(0, ge=0, lt=2**32, description="Decides which images fall into which split.")
    folds: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="Cross-validation: the number of folds, stratified by class; `fold` is the test split.",
    )
    fold: NonNegativeInt | None = Field(None, description="Which of the folds is the test split, from 0.")
    bad_images: NonNegativeFloat = Field(
        BAD_IMAGES,
        description="Unreadable images to leave out (counted and listed) before the run stops: below 1 a share of all "
        "images, but at least 3; from 1 a number.",
    )

    @field_validator("source")
    @classmethod
    def _names_something(cls, source: str) -> str:
        if not source.strip():
            raise ValueError("is empty; give a folder, a list, an address or a name")
        return source

    @field_validator("groups")
    @classmethod
    def _says_something(cls, groups: str | None) -> str | None:
        if groups is None:
            return None
        by, _ = parse_groups(groups)
        if not groups.strip() or by == "re:":
            raise ValueError(
                f"groups: {groups!r} names nothing to group by; give a column, folder, re:PATTERN or {NEAR_DUPLICATES}"
            )
        if by and by.startswith("re:"):
            try:
                re.compile(by.removeprefix("re:"))
            except re.error as error:
                raise ValueError(f"groups: {by!r} is no regular expression ({error})") from None
        return groups

    @model_validator(mode="after")
    def _consistent(self) -> Data:
        if (self.folds is None) != (self.fold is None):
            raise ValueError("folds: how many there are, and fold: which is the test split, go together")
        if self.folds is not None and self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold: of {self.folds} folds the last is {self.folds - 1}; got {self.fold}")
        return self

    def located(self) -> Data:
        """With absolute paths, so that going on from another working folder reads the same images."""
        source = self.source if self.source == "digits" else absolute_path(self.source)
        root = None if self.root is None else Path(os.path.abspath(os.path.expanduser(self.root)))  # noqa: PTH100, PTH111
        return self.replace(source=source) if root is None else self.replace(source=source, root=root)
