"""What every mixer promises, and what each one is. Sizes are different primes, so that no two axes can be swapped unseen."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from unittest import mock

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ffvit import Architecture, Branch
from ffvit.config.mixers import MIXERS
from ffvit.models.backbone import Backbone
from ffvit.models.mixers import FeedForward, PatchLinear, Random, StaticAttention, build_mixer
from ffvit.profiling.memory import activation_bytes
from ffvit.profiling.op_profile import profile_ops

DROPPING = ("feedforward", "attention", "gmlp")
CASES = [(name, axis) for name, row in MIXERS.items() for axis in row.axes]


def architecture(mixer: str, axis: str, readout: str = "mean") -> Architecture:
    block = (Branch(mixer, axis), Branch("feedforward", "patches"))
    return Architecture(
        width=7, depth=2, block=block, img_size=(15, 10), patch=(3, 2), in_chans=3, num_classes=11, readout=readout
    )


def influence(mixer: str, axis: str, readout: str = "mean") -> torch.Tensor:
    """Which input tokens and features (last two axes) may move which outputs (first two) of the mixer alone."""
    shape = architecture(mixer, axis, readout)
    branch = shape.block[0]
    mix = build_mixer(branch, shape, dropout=0.0).double()
    for parameter in mix.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(1, shape.tokens, shape.width, dtype=torch.float64)

    def along(tokens: torch.Tensor) -> torch.Tensor:
        return (mix(tokens.mT).mT if axis == "features" else mix(tokens))[0]

    return torch.autograd.functional.jacobian(along, x).squeeze(2) != 0


@pytest.mark.parametrize(("mixer", "axis"), CASES)
def test_shape_is_kept_and_every_trainable_parameter_learns(mixer, axis):
    net = Backbone(architecture(mixer, axis))
    tokens = net.embed(torch.randn(5, 3, 15, 10))
    assert net.blocks[0][0](tokens).shape == tokens.shape == (5, 25, 7)
    logits = net(torch.randn(5, 3, 15, 10))
    assert logits.shape == (5, 11)
    torch.nn.functional.cross_entropy(logits, torch.arange(5)).backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())
    still = {name for name, p in net.named_parameters() if not p.grad.any()}
    # A constant added to the keys moves every score of a query alike; a closed gate passes nothing back at first.
    assert not {name for name in still if "gate" not in name}


@pytest.mark.parametrize(
    "mixer", ["feedforward", "linear", "fourier", "random", "pooling", "convolution", "toeplitz", "identity"]
)
def test_along_patches_no_feature_touches_another(mixer):
    moved = influence(mixer, "patches")
    between_features = moved.any(dim=2).any(dim=0)
    assert not between_features[~torch.eye(7, dtype=torch.bool)].any()


@pytest.mark.parametrize("mixer", ["feedforward", "linear", "fourier", "random", "identity"])
def test_along_features_no_patch_touches_another(mixer):
    moved = influence(mixer, "features")
    between_patches = moved.any(dim=3).any(dim=1)
    assert not between_patches[~torch.eye(25, dtype=torch.bool)].any()


@pytest.mark.parametrize("mixer", ["feedforward", "linear", "attention", "static_attention", "gmlp", "random"])
def test_along_patches_every_patch_reaches_every_other(mixer):
    assert influence(mixer, "patches").any(dim=3).any(dim=1).all()


@pytest.mark.parametrize("mixer", [name for name, row in MIXERS.items() if row.on_grid])
def test_over_the_grid_only_patches_within_the_kernel_touch_and_the_class_token_is_left_alone(mixer):
    moved = influence(mixer, "patches", "class_token").any(dim=3).any(dim=1)
    assert not moved[0].any()
    assert not moved[:, 0].any()
    rows, columns = np.divmod(np.arange(25), 5)
    reach = 4 if MIXERS[mixer].kernel is None else 1  # without a kernel of its own it sees the whole grid
    near = (abs(rows[:, None] - rows) <= reach) & (abs(columns[:, None] - columns) <= reach)
    np.testing.assert_array_equal(moved[1:, 1:].numpy(), near)


def test_architecture_of_a_grid_mixer_has_a_class_token_that_others_feed():
    assert architecture("pooling", "patches", "class_token").tokens == 26


def test_pooling_by_hand():
    shape = Architecture(width=1, depth=1, block=(Branch("pooling", "patches"),), img_size=3, patch=1, readout="mean")
    mix = build_mixer(shape.block[0], shape, dropout=0.0)
    x = torch.arange(1.0, 10.0).view(1, 9, 1)
    corner, edge, centre = (1 + 2 + 4 + 5) / 4 - 1, (1 + 2 + 3 + 4 + 5 + 6) / 6 - 2, 5 - 5
    assert mix(x)[0, [0, 1, 4], 0].tolist() == [corner, edge, centre]


@pytest.mark.parametrize("mixer", ["pooling", "convolution"])
def test_a_kernel_of_five_sees_two_patches_each_way(mixer):
    shape = architecture(mixer, "patches").replace(block=(Branch(mixer, "patches", kernel=5),))
    mix = build_mixer(shape.block[0], shape, dropout=0.0)
    corner = torch.zeros(1, 25, 7)
    corner[:, 0] = 1.0
    moved = (mix(corner) - mix(torch.zeros(1, 25, 7)))[0, :, 0].view(5, 5)
    assert moved[:3, :3].all()
    assert not moved[3:].any()
    assert not moved[:, 3:].any()


def test_fourier_is_numpys():
    x = torch.randn(2, 13, 7, dtype=torch.float32)
    shape = architecture("fourier", "patches")
    ours = build_mixer(shape.block[0], shape, dropout=0.0)(x)
    np.testing.assert_allclose(ours, np.fft.fft(x.numpy(), axis=1, norm="ortho").real, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_fourier_keeps_the_precision_of_what_it_reads(dtype):
    shape = architecture("fourier", "patches")
    x = torch.randn(2, 25, 7).to(dtype)
    mixed = build_mixer(shape.block[0], shape, dropout=0.0)(x)
    assert mixed.dtype == dtype
    np.testing.assert_allclose(mixed.float(), np.fft.fft(x.float(), axis=1, norm="ortho").real, rtol=0.01, atol=0.02)


@pytest.mark.parametrize(("mixer", "axis"), [(name, axis) for name, axis in CASES if name in DROPPING])
def test_dropout_zeroes_its_share_of_what_a_mixer_adds(mixer, axis):
    shape = architecture(mixer, axis)
    mix = build_mixer(shape.block[0], shape, dropout=0.25)
    x = torch.randn(200, 25, 7)
    x = x.mT if axis == "features" else x
    assert (mix(x) == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(mix.eval()(x), mix(x))


def test_random_is_frozen_and_travels_with_the_weights():
    net = Backbone(architecture("random", "patches"))
    matrix = net.state_dict()["blocks.0.0.mixer.matrix"]
    assert matrix.sum(dim=1).tolist() == pytest.approx([1.0] * 25)
    assert not any("matrix" in name for name, _ in net.named_parameters())


def test_attention_along_features_has_the_tokens_values_for_vectors():
    net = Backbone(architecture("attention", "features"))
    assert net.blocks[0][0].mixer.qkv.weight.shape == (3 * 25, 25)
    assert net.blocks[0][0].norm.weight.shape == (25,)


def test_a_fixed_hidden_size_makes_the_patch_branch_linear_in_the_number_of_patches():
    """The paper, section 3.5."""

    def parameters(image: int) -> int:
        block = (Branch("feedforward", "patches", hidden=31), Branch("feedforward", "features"))
        net = Backbone(Architecture(width=7, depth=1, block=block, img_size=image, patch=2, readout="mean"))
        mixer = net.blocks[0][0].mixer
        return mixer.fc1.weight.numel() + mixer.fc2.weight.numel()

    assert parameters(40) == 4 * parameters(20)


@pytest.mark.parametrize("axis", ["patches", "features"])
def test_a_gelu_computed_again_changes_no_gradient_and_keeps_less(axis):
    """Dropout's draws are the same again."""
    gradients, kept = [], []
    for again in (False, True):
        torch.manual_seed(0)
        mixer = FeedForward(6, 24, axis, dropout=0.5)
        mixer.recomputes = again
        x = torch.randn(5, 6, 7).requires_grad_()
        kept.append(activation_bytes(lambda mixer=mixer, x=x: mixer(x), mixer))
        torch.manual_seed(1)
        mixer(x).square().sum().backward()
        gradients.append([x.grad, *(each.grad for each in mixer.parameters())])
    for plain, computed_again in zip(*gradients, strict=True):
        assert torch.equal(plain, computed_again)
    assert kept[1] < 0.6 * kept[0]


def test_half_precision_keeps_a_matrix_once_and_not_for_each_image():
    layer = PatchLinear(20, 30)

    def kept(images: int) -> int:
        x = torch.randn(images, 20, 8)
        with torch.autocast("cpu", torch.bfloat16):
            return activation_bytes(lambda: layer(x), layer)

    assert kept(3) - kept(2) == 2 * 20 * 8  # the image, two bytes a number
    assert layer(torch.randn(2, 20, 8)).dtype == torch.float32


class Watching(TorchDispatchMode):
    """An operation counter that is not ours."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operators.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_only_counters_and_tracers_see_plain_linear_layers():
    """They know few operators; runs take the fast one, to the same result."""
    net, images = Backbone(architecture("feedforward", "patches")).eval(), torch.randn(2, 3, 15, 10)
    with torch.no_grad(), mock.patch.object(torch, "baddbmm", wraps=torch.baddbmm) as fast:
        ordinary = net(images)
        assert fast.call_count == 2 * 2 * 2  # two layers in each of two branches in each of two blocks
        with Watching() as watching:
            torch.testing.assert_close(net(images), ordinary)
        assert "baddbmm" not in watching.operators
        assert fast.call_count == 8
        profile_ops(net, images)  # ours counts what runs
        assert fast.call_count == 16


@pytest.mark.parametrize(
    ("module", "state", "plain"),
    [(torch.compiler, "is_exporting", True), (torch.jit, "is_tracing", True), (torch.compiler, "is_compiling", False)],
)
def test_exporters_and_tracers_see_plain_linear_layers_and_the_compiler_the_fast_one(monkeypatch, module, state, plain):
    layer, x = PatchLinear(25, 30), torch.randn(2, 25, 7)
    expected = layer(x)
    monkeypatch.setattr(module, state, lambda: True)
    with Watching() if not plain else nullcontext(), mock.patch.object(torch, "baddbmm", wraps=torch.baddbmm) as fast:
        torch.testing.assert_close(layer(x), expected)
    assert fast.call_count == (not plain)


@pytest.mark.parametrize(("dtype", "autocast", "left"), [
    (torch.float32, False, True), (torch.float64, False, True), (torch.float32, True, False), (torch.bfloat16, False, False),
])  # fmt: skip
def test_the_matrix_stands_on_the_left_in_full_precision_alone(dtype, autocast, left):
    """Either way to the same numbers, up to rounding: held to float64."""
    mixer = FeedForward(25, 100, "patches", dropout=0.0)
    x = torch.randn(3, 25, 7, dtype=torch.float64)
    expected = copy.deepcopy(mixer).double()(x)
    mixer, low = mixer.to(dtype), autocast or dtype == torch.bfloat16
    with (
        mock.patch.object(torch, "baddbmm", wraps=torch.baddbmm) as from_left,
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        y = mixer(x.to(dtype))
    assert from_left.call_count == 2 * left
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=2e-2 if low else 1e-6)


def test_shapes_can_be_asked_for_without_numbers():
    with torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        assert PatchLinear(25, 30)(torch.empty(2, 25, 7)).shape == (2, 30, 7)


def test_along_features_layers_are_pytorchs_own():
    """Tools that count by the class of a module, or replace it, know `nn.Linear` and no subclass."""
    mixer = FeedForward(6, 24, "features", dropout=0.0)
    assert type(mixer.fc1) is type(mixer.fc2) is torch.nn.Linear


def test_matrices_over_patches_start_as_their_papers_and_pytorch_start_them():
    rows = Random(13).matrix.sum(dim=1)
    torch.testing.assert_close(rows, torch.ones(13))
    maps, linear = StaticAttention(49, 8, heads=2, dropout=0.0).maps, torch.nn.Linear(49, 49).weight
    assert maps.shape == (2, 49, 49)
    assert maps.abs().max() <= 1 / 7
    assert maps.std().item() == pytest.approx(linear.std().item(), rel=0.05)
    assert maps.mean().item() == pytest.approx(0, abs=0.01)
