from __future__ import annotations

import pandas as pd

from ffvit.study.disagreements import typical_images


def test_images_shown_are_the_strongest_of_each_class_in_turn():
    rows = {
        "a1": ("a", 1.0, 0.0), "a2": ("a", 1.0, 0.2), "a3": ("a", 1.0, 0.0), "a4": ("a", 0.8, 0.2),
        "b1": ("b", 0.8, 0.4), "b2": ("b", 1.0, 0.4), "c1": ("c", 0.6, 0.4),
    }  # fmt: skip
    disputed = pd.DataFrame.from_dict(rows, orient="index", columns=["label", "arm", "reference"])
    shown = typical_images(disputed)
    assert set(shown[:1]) <= {"a1", "a3"}
    assert shown[1:3] == ["b2", "c1"]
    assert {shown[0], shown[3]} == {"a1", "a3"}
    assert shown[4:] == ["b1", "a2", "a4"]


def test_ties_are_not_broken_by_name():
    disputed = pd.DataFrame(
        {"label": "a", "arm": 1.0, "reference": 0.0}, index=[f"{number:03}" for number in range(300)]
    )
    shown = typical_images(disputed)[:12]
    assert max(shown) > "200"
    assert shown == typical_images(disputed)[:12]


def test_nothing_is_shown_where_arms_never_disagree():
    assert typical_images(pd.DataFrame({"label": [], "arm": [], "reference": []})) == []
