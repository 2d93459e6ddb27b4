from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from timm.data.distributed_sampler import RepeatAugSampler

from ffvit.data.sampler import ALONE, EpochOrder, TrainingOrder, batch_pairs
from memory import most_memory

SEEDS = st.integers(0, 2**32 - 1)
EPOCHS = st.integers(0, 1000)


def epoch_order(images: int, seed: int, epoch: int, repeats: int = 1, probabilities=None):
    order = EpochOrder(images, seed, epoch, repeats, None if probabilities is None else np.cumsum(probabilities))
    return order.at(np.arange(len(order)))


class TestEpochOrder:
    @given(st.integers(1, 300), SEEDS, EPOCHS)
    def test_shows_every_image_once(self, images, seed, epoch):
        order, view = epoch_order(images, seed, epoch)
        assert sorted(order) == list(range(images))
        assert not view.any()

    @given(SEEDS, EPOCHS, st.integers(1, 3))
    def test_is_a_function_of_seed_and_epoch(self, seed, epoch, repeats):
        order = epoch_order(100, seed, epoch, repeats)[0].tolist()
        assert order == epoch_order(100, seed, epoch, repeats)[0].tolist()
        assert order != epoch_order(100, seed + 1, epoch, repeats)[0].tolist()
        assert order != epoch_order(100, seed, epoch + 1, repeats)[0].tolist()

    def test_swapping_seed_and_epoch_is_another_order(self):
        assert epoch_order(100, 1, 2)[0].tolist() != epoch_order(100, 2, 1)[0].tolist()

    @given(st.integers(1, 1100), st.integers(2, 5))
    def test_repeats_as_deits_sampler_does(self, images, repeats):
        order, _ = epoch_order(images, 0, 0, repeats)
        theirs = list(RepeatAugSampler(range(images), num_replicas=1, rank=0, num_repeats=repeats))
        assert by_first_appearance(order) == by_first_appearance(theirs)

    def test_three_views_show_a_third_of_the_images(self):
        order, view = epoch_order(1000, seed=0, epoch=0, repeats=3)
        assert len(order) == 768
        assert len(set(order)) == 256
        assert (order.reshape(256, 3) == order[::3, None]).all()
        assert (view.reshape(256, 3) == [0, 1, 2]).all()

    @given(SEEDS, st.integers(1, 3), st.booleans())
    def test_no_two_views_of_an_image_have_one_number(self, seed, repeats, weighted):
        probabilities = np.arange(1, 41) / np.arange(1, 41).sum() if weighted else None
        order, view = epoch_order(40, seed, 0, repeats, probabilities)
        assert len(set(zip(order.tolist(), view.tolist(), strict=True))) == len(order)

    @given(st.integers(1, 5000), SEEDS, st.data())
    def test_a_part_is_that_of_the_whole(self, images, seed, data):
        order = EpochOrder(images, seed, 0)
        some = np.array(data.draw(st.lists(st.integers(0, images - 1), max_size=9)), dtype=np.int64)
        assert order.at(some)[0].tolist() == order.at(np.arange(images))[0][some].tolist()

    def test_a_billion_images_take_no_memory(self):
        order = EpochOrder(10**9, 0, 0)
        with most_memory() as most:
            shown = np.concatenate([order.at(np.arange(at, at + 1024))[0] for at in range(0, 10**9, 10**7)])
        assert most() < 2**22
        assert len(set(shown.tolist())) == len(shown)
        assert abs(shown.mean() / 10**9 - 0.5) < 0.01

    def test_draws_by_probabilities(self):
        probabilities = np.repeat([0.0, 3.0, 1.0], 1000) / 4000
        order, _ = epoch_order(3000, 0, 0, probabilities=probabilities)
        first, second, third = np.bincount(order // 1000, minlength=3)
        assert first == 0
        assert second / third == pytest.approx(3, rel=0.15)  # of 3,000 draws: three standard errors


def by_first_appearance(order) -> list[int]:
    """The order with images renumbered as they come: what is left is its structure."""
    seen: dict[int, int] = {}
    return [seen.setdefault(int(image), len(seen)) for image in order]


class TestPairs:
    @given(st.integers(1, 200), st.integers(1, 64))
    def test_hold_every_position_once(self, batch, group):
        pairs, group_of = batch_pairs(batch, group)
        assert sorted(pairs[pairs != ALONE]) == list(range(batch))
        assert (pairs == ALONE).sum() == batch % 2
        assert len(group_of) == len(pairs)

    @given(st.integers(1, 100), st.integers(1, 32))
    def test_make_even_groups_of_at_most_the_size_asked_for(self, half_batch, half_group):
        pairs, group_of = batch_pairs(2 * half_batch, 2 * half_group)
        assert (pairs != ALONE).all()
        assert np.bincount(group_of).max() <= half_group

    @pytest.mark.parametrize("process", range(8))
    def test_group_deits_batch_as_its_processes_do(self, process):
        theirs = RepeatAugSampler(range(1024), num_replicas=8, rank=process, shuffle=False, num_repeats=3)
        batch_of_process = list(theirs)[:128]
        global_batch = np.repeat(np.arange(1024), 3)[:1024]
        pairs, group_of = batch_pairs(1024, 128)
        first, last = global_batch[pairs[group_of == process]].T
        assert [*first, *last[::-1]] == batch_of_process  # timm's Mixup flips a batch to find partners

    def test_on_paper(self):
        pairs, group_of = batch_pairs(7, 4)
        assert pairs.tolist() == [[0, 5], [2, 4], [1, 6], [3, ALONE]]
        assert group_of.tolist() == [0, 0, 1, 1]


@st.composite
def shared(draw):
    """Arguments of the orders of all processes that share a step."""
    batch = draw(st.integers(2, 48))
    return {
        "images": draw(st.integers(batch, 4 * batch)),
        "seed": draw(st.integers(0, 9)),
        "batch_size": batch,
        "group_size": 2 * draw(st.integers(1, 16)),
        "repeats": draw(st.integers(1, 3)),
        "processes": draw(st.integers(1, 4)),
        "micro_batch": draw(st.none() | st.integers(1, 20)),
    }


def orders(arguments) -> list[TrainingOrder]:
    each = [TrainingOrder(**arguments, process=process) for process in range(arguments["processes"])]
    assume(arguments["batch_size"] >= 2 * len(each) * each[0].micro_batches)  # as the loop asks for
    return each


class TestTrainingOrder:
    @given(shared(), EPOCHS)
    def test_the_parts_of_a_step_are_the_whole_batch(self, arguments, epoch):
        each = orders(arguments)
        for order in each:
            order.epoch = epoch
        images, views = epoch_order(arguments["images"], arguments["seed"], epoch, arguments["repeats"])
        size, parts = arguments["batch_size"], each[0].micro_batches
        micro_batches = [list(order) for order in each]
        for step in range(each[0].steps):
            seen = [view for its in micro_batches for part in its[step * parts : (step + 1) * parts] for view in part]
            at = step * size
            assert sorted((view.position, view.image, view.view) for view in seen) == [
                (place, images[at + place], views[at + place]) for place in range(size)
            ]
            assert {view.epoch for view in seen} == {epoch}

    @given(shared())
    def test_parts_are_even_and_no_more_than_was_allowed(self, arguments):
        each = orders(arguments)
        assert len({len(order) for order in each}) == 1
        assert all(len(order) == len(list(order)) for order in each)
        sizes = [len(part) for order in each for part in order]
        assert min(sizes) > 0
        assert max(sizes) - min(sizes) <= 3  # a pair, and one image alone
        assert max(sizes) <= max(2, arguments["micro_batch"] or arguments["batch_size"])

    @given(shared())
    def test_flipping_a_group_swaps_partners_in_every_part(self, arguments):
        pairs, group_of = batch_pairs(arguments["batch_size"], arguments["group_size"])
        partner = {int(a): int(b) for a, b in (*pairs, *pairs[:, ::-1])}
        number = {int(place): int(group) for pair, group in zip(pairs, group_of, strict=True) for place in pair}
        for order in orders(arguments):
            for part in order:
                groups = [view.group for view in part]
                assert groups == sorted(groups)
                for group in set(groups):
                    places = [view.position for view in part if view.group == group]
                    for place, flipped in zip(places, reversed(places), strict=True):
                        assert number[place] == group
                        assert flipped == (place if partner[place] == ALONE else partner[place])

    @given(shared(), st.data())
    def test_from_a_later_step_on_it_is_the_rest_of_the_epoch(self, arguments, data):
        for order in orders(arguments):
            whole = list(order)
            order.first_step = data.draw(st.integers(0, order.steps))
            assert list(order) == whole[order.first_step * order.micro_batches :]
            assert len(order) == len(list(order))

    @pytest.mark.parametrize(("images", "repeats", "steps"), [(1000, 1, 10), (1000, 3, 7), (250, 3, 2), (99, 1, 0)])
    def test_an_epoch_is_whole_batches_only(self, images, repeats, steps):
        order = TrainingOrder(images, seed=0, batch_size=100, group_size=50, repeats=repeats)
        assert order.steps == len(order) == len(list(order)) == steps

    def test_draws_by_probabilities(self):
        probabilities = np.repeat([0.0, 0.02], 50)
        order = TrainingOrder(100, 0, batch_size=100, group_size=100, probabilities=probabilities)
        assert min(view.image for part in order for view in part) >= 50


def test_blocks_needed_soon_are_told_before():
    told: list[list[int]] = []
    order = TrainingOrder(400, 0, 16, 16, blocks=np.arange(0, 401, 20), ahead=told.append)
    for batch in order:
        soon = {block for blocks in told for block in blocks}
        assert {view.image // 20 for view in batch} <= soon
    assert len(told) == 3
    order.first_step = 20
    told.clear()
    list(order)
    assert len(told) <= 2
