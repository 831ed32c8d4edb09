"""Progress bars: live in a terminal and in a notebook; in a log, which is no terminal, a line a minute."""

import os
import sys
from typing import Any

import datasets
from tqdm.auto import tqdm
from tqdm.std import tqdm as TextBar


SECONDS_IN_LOGS = 60.0


class LogBar(TextBar):
    """A bar whose every state is a line of its own: a log has no way back to the beginning of a line."""

    def display(self, msg: str | None = None, pos: int | None = None):
        """Prints the state; nothing where there is nothing to say."""
        text = str(self) if msg is None else msg
        if text:
            print(text, file=self.fp, flush=True)

    def clear(self, nolock: bool = False):
        """Nothing can be taken back."""

    def set_postfix(self, ordered_dict: Any = None, refresh: bool = True, **values: Any):
        """Takes the values for the next state, and prints none for them alone."""
        super().set_postfix(ordered_dict, refresh=False, **values)


def is_live(stream: Any = None) -> bool:
    """Whether what is printed can be written over: in a notebook, and where the stream (None: standard error) is a
    terminal."""
    if any(kind.__name__ == "tqdm_notebook" for kind in tqdm.__mro__):
        return True
    stream = sys.stderr if stream is None else stream
    return stream is not None and stream.isatty()


def progress_bar(iterable: Any = None, **options: Any) -> Any:
    """tqdm's bar. In a log it begins after a minute, and says no more than a line a minute: work that is done by then
    leaves nothing there. Without an iterable the caller calls `update`."""
    if is_live(options.get("file")):
        return tqdm(iterable, **options)
    pace = {"mininterval": SECONDS_IN_LOGS, "maxinterval": SECONDS_IN_LOGS, "delay": SECONDS_IN_LOGS}
    return LogBar(iterable, **{**options, **pace})


def quiet_in_logs():
    """Turns off the bars of datasets where standard error is a log: they know no such pace. Who has set
    HF_DATASETS_DISABLE_PROGRESS_BARS has decided it."""
    if not is_live() and "HF_DATASETS_DISABLE_PROGRESS_BARS" not in os.environ:
        datasets.disable_progress_bars()
