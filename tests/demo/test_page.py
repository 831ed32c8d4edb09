"""The page in a real browser. `make test-demo` makes an environment that has gradio, and runs this."""

import ipaddress
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from messages import says


pytest.importorskip("gradio", reason="gradio is not installed: make test-demo")
from mm_hf.demo import build_demo, write_space


runs = sys.modules["demo_runs"]
WIDTHS = [1280, 390]
SHOTS = os.environ.get("MM_HF_SCREENSHOTS")  # a folder, for whoever wants to look at them


def is_loopback(host: str) -> bool:
    return host == "localhost" or ipaddress.ip_address(host).is_loopback


@pytest.fixture(scope="module")
def asked_for():
    """Addresses that this process connects to or looks up, but for those of this machine: there are to be none."""
    outside = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def connecting(this, address):
        if isinstance(address, tuple) and not is_loopback(address[0]):
            outside.append(address)
            raise OSError(f"the page asks for {address}")
        return connect(this, address)

    def looking_up(host, *args, **kwargs):
        if host not in (None, "", "localhost") and not re.fullmatch(r"[\d.:a-f]+", str(host)):
            outside.append(host)
            raise OSError(f"the page asks for {host}")
        return look_up(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connecting)
        patch.setattr(socket, "getaddrinfo", looking_up)
        yield outside
    assert outside == []


@pytest.fixture(scope="module")
def served(tmp_path_factory, asked_for):
    """Serves the page of a stored head; each is opened once."""
    pages = {}

    def serve(head: str, **recipe):
        if head not in pages:
            run = runs.run_of(tmp_path_factory.mktemp(head), head, **recipe)
            pages[head] = build_demo(str(run), title=recipe.get("title", "Which colour is the house?"))
            pages[head].launch(port=0, wait=False)
        return pages[head]

    yield serve
    for page in pages.values():
        page.close()


class Visit:
    """A page in a tab, and what it asked for and complained of."""

    def __init__(self, browser, url: str, width: int = 1280):
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(0)  # a busy machine takes minutes
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda opened: self.requests.append(opened.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)
        self.page.get_by_role("button", name="Answer").wait_for()

    def answer(self) -> str:
        """Asks, and gives what the page says."""
        self.page.get_by_role("button", name="Answer").click()
        self.page.locator(".mm-answer, .mm-message").first.wait_for()
        return self.page.locator(".mm-answer, .mm-message").first.inner_text()

    def upload(self, file: Path, place: int = 0):
        self.page.locator("input[type=file]").nth(place).set_input_files(str(file))

    def shot(self, name: str):
        if SHOTS:
            self.page.wait_for_timeout(700)
            self.page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)

    def check(self):
        hosts = {urlsplit(url).hostname for url in self.requests if not url.startswith(("data:", "blob:"))}
        assert hosts
        assert all(map(is_loopback, hosts)), hosts
        assert self.complaints == []
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.fixture
def visit(browser, served):
    visits = []

    def open_page(head: str = "question_answering", width: int = 1280, **recipe) -> Visit:
        visits.append(Visit(browser, served(head, **{**runs.PAIR, **recipe}).url, width))
        return visits[-1]

    yield open_page
    for each in visits:
        each.check()
        each.page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_picture_and_a_question(visit, width):
    """Both, then without the question: the answer, what it rests on, and the map."""
    each = visit(width=width)
    each.shot(f"start-{width}")
    each.upload(runs.PHOTO)
    each.page.get_by_label("Text").fill(runs.QUESTION)
    said = each.answer()
    each.shot(f"answer-{width}")
    for words in ("red", "blue", "green", "%", "What this answer rests on", "without it"):
        assert words in said
    assert each.page.locator(".mm-evidence li[data-modality]").count() == 2
    picture = each.page.locator(".mm-map[data-kind=picture] img")
    assert picture.evaluate("image => image.complete && image.naturalWidth") > 0
    each.page.get_by_label("Text").fill("")
    each.page.evaluate("document.querySelector('.mm-answer').className = 'before'")
    each.answer()
    assert each.page.locator(".mm-evidence li[data-modality]").count() == 0
    assert each.page.locator(".mm-map[data-kind=picture] img").count() == 1
    each.page.get_by_role("button", name="Clear").click()
    each.page.locator(".mm-empty").wait_for()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_broken_file(visit, tmp_path, width):
    file = tmp_path / "holiday.png"
    file.write_bytes(b"this is no picture")
    each = visit(width=width)
    each.upload(file)
    each.page.get_by_text("holiday.png").or_(each.page.locator("img")).first.wait_for()
    said = each.answer()
    each.shot(f"broken-{width}")
    assert "Photo" in said
    assert "holiday.png" in said
    assert "Traceback" not in each.page.content()


def test_nothing_given(visit):
    each = visit()
    said = each.answer()
    assert "Photo" in said
    assert "Text" in said


def test_an_example(visit):
    """A row of the test part fills the fields."""
    each = visit()
    text = each.page.get_by_label("Text")
    assert text.input_value() == ""
    each.page.locator("tbody tr").first.click()
    each.page.wait_for_function("[...document.querySelectorAll('textarea')].some(box => box.value)")
    assert text.input_value() in (runs.STORED / "rows/rows.csv").read_text()
    assert "%" in each.answer()


def test_what_data_hold_does_not_run(visit):
    each = visit()
    hostile = "<img src=x onerror='window.hacked = 1'><script>window.hacked = 2</script> {{ 7 * 7 }} ${7 * 7}"
    each.page.get_by_label("Text").fill(hostile)
    each.answer()
    each.page.wait_for_timeout(300)
    assert each.page.evaluate("window.hacked") is None


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_and_a_series(visit, width):
    recipe = {"image_column": None, "text_column": None, "label_column": "price", "title": "What is it worth?"}
    each = visit("regression", width=width, table_columns=["beds", "kind"], series_column="series", **recipe)
    each.page.get_by_label("Beds").fill("3")
    each.page.get_by_label("Kind").click()
    each.page.get_by_role("option", name="old").click()
    each.page.get_by_label("Series").fill("1, 2\n3, 4\n5, 7")
    said = each.answer()
    each.shot(f"table-{width}")
    assert "price" in said
    assert each.page.locator(".mm-map[data-kind=table] li").count() == 2
    each.page.get_by_label("Series").fill("1, 2\n3, x")
    each.page.evaluate("document.querySelector('.mm-answer').className = 'before'")
    assert "line 2" in each.answer()


@pytest.mark.parametrize("width", WIDTHS)
def test_several_questions(visit, width):
    each = visit("multi_task", width=width, label_column=["colour", "price", "seen"])
    each.upload(runs.PHOTO)
    each.page.get_by_label("Text").fill(runs.QUESTION)
    said = each.answer()
    each.shot(f"tasks-{width}")
    assert each.page.locator(".mm-said").count() == 3
    for task in ("colour", "price", "seen"):
        assert task in said


def test_a_sound(visit, tmp_path):
    import numpy as np
    import soundfile

    soundfile.write(tmp_path / "tone.wav", np.sin(np.arange(16000) * 0.03), 16000)
    recipe = {"image_column": None, "text_column": None, "label_column": None, "audio_column": "sound"}
    each = visit("ctc", **recipe)
    each.upload(tmp_path / "tone.wav")
    each.page.locator("audio, #waveform, [data-testid*=waveform]").first.wait_for(state="attached")
    each.answer()
    assert each.page.locator(".mm-best").inner_text()


def test_a_port_that_is_taken(tmp_path):
    run = runs.run_of(tmp_path, "question_answering", **runs.PAIR)
    page = build_demo(str(run), examples=0, evidence=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=says(str(port))):
            page.launch(port=port, wait=False)


def test_a_space_runs_where_it_is_copied(tmp_path):
    """Its app.py, in a process of its own, in another folder."""
    run = runs.run_of(tmp_path, "question_answering", **runs.PAIR)
    space = tmp_path / "elsewhere"
    shutil.move(write_space(str(run), tmp_path / "space", examples=2), space)
    shutil.rmtree(run)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "app.py"], cwd=space, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        line = next((line for line in process.stdout if str(port) in line), None)
        assert line is not None, process.wait()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/config") as answer:
            config = json.load(answer)
        labels = {component["props"].get("label") for component in config["components"]}
        assert {"Photo", "Text"} <= labels
    finally:
        process.terminate()
        process.wait()
