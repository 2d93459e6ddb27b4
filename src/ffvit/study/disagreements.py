"""Where two arms disagree: the classes and the very images that one gets right and the other wrong."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pandas as pd

from ffvit.data.decode import open_image
from ffvit.data.images import BadImageError, Images
from ffvit.data.splits import open_splits
from ffvit.study.findings import Disagreement, DisagreementImage
from ffvit.study.results import Result
from ffvit.terminal import printable

SHOWN = 12
"""Images shown of each kind."""

SIDE = 96
"""Longer side of a thumbnail, in pixels."""


def find_disagreements(pairs: Sequence[tuple[Result, Result]], one: str, other: str) -> Disagreement:
    """Compare the answers of two arms image by image, over all their runs.

    Raises:
        UserError: The images cannot be opened any more.
    """
    mine, theirs = (pd.concat([pair[side].predictions for pair in pairs]) for side in (0, 1))
    table = pd.DataFrame({"label": mine.groupby("image")["label"].first()})
    table["arm"] = mine.groupby("image")["correct"].mean()
    table["reference"] = theirs.groupby("image")["correct"].mean()
    by_class = table.groupby("label").agg(images=("arm", "size"), arm=("arm", "mean"), reference=("reference", "mean"))
    by_class = by_class.iloc[(by_class["reference"] - by_class["arm"]).abs().argsort(kind="stable")[::-1]]
    only_arm = table[(table["arm"] > 0.5) & (table["reference"] < 0.5)]
    only_reference = table[(table["arm"] < 0.5) & (table["reference"] > 0.5)]
    images = _Opener(pairs)
    return Disagreement(
        arm=one,
        reference=other,
        classes=tuple(
            (str(name), int(row["images"]), float(row["arm"]), float(row["reference"]))
            for name, row in by_class.iterrows()
        ),
        only_arm=_shown(only_arm, theirs, images),
        only_reference=_shown(only_reference, mine, images),
        counts=(len(only_arm), len(only_reference)),
    )


def _shown(disputed: pd.DataFrame, wrong: pd.DataFrame, images: _Opener) -> tuple[DisagreementImage, ...]:
    """The images the two differ most on, with the answer that the arm that is wrong gave most often."""
    shown = []
    for name in typical_images(disputed):
        thumbnail = images.thumbnail(name)
        if thumbnail is not None:
            answers = wrong.loc[(wrong["image"] == name) & ~wrong["correct"].astype(bool), "predicted"]
            truth = str(disputed.loc[name, "label"])
            shown.append(DisagreementImage(name, truth, str(answers.mode().iloc[0]), thumbnail))
        if len(shown) == SHOWN:
            break
    return tuple(shown)


def typical_images(disputed: pd.DataFrame) -> list[str]:
    """Images by how typical they are of a disagreement: of each class the strongest, then of each the second.

    Images that are equally strong come in an order drawn once, not by their names.

    Args:
        disputed: `label`, and the share of runs that are correct, `arm` and `reference`, by image.
    """
    shuffled = disputed.sample(frac=1, random_state=0)
    strength = (shuffled["arm"] - shuffled["reference"]).abs().sort_values(ascending=False, kind="stable")
    turn = shuffled["label"].loc[strength.index].groupby(shuffled["label"]).cumcount()
    return [str(name) for name in turn.sort_values(kind="stable").index]


class _Opener:
    """Opens test images by the names that the answers have."""

    def __init__(self, pairs: Sequence[tuple[Result, Result]]) -> None:
        self._place: dict[str, tuple[Images, int]] = {}
        seed = pairs[0][0].job.seed
        for config in (one.job.config for one, _ in pairs if one.job.seed == seed):
            test = open_splits(config.data).test
            self._place |= {printable(test.name(index)): (test, index) for index in range(len(test))}

    def thumbnail(self, name: str) -> bytes | None:
        """The image, small, as PNG; None if it is no longer to be had."""
        if name not in self._place:
            return None
        images, index = self._place[name]
        try:
            picture = open_image(images, index)
        except BadImageError:
            return None
        picture.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        picture.save(file, "PNG", optimize=True)
        return file.getvalue()
