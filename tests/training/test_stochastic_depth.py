from __future__ import annotations

import pytest
import torch
from timm.layers import DropPath
from timm.models.mlp_mixer import MlpMixer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import ffvit
from ffvit.config.architecture import FF_ONLY
from ffvit.training.stochastic_depth import DropPathSampler

CPU = torch.device("cpu")
IMAGES = 4000


class Branches(nn.Module):
    """Residual branches without the rest: what each lets through of an image of ones."""

    def __init__(self, rates=(0.1, 0.4), calls: int = 1, **kwargs) -> None:
        super().__init__()
        self.paths = nn.ModuleList(DropPath(rate, **kwargs) for rate in rates)
        self.calls = calls

    def forward(self, x):
        return torch.stack([path(x) for path in self.paths for _ in range(self.calls)])


def let_through(network: nn.Module, seed: int = 0, positions=range(IMAGES)) -> torch.Tensor:
    draws = DropPathSampler(network, IMAGES)
    draws.make(seed, positions, CPU)
    return network(torch.ones(len(positions), 2, 3))


def ours() -> nn.Module:
    small = ffvit.Architecture(width=12, depth=3, block=FF_ONLY, img_size=(16, 8), patch=(4, 4), num_classes=5)
    return ffvit.create_model(small, drop_path=0.5)


def timms_vit() -> nn.Module:
    return VisionTransformer((16, 8), 4, num_classes=5, embed_dim=12, depth=3, num_heads=3, drop_path_rate=0.5)


def timms_mixer() -> nn.Module:
    """Its block calls one DropPath for both of its branches."""
    network = MlpMixer(5, (16, 8), patch_size=4, num_blocks=3, embed_dim=12, drop_path_rate=0.5)
    nn.init.normal_(network.head.weight)  # timm's are 0
    return network


NETWORKS = pytest.mark.parametrize("build", [ours, timms_vit, timms_mixer])


@pytest.mark.parametrize("scale", [True, False])
def test_keeps_and_scales_as_timm_does(scale):
    torch.manual_seed(0)
    theirs = Branches(scale_by_keep=scale)(torch.ones(IMAGES, 2, 3))
    mine = let_through(Branches(scale_by_keep=scale))
    for its, own in zip(theirs, mine, strict=True):
        assert own.unique().tolist() == its.unique().tolist()
        # Of 4,000 images four standard errors are 3 % of the share kept, and two such shares are compared.
        torch.testing.assert_close(own.mean(), its.mean(), rtol=0.06, atol=0)


def test_an_image_is_dropped_whole():
    each = let_through(Branches()).flatten(2)
    assert torch.equal(each, each[:, :, :1].expand_as(each))


def test_draws_belong_to_the_seed():
    assert torch.equal(let_through(Branches(), seed=1), let_through(Branches(), seed=1))
    assert not torch.equal(let_through(Branches(), seed=1), let_through(Branches(), seed=2))


@pytest.mark.parametrize("calls", [1, 2, 6])
def test_branches_are_independent(calls):
    """Also those that share a module, as in timm's Mixer, and up to six in its CoaT."""
    kept = (let_through(Branches((0.5, 0.5), calls)) > 0).float().flatten(2)[..., 0]
    # A correlation of 4,000 independent draws has a standard error of 0.016.
    assert (torch.corrcoef(kept) - torch.eye(2 * calls)).abs().max() < 0.08


def test_a_network_keeps_the_generators_of_the_rest():
    before = torch.get_rng_state()
    let_through(Branches())
    assert torch.equal(torch.get_rng_state(), before)


@NETWORKS
def test_an_image_is_answered_the_same_in_whatever_part_it_is(build):
    torch.manual_seed(0)
    network, images = build().double().train(), torch.randn(12, 3, 16, 8, dtype=torch.float64)
    draws = DropPathSampler(network, 12)
    draws.make(7, range(12), CPU)
    whole = network(images)
    for part in ([0, 11, 3, 8], [7], [10, 1, 2, 4, 5, 6, 9]):
        draws.make(7, part, CPU)
        torch.testing.assert_close(network(images[part]), whole[part])
    draws.make(8, range(12), CPU)
    assert not torch.allclose(network(images), whole)


@NETWORKS
def test_the_branches_of_a_network_are_independent(build):
    """Over images that are all alike, answers tell branches dropped together from branches dropped alone."""
    torch.manual_seed(0)
    network = build().train()
    draws = DropPathSampler(network, 1000)
    draws.make(0, range(1000), CPU)
    answers = network(torch.randn(1, 3, 16, 8).expand(1000, -1, -1, -1))
    # Two blocks of two branches (the first block's rate may be 0) have 2^4 outcomes; 2^2 or, in three, 2^3 if tied.
    assert len(answers.round(decimals=4).unique(dim=0)) >= 16


@NETWORKS
def test_what_is_computed_once_more_for_the_way_back_is_the_same(build):
    torch.manual_seed(0)
    network, images = build().double().train(), torch.randn(12, 3, 16, 8, dtype=torch.float64)
    draws = DropPathSampler(network, 12)
    gradients = []
    for checkpointing in (False, True):
        network.set_grad_checkpointing(checkpointing)
        network.zero_grad()
        draws.make(7, range(12), CPU)
        network(images).square().sum().backward()
        gradients.append([each.grad.clone() for each in network.parameters()])
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)


@NETWORKS
def test_in_evaluation_nothing_is_dropped(build):
    torch.manual_seed(0)
    network, images = build().eval(), torch.randn(4, 3, 16, 8)
    before = network(images)
    DropPathSampler(network, 4).make(0, range(4), CPU)
    assert torch.equal(network(images), before)


def test_without_a_rate_there_is_nothing_to_draw():
    network = ffvit.create_model("ff_micro_patch2_8")
    draws = DropPathSampler(network, 4)
    draws.make(0, range(4), CPU)
    assert not draws.branches
    assert any(type(each) is DropPath for each in network.modules())
