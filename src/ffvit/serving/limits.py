"""What a server grants: bytes, images, requests and time. What goes beyond is refused, each with its status."""

from __future__ import annotations

import math
import resource
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

MIB = 2**20

HEAD_BYTES = 64 * 2**10
"""A request line with its headers may not have more."""

HEAD_SECONDS = 10.0
"""A request's headers must be there after this time, and its body after this and its size at `BODY_RATE`."""

BODY_RATE = 32 * 2**10
"""Bytes per second: slower bodies are refused."""

ADDRESSES = 10_000
"""Addresses whose rate is remembered, the latest ones."""


class RefusedError(Exception):
    """A request is not answered as it was asked; becomes the HTTP status with the sentence.

    Args:
        status: Of HTTP.
        detail: What was wrong and what to do, in one sentence.
        headers: More headers of the response.
    """

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(status, detail)
        self.status, self.detail = status, detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass(frozen=True)
class Limits:
    """The limits of a server.

    Attributes:
        request_bytes: Of a request's body.
        files: Images in a request.
        queue: Images that are decoded, wait or are computed at one time.
        seconds: From the whole request to its answer.
        rate: Requests per second and address, None for any number. Ten seconds' worth may come at once.
        connections: Open at one time; leaves file descriptors for the rest of the process.
    """

    request_bytes: int = 32 * MIB
    files: int = 32
    queue: int = 256
    seconds: float = 30.0
    rate: float | None = None
    connections: int = field(default_factory=lambda: min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))

    @property
    def held_bytes(self) -> int:
        """Bytes of all requests in memory at one time."""
        return max(256 * MIB, 2 * self.request_bytes)


class Capacity:
    """What all requests together hold of the queue and of the memory.

    Args:
        limits: How much that may be.

    Attributes:
        images: In the queue now.
        held: Bytes held now.
        seconds_per_image: What the networks take for one, to tell clients when to come back.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.images = 0
        self.held = 0
        self.seconds_per_image = 0.0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """One request's share, given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.images -= share.images
            self.held -= share.held

    def busy(self) -> RefusedError:
        """The refusal of a request that finds the server full."""
        wait = max(1, math.ceil(self.images * self.seconds_per_image))
        return RefusedError(503, "the server is busy: try again later", retry_after=str(wait))


class Share:
    """What one request holds."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self.images = 0
        self.held = 0

    def take_images(self, count: int) -> None:
        """Take places in the queue.

        Raises:
            RefusedError: It is full.
        """
        if self.capacity.images + count > self.capacity.limits.queue:
            raise self.capacity.busy()
        self.capacity.images += count
        self.images += count

    def take_bytes(self, count: int) -> None:
        """Hold more bytes.

        Raises:
            RefusedError: The request has too many, or all requests together have.
        """
        most = self.capacity.limits.request_bytes
        if self.held + count > most:
            raise too_large(most)
        if self.capacity.held + count > self.capacity.limits.held_bytes:
            raise self.capacity.busy()
        self.capacity.held += count
        self.held += count


def too_large(most: int) -> RefusedError:
    """The refusal of a body beyond so many bytes."""
    return RefusedError(413, f"the request has more than {most / MIB:g} MiB, the limit of this server")


class Rates:
    """Requests per second of each address: a bucket of tokens for each.

    Args:
        rate: Tokens per second.
        clock: Seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.clock = rate, clock
        self.most = max(1.0, 10 * rate)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> None:
        """Count a request.

        Raises:
            RefusedError: The address has used up its share.
        """
        key, now = _network(address), self.clock()
        tokens, last = self._buckets.pop(key, (self.most, now))
        tokens = min(self.most, tokens + (now - last) * self.rate)
        allowed = tokens >= 1
        self._buckets[key] = (tokens - allowed, now)
        if len(self._buckets) > ADDRESSES:
            self._buckets.popitem(last=False)
        if not allowed:
            wait = max(1, math.ceil((1 - tokens) / self.rate))
            raise RefusedError(
                429,
                f"too many requests from this address: at most {self.rate:g} per second",
                retry_after=str(wait),
            )


def _network(address: str) -> str:
    """The address; of IPv6 the /64, of which one host has all addresses."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return address
