from __future__ import annotations

import pytest
import torch
from torch import nn

import ffvit
from ffvit.config import recipe
from ffvit.training.optimizer import build_optimizer


def stepped(name: str, foreach: bool) -> nn.Module:
    torch.manual_seed(0)
    network = ffvit.create_model("ff_micro_patch2_8")
    optimizer = build_optimizer(network, recipe.Recipe(optimizer=name))
    assert all(group["foreach"] for group in optimizer.param_groups)
    for group in optimizer.param_groups:
        group["foreach"] = foreach
    for step in range(1, 21):
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter) * 10 ** -(step % 6)
        optimizer.step()
    return network


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "nadamw", "rmsprop"])
def test_all_tensors_at_once_step_to_the_bits_of_one_by_one(name):
    one, other = stepped(name, foreach=False), stepped(name, foreach=True)
    assert all(torch.equal(*pair) for pair in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(("name", "fused"), [("adamw", True), ("adam", True), ("nadamw", False)])
def test_large_networks_step_in_one_piece_to_the_same(name, fused):
    torch.manual_seed(0)
    start = torch.randn(1100, 1000)
    steps = {}
    for allowed in (True, False):
        network = nn.Linear(1000, 1100)
        network.weight.data.copy_(start)
        optimizer = build_optimizer(network, recipe.Recipe(optimizer=name))
        assert all(group.get("fused") is (True if fused else None) for group in optimizer.param_groups if fused)
        for group in optimizer.param_groups:
            if not allowed:
                group.update(fused=False, foreach=True) if fused else group.update(foreach=True)
        for step in range(1, 6):
            network.weight.grad, network.bias.grad = start.roll(step), torch.ones(1100)
            optimizer.step()
        steps[allowed] = network.weight
    torch.testing.assert_close(steps[True], steps[False], rtol=1e-6, atol=1e-7)
