from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def costs_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asserts a time, so a study's costs need not be measured as often as is fair to all arms."""
    monkeypatch.setattr("ffvit.study.costs.ROUNDS", 1)
