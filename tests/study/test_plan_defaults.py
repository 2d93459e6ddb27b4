from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ffvit.config.architecture import Network
from ffvit.config.data import Data
from ffvit.config.hardware import Hardware
from ffvit.data.images import ArrayImages
from ffvit.data.splits import Splits
from ffvit.errors import UserError
from ffvit.profiling.count import count_described
from ffvit.study import default_backbone, plan_defaults, time_estimate
from ffvit.study.arms import make_arms
from ffvit.study.default_backbone import COARSE, FINE, backbone, sizes_for
from ffvit.study.executor import Slots
from ffvit.study.jobs import main_arms, make_runs
from ffvit.study.matching import all_arms
from ffvit.study.plan import Plan, Search
from ffvit.study.plan_defaults import FULL_EXTENT, fit_plan
from ffvit.study.plan_options import make_plan
from ffvit.study.time_estimate import estimate_study
from ffvit.training.run_speed import Speed


def made_up(side: int, images: int, classes: int = 9) -> Splits:
    """A set of that size: 72 % to train on, 8 % to choose by, 20 % to test."""

    def some(share: float) -> ArrayImages:
        labels = np.arange(round(share * images)) % classes
        return ArrayImages("made up", np.broadcast_to(np.uint8(0), (len(labels), side, side, 3)), labels)

    return Splits(tuple("abcdefghi"[:classes]), some(0.72), some(0.08), some(0.2), f"{images} images of {side} px")


def speed_by_flops(network: Network, *_: object) -> Speed:
    """As on a core of 30 GFLOP/s, of which a step costs three predictions and half a millisecond an image."""
    flops = count_described(network, 9).flops
    return Speed(0.3, 3 * flops / 3e10 + 5e-4, 2e-4, flops / 3e10 + 5e-5, 0.02, 3e5, 5e6)


@pytest.fixture
def a_set(monkeypatch):
    """Images of which only size and number are known, on two cores of known speed; planning itself takes no time."""

    def be(side: int, images: int, mirrors: bool = True) -> Splits:
        splits = made_up(side, images)
        monkeypatch.setattr(plan_defaults, "open_splits", lambda _: splits)
        monkeypatch.setattr(plan_defaults, "survives_mirroring", lambda *_, **__: mirrors)
        return splits

    monkeypatch.setattr(plan_defaults, "time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr(time_estimate, "measure_speed", speed_by_flops)
    monkeypatch.setattr(time_estimate, "available_cores", lambda: 2)
    monkeypatch.setattr(time_estimate, "slots_for", lambda *_: Slots(2, 1, 0))
    return be


def chosen(minutes: float, **asked) -> tuple[Plan, tuple[str, ...]]:
    plan = Plan(**fit_plan(Data(source="made up"), minutes=float(minutes), **asked))
    return plan, plan.compromises


@pytest.mark.parametrize(("spread", "start"), [(0.314, 0.31), (0.0, 0.05)])
def test_positions_start_at_the_spread_of_the_patches(a_set, monkeypatch, spread: float, start: float):
    a_set(32, 2_000)
    monkeypatch.setattr(plan_defaults, "patch_spread", lambda *_: spread)
    plan, _ = chosen(30)
    assert plan.network.architecture is not None
    assert plan.network.architecture.position_std == start


def seconds(plan: Plan, splits: Splits) -> float:
    return estimate_study(plan, all_arms(plan, len(splits.classes)), splits).seconds


@pytest.mark.parametrize("images", [500, 5_700, 50_000])
@pytest.mark.parametrize("side", [8, 28, 32, 64, 224])
def test_the_time_is_used_and_kept(a_set, side: int, images: int):
    splits = a_set(side, images)
    for minutes in (2, 10, 30, 60):
        try:
            plan, _ = chosen(minutes)
        except UserError as error:
            needed = int(str(error).split()[-2])
            assert minutes < needed
            chosen(1.1 * needed)  # what it asks for is enough
            continue
        assert seconds(plan, splits) <= 60 * minutes
        epochs = plan.recipe.epochs
        longest = epochs >= plan_defaults.LONGEST * min(100, max(10, plan_defaults.ENOUGH_VIEWS // len(splits.train)))
        one_more = plan.replace(recipe=plan.recipe.lasting(epochs + 1))
        assert longest or seconds(one_more, splits) > 0.9 * 60 * minutes


@pytest.mark.parametrize("images", [500, 50_000])
@pytest.mark.parametrize("side", [8, 12, 28, 32, 50, 64, 100, 224])
def test_images_keep_their_size_whatever_the_time(a_set, side: int, images: int):
    """64 px drawings used to be shrunk to 32 px for 10 and for 30 minutes."""
    a_set(side, images)
    for minutes in (10, 100):
        try:
            architecture = chosen(minutes)[0].network.architecture
        except UserError:
            continue
        assert 0.9 * side < architecture.img_size[0] <= side
        assert 16 <= architecture.patches <= 14 * 14


def test_bodies_fit_the_images():
    assert {(each.image, each.patch) for each in sizes_for(28, 50_000)} == {(28, 7), (28, 4)}
    assert {(each.image, each.patch) for each in sizes_for(64, 50_000)} == {(64, 16), (64, 8)}
    assert {(each.image, each.patch) for each in sizes_for(224, 50_000)} == {(224, 32), (224, 16)}
    assert {(each.image, each.patch) for each in sizes_for(8, 50_000)} == {(8, 2)}
    assert {(each.image, each.patch) for each in sizes_for(5, 50_000)} == {(5, 1)}


@pytest.mark.parametrize("side", [5, 8, 28, 50, 64, 100, 224, 500])
def test_bodies_grow_from_the_smallest(side: int):
    its = sizes_for(side, 10**6)
    assert its[-1][2:] == FINE[-1]
    assert {each[2:] for each in its} <= {*COARSE, *FINE}
    flops = [count_described(Network(architecture=backbone(each, positions=0.5)), 9).flops for each in its]
    assert flops == sorted(flops)


def test_few_images_do_not_ask_for_a_wide_network():
    assert max(each.width for each in sizes_for(224, 1_000)) == 128
    assert max(each.width for each in sizes_for(224, 10**6)) == 768


def test_more_minutes_never_buy_less(a_set):
    a_set(64, 5_700)
    plans = [chosen(minutes)[0] for minutes in (5, 10, 20, 40, 80, 160, 320)]
    for less, more in pairwise(plans):
        assert len(less.seeds) <= len(more.seeds)
        small, large = (count_described(plan.network, 9).flops for plan in (less, more))
        assert small <= large
    assert len(plans[0].seeds) < FULL_EXTENT.seeds <= len(plans[-1].seeds)
    assert plans[-1].network.architecture.patches == 64


def test_side_arms_get_fewer_seeds_than_the_main_pair_and_its_control(a_set):
    a_set(64, 5_700)
    plan, _ = chosen(60)
    arms = all_arms(plan, 9)
    assert main_arms(plan, arms) == {"feed-forward", "attention", "no mixing"}
    runs = [job.arm for job in make_runs(plan, arms, Path(), plan.seeds)]
    assert runs.count("feed-forward") == runs.count("attention") == runs.count("no mixing") == len(plan.seeds)
    assert runs.count("random mixing") == plan.side_seeds < len(plan.seeds)


def test_what_is_given_up_for_lack_of_time_is_said(a_set):
    a_set(64, 5_700)
    plan, said = chosen(10)
    words = " ".join(said)
    assert plan.recipe.epochs < 36
    assert f"{plan.recipe.epochs} epochs instead of 36, so every arm may be underfit" in words
    assert f"{len(plan.seeds)} seeds of the main pair instead of 5" in words
    assert "no arm 'attention only'" in words
    assert "attention only" not in [arm.name for arm in make_arms(plan)]
    assert "patches of 16 px rather than 8" in words


def test_the_minutes_that_would_allow_all_of_it_do(a_set):
    a_set(64, 5_700)
    enough = float(chosen(10)[1][-1].split("About ")[1].split()[0])
    plan, said = chosen(1.1 * enough)
    assert (len(plan.seeds), plan.side_seeds) == FULL_EXTENT[:2]
    assert "attention only" in [arm.name for arm in make_arms(plan)]
    assert plan.recipe.epochs >= 36
    assert not any("lack of time" in words for words in said)


def test_the_minutes_that_a_larger_network_asks_for_buy_it(a_set):
    a_set(64, 5_700)
    plan, said = chosen(100)
    (words,) = said
    assert "would allow the next larger network" in words
    larger = chosen(1.1 * float(words.split()[1]))[0].network.architecture
    assert f"{larger.width} features, {larger.depth} blocks" in words
    assert larger.patches * larger.width > plan.network.architecture.patches * plan.network.architecture.width


def test_photographs_that_are_shrunk_are_said_to_be(a_set):
    a_set(500, 2_000)
    plan, said = chosen(60)
    assert plan.network.architecture.img_size == (224, 224)
    assert said[0] == "The images are shrunk from about 500 to 224 px, the largest that is planned by itself."


def test_short_runs_are_not_augmented_and_long_ones_are(a_set):
    a_set(64, 5_700)
    short, long = chosen(5)[0].recipe, chosen(90)[0].recipe
    assert short.epochs < default_backbone.MILD_FROM <= long.epochs < default_backbone.STRONG_FROM
    assert not short.mixes
    assert (short.auto_augment, short.random_erase_prob, short.drop_path, short.flip, short.crop_scale) == (
        None,
        0,
        0,
        0,
        (1, 1),
    )
    assert not long.mixes
    assert (long.auto_augment, long.flip, long.crop_scale) == (None, 0.5, (0.6, 1.0))
    a_set(64, 500)
    longest = chosen(2_000)[0].recipe
    assert longest.epochs >= default_backbone.STRONG_FROM
    assert longest.mixes
    assert longest.auto_augment is not None


def test_what_a_mirror_changes_is_not_flipped(a_set):
    a_set(28, 1_350, mirrors=False)
    recipe = chosen(60)[0].recipe
    assert recipe.epochs >= default_backbone.MILD_FROM
    assert recipe.flip == 0


def test_what_is_asked_for_is_planned_with(a_set):
    splits = a_set(64, 5_700)
    plan, said = chosen(30, seeds=(7, 8))
    assert plan.seeds == (7, 8)
    assert "of the main pair" not in " ".join(said)
    untuned, _ = chosen(30, seeds=(7, 8), search=None)
    assert untuned.search is None
    assert untuned.recipe.epochs > plan.recipe.epochs
    for each in (plan, untuned):
        assert seconds(each, splits) <= 30 * 60


def test_arms_that_a_person_named_are_all_kept_with_all_seeds(a_set):
    a_set(64, 5_700)
    factors = {"mixer": {name: {"network.block.0.mixer": name} for name in ("feedforward", "linear", "pooling")}}
    plan, said = chosen(10, factors=factors)
    assert plan.factors == factors
    assert plan.side_seeds is None
    assert "attention only" not in " ".join(said)


def test_too_little_time_says_how_much_is_enough(a_set):
    a_set(224, 50_000)
    with pytest.raises(
        UserError, match=r"minutes: 2 is too short: on these 36,000 training images .* about \d+ minutes"
    ):
        chosen(2)


def test_a_machine_may_ask_for_its_precision(a_set):
    a_set(32, 5_700)
    assert chosen(10)[0].hardware.precision == "fp32"
    assert chosen(10, hardware=Hardware(precision="bf16"))[0].hardware.precision == "bf16"


def test_the_digits_keep_the_body_that_is_theirs():
    fields = fit_plan(Data())
    assert "compromises" not in fields
    assert fields["network"].architecture.img_size == (8, 8)
    assert "minutes" not in fields
    assert fit_plan(Data(), minutes=5.0)["minutes"] == 5


def test_trials_are_halved_after_each_seed(a_set):
    a_set(64, 5_700)
    plan, _ = chosen(60)
    for search, count in (
        (None, 0),
        (Search(seeds=1, extend=0), 5),
        (Search(seeds=2, extend=0), 8),
        (Search(seeds=3, extend=0), 10),
        (Search(seeds=2), 8 + 2 * time_estimate.EXTENSIONS),
    ):
        assert time_estimate.trials(plan.replace(search=search), plan.recipe) == count


def test_what_is_planned_for_a_folder_can_be_built(monkeypatch, photos: Path, tmp_path: Path):
    monkeypatch.setattr(time_estimate, "measure_speed", speed_by_flops)
    plan = make_plan(source=str(photos), minutes=5.0)
    assert plan.minutes == 5
    assert plan.title.endswith(str(photos))
    file = tmp_path / "plan.yaml"
    file.write_text(f"data: {photos}\nseeds: 2\nminutes: 5\nsearch: none\n")
    loose = make_plan(study=file)
    assert (loose.seeds, loose.search, loose.minutes) == ((0, 1), None, 5)
    assert loose.recipe.epochs > plan.recipe.epochs
