"""What a real server refuses, and a service of an export: each kind of bad body with a 4xx and a sentence, and it
goes on."""

import io
import json
import re
import socket
import struct
import zlib

import pytest
from messages import says
from PIL import Image

from mm_hf.commands.serve import is_loopback
from mm_hf.serve.server import listen


TYPE = {"Content-Type": "application/json"}
DEEP = b"[" * 100_000


def picture(width: int, height: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, kind)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header says that it is huge, of a few bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


# By name the body, the status, the kind of the error, and values of its message.
BODIES = {
    "nothing": (b"", 400, "empty", ["rows"]),
    "no JSON": (b"rows=1", 400, "bad_json", ["UTF-8"]),
    "half of it": (b'{"rows": [{"text": "a"', 400, "bad_json", ["JSON"]),
    "two of it": (b'{"rows": []}{"rows": []}', 400, "bad_json", ["JSON"]),
    "no UTF-8": (b'{"rows": [{"text": "\xff\xfe"}]}', 400, "bad_json", ["UTF-8"]),
    "NaN": (b'{"rows": [{"text": NaN}]}', 400, "bad_json", ["NaN", "null"]),
    "infinite": (b'{"rows": [{"text": -Infinity}]}', 400, "bad_json", ["-Infinity"]),
    "a huge number": (b'{"rows": ' + b"9" * 100_000 + b"}", 400, "bad_json", ["digits"]),
    "deep lists": (b'{"rows": ' + DEEP, 400, "bad_json", [64]),
    "deep lists that end": (b'{"rows": ' + b"[" * 80 + b"]" * 80 + b"}", 400, "bad_json", [64]),
    "a key twice": (b'{"rows": [{"text": "a", "text": "b"}]}', 400, "bad_json", ["'text'"]),
    "a list": ([{"text": "a"}], 422, "bad_request", ["list", "rows"]),
    "null": (None, 422, "bad_request", ["NoneType", "rows"]),
    "no rows": ({}, 422, "bad_request", ["rows", "None"]),
    "a row alone": ({"text": "a"}, 422, "bad_request", ["rows", "'text'"]),
    "rows that are none": ({"rows": {"text": "a"}}, 422, "bad_request", ["rows"]),
    "empty rows": ({"rows": []}, 422, "bad_request", ["rows"]),
    "too many rows": ({"rows": [{"text": "a"}] * 9}, 413, "too_many_rows", [9, 8, "--max_rows"]),
    "unknown option": ({"rows": [{"text": "a"}], "topk": 1}, 422, "bad_request", ["'topk'", "'top_k'"]),
    "an option that is none": ({"rows": [{"text": "a"}], "top_k": -1}, 422, "bad_request", ["top_k", -1]),
    "an option of another type": ({"rows": [{"text": "a"}], "top_k": {}}, 422, "bad_request", ["top_k"]),
    "not calibrated": ({"rows": [{"text": "a"}], "coverage": 0.9}, 422, "bad_request", [0.9, "--calibrate"]),
    "evidence is another route": ({"rows": [{"text": "a"}], "evidence": True}, 422, "bad_request", ["'evidence'"]),
}
# By name a row, and values of its message.
ROWS = {
    "no object": ("a text", ["'a text'"]),
    "null": (None, ["None"]),
    "nothing in it": ({}, ["image", "text"]),
    "nothing but gaps": ({"image": None, "text": None}, ["image", "text"]),
    "unknown key": ({"txt": "a"}, ["'txt'", "'text'"]),
    "a label": ({"text": "a", "label": "blue"}, ["'label'"]),
    "a key of another model": ({"audio": {"base64": "AAAA"}}, ["'audio'"]),
    "a path": ({"image": "/etc/passwd"}, ["image", "/etc/passwd", "base64"]),
    "an address": ({"image": "http://127.0.0.1:1/a.png"}, ["image", "http://127.0.0.1:1/a.png"]),
    "a path in a dict": ({"image": {"path": "/etc/passwd"}}, ["image", "'path'", "base64"]),
    "a path beside bytes": ({"image": {"path": "/etc/passwd", "base64": "AAAA"}}, ["'base64'", "'path'"]),
    "bytes as a text": ({"image": {"bytes": "AAAA"}}, ["'bytes'", "base64"]),
    "a path for a video": ({"video": "/dev/zero"}, ["video", "/dev/zero"]),
    "a path among pictures": ({"image": ["/etc/passwd"]}, ["/etc/passwd", "base64"]),
    "base 64 that is none": ({"image": {"base64": "%%%%"}}, ["base64"]),
    "half of base 64": ({"image": {"base64": "AAAAA"}}, ["base64"]),
    "base 64 of nothing": ({"image": {"base64": ""}}, ["image", "null"]),
    "base 64 that is a number": ({"image": {"base64": 7}}, ["base64", 7]),
    "a picture of numbers": ({"image": [[0, 1], [1, 0]]}, ["image", "base64"]),
    "two texts": ({"text": "a", "question": "b"}, ["'text'", "'question'"]),
    "a text of numbers": ({"text": 5}, ["text", 5]),
    "an empty text": ({"text": ""}, ["text"]),
    "half of a letter": ({"text": "\ud800"}, ["Unicode"]),
    "more texts than places": ({"text": ["a", "b"]}, [2, 1]),
    "a long text": ({"text": "a" * 100_001}, ["100,001", "characters", "100,000", "--max_characters"]),
}
# By name the content of a file, and values of its message.
FILES = {
    "no picture": (b"no picture at all", ["JPEG", "PNG"]),
    "a broken picture": (picture(40, 40)[:60], ["picture"]),
    "a page": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ["picture"]),
    "a program for printers": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", ["picture"]),
    "too many pixels": (bomb(2500, 2000), ["5,000,000", "pixels", "4,000,000", "--max_pixels"]),
    "a bomb": (bomb(60_000, 60_000), ["picture"]),
    "a thread": (picture(2000, 1), ["2000", 1000]),
}


@pytest.fixture(params=["torch", "onnx"])
def asked(request):
    """Asks the server, and a service of an export that has the same limits."""
    return request.getfixturevalue({"torch": "client", "onnx": "exported_client"}[request.param])


def after(client) -> bool:
    """Whether it still answers."""
    return client.post("/predict", json={"rows": [{"text": "a"}]}).status_code == 200


def check(reply, status: int, kind: str, values: list):
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert error["kind"] == kind
    assert re.search(says(*values), error["message"]), error["message"]


@pytest.mark.parametrize("name", BODIES)
def test_bodies(asked, name):
    body, status, kind, values = BODIES[name]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    check(asked.post("/predict", content=content, headers=TYPE), status, kind, values)
    assert after(asked)


@pytest.mark.parametrize("name", ROWS)
def test_rows(asked, name):
    row, values = ROWS[name]
    reply = asked.post("/predict", content=json.dumps({"rows": [row]}).encode(), headers=TYPE)
    assert reply.status_code == 422
    (answer,) = reply.json()["answers"]
    assert answer["error"]["kind"] == "bad_row"
    assert re.search(says(*values), answer["error"]["message"]), answer["error"]["message"]
    assert after(asked)


@pytest.mark.parametrize("name", FILES)
def test_files(asked, encoded, name):
    content, values = FILES[name]
    as_row = asked.post("/predict", json={"rows": [{"image": encoded(content)}]})
    as_form = asked.post("/predict", files={"image": ("a.png", content)})
    for reply in (as_row, as_form):
        assert reply.status_code == 422
        (answer,) = reply.json()["answers"]
        assert answer["error"]["kind"] == "bad_row"
        assert re.search(says(*values), answer["error"]["message"]), answer["error"]["message"]
    assert after(asked)


def test_bodies_that_are_too_large(client):
    """Also where the length is not said before."""
    large = json.dumps({"rows": [{"text": "a" * 4_000_000}]}).encode()
    check(client.post("/predict", content=large, headers=TYPE), 413, "too_large", [3000000, "--max_body_bytes"])
    pieces = (large[place : place + 100_000] for place in range(0, len(large), 100_000))
    check(client.post("/predict", content=pieces, headers=TYPE), 413, "too_large", [3000000])
    assert after(client)


def test_types_and_codings(client):
    body = b'{"rows": [{"text": "a"}]}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "image/png"):
        check(client.post("/predict", content=body, headers={"Content-Type": kind}), 415, "bad_type", [kind])
    for headers in ({**TYPE, "Content-Encoding": "gzip"}, {"Content-Type": "application/json; charset=utf-16"}):
        check(client.post("/predict", content=body, headers=headers), 415, "bad_encoding", [])
    assert after(client)


@pytest.mark.parametrize(
    ("kind", "content", "status"),
    [
        ("multipart/form-data", b"--a\r\n\r\n--a--\r\n", 400),
        ("multipart/form-data; boundary=a", b"--b\r\nno form", 400),
        ("multipart/form-data; boundary=a", b"--a--\r\n", 400),
        (
            "multipart/form-data; boundary=a",
            b'--a\r\nContent-Disposition: form-data; name="image"\r\n\r\n/etc/x\r\n--a--',
            422,
        ),
        (
            "multipart/form-data; boundary=a",
            b'--a\r\nContent-Disposition: form-data; name="txt"\r\n\r\na\r\n--a--',
            422,
        ),
        (
            "multipart/form-data; boundary=a",
            b'--a\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n{\r\n--a--',
            422,
        ),
    ],
)
def test_forms(client, kind, content, status):
    reply = client.post("/predict", content=content, headers={"Content-Type": kind})
    assert reply.status_code == status, reply.text
    assert after(client)


def test_routes_that_are_not_there(client):
    for method, route, status in (
        ("GET", "/predict", 405),
        ("POST", "/", 405),
        ("GET", "/docs/../../etc/passwd", 404),
    ):
        check(client.request(method, route), status, "no_route", [status, "/predict"])
    assert client.get("/docs/..%2f..%2fpyproject.toml").status_code == 404
    assert after(client)


def test_a_client_that_leaves(client, server):
    """In the middle of its body, and before its answer."""
    host, port = server.url.removeprefix("http://").split(":")
    body = b'{"rows": [{"text": "a"}]}'
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    for sent in (head % 1000 + body, head % len(body) + body, b"\0\1\2 no HTTP\r\n\r\n"):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(sent)
    assert after(client)


@pytest.mark.parametrize(
    ("host", "own"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("example", False)]
)
def test_addresses_of_this_machine_alone(host, own):
    """All others bring a warning."""
    assert is_loopback(host) == own


def test_a_port_that_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=says("127.0.0.1", port, "--port")):
            listen("127.0.0.1", port)
