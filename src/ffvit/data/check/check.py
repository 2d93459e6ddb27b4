"""What to know of a set of images before training on it: which are broken, unusual, alike, in the wrong split or class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int64

from ffvit.data.check.near_duplicates import NEAR, AllImages, exact_duplicates, scan, similar_pairs
from ffvit.data.check.scan import Trait
from ffvit.data.sources import load_labeled_splits

TINY, SMALL_SHARE = 32, 0.5
"""An image is tiny if its shorter side is below so many pixels, and below this share of the set's median."""

HUGE, HUGE_AT_LEAST, HUGE_FOR_SURE = 8, 2e6, 50e6
"""It is huge with so many times the set's median pixels, if it has these many at least; or with so many pixels."""

NARROW = 5
"""It is narrow if one side is more than so many times the other."""


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        name: As the list of findings calls it.
        level: error: the set is not fit to train on, or its figures mislead; warning: worth a look; info: good to know.
        what: What these images are, in a few words.
        advice: What to do about them.
    """

    name: str
    level: Literal["error", "warning", "info"]
    what: str
    advice: str


BROKEN = Kind("broken", "error", "cannot be read", "replace or delete them: a run leaves out up to 1 %, then stops")
LEAK = Kind("leak", "error", "also in another split", "delete one of the two: scores on such images are too good")
NEAR_LEAK = Kind("near leak", "error", "look like one in another split", "delete one if both are the same")
CONFLICT = Kind("conflict", "error", "also under another label", "keep it under the right label only")
NEAR_CONFLICT = Kind(
    "near conflict", "error", "look like one with another label", "keep one label if both are the same"
)
MISSING = Kind("class missing", "error", "classes that one split lacks", "add images, or leave the class out of all")
DUPLICATE = Kind("duplicate", "warning", "the same in split and class", "delete them: they count double, and may leak")
NEAR_DUPLICATE = Kind(
    "near duplicate", "warning", "look like one of split and class", "delete one if both are the same"
)
BLANK = Kind("blank", "warning", "of one single colour", "delete them: there is nothing to learn from")
TINY_ONES = Kind("tiny", "warning", "much smaller than the others", "delete them, or find them larger")
HUGE_ONES = Kind("huge", "warning", "much larger than the others", "shrink them: they are slow to decode")
NARROW_ONES = Kind(
    "narrow", "warning", "one side over 5 times the other", "crop them: a square crop shows little of them"
)
GREY = Kind("grey", "info", "grey in a set mostly in colour", "make sure that it is not one class that is grey")
COLOUR = Kind("colour", "info", "in colour in a set mostly grey", "make sure that it is not one class that has colour")

_TRAITS = {
    Trait.CMYK: Kind("cmyk", "info", "in the colours of print", "fine, if predicted from the same files; RGB is safer"),
    Trait.TRANSPARENT: Kind("transparent", "info", "with transparent places", "they become white: is that right?"),
    Trait.PALETTE: Kind("palette", "info", "with a palette of colours", "nothing to do"),
    Trait.DEEP: Kind("16-bit", "info", "of more than 8 bits a channel", "they are scaled to 8: is the contrast right?"),
    Trait.ANIMATED: Kind("animated", "info", "with several frames", "the first alone is used: does it show the class?"),
    Trait.TURNED: Kind("turned", "info", "turned by their EXIF", "are turned upright here: do so where you predict"),
    Trait.PROGRESSIVE: Kind("progressive", "info", "progressive JPEG", "re-encode as baseline: it decodes faster"),
}

Indices = Int64[np.ndarray, " found"]


@dataclass(frozen=True, eq=False)
class Finding:
    """Images of which the same was found.

    Attributes:
        kind: What was found.
        images: Which, numbered through all splits.
        partners: The image that each goes with, or -1.
        detail: What more there is to say of the n-th of them.
    """

    kind: Kind
    images: Indices
    partners: Indices
    detail: Callable[[int], str]


class MissingClass(NamedTuple):
    """A class of which a split has no image, though another split has."""

    split: str
    label: str
    elsewhere: str


@dataclass(frozen=True, eq=False)
class Check:
    """What was found of a set of images.

    Attributes:
        source: The set, as it was given.
        images: The images themselves.
        sizes: Of each split: images, classes, images of the smallest, median and largest class, and MiB.
        findings: Errors first.
        missing: Classes that one split lacks.
        incomplete: Whether there were too many images alike to find them all.
    """

    source: str
    images: AllImages
    sizes: pd.DataFrame
    findings: tuple[Finding, ...]
    missing: tuple[MissingClass, ...]
    incomplete: bool

    @property
    def serious(self) -> bool:
        """Whether there is an error, which should be mended before training."""
        return bool(self.missing) or any(finding.kind.level == "error" for finding in self.findings)


def check(source: str, *, root: Path | None = None, near: int = NEAR) -> Check:
    """Open every image of every split, and tell what an engineer would want to know before training.

    Args:
        source: As in `Data.source`.
        root: As in `Data.root`.
        near: Bits of 128 in which the hashes of images that look alike may differ. 0: only look for exact duplicates.

    Raises:
        UserError: The source cannot be used as it is.
        RunStoppedError: A process that opens images was killed.
    """
    images = AllImages(load_labeled_splits(source, root))
    records, reasons = scan(images)
    partners, incomplete = _partners(images, records, near)
    broken = _finding(BROKEN, np.array(list(reasons), dtype=np.int64), list(reasons.values()).__getitem__)
    alike = (
        finding
        for kind in (LEAK, CONFLICT, NEAR_LEAK, NEAR_CONFLICT, DUPLICATE, NEAR_DUPLICATE)
        for finding in _alike(images, kind, partners[kind])
    )
    traits = (
        finding
        for trait, kind in _TRAITS.items()
        for finding in _finding(kind, np.flatnonzero(records["traits"] & trait), lambda _: "")
    )
    findings = (*broken, *alike, *_unusual(records), *traits)
    return Check(source, images, _sizes(images, records), findings, tuple(_missing(images)), incomplete)


def _finding(
    kind: Kind, images: Indices, detail: Callable[[int], str], partners: Indices | None = None
) -> Iterator[Finding]:
    """A finding, if there is one."""
    if len(images):
        yield Finding(kind, images, np.full(len(images), -1) if partners is None else partners, detail)


def _alike(images: AllImages, kind: Kind, partner_of: Int64[np.ndarray, " images"]) -> Iterator[Finding]:
    indices = np.flatnonzero(partner_of >= 0)
    partners = partner_of[indices]

    def detail(n: int) -> str:
        return f"{images.class_name(int(partners[n]))} in {images.split_name(int(partners[n]))}"

    return _finding(kind, indices, detail, partners)


def _partners(
    images: AllImages, records: np.ndarray, near: int
) -> tuple[dict[Kind, Int64[np.ndarray, " images"]], bool]:
    """The image that each one goes with, or -1, by kind; and whether there were too many pairs to find all.

    A duplicate in an earlier split makes a leak, one under another label a conflict, one in the same split and class a
    duplicate. Of several the first or the nearest is taken. Exact duplicates look like what the first of them looks like.
    """
    indices, same = exact_duplicates(records)
    split, label = images.split, images.labels
    table = pd.DataFrame({"image": indices, "same": same, "split": split[indices], "label": label[indices]})
    first = same  # of an earlier split before a later one: images are numbered by split
    under_another = table["image"].where(table["label"] != label[first]).groupby(same).transform("min")
    relabelled = np.where(label[first] != label[indices], first, under_another.fillna(-1).astype(np.int64))
    first_of_kin = table.groupby(["same", "split", "label"])["image"].transform("min").to_numpy()

    def partner_of(kept: np.ndarray, partners: Indices) -> Int64[np.ndarray, " images"]:
        of = np.full(len(images), -1)
        of[indices[kept]] = partners[kept]
        return of

    leaks, conflicts = split[first] < split[indices], relabelled >= 0
    exact = {
        LEAK: partner_of(leaks, first),
        CONFLICT: partner_of(conflicts, relabelled),
        DUPLICATE: partner_of((first_of_kin != indices) & ~leaks & ~conflicts, first_of_kin),
    }
    pairs, incomplete = np.zeros((0, 2), dtype=np.int64), False
    if near:
        pairs, incomplete = similar_pairs(images, records, np.unique(first_of_kin), near)
    # Nearest first; of equal ones the earlier image of a pair comes before the later one.
    one, other = np.concatenate([pairs[:, ::-1], pairs]).T
    partners = dict(exact)
    for exact_kind, kind, chosen in (
        (LEAK, NEAR_LEAK, split[one] > split[other]),
        (CONFLICT, NEAR_CONFLICT, label[one] != label[other]),
        (DUPLICATE, NEAR_DUPLICATE, (split[one] == split[other]) & (label[one] == label[other]) & (one > other)),
    ):
        of = np.full(len(images), -1)
        found, nearest = np.unique(one[chosen], return_index=True)
        of[found] = other[chosen][nearest]
        of[indices] = of[first_of_kin]
        of[exact[exact_kind] >= 0] = -1
        partners[kind] = of
    graver = np.any([partners[kind] >= 0 for kind in (LEAK, CONFLICT, NEAR_LEAK, NEAR_CONFLICT)], axis=0)
    partners[NEAR_DUPLICATE][graver] = -1
    return partners, incomplete


def _unusual(records: np.ndarray) -> Iterator[Finding]:
    """Images unlike the rest of the set in size, shape or colour."""
    read = np.flatnonzero((records["traits"] & Trait.BROKEN) == 0)
    if not len(read):
        return
    traits = records["traits"][read]
    sides = np.stack([records["width"][read], records["height"][read]]).astype(np.int64)
    short, long, pixels = sides.min(0), sides.max(0), sides.prod(0)
    blank, grey = (traits & Trait.BLANK) != 0, (traits & Trait.GREY) != 0
    mostly_in_colour = 2 * (grey & ~blank).sum() <= (~blank).sum()
    for kind, chosen in (
        (BLANK, blank),
        (TINY_ONES, (short < TINY) & (short < SMALL_SHARE * np.median(short))),
        (HUGE_ONES, pixels > min(HUGE_FOR_SURE, max(HUGE_AT_LEAST, HUGE * float(np.median(pixels))))),
        (NARROW_ONES, long > NARROW * short),
        (GREY, grey & ~blank & mostly_in_colour),
        (COLOUR, ~grey & ~blank & ~mostly_in_colour),
    ):
        width, height = sides[:, chosen]
        yield from _finding(kind, read[chosen], partial(_size, width, height))


def _size(width: Indices, height: Indices, n: int) -> str:
    return f"{width[n]} x {height[n]} pixels"


def _sizes(images: AllImages, records: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame({"split": images.split, "label": images.labels, "size": records["size"]})
    sizes = table.groupby(["split", "label"]).size().groupby("split")
    made = sizes.agg(["sum", "count", "min", "median", "max"]).assign(MiB=table.groupby("split")["size"].sum() / 2**20)
    made.columns = pd.Index(["images", "classes", "smallest", "median", "largest", "MiB"])
    return made.set_axis([images.splits[number] for number in made.index])


def _missing(images: AllImages) -> Iterator[MissingClass]:
    here = np.zeros((len(images.splits), len(images.classes)), dtype=bool)
    here[images.split, images.labels] = True
    for number, label in np.argwhere(~here):
        elsewhere = " and ".join(split for split, has in zip(images.splits, here[:, label], strict=True) if has)
        if elsewhere:
            yield MissingClass(images.splits[number], images.classes[label], elsewhere)
