"""What a server counts, for Prometheus, and its log: one JSON object a line."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from ffvit.serving.limits import Capacity

LOG = logging.getLogger("ffvit.serve")

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server.

    Args:
        capacity: What is in use.

    Attributes:
        registry: All of them, to be read.
    """

    def __init__(self, capacity: Capacity) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("ffvit_requests", "Requests answered.", ("path", "status"), registry=registry)
        self.seconds = Histogram(
            "ffvit_request_seconds", "From headers to response.", ("path",), registry=registry, buckets=SECONDS
        )
        self.images = Counter("ffvit_images", "Images computed.", ("model",), registry=registry)
        self.batch = Histogram(
            "ffvit_batch_images", "Images in a batch.", ("model",), registry=registry, buckets=IMAGES
        )
        self.batch_seconds = Histogram(
            "ffvit_batch_seconds", "Time of a batch.", ("model",), registry=registry, buckets=SECONDS
        )
        queue = Gauge("ffvit_queue_images", "Images that are decoded, wait or are computed.", registry=registry)
        queue.set_function(lambda: capacity.images)
        held = Gauge("ffvit_held_bytes", "Bytes of requests in memory.", registry=registry)
        held.set_function(lambda: capacity.held)

    def computed(self, model: str, images: int, seconds: float) -> None:
        """Count a batch."""
        self.images.labels(model).inc(images)
        self.batch.labels(model).observe(images)
        self.batch_seconds.labels(model).observe(seconds)


class JsonLines(logging.Formatter):
    """A record as one JSON object in ASCII, in which nothing from outside can begin a new line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)
