from __future__ import annotations

import numpy as np
import pytest

from ffvit.study.effects import effects
from ffvit.study.statistics import difference, image_noise
from ffvit.study.variance import Redrawn

FACTORS = {"mixer": ["ff", "ff", "attention", "attention"], "width": ["64", "96", "64", "96"]}


def answers(draw, repetitions: int, images: int, interaction: float = 0.0) -> list[np.ndarray]:
    """Attention is 10 points better, width 96 is 5; together `interaction` more."""
    accuracy = np.array([0.6, 0.65, 0.7, 0.75 + interaction])
    return [draw.random((4, images)) < accuracy[:, None] for _ in range(repetitions)]


def test_main_effects_and_interactions_are_recovered():
    correct = answers(np.random.default_rng(0), 4, 20_000, 0.08)
    found = effects(correct, FACTORS)
    assert [(effect.name, effect.kind) for effect in found] == [
        ("mixer: attention - ff", "main effect"),
        ("width: 96 - 64", "main effect"),
        ("mixer x width: (attention - ff) at 96 - at 64", "interaction"),
    ]
    for effect, truth in zip(found, (0.14, 0.09, 0.08), strict=True):
        assert effect.difference.value == pytest.approx(truth, abs=0.02)
        assert effect.difference.low <= effect.difference.value <= effect.difference.high
    top1 = np.mean([repetition.mean(axis=1) for repetition in correct], axis=0)
    assert found[2].difference.value == pytest.approx(top1[3] - top1[1] - (top1[2] - top1[0]))


def test_effects_are_averaged_over_all_levels_of_the_other_factors():
    cells = [(a, b, c) for a in "pqr" for b in "xy" for c in "uv"]
    factors = {name: [cell[at] for cell in cells] for at, name in enumerate(("one", "two", "three"))}
    accuracy = np.array(
        [0.5 + 0.1 * (a == "q") + 0.1 * (b == "y") + 0.2 * (a == "r") * (c == "v") for a, b, c in cells]
    )
    correct = [np.arange(1000) < 1000 * accuracy[:, None] for _ in range(3)]
    found = {effect.name: effect.difference.value for effect in effects(correct, factors)}
    assert found == pytest.approx(
        {
            "one: q - p": 0.1,
            "one: r - p": 0.1,
            "two: y - x": 0.1,
            "three: v - u": 0.2 / 3,
            "one x two: (q - p) at y - at x": 0,
            "one x two: (r - p) at y - at x": 0,
            "one x three: (q - p) at v - at u": 0,
            "one x three: (r - p) at v - at u": 0.2,
            "two x three: (y - x) at v - at u": 0,
        },
        abs=2e-3,
    )


def test_effects_of_one_factor_are_differences_from_its_first_level():
    correct = answers(np.random.default_rng(1), 5, 300)
    found = effects([repetition[:3] for repetition in correct], {"mixer": ["none", "ff", "attention"]}, 0.99)
    table = np.stack(correct, axis=1)
    assert [effect.difference for effect in found] == [
        difference(table[1], table[0], 0.99),
        difference(table[2], table[0], 0.99),
    ]


def test_intervals_of_effects_cover_the_true_effects():
    draw, studies, covered = np.random.default_rng(2), 500, np.zeros(3)
    for _ in range(studies):
        found = effects(answers(draw, 5, 200), FACTORS)
        covered += [
            effect.difference.low <= truth <= effect.difference.high
            for effect, truth in zip(found, (0.1, 0.05, 0.0), strict=True)
        ]
    assert (covered / studies >= 0.92).all()


def test_redrawn_splits_and_groups_widen_the_interval():
    correct, groups = answers(np.random.default_rng(3), 5, 400), np.arange(400) // 10
    crossed = effects(correct, FACTORS)[0].difference
    redrawn = effects(correct, FACTORS, redrawn=Redrawn(0.72, 0.2))[0].difference
    assert redrawn.high - redrawn.low > crossed.high - crossed.low
    assert (redrawn.folds, redrawn.seeds) == (1, 5)
    grouped = effects(correct, FACTORS, groups=[groups] * 5)[0].difference
    assert (grouped.groups, grouped.value) == (40, pytest.approx(crossed.value))
    copied = [repetition.repeat(5, axis=1) for repetition in correct]
    whole = effects(copied, FACTORS, redrawn=Redrawn(0.72, 0.2), groups=[np.arange(400).repeat(5)] * 5)[0].difference
    assert whole.fixed_variance == pytest.approx(redrawn.fixed_variance)
    assert image_noise(copied[0][0]) < image_noise(correct[0][0])


def test_uncrossed_factors_are_refused():
    correct = answers(np.random.default_rng(0), 3, 50)
    with pytest.raises(ValueError, match="factors must be crossed"):
        effects([repetition[:3] for repetition in correct], {name: levels[:3] for name, levels in FACTORS.items()})
    with pytest.raises(ValueError, match="factors must be crossed"):
        effects(correct, {"mixer": FACTORS["mixer"]})
