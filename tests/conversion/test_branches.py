"""Another branch in the place of attention: everything else of the network stays."""

import pytest
import timm
import torch

from ffvit.config.architecture import Architecture, Branch, transformer
from ffvit.conversion.branches import (
    Nothing,
    Place,
    as_backbone,
    attention_places,
    mixers_in,
    substitute,
    visit_mixers,
    with_branch,
)
from ffvit.errors import UserError
from ffvit.models.backbone import Backbone
from ffvit.models.mixers import StaticAttention


def vit(readout: str = "mean", **fields: object) -> Backbone:
    torch.manual_seed(3)
    network = Backbone(
        Architecture(
            width=12,
            depth=3,
            block=transformer(heads=3),
            img_size=8,
            patch=2,
            in_chans=1,
            num_classes=5,
            readout=readout,
            position="vectors",
            init="pytorch",
            **fields,
        )
    )
    network.class_names = tuple("abcde")
    return network.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_removed_branch_adds_nothing_and_all_other_weights_stay(images):
    network = vit()
    removed = with_branch(network, Place(1, 0), None)
    assert [len(block) for block in removed.blocks] == [2, 1, 2]
    with mixers_in(network, [(Place(1, 0), Nothing())]):
        expected = network(images)
    torch.testing.assert_close(removed(images), expected, rtol=0, atol=0)
    assert not torch.equal(network(images), expected)  # it has its own mixer again
    assert removed.class_names == tuple("abcde")


@torch.no_grad()
@pytest.mark.parametrize("kind", ["static", "linear", "pooling", "attention"])
def test_the_mixer_that_is_given_computes_there_behind_the_norm_of_before(kind, images):
    network, place = vit(), Place(2, 0)
    torch.nn.init.normal_(network.blocks[2][0].norm.weight)
    branch = substitute(kind, network.architecture.block[0])
    fresh = with_branch(network, place, branch)
    mixer = fresh.blocks[2][0].mixer
    with mixers_in(network, [(place, mixer)]):
        torch.testing.assert_close(with_branch(network, place, branch, mixer)(images), network(images), rtol=0, atol=0)
    places = [Place(block, 0) for block in range(2 if kind != "attention" else 3)]
    assert attention_places(fresh) == places
    again = Backbone(Architecture.from_yaml(fresh.architecture.to_yaml()))
    again.load_state_dict(fresh.state_dict())
    torch.testing.assert_close(again.eval()(images), fresh(images), rtol=0, atol=0)


@torch.no_grad()
def test_what_enters_and_leaves_each_mixer_is_shown(images):
    network, seen = vit(), {}
    visit_mixers(
        network, attention_places(network), [images[:1], images[1:]], lambda *given: seen.setdefault(given[0], given)
    )
    assert sorted(seen) == [Place(0, 0), Place(1, 0), Place(2, 0)]
    _, x, y = seen[Place(1, 0)]
    torch.testing.assert_close(network.blocks[1][0].mixer(x), y)
    torch.testing.assert_close(x, network.blocks[1][0].norm(network.blocks[0](network.embed(images[:1]))))
    assert not network.blocks[1][0].mixer._forward_hooks


@torch.no_grad()
def test_a_vit_of_timms_becomes_ours_with_the_same_logits():
    torch.manual_seed(0)
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, num_classes=7, depth=2, embed_dim=24, num_heads=4
    ).eval()  # fmt: skip
    torch.nn.init.normal_(theirs.head.weight)
    ours = as_backbone(theirs)
    image = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(image), theirs(image))
    assert ours.architecture.block[0].heads == 4


def test_networks_that_cannot_be_converted_are_refused():
    with pytest.raises(UserError, match="no attention over patches"):
        as_backbone(with_branches_of_pooling())
    with pytest.raises(UserError, match="neither one of ffvit's networks nor a plain ViT"):
        as_backbone(timm.create_model("resnet10t"))
    with pytest.raises(UserError, match="neither one of ffvit's networks nor a plain ViT"):
        as_backbone(timm.create_model("deit_tiny_distilled_patch16_224"))
    other = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, act_layer=torch.nn.ReLU)
    with pytest.raises(UserError, match="this ViT computes something that ffvit's does not: it cannot be converted"):
        as_backbone(other)
    broken = vit()
    broken.head.bias.data[0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        as_backbone(broken)


def test_the_last_attention_before_a_class_token_stays():
    network = vit("class_token")
    for block in (0, 2):
        network = with_branch(network, Place(block, 0), None)
    with pytest.raises(UserError, match=r"block 1 cannot be changed: .*class token"):
        with_branch(network, Place(1, 0), None)


def with_branches_of_pooling() -> Backbone:
    block = (Branch("pooling", "patches"), Branch("feedforward", "features"))
    return Backbone(Architecture(width=12, depth=1, block=block, img_size=8, patch=2, readout="mean"))


@torch.no_grad()
def test_static_attention_is_attention_with_the_maps_it_is_given():
    """Independent of the module: PyTorch's own attention, told by a mask of logarithms what its maps are."""
    torch.manual_seed(0)
    mixer = StaticAttention(length=5, width=6, heads=2, dropout=0.0)
    mixer.maps.copy_(torch.rand(2, 5, 5).softmax(dim=-1))
    x = torch.randn(3, 5, 6)
    values = mixer.value(x).view(3, 5, 2, 3).transpose(1, 2)
    silent = torch.zeros_like(values)
    mixed = torch.nn.functional.scaled_dot_product_attention(silent, silent, values, attn_mask=mixer.maps.log())
    torch.testing.assert_close(mixer(x), mixer.proj(mixed.transpose(1, 2).reshape(3, 5, 6)))
