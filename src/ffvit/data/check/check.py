"""What to know of a set of images before training on it: which are broken, odd, alike, in the wrong part or class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Int64
from rich.console import Console

from ffvit.data.check.near_duplicates import NEAR, AllImages, first_of, identical, scan, similar_pairs
from ffvit.data.check.scan import Trait
from ffvit.data.sources import load_labeled_splits
from ffvit.terminal import Terminal

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
        weight: serious: the set is not fit to train on, or its figures mislead; odd: worth a look; note: good to know.
        what: What these images are, in a few words.
        advice: What to do about them.
    """

    name: str
    weight: Literal["serious", "odd", "note"]
    what: str
    advice: str


BROKEN = Kind("broken", "serious", "cannot be read", "replace or delete them: a run passes over 100, then stops")
LEAK = Kind("leak", "serious", "also in another part", "delete one of the two: scores on such images are too good")
NEAR_LEAK = Kind(
    "near leak", "serious", "look like one in another part", "look at both; delete one if they are the same"
)
CONFLICT = Kind("conflict", "serious", "also under another label", "keep it under the right label only")
NEAR_CONFLICT = Kind(
    "near conflict", "serious", "look like one with another label", "look at both; keep one label if they are the same"
)
MISSING = Kind("class missing", "serious", "classes that one part lacks", "add images, or leave the class out of all")
DUPLICATE = Kind(
    "copy", "odd", "copies within a part and class", "delete them: they count double, and splitting may leak them"
)
NEAR_DUPLICATE = Kind(
    "near copy", "odd", "look like one of part and class", "look at both; delete one if they are the same"
)
BLANK = Kind("blank", "odd", "of one single colour", "delete them: there is nothing to learn from")
TINY_ONES = Kind("tiny", "odd", "much smaller than the others", "delete them, or find them larger")
HUGE_ONES = Kind("huge", "odd", "much larger than the others", "shrink them: they are slow to decode")
NARROW_ONES = Kind("narrow", "odd", "one side over 5 times the other", "crop them: a square crop shows little of them")
GREY = Kind("grey", "note", "grey in a set mostly in colour", "make sure that it is not one class that is grey")
COLOUR = Kind("colour", "note", "in colour in a set mostly grey", "make sure that it is not one class that has colour")

_TRAITS = {
    Trait.CMYK: Kind("cmyk", "note", "in the colours of print", "fine, if predicted from the same files; RGB is safer"),
    Trait.TRANSPARENT: Kind("transparent", "note", "with transparent places", "they become white: is that right?"),
    Trait.PALETTE: Kind("palette", "note", "with a palette of colours", "nothing to do"),
    Trait.DEEP: Kind("16-bit", "note", "of more than 8 bits a channel", "they are scaled to 8: is the contrast right?"),
    Trait.ANIMATED: Kind("animated", "note", "with several frames", "the first alone is used: does it show the class?"),
    Trait.TURNED: Kind("turned", "note", "turned by their EXIF", "are turned upright here: do so where you predict"),
    Trait.PROGRESSIVE: Kind("progressive", "note", "progressive JPEG", "re-encode as baseline: it decodes faster"),
}


@dataclass(frozen=True, eq=False)
class Finding:
    """Images of which the same was found.

    Attributes:
        kind: What was found.
        images: Which, counted through all parts.
        others: The image that each goes with, or -1.
        detail: What more there is to say of the n-th of them.
    """

    kind: Kind
    images: Int64[np.ndarray, " found"]
    others: Int64[np.ndarray, " found"]
    detail: Callable[[int], str]


@dataclass(frozen=True)
class Missing:
    """A class of which a part has no image, though another part has."""

    part: str
    label: str
    elsewhere: str


@dataclass(frozen=True)
class PartSizes:
    """How many images and classes a part has; `sizes` are its classes' (those with an image), ascending."""

    images: int
    sizes: tuple[int, ...]
    mebibytes: float


@dataclass(frozen=True, eq=False)
class Check:
    """What was found of a set of images.

    Attributes:
        source: The set, as it was given.
        parts: Sizes, by part.
        classes: The names of all classes.
        findings: The most serious kind first.
        missing: Classes that one part lacks.
        cut: Whether there were too many images alike to find them all.
    """

    source: str
    parts: dict[str, PartSizes]
    classes: tuple[str, ...]
    findings: tuple[Finding, ...]
    missing: tuple[Missing, ...]
    cut: bool
    whole: AllImages

    @property
    def serious(self) -> bool:
        """Whether something was found that should be mended before training."""
        return bool(self.missing) or any(each.kind.weight == "serious" for each in self.findings)


def check(source: str, *, root: Path | None = None, near: int = NEAR, console: Console | None = None) -> Check:
    """Open every image of every part, and tell what an engineer would want to know before training.

    Args:
        source: As in `Data.source`.
        root: As in `Data.root`.
        near: Bits of 128 in which the hashes of images that look alike may differ. 0: only look for exact copies.
        console: Where progress is shown. Default: stderr, if it is a terminal.

    Raises:
        UserError: The source cannot be used as it is.
        RunStoppedError: A process that opens images was killed.
    """
    whole = AllImages(load_labeled_splits(source, root))
    console = console or Terminal(stderr=True)
    seen, reasons = scan(whole, console)
    alike, cut = _alike(whole, seen, near, console)
    found = (*_broken(reasons), *alike, *_odd(seen), *_traits(seen))
    missing = tuple(_missing(whole))
    return Check(source, dict(_sizes(whole, seen)), whole.classes, found, missing, cut, whole)


def _broken(reasons: dict[int, str]) -> Iterator[Finding]:
    yield from _finding(BROKEN, np.array(list(reasons), dtype=np.int64), list(reasons.values()).__getitem__)


def _finding(
    kind: Kind,
    images: Int64[np.ndarray, " found"],
    detail: Callable[[int], str],
    others: Int64[np.ndarray, " found"] | None = None,
) -> Iterator[Finding]:
    """A finding, if there is one."""
    if len(images):
        yield Finding(kind, images, np.full(len(images), -1) if others is None else others, detail)


def _alike(whole: AllImages, seen: np.ndarray, near: int, console: Console) -> tuple[list[Finding], bool]:
    """Leaks, conflicts and copies, exact ones and near ones; and whether there were too many to find all."""
    images, same = identical(seen)
    kin = (  # the same, in part and label too
        pd.DataFrame({"same": same, "part": whole.part[images], "label": whole.labels[images]})
        .groupby(["same", "part", "label"], sort=False)
        .ngroup()
        .to_numpy()
    )
    partners = _Partners(whole, images)
    firsts = partners.exact(same, kin)
    cut = False
    if near:
        pairs, cut = similar_pairs(whole, seen, firsts, near, console)
        partners.near(pairs, firsts[kin])
    return list(partners.findings()), cut


class _Partners:
    """The image that each one goes with: in another part, under another label, or in its own part and class."""

    def __init__(self, whole: AllImages, images: Int64[np.ndarray, " some"]) -> None:
        self._whole = whole
        self._images = images
        kinds = (LEAK, CONFLICT, DUPLICATE, NEAR_LEAK, NEAR_CONFLICT, NEAR_DUPLICATE)
        self._of = {kind: np.full(len(whole), -1) for kind in kinds}

    def exact(self, same: Int64[np.ndarray, " some"], kin: Int64[np.ndarray, " some"]) -> Int64[np.ndarray, " kinds"]:
        """Note exact copies, numbered alike in `same`, and in `kin` if part and label are the same too.

        Returns:
            The first image of each number in `kin`.
        """
        images, part, label = self._images, self._whole.part[self._images], self._whole.labels[self._images]
        every = np.ones(len(images), dtype=bool)
        for number in reversed(range(len(self._whole.parts))):  # earlier parts go before later ones
            earlier = first_of(same, part == number)[same]
            here = (part > number) & (earlier >= 0)
            self._of[LEAK][images[here]] = images[earlier[here]]
        first = first_of(same, every)[same]
        other = np.where(label[first] != label, first, first_of(same, label != label[first])[same])
        self._of[CONFLICT][images[other >= 0]] = images[other[other >= 0]]
        first = first_of(kin, every)[kin]
        again = (first != np.arange(len(images))) & (self._of[LEAK][images] < 0) & (other < 0)
        self._of[DUPLICATE][images[again]] = images[first[again]]
        return images[first_of(kin, every)]

    def near(self, pairs: Int64[np.ndarray, "pairs 2"], first_of_kin: Int64[np.ndarray, " some"]) -> None:
        """Note images that look alike: of each one's pairs, given nearest first, the first; copies like their first."""
        part, label = self._whole.part, self._whole.labels
        for one, other in (pairs.T, pairs.T[::-1]):
            in_earlier = part[one] > part[other]
            in_own = (part[one] == part[other]) & (label[one] == label[other]) & (one > other)
            for kind, chosen in (
                (NEAR_LEAK, in_earlier),
                (NEAR_CONFLICT, label[one] != label[other]),
                (NEAR_DUPLICATE, in_own),
            ):
                images, nearest = np.unique(one[chosen], return_index=True)
                self._of[kind][images] = other[chosen][nearest]
        for exact, kind in ((LEAK, NEAR_LEAK), (CONFLICT, NEAR_CONFLICT), (DUPLICATE, NEAR_DUPLICATE)):
            of = self._of[kind]
            of[self._images] = of[first_of_kin]
            of[self._of[exact] >= 0] = -1
        told = (self._of[NEAR_LEAK] >= 0) | (self._of[NEAR_CONFLICT] >= 0) | (self._of[LEAK] >= 0)
        self._of[NEAR_DUPLICATE][told | (self._of[CONFLICT] >= 0)] = -1

    def findings(self) -> Iterator[Finding]:
        """What was noted, most serious first."""
        for kind in (LEAK, CONFLICT, NEAR_LEAK, NEAR_CONFLICT, DUPLICATE, NEAR_DUPLICATE):
            images = np.flatnonzero(self._of[kind] >= 0)
            others = self._of[kind][images]
            yield from _finding(kind, images, self._detail(others), others)

    def _detail(self, others: Int64[np.ndarray, " found"]) -> Callable[[int], str]:
        return lambda n: f"{self._whole.label_of(int(others[n]))} in {self._whole.part_of(int(others[n]))}"


def _odd(seen: np.ndarray) -> Iterator[Finding]:
    """Images unlike the rest of the set in what they measure."""
    read = np.flatnonzero((seen["traits"] & Trait.BROKEN) == 0)
    if not len(read):
        return
    traits, sides = seen["traits"][read], np.stack([seen["width"][read], seen["height"][read]]).astype(np.int64)
    short, long, pixels = sides.min(0), sides.max(0), sides.prod(0)
    tiny = (short < TINY) & (short < SMALL_SHARE * np.median(short))
    huge = pixels > min(HUGE_FOR_SURE, max(HUGE_AT_LEAST, HUGE * float(np.median(pixels))))
    narrow = long > NARROW * short
    blank, grey = (traits & Trait.BLANK) != 0, (traits & Trait.GREY) != 0

    def size(images: Int64[np.ndarray, " found"]) -> Callable[[int], str]:
        return lambda n: f"{seen['width'][images[n]]} x {seen['height'][images[n]]} pixels"

    rest = ~blank
    in_colour = 2 * (grey & rest).sum() <= rest.sum()
    for kind, chosen in (
        (BLANK, blank),
        (TINY_ONES, tiny),
        (HUGE_ONES, huge),
        (NARROW_ONES, narrow),
        (GREY, grey & rest & in_colour),
        (COLOUR, ~grey & rest & ~in_colour),
    ):
        yield from _finding(kind, read[chosen], size(read[chosen]))


def _traits(seen: np.ndarray) -> Iterator[Finding]:
    for trait, kind in _TRAITS.items():
        yield from _finding(kind, np.flatnonzero(seen["traits"] & trait), lambda _: "")


def _sizes(whole: AllImages, seen: np.ndarray) -> Iterator[tuple[str, PartSizes]]:
    for number, part in enumerate(whole.parts):
        here = whole.part == number
        sizes = np.bincount(whole.labels[here])
        stored = float(seen["size"][here].sum()) / 2**20
        yield part, PartSizes(int(here.sum()), tuple(np.sort(sizes[sizes > 0]).tolist()), stored)


def _missing(whole: AllImages) -> Iterator[Missing]:
    here = np.zeros((len(whole.parts), len(whole.classes)), dtype=bool)
    here[whole.part, whole.labels] = True
    for number, label in np.argwhere(~here):
        elsewhere = " and ".join(part for part, has in zip(whole.parts, here[:, label], strict=True) if has)
        if elsewhere:
            yield Missing(whole.parts[number], whole.classes[label], elsewhere)
