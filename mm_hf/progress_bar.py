"""Progress bars: live in a terminal and in a notebook; in a log file, one line per minute."""

import os
import sys
from typing import Any

import datasets
from tqdm.auto import tqdm
from tqdm.std import tqdm as TextBar


SECONDS_IN_LOGS = 60.0


class LogBar(TextBar):
    """A bar that prints each state as a new line, because a log cannot go back to the beginning of a line."""

    def display(self, msg: str | None = None, pos: int | None = None):
        """Prints the state; nothing if the state is empty."""
        text = str(self) if msg is None else msg
        if text:
            print(text, file=self.fp, flush=True)

    def clear(self, nolock: bool = False):
        """Does nothing: a printed line cannot be removed."""

    def set_postfix(self, ordered_dict: Any = None, refresh: bool = True, **values: Any):
        """Keeps the values for the next state, and does not print for them alone."""
        super().set_postfix(ordered_dict, refresh=False, **values)


def is_live(stream: Any = None) -> bool:
    """Whether printed text can be overwritten: in a notebook, or if the stream (None: standard error) is a
    terminal."""
    if any(kind.__name__ == "tqdm_notebook" for kind in tqdm.__mro__):
        return True
    stream = sys.stderr if stream is None else stream
    return stream is not None and stream.isatty()


def progress_bar(iterable: Any = None, **options: Any) -> Any:
    """tqdm's bar. In a log it prints at most one line per minute, the first after a minute; shorter work prints
    nothing. Without an iterable, the caller calls `update`."""
    if is_live(options.get("file")):
        return tqdm(iterable, **options)
    pace = {"mininterval": SECONDS_IN_LOGS, "maxinterval": SECONDS_IN_LOGS, "delay": SECONDS_IN_LOGS}
    return LogBar(iterable, **{**options, **pace})


def quiet_in_logs():
    """Turns off the bars of `datasets` if standard error is a log, because their rate cannot be limited. If the user
    has set HF_DATASETS_DISABLE_PROGRESS_BARS, that setting stays."""
    if not is_live() and "HF_DATASETS_DISABLE_PROGRESS_BARS" not in os.environ:
        datasets.disable_progress_bars()
