from __future__ import annotations

import pytest

from ffvit.serving.limits import ADDRESSES, Capacity, Limits, Rates, RefusedError


def test_an_address_has_ten_seconds_of_its_rate_at_once_and_then_the_rate():
    now = 0.0
    rates = Rates(2.0, lambda: now)
    for _ in range(20):
        rates.take("10.0.0.1")
    with pytest.raises(RefusedError) as refused:
        rates.take("10.0.0.1")
    assert (refused.value.status, refused.value.headers) == (429, {"retry-after": "1"})
    rates.take("10.0.0.2")
    now = 1.0
    rates.take("10.0.0.1")
    rates.take("10.0.0.1")
    with pytest.raises(RefusedError):
        rates.take("10.0.0.1")


def test_a_host_with_many_ipv6_addresses_is_one():
    rates = Rates(0.1, lambda: 0.0)
    rates.take("2001:db8::1")
    with pytest.raises(RefusedError):
        rates.take("2001:db8::2")
    rates.take("2001:db8:0:1::1")


def test_the_addresses_that_are_remembered_are_bounded():
    rates = Rates(1.0, lambda: 0.0)
    for number in range(ADDRESSES + 5):
        rates.take(f"host{number}")
    assert len(rates._buckets) == ADDRESSES


def test_shares_are_given_back_and_bounded():
    capacity = Capacity(Limits(request_bytes=2**20, queue=3))
    with capacity.share() as share:
        share.take_images(2)
        share.take_bytes(2**20)
        with pytest.raises(RefusedError, match="has more than 1 MiB") as refused:
            share.take_bytes(1)
        assert refused.value.status == 413
        with capacity.share() as other, pytest.raises(RefusedError) as refused:
            other.take_images(2)
        assert (refused.value.status, refused.value.headers) == (503, {"retry-after": "1"})
    assert (capacity.images, capacity.held) == (0, 0)


def test_all_requests_together_hold_a_bounded_memory():
    capacity = Capacity(Limits(request_bytes=2**20))
    capacity.held = capacity.limits.held_bytes
    with capacity.share() as share, pytest.raises(RefusedError) as refused:
        share.take_bytes(1)
    assert refused.value.status == 503
