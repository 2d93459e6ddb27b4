"""Maps of mixers' weights."""

import torch

from ffvit.config.architecture import Branch
from ffvit.insight.layers import layers_of
from ffvit.insight.token_maps import head_maps, hidden_unit_maps, matrix_maps
from insight_networks import small


def test_units_are_ordered_by_activation_times_output_norm():
    network = layers_of(small(Branch("feedforward", "patches", hidden=3), depth=1))
    layer = network.layers[0]
    layer.module.fc2.weight.data = torch.eye(12)[:, :3] * torch.tensor([1.0, 10.0, 2.0])
    maps = hidden_unit_maps(layer, torch.tensor([4.0, 1.0, 3.0]), 2)  # uses 4, 10, 6
    assert [each.label for each in maps.rows[0]] == ["unit 1 reads", "unit 2 reads"]
    torch.testing.assert_close(maps.rows[0][0].values, layer.module.fc1.weight[1])
    torch.testing.assert_close(maps.rows[1][1].values, 2 * torch.eye(12)[2])
    assert maps.note == "2 of 3 units, 80 % of use"


def test_a_row_of_each_matrix_is_what_the_patch_reads():
    """Against the Jacobian of the mixer itself, by one feature."""
    for mixer in ("linear", "random", "toeplitz"):
        network = layers_of(small(Branch(mixer, "patches"), depth=1))
        layer = network.layers[0]
        tokens = torch.randn(1, 12, 8, requires_grad=True)
        (slope,) = torch.autograd.grad(layer.module(tokens)[0, 5, 3], tokens)
        maps = matrix_maps(network, layer, [5])
        torch.testing.assert_close(maps.rows[0][0].values, slope[0, :, 3])


def test_mixers_without_a_matrix_have_no_maps():
    for mixer in ("pooling", "fourier", "identity"):
        network = layers_of(small(Branch(mixer, "patches"), depth=1))
        assert matrix_maps(network, network.layers[0], [5]) is None
    gate = layers_of(small(Branch("gmlp", "patches"), depth=1))
    torch.testing.assert_close(
        matrix_maps(gate, gate.layers[0], [7]).rows[0][0].values, gate.layers[0].module.gate.proj.weight[7]
    )


def test_heads_are_evenly_chosen():
    network = layers_of(small(Branch("attention", "patches", heads=4), depth=1))
    mean = torch.arange(6.0)[:, None, None].expand(6, 12, 12)
    maps = head_maps(network.layers[0], mean, [3, 5], 3)
    assert [each.label for each in maps.rows[1]] == ["head 1", "head 3", "head 6"]
    assert [float(each.values[0]) for each in maps.rows[0]] == [0, 2, 5]
    assert not maps.signed
