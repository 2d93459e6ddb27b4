from __future__ import annotations

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from ffvit.training.ema import EMA


def network() -> nn.Module:
    """With weights, buffers that move (and one that counts), and a part that is frozen."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 5))
    net[0].bias.requires_grad_(False)
    return net


def a_step_further(net: nn.Module) -> None:
    net.train()(torch.randn(8, 4))  # moves the buffers
    with torch.no_grad():
        for each in net.parameters():
            each.add_(torch.randn_like(each))


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.99996])
def test_is_timms(decay):
    net = network()
    mine, theirs = EMA(net, decay, warmup=False), ModelEmaV3(net, decay)
    for step in range(7):
        a_step_further(net)
        mine.update(net, step)
        theirs.update(net)
    expected = theirs.module.state_dict()
    assert expected["1.num_batches_tracked"] == 7
    for name, each in mine.network.state_dict().items():
        torch.testing.assert_close(each, expected[name], msg=name)


def test_on_paper():
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 8.0)
    average = EMA(net, 0.75, warmup=False)
    for step, weight in enumerate((0.0, 12.0)):
        nn.init.constant_(net.weight, weight)
        average.update(net, step)
    assert average.network.weight.item() == 0.75 * (0.75 * 8 + 0.25 * 0) + 0.25 * 12


def test_warmed_up_on_paper():
    """Steps 0, 1 and 8 keep 1/10, 2/11 and 9/18; later ones never more than the decay."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 8.0)
    average = EMA(net, 0.75, warmup=True)
    expected = 8.0
    for step, keeps, weight in ((0, 1 / 10, 1.0), (1, 2 / 11, 5.0), (8, 1 / 2, 0.0), (26, 0.75, 3.0), (900, 0.75, 2.0)):
        nn.init.constant_(net.weight, weight)
        average.update(net, step)
        expected = keeps * expected + (1 - keeps) * weight
        assert average.network.weight.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("warmup", "start_left"), [(True, 0.0), (False, 0.923)])
def test_warmed_up_a_short_run_forgets_its_start(warmup, start_left):
    """400 steps at the decay of `small`."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.ones_(net.weight)
    average = EMA(net, 0.9998, warmup)
    nn.init.zeros_(net.weight)
    for step in range(400):
        average.update(net, step)
    assert average.network.weight.item() == pytest.approx(start_left, abs=1e-3)


def test_starts_as_a_copy_that_goes_its_own_way():
    net = network()
    average = EMA(net, 0.9, warmup=False)
    before = {name: each.clone() for name, each in net.state_dict().items()}
    a_step_further(net)
    for name, each in average.network.state_dict().items():
        assert torch.equal(each, before[name])


def test_is_never_trained():
    net = network().train()
    average = EMA(net, 0.9, warmup=False)
    average.update(net, 0)
    assert not any(each.requires_grad for each in average.network.parameters())
    assert not average.network.training
    assert [each.requires_grad for each in net.parameters()] == [True, False, True, True, True, True]
    assert net.training


def test_a_weight_in_two_places_moves_once():
    """timm's moves it twice, once for each of its names."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    net[1].weight = net[0].weight
    nn.init.constant_(net[0].weight, 8.0)
    average = EMA(net, 0.5, warmup=False)
    nn.init.constant_(net[0].weight, 0.0)
    average.update(net, 0)
    assert average.network[0].weight.item() == average.network[1].weight.item() == 4.0
