"""`make serve-demo`: the server and the page come up together, and go together."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest


runs = sys.modules["demo_runs"]
SCRIPT = Path(__file__).parents[2] / "examples/deployment/serve_demo.py"
HAS_PAGE = find_spec("gradio") is not None


@pytest.fixture
def start(tmp_path):
    """A function that starts the script with any free ports."""
    run = runs.run_of(tmp_path, "question_answering", **runs.PAIR)
    started = []

    def start(*flags: str) -> subprocess.Popen:
        words = [sys.executable, str(SCRIPT), str(run), "--port", "0", "--page_port", "0", *flags]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return started[-1]

    yield start
    for process in started:
        process.terminate()  # it ends both that it has started
        process.wait()
        process.stdout.close()


@pytest.mark.skipif(not HAS_PAGE, reason="gradio is not installed: make test-demo")
def test_both_answer_and_end_together(start):
    process = start()
    for line in process.stdout:
        if line.startswith("ready"):
            break
    server, page = re.findall(r"http://127\.0\.0\.1:\d+", line)
    assert urllib.request.urlopen(page).status == 200
    question = json.dumps({"rows": [{"question": runs.QUESTION}]}).encode()
    asked = urllib.request.Request(f"{server}/predict", question, {"Content-Type": "application/json"})
    assert json.load(urllib.request.urlopen(asked))["answers"][0]["answer"]
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait() == 0, rest
    for url in (server, page):
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(url)


def test_one_that_fails_ends_the_other(start):
    process = start("--page_python", sys.executable if not HAS_PAGE else "/bin/false")
    said = process.stdout.read()  # to its end: nobody that it has started holds it any more
    assert process.wait() == 1
    assert re.search(r"error: the page .* status 1", said)
    if not HAS_PAGE:
        assert "mm_hf[demo]" in said
    server = re.search(r"http://127\.0\.0\.1:\d+", said)
    if server:
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(server[0])
