"""Where two arms disagree: the classes, and the images that one predicts correctly and the other does not."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

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


def find_disagreements(pairs: Sequence[tuple[Result, Result]], one: str, two: str) -> Disagreement:
    """Compare the predictions of two arms image by image, over all their runs.

    Raises:
        UserError: The images cannot be opened any more.
    """
    first, second = (pd.concat([pair[side].predictions for pair in pairs]) for side in (0, 1))
    table = pd.DataFrame({"label": first.groupby("image")["label"].first()})
    table["arm"] = first.groupby("image")["correct"].mean()
    table["reference"] = second.groupby("image")["correct"].mean()
    by_class = table.groupby("label").agg(images=("arm", "size"), arm=("arm", "mean"), reference=("reference", "mean"))
    by_class = by_class.iloc[(by_class["reference"] - by_class["arm"]).abs().argsort(kind="stable")[::-1]]
    only_arm = table[(table["arm"] > 0.5) & (table["reference"] < 0.5)]
    only_reference = table[(table["arm"] < 0.5) & (table["reference"] > 0.5)]
    places = _places(pairs)
    return Disagreement(
        arm=one,
        reference=two,
        classes=tuple(
            (str(name), int(row["images"]), float(row["arm"]), float(row["reference"]))
            for name, row in by_class.iterrows()
        ),
        only_arm=_shown(only_arm, second, places),
        only_reference=_shown(only_reference, first, places),
        counts=(len(only_arm), len(only_reference)),
    )


def _shown(
    disputed: pd.DataFrame, incorrect: pd.DataFrame, places: Mapping[str, tuple[Images, int]]
) -> tuple[DisagreementImage, ...]:
    """The images the two differ most on, with what the incorrect arm predicts most often."""
    shown = []
    for name in typical_images(disputed):
        if (thumbnail := _thumbnail(places.get(name))) is not None:
            mistakes = incorrect.loc[(incorrect["image"] == name) & ~incorrect["correct"].astype(bool), "predicted"]
            label = str(disputed.loc[name, "label"])
            shown.append(DisagreementImage(name, label, str(mistakes.mode().iloc[0]), thumbnail))
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


def _places(pairs: Sequence[tuple[Result, Result]]) -> dict[str, tuple[Images, int]]:
    """Where each test image of the first repetition lies, by the name that predictions give it."""
    places: dict[str, tuple[Images, int]] = {}
    seed = pairs[0][0].job.seed
    for config in (one.job.config for one, _ in pairs if one.job.seed == seed):
        test = open_splits(config.data).test
        places |= {printable(test.name(index)): (test, index) for index in range(len(test))}
    return places


def _thumbnail(place: tuple[Images, int] | None) -> bytes | None:
    """The image, small, as PNG; None if it is not there any more."""
    if place is None:
        return None
    try:
        picture = open_image(*place)
    except BadImageError:
        return None
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
