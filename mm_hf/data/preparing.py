"""Prepares items with several processes. Reading photos of a camera takes longer than encoding them."""

import math
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from typing import Any, TypeVar

import numpy as np
import torch
from transformers.utils import logging

from .imported import import_again
from .rows import BadRowError


logger = logging.get_logger(__name__)

Key = TypeVar("Key")
Prepare = Callable[[list[Any]], dict[str, torch.Tensor]]

MOST = 8  # default limit on processes, because each of them loads the library
AHEAD = 1  # batches that wait, in addition to those in preparation
WORTH = 10.0  # seconds of preparation; with less work, processes are not started by default
_prepare: Prepare | None = None  # set in processes that were started here


def prepare_readable(
    items: Mapping[Key, Any], prepare: Prepare, bad: dict[Key, str] | None
) -> tuple[list[Key], dict[str, Any]]:
    """Prepares a batch. If that fails, finds the bad items one by one, and prepares the others.

    Args:
        items: raw items by key.
        prepare: turns raw items into the model's inputs.
        bad: collects by key the reason why an item cannot be read; None: the first bad item raises.

    Returns:
        the keys of the good items, and their inputs; empty if all are bad.

    Raises:
        BadRowError: an item cannot be read, and `bad` is None.
    """
    try:
        return list(items), prepare(list(items.values()))
    except BadRowError:
        if bad is None:
            raise
    good = []
    for key, item in items.items():
        try:
            prepare([item])
            good.append(key)
        except BadRowError as error:
            bad[key] = error.entry["reason"]
    return good, prepare([items[key] for key in good]) if good else {}


def usual_workers(processes: int = 1) -> int:
    """The default number of processes that prepare items: one per core, at most `MOST`, and 0 if there is one core.

    Args:
        processes: how many processes share this machine. Each of them has this many workers.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(MOST, cores // max(1, processes))
    return workers if workers > 1 else 0


def prepared(
    batches: Sequence[list[Key]],
    fetch: Callable[[list[Key]], Mapping[Key, Any]],
    prepare: Prepare,
    bad: dict[Key, str] | None,
    workers: int | None = 0,
    processes: int = 1,
) -> Generator[tuple[list[Key], dict[str, Any]], None, None]:
    """The model's inputs of batches of items, in order. The result does not depend on which process prepared it.

    Processes are started with `spawn` and not forked, because torch already has threads, and a fork would copy their
    locks. They do not run the script that started them, so no `if __name__ == "__main__"` is needed. If they fail,
    because they lack something that the script defines or because they died, this process does the work and warns.

    Args:
        batches: keys of items.
        fetch: gives the raw items of a batch. It runs in this process.
        prepare: turns raw items into the model's inputs. It is pickled for other processes.
        bad: see `prepare_readable`.
        workers: number of other processes; None: started only if there is work for more than a few seconds. Their
            number is then the share of preparation in the time of a batch, multiplied by `usual_workers`.
        processes: see `usual_workers`.

    Yields:
        see `prepare_readable`.

    Raises:
        BadRowError: see `prepare_readable`.
        BadRowError: see `prepare_readable`.
    """
    count = usual_workers(processes) if workers is None else workers
    others: Workers | None = None
    queue: deque[Future] = deque()  # the batches before `place`
    place, spent, used = 0, 0.0, 0.0  # batches; seconds to prepare them here; seconds that the caller used
    try:
        while place < len(batches) or queue:
            left = len(batches) - place
            try:
                if others is None and count and (workers is not None or (place and left * spent / place > WORTH)):
                    if workers is None:
                        count = math.ceil(count * spent / (spent + used))
                    others = Workers(min(count, left), prepare)
                    if workers is not None:
                        others.wait()
                if others is not None and others.are_ready():
                    while place < len(batches) and len(queue) < count + AHEAD:
                        queue.append(others.submit(fetch(batches[place]), bad is not None))
                        place += 1
                result = queue[0].result() if queue else None
            except BadRowError:
                raise
            except Exception as error:
                logger.warning(
                    f"The processes that prepare items failed ({type(error).__name__}: {error}). This process goes on "
                    "alone, which takes longer. encoding_workers sets their number; 0 means none."
                )
                place, count = place - len(queue), 0
                queue.clear()
                others = others.stop() if others is not None else None
                continue
            if result is not None:
                queue.popleft()
                good, inputs, faults = result
                if bad is not None:
                    bad.update(faults)
                yield good, {name: torch.from_numpy(values) for name, values in inputs.items()}
                continue
            began = time.perf_counter()
            here = prepare_readable(fetch(batches[place]), prepare, bad)
            spent += time.perf_counter() - began
            place += 1
            began = time.perf_counter()
            yield here
            used += time.perf_counter() - began
    finally:
        if others is not None:
            others.stop()


class Workers:
    """Processes that prepare batches.

    Args:
        count: how many.
        prepare: see `prepared`.
    """

    def __init__(self, count: int, prepare: Prepare):
        self.pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=begin, initargs=(prepare,))
        with without_main():
            self.first = [self.pool.submit(os.getpid) for _ in range(count)]  # done when the processes have started

    def wait(self):
        """Waits until all processes have started or one of them has failed."""
        for future in self.first:
            future.exception()

    def are_ready(self) -> bool:
        """Whether all processes have loaded the library, which takes seconds."""
        return all(future.done() for future in self.first)

    def submit(self, items: Mapping[Any, Any], take_down: bool) -> Future:
        """See `prepare_there`."""
        return self.pool.submit(prepare_there, dict(items), take_down)

    def stop(self):
        """Ends the processes without waiting for their work."""
        self.pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def without_main():
    """Processes that start in this context do not import the script of this process."""
    values: dict[str, Any] = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: values.pop(name) for name in ("__file__", "__spec__") if name in values}
    values["__spec__"] = None
    try:
        yield
    finally:
        del values["__spec__"]
        values.update(hidden)


def begin(prepare: Prepare):
    """Prepares a new process for its work."""
    global _prepare
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    import_again()
    _prepare = prepare


def end_with_parent():
    """Ends this process when its parent process ends for any reason."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def prepare_there(items: dict[Key, Any], take_down: bool) -> tuple[list[Key], dict[str, np.ndarray], dict[Key, str]]:
    """Prepares a batch in a worker process. Arrays go back through a pipe, because torch would use shared memory, and
    containers have little of it."""
    bad: dict[Key, str] | None = {} if take_down else None
    if _prepare is None:
        raise RuntimeError("This process was not started by `prepared`.")
    good, inputs = prepare_readable(items, _prepare, bad)
    return good, {name: values.numpy() for name, values in inputs.items()}, bad or {}
