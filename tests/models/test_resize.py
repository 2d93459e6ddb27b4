from __future__ import annotations

import copy
import itertools

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import ffvit
from ffvit import Architecture, Branch, Mixer
from ffvit.config.architecture import FF_ONLY, transformer
from ffvit.models.backbone import Backbone
from ffvit.models.token_resize import METHODS, TokenResize
from ffvit.models.vit_conversion import to_ours


def built(block: tuple[Branch, ...], **fields) -> Backbone:
    common = {"width": 24, "depth": 2, "img_size": (8, 12), "patch": 2, "num_classes": 5, "in_chans": 1}
    return Backbone(Architecture(block=block, **(common | fields))).eval()


def test_it_is_timms_vit_at_another_size():
    theirs = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=(8, 12),
        patch_size=2,
        in_chans=1,
        embed_dim=24,
        depth=2,
        num_heads=2,
        num_classes=5,
    ).eval()
    ours = built(transformer(heads=2), position="vectors")
    ours.load_state_dict(to_ours(theirs.state_dict()))
    for sizes in ({"img_size": (12, 16)}, {"img_size": (12, 16), "patch_size": (4, 4)}):
        for net in (ours, theirs):
            net.set_input_size(**sizes)
        seen = torch.randn(3, 1, 12, 16)
        torch.testing.assert_close(ours(seen), theirs(seen), rtol=1e-4, atol=1e-5)
    assert ours.architecture.patch == (4, 4)
    again = Backbone(ours.architecture).eval()
    again.load_state_dict(ours.state_dict())
    torch.testing.assert_close(again(seen), ours(seen))
    maps = ours.forward_intermediates(seen, intermediates_only=True)
    assert [each.shape for each in maps] == [(3, 24, 3, 4)] * 2


@pytest.mark.parametrize("position", ["map", "vectors", "sincos", "none"])
def test_a_patch_that_grows_with_the_image_sees_an_enlarged_image_alike(position):
    net = built(FF_ONLY, position=position)
    seen = torch.randn(3, 1, 8, 12)
    before = net(seen)
    net.set_input_size((16, 24), 4)
    assert (net.architecture.patch, net.architecture.grid) == ((4, 4), (4, 6))
    # Enlarged patch by patch: a cubic that looks over a patch's edge is another image.
    patches = functional.unfold(seen, 2, stride=2).transpose(1, 2).reshape(-1, 1, 2, 2)
    larger = functional.interpolate(patches, size=(4, 4), mode="bicubic", antialias=True)
    larger = functional.fold(larger.reshape(3, 24, 16).transpose(1, 2), (16, 24), 4, stride=4)
    torch.testing.assert_close(net(larger), before, rtol=1e-3, atol=1e-4)
    Backbone(net.architecture).load_state_dict(net.state_dict())


@pytest.mark.parametrize("mixer", ["pooling", "convolution", "fourier", "identity", "attention"])
@pytest.mark.parametrize("position", ["map", "sincos"])
def test_mixers_without_weights_over_patches_take_more_patches(mixer, position):
    net = built((Branch(mixer, "patches"), Branch("feedforward", "features")), readout="mean", position=position)
    vectors = net.position
    net.requires_grad_(False)
    net.set_input_size(16)
    assert net.architecture.grid == (8, 8)
    assert net.position is vectors
    assert not any(each.requires_grad for each in net.parameters())
    again = Backbone(net.architecture).eval()
    again.load_state_dict(net.state_dict())
    seen = torch.randn(3, 1, 16, 16)
    torch.testing.assert_close(net(seen), again(seen))


IN_PLACE = {"position": "none", "readout": "mean", "img_size": (4, 6)}
CELLS = {
    "feedforward": FF_ONLY,
    "feedforward, norm over features": (Branch("feedforward", "patches", norm="features", ratio=2),),
    "linear": (Branch("linear", "patches"), Branch("feedforward", "features")),
    "gmlp": (Branch("gmlp", "patches"),),
    "random": (Branch("random", "patches"), Branch("linear", "features")),
    "attention": transformer(heads=2),
    "static attention": (Branch("static_attention", "patches", heads=2), Branch("feedforward", "features")),
    "identity, norm over patches": (Branch("identity", "patches", norm="patches"), Branch("feedforward", "features")),
}


def randomized(net: Backbone) -> Backbone:
    """Every weight is drawn, so that none is zero or one by its initialization."""
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net.double()


def tokens_of_patches(net: Backbone, seen: torch.Tensor) -> torch.Tensor:
    """The patches as a map."""
    return net.forward_intermediates(seen, intermediates_only=True, norm=True)[-1]


@settings(max_examples=40, deadline=None)
@given(
    cell=st.sampled_from(sorted(CELLS)),
    times=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 2**31),
)
def test_an_image_enlarged_by_whole_patches_has_the_same_features(cell, times, seed):
    torch.manual_seed(seed)
    net = randomized(built(CELLS[cell], **IN_PLACE))
    patches = torch.randn(2, 1, 2, 3, dtype=torch.float64)
    before = tokens_of_patches(net, tiled(patches, (2, 2)))
    net.set_input_size((4 * times[0], 6 * times[1]))
    after = tokens_of_patches(net, tiled(patches, (2 * times[0], 2 * times[1])))
    torch.testing.assert_close(after, tiled(before, times), rtol=1e-7, atol=1e-7)
    again = Backbone(net.architecture).double()
    again.load_state_dict(net.state_dict())


def test_blocks_that_differ_are_resized_each_in_its_way():
    architecture = built(CELLS["attention"], **IN_PLACE).architecture
    net = randomized(Backbone(architecture.with_blocks([CELLS["static attention"], *architecture.blocks[1:]])))
    patches = torch.randn(2, 1, 2, 3, dtype=torch.float64)
    before = tokens_of_patches(net, tiled(patches, (2, 2)))
    net.set_input_size((8, 12))
    assert net.architecture.blocks[0][0].mixer == "static_attention"
    torch.testing.assert_close(
        tokens_of_patches(net, tiled(patches, (4, 4))), tiled(before, (2, 2)), rtol=1e-7, atol=1e-7
    )
    Backbone(net.architecture).double().load_state_dict(net.state_dict())


def tiled(image: torch.Tensor, times: tuple[int, int]) -> torch.Tensor:
    """Every pixel as a rectangle."""
    return image.repeat_interleave(times[0], dim=-2).repeat_interleave(times[1], dim=-1)


def test_a_class_token_keeps_its_part():
    """Its row and column stay, so a network whose norms run over features answers as before."""
    block = (Branch("feedforward", "patches", norm="features"), Branch("linear", "patches", norm="features"))
    net = randomized(built(block, position="none", img_size=(4, 6)))
    patches = torch.randn(2, 1, 2, 3, dtype=torch.float64)
    before = net(tiled(patches, (2, 2)))
    net.set_input_size((12, 12))
    torch.testing.assert_close(net(tiled(patches, (6, 4))), before)


@pytest.mark.parametrize("mixer", ["feedforward", "linear", "gmlp", "random"])
def test_blocks_are_the_old_network_on_each_part_of_the_image(mixer):
    net = randomized(built((Branch(mixer, "patches", norm="features"),), **IN_PLACE))
    seen = torch.randn(3, 1, 8, 12, dtype=torch.float64)
    parts = [
        tokens_of_patches(net, seen[..., rows : rows + 4, columns : columns + 6])
        for rows in (0, 4)
        for columns in (0, 6)
    ]
    whole = torch.cat((torch.cat(parts[:2], dim=-1), torch.cat(parts[2:], dim=-1)), dim=-2)
    net.set_input_size((8, 12), method="block")
    torch.testing.assert_close(tokens_of_patches(net, seen), whole)
    again = Backbone(net.architecture).double()
    again.load_state_dict(net.state_dict())
    with pytest.raises(ValueError, match="block needs a grid that is a multiple of 4 x 6 patches; got 5 x 6"):
        net.set_input_size((10, 12), method="block")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(2, 12), (8, 4), (4, 6)])
def test_every_method_serves_smaller_and_mixed_sizes(method, size):
    net = built(FF_ONLY, img_size=(4, 6))
    if method == "block" and size != (4, 6):
        return
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.set_input_size(size, method=method)
    assert net(torch.randn(3, 1, *size)).isfinite().all()
    Backbone(net.architecture).load_state_dict(net.state_dict())
    if size == (4, 6):
        torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_the_pseudo_inverse_is_what_the_definition_says():
    """Independent of the module: an input field on the resized image of any image gives what it gave on the image."""
    resize = TokenResize((3, 4), (7, 9), 1)
    ((out, field),) = resize.fields
    assert out.shape == (64, 13)
    torch.testing.assert_close(out.sum(dim=1), torch.ones(64, dtype=torch.float64))  # a constant stays one
    weight, image = torch.randn(5, 13, dtype=torch.float64), torch.randn(13, 2, dtype=torch.float64)
    torch.testing.assert_close(resize.read(weight) @ (out @ image), weight @ image)
    assert not torch.allclose(weight @ field.T, weight @ out.T)
    # By hand: 2 cells become 3; the middle one holds half of each.
    ((out, _),) = TokenResize((1, 2), (1, 3), 0).fields
    torch.testing.assert_close(out, torch.tensor([[1, 0], [0.5, 0.5], [0, 1]], dtype=torch.float64))


def test_toeplitz_is_one_matrix_of_offsets_and_moves_with_the_image():
    net = built((Branch("toeplitz", "patches"),), readout="mean", position="none", img_size=(4, 6))
    layer = net.blocks[0][0].mixer.mixer
    assert layer.weight.shape == (1, 1, 5, 5)
    units = torch.eye(6).reshape(6, 1, 2, 3)
    matrix = layer(units).reshape(6, 6) - layer.bias
    for i, (r1, c1) in enumerate(itertools.product(range(2), range(3))):
        for j, (r2, c2) in enumerate(itertools.product(range(2), range(3))):
            torch.testing.assert_close(matrix[i, j], layer.weight[0, 0, 2 + r1 - r2, 2 + c1 - c2])
    net.set_input_size((8, 12))
    assert net.architecture.block[0].kernel == 5
    Backbone(net.architecture).load_state_dict(net.state_dict())


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_a_call_at_another_size_is_that_of_the_resized_network_and_trains_the_old_weights(cell):
    net, seen = randomized(built(CELLS[cell], **IN_PLACE)), torch.randn(2, 1, 6, 8, dtype=torch.float64)
    resized = copy.deepcopy(net)
    resized.set_input_size((6, 8))
    before = net.architecture, {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.takes_other_sizes = True
    out = net(seen)
    torch.testing.assert_close(out, resized(seen), rtol=0, atol=0)
    assert net.architecture == before[0]
    torch.testing.assert_close(net.state_dict(), before[1], rtol=0, atol=0)
    # Gradients against finite differences along a random direction of all weights.
    out.square().sum().backward()
    names = [name for name, weight in net.named_parameters() if weight.grad is not None]
    assert len(names) == len(list(net.parameters()))
    directions = [torch.randn_like(weight) for weight in net.parameters()]
    slope = sum((weight.grad * step).sum() for weight, step in zip(net.parameters(), directions, strict=True))
    with torch.no_grad():
        values = []
        for sign in (1, -2):
            for weight, step in zip(net.parameters(), directions, strict=True):
                weight += sign * 1e-6 * step
            values.append(net(seen).square().sum())
    torch.testing.assert_close((values[0] - values[1]) / 2e-6, slope, rtol=1e-4, atol=1e-6)
    net.takes_other_sizes = False
    with pytest.raises(ValueError, match="this network takes images of 1 x 4 x 6"):
        net(seen)


def test_sizes_that_do_not_fit_are_refused():
    net = built(FF_ONLY)
    with pytest.raises(ValueError, match="is no multiple of the patch's"):
        net.set_input_size((17, 24))
    assert net.architecture.img_size == (8, 12)
    net = built((Branch("attention", "features"), Branch("linear", "patches")), readout="mean")
    with pytest.raises(ValueError, match="attention along features has weights for 4 x 6 patches"):
        net.set_input_size((16, 24))


def test_a_mixer_from_outside_says_what_goes_by_the_number_of_patches():
    ffvit.register_mixer(Mixer("echo", lambda args: torch.nn.Identity(), mixes_all=True))
    net = built((Branch("echo", "patches"),), readout="mean")
    with pytest.raises(ValueError, match="'echo' go by the number of patches is not known"):
        net.set_input_size((16, 24))
    net.set_input_size((16, 24), 4)
    assert net.architecture.grid == (4, 6)
    scale = {"weight": "values"}
    ffvit.register_mixer(Mixer("scale", lambda args: Scale(args.length), mixes_all=True, token_weights=scale))
    net = built((Branch("scale", "patches"),), readout="mean")
    net.set_input_size((16, 24))
    assert net.blocks[0][0].mixer.weight.shape == (96,)


class Scale(torch.nn.Module):
    def __init__(self, length: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(length))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight[:, None]
