from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.data import Mixup

from ffvit import Recipe
from ffvit.data.sampler import TrainingOrder
from ffvit.seeding import seeded
from ffvit.training.mixup import MixupCutmix

MIXED = Recipe(mixup=0.8, cutmix=1.0, label_smoothing=0.1, batch_size=24, mixup_group_size=8)


def parts(processes: int, micro_batch: int | None):
    """The positions and groups of each part of a batch of 24."""
    for process in range(processes):
        order = TrainingOrder(24, 0, 24, 8, process=process, processes=processes, micro_batch=micro_batch)
        yield from order.layout


def mixed(recipe: Recipe, part, epoch=0, step=0, bad=()):
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(24, 3, 6, 5, generator=generator), torch.arange(24) % 5
    places = [position for position, _ in part]
    weights = torch.tensor([float(position not in bad) for position in places])
    groups = [group for _, group in part]
    out = MixupCutmix(recipe, 5, seed=3)(images[places].clone(), labels[places], weights, groups, epoch, step)
    return places, out


@pytest.mark.parametrize("fields", [{}, {"mixup": 0.0}, {"cutmix": 0.0}, {"mixup_prob": 0.5}])
@pytest.mark.parametrize("step", range(4))
def test_a_group_is_mixed_as_timm_mixes_a_batch(fields, step):
    (part,) = parts(1, None)
    recipe = MIXED.replace(mixup_switch_prob=0.3, **fields)
    places, (images, targets, _) = mixed(recipe, part, epoch=2, step=step)
    generator = torch.Generator().manual_seed(0)
    plain = torch.randn(24, 3, 6, 5, generator=generator)[places]
    timms = Mixup(
        mixup_alpha=recipe.mixup, cutmix_alpha=recipe.cutmix, prob=recipe.mixup_prob, switch_prob=0.3,
        label_smoothing=0.1, num_classes=5,
    )  # fmt: skip
    for group in range(3):
        rows = [row for row, (_, its) in enumerate(part) if its == group]
        with seeded(3, 2, step, group):
            expected, expected_targets = timms(plain[rows], torch.tensor([places[row] % 5 for row in rows]))
        assert torch.equal(images[rows], expected)
        assert torch.equal(targets[rows], expected_targets)


@pytest.mark.parametrize(("processes", "micro_batch"), [(2, None), (3, 4), (1, 6)])
def test_parts_together_are_the_whole(processes, micro_batch):
    (whole,) = parts(1, None)
    bad = (2, 10)
    places, mixed_whole = mixed(MIXED, whole, bad=bad)
    expected = dict(zip(places, zip(*mixed_whole, strict=True), strict=True))
    seen = []
    for part in parts(processes, micro_batch):
        places, mixed_part = mixed(MIXED, part, bad=bad)
        for place, got in zip(places, zip(*mixed_part, strict=True), strict=True):
            assert all(torch.equal(mine, its) for mine, its in zip(got, expected[place], strict=True))
            seen.append(place)
    assert sorted(seen) == list(range(24))


def test_draws_differ_by_step_epoch_and_group():
    (whole,) = parts(1, None)
    seen = [mixed(MIXED, whole, epoch, step)[1][1] for epoch in range(2) for step in range(2)]
    assert all(not torch.equal(one, other) for i, one in enumerate(seen) for other in seen[:i])
    targets = seen[0].max(dim=1).values
    assert len(set(targets.tolist())) > 1


def test_targets_sum_to_one_and_a_bad_images_partner_is_left_out():
    (whole,) = parts(1, None)
    places, (_, targets, weights) = mixed(MIXED, whole, bad=(0,))
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(24))
    left_out = {place for place, weight in zip(places, weights.tolist(), strict=True) if not weight}
    assert left_out == {0, 21}  # with 3 groups the first group is 0, 3, ... 21: its first is paired with its last


def test_without_mixing_targets_are_smoothed():
    (whole,) = parts(1, None)
    places, (_, targets, _) = mixed(Recipe(label_smoothing=0.1, batch_size=24), whole)
    expected = torch.full((24, 5), 0.02)
    expected[torch.arange(24), torch.tensor(places) % 5] += 0.9
    torch.testing.assert_close(targets, expected)


def test_no_generator_outside_is_touched():
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002  (Python's is drawn from by beartype)
    (whole,) = parts(1, None)
    MixupCutmix(MIXED, 5, seed=3)(
        torch.randn(24, 3, 6, 5, generator=torch.Generator()),
        torch.zeros(24, dtype=torch.long),
        torch.ones(24),
        [g for _, g in whole],
        0,
        0,
    )
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])
