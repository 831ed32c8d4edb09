"""What is encoded, read and prepared by several processes: photos of a camera take longer to read than to encode."""

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

MOST = 8  # processes where nobody says how many; each loads the library
AHEAD = 1  # batches beside those that are being prepared
WORTH = 10.0  # seconds of preparation below which processes are not started where nobody asks for them
_prepare: Prepare | None = None  # of this process, where it is one of those started here


def prepare_readable(
    items: Mapping[Key, Any], prepare: Prepare, bad: dict[Key, str] | None
) -> tuple[list[Key], dict[str, Any]]:
    """Prepares a batch; where that fails, finds the bad items one by one and prepares the others.

    Args:
        items: raw ones by key.
        prepare: turns raw items into the model's inputs.
        bad: takes by key why an item cannot be read; None: the first one raises.

    Returns:
        the keys of the good items, and their inputs, none where all are bad.

    Raises:
        BadRowError: an item that cannot be read, unless these are taken down.
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
    """How many processes prepare items at most, where nobody says it: one a core, none where there is but one.

    Args:
        processes: that share this machine and have as many each.
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
    """The model's inputs of batches of items, in their order. Who prepared them changes nothing about them.

    Processes are started anew (`spawn`) and not forked: torch has threads by now, whose locks a fork would copy. They
    do not run the script that started them, so that this needs no `if __name__ == "__main__"`. What they cannot do,
    since they lack what the script defined, or died, this process does itself, and says so.

    Args:
        batches: keys of items.
        fetch: gives the raw items of a batch; it runs here.
        prepare: turns raw items into the model's inputs; pickled where processes are started.
        bad: see `prepare_readable`.
        workers: processes beside this one; None: of `usual_workers` the share that preparing has in the time of a
            batch, once there is work for more than a few seconds.
        processes: see `usual_workers`.

    Yields:
        see `prepare_readable`.

    Raises:
        BadRowError: see `prepare_readable`.
    """
    count = usual_workers(processes) if workers is None else workers
    others: Workers | None = None
    queue: deque[Future] = deque()  # of the batches before `place`
    place, spent, used = 0, 0.0, 0.0  # batches; seconds that they took here, and whoever asks for them
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
                    f"The processes that prepare items are given up ({type(error).__name__}: {error}); this one goes "
                    "on alone, which takes longer. encoding_workers is how many there are, 0 for none."
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
            self.first = [self.pool.submit(os.getpid) for _ in range(count)]  # done once they are there

    def wait(self):
        """Until they are there, or one of them is not."""
        for future in self.first:
            future.exception()

    def are_ready(self) -> bool:
        """Whether they have loaded the library, which takes seconds."""
        return all(future.done() for future in self.first)

    def submit(self, items: Mapping[Any, Any], take_down: bool) -> Future:
        """See `prepare_there`."""
        return self.pool.submit(prepare_there, dict(items), take_down)

    def stop(self):
        """Ends them, without waiting for what they are at."""
        self.pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def without_main():
    """Processes that are started here do not import the script that runs in this one."""
    values: dict[str, Any] = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: values.pop(name) for name in ("__file__", "__spec__") if name in values}
    values["__spec__"] = None
    try:
        yield
    finally:
        del values["__spec__"]
        values.update(hidden)


def begin(prepare: Prepare):
    """In a new process: gets ready."""
    global _prepare
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started it
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    import_again()
    _prepare = prepare


def end_with_parent():
    """Ends this process when that ends which started it, however that ends."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def prepare_there(items: dict[Key, Any], take_down: bool) -> tuple[list[Key], dict[str, np.ndarray], dict[Key, str]]:
    """In such a process: prepares a batch. Arrays go back through a pipe; torch would take memory that is shared, of
    which containers have little."""
    bad: dict[Key, str] | None = {} if take_down else None
    if _prepare is None:
        raise RuntimeError("This process was not started by `prepared`.")
    good, inputs = prepare_readable(items, _prepare, bad)
    return good, {name: values.numpy() for name, values in inputs.items()}, bad or {}
