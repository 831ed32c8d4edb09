"""A real server gives the answers of the pipeline, whatever way rows come, and many at once."""

import io
import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from datasets import Image as ImageFeature
from datasets import load_from_disk
from messages import says
from PIL import Image

from mm_hf.data.modalities.vision import decode_image


TEXTS = ["what colour is the big house ?", "a small red house", "blue"]


@pytest.fixture(scope="module")
def rows(pictures):
    """Every pattern of presence, as a pipeline takes it."""
    return [
        {"text": TEXTS[0]},
        {"image": pictures[0]},
        {"image": pictures[1], "text": TEXTS[1]},
        {"image": pictures[1], "text": TEXTS[2]},
        {"image": None, "text": TEXTS[1]},
    ]


@pytest.fixture(scope="module")
def expected(rows, pipe):
    return pipe(rows, top_k=None)


def as_json(row: dict, encoded) -> dict:
    return {key: encoded(value) if isinstance(value, bytes) else value for key, value in row.items()}


def test_json_rows(client, rows, expected, encoded, close_to):
    reply = client.post("/predict", json={"rows": [as_json(row, encoded) for row in rows], "top_k": None})
    assert reply.status_code == 200
    answers = reply.json()["answers"]
    assert [set(answer) for answer in answers] == [{"answer"}] * len(rows)
    assert close_to([answer["answer"] for answer in answers], expected)
    assert reply.headers["x-request-id"]


def test_a_file_as_browsers_write_it(client, rows, expected, encoded, close_to):
    url = "data:image/png;base64," + encoded(rows[1]["image"])["base64"]
    reply = client.post("/predict", json={"rows": [{"image": {"base64": url}}], "top_k": None})
    assert close_to(reply.json()["answers"][0]["answer"], expected[1])


def test_forms(client, rows, expected, close_to):
    for row, wanted in zip(rows, expected):
        files = {"image": ("a.png", row["image"])} if row.get("image") else {"text": (None, row["text"])}
        fields = {"text": row["text"]} if "text" in row and row.get("image") else {}
        reply = client.post("/predict", files=files, data={**fields, "top_k": "null"})
        assert reply.status_code == 200, reply.text
        assert close_to(reply.json()["answers"][0]["answer"], wanted)


def test_options_are_those_of_the_request(client, rows, expected, encoded, close_to):
    reply = client.post("/predict", json={"rows": [as_json(rows[2], encoded)], "top_k": 1})
    assert close_to(reply.json()["answers"][0]["answer"], expected[2][:1])
    above = expected[2][0]["score"] + 1e-3
    reply = client.post("/predict", json={"rows": [as_json(rows[2], encoded)], "abstain_below": above})
    assert reply.json()["answers"] == [{"answer": []}]


def test_what_each_modality_gave(client, rows, pipe, encoded, close_to):
    some = [rows[0], rows[2]]
    reply = client.post("/explain", json={"rows": [as_json(row, encoded) for row in some]})
    assert reply.status_code == 200
    assert close_to(reply.json()["answers"], pipe(some, evidence=True))


def test_a_photo_of_a_phone_stands_upright(client, pipe, encoded, close_to):
    """As the collator of a training decodes it: the file lies on its side, and says so."""
    picture = Image.new("RGB", (320, 200), "white")
    picture.paste("red", (0, 0, 320, 60))
    picture.paste("blue", (0, 0, 60, 200))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, plain = io.BytesIO(), io.BytesIO()
    picture.save(turned, "JPEG", exif=exif)
    picture.save(plain, "JPEG")
    asked = [{"image": encoded(file.getvalue())} for file in (turned, plain)]
    upright, lying = (one["answer"] for one in client.post("/predict", json={"rows": asked}).json()["answers"])
    in_training = decode_image({"photo": {"bytes": turned.getvalue(), "path": None}}, "photo")
    assert in_training.size == (200, 320)
    assert close_to(upright, pipe({"image": in_training}))
    assert not close_to(upright, lying)


def test_a_bad_row_does_not_hurt_its_neighbours(client, rows, expected, encoded, close_to):
    broken = {"image": encoded(rows[1]["image"][:40])}
    unknown = {"picture": encoded(rows[1]["image"])}
    path = {"image": "/etc/hostname"}
    empty = {"text": ""}
    asked = [as_json(rows[1], encoded), broken, unknown, as_json(rows[2], encoded), path, empty, {}]
    reply = client.post("/predict", json={"rows": asked, "top_k": None})
    assert reply.status_code == 200
    answers = reply.json()["answers"]
    assert [set(answer) for answer in answers] == [
        {name} for name in ("answer", *["error"] * 2, "answer", *["error"] * 3)
    ]
    assert close_to([answers[0]["answer"], answers[3]["answer"]], expected[1:3])
    assert {answers[place]["error"]["kind"] for place in (1, 2, 4, 5, 6)} == {"bad_row"}
    for place, values in (
        (2, ["picture", "'image'?"]),
        (4, ["image", "/etc/hostname", "base64"]),
        (6, ["image", "text"]),
    ):
        assert re.search(says(*values), answers[place]["error"]["message"])


def test_sixteen_threads(server, rows, expected, encoded, close_to):
    """Each gets the answer to its own row."""

    def ask(number: int) -> bool:
        with httpx.Client(base_url=server.url, timeout=None) as asking:
            for turn in range(6):
                place = (number + turn) % len(rows)
                body = {"rows": [as_json(rows[place], encoded)], "top_k": None}
                answer = asking.post("/predict", json=body).json()["answers"][0]["answer"]
                if not close_to(answer, expected[place]):
                    return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(16))) == [True] * 16


def test_logs_hold_nothing_of_a_row(client, server, encoded, pictures):
    secret = "aubergine"
    client.post("/predict", json={"rows": [{"text": secret}, {secret: 1}, {"image": secret}, {"text": ""}]})
    client.post(f"/predict?{secret}", content=f'{{"{secret}": '.encode(), headers={"Content-Type": "application/json"})
    reply = client.post("/predict", json={"rows": [{"image": encoded(pictures[0] + secret.encode())}]})
    while reply.headers["x-request-id"] not in server.log:  # its line comes through a pipe
        pass
    assert "rows=4 bad=3" in server.log
    assert secret not in server.log
    assert "127.0.0.1" not in server.log


@pytest.mark.slow
def test_five_hundred_rows(start_server, easy_vqa_folder, pipe, encoded, close_to):
    """Of a real data set, some without a part, from 16 clients that bring one to eight rows each time."""
    part = load_from_disk(str(easy_vqa_folder))["test"].cast_column("image", ImageFeature(decode=False))
    part = part.select(range(0, 19 * 500, 19))
    rows = [{"image": row["image"]["bytes"], "text": row["question"]} for row in part]
    rows = [{**row, "image": None} if number % 7 == 0 else row for number, row in enumerate(rows)]
    rows = [{**row, "text": None} if number % 7 == 3 else row for number, row in enumerate(rows)]
    starts, start = [], 0
    while start < len(rows):
        starts.append((start, start := start + 1 + len(starts) % 8))
    with httpx.Client(base_url=start_server("classification").url, timeout=None) as client:

        def ask(place):
            asked = [as_json(row, encoded) for row in rows[slice(*place)]]
            reply = client.post("/predict", json={"rows": asked, "top_k": None})
            assert reply.status_code == 200, reply.text
            return [answer["answer"] for answer in reply.json()["answers"]]

        with ThreadPoolExecutor(16) as clients:
            answers = [answer for some in clients.map(ask, starts) for answer in some]
    assert len(answers) == 500
    assert close_to(answers, pipe(rows, top_k=None))
