"""What a verdict says, from figures that are given."""

from __future__ import annotations

import numpy as np
import pytest

from ffvit.config import recipe as recipes
from ffvit.config.architecture import Architecture, Branch, Network
from ffvit.study import decision, statistics, verdict
from ffvit.study.arms import Arm
from ffvit.study.findings import ArmFinding, BaselineFinding, Comparison, Cost

BODY = Architecture(
    width=16,
    depth=1,
    img_size=8,
    patch=4,
    in_chans=1,
    readout="mean",
    block=(Branch("feedforward", "patches"), Branch("feedforward", "features")),
)
WITH = BODY.replace(block=(Branch("attention", "patches", heads=2), BODY.block[1]))
RECIPE = recipes.named_recipe("digits")
FF = Arm(name="FF", network=Network(architecture=BODY), recipe=RECIPE)
ATTENTION = Arm(name="attention", network=Network(architecture=WITH), recipe=RECIPE)


def correct(*shares: float, images: int = 1000, seed: int = 0) -> np.ndarray:
    """A row a repetition with so many images correct, in an order of comparison own."""
    draw = np.random.default_rng(seed)
    rows = [np.arange(images) < round(share * images) for share in shares]
    return np.array([draw.permutation(row) for row in rows])


def finding(name: str, table: np.ndarray, latencies=(1.0, 1.1, 0.9, 1.0, 1.2), **fields) -> ArmFinding:
    return ArmFinding(
        **{
            "name": name,
            "role": "arm",
            "network": name,
            "parameters": 1000,
            "flops": 10_000,
            "epochs": 5,
            "settings": (),
            "search": None,
            "top1": statistics.mean(table),
            "runs": (),
            "planned": len(table),
            "failed": 0,
            "cost": Cost(1.0, 1.0, 1.0, 8, latencies),
            "published": None,
            "differs": (),
            **fields,
        }
    )


def case(
    one: np.ndarray,
    other: np.ndarray,
    arm: Arm = FF,
    reference: Arm = ATTENTION,
    latencies=(1.0, 1.1, 0.9, 1.0, 1.2),
    **fields,
) -> Comparison:
    """The comparison of two arms with these correct predictions."""
    findings = finding(arm.name, one, latencies), finding(reference.name, other, (2.0, 2.1, 1.9, 2.0, 2.2))
    margin = decision.effective_margin(0.01, one.mean().item(), other.mean().item())
    fields = {"over_control": {}, "baselines": (), "main": None} | fields
    return verdict.compare_arms(
        (arm, reference), findings, statistics.difference(one, other, 0.975), per_run=(), margin=margin, plan_margin=0.01,
        train_images=500, **fields,
    )  # fmt: skip


CLEAR = correct(0.9, 0.905, 0.895, 0.9, 0.9), correct(0.7, 0.705, 0.7, 0.695, 0.7, seed=1)


def test_a_clear_difference_states_direction_and_size():
    comparison = case(*CLEAR)
    assert (comparison.direction, comparison.size, comparison.withheld) == ("better", "larger", None)
    assert comparison.headline == "Attention is not needed here: better without it, by more than the margin"
    said = comparison.words
    assert said.startswith(
        "With these networks (1 k and 1 k parameters), this recipe, 5 epochs a run and 500 training images:"
    )
    assert "Direction: FF is better. Size: beyond the margin of 1 point." in said


def test_headline_says_attention_is_needed_when_it_is_better():
    assert case(*CLEAR[::-1]).headline.startswith("Attention is needed here")


def test_one_repetition_gives_no_headline():
    comparison = case(CLEAR[0][:1], CLEAR[1][:1])
    assert comparison.headline == "No conclusion about attention"
    assert "One repetition says nothing about architectures" in comparison.words


def test_without_a_gain_over_no_mixing_there_is_no_conclusion_about_attention():
    """As in the demo: attention that is no better than a body that cannot mix was trained badly, or is not needed."""
    control = correct(0.7, 0.7, 0.705, 0.7, 0.695, seed=2)
    over = {"attention": statistics.difference(CLEAR[1], control), "FF": statistics.difference(CLEAR[0], control)}
    comparison = case(*CLEAR, over_control=over)
    assert comparison.headline == "No conclusion about attention"
    said = comparison.words
    assert "attention trains badly here or the task needs no mixing" in said
    assert "Direction: " not in said
    assert "Of the two, FF gains over the same body without mixing" in said  # the better one is compared, not the worse


def test_attention_that_beats_no_mixing_allows_a_conclusion():
    control = correct(0.5, 0.5, 0.505, 0.5, 0.495, seed=2)
    comparison = case(*CLEAR, over_control={"attention": statistics.difference(CLEAR[1], control)})
    assert comparison.withheld is None


def test_no_conclusion_when_a_pixel_lookup_beats_both_networks():
    lookup = BaselineFinding("nearest neighbors on pixels", statistics.mean(correct(0.95)), 2.0, ("FF", "attention"))
    comparison = case(*CLEAR, baselines=(lookup,))
    assert comparison.headline == "No conclusion about attention"
    assert "underfit: nearest neighbors on pixels reaches 95.0 %" in comparison.words
    one = BaselineFinding("nearest neighbors on pixels", statistics.mean(correct(0.8)), 2.0, ("attention",))
    assert case(*CLEAR, baselines=(one,)).withheld is None
    (warning,) = verdict.warnings((), (one,), (0, 0))
    assert warning.startswith("Attention is underfit: it needs more training")


def test_attention_is_in_the_headline_only_where_nothing_else_differs():
    other_width = Arm(name="wide", network=Network(architecture=WITH.replace(width=32)), recipe=RECIPE)
    external = Arm(name="vit", role="external", network=Network(name="vit_tiny_patch16_224"), recipe=RECIPE)
    slower = Arm(name="slow", network=ATTENTION.network, recipe=RECIPE.replace(epochs=50))
    for reference in (other_width, external, slower):
        said = case(*CLEAR, reference=reference).headline
        assert said == f"FF is better than {reference.name}, by more than the margin"


def test_a_real_but_small_difference_is_both_better_and_equivalent():
    one = correct(*[0.9] * 8, images=20_000)
    other = one.copy()
    other[:, np.flatnonzero(one.all(axis=0))[:60]] = False  # 0.3 points, the same images in every repetition
    comparison = case(one, other)
    assert (comparison.direction, comparison.size) == ("better", "equivalent")
    assert "slightly better without it, within the margin" in comparison.headline


def test_verdict_says_that_the_margin_was_lowered():
    """99.8 against 99.1 % is within a point, and 4.5 times the mistakes."""
    one, other = correct(*[0.998] * 10, images=20_000), correct(*[0.991] * 10, images=20_000, seed=1)
    comparison = case(one, other)
    assert comparison.size != "equivalent"
    assert "lowered from 1: so few mistakes are left" in comparison.words


@pytest.mark.parametrize(("latencies", "said"), [((1.0, 1.1, 0.9, 1.0, 1.2), True), ((2.3, 1.9, 2.0, 2.4, 1.8), False)])
def test_latency_ratio_is_said_with_its_range_or_not_at_all(latencies, said: bool):
    comparison = case(*CLEAR, latencies=latencies)
    assert ("x the latency (" in comparison.words) is said


def test_diverged_runs_give_a_warning():
    (warning,) = verdict.warnings((finding("FF", CLEAR[0], planned=5, failed=1),), (), (0, 0))
    assert warning.startswith("1 of 5 runs of FF diverged or failed (95 % interval 0.5 % to 71.6 %)")


def test_unreadable_images_give_a_warning():
    (warning,) = verdict.warnings((), (), (12, 24))
    assert "12 images could not be read in a run that was tested on 24" in warning
