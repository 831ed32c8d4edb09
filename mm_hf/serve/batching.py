"""Micro-batching: rows of requests that arrive at the same time go through the model together.

One thread owns the model. It takes the waiting rows, at most `max_batch`. It waits for more rows only while other
requests are being read. So a single client does not wait, and many clients share each batch.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from .backend import Answer, Backend, RowError


@dataclass
class Ticket:
    """The waiting rows of one request.

    Args:
        rows: as the backend loaded them.
        options: of the request.
        evidence: whether it was requested.
    """

    rows: list[Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    evidence: bool = False
    future: "Future[list[Answer | RowError]]" = field(default_factory=Future)
    answers: dict[int, Answer | RowError] = field(default_factory=dict)
    arrived: float = field(default_factory=time.monotonic)

    def take(self, place: int, answer: Answer | RowError):
        """Stores the answer to one of its rows. After the last answer, the request is answered."""
        self.answers[place] = answer
        if len(self.answers) == len(self.rows) and not self.future.done():
            try:
                self.future.set_result([self.answers[place] for place in range(len(self.rows))])
            except Exception:  # cancelled at this moment
                pass


class FullError(Exception):
    """The queue is full; `waiting` rows are in it."""

    def __init__(self, waiting: int):
        super().__init__(f"the queue is full: {waiting} rows are waiting")
        self.waiting = waiting


class Batcher:
    """Collects rows into batches, and lets the backend answer them.

    Args:
        backend: answers the rows.
        max_batch: maximum number of rows in a batch.
        max_wait: maximum time in seconds that a row waits for others, while other requests are being read.
        max_queue: maximum number of waiting rows.
        being_read: gives the number of requests that are being read now.
        done: is called after each batch with its number of rows and its seconds.
    """

    def __init__(
        self,
        backend: Backend,
        max_batch: int,
        max_wait: float,
        max_queue: int,
        being_read: Callable[[], int] = lambda: 0,
        done: Callable[[int, float], None] = lambda rows, seconds: None,
    ):
        self.backend, self.max_batch, self.max_wait, self.max_queue = backend, max_batch, max_wait, max_queue
        self.being_read, self.done = being_read, done
        self.queue: deque[tuple[Ticket, int]] = deque()
        self.changed = threading.Condition()
        self.stopped = False
        self.seconds_a_row = 0.05  # a running mean, updated after each batch
        self.thread = threading.Thread(target=self.work, name="mm_hf-model", daemon=True)
        self.thread.start()

    def __len__(self) -> int:
        return len(self.queue)

    def submit(self, ticket: Ticket):
        """Adds the rows of a request to the queue: all of them or none.

        Raises:
            FullError: the queue has no room for them.
        """
        with self.changed:
            if self.stopped or len(self.queue) + len(ticket.rows) > self.max_queue:
                raise FullError(len(self.queue))
            ticket.arrived = time.monotonic()
            self.queue.extend((ticket, place) for place in range(len(ticket.rows)))
            self.changed.notify()

    def look(self):
        """Checks again whether there is a reason to wait."""
        with self.changed:
            self.changed.notify()

    def stop(self):
        """Answers the waiting rows, then ends."""
        with self.changed:
            self.stopped = True
            self.changed.notify()
        self.thread.join()

    def work(self):
        """The loop of the thread."""
        while batch := self.collect():
            started = time.monotonic()
            answers = self.answers(batch)
            seconds = time.monotonic() - started
            self.seconds_a_row = 0.8 * self.seconds_a_row + 0.2 * seconds / len(batch)
            self.done(len(batch), seconds)  # before the answers are sent, so that a client finds the batch counted
            for (ticket, place), answer in zip(batch, answers):
                ticket.take(place, answer)

    def collect(self) -> list[tuple[Ticket, int]]:
        """The next batch, with evidence for all rows or for none; empty when the thread has to end."""
        with self.changed:
            while True:
                self.queue = deque(entry for entry in self.queue if not entry[0].future.cancelled())
                if not self.queue:
                    if self.stopped:
                        return []
                    self.changed.wait()
                    continue
                first = self.queue[0][0]
                batch = [entry for entry in self.queue if entry[0].evidence == first.evidence][: self.max_batch]
                left = first.arrived + self.max_wait - time.monotonic()
                if len(batch) == self.max_batch or left <= 0 or self.stopped or not self.being_read():
                    chosen = {(id(ticket), place) for ticket, place in batch}
                    self.queue = deque(entry for entry in self.queue if (id(entry[0]), entry[1]) not in chosen)
                    return batch
                self.changed.wait(left)

    def answers(self, batch: list[tuple[Ticket, int]]) -> list[Answer | RowError]:
        """The answers to a batch. If the batch fails, each row is answered alone."""
        rows, options = [ticket.rows[place] for ticket, place in batch], [ticket.options for ticket, _ in batch]
        try:
            return self.backend.answer(rows, options, batch[0][0].evidence)
        except Exception as error:
            if len(batch) > 1:
                return [answer for entry in batch for answer in self.answers([entry])]
            return [RowError(f"{type(error).__name__}: the service could not answer this row.", ours=True)]
