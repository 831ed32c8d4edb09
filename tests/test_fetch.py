"""`mm_hf fetch`: what it downloads from a real server on this machine, what it refuses, and how it goes on."""

import csv
import http.server
import io
import json
import socket
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from datasets import Dataset, Value
from datasets import Image as ImageFeature
from messages import says
from PIL import Image

from mm_hf.commands import downloads, fetch
from mm_hf.data import Columns, load_splits
from mm_hf.training import exits


def png(color) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(file, "PNG")
    return file.getvalue()


PICTURES = {name: png(name) for name in ("red", "green", "blue")}


class Server(http.server.BaseHTTPRequestHandler):
    """Pictures, and all that goes wrong in the web."""

    asked: list = []
    agents: set = set()
    busy = 0

    def do_GET(self):
        Server.asked.append(self.path)
        Server.agents.add(self.headers["User-Agent"])
        name = self.path.strip("/").partition("?")[0]
        if name == "moved":
            return self.say(302, b"", Location="/red")
        if name == "to_file":
            return self.say(302, b"", Location="file:///etc/hostname")
        if name == "round":
            return self.say(302, b"", Location="/round")
        if name == "page":
            return self.say(200, b"<html>", **{"Content-Type": "text/html"})
        if name == "plain.png":
            return self.say(200, PICTURES["blue"], **{"Content-Type": "application/octet-stream"})
        if name == "large":
            return self.say(200, b"x" * 5000, **{"Content-Type": "image/png"})
        if name == "endless":  # without a length
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.end_headers()
            for _ in range(50):
                self.wfile.write(b"x" * 1000)
            return None
        if name == "short":
            self.send_response(200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", "100")
            self.end_headers()
            return self.wfile.write(b"half")
        if name == "busy":
            Server.busy += 1
            if Server.busy == 1:
                return self.say(503, b"", **{"Retry-After": "0"})
            return self.say(200, PICTURES["red"], **{"Content-Type": "image/png"})
        if name == "slow":
            time.sleep(3)
        if name not in PICTURES:
            return self.say(404, b"")
        return self.say(200, PICTURES[name], **{"Content-Type": "image/png"})

    def say(self, status, content, **headers):
        self.send_response(status)
        for key, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words):
        pass


@pytest.fixture
def server(monkeypatch):
    """The address of a server on this machine; pauses are short."""
    monkeypatch.setattr(downloads, "PAUSE", 0.01)
    Server.asked, Server.busy, Server.agents = [], 0, set()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as listening:
        listening.daemon_threads = True
        listening.handle_error = lambda *words: None  # who asked has hung up
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def run(*words) -> object:
    """The command in this process; gives what it ended with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mm_hf fetch", *map(str, words)])
        try:
            exits.run_script(fetch.main)
        except SystemExit as end:
            return end.code
    return 0


def write(file: Path, urls) -> Path:
    with open(file, "w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines, delimiter=";")
        writer.writerow(["price", "photo"])
        writer.writerows([f"00{place},5", url] for place, url in enumerate(urls))
    return file


def rows_of(file: Path, separator=";"):
    with open(file, newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines, delimiter=separator))


def reasons_of(folder: Path) -> dict[str, str]:
    file = folder / "rows_fetched_failed.csv"
    return {row["url"].rpartition("/")[2]: row["reason"] for row in rows_of(file, ",")} if file.exists() else {}


def test_rows_stay_and_get_their_files(server, tmp_path):
    urls = [f"{server}/{name}" for name in ("red", "green?size=2", "red", "moved", "plain.png", "busy")]
    rows = write(tmp_path / "rows.csv", [*urls[:3], "", *urls[3:]])
    assert run(rows, "--column", "photo", "--allow_private") == 0
    written = rows_of(tmp_path / "rows_fetched.csv")
    assert [{key: row[key] for key in ("price", "photo")} for row in written] == rows_of(rows)
    paths = [row["photo_path"] for row in written]
    assert paths[3] == ""
    assert paths[0] == paths[2] != paths[4]  # a URL is a file
    red, green, blue = (PICTURES[name] for name in ("red", "green", "blue"))
    contents = [(tmp_path / path).read_bytes() for path in paths if path]
    assert contents == [red, green, red, red, blue, red]
    assert all(path.startswith("rows_files/") and path.endswith(".png") for path in paths if path)
    assert len(Server.asked) == 7  # red once, moved and what it leads to, busy twice
    (agent,) = Server.agents
    assert agent.startswith("mm_hf/")
    splits = load_splits(
        tmp_path / "rows_fetched.csv",
        Columns(image="photo_path", label="price"),
        validation_fraction=0,
        test_fraction=0,
    )
    assert isinstance(splits["train"].features["photo_path"], ImageFeature)


def test_what_is_there_is_not_fetched_again(server, tmp_path, capsys):
    rows = write(tmp_path / "rows.csv", [f"{server}/red", f"{server}/later"])
    assert run(rows, "--column", "photo", "--allow_private") == 1
    assert "404" in reasons_of(tmp_path)["later"]
    assert rows_of(tmp_path / "rows_fetched.csv")[1]["photo_path"] == ""
    part = tmp_path / "rows_files" / (fetch.name_of(f"{server}/blue") + downloads.PART)
    part.write_bytes(b"half of it, when a process was killed")
    Server.asked = []
    write(rows, [f"{server}/red", f"{server}/blue"])
    assert run(rows, "--column", "photo", "--allow_private") == 0
    assert Server.asked == ["/blue"]
    assert not part.exists()
    assert not reasons_of(tmp_path)
    path = rows_of(tmp_path / "rows_fetched.csv")[1]["photo_path"]
    assert (tmp_path / path).read_bytes() == PICTURES["blue"]


@pytest.mark.parametrize(
    ("name", "reason", "flags"),
    [
        ("page", ("text/html", "image"), ()),
        ("large", (5, "000", 1), ("--max_bytes", 1000)),
        ("endless", (1,), ("--max_bytes", 1000)),
        ("large", ("max_total_bytes", 1), ("--max_total_bytes", 1000)),
        ("short", (4, 100), ()),
        ("round", (302,), ()),
        ("to_file", ("302", "file:///etc/hostname"), ()),
        ("slow", ("time",), ("--timeout", 0.2)),
    ],
)
def test_bounds(server, tmp_path, name, reason, flags):
    rows = write(tmp_path / "rows.csv", [f"{server}/{name}", f"{server}/red"])
    assert run(rows, "--column", "photo", "--allow_private", "--parallel", 1, *flags) == 1
    said = reasons_of(tmp_path)
    assert all(str(word) in said[name] for word in reason), said
    if name != "slow":
        assert list(said) == [name]  # the other one came
    assert [path.suffix for path in (tmp_path / "rows_files").iterdir() if path.suffix == downloads.PART] == []


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/hostname", "'file'"),
        ("ftp://example.org/a.png", "'ftp'"),
        ("photos/a.png", "''"),
        ("http://name:word@example.org/a.png", "password"),
    ],
)
def test_other_schemes_are_refused(tmp_path, url, reason):
    rows = write(tmp_path / "rows.csv", [url])
    assert run(rows, "--column", "photo", "--allow_private") == 1
    assert reason in rows_of(tmp_path / "rows_fetched_failed.csv", ",")[0]["reason"]


def test_private_addresses_are_refused(server, tmp_path, monkeypatch):
    """Also where a name of the internet leads to one, by itself or by a redirect: before a byte is sent."""
    rows = write(tmp_path / "rows.csv", [f"{server}/red", server.replace("127.0.0.1", "pictures.example") + "/red"])
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *more, **others: real("127.0.0.1", *more, **others))
    assert run(rows, "--column", "photo") == 1
    assert Server.asked == []
    assert all("127.0.0.1" in row["reason"] for row in rows_of(tmp_path / "rows_fetched_failed.csv", ","))


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *(("8.8.8.8", True), ("2606:4700::1111", True), ("127.0.0.1", False), ("10.1.2.3", False)),
        *(("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False)),
        *(("::1", False), ("fe80::1%eth0", False), ("fd00::1", False), ("::ffff:192.168.0.1", False)),
        *(("2002:0a00:0001::1", False), ("64:ff9b::a00:1", False), ("64:ff9b::808:808", True)),
    ],
)
def test_which_addresses_are_public(address, public):
    assert downloads.is_public(address) is public


@pytest.mark.parametrize("kind", [".jsonl", ".parquet"])
def test_other_files_stay_what_they_are(server, tmp_path, kind):
    rows = tmp_path / f"rows{kind}"
    frame = pd.DataFrame({"photo": [f"{server}/red", None, f"{server}/blue"], "beds": [1, 2, 3]})
    if kind == ".jsonl":
        rows.write_text("".join(json.dumps(row) + "\n" for row in frame.to_dict("records")))
    else:
        frame.to_parquet(rows)
    out = tmp_path / f"out{kind}"
    assert run(rows, "--column", "photo", "--into", tmp_path / "files", "-o", out, "--allow_private") == 0
    read = pd.read_json(out, lines=True) if kind == ".jsonl" else pd.read_parquet(out)
    assert read["beds"].tolist() == [1, 2, 3]
    assert read["beds"].dtype == "int64"
    paths = [path if isinstance(path, str) else None for path in read["photo_path"]]
    assert [path and (tmp_path / path).read_bytes() for path in paths] == [PICTURES["red"], None, PICTURES["blue"]]


def test_mistakes_are_said(tmp_path):
    rows = write(tmp_path / "rows.csv", ["http://example.org/a.png"])
    for words, values in [
        ((rows, "--column", "foto"), ("foto", "photo")),
        ((rows, "--column", "photo", "-o", rows), ("rows.csv",)),
        ((rows, "--column", "photo", "--into", tmp_path.parent / "elsewhere"), ("elsewhere", "rows_fetched.csv")),
        ((rows, "--column", "photo", "--path_column", "price"), ("price",)),
        ((rows, "--column", "photo", "-o", tmp_path / "out.jsonl"), (".csv",)),
        ((tmp_path / "rows.txt", "--column", "photo"), ("rows.txt", ".csv")),
    ]:
        with pytest.raises(AssertionError, match=says(*values)):
            assert run(*words) == 0


def test_training_reaches_out_to_nothing(tmp_path, monkeypatch):
    """A column of URLs is refused with the command that downloads."""
    monkeypatch.setattr(socket, "getaddrinfo", None)
    urls = Dataset.from_dict({"photo": ["https://example.org/a.png"] * 3, "price": [1.0, 2.0, 3.0]})
    assert urls.features["photo"] == Value("string")
    urls.to_csv(tmp_path / "rows.csv")
    for options in ({"image": "photo"}, {"audio": "photo"}):
        with pytest.raises(ValueError, match=says("photo", "https://example.org/a.png", "mm_hf fetch", "photo_path")):
            load_splits(tmp_path / "rows.csv", Columns(label="price", **options))
