"""The metrics of a service, for Prometheus. Labels are tasks, modalities and kinds of errors, never the content of a
request."""

from collections.abc import Iterable
from functools import partial
from typing import Any


SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARES = tuple(place / 10 for place in range(1, 11))


class Metrics:
    """The counters of one service, in a separate registry.

    Args:
        queue: gives the number of waiting rows.
        requests: gives the number of requests in progress.
    """

    def __init__(self, queue: Any, requests: Any):
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "mm_hf_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "mm_hf_request_seconds",
            "Seconds from the first byte of a request to its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.rows = Counter("mm_hf_rows", "Rows in requests.", ["route"], registry=registry)
        self.errors = Counter(
            "mm_hf_errors", "Requests and rows without an answer, by kind.", ["kind"], registry=registry
        )
        self.batch_rows = Histogram(
            "mm_hf_batch_rows", "Rows per batch of the model.", buckets=BATCHES, registry=registry
        )
        self.batch_seconds = Histogram(
            "mm_hf_batch_seconds", "Seconds of the model per batch.", buckets=SECONDS, registry=registry
        )
        self.absent = Counter(
            "mm_hf_absent",
            "Readable rows that lack a modality; divide by mm_hf_readable_rows.",
            ["modality"],
            registry=registry,
        )
        self.readable = Counter("mm_hf_readable_rows", "Rows that could be read.", registry=registry)
        self.confidence = Histogram(
            "mm_hf_confidence", "Scores of the best classes, by task.", ["task"], buckets=SHARES, registry=registry
        )
        in_work = Gauge("mm_hf_requests_in_work", "Requests in progress.", registry=registry)
        in_work.set_function(requests)
        Gauge("mm_hf_queue_rows", "Rows that wait for the model.", registry=registry).set_function(queue)

    def watch(self, kept: Any):
        """Adds the metrics of the cache of encoded items, see `KeptItems`."""
        from prometheus_client import Gauge

        shown = {
            "reused": "Items that came from the cache.",
            "encoded": "Items that were encoded.",
            "bytes": "Memory of the cache, in bytes.",
        }
        for name, text in shown.items():
            gauge = Gauge(f"mm_hf_kept_items_{name}", text, registry=self.registry)
            gauge.set_function(partial(getattr, kept, name))

    def read(self, absent: Iterable[str]):
        """Counts a readable row, and the modalities that it lacks."""
        self.readable.inc()
        for name in absent:
            self.absent.labels(name).inc()

    def batch(self, rows: int, seconds: float):
        """Counts a batch."""
        self.batch_rows.observe(rows)
        self.batch_seconds.observe(seconds)

    def text(self) -> tuple[bytes, str]:
        """The text for Prometheus, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST
