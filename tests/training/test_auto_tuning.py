from __future__ import annotations

import pytest
import torch
from lightning_fabric import Fabric

import ffvit
from ffvit.config.hardware import Hardware
from ffvit.config.recipe import named_recipe
from ffvit.profiling.memory import activation_bytes
from ffvit.training import auto_tuning

CPU, GPU = torch.device("cpu"), torch.device("cuda")
TINY = "ff_tiny_patch16_224"


def compiled(device=GPU, compile="auto", images=1_281_167, network=TINY, **changes) -> bool:  # noqa: A002
    recipe, hardware = named_recipe("deit").replace(**changes), Hardware(compile=compile)
    return auto_tuning.should_compile(hardware, ffvit.create_model(network), recipe, images, device)


@pytest.fixture(autouse=True)
def _with_a_compiler(monkeypatch):
    monkeypatch.setattr(auto_tuning, "compile_unavailable_reason", lambda _: None)


def test_long_runs_are_compiled_by_themselves():
    assert compiled()
    assert not compiled(images=2_000)
    assert compiled(images=2_000, device=CPU)
    assert not compiled(images=50, device=CPU)
    assert not compiled(compile="never")
    assert compiled(images=2_000, compile="always")
    assert compiled(minutes=30.0)
    assert not compiled(minutes=2.0)


def test_networks_without_equal_blocks_only_when_asked():
    assert not compiled(network="resnet18")
    assert compiled(network="resnet18", compile="always")


def test_what_cannot_be_compiled_is_refused(monkeypatch):
    monkeypatch.setattr(auto_tuning, "compile_unavailable_reason", lambda _: "there is no C++ compiler")
    assert not compiled(device=CPU)
    with pytest.raises(ffvit.UserError, match="--compile always: there is no C\\+\\+ compiler"):
        compiled(device=CPU, compile="always")


@pytest.mark.parametrize("name", [TINY, "deit_tiny_patch16_224"])
def test_blocks_are_computed_again_only_where_memory_is_short(name, monkeypatch):
    network, fabric = ffvit.create_model(name, image=32), Fabric(accelerator="cpu", devices=1)
    assert auto_tuning.should_recompute(network, 64, fabric) is None
    assert not network.grad_checkpointing
    monkeypatch.setattr(auto_tuning, "free_memory", lambda _: 100 * 2**20)
    assert auto_tuning.should_recompute(network, 64, fabric) == "blocks"
    assert network.grad_checkpointing
    assert network.training


def test_where_it_is_enough_only_the_gelus_are(monkeypatch):
    """They are two fifths of what an FF-only network keeps."""
    network, fabric = ffvit.create_model(TINY, image=32), Fabric(accelerator="cpu", devices=1)
    state, all_of_it = (auto_tuning._needed(network, batch, fabric) for batch in (0, 64))
    monkeypatch.setattr(auto_tuning, "free_memory", lambda _: (state + 0.75 * (all_of_it - state)) / 0.8)
    assert auto_tuning.should_recompute(network, 64, fabric) == "GELUs"
    assert not network.grad_checkpointing
    assert auto_tuning._needed(network, 64, fabric) - state < 0.65 * (all_of_it - state)


def test_weights_in_half_precision_are_counted_once_and_not_for_each_image():
    network, fabric = ffvit.create_model(TINY, image=32), Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    images = torch.zeros(16, 3, 32, 32)
    with fabric.autocast():
        kept = activation_bytes(lambda: network(images), network)
    state = 5 * sum(each.nbytes for each in network.parameters())
    assert auto_tuning._needed(network, 16, fabric) - state == pytest.approx(kept, rel=0.01)


def test_what_is_freed_is_kept_only_where_there_is_plenty(monkeypatch):
    network, fabric = ffvit.create_model(TINY, image=32), Fabric(accelerator="cpu", devices=1)
    assert auto_tuning.has_free_memory(network, 64, fabric)
    monkeypatch.setattr(auto_tuning, "free_memory", lambda _: 1.9 * auto_tuning._needed(network, 64, fabric))
    assert not auto_tuning.has_free_memory(network, 64, fabric)


def test_as_many_processes_load_as_the_network_needs(monkeypatch):
    network, fabric = ffvit.create_model(TINY, image=32), Fabric(accelerator="cpu", devices=1)
    monkeypatch.setattr(auto_tuning, "_forward", lambda *_: 0.001)
    needed = []
    for seconds in (0.0001, 0.003, 0.0045, 1.0):
        monkeypatch.setattr(auto_tuning, "seconds_per_image", lambda _, seconds=seconds: seconds)
        needed.append(auto_tuning.loading_workers(None, network, 8, fabric, 12))  # type: ignore[arg-type]
    assert needed == [1, 2, 3, 12]
    assert [auto_tuning.loading_workers(None, network, 8, fabric, few) for few in (0, 1)] == [0, 1]  # type: ignore[arg-type]


def test_timing_the_network_leaves_no_trace():
    network, fabric = ffvit.create_model(TINY, image=32), Fabric(accelerator="cpu", devices=1)
    threads, draws = torch.get_num_threads(), torch.get_rng_state()
    assert auto_tuning._forward(network, 2, fabric) > 0
    assert network.training
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), draws)


def test_a_network_that_cannot_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(auto_tuning, "free_memory", lambda _: 1)
    fabric, network = Fabric(accelerator="cpu", devices=1), ffvit.create_model(TINY, image=32)

    def refused(enable: bool = True) -> None:
        raise AssertionError("gradient checkpointing not supported")

    network.set_grad_checkpointing = refused
    assert auto_tuning.should_recompute(network, 8, fabric) is None


def test_statistics_of_batches_are_not_taken_twice(monkeypatch):
    monkeypatch.setattr(auto_tuning, "free_memory", lambda _: 1)
    network = ffvit.create_model("resnet18")
    assert auto_tuning.should_recompute(network, 8, Fabric(accelerator="cpu", devices=1)) is None
    assert not network.grad_checkpointing
