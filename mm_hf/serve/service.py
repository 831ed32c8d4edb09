"""The service behind the routes: it accepts or refuses a request, reads its rows, and gets their answers."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .backend import Answer, Backend, RowError
from .batching import Batcher, FullError, Ticket
from .limits import Limits, RefusedError, error_body
from .metrics import Metrics
from .rows import ReadRow, Request, keys_of, read_row


READERS = 4  # threads that decode rows
BODIES = 16  # number of bodies of the largest size that may be in memory at the same time
BAD_ROW, FAILED = "bad_row", "failed"


@dataclass
class Settings:
    """The settings of a service.

    Args:
        limits: its limits.
        max_batch, max_wait: see `Batcher`.
        api_key: the key that requests must send; None: no key.
        docs: whether it serves a documentation page.
        title: of that page.
    """

    limits: Limits = field(default_factory=Limits)
    max_batch: int = 32
    max_wait: float = 0.005
    api_key: str | None = None
    docs: bool = True
    title: str = "mm_hf"


class Service:
    """A model that answers requests. The service exists before the model is loaded. It refuses requests before `open`
    has loaded the model, and after it has begun to stop."""

    def __init__(self, settings: Settings):
        self.settings, self.limits = settings, settings.limits
        self.in_work = self.bytes_in_work = self.being_read = 0
        self.metrics = Metrics(lambda: len(self.batcher or ()), lambda: self.in_work)
        self.readers = ThreadPoolExecutor(READERS, thread_name_prefix="mm_hf-read")
        self.batcher: Batcher | None = None
        self.stopping = False
        self.counting = threading.Lock()
        self.example: dict[str, Any] = {}  # an example row; its answer is in `example_answer`
        self.example_answer: Any = None

    @property
    def ready(self) -> bool:
        """Whether it can answer requests."""
        return self.batcher is not None and not self.stopping

    def open(self, make_backend: Callable[[], Backend]):
        """Loads the model and answers an example, so that the first request is not slow.

        Raises:
            OSError, ValueError: it is not a checkpoint, or a setting does not fit.
        """
        self.backend = backend = make_backend()
        if (kept := getattr(backend, "kept_items", None)) is not None:
            self.metrics.watch(kept)
        self.keys = keys_of(backend.config)
        self.example = example_row(backend)
        if self.example:
            self.warm_up()
        self.batcher = Batcher(
            backend,
            self.settings.max_batch,
            self.settings.max_wait,
            self.limits.queue,
            lambda: self.being_read,
            self.metrics.batch,
        )

    def warm_up(self):
        """Answers the example alone, and in the largest batch, so that its memory is allocated.

        Raises:
            ValueError: the example cannot be answered, so no other row can be answered either.
        """
        every = {"top_k": None} if "top_k" in self.backend.options else {}
        for rows in sorted({1, self.settings.max_batch}):
            read = [read_row(self.example, self.keys, self.backend, Limits()) for _ in range(rows)]
            bad = [row for row in read if isinstance(row, RowError)]
            answers = bad or self.backend.answer([row.loaded for row in read], [every] * rows)
            if isinstance(answers[0], RowError):
                raise ValueError(f"the model cannot answer an example row: {answers[0].message}")
            self.example_answer = answers[0].value

    def stop(self):
        """Stops accepting requests. Accepted requests are still answered."""
        self.stopping = True

    def close(self):
        """Ends its threads."""
        self.stopping = True
        if self.batcher is not None:
            self.batcher.stop()
        self.readers.shutdown(wait=False, cancel_futures=True)

    # ---- One request

    def check_ready(self):
        """Refuses requests before the service is ready, and while it stops."""
        if self.stopping:
            raise RefusedError(
                503, "stopping", "The service is stopping.", {"Retry-After": "5", "Connection": "close"}
            )
        if self.batcher is None:
            raise RefusedError(503, "loading", "The model is still loading. Try again in 5 s.", {"Retry-After": "5"})

    @contextmanager
    def taken_on(self):
        """Counts a request while it is in progress.

        Raises:
            RefusedError: the service is not ready, or there are too many requests.
        """
        self.check_ready()
        with self.counting:
            if self.in_work >= self.limits.queue:
                raise self.full()
            self.in_work += 1
        work = Work(self)
        try:
            yield work
        finally:
            work.is_read()
            with self.counting:
                self.in_work -= 1
                self.bytes_in_work -= work.size

    def full(self) -> RefusedError:
        """The error if the service is full."""
        waiting, batcher = len(self.batcher or ()), self.batcher
        seconds = 1 if batcher is None else max(1, round(waiting * batcher.seconds_a_row))
        message = f"The service is busy: {waiting} rows are waiting. Try again in {seconds} s."
        return RefusedError(503, "busy", message, {"Retry-After": str(seconds)})

    async def answer(self, request: Request, work: "Work", evidence: bool) -> tuple[int, dict[str, Any]]:
        """The status and the body of the answer to a request. The answers are in the order of the rows.

        Raises:
            RefusedError: its options are wrong, the backend gives no evidence, or there is no room for its rows.
        """
        loop = asyncio.get_running_loop()
        if evidence and not self.backend.explains:
            name = self.backend.name
            message = f"This service uses the backend {name}, which gives no evidence: use /predict, or a service "
            message += "with the backend torch."
            raise RefusedError(422, "no_evidence", message)
        try:
            self.backend.check_options(request.options)
        except (ValueError, TypeError) as error:
            raise RefusedError(422, "bad_request", " ".join(str(error).split())) from None
        read: Sequence[ReadRow | RowError] = await asyncio.gather(
            *(
                loop.run_in_executor(self.readers, partial(read_row, row, self.keys, self.backend, self.limits))
                for row in request.rows
            )
        )
        good = [row for row in read if isinstance(row, ReadRow)]
        answers: list[Answer | RowError] = []
        if good:
            ticket = Ticket([row.loaded for row in good], request.options, evidence)
            try:
                self.batcher.submit(ticket)
            except FullError:
                raise self.full() from None
            work.is_read()
            answers = await asyncio.wrap_future(ticket.future)
            for row in good:
                self.metrics.read(row.absent)
        waiting = iter(answers)
        placed = [next(waiting) if isinstance(row, ReadRow) else row for row in read]
        return status_of(placed), {"answers": [self.said(answer) for answer in placed]}

    def said(self, answer: Answer | RowError) -> dict[str, Any]:
        """The answer to a row, in the form for the client."""
        if isinstance(answer, RowError):
            kind = FAILED if answer.ours else BAD_ROW
            self.metrics.errors.labels(kind).inc()
            return error_body(kind, answer.message)
        for task, score in answer.confidences.items():
            self.metrics.confidence.labels(task).observe(score)
        more = {} if answer.evidence is None else {"evidence": answer.evidence}
        return {"answer": answer.value, **more}


class Work:
    """One request in progress: its size, and whether its rows are still being read."""

    def __init__(self, service: Service):
        self.service, self.size, self.reading = service, 0, True
        with service.counting:
            service.being_read += 1

    def add(self, size: int):
        """Counts bytes of its body.

        Raises:
            RefusedError: there are too many bytes in memory.
        """
        service = self.service
        with service.counting:
            if service.bytes_in_work + size > BODIES * service.limits.body_bytes:
                raise service.full()
            service.bytes_in_work += size
        self.size += size

    def is_read(self):
        """Notes that reading has ended: its rows wait for the model, or the request has ended."""
        if self.reading:
            self.reading = False
            with self.service.counting:
                self.service.being_read -= 1
            if self.service.batcher is not None:
                self.service.batcher.look()


def status_of(answers: Sequence[Answer | RowError]) -> int:
    """200 if at least one row was answered; otherwise 422, or 500 if the error is in the service."""
    errors = [answer for answer in answers if isinstance(answer, RowError)]
    if len(errors) < len(answers):
        return 200
    return 500 if any(error.ours for error in errors) else 422


def example_row(backend: Backend) -> dict[str, Any]:
    """An example row for requests; empty if no modality of the model has an example."""
    row = {}
    for key, known in keys_of(backend.config).items():
        if known.modality.row_keys[0] == key:
            item = known.reader.request_example(backend.processor, key)
            places = known.modality.places(backend.config) // known.modality.places_of_item(backend.processor)
            if item is not None and places > 0:
                row[key] = item if places == 1 else [item] * places
    return row
