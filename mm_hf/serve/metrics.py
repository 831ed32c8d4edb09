"""What is counted of a service, for Prometheus. Tasks, modalities and kinds of errors are labels; nothing that a
request holds is."""

from collections.abc import Iterable
from functools import partial
from typing import Any


SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHARES = tuple(place / 10 for place in range(1, 11))


class Metrics:
    """The counters of one service, in a registry of their own.

    Args:
        queue: gives the rows that wait.
        requests: gives the requests that are in work.
    """

    def __init__(self, queue: Any, requests: Any):
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "mm_hf_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "mm_hf_request_seconds",
            "From a request's first byte to its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.rows = Counter("mm_hf_rows", "Rows that were asked about.", ["route"], registry=registry)
        self.errors = Counter(
            "mm_hf_errors", "Requests and rows without an answer, by kind.", ["kind"], registry=registry
        )
        self.batch_rows = Histogram(
            "mm_hf_batch_rows", "Rows that went through the model together.", buckets=BATCHES, registry=registry
        )
        self.batch_seconds = Histogram(
            "mm_hf_batch_seconds", "Of the model for a batch.", buckets=SECONDS, registry=registry
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
        in_work = Gauge("mm_hf_requests_in_work", "Requests that were taken on.", registry=registry)
        in_work.set_function(requests)
        Gauge("mm_hf_queue_rows", "Rows that wait for the model.", registry=registry).set_function(queue)

    def watch(self, kept: Any):
        """Shows what happens to items that are kept, see `KeptItems`."""
        from prometheus_client import Gauge

        shown = {
            "reused": "Items that were there, and were not encoded again.",
            "encoded": "Items that were encoded.",
            "bytes": "Memory that kept items take.",
        }
        for name, text in shown.items():
            gauge = Gauge(f"mm_hf_kept_items_{name}", text, registry=self.registry)
            gauge.set_function(partial(getattr, kept, name))

    def read(self, absent: Iterable[str]):
        """Counts a row that could be read, and the modalities that it lacks."""
        self.readable.inc()
        for name in absent:
            self.absent.labels(name).inc()

    def batch(self, rows: int, seconds: float):
        """Counts a batch."""
        self.batch_rows.observe(rows)
        self.batch_seconds.observe(seconds)

    def text(self) -> tuple[bytes, str]:
        """What a scraper reads, and its type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST
