from __future__ import annotations

import pytest
import torch

from ffvit.profiling import hardware_peak
from ffvit.profiling.hardware_peak import (
    HardwarePeak,
    MatmulRate,
    best_peak,
    machine_name,
    measure_peak,
    memory_bandwidth,
    slow_precision_reason,
)

CPU = torch.device("cpu")


def test_the_roof_is_the_lower_of_the_two_limits():
    peak = HardwarePeak({"fp32": MatmulRate(1024, 100.0), "bf16": MatmulRate(1024, 400.0)}, 10.0)
    assert peak.at(2.0, "fp32") == 20.0
    assert peak.at(10.0, "fp32") == peak.at(1000.0, "fp32") == 100.0
    assert peak.at(20.0, "bf16") == 200.0


def test_the_fastest_size_is_found(monkeypatch):
    rates = {512: 1.0, 768: 2.0, 1024: 3.0, 2048: 2.0}
    monkeypatch.setattr(hardware_peak, "matmul_rate", lambda size, *_: rates[size])
    monkeypatch.setattr(hardware_peak, "memory_bandwidth", lambda device: 7.0)
    assert measure_peak(["fp32"], CPU) == HardwarePeak({"fp32": MatmulRate(1024, 3.0)}, 0.0)
    assert measure_peak(["fp32"], CPU, memory=True).bandwidth == 7.0


def test_the_best_of_several_measurements_is_taken_for_each_precision_and_for_memory():
    one = HardwarePeak({"fp32": MatmulRate(1024, 3.0), "bf16": MatmulRate(2048, 8.0)}, 5.0)
    two = HardwarePeak({"fp32": MatmulRate(2048, 4.0), "bf16": MatmulRate(1024, 7.0)}, 6.0)
    assert best_peak([one, two]) == HardwarePeak({"fp32": two.matmuls["fp32"], "bf16": one.matmuls["bf16"]}, 6.0)


def test_what_is_measured_is_there(monkeypatch):
    monkeypatch.setattr(hardware_peak, "TRIAD", 2**12)
    assert memory_bandwidth(CPU, seconds=0.01) > 0
    assert hardware_peak.matmul_rate(16, "bf16", CPU, seconds=0.01) > 0
    assert "threads" in machine_name(CPU)


def test_a_slow_precision_is_said_to_be(monkeypatch):
    monkeypatch.setattr(hardware_peak, "has_bf16_matmul", lambda: False)
    monkeypatch.setattr(
        hardware_peak, "matmul_rate", lambda size, precision, *_: {"fp32": 30.0, "bf16": 10.0}[precision]
    )
    assert (
        slow_precision_reason("bf16", CPU)
        == "this machine has no fast bf16 (a matrix product takes 3 times as long as in fp32)"
    )
    assert slow_precision_reason("fp32", CPU) is None
    monkeypatch.setattr(
        hardware_peak, "matmul_rate", lambda size, precision, *_: {"fp32": 10.0, "bf16": 30.0}[precision]
    )
    assert slow_precision_reason("bf16", CPU) is None


def test_a_processor_with_units_for_bf16_is_not_timed(monkeypatch):
    monkeypatch.setattr(hardware_peak, "has_bf16_matmul", lambda: True)
    monkeypatch.setattr(
        hardware_peak, "matmul_rate", lambda *_: pytest.fail("timed")
    )  # a busy machine may say anything
    assert slow_precision_reason("bf16", CPU) is None
