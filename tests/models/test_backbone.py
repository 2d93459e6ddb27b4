from __future__ import annotations

import math
import warnings

import jaxtyping
import pytest
import timm
import torch
from timm.models import group_parameters

import ffvit
from ffvit import Architecture, Branch
from ffvit.config.architecture import FF_ONLY, transformer
from ffvit.models.backbone import Backbone
from ffvit.models.vit_conversion import to_ours

ffvit.register_with_timm()
MICRO = [name for name in ffvit.NAMED if "micro" in name]
EIGHT = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=MICRO)
def name(request) -> str:
    return request.param


def test_timms_keywords(name):
    net = timm.create_model(name, num_classes=13, in_chans=3, img_size=(12, 8), drop_rate=0.3, drop_path_rate=0.3)
    assert (net.num_classes, net.in_chans, net.architecture.img_size) == (13, 3, (12, 8))
    assert net(torch.randn(2, 3, 12, 8)).shape == (2, 13)
    assert net.head_drop.p == 0.3
    rates = [[branch.drop_path.drop_prob for branch in block] for block in net.blocks]
    assert rates == [pytest.approx([0.3 * i / 3] * 2) for i in range(4)]


def test_features_and_head(name):
    net = timm.create_model(name).eval()
    tokens = net.forward_features(EIGHT)
    assert tokens.shape == (3, 17, 64)
    torch.testing.assert_close(net.forward_head(tokens), net(EIGHT))
    torch.testing.assert_close(net.forward_head(tokens, pre_logits=True), tokens[:, 0])
    assert net.get_classifier() is net.head
    assert net.num_features == net.embed_dim == net.head_hidden_size == 64


def test_another_head(name):
    net = timm.create_model(name).eval()
    net.reset_classifier(5)
    assert net(EIGHT).shape == (3, 5)
    assert net.num_classes == net.architecture.num_classes == 5
    net.reset_classifier(0, global_pool="avg")
    torch.testing.assert_close(net(EIGHT), net.forward_features(EIGHT)[:, 1:].mean(dim=1))
    net.reset_classifier(5, global_pool="")
    assert net(EIGHT).shape == (3, 17, 5)
    with pytest.raises(ValueError, match="global_pool must be one of 'token', 'avg', ''; got 'max'"):
        net.reset_classifier(5, global_pool="max")
    assert timm.create_model(name, num_classes=0)(EIGHT).shape == (3, 64)


def test_what_decay_spares_and_what_groups_by_depth(name):
    net = timm.create_model(name)
    assert {each.split(".")[0] for each in net.no_weight_decay()} == {"cls_token", "position"}
    groups = group_parameters(net, net.group_matcher())
    assert sorted(name for names in groups.values() for name in names) == sorted(n for n, _ in net.named_parameters())
    assert len(groups) == 1 + 4 + 1  # stem, blocks, head (the last norm goes with the head)


def test_checkpointing_changes_no_gradient(name):
    net = timm.create_model(name).train()
    gradients = []
    for enable in (False, True):
        net.set_grad_checkpointing(enable)
        net.zero_grad()
        net(EIGHT).square().sum().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_intermediates_are_those_of_timms_vit():
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=2, in_chans=1, embed_dim=64, depth=4, num_heads=2, num_classes=10
    ).eval()
    ours = timm.create_model("vit_micro_patch2_8").eval()
    ours.load_state_dict(to_ours(theirs.state_dict()))
    for options in (
        {},
        {"indices": 2},
        {"indices": [1, 3], "norm": True, "output_fmt": "NLC"},
        {"stop_early": True, "indices": [0]},
    ):
        mine, its = (net.forward_intermediates(EIGHT, intermediates_only=True, **options) for net in (ours, theirs))
        assert len(mine) == len(its)
        for here, there in zip(mine, its, strict=True):
            torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)
    final, pairs = ours.forward_intermediates(EIGHT, return_prefix_tokens=True)
    torch.testing.assert_close(final, ours.forward_features(EIGHT))
    assert [pair[1].shape for pair in pairs] == [(3, 1, 64)] * 4


def test_features_only():
    maps = timm.create_model("ff_micro_patch2_8", features_only=True, out_indices=(1, 3))(EIGHT)
    assert [each.shape for each in maps] == [(3, 64, 4, 4)] * 2


def test_initialization():
    net = ffvit.create_model("ff_small_patch16_224")
    for name, parameter in net.named_parameters():
        if name.endswith("bias") and "patch_embed" not in name:
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        elif "patch_embed" not in name and parameter.numel() > 1000:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
            assert parameter.abs().max() > 2.5 * 0.02, name  # timm truncates at 2, not at two standard deviations


@pytest.mark.parametrize("position", ["vectors", "map"])
@pytest.mark.parametrize("std", [0.02, 0.5, 1.5])
def test_learned_positions_start_at_the_scale_that_is_asked(position, std):
    torch.manual_seed(0)
    net = Backbone(
        Architecture(width=64, depth=1, block=FF_ONLY, img_size=32, patch=2, position=position, position_std=std)
    )
    (name, parameter), *_ = net.position.named_parameters()
    assert name in ("vectors", "map")
    assert parameter.std().item() == pytest.approx(std, rel=0.13)  # truncated at two deviations where they exceed 1
    assert net.cls_token.std().item() == pytest.approx(0.02, rel=0.3)


def sincos(readout: str) -> Backbone:
    """2 x 3 patches, width 8: two frequencies (1 and 1/100) along either axis."""
    return Backbone(
        Architecture(
            width=8, depth=1, block=FF_ONLY, img_size=(4, 6), patch=2, num_classes=3, readout=readout, position="sincos"
        )
    )


def test_sine_cosine_positions_by_hand():
    """A quarter each: sines of the row and of the column, then their cosines."""
    net, tokens = sincos("class_token"), torch.randn(5, 7, 8)
    expected = [[0.0] * 8]
    for row in range(2):
        for column in range(3):
            angles = [row, row / 100, column, column / 100]
            expected.append([wave(angle) for wave in (math.sin, math.cos) for angle in angles])
    torch.testing.assert_close(net.position(tokens), tokens + torch.tensor(expected))
    torch.testing.assert_close(sincos("mean").position(tokens[:, 1:]), tokens[:, 1:] + torch.tensor(expected[1:]))


def test_sine_cosine_positions_are_fixed_and_no_part_of_the_weights():
    net = sincos("mean")
    assert not list(net.position.parameters())
    assert not any("position" in name for name in net.state_dict())
    sincos("mean").load_state_dict(net.state_dict())
    assert net.to(torch.float64).position.vectors.dtype == torch.float64  # but moves with the network


@pytest.mark.parametrize("init", ["paper", "pytorch"])
def test_a_new_head_starts_as_the_first_one_did(init):
    torch.manual_seed(0)
    net = Backbone(Architecture(width=64, depth=1, block=FF_ONLY, img_size=8, patch=4, num_classes=300, init=init))
    first, std = net.head, {"paper": 0.02, "pytorch": 1 / (3 * 64) ** 0.5}[init]
    net.reset_classifier(400)
    for head in (first, net.head):
        assert head.weight.std().item() == pytest.approx(std, rel=0.05)
        assert head.bias.any() == (init == "pytorch")


def test_dropout_also_drops_tokens_after_positions():
    """The released code's `pos_drop`, which takes the rate of the other dropouts."""
    net = Backbone(Architecture(width=64, depth=1, block=FF_ONLY, img_size=32, patch=2), proj_drop_rate=0.25)
    images = torch.randn(2, 3, 32, 32)
    dropped, whole = net.train().embed(images), net.eval().embed(images)
    kept = dropped != 0
    assert 1 - kept.float().mean().item() == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)
    without = Backbone(net.architecture).train()
    assert without.embed(images).all()


def test_rectangles_and_channels():
    shape = Architecture(
        width=12, depth=1, block=transformer(heads=3), img_size=(21, 10), patch=(7, 5), in_chans=5, num_classes=3, position="map",
        position_grid=(4, 6),
    )  # fmt: skip
    assert shape.grid == (3, 2)
    assert Backbone(shape)(torch.randn(2, 5, 21, 10)).shape == (2, 3)


def test_another_size_of_image_is_refused_with_words():
    with pytest.raises(ValueError, match=r"takes images of 1 x 8 x 8 \(channels, height, width\); got 1 x 16 x 8"):
        ffvit.create_model("ff_micro_patch2_8")(torch.randn(2, 1, 16, 8))


def test_the_position_map_is_resized_as_in_the_papers_code():
    shape = ffvit.NAMED["ff_large_patch32_224"].replace(depth=1, width=8)
    net = Backbone(shape)
    resized = torch.nn.functional.interpolate(net.position.map, size=(7, 7), mode="bilinear", align_corners=False)
    tokens = net.position(torch.zeros(1, 50, 8))
    torch.testing.assert_close(tokens[0, 1:].T.reshape(8, 7, 7), resized[0])


def test_all_four_cells_of_attention_and_feedforward():
    for over_patches in ("attention", "feedforward"):
        for over_features in ("attention", "feedforward"):
            block = (Branch(over_patches, "patches"), Branch(over_features, "features"))
            net = Backbone(Architecture(width=12, depth=1, block=block, img_size=8, patch=2, num_classes=3))
            assert net(torch.randn(2, 3, 8, 8)).shape == (2, 3)


def test_dictionaries_of_intermediates_and_dinos_name_for_them():
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=2, in_chans=1, embed_dim=64, depth=4, num_heads=2, num_classes=10
    ).eval()
    ours = timm.create_model("vit_micro_patch2_8").eval()
    ours.load_state_dict(to_ours(theirs.state_dict()))
    for options in ({}, {"return_prefix_tokens": True}, {"intermediates_only": True}):
        mine, its = (net.forward_intermediates(EIGHT, output_dict=True, **options) for net in (ours, theirs))
        torch.testing.assert_close(mine, dict(sorted(its.items())), rtol=1e-4, atol=1e-5)
    for options in ({}, {"n": [0, 2], "reshape": True}, {"n": 2, "return_prefix_tokens": True, "norm": True}):
        mine, its = (net.get_intermediate_layers(EIGHT, **options) for net in (ours, theirs))
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("init", ["paper", "pytorch"])
def test_a_new_head_keeps_mode_place_and_initialization(init):
    net = Backbone(ffvit.NAMED["ff_micro_patch2_8"].replace(init=init)).double().eval()
    net.reset_classifier(1000)
    assert net.head.weight.dtype == torch.double
    assert not any(module.training for module in net.modules())
    expected = 0.02 if init == "paper" else 1 / math.sqrt(3 * 64)  # PyTorch's: uniform within 1 / sqrt(width)
    assert net.head.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert net.head.bias.any() == (init == "pytorch")
    net.reset_classifier(0)
    assert not net.head.training


def test_made_on_a_device_and_in_a_precision(name):
    net = timm.create_model(name, device="meta", dtype=torch.bfloat16, global_pool="avg")
    assert {(each.device.type, each.dtype) for each in net.state_dict().values()} == {("meta", torch.bfloat16)}
    assert timm.create_model("convnet_w8_s1", device="meta", dtype=torch.half).head.weight.is_meta


def test_torch_fx_traces_it(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # its stand-ins for tensors have no shape
    net = timm.create_model(name).eval()
    traced = torch.fx.symbolic_trace(net)
    torch.testing.assert_close(traced(EIGHT), net(EIGHT), rtol=1e-5, atol=1e-6)


def test_the_older_onnx_exporter_takes_it(name, tmp_path):
    import onnxruntime

    net = timm.create_model(name).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its age
        torch.onnx.export(net, (EIGHT,), tmp_path / "w.onnx", dynamo=False, input_names=["images"])
    logits = onnxruntime.InferenceSession(tmp_path / "w.onnx").run(None, {"images": EIGHT.numpy()})[0]
    torch.testing.assert_close(torch.tensor(logits), net(EIGHT), rtol=1e-4, atol=1e-5)
