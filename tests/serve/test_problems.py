"""The problems that people meet when they deploy: each is made to happen, and then it is seen that it is solved.
docs/deployment_problems.md has the list, and says for each which test this is; some are beside what they belong to."""

import json
import re
import shutil
import socket
import threading

import numpy as np
import pytest
import tiny_models as tiny
import torch
from messages import says
from PIL import Image
from transformers import AutoConfig

import mm_hf
from mm_hf import MMFusionForClassification, MMFusionProcessor
from mm_hf.data import Columns, MultimodalCollator
from mm_hf.models.versions import VERSION, major_of, versions_here
from mm_hf.serve.backend import PipelineBackend
from mm_hf.serve.service import Settings


TEXTS = ["blue", "what colour is the big house ?", "is the small house the red house ?"]


def bytes_of(model) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


# ---- Preprocessing


def test_preprocessing_by_hand_gives_other_answers(pipe, stored, client, pictures, encoded, close_to):
    """The service prepares pictures as the training did; a service that somebody writes anew does not."""
    path = stored / "rows/photos/1.png"
    processor = MMFusionProcessor.from_pretrained(stored / "heads/classification")
    collator = MultimodalCollator(processor, Columns("photo"), root=str(stored))
    trained = collator([{"photo": str(path)}])
    reply = client.post("/predict", json={"rows": [{"image": encoded(path.read_bytes())}], "top_k": None})
    served = {one["label"]: one["score"] for one in reply.json()["answers"][0]["answer"]}

    def scores(pixels: torch.Tensor) -> dict[str, float]:
        inputs = {"pixel_values": pixels, "vision_index": torch.tensor([0])}
        chances = pipe.model(**inputs).logits[0].softmax(-1).tolist()
        return dict(zip(pipe.model.config.id2label.values(), chances))

    assert close_to(scores(trained["pixel_values"]), served)
    with Image.open(path) as picture:  # looks right, runs, and was never seen in training
        small = np.asarray(picture.convert("RGB").resize((16, 16), Image.Resampling.NEAREST)) / 255
    by_hand = torch.tensor(small, dtype=torch.float32).permute(2, 0, 1)[None]
    assert by_hand.shape == trained["pixel_values"].shape
    assert not close_to(scores(by_hand), served)


# ---- The start


def test_nobody_waits_for_the_first_answer(stored, open_service):
    """It is ready when it has answered, alone and in a whole batch, and not when the weights are there."""
    service, client = open_service("classification", Settings(max_batch=4), opened=False)
    warmed, go_on = [], threading.Event()

    class Slow(PipelineBackend):
        def answer(self, rows, options, evidence=False):
            go_on.wait()
            warmed.append(len(rows))
            return super().answer(rows, options, evidence)

    backend = Slow(mm_hf.pipeline(model=str(stored / "heads/classification")))
    loading = threading.Thread(target=service.open, args=[lambda: backend])
    loading.start()
    assert client.get("/health").status_code == 200
    assert client.get("/ready").json()["error"]["kind"] == "loading"
    go_on.set()
    loading.join()
    assert client.get("/ready").status_code == 200
    assert warmed == [1, 4]


# ---- Memory


def test_several_places_share_one_encoder():
    """Two texts and three pictures a row cost no second encoder."""
    one, several = tiny.model(), tiny.model(places={"text": 2}, num_images=3)
    encoders = bytes_of(one.base_model.encoders)
    assert bytes_of(several.base_model.encoders) == encoders
    assert bytes_of(several) - bytes_of(one) < encoders / 10


def test_sixteen_bits_take_half_of_the_memory(stored, pipe, pictures):
    rows = [{"image": pictures[0], "text": TEXTS[1]}, {"text": TEXTS[0]}]
    backend = PipelineBackend.open(str(stored / "heads/classification"), device="cpu", dtype=torch.bfloat16)
    assert 2 * bytes_of(backend.pipe.model) == bytes_of(pipe.model)
    answers = backend.answer([backend.load(row) for row in rows], [{"top_k": None}] * 2)
    for answer, expected in zip(answers, pipe(rows, top_k=None)):
        found = {one["label"]: one["score"] for one in answer.value}
        assert found == {one["label"]: pytest.approx(one["score"], abs=0.02) for one in expected}


# ---- Rows of unlike sizes


@pytest.mark.parametrize("head", ["classification", "regression"])
def test_neighbours_of_other_lengths_change_no_answer(head, open_service, pictures, encoded, close_to):
    """Texts of one and of seven words, series of one and of six steps, with and without a picture, in one batch."""
    rows = {
        "classification": [
            {"text": TEXTS[0]},
            {"text": TEXTS[2], "image": encoded(pictures[0])},
            {"image": encoded(pictures[1])},
            {"text": TEXTS[1]},
        ],
        "regression": [
            {"series": [[1, 2]]},
            {"series": [[n, n % 3] for n in range(6)], "table": {"beds": 3}},
            {"table": {"beds": None, "kind": "old"}},
        ],
    }[head]
    service, client = open_service(head)
    together = client.post("/predict", json={"rows": rows}).json()["answers"]
    assert service.backend.batches == [len(rows)]
    alone = [client.post("/predict", json={"rows": [row]}).json()["answers"][0] for row in rows]
    assert [set(answer) for answer in together] == [{"answer"}] * len(rows)
    assert close_to(together, alone)


# ---- Versions


def test_the_version_is_written_once_more_and_is_the_same():
    assert mm_hf.__version__ == VERSION


@pytest.mark.parametrize(
    ("version", "major"),
    [("2.13.0+cpu", "2"), ("5.24.0", "5"), ("0.1.0", "0.1"), ("0.12.3", "0.12"), ("0", "0.0"), ("x", None), (5, None)],
)
def test_what_is_compatible(version, major):
    assert major_of(version) == major


@pytest.fixture
def made_with(stored, tmp_path):
    """A function that gives a checkpoint that other versions made."""

    def make(name: str, **others: str) -> str:
        source, folder = str(stored / "heads/classification"), tmp_path / name
        MMFusionForClassification.from_pretrained(source).save_pretrained(folder)
        MMFusionProcessor.from_pretrained(source).save_pretrained(folder)
        (folder / "checksums.json").unlink()
        values = json.loads((folder / "config.json").read_text())
        assert values["versions"] == versions_here()
        values["versions"] |= others
        (folder / "config.json").write_text(json.dumps(values))
        return str(folder)

    return make


def told(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if "was made with" in record.getMessage()]


@pytest.mark.parametrize("trusted", [False, True])
def test_another_major_version_is_told_once(made_with, caplog, trusted):
    """Whichever way it is opened, with the package's code or with its own."""
    there = "3.1.4" if trusted else "4.57.1"  # a sentence is told once a process
    folder = made_with("other", transformers=there, torch="2.0.1")
    backend = PipelineBackend.open(folder, trusted, device="cpu")
    assert backend.answer([backend.load({"text": TEXTS[0]})], [{}])[0].value
    PipelineBackend.open(folder, trusted, device="cpu")
    if not trusted:
        AutoConfig.from_pretrained(folder)
        MMFusionForClassification.from_pretrained(folder)
    (message,) = told(caplog)
    here = versions_here()["transformers"]
    assert re.search(says("transformers", f"{there[0]}.x", here, "mm_hf evaluate"), message)
    assert "torch" not in message  # of the same major version


def test_a_checkpoint_of_before_says_with_which_transformers(stored, tmp_path, caplog):
    folder = shutil.copytree(stored / "heads/classification", tmp_path / "before")
    assert mm_hf.pipeline(model=str(folder))
    assert told(caplog) == []
    values = json.loads((folder / "config.json").read_text())
    assert "versions" not in values
    (folder / "config.json").write_text(json.dumps({**values, "transformers_version": "2.0.0"}))
    assert mm_hf.pipeline(model=str(folder))
    assert re.search(says("transformers", "2.x"), *told(caplog))


def test_the_same_versions_and_nonsense_are_no_news(made_with, caplog):
    assert mm_hf.pipeline(model=made_with("same"))
    assert mm_hf.pipeline(model=made_with("earlier", mm_hf="0.1.0"))  # answers alike: tests/test_stored_checkpoints.py
    assert mm_hf.pipeline(model=made_with("nonsense", torch="a fork", transformers="\n" * 5))
    assert told(caplog) == []
    with pytest.raises(ValueError, match="versions"):
        mm_hf.pipeline(model=made_with("number", torch=2))


def test_a_checkpoint_of_a_later_mm_hf_is_told(made_with, caplog):
    assert mm_hf.pipeline(model=made_with("later", mm_hf="0.9.0"))
    (message,) = told(caplog)
    assert re.search(says("mm_hf", "0.9.x", mm_hf.__version__), message)


# ---- Threads and time


@pytest.fixture(scope="module")
def busy(start_server):
    """A server that has two threads, on a machine whose variables say one, and that gives a request a second."""
    return start_server("classification", "--threads", "2", "--max_seconds", "1")


def test_threads_are_those_that_are_asked_for(busy, server):
    """Several servers on one machine each take all cores, unless they are told: the log says how many it takes."""
    assert re.search(r"ready: .* 2 \w* ?threads", busy.log)
    assert re.search(r"ready: .* 1 \w* ?threads", server.log)  # OMP_NUM_THREADS


def test_a_body_that_does_not_come(busy):
    """A client that sends half of it and waits has its answer, and holds nobody up."""
    host, port = busy.url.removeprefix("http://").split(":")
    head = "POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(head.encode() + b'{"rows": ')
        status = slow.recv(65536).split(b"\r\n")[0]
    assert b" 408 " in status


# ---- Logs


def test_a_log_says_which_row_and_not_what_it_holds(pipe, stored, caplog, pictures):
    """Of a pipeline that skips rows; the error of one that stops names the value, to who asked."""
    secret = "aubergine"
    good = {"text": TEXTS[0]}
    bad = [
        {"image": f"/home/{secret}.png"},
        {"image": secret.encode()},
        {"text": {secret: 1}},
        secret,
        {"image": pictures[0][:50] + secret.encode()},
    ]
    answers = pipe([good, *bad, good], on_error="skip")
    assert [answer is None for answer in answers] == [False, *[True] * len(bad), False]
    lines = [record.getMessage() for record in caplog.records if "is skipped" in record.getMessage()]
    assert len(lines) == len(bad)
    for number, (row, line) in enumerate(zip(bad, lines), start=1):
        key = next(iter(row)) if isinstance(row, dict) else "ValueError"
        assert re.search(says(number, key), line), line
    assert secret not in caplog.text
    with pytest.raises(ValueError, match=says(4, secret)):
        pipe([good, good, good, good, secret])


def test_a_log_says_why_a_row_has_no_scores(stored, caplog):
    pipe = mm_hf.pipeline(model=str(stored / "heads/classification"))
    pipe.model.classifier.bias.data.fill_(float("nan"))
    assert pipe([{"text": TEXTS[0]}], on_error="skip") == [None]
    assert re.search(says("Row", 0, "NotFiniteError"), caplog.text)


# ---- Drift


def test_what_comes_is_seen_to_change(open_service, pictures, encoded):
    """A sensor that goes silent: the share of rows without a picture goes up, and the scores move, between two looks
    at the counters."""
    service, client = open_service("classification")
    vision = service.backend.config.modalities[0]

    def look() -> dict[str, float]:
        text = client.get("/metrics").text
        names = {
            "rows": "mm_hf_readable_rows_total",
            "absent": rf'mm_hf_absent_total{{modality="{vision}"}}',
            "scores": 'mm_hf_confidence_sum{task=""}',
            "scored": 'mm_hf_confidence_count{task=""}',
        }
        found = {key: re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE) for key, name in names.items()}
        return {key: float(match[1]) if match else 0.0 for key, match in found.items()}

    def week(rows: list[dict]) -> tuple[float, float]:
        before = look()
        assert client.post("/predict", json={"rows": rows}).status_code == 200
        now = {key: value - before[key] for key, value in look().items()}
        return now["absent"] / now["rows"], now["scores"] / now["scored"]

    whole = [{"image": encoded(picture), "text": TEXTS[1]} for picture in pictures[:6]]
    share, confidence = week(whole)
    assert share == 0
    later, moved = week([*whole[:2], *[{"text": row["text"]} for row in whole[2:]]])
    assert later == pytest.approx(4 / 6)
    assert abs(moved - confidence) > 1e-4
