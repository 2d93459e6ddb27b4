"""The arithmetic of many GPUs: known limits, and what must hold whatever the numbers."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from benchmarks.cluster import Cluster, Load, memory_per_gpu, overlapped_time, step_time, training_hours
from hypothesis import given
from hypothesis import strategies as st

from ffvit import UserError

CLUSTER = Cluster(8, 4.8e12, 450e9, 50e9, 8.4e-6, 4e-6, 14e-6, 8000.0)
LOAD = Load(62_000_000, 12, 2.7e-4, 5e-3, 80e6, 10e6, 124e6)
AT_ONCE = replace(CLUSTER, inner=inf, outer=inf, call=0.0, inner_hop=0.0, outer_hop=0.0)

GPUS = st.sampled_from([1, 2, 3, 4, 8, 16, 24, 64, 512])
STRATEGIES = st.sampled_from(["ddp", "fsdp"])
POSITIVE = st.floats(1e-6, 1e6)
CLUSTERS = st.builds(
    Cluster,
    gpus=st.just(8),
    memory_speed=st.floats(1e11, 1e13),
    inner=st.floats(1e9, 1e12),
    outer=st.floats(1e8, 1e11),
    call=st.floats(0, 1e-4),
    inner_hop=st.floats(0, 1e-4),
    outer_hop=st.floats(0, 1e-4),
    loading=st.floats(10, 1e5),
)
LOADS = st.builds(
    Load,
    parameters=st.integers(1, 10**10),
    blocks=st.integers(1, 100),
    seconds=st.floats(1e-6, 1.0),
    least=st.floats(0, 0.1),
    kept=st.floats(1e3, 1e9),
    kept_checkpointed=st.floats(1e2, 1e3),
    copies=st.floats(0, 1e9),
)


def test_a_ring_in_one_machine_by_hand():
    quiet = replace(CLUSTER, call=0.0, inner_hop=0.0)
    assert quiet.all_reduce(450e9, 8) == pytest.approx(2 * 7 / 8)
    assert quiet.gather(450e9, 4) == pytest.approx(3 / 4)


def test_over_machines_all_network_cards_carry_their_share():
    quiet = replace(CLUSTER, call=0.0, inner_hop=0.0, outer_hop=0.0)
    assert quiet.all_reduce(400e9, 64) == pytest.approx(2 * 63 / 64)  # 8 cards of 50 GB/s


def test_sums_hop_along_a_tree_and_gathering_along_a_ring():
    assert CLUSTER.all_reduce(0.0, 512) == pytest.approx(8.4e-6 + 2 * (7 * 4e-6 + 6 * 14e-6))
    assert CLUSTER.gather(0.0, 512) == pytest.approx(8.4e-6 + 448 * 4e-6 + 63 * 14e-6)


def test_a_step_by_hand():
    its = step_time(LOAD, CLUSTER, 1, 128.0)
    assert its.compute == pytest.approx(128 * 2.7e-4)
    assert its.update == pytest.approx(9 * 248e6 / 4.8e12)
    assert its.loading == pytest.approx(128 / 8000)
    assert its.seconds == pytest.approx(its.compute + its.update)


def test_memory_by_hand():
    size = 4 * 62_000_000
    assert memory_per_gpu(LOAD, 1, 10) == pytest.approx(5 * size + 10 * 80e6 + 124e6)
    assert memory_per_gpu(LOAD, 8, 10) == pytest.approx(6 * size + 10 * 80e6 + 124e6)
    assert memory_per_gpu(LOAD, 8, 10, "fsdp", True) == pytest.approx(5 * size / 8 + size / 4 + 10 * 10e6 + 124e6 / 12)


def test_gpus_that_fill_no_machine_are_refused():
    with pytest.raises(UserError, match="12 GPUs do not fill whole machines of 8: give a multiple, or fewer"):
        step_time(LOAD, CLUSTER, 12, 1.0)


@given(LOADS, CLUSTERS, POSITIVE, STRATEGIES)
def test_one_gpu_communicates_nothing(load, cluster, images, strategy):
    its = step_time(load, cluster, 1, images, strategy)
    assert its.communication == 0
    assert its.device == pytest.approx(its.compute + its.update)


@given(LOADS, GPUS, POSITIVE, STRATEGIES)
def test_links_without_limits_leave_the_computing_alone(load, gpus, images, strategy):
    its = step_time(load, AT_ONCE, gpus, images, strategy)
    assert its.communication == 0
    assert its.device == pytest.approx(its.compute + its.update)


@given(LOADS, CLUSTERS, GPUS, POSITIVE, STRATEGIES)
def test_a_step_lies_between_perfect_overlap_and_none(load, cluster, gpus, images, strategy):
    its = step_time(load, cluster, gpus, images, strategy)
    assert its.device >= max(its.compute, its.communication) * (1 - 1e-9)
    assert its.device <= (its.compute + its.communication + its.update) * (1 + 1e-9)


@given(LOADS, CLUSTERS, GPUS, POSITIVE, STRATEGIES, st.sampled_from(["inner", "outer", "memory_speed", "loading"]))
def test_what_is_twice_as_fast_never_makes_a_step_longer(load, cluster, gpus, images, strategy, part):
    faster = replace(cluster, **{part: 2 * getattr(cluster, part)})
    slow, fast = (step_time(load, each, gpus, images, strategy).seconds for each in (cluster, faster))
    assert fast <= slow * (1 + 1e-9)


@given(LOADS, CLUSTERS, st.sampled_from([16, 32, 64, 256]), st.integers(1, 512))
def test_over_machines_twice_the_gpus_and_the_batch_are_never_slower_in_all(load, cluster, gpus, images):
    few = training_hours(load, cluster, gpus, gpus * images, 1e6)
    many = training_hours(load, cluster, 2 * gpus, 2 * gpus * images, 1e6)
    assert few / 2 * (1 - 1e-9) <= many <= few * (1 + 1e-9)


@given(LOADS, GPUS, st.integers(1, 1024), STRATEGIES)
def test_sharding_and_checkpointing_never_need_more_memory(load, gpus, images, strategy):
    assert memory_per_gpu(load, gpus, images, "fsdp") <= memory_per_gpu(load, gpus, images, "ddp") * (1 + 1e-9)
    assert memory_per_gpu(load, gpus, images, strategy, True) <= memory_per_gpu(load, gpus, images, strategy) * (
        1 + 1e-9
    )


@given(POSITIVE, POSITIVE, st.integers(1, 1000))
def test_overlapping_is_at_best_the_longer_and_at_worst_the_sum(work, communication, pieces):
    assert max(work, communication) * (1 - 1e-9) <= overlapped_time(work, communication, pieces)
    assert overlapped_time(work, communication, pieces) <= (work + communication) * (1 + 1e-9)
