from __future__ import annotations

from math import inf, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from ffvit.errors import UserError
from ffvit.study.decision import comparison_levels, direction, effective_margin, look_level, looks, size
from ffvit.study.statistics import (
    Difference,
    difference,
    failure_interval,
    fold_difference,
    fold_mean,
    image_noise,
    mean,
)
from ffvit.study.variance import Redrawn


def simulated(
    draw, seeds: int, images: int, accuracy: float, shift: float = 0.0, of_seeds: float = 0.2, interaction: float = 0.0
):
    """Two arms' answers: images differ in difficulty, seeds move all of an arm's images and each of them a little.

    `shift` moves the first arm's logits; `interaction` is how much the arms differ from image to image.
    """
    difficulty = draw.beta(accuracy, 1 - accuracy, size=images).clip(1e-6, 1 - 1e-6)
    logits = np.log(difficulty / (1 - difficulty))
    arms = []
    for move in (shift, 0.0):
        arm = logits + move + interaction * draw.standard_normal(images)
        noise = of_seeds * draw.standard_normal((seeds, 1)) + 0.5 * draw.standard_normal((seeds, images))
        arms.append(draw.random((seeds, images)) < 1 / (1 + np.exp(-(arm + noise))))
    return arms


def true_difference(shift: float, accuracy: float = 0.8, of_seeds: float = 0.2) -> float:
    """What a shift of the logits is worth among all images and seeds, to a hundredth of a point."""
    draw = np.random.default_rng(0)
    difficulty = draw.beta(accuracy, 1 - accuracy, size=4_000_000).clip(1e-6, 1 - 1e-6)
    logits = np.log(difficulty / (1 - difficulty)) + sqrt(of_seeds**2 + 0.5**2) * draw.standard_normal(len(difficulty))
    return float((1 / (1 + np.exp(-(logits + shift))) - 1 / (1 + np.exp(-logits))).mean())


def made(value: float, half: float, seeds: int = 5) -> Difference:
    return Difference(
        value, value - half, value + half, 0.95, half / 2, 4.0, 0.5, seeds, 1000, seeds * half**2 / 4, 0.0
    )


def covers(its, truth: float = 0.0) -> bool:
    return its.low <= truth <= its.high


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("accuracy", [0.72, 0.9])
@pytest.mark.parametrize("of_seeds", [0.0, 0.2])
def test_interval_of_equal_arms_covers_zero(seeds: int, accuracy: float, of_seeds: float):
    draw, studies = np.random.default_rng(seeds), 2000
    covered = 0
    for _ in range(studies):
        its = difference(*simulated(draw, seeds, 360, accuracy, of_seeds=of_seeds))
        covered += its.low <= 0 <= its.high
    assert 0.935 - 0.005 <= covered / studies <= 0.965 + 0.005  # half a point: 2,000 studies are no more exact


def test_interval_covers_the_difference_over_all_images_when_arms_differ_by_image():
    """An interval of the seeds alone would not: it takes the test images for all there are."""
    draw, studies, covered, naive = np.random.default_rng(1), 2000, 0, 0
    for _ in range(studies):
        one, other = simulated(draw, 5, 300, 0.8, of_seeds=0.05, interaction=1.0)
        its = difference(one, other)
        covered += its.low <= 0 <= its.high
        by_seed = one.mean(axis=1) - other.mean(axis=1)
        naive += stats.ttest_1samp(by_seed, 0.0).pvalue > 0.05
    assert 0.93 <= covered / studies <= 0.97
    assert naive / studies < 0.92


@pytest.mark.parametrize("seeds", [3, 5])
def test_equivalence_error_rate_at_the_margin_is_at_most_one_in_forty(seeds: int):
    draw, studies, shift = np.random.default_rng(seeds), 2000, -0.35
    edge = -true_difference(shift)
    said = [size(difference(*simulated(draw, seeds, 1000, 0.8, shift)), edge) for _ in range(studies)]
    for statement in ("equivalent", "larger"):
        assert said.count(statement) / studies <= 0.025 + 2 * sqrt(0.025 * 0.975 / studies)


def test_variance_components_are_those_of_the_two_way_table():
    first = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]], dtype=bool)
    second = np.array([[0, 1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0]], dtype=bool)
    its = difference(first, second)
    # By hand: d = [[1,0,0,0],[1,0,-1,1],[0,1,1,1]], mean 5/12; seed means 1/4, 1/4, 3/4; image means 2/3, 1/3, 0, 2/3.
    of_seeds = 4 * ((1 / 6) ** 2 + (1 / 6) ** 2 + (1 / 3) ** 2) / 2
    of_images = 3 * ((1 / 4) ** 2 + (1 / 12) ** 2 + (5 / 12) ** 2 + (1 / 4) ** 2) / 3
    total = 7 - 12 * (5 / 12) ** 2
    residual = (total - 2 * of_seeds - 3 * of_images) / 6
    assert its.value == pytest.approx(5 / 12)
    assert its.standard_error == pytest.approx(sqrt((of_seeds + max(of_images - residual, 0)) / 12))
    assert its.run_variance == pytest.approx(of_seeds / 4)
    assert its.fixed_variance == pytest.approx(max(of_images - residual, 0) / 12)


def test_without_image_effects_difference_is_the_paired_t_test():
    draw = np.random.default_rng(0)
    one, other = simulated(draw, 6, 20_000, 0.8, of_seeds=0.3)
    its = difference(one, other)
    plain = stats.ttest_rel(one.mean(axis=1), other.mean(axis=1))
    interval = plain.confidence_interval()
    assert its.value == pytest.approx(float(one.mean() - other.mean()))
    assert its.low == pytest.approx(interval.low, rel=0.05)
    assert its.high == pytest.approx(interval.high, rel=0.05)
    assert its.p_value == pytest.approx(plain.pvalue, rel=0.1)


def test_one_seed_gives_mcnemars_test():
    first = np.array([[True] * 12 + [False] * 3 + [True] * 85])
    second = np.array([[False] * 12 + [True] * 3 + [True] * 85])
    its = difference(first, second)
    assert its.value == pytest.approx(0.09)
    assert its.p_value == pytest.approx(stats.binomtest(3, 15).pvalue)
    # Agresti and Min: Wald's interval of the table with half a prediction more in each cell, so 12.5 against 3.5 of 102.
    middle, error = 9 / 102, sqrt(12.5 + 3.5 - 9**2 / 102) / 102
    assert its.standard_error == pytest.approx(error)
    assert (its.low, its.high) == pytest.approx((middle - 1.959964 * error, middle + 1.959964 * error))
    assert (its.degrees, its.run_variance, its.fixed_variance) == (inf, 0, its.standard_error**2)
    assert (its.level, its.seeds, its.images, its.groups, its.folds) == (0.95, 1, 100, 0, 0)


def test_one_seed_without_a_discordant_prediction_shows_no_difference():
    same = np.ones((1, 100), dtype=bool)
    its = difference(same, same)
    assert (its.value, its.p_value) == (0, 1)
    assert its.high == -its.low == pytest.approx(1.959964 / 102)


def grouped(draw, groups: np.ndarray, seeds: int = 5):
    """Two equal arms that differ from group to group."""
    images, names = len(groups), np.unique(groups)
    logits = draw.normal(1.5, 1.5, images)
    arms = []
    for _ in range(2):
        arm = logits + draw.standard_normal(len(names))[np.searchsorted(names, groups)]
        arms.append(draw.random((seeds, images)) < 1 / (1 + np.exp(-arm - 0.3 * draw.standard_normal((seeds, images)))))
    return arms


def test_interval_counts_groups_when_arms_differ_by_group():
    draw, studies = np.random.default_rng(0), 1000
    groups = np.repeat(np.arange(80), draw.integers(1, 20, 80))  # of unequal size
    covered = np.zeros(2)
    for _ in range(studies):
        one, other = grouped(draw, groups)
        covered += [covers(difference(one, other, groups=groups)), covers(difference(one, other))]
    by_group, by_image = covered / studies
    assert 0.93 <= by_group <= 0.97
    assert by_image < 0.85


def test_groups_of_one_image_change_nothing_and_group_names_do_not_matter():
    draw = np.random.default_rng(1)
    one, other = simulated(draw, 4, 60, 0.8)
    alone, each = difference(one, other), difference(one, other, groups=np.arange(60))
    assert (each.value, each.low, each.high) == pytest.approx((alone.value, alone.low, alone.high))
    assert each.groups == 60
    groups, order = np.repeat(np.arange(12), 5), draw.permutation(60)
    its = difference(one, other, groups=groups)
    again = difference(one[:, order], other[:, order], groups=np.array([f"burst {group}" for group in groups[order]]))
    assert (again.value, again.low, again.high) == pytest.approx((its.value, its.low, its.high))
    assert its.value == pytest.approx(alone.value)
    assert mean(one, groups=groups).value == pytest.approx(one.mean())
    assert difference(one[:1], other[:1], groups=groups).degrees == 11


def test_groups_are_weighted_by_their_images():
    """The ratio estimator: by plain means of groups, a large group would weigh no more than a small one."""
    sizes = np.array([1, 2, 3, 30, 4, 2])
    groups = np.arange(6).repeat(sizes)
    wins = np.array([1, 0, 1, 1, 0, 0], dtype=bool)[groups]
    value = wins.mean()
    by_hand = (sizes**2 * (np.array([1, 0, 1, 1, 0, 0]) - value) ** 2).sum() / 5 / 6 / sizes.mean() ** 2
    assert image_noise(wins, groups=groups) == pytest.approx(by_hand)
    its = difference(wins[None], np.zeros((1, len(groups)), dtype=bool), groups=groups)
    assert (its.value, its.standard_error) == pytest.approx((value, sqrt(max(by_hand, 2 / 36))))


def test_copies_of_an_image_within_a_group_count_once():
    draw = np.random.default_rng(2)
    one, other = simulated(draw, 4, 60, 0.8)
    its = difference(one, other)
    copied = difference(one.repeat(5, axis=1), other.repeat(5, axis=1), groups=np.arange(60).repeat(5))
    assert (copied.value, copied.low, copied.high) == pytest.approx((its.value, its.low, its.high))
    assert mean(one.repeat(5, axis=1), groups=np.arange(60).repeat(5)).high == pytest.approx(mean(one).high)
    noise = image_noise(one[0], other[0])
    assert noise == pytest.approx(np.var(one[0] - other[0].astype(float), ddof=1) / 60)
    assert image_noise(one[0].repeat(5), other[0].repeat(5), np.arange(60).repeat(5)) == pytest.approx(noise)


def test_one_group_of_all_images_is_refused():
    with pytest.raises(UserError, match="the 30 test images form one group; an interval needs two or more"):
        difference(*simulated(np.random.default_rng(0), 3, 30, 0.8), groups=np.zeros(30))


answers = arrays(bool, st.tuples(st.integers(1, 5), st.integers(2, 30)))


@given(answers, st.randoms(use_true_random=False))
def test_intervals_contain_their_value_and_are_not_empty(first: np.ndarray, random):
    second = first.copy()
    for row in second:
        random.shuffle(row)
    for level in (0.5, 0.95):
        its = difference(first, second, level)
        assert its.low <= its.value <= its.high
        assert its.high - its.low > 1e-6
        assert its.low >= -1
        assert its.high <= 1
        whole = mean(first, level)
        assert 0 <= whole.low <= whole.value <= whole.high <= 1
        assert whole.high - whole.low > 1e-6
    back = difference(second, first)
    forth = difference(first, second)
    assert (back.value, back.low, back.high) == pytest.approx((-forth.value, -forth.high, -forth.low))
    order = np.arange(first.shape[1])[::-1]
    again = difference(first[::-1, order], second[::-1, order])
    assert (again.value, again.low, again.high) == pytest.approx((forth.value, forth.low, forth.high))
    assert difference(first, second, 0.99).high >= forth.high


def test_identical_predictions_still_give_an_interval():
    same = np.ones((3, 360), dtype=bool)
    its = difference(same, same)
    assert its.value == 0
    assert 0.002 < its.high < 0.02
    assert mean(same).low < 0.995


SPLITS = Redrawn(train=0.72, test=0.2)


def test_intervals_never_go_beyond_a_hundred_points():
    draw = np.random.default_rng(0)
    first, second = draw.random((2, 6)) < 0.9, draw.random((2, 6)) < 0.4
    assert difference(first, second).high == 1  # two seeds: 12.7 standard errors
    assert difference(first[:1] | True, first[:1] & False).high == 1
    assert difference(first[:1] & False, first[:1] | True).low == -1
    values = np.array([[0.4], [0.9]])
    assert fold_difference(values, np.full_like(values, 0.01), SPLITS, 6).low == -1


def test_runs_that_share_images_get_a_wider_interval():
    values = np.random.default_rng(0).normal(0.02, 0.01, size=(2, 5))
    variance, noise, redrawn = values.var(ddof=1), 2e-5, Redrawn(train=0.8, test=0.2)
    its = fold_difference(values, np.full_like(values, noise), redrawn, 500)
    images = 0.8 * noise
    rest, shared = variance - 0.75 * images, 0.8 * 0.8
    expected = rest * (1 / 10 + shared / (1 - shared)) + images * (1 / 10 + 0.2 / 0.8)
    assert its.standard_error == pytest.approx(sqrt(expected))
    assert its.run_variance / 10 + its.fixed_variance == pytest.approx(expected)
    assert (its.degrees, its.runs, its.seeds, its.folds) == (9, 10, 2, 5)
    assert its.high - its.value == pytest.approx(stats.t.ppf(0.975, 9) * its.standard_error)
    assert fold_mean(values + 0.8, np.full_like(values, noise), redrawn, 500).value == pytest.approx(
        0.8 + values.mean()
    )


def test_fold_difference_is_nadeau_and_bengios_correction_when_only_test_images_vary():
    values = np.array([[0.01], [0.02], [0.03]])
    noise = values.var(ddof=1) / 0.8 / 0.75
    its = fold_difference(values, np.full_like(values, noise), SPLITS, 500)
    assert its.standard_error == pytest.approx(sqrt((1 / 3 + 0.25) * 0.8 * noise))


def redrawn(draw, sd: float, repetitions: int, images: int):
    """Differences of equal arms over splits redrawn from one pool, whose every image moves the runs trained on it."""
    influence, own = draw.standard_normal((2, images)), draw.standard_normal((2, images))
    values, noise = [], []
    for _ in range(repetitions):
        order = draw.permutation(images)
        train, test = order[: round(0.72 * images)], order[-round(0.2 * images) :]
        moves = sd * sqrt(len(train)) * influence[:, train].mean(axis=1) + 0.2 * draw.standard_normal(2)
        one, other = draw.random((2, len(test))) < 1 / (1 + np.exp(-1.5 - own[:, test] - moves[:, None]))
        values.append([one.mean() - other.mean()])
        noise.append([image_noise(one, other)])
    return np.array(values), np.array(noise)


@pytest.mark.parametrize("repetitions", [3, 5, 10])
def test_interval_covers_the_true_difference_when_training_sets_overlap(repetitions: int):
    """Nadeau and Bengio's would not: it takes training sets that share most images for independent ones."""
    draw, studies = np.random.default_rng(repetitions), 1500
    covered = np.zeros(2)
    for _ in range(studies):
        values, noise = redrawn(draw, 0.4, repetitions, 5000)
        error = sqrt((1 / repetitions + 0.2 / 0.72) * values.var(ddof=1))
        plain = abs(values.mean()) <= stats.t.ppf(0.975, repetitions - 1) * error
        covered += [covers(fold_difference(values, noise, SPLITS, 1000)), plain]
    now, before = covered / studies
    assert now >= 0.93 - 0.005
    assert before < 0.91


@pytest.mark.parametrize(
    ("value", "half", "margin", "shows", "how_large"),
    [
        (0.00, 0.005, 0.01, "not shown", "equivalent"),
        (0.006, 0.003, 0.01, "better", "equivalent"),  # real, and within the margin: both are said
        (-0.006, 0.003, 0.01, "worse", "equivalent"),
        (0.05, 0.02, 0.01, "better", "larger"),
        (-0.05, 0.02, 0.01, "worse", "larger"),
        (0.013, 0.01, 0.01, "better", "not shown"),
        (-0.013, 0.01, 0.01, "worse", "not shown"),
        (0.00, 0.01, 0.01, "not shown", "not shown"),  # the interval must lie strictly inside
        (0.007, 0.004, 0.01, "better", "not shown"),  # one-sided tests would call it equivalent
        (0.01, 0.005, 0.0, "better", "larger"),
        (0.00, 0.005, 0.0, "not shown", "not shown"),
        (
            0.25,
            0.25,
            0.5,
            "not shown",
            "not shown",
        ),  # an end exactly at 0, and one exactly at the margin, shows nothing
        (-0.25, 0.25, 0.5, "not shown", "not shown"),
        (0.75, 0.25, 0.5, "better", "not shown"),
        (-0.75, 0.25, 0.5, "worse", "not shown"),
    ],
)
def test_direction_and_size_follow_from_the_interval(
    value: float, half: float, margin: float, shows: str, how_large: str
):
    its = made(value, half)
    assert (direction(its), size(its, margin)) == (shows, how_large)
    assert direction(its, "not shown") == "not shown"
    assert size(its, margin, "not shown") == "not shown"
    assert (direction(its, "worse"), size(its, margin, "larger")) == (shows, how_large)


def test_one_run_shows_neither_direction_nor_size():
    first, second = np.ones((1, 1000), dtype=bool), np.arange(1000)[None] < 500
    its = difference(first, second)
    assert its.low > 0.4  # the interval over images is there to be seen
    assert (direction(its), size(its, 0.01)) == ("not shown", "not shown")
    alone = fold_difference(np.array([[0.5]]), np.array([[1e-4]]), SPLITS, 1000)
    assert 0.4 < alone.low < alone.high < 0.6
    assert (direction(alone), size(alone, 0.01)) == ("not shown", "not shown")
    assert direction(fold_difference(np.full((1, 5), 0.5), np.full((1, 5), 1e-4), SPLITS, 1000)) == "better"


@pytest.mark.parametrize(
    ("first", "second", "applies"),
    [
        (0.9, 0.91, 0.01),
        (0.98, 0.97, 0.01),
        (0.998, 0.991, 0.001),
        (0.991, 0.998, 0.001),
        (0.99, 0.985, 0.005),  # just 1.5 times the mistakes
        (1.0, 1.0, 0.001),
    ],
)
def test_margin_near_100_percent_is_a_ratio_of_error_rates(first: float, second: float, applies: float):
    assert effective_margin(0.01, first, second) == pytest.approx(applies)


def test_failure_rate_has_a_clopper_pearson_interval():
    one_of_five = failure_interval(1, 5)
    assert (one_of_five.value, one_of_five.low, one_of_five.high) == pytest.approx((0.2, 0.0051, 0.7164), abs=1e-4)
    none = failure_interval(0, 5)
    assert (none.low, none.high) == pytest.approx((0, 1 - 0.025**0.2))
    its = [failure_interval(failed, 10, 0.9) for failed in range(11)]
    for share in (0.02, 0.1, 0.5, 0.83):  # the probability of all counts whose interval holds the truth
        assert sum(stats.binom.pmf(failed, 10, share) for failed in range(11) if covers(its[failed], share)) >= 0.9
    assert (its[3].value, its[3].level) == (0.3, 0.9)
    assert its[0].high == pytest.approx(1 - 0.05**0.1)


def test_main_comparison_has_the_full_level_and_the_others_share_it():
    assert comparison_levels(1) == (0.95,)
    assert comparison_levels(6) == pytest.approx((0.95, *[0.99] * 5))
    assert comparison_levels(3, 0.96) == pytest.approx((0.96, 0.98, 0.98))


def test_familywise_error_rate_of_directions_is_at_most_5_percent():
    draw, studies, wrong = np.random.default_rng(5), 1000, 0
    for _ in range(studies):
        arms = [arm for _ in range(2) for arm in simulated(draw, 5, 300, 0.8)]
        levels = comparison_levels(4)
        main = direction(difference(arms[0], arms[1], levels[0]))
        others = [
            direction(difference(arm, arms[1], level), main) for arm, level in zip(arms[1:], levels[1:], strict=True)
        ]
        wrong += main != "not shown" or any(other != "not shown" for other in others)
    assert wrong / studies <= 0.05 + 2 * sqrt(0.05 * 0.95 / studies)


def test_planned_looks_end_at_the_maximum():
    assert looks(3, 20) == (3, 5, 8, 13, 20)
    assert looks(3, 3) == (3,)
    assert looks(1, 4) == (1, 2, 3, 4)


def test_an_added_look_spends_half_of_the_remaining_error_rate():
    assert [look_level((3,), look) for look in (1, 2, 3)] == pytest.approx([0.975, 0.9875, 0.99375])
    five = looks(3, 20)
    assert [look_level(five, look) for look in (1, 5, 6)] == pytest.approx([1 - 0.05 / 6, 1 - 0.05 / 6, 1 - 0.05 / 12])
    for planned in ((3,), five):
        assert sum(1 - look_level(planned, look) for look in range(1, 200)) == pytest.approx(0.05)


@pytest.mark.parametrize(("planned", "counts"), [((3,), range(3, 15)), (looks(3, 13), (*looks(3, 13), 14))])
def test_repeated_looks_keep_the_error_rate(planned, counts):
    """Stopping at the first look that shows a direction: of equal arms, at most one study in twenty ends so."""
    draw, studies, wrong = np.random.default_rng(4), 600, 0
    levels = [look_level(planned, look) for look in range(1, len(counts) + 1)]
    for _ in range(studies):
        one, other = simulated(draw, counts[-1], 300, 0.8)
        wrong += any(
            direction(difference(one[:n], other[:n], level)) != "not shown"
            for n, level in zip(counts, levels, strict=True)
        )
    assert wrong / studies <= 0.05 + 2 * sqrt(0.05 * 0.95 / studies)
