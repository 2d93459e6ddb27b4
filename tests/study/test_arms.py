from __future__ import annotations

from pathlib import Path

import pytest

from ffvit.config import recipe as recipes
from ffvit.config.architecture import NAMED, Branch
from ffvit.config.hardware import Hardware
from ffvit.errors import UserError
from ffvit.study.arms import Arm, has_attention, make_arms, make_comparisons, without_attention
from ffvit.study.plan import Plan
from ffvit.study.plan_options import make_plan

STUDIES = Path(__file__).parents[2] / "studies"
BODY = {
    "width": 32,
    "depth": 2,
    "img_size": 8,
    "patch": 2,
    "in_chans": 1,
    "readout": "mean",
    "position": "vectors",
    "block": [{"mixer": "feedforward", "axis": "patches"}, {"mixer": "feedforward", "axis": "features"}],
}
ATTENTION = {"mixer": "attention", "axis": "patches", "heads": 2}


def plan(**fields) -> Plan:
    return Plan(**{"network": BODY, "recipe": "digits", **fields})


def test_factors_are_crossed():
    arms = make_arms(
        plan(
            factors={"network.width": [32, 48], "mixer": {"FF": {}, "attention": {"network.patches": ATTENTION}}},
            controls=False,
        )
    )
    assert [arm.name for arm in arms] == ["width 32, FF", "width 32, attention", "width 48, FF", "width 48, attention"]
    assert [arm.network.architecture.width for arm in arms] == [32, 32, 48, 48]
    assert arms[3].network.architecture.block[0] == Branch(**ATTENTION)


def test_only_what_a_level_says_is_changed():
    one, two = make_arms(
        plan(factors={"mixer": {"FF": {}, "attention": {"network.patches": ATTENTION}}}, controls=False)
    )
    assert two.network.architecture.replace(block=one.network.architecture.block) == one.network.architecture
    assert two.recipe == one.recipe


def test_a_recipes_field_is_varied_by_its_name():
    arms = make_arms(plan(factors={"recipe.drop_path": [0.0, 0.1]}, controls=False))
    assert [arm.recipe.drop_path for arm in arms] == [0.0, 0.1]


def test_another_mixer_loses_the_settings_of_the_one_before():
    body = {**BODY, "block": [ATTENTION, BODY["block"][1]]}
    (arm,) = make_arms(
        plan(network=body, factors={"mixer": {"FF": {"network.patches.mixer": "feedforward"}}}, controls=False)
    )
    assert arm.network.architecture.block[0] == Branch("feedforward", "patches")


@pytest.mark.parametrize("name", ["ff_micro_patch2_8", "vit_micro_patch2_8"])
def test_a_branch_is_addressed_by_its_axis_in_whatever_order_they_are(name):
    """FF-only networks have the feature branch first, ViT the patch branch."""
    levels = {
        "replaced": {"network.patches": {"mixer": "attention", "heads": 4}},
        "another mixer": {"network.features.mixer": "linear", "network.patches.mixer": "pooling"},
        "one setting": {"network.features.hidden": 34, "network.patches.norm": "none"},
    }
    base = NAMED[name].replace(readout="mean")
    arms = make_arms(plan(network={"architecture": base}, factors={"what": levels}, controls=False))
    found = [{branch.axis: branch for branch in arm.network.architecture.block} for arm in arms]
    order = [branch.axis for branch in base.block]
    assert all([branch.axis for branch in arm.network.architecture.block] == order for arm in arms)
    (patches,) = (branch for branch in base.block if branch.axis == "patches")
    assert found == [
        {"patches": Branch("attention", "patches", heads=4), "features": Branch("feedforward", "features")},
        {"patches": Branch("pooling", "patches"), "features": Branch("linear", "features")},
        {"patches": patches.replace(norm="none"), "features": Branch("feedforward", "features", hidden=34)},
    ]


def test_the_same_change_by_axis_and_by_number():
    by_axis, by_number = (
        make_arms(plan(factors={"x": {"a": {path: "linear"}}}, controls=False))
        for path in ("network.patches.mixer", "network.block.0.mixer")
    )
    assert by_axis == by_number


def test_a_list_of_mixers_of_one_branch():
    arms = make_arms(plan(factors={"network.patches.mixer": ["feedforward", "linear"]}, controls=False))
    assert [arm.name for arm in arms] == ["patches.mixer feedforward", "patches.mixer linear"]
    assert [arm.network.architecture.block[0].mixer for arm in arms] == ["feedforward", "linear"]


def test_controls_are_the_body_without_mixing_and_with_a_random_one():
    arms = {
        arm.name: arm
        for arm in make_arms(plan(factors={"mixer": {"FF": {}, "attention": {"network.patches": ATTENTION}}}))
    }
    base = arms["FF"].network.architecture
    for name, mixer in (("no mixing", "identity"), ("random mixing", "random")):
        control = arms[name]
        assert control.role == "control"
        assert control.network.architecture.block == (Branch(mixer, "patches"), base.block[1])
        assert control.network.architecture.replace(block=base.block) == base


@pytest.mark.parametrize(("search", "times"), [(True, 4.0), ("none", 1.0)])
def test_the_search_of_a_control_begins_at_a_higher_rate(search: object, times: float):
    arm, *controls = make_arms(plan(search=search))
    assert {control.recipe.lr / arm.recipe.lr for control in controls} == {times}


def test_a_control_without_mixing_reads_the_mean_where_the_body_has_a_class_token():
    arms = {arm.name: arm for arm in make_arms(Plan(network="ff_micro_patch2_8", recipe="digits"))}
    assert arms["no mixing"].network.architecture.readout == "mean"
    assert arms["random mixing"].network.architecture.readout == "class_token"


def test_a_network_of_timms_is_external_and_gets_no_control():
    names = ["vit_tiny_patch16_224", "resmlp_12_224"]
    arms = make_arms(Plan(network=names[0], recipe="small", factors={"network": names}))
    assert [arm.role for arm in arms] == ["external", "external"]


def test_image_size_reaches_every_network():
    names = ["ff_tiny_patch16_224", "vit_tiny_patch16_224"]
    network = {"name": names[0], "img_size": [64, 64]}
    ours, theirs = make_arms(Plan(network=network, recipe="small", factors={"network": names}, controls=False))
    assert ours.network.architecture.img_size == (64, 64)
    assert theirs.network.img_size == (64, 64)


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        (
            {"mixer": {"pool": {"network.block.0.mixer": "pooling", "network.block.0.axis": "features"}}},
            "cell mixer = pool is impossible",
        ),
        (
            {"network.patch": [2, 3]},
            "the cell patch = patch 3 is impossible: network: img_size: height 8 is no multiple",
        ),
        ({"network.widht": [2]}, "network.widht: a network has no field 'widht', did you mean 'width'?"),
        ({"recipe.drop_pth": [0.1]}, "recipe.drop_pth: a recipe has no field 'drop_pth', did you mean 'drop_path'?"),
        ({"width": [2]}, "width: a path begins with network. or recipe.: say network.width"),
        ({"drop_path": [0.1]}, "drop_path: a path begins with network. or recipe.: say recipe.drop_path"),
        ({"x": {"a": {"network.block.7.mixer": "identity"}}}, "network.block.7"),
        ({"x": {"a": {"network.width.deep": 3}}}, "network.width.deep"),
        (
            {"x": {"a": {"network.patches": "attention"}}},
            "patches: give the fields of a branch along patches, its mixer first; got 'attention'",
        ),
        (
            {"x": {"a": {"network.patches": {"mixer": "linear", "axis": "features"}}}},
            "patches: give the fields of a branch along patches",
        ),
        (
            {"x": {"a": {"network.patches.mixr": "linear"}}},
            "block.0.mixr: there is no such field, did you mean 'mixer'?",
        ),
        (
            {"x": {"a": {"network.block": [ATTENTION, ATTENTION], "network.patches.heads": 4}}},
            "patches.heads: names the one branch along patches, of which this block has 2",
        ),
        (
            {"x": {"a": {"network": "ff_micro_patch2_8", "network.block.0.mixer": "linear"}}},
            "block.0.mixer: named networks differ in the order of their branches: say 'patches' or 'features' in place of 'block.0'",
        ),
        ({"x": {"a": {"recipe.lr": -1}}}, "recipe.lr"),
        ({"network": ["vit_tiny_patch16_224"], "network.width": [64]}, "vit_tiny_patch16_224 is an external network"),
        ({"x": {"a": {}, "b": {}}}, "'a' and 'b' are the same network and recipe"),
    ],
)
def test_an_impossible_cell_is_named_with_the_reason(factors: dict, words: str):
    with pytest.raises(UserError) as error:
        make_arms(plan(factors=factors))
    assert words in str(error.value)


def test_a_comparison_with_an_arm_that_is_not_there():
    with pytest.raises(UserError, match="no arm 'atention', did you mean 'attention'"):
        make_arms(
            plan(factors={"mixer": {"FF": {}, "attention": {"network.patches": ATTENTION}}}, reference="atention")
        )
    with pytest.raises(UserError, match="compared with itself"):
        make_arms(
            plan(factors={"mixer": {"FF": {}, "attention": {"network.patches": ATTENTION}}}, comparisons=[["FF", "FF"]])
        )


def test_the_question_is_of_attention_where_an_arm_has_it():
    its = plan(
        factors={
            "mixer": {
                "attention": {"network.patches": ATTENTION},
                "linear": {"network.patches.mixer": "linear"},
                "FF": {},
            }
        }
    )
    arms = make_arms(its)
    assert make_comparisons(its, arms) == (("linear", "attention"), ("FF", "attention"))
    assert has_attention(arms[0])
    assert without_attention(arms[1])


@pytest.mark.parametrize(
    ("name", "over_patches", "nowhere"),
    [
        ("repvit_m1", False, True),
        ("resmlp_12_224", False, True),
        ("pvt_v2_b0", True, False),
        ("twins_svt_small", True, False),
        ("volo_d1_224", True, False),
        ("hiera_tiny_224", True, False),
        ("edgenext_xx_small", False, False),  # between channels only
    ],
)
def test_attention_is_told_by_what_a_network_is_built_of(name, over_patches, nowhere):
    arm = Arm(name=name, network={"name": name}, recipe=recipes.named_recipe("small"))
    assert (has_attention(arm), without_attention(arm)) == (over_patches, nowhere)


def test_a_network_with_attention_is_the_reference_whatever_it_is_called():
    its = plan(network="ff_tiny_patch16_224", factors={"network": ["repvit_m1", "hiera_tiny_224"]}, controls=False)
    assert make_comparisons(its, make_arms(its)) == (("repvit_m1", "hiera_tiny_224"),)


def test_one_arm_is_asked_whether_its_mixing_is_worth_anything():
    its = plan(factors={"mixer": {"FF": {}}})
    assert make_comparisons(its, make_arms(its)) == (("FF", "no mixing"), ("FF", "random mixing"))


def test_one_arm_without_controls_is_no_study():
    its = plan(controls=False)
    with pytest.raises(UserError, match="only one arm"):
        make_comparisons(its, make_arms(its))


@pytest.mark.parametrize("file", sorted(STUDIES.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_ready_plans_can_be_built(file: Path):
    its = make_plan(study=file)
    arms = make_arms(its)
    assert len(make_comparisons(its, arms)) >= (1 if file.stem == "pixels" else 2)


def test_on_the_digits_runs_compute_in_fp32_unless_asked():
    """So small, they lose by bf16; and the same plan is the same everywhere."""
    assert make_plan().hardware.precision == "fp32"
    assert make_plan(hardware=Hardware(precision="bf16")).hardware.precision == "bf16"
    assert make_plan(hardware=Hardware(accelerator="cpu")).hardware == Hardware(accelerator="cpu", precision="fp32")
    assert make_plan(study=STUDIES / "attention-grid.yaml").hardware.precision == "fp32"


def test_table1_is_the_papers_networks():
    arms = {arm.name: arm.network.architecture for arm in make_arms(make_plan(study=STUDIES / "table1.yaml"))}
    for size in ("tiny", "base", "large"):
        name = next(name for name in NAMED if name.startswith(f"ff_{size}"))
        assert arms[f"FF only, {size}"] == NAMED[name]
        assert arms[f"attention, {size}"].width == NAMED[name].width
    assert arms["attention only, tiny"] == NAMED["attention_only_tiny_patch16_224"]
