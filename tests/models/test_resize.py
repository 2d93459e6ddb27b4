from __future__ import annotations

import pytest
import timm
import torch
from torch.nn import functional

import ffvit
from ffvit import Architecture, Branch, Mixer
from ffvit.config.architecture import FF_ONLY, transformer
from ffvit.models.backbone import Backbone
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
def test_weights_over_patches_keep_the_grid_and_see_an_enlarged_image_alike(position):
    net = built(FF_ONLY, position=position)
    seen = torch.randn(3, 1, 8, 12)
    before = net(seen)
    net.set_input_size((16, 24))
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


def test_sizes_that_do_not_fit_are_refused():
    net = built(FF_ONLY)
    with pytest.raises(
        ValueError, match="tied to 4 x 6 patches, and images of 16 x 24 in patches of 2 x 2 have 8 x 12"
    ):
        net.set_input_size((16, 24), 2)
    with pytest.raises(ValueError, match="is no multiple of the patch's"):
        net.set_input_size((17, 24))
    assert net.architecture.img_size == (8, 12)


def test_what_anothers_mixer_depends_on_is_not_known():
    ffvit.register_mixer(Mixer("echo", lambda args: torch.nn.Identity(), mixes_all=True))
    net = built((Branch("echo", "patches"),), readout="mean")
    net.set_input_size((16, 24))
    assert net.architecture.grid == (4, 6)
