"""Drawing images to hold out: at random, class by class, and in whole groups where images belong together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

from ffvit.data.images import Images, Labels, Subset
from ffvit.errors import DataError

GroupNumbers = Int64[np.ndarray, " images"]

ATTEMPTS = 10
"""Orders of groups that are tried before a split that gives every split every class counts as impossible."""


def hold_out(
    images: Images,
    count: int,
    leave: int,
    seed: int,
    groups: GroupNumbers | None = None,
    classes: Sequence[str] = (),
) -> tuple[Subset, Subset]:
    """Split `count` images off at random, the same share of every class to within one image, or as near as groups allow.

    Every class gives at least one (image or group) and keeps at least `leave`, so that no split lacks a class;
    scikit-learn's stratified split leaves rare classes out of a small split, and refuses a split smaller than the number
    of classes.

    Raises:
        UserError: No split by whole groups gives every split every class.
    """
    labels = images.labels
    sizes = np.bincount(labels)
    share = sizes * (count / len(labels))
    held = np.minimum(np.maximum(np.floor(share).astype(np.int64), 1), np.maximum(sizes - leave, 0))
    short = np.flatnonzero((held < share) & (held < sizes - leave))
    short = short[np.argsort(held[short] - share[short], kind="stable")]  # largest remainders first
    held[short[: max(count - held.sum(), 0)]] += 1

    if groups is not None and len(np.unique(groups)) < len(groups):
        is_held = hold_out_groups(labels, groups, held, leave, seed, classes)
    else:
        # RandomState's numbers never change with numpy's version (NEP 19), and so neither does a split.
        shuffled = np.random.RandomState(seed).permutation(len(labels))
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
        place_in_class = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        is_held = np.zeros(len(labels), dtype=bool)
        is_held[by_class] = place_in_class < np.repeat(held, sizes)
    return Subset(images, np.flatnonzero(~is_held)), Subset(images, np.flatnonzero(is_held))


def hold_out_fold(
    images: Images, folds: int, fold: int, seed: int, groups: GroupNumbers | None, classes: Sequence[str]
) -> tuple[Subset, Subset]:
    """All folds but one, and that one: every image is in one fold, and every fold holds its share of each class.

    Raises:
        UserError: With whole groups, a fold would lack a class.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    labels = images.labels
    by_groups = groups is not None and len(np.unique(groups)) < len(groups)
    splitter = (StratifiedGroupKFold if by_groups else StratifiedKFold)(folds, shuffle=True, random_state=seed)
    splits = list(splitter.split(labels, labels, groups if by_groups else None))
    for kept, held in splits:
        lacking = np.setdiff1d(labels, labels[held]).tolist() + np.setdiff1d(labels, labels[kept]).tolist()
        if lacking:
            raise DataError(
                f"data.folds: with whole groups, one of {folds} folds holds no image of {classes[lacking[0]]!r}, or all "
                "of them; take fewer folds, or add groups that hold this class"
            )
    kept, held = splits[fold]
    return Subset(images, kept), Subset(images, held)


def hold_out_groups(
    labels: Labels,
    groups: GroupNumbers,
    wanted: Int64[np.ndarray, " classes"],
    leave: int,
    seed: int,
    classes: Sequence[str],
) -> Bool[np.ndarray, " images"]:
    """Which images to hold out: whole groups drawn at random, as near to the number wanted of each class as possible.

    Groups are visited in random order; each is taken (or put back) where that brings the numbers nearer to those
    wanted, by the sum over classes of (taken - wanted)^2 / wanted. Every class gives at least one group and keeps at
    least `leave`. Groups of one image each come to exactly the numbers wanted.

    Raises:
        UserError: No such split was found.
    """
    _, groups = np.unique(groups, return_inverse=True)
    pairs, counts = np.unique(np.stack([groups, labels]), axis=1, return_counts=True)
    contents: list[list[tuple[int, int]]] = [[] for _ in range(int(groups.max()) + 1)]
    for group, label, count in zip(*pairs.tolist(), counts.tolist(), strict=True):
        contents[group].append((label, count))
    random = np.random.RandomState(seed)
    missing: int | None = None
    for _ in range(ATTEMPTS):
        order = random.permutation(len(contents)).tolist()
        draw = _GroupDraw(contents, wanted.tolist(), leave)
        draw.approach(order)
        missing = draw.cover_classes(order)
        if missing is None:
            draw.approach(order)
            return np.array(draw.taken)[groups]
    assert missing is not None
    raise DataError(
        f"data.groups: no split by whole groups was found that leaves images of {classes[missing]!r} in every split: its "
        f"{np.count_nonzero(pairs[1] == missing)} groups also hold other classes, which would then be missing from a split; it "
        f"takes more groups with {classes[missing]!r}, or leave the class out"
    )


class _GroupDraw:
    """Groups being taken and put back; `contents` lists the (class, images) of each group."""

    def __init__(self, contents: list[list[tuple[int, int]]], wanted: list[int], leave: int) -> None:
        self.contents, self.wanted, self.leave = contents, wanted, leave
        self.lacking = list(wanted)  # images of each class still to be taken; negative: too many are taken
        self.groups_in = [0] * len(wanted)  # taken groups with images of each class
        self.groups_out = [0] * len(wanted)
        for content in contents:
            for label, _ in content:
                self.groups_out[label] += 1
        self.taken = [False] * len(contents)

    def approach(self, order: Sequence[int]) -> None:
        """Take and put back groups until no single one brings the numbers nearer to those wanted."""
        changed = True
        while changed:
            changed = False
            for group in order:
                if self._may_move(group) and self._gain(group) > 1e-9:
                    self._move(group)
                    changed = True

    def cover_classes(self, order: Sequence[int]) -> int | None:
        """Take the best fitting group of each class that has none; the first class for which there is none, or None."""
        for label in sorted(range(len(self.wanted)), key=self.groups_out.__getitem__):
            if self.groups_in[label]:
                continue
            fitting = [group for group in order if label in dict(self.contents[group]) and self._may_move(group)]
            if not fitting:
                return label
            self._move(max(fitting, key=self._gain))
        return None

    def _may_move(self, group: int) -> bool:
        counts, least = (self.groups_in, 1) if self.taken[group] else (self.groups_out, self.leave)
        return all(counts[label] > least for label, _ in self.contents[group])

    def _gain(self, group: int) -> float:
        """By how much moving the group brings the numbers nearer to those wanted."""
        sign = -1 if self.taken[group] else 1
        return sum(
            (self.lacking[label] ** 2 - (self.lacking[label] - sign * count) ** 2) / max(self.wanted[label], 1)
            for label, count in self.contents[group]
        )

    def _move(self, group: int) -> None:
        sign = -1 if self.taken[group] else 1
        for label, count in self.contents[group]:
            self.lacking[label] -= sign * count
            self.groups_in[label] += sign
            self.groups_out[label] -= sign
        self.taken[group] = not self.taken[group]
