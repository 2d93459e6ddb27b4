from __future__ import annotations

import pytest

from ffvit.config.architecture import Network
from ffvit.errors import UserError
from ffvit.models.create import create_model
from ffvit.profiling.count import count, count_described
from ffvit.study.arms import make_arms
from ffvit.study.matching import LATENCY_TOLERANCE, TOLERANCE, _relative_latency, match_arms
from ffvit.study.plan import Plan

BODY = {
    "width": 64,
    "depth": 4,
    "img_size": 32,
    "patch": 4,
    "readout": "mean",
    "position": "vectors",
    "block": [{"mixer": "feedforward", "axis": "patches"}, {"mixer": "feedforward", "axis": "features"}],
}
ATTENTION = {"mixer": "attention", "axis": "patches", "heads": 2}
MIXERS = {
    "FF": {},
    "attention": {"network.block.0": ATTENTION},
    "attention only": {
        "network.block.0": ATTENTION,
        "network.block.1": {"mixer": "attention", "axis": "features", "heads": 1},
    },
    "gmlp": {"network.block.0.mixer": "gmlp"},
    "linear": {"network.block.0.mixer": "linear"},
}


def matched(match: str, **fields):
    plan = Plan(
        **{
            "network": BODY,
            "recipe": {"base": "small", "epochs": 40},
            "factors": {"mixer": MIXERS},
            "match": match,
            **fields,
        }
    )
    return match_arms(plan, make_arms(plan), classes=10)


def test_parameters_are_equal_within_three_percent():
    result = matched("parameters")
    sizes = {arm.name: count_described(arm.network, 10).parameters for arm in result.arms if arm.role == "arm"}
    assert all(abs(size / sizes["attention"] - 1) <= TOLERANCE for size in sizes.values())
    assert result.arm("attention") == next(arm for arm in matched("epochs").arms if arm.name == "attention")
    assert len({arm.network.architecture.width for arm in result.arms}) > 1
    for name in ("FF", "linear", "gmlp", "attention only"):
        assert f"{name}: width" in result.notes[0]


def test_training_operations_are_equal_within_three_percent():
    result = matched("flops")
    spent = {
        arm.name: count_described(arm.network, 10).flops * arm.recipe.epochs for arm in result.arms if arm.role == "arm"
    }
    assert all(abs(each / spent["attention"] - 1) <= TOLERANCE for each in spent.values())
    assert len({arm.recipe.epochs for arm in result.arms}) > 1
    assert {arm.network for arm in result.arms} == {arm.network for arm in matched("epochs").arms}


def test_controls_stay_as_they_are():
    before = {arm.name: arm for arm in matched("epochs").arms if arm.role == "control"}
    for match in ("parameters", "flops"):
        assert {arm.name: arm for arm in matched(match).arms if arm.role == "control"} == before


def test_operations_that_whole_epochs_cannot_meet_say_how_many_could():
    with pytest.raises(UserError, match=r"3 epochs cannot be cut.*Try recipe\.epochs (\d+)") as error:
        matched("flops", recipe={"base": "small", "epochs": 3, "warmup_epochs": 0})
    enough = int(str(error.value).rsplit(" ", 1)[1])
    matched("flops", recipe={"base": "small", "epochs": enough})


def test_an_external_network_that_cannot_be_fitted_is_named():
    external = {"vit": {"network": "vit_tiny_patch16_224"}, "FF": {"network": "ff_tiny_patch16_224"}}
    with pytest.raises(UserError, match=r"'FF' comes no nearer|'vit' is an external network"):
        matched(
            "parameters",
            factors={"network": {**external, "small": {"network": "vit_small_patch16_224"}}},
            reference="FF",
            controls=False,
        )


def test_latency_is_brought_near_by_measuring(monkeypatch):
    """With operations standing in for seconds: what this machine measures, other programs on it disturb."""
    monkeypatch.setattr("ffvit.study.matching._relative_latency", lambda one, two: count(one).flops / count(two).flops)
    result = matched("latency", factors={"mixer": {name: MIXERS[name] for name in ("FF", "attention")}})
    assert "Latency of one image, measured here" in result.notes[0]
    sizes = {name: count_described(result.arm(name).network, 10).flops for name in ("FF", "attention")}
    assert sizes["FF"] == pytest.approx(sizes["attention"], rel=LATENCY_TOLERANCE)
    assert result.arm("FF").network.architecture.width != BODY["width"]


def test_a_latency_that_no_width_meets_is_said(monkeypatch):
    monkeypatch.setattr("ffvit.study.matching._relative_latency", lambda one, two: 1.24)
    with pytest.raises(UserError, match=r"the latency of 'FF' comes no nearer to that of 'attention' than \+24%"):
        matched("latency", factors={"mixer": {name: MIXERS[name] for name in ("FF", "attention")}})


def test_relative_latency_is_measured():
    network, other = (
        create_model(Network(name=name), 10).eval() for name in ("ff_tiny_patch16_224", "vit_tiny_patch16_224")
    )
    assert _relative_latency(network, other) > 0


def test_time_is_the_recipes():
    result = matched("time", recipe={"base": "small", "minutes": 2.0})
    assert "2 minutes a run" in result.notes[0]
    assert {arm.recipe.minutes for arm in result.arms} == {2.0}
