"""Services of an export give the answers of the service of its checkpoint, from the folder of the export alone."""

import csv
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from messages import says
from starlette.testclient import TestClient

from mm_hf.cli import main
from mm_hf.serve.app import make_app
from mm_hf.serve.backend import Answer, RowError
from mm_hf.serve.onnx_backend import OnnxBackend
from mm_hf.serve.service import Service, Settings


TEXTS = ["what colour is the big house ?", "a small red house", "blue"]
SLOW = ["ctc", "generation", "multi_task", "question_answering", "regression", "retrieval"]


@pytest.fixture(scope="module")
def rows(pictures) -> list[dict]:
    """Every pattern of presence."""
    return [
        {"text": TEXTS[0]},
        {"image": pictures[0]},
        {"image": pictures[1], "text": TEXTS[1]},
        {"image": pictures[1], "text": TEXTS[2]},
        {"image": None, "text": TEXTS[1]},
        {"image": pictures[2], "question": TEXTS[0]},
    ]


def as_json(row: dict, encoded) -> dict:
    return {key: encoded(value) if isinstance(value, bytes) else value for key, value in row.items()}


def ask(client, rows: list[dict], encoded, **options) -> list[dict]:
    reply = client.post("/predict", json={"rows": [as_json(row, encoded) for row in rows], **options})
    assert reply.status_code == 200, reply.text
    return reply.json()["answers"]


@pytest.mark.parametrize("options", [{"top_k": None}, {"top_k": 2}, {}, {"abstain_below": 0.5}, {"abstain_below": 1}])
def test_the_answers_are_the_pipelines(exported_client, rows, pipe, encoded, close_to, options):
    answers = [answer["answer"] for answer in ask(exported_client, rows, encoded, **options)]
    assert close_to(answers, [pipe(row, **options) for row in rows])


def test_what_it_describes_is_what_torch_describes(exported_client, open_service):
    """Rows, labels, columns; evidence aside, which an export does not give, and costs."""
    _, client = open_service("classification")
    one, other = (each.get("/openapi.json").json() for each in (exported_client, client))
    schemas = [each["components"]["schemas"] for each in (one, other)]
    assert set(schemas[0]) == set(schemas[1])
    for name in ("Row", "Answer", "Error"):
        assert schemas[0][name] == schemas[1][name]
    assert schemas[0]["Request"]["example"] == schemas[1]["Request"]["example"]
    assert {*other["paths"]} - {*one["paths"]} == {"/explain"}
    assert one["info"]["description"] == other["info"]["description"]
    options = [set(each["Request"]["properties"]) for each in schemas]
    assert options[1] - options[0] == {"costs"}
    assert exported_client.get("/ready").json()["backend"] == "onnx"


def test_evidence_is_refused(exported_client, encoded, rows):
    reply = exported_client.post("/explain", json={"rows": [as_json(rows[0], encoded)]})
    assert reply.status_code == 422
    assert reply.json()["error"]["kind"] == "no_evidence"
    assert re.search(says("onnx", "/predict", "torch"), reply.json()["error"]["message"])


def test_a_bad_row_does_not_hurt_its_neighbours(exported_client, rows, pipe, encoded, close_to):
    bad = [{"image": rows[1]["image"][:40]}, {"picture": "a"}, {"text": ""}, {"image": rows[1]["image"], "text": ""}]
    answers = ask(exported_client, [rows[1], *bad, rows[3]], encoded)
    assert [set(answer) for answer in answers] == [{"answer"}, *[{"error"}] * len(bad), {"answer"}]
    assert close_to([answers[0]["answer"], answers[-1]["answer"]], [pipe(rows[1]), pipe(rows[3])])


def test_a_row_that_only_its_tokens_show_to_be_bad(export_of, tmp_path, rows):
    """A tokenizer that makes nothing of a text: found out when the rows go through the model together."""
    shutil.copytree(export_of("classification"), tmp_path / "exported")
    tokenizer, manifest = (tmp_path / "exported" / name for name in ("tokenizer.json", "manifest.json"))
    changed = json.loads(tokenizer.read_text())
    changed |= {"post_processor": None, "normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": ""}}
    tokenizer.write_text(json.dumps(changed))
    changed = json.loads(manifest.read_text())
    next(each for each in changed["modalities"] if each["name"] == "text")["prepare"]["unk_id"] = None
    manifest.write_text(json.dumps(changed))
    backend = OnnxBackend.open(tmp_path / "exported", threads=1)
    loaded = [backend.load(row) for row in (rows[0], {"text": "a"}, rows[1])]
    first, bad, last = backend.answer(loaded, [{}] * 3)
    assert isinstance(first, Answer)
    assert isinstance(last, Answer)
    assert isinstance(bad, RowError)
    assert not bad.ours
    assert re.search(says("'a'"), bad.message)


def test_options_that_are_refused(exported_client):
    for options, values in (
        ({"coverage": 0.9}, (0.9, "--calibrate")),
        ({"coverage": "most"}, ("coverage", "'most'")),
        ({"top_k": True}, ("top_k", True)),
        ({"abstain_below": 2}, ("abstain_below", 2)),
        ({"costs": {"wrong": 1}}, ("'costs'",)),
    ):
        reply = exported_client.post("/predict", json={"rows": [{"text": "a"}], **options})
        assert reply.status_code == 422
        assert re.search(says(*values), reply.json()["error"]["message"]), reply.json()


def test_confidences_are_noted(exported_client, rows, encoded, pipe):
    backend = exported_client.service.backend
    loaded = [backend.load(row) for row in rows[:3]]
    answers = backend.answer(loaded, [{}, {"top_k": 1}, {"abstain_below": 1}])
    assert [each.confidences[""] for each in answers] == pytest.approx(
        [pipe(row, top_k=1)[0]["score"] for row in rows[:3]], abs=1e-4
    )
    assert answers[2].value == []


def test_sixteen_threads(exported_client, rows, pipe, encoded, close_to):
    """Each gets the answer to its own row, whatever goes through the graphs together."""
    expected = [pipe(row) for row in rows]

    def asks(number: int) -> bool:
        places = [(number + turn) % len(rows) for turn in range(6)]
        return all(
            close_to(ask(exported_client, [rows[place]], encoded)[0]["answer"], expected[place]) for place in places
        )

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(asks, range(16))) == [True] * 16


def test_a_server_of_a_folder_that_was_copied(export_of, start_server, tmp_path, rows, pipe, encoded, close_to):
    """The export alone, elsewhere; it stops as others do, and `--threads` is for onnxruntime."""
    shutil.copytree(export_of("classification"), tmp_path / "elsewhere")
    (tmp_path / "elsewhere/runtime.py").write_text("raise SystemExit('nothing of this folder runs')\n")
    running = start_server(str(tmp_path / "elsewhere"), "--threads", "1")
    with httpx.Client(base_url=running.url, timeout=None) as client:
        assert client.get("/ready").json() == {"status": "ready", "backend": "onnx"}
        assert close_to([answer["answer"] for answer in ask(client, rows, encoded)], [pipe(row) for row in rows])
    running.end()
    assert running.process.returncode == 0
    assert "stopped" in running.log


def test_what_the_command_refuses(export_of, stored, tmp_path, monkeypatch):
    """Before it listens."""
    exported, run = tmp_path / "exported", tmp_path / "run"
    shutil.copytree(export_of("classification"), exported)
    shutil.copytree(stored / "heads/classification", run)
    shutil.copytree(exported, run / "onnx")
    outdated = json.loads((exported / "manifest.json").read_text()) | {"checkpoint": {"model.safetensors": "0"}}
    (run / "onnx/manifest.json").write_text(json.dumps(outdated))
    (run / "checksums.json").write_text(json.dumps({"xxh3_64": {"model.safetensors": "1"}}))
    head = stored / "heads/question_answering"
    for words, values in (
        ([head, "--backend", "onnx"], (head / "onnx", f"mm_hf export {head}")),
        ([run, "--backend", "onnx"], (run / "onnx", f"mm_hf export {run} --overwrite")),
        ([run, "--backend", "onnx", "--export_folder", tmp_path], (tmp_path, "mm_hf export")),
        ([run, "--export_folder", exported], (exported, "--backend onnx")),
        ([exported, "--backend", "torch"], (exported, "'torch'")),
        ([exported, "--export_folder", exported], (exported, "--export_folder")),
        ([exported, "--device", "cuda"], ("--device", "'cuda'")),
        ([exported, "--trust_remote_code"], ("--trust_remote_code", True)),
        ([exported, "--write_handler", tmp_path / "handler"], ("--write_handler",)),
        ([exported, "--num_beams", 3], ("--num_beams", 3)),
        ([tmp_path], (tmp_path, "config.json")),
    ):
        with pytest.raises(SystemExit, match=says(*values)):
            main(["serve", *map(str, words), "--port", "0"])


def test_a_setting_that_the_model_does_not_have(export_of):
    with pytest.raises(ValueError, match=says("max_new_tokens", 3)):
        OnnxBackend.open(export_of("classification"), 1, max_new_tokens=3)


def test_a_damaged_graph(export_of, tmp_path):
    shutil.copytree(export_of("classification"), tmp_path / "exported")
    (tmp_path / "exported/fuse.onnx").write_bytes(b"none")
    with pytest.raises(ValueError, match=says(tmp_path / "exported")):
        OnnxBackend.open(tmp_path / "exported", 1)


# ---- Every head


def rows_of(head: str, stored, pictures: list[bytes]) -> list[dict]:
    if head == "ctc":
        return [{"audio": sound(length)} for length in (16000, 9000, 12000)]
    if head == "regression":
        house = {"beds": 3, "kind": "old"}
        steps = [[1.0, 2.0], [3.0, None], [4.0, 1.0]]
        rows = [{"table": house, "series": steps}, {"table": {"beds": None, "kind": "ruin"}}, {"series": steps[:2]}]
        return [*rows, {"table": {"beds": 9}, "series": [[0.0, 1.0]]}]
    with open(stored / "rows/rows.csv") as file:
        texts = [row["text"] for row in csv.DictReader(file)][:3]
    return [
        {"image": pictures[0], "text": texts[0]},
        {"image": pictures[0], "text": texts[1]},
        {"text": texts[2]},
        {"image": pictures[1]},
    ]


def sound(length: int) -> bytes:
    """A file of a tone."""
    import io
    import wave

    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16000)
        writer.writeframes((np.sin(np.arange(length) * 0.03) * 2**14).astype("<i2").tobytes())
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("head", SLOW)
def test_every_head(head, export_of, open_service, stored, pictures, encoded, close_to):
    _, client = open_service(head)
    service = Service(Settings())
    service.open(lambda: OnnxBackend.open(export_of(head), threads=1))
    rows = rows_of(head, stored, pictures)
    with TestClient(make_app(service), raise_server_exceptions=False) as exported:
        found, expected = (ask(each, rows, encoded) for each in (exported, client))
        assert all("answer" in answer for answer in expected)
        assert close_to(found, expected)
        of_both = [each.get("/openapi.json").json()["components"]["schemas"] for each in (exported, client)]
        assert of_both[0]["Row"] == of_both[1]["Row"]
        assert of_both[0]["Answer"] == of_both[1]["Answer"]
    service.close()


@pytest.mark.slow
def test_the_longest_text_is_what_is_asked_for(export_of, pictures):
    whole, short = (OnnxBackend.open(export_of("generation"), 1, most) for most in (None, 1))
    row = {"image": pictures[0], "text": TEXTS[0]}
    texts = [each.answer([each.load(row)], [{}])[0].value[0]["answer"] for each in (whole, short)]
    assert texts[0].startswith(texts[1])
    assert len(texts[1].split()) <= 1 < len(texts[0].split())
