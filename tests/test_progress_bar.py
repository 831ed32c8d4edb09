"""Progress bars in a log and in a terminal."""

import io

import pytest

from mm_hf import progress_bar as bars
from mm_hf.progress_bar import LogBar, is_live, progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(LogBar, "monitor_interval", 0)  # no thread that looks at the real clock
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


def run(clock: Clock, stream, steps: int, seconds: float, **options) -> str:
    """What a bar of so many steps, of so many seconds each, writes."""
    bar = progress_bar(total=steps, file=stream, desc="working", **options)
    for step in range(steps):
        clock.now += seconds
        bar.update()
        bar.set_postfix(loss=step)
    bar.close()
    return stream.getvalue()


def test_a_log_gets_a_line_a_minute(clock):
    text = run(clock, io.StringIO(), steps=6000, seconds=0.1)
    lines = [line for line in text.splitlines() if line.strip()]
    assert 9 <= len(lines) <= 11
    assert "working:  10%" in lines[0]
    assert "6000/6000" in lines[-1]
    assert "loss=" in lines[-1]
    assert "\x1b" not in text


@pytest.mark.parametrize("leave", [True, False])
def test_what_is_done_within_a_minute_leaves_nothing_in_a_log(clock, leave):
    assert run(clock, io.StringIO(), steps=50, seconds=1, leave=leave, delay=1).strip() == ""


def test_slow_steps_are_not_passed_over(clock):
    assert len(run(clock, io.StringIO(), steps=5, seconds=90, leave=False).split()) > 5 * 3


def test_a_terminal_gets_a_live_bar(clock):
    text = run(clock, Terminal(), steps=6000, seconds=0.1)
    assert text.count("\r") > 1000


def test_where_bars_are_live(monkeypatch):
    assert is_live(Terminal())
    assert not is_live(io.StringIO())

    class tqdm_notebook:
        pass

    class Notebook(tqdm_notebook):
        def __init__(self, iterable, **options):
            self.options = options

    monkeypatch.setattr(bars, "tqdm", Notebook)
    assert is_live(io.StringIO())
    assert progress_bar(range(3), desc="x", file=io.StringIO()).options.keys() == {"desc", "file"}
