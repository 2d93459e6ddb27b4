from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ffvit import NAMED, Architecture, Branch, UserError
from ffvit.config.architecture import FF_ONLY
from ffvit.config.mixers import MIXERS

SIZES = {"width": 12, "depth": 2}


@st.composite
def branches(draw) -> Branch:
    mixer = draw(st.sampled_from(sorted(MIXERS)))
    axis = draw(st.sampled_from(MIXERS[mixer].axes))
    fields = {"norm": draw(st.sampled_from([None, "patches", "features", "none"]))}
    if mixer in ("feedforward", "gmlp"):
        fields |= draw(st.sampled_from([{}, {"ratio": 2.0}, {"hidden": 34}]))
    return Branch(mixer, axis, **fields)


@given(st.lists(branches(), min_size=1, max_size=3), st.sampled_from(["map", "vectors", "sincos", "none"]))
def test_yaml_reads_back_equal(block, position):
    architecture = Architecture(
        **SIZES, block=tuple(block), img_size=(6, 4), patch=(3, 1), readout="mean", position=position
    )
    assert Architecture.from_yaml(str(architecture)) == architecture
    assert hash(Architecture.from_yaml(str(architecture))) == hash(architecture)


@pytest.mark.parametrize("name", NAMED)
def test_named_ones_read_back_equal(name):
    assert Architecture.from_yaml(str(NAMED[name])) == NAMED[name]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("width: 12\ndepth: x\nblock: []", "architecture.depth: must be a whole number; got 'x'"),
        ("width: 12\ndepth: 2\nblocks: []", "architecture.block: is needed\narchitecture.blocks: there is no such field, did you mean 'block'?"),
        ("width: 12\ndepth: 2\nblock: [{mixer: atention, axis: patches}]", "architecture.block.0.mixer: no mixer is called 'atention', did you mean 'attention'?"),
        ("width: 12\ndepth: 2\nblock: [{mixer: attention, axis: patches, head: 3}]", "architecture.block.0.head: there is no such field, did you mean 'heads'?"),
        ("width: 12\ndepth: 2\nblock: [{mixer: linear, axis: patches, hidden: 3}]", "architecture.block.0: hidden means nothing to the mixer 'linear', which has no settings"),
        ("width: 12\ndepth: 2\nblock: [{mixer: feedforward, axis: patches, heads: 3}]", "heads means nothing to the mixer 'feedforward', which has hidden, ratio"),
        ("width: 12\ndepth: 2\nblock: [{mixer: feedforward, axis: patches, ratio: 2, hidden: 5}]", "ratio and hidden both set the hidden size: give one"),
        ("width: 12\ndepth: 2\nblock: [{mixer: pooling, axis: patches, kernel: 4}]", "kernel must be odd, to have a patch at its centre; got 4"),
        ("width: 12\ndepth: 2\nblock: [{mixer: convolution, axis: features}]", "convolution along features means nothing"),
        ("width: 12\ndepth: 2\nimg_size: 225\nblock: [{mixer: attention, axis: patches}]", "img_size: height 225 is no multiple of the patch's 16; the nearest is 224 or 240"),
        ("width: 12\ndepth: 2\nimg_size: 9\nblock: [{mixer: attention, axis: patches}]", "img_size: height 9 is no multiple of the patch's 16; the nearest is 16"),
        ("width: 12\ndepth: 2\nblock: [{mixer: attention, axis: patches, heads: 5}]", "block.0.heads: 5 heads do not divide the width 12"),
        ("width: 12\ndepth: 2\nblock: [{mixer: attention, axis: features, heads: 2}]", "block.0.heads: 2 heads do not divide the number of tokens 197; along features use 1 head"),
        ("width: 12\ndepth: 2\nblock: [{mixer: feedforward, axis: features}]", "nothing in this block brings what the patches hold to the class token"),
        ("width: 12\ndepth: 2\nposition: none\nposition_grid: 3\nblock: [{mixer: attention, axis: patches}]", "position_grid is the size of a position map; position is 'none'"),
        ("width: 12\ndepth: 2\nblock: []", "block: a block needs at least one branch"),
        ("width: 10\ndepth: 2\nposition: sincos\nblock: [{mixer: attention, axis: patches}]", "position: sincos needs a width that 4 divides; got 10"),
        ("width: 12\ndepth: 2\nposition_std: 0\nblock: [{mixer: attention, axis: patches}]", "architecture.position_std: input should be greater than 0; got 0"),
        ("3", "architecture: must be fields and their values; got 3"),
        ("width: [", "architecture, line 1: not YAML"),
        ("width: 12\ndepth: 2\nreadout: mena\nblock: [{mixer: identity, axis: patches}]", "must be 'class_token' or 'mean'; got 'mena', did you mean 'mean'?"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(text, sentence):
    with pytest.raises(UserError) as raised:
        Architecture.from_yaml(text)
    assert sentence in str(raised.value)


def test_blocks_that_differ_are_kept_apart_and_alike_ones_together():
    linear = (Branch("linear", "patches"), Branch("feedforward", "features"))
    alike = Architecture(**SIZES | {"depth": 4}, block=FF_ONLY)
    mixed = alike.with_blocks([FF_ONLY, linear, FF_ONLY, linear])
    assert mixed.blocks == (FF_ONLY, linear, FF_ONLY, linear)
    (change,) = mixed.replaced
    assert (change.blocks, change.block) == ((1, 3), linear)
    assert Architecture.from_yaml(str(mixed)) == mixed
    assert hash(Architecture.from_yaml(str(mixed))) == hash(mixed)
    assert mixed.with_blocks([FF_ONLY] * 4) == alike
    assert "replaced" not in str(alike)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ([{"blocks": [0, 2]}], "replaced: there are blocks 0 to 1; got 2"),
        ([{"blocks": [1]}, {"blocks": [0, 1]}], "replaced: block 1 is there twice"),
        ([{"blocks": [1], "block": [{"mixer": "attention", "axis": "patches", "heads": 5}]}],
         "replaced.0.block.0.heads: 5 heads do not divide the width 12"),
        ([{"blocks": []}], "replaced.0.blocks"),
    ],
)  # fmt: skip
def test_what_blocks_cannot_be_is_said(changes, sentence):
    changes = [{"block": [{"mixer": "linear", "axis": "patches"}], **change} for change in changes]
    with pytest.raises(UserError) as raised:
        Architecture(**SIZES, block=FF_ONLY).replace(replaced=changes)
    assert sentence in str(raised.value)


def test_a_class_token_is_fed_by_one_block_at_least():
    features = (Branch("feedforward", "features"),)
    Architecture(**SIZES, block=FF_ONLY).with_blocks([FF_ONLY, features])
    with pytest.raises(UserError, match="nothing in this block brings"):
        Architecture(**SIZES, block=FF_ONLY).with_blocks([features, features])


def test_it_cannot_be_changed_only_replaced():
    tiny = NAMED["ff_tiny_patch16_224"]
    with pytest.raises(ValidationError, match="frozen"):
        tiny.width = 3
    wide = tiny.replace(width=384, num_classes=10)
    assert (wide.width, wide.num_classes, wide.block, tiny.width) == (384, 10, tiny.block, 192)
    with pytest.raises(UserError, match="did you mean 'width'"):
        tiny.replace(widht=3)
    with pytest.raises(UserError, match="the nearest is 224 or 240"):
        tiny.replace(img_size=225)


def test_hidden_sizes():
    tiny = NAMED["ff_tiny_patch16_224"]
    features, patches = FF_ONLY
    assert (tiny.tokens, tiny.hidden(features), tiny.hidden(patches)) == (197, 768, 788)
    assert tiny.hidden(Branch("feedforward", "patches", ratio=0.5)) == 98
    assert tiny.hidden(Branch("feedforward", "patches", hidden=31)) == 31
    assert tiny.hidden(Branch("gmlp", "patches")) == 6 * 192


def test_the_norm_runs_over_what_the_first_matrix_reads():
    axes = {
        (each, axis): Branch(each, axis).normalised_axis
        for each in ("feedforward", "attention")
        for axis in ("patches", "features")
    }
    assert axes == {
        ("feedforward", "patches"): "patches", ("feedforward", "features"): "features",
        ("attention", "patches"): "features", ("attention", "features"): "patches",
    }  # fmt: skip
    assert Branch("feedforward", "patches", norm="features").normalised_axis == "features"
