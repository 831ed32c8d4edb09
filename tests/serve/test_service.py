"""Services of all heads in this process: what they describe is what they take, and how they batch, wait and refuse."""

import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.openapi.models import OpenAPI
from messages import says

import mm_hf
from mm_hf.serve.backend import PipelineBackend
from mm_hf.serve.limits import Limits
from mm_hf.serve.service import Settings


HEADS = ["classification", "ctc", "generation", "multi_task", "question_answering", "regression", "retrieval"]
TEXT = {"text": "what colour is the big house ?"}


def wait_until(true):
    while not true():
        time.sleep(0.002)


@pytest.mark.parametrize("head", HEADS)
def test_what_it_describes_is_what_it_takes(head, open_service, close_to):
    service, client = open_service(head)
    described = client.get("/openapi.json").json()
    OpenAPI.model_validate(described)
    example = described["components"]["schemas"]["Request"]["example"]
    (row,) = example["rows"]
    modalities = service.backend.config.modalities
    assert {service.keys[key].modality.name for key in row} == set(modalities)
    assert set(described["components"]["schemas"]["Row"]["properties"]) == set(service.keys)
    reply = client.post("/predict", json=example)
    assert reply.status_code == 200, reply.text
    (answer,) = reply.json()["answers"]
    given = {key: service.keys[key].reader.from_request(item, key) for key, item in row.items()}
    assert close_to(answer["answer"], service.backend.pipe(given))
    references = set(re.findall(r'"\$ref": ?"#/components/schemas/(\w+)"', client.get("/openapi.json").text))
    assert references <= set(described["components"]["schemas"])


def test_labels_and_columns_are_described(open_service):
    service, client = open_service("question_answering")
    schema = client.get("/openapi.json").json()["components"]["schemas"]["Answer"]
    labels = schema["items"]["properties"]["answer"]["enum"]
    assert sorted(labels) == sorted(service.backend.config.id2label.values())
    _, client = open_service("regression")
    row = client.get("/openapi.json").json()["components"]["schemas"]["Row"]["properties"]
    assert row["table"]["properties"]["beds"]["type"] == "number"
    assert re.search(says("new", "old"), row["table"]["properties"]["kind"]["description"])
    assert row["series"]["items"]["minItems"] == 2


def test_tables_and_series(open_service, close_to):
    """Also in a form; what they cannot hold is told by its column."""
    service, client = open_service("regression")
    pipe = service.backend.pipe
    row = {"table": {"beds": 3, "kind": "old"}, "series": [[1, 2], [3, None]]}
    expected = pipe({"table": row["table"], "series": [[1, 2], [3, float("nan")]]})
    assert close_to(client.post("/predict", json={"rows": [row]}).json()["answers"], [{"answer": expected}])
    form = {"table": '{"beds": 3, "kind": "old"}', "series": "[[1, 2], [3, null]]"}
    assert close_to(
        client.post("/predict", files={k: (None, v) for k, v in form.items()}).json()["answers"][0]["answer"], expected
    )
    bad = [
        ({"table": {"bed": 3}}, ["'bed'", "'beds'"]),
        ({"table": {"beds": "many"}}, ["'beds'", "'many'"]),
        ({"table": {"beds": [3]}}, ["'beds'", 3]),
        ({"table": [3]}, ["table", 3]),
        ({"table": "/etc/passwd"}, ["table", "/etc/passwd"]),
        ({"series": "/etc/passwd"}, ["series", "/etc/passwd"]),
        ({"series": [[1, 2, 3]]}, [2, 3]),
        ({"series": [[1, 2], [3]]}, ["series"]),
        ({"series": [["a", 2]]}, ["series", "'a'"]),
        ({"series": []}, ["series"]),
        ({"series": [[1, 2]] * 100_001}, ["100,001", "steps", "--max_steps"]),
    ]
    answers = client.post("/predict", json={"rows": [row, *(one for one, _ in bad)]}).json()["answers"]
    assert close_to(answers[0]["answer"], expected)
    for (_, values), answer in zip(bad, answers[1:]):
        assert re.search(says(*values), answer["error"]["message"]), answer


def test_sounds(open_service, encoded):
    """A long one is refused by what its header says."""
    settings = Settings(Limits(sound_seconds=0.4))
    service, client = open_service("ctc", settings)
    sound = service.keys["audio"].reader.example_file(service.backend.processor, "audio")
    (answer,) = client.post("/predict", json={"rows": [{"audio": encoded(sound)}]}).json()["answers"]
    assert re.search(says("audio", 0.5, "seconds", 0.4, "--max_sound_seconds"), answer["error"]["message"])
    for broken in (sound[:30], b"RIFF", b"no sound"):
        (answer,) = client.post("/predict", json={"rows": [{"audio": encoded(broken)}]}).json()["answers"]
        assert re.search(says("sound"), answer["error"]["message"])


# ---- Batches


def ask_behind_the_gate(service, client, requests: list[dict]) -> list:
    """Sends requests while the model is held at its gate by a first one, and opens it when all wait."""
    gate = service.backend.gate
    gate.clear()
    rows = sum(len(request["rows"]) for request in requests)
    with ThreadPoolExecutor(len(requests) + 1) as pool:
        first = pool.submit(client.post, "/predict", json={"rows": [TEXT]})
        wait_until(lambda: service.in_work == 1 and not service.being_read and not len(service.batcher))
        others = [pool.submit(client.post, "/predict", json=request) for request in requests]
        wait_until(lambda: len(service.batcher) == rows)
        gate.set()
        assert first.result().status_code == 200
        return [other.result() for other in others]


def test_rows_of_several_requests_go_together(open_service, close_to):
    service, client = open_service("classification", Settings(max_batch=4))
    requests = [{"rows": [TEXT] * count, "top_k": top} for count, top in ((1, 1), (2, 2), (3, 3))]
    replies = ask_behind_the_gate(service, client, requests)
    assert service.backend.batches == [1, 4, 2]
    answers = [[answer["answer"] for answer in reply.json()["answers"]] for reply in replies]
    assert [[len(answer) for answer in each] for each in answers] == [[1], [2, 2], [3, 3, 3]]
    assert close_to(answers[2][0][:1], answers[0][0])
    text = client.get("/metrics").text
    assert "mm_hf_batch_rows_count 3.0" in text
    assert "mm_hf_batch_rows_sum 7.0" in text


def test_without_micro_batching(open_service):
    service, client = open_service("classification", Settings(max_batch=1))
    assert [reply.status_code for reply in ask_behind_the_gate(service, client, [{"rows": [TEXT]}] * 3)] == [200] * 3
    assert service.backend.batches == [1] * 4


def test_a_batch_that_fails_is_tried_row_by_row(open_service, caplog):
    """Who brings the fault has an answer of 500, the others theirs; neither names the fault's words."""
    service, client = open_service("classification")
    secret = service.backend.load({"text": "aubergine"})["items"]
    service.backend.fails = lambda rows: any(row["items"] == secret for row in rows)
    replies = ask_behind_the_gate(service, client, [{"rows": [{"text": "aubergine"}]}, {"rows": [TEXT, TEXT]}])
    assert [reply.status_code for reply in replies] == [500, 200]
    (answer,) = replies[0].json()["answers"]
    assert answer["error"]["kind"] == "failed"
    assert re.search(says("RuntimeError"), answer["error"]["message"])
    assert "secret" not in replies[0].text
    assert [set(answer) for answer in replies[1].json()["answers"]] == [{"answer"}] * 2
    assert "secret" not in caplog.text
    assert client.post("/predict", json={"rows": [TEXT]}).status_code == 200


def test_nobody_waits_for_company_that_does_not_come(open_service):
    """A single client has its answer at once, however long rows may wait for others."""
    service, client = open_service("classification", Settings(max_wait=1e6))
    assert client.post("/predict", json={"rows": [TEXT]}).status_code == 200
    assert service.backend.batches == [1]


# ---- Limits


def test_a_full_queue(open_service):
    service, client = open_service("classification", Settings(Limits(queue=4, rows=4)))
    service.backend.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(client.post, "/predict", json={"rows": [TEXT]})
        wait_until(lambda: service.in_work == 1 and not service.being_read and not len(service.batcher))
        waiting = pool.submit(client.post, "/predict", json={"rows": [TEXT] * 3})
        wait_until(lambda: len(service.batcher) == 3)
        refused = client.post("/predict", json={"rows": [TEXT] * 2})
        assert refused.status_code == 503
        assert refused.json()["error"]["kind"] == "busy"
        assert int(refused.headers["retry-after"]) >= 1
        last = pool.submit(client.post, "/predict", json={"rows": [TEXT]})
        wait_until(lambda: len(service.batcher) == 4)
        service.backend.gate.set()
        assert [each.result().status_code for each in (first, waiting, last)] == [200] * 3
    assert client.post("/predict", json={"rows": [TEXT] * 4}).status_code == 200


def test_too_many_requests_in_work(open_service):
    service, client = open_service("classification", Settings(Limits(queue=1, rows=1)))
    service.backend.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/predict", json={"rows": [TEXT]})
        wait_until(lambda: service.in_work == 1)
        assert client.post("/predict", json={"rows": [TEXT]}).json()["error"]["kind"] == "busy"
        service.backend.gate.set()
        assert first.result().status_code == 200


def test_time_is_up(open_service):
    """The rows of such a request are not answered later on."""
    service, client = open_service("classification")
    service.backend.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.post, "/predict", json={"rows": [TEXT]})
        wait_until(lambda: service.in_work == 1 and not service.being_read and not len(service.batcher))
        service.limits = Limits(seconds=2.0)
        late = client.post("/predict", json={"rows": [TEXT] * 3})
        assert late.status_code == 504
        assert re.search(says(2, "--max_seconds"), late.json()["error"]["message"])
        assert service.in_work == 1
        service.backend.gate.set()
        assert first.result().status_code == 200
    assert client.post("/predict", json={"rows": [TEXT] * 2}).status_code == 200
    assert service.backend.batches == [1, 2]
    assert 'mm_hf_errors_total{kind="timeout"} 1.0' in client.get("/metrics").text


def test_bodies_in_memory_are_counted(open_service):
    service, client = open_service("classification", Settings(Limits(body_bytes=1000)))
    service.bytes_in_work = 16 * 1000
    assert client.post("/predict", json={"rows": [TEXT]}).json()["error"]["kind"] == "busy"
    service.bytes_in_work = 0
    assert client.post("/predict", json={"rows": [TEXT]}).status_code == 200
    assert service.bytes_in_work == 0


# ---- Before and after


def test_before_the_model_is_loaded(open_service):
    _, client = open_service("classification", opened=False)
    assert client.get("/health").status_code == 200
    for reply in (client.get("/ready"), client.get("/openapi.json"), client.post("/predict", json={"rows": [TEXT]})):
        assert reply.status_code == 503
        assert reply.json()["error"]["kind"] == "loading"
        assert reply.headers["retry-after"]


def test_a_model_that_cannot_answer_is_not_served(open_service, stored):
    service, _ = open_service("classification", opened=False)
    pipe = mm_hf.pipeline(model=str(stored / "heads/classification"))
    next(pipe.model.parameters()).data.fill_(float("nan"))
    with pytest.raises(ValueError, match="logits"):
        service.open(lambda: PipelineBackend(pipe))
    assert not service.ready


# ---- Keys


def test_a_key(open_service):
    _, client = open_service("classification", Settings(api_key="aß-key"))
    body = {"json": {"rows": [TEXT]}}
    for headers in (
        {},
        {"Authorization": "Bearer other"},
        {"Authorization": "Basic aß-key".encode()},
        {"Authorization": "Bearer"},
    ):
        for reply in (client.post("/predict", headers=headers, **body), client.get("/metrics", headers=headers)):
            assert reply.status_code == 401
            assert reply.headers["www-authenticate"] == "Bearer"
            assert reply.json()["error"]["kind"] == "unauthorized"
    right = {"Authorization": "Bearer aß-key".encode()}
    assert client.post("/predict", headers=right, **body).status_code == 200
    assert client.get("/metrics", headers=right).status_code == 200
    assert client.get("/health").status_code == 200
    described = client.get("/openapi.json").json()
    assert described["paths"]["/predict"]["post"]["security"] == [{"key": []}]
    assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


# ---- Metrics


def test_what_is_counted(open_service, pictures, encoded):
    service, client = open_service("classification")
    both = {"image": encoded(pictures[0]), **TEXT}
    answers = client.post("/predict", json={"rows": [TEXT, both, {"x": 1}]}).json()["answers"]
    client.post("/predict", content=b"{", headers={"Content-Type": "application/json"})
    text = client.get("/metrics").text
    vision, words = service.backend.config.modalities
    for line in (
        'mm_hf_requests_total{route="predict",status="200"} 1.0',
        'mm_hf_requests_total{route="predict",status="400"} 1.0',
        'mm_hf_rows_total{route="predict"} 3.0',
        'mm_hf_errors_total{kind="bad_row"} 1.0',
        'mm_hf_errors_total{kind="bad_json"} 1.0',
        "mm_hf_readable_rows_total 2.0",
        f'mm_hf_absent_total{{modality="{vision}"}} 1.0',
        "mm_hf_queue_rows 0.0",
        "mm_hf_requests_in_work 0.0",
        'mm_hf_confidence_count{task=""} 2.0',
    ):
        assert line in text.splitlines(), line
    assert f'modality="{words}"' not in text
    total = sum(answer["answer"][0]["score"] for answer in answers[:2])
    counted = float(re.search(r'mm_hf_confidence_sum\{task=""\} (\S+)', text)[1])
    assert counted == pytest.approx(total)


def test_confidence_is_counted_by_task(open_service):
    service, client = open_service("multi_task")
    client.post("/predict", json={"rows": [TEXT]})
    text = client.get("/metrics").text
    counted = set(re.findall(r'mm_hf_confidence_count\{task="(\w+)"\} 1.0', text))
    kinds = {name: head.label_kind for name, head in service.backend.config.task_heads.items()}
    assert counted == {name for name, kind in kinds.items() if kind != "numbers"}


def test_threads_end_with_the_service(open_service):
    service, client = open_service("classification")
    assert client.post("/predict", json={"rows": [TEXT]}).status_code == 200
    service.close()
    assert not service.batcher.thread.is_alive()
    assert client.post("/predict", json={"rows": [TEXT]}).json()["error"]["kind"] == "stopping"
    assert threading.current_thread() is threading.main_thread()


def test_code_of_a_checkpoint_runs_where_it_is_trusted_alone(stored, tmp_path):
    """The classes of this package answer; what lies in the folder is not even read."""
    folder, ran = shutil.copytree(stored / "heads/classification", tmp_path / "run"), tmp_path / "ran"
    for name in ("configuration", "processing", "modeling", "pipelines"):
        (folder / f"{name}_mm_fusion.py").write_text(f"open({str(ran)!r}, 'w').close()\nraise ValueError('ran')\n")
    backend = PipelineBackend.open(str(folder), device="cpu")
    (answer,) = backend.answer([backend.load(TEXT)], [{}])
    assert answer.value
    assert not ran.exists()
    with pytest.raises(ValueError, match="ran"):
        PipelineBackend.open(str(folder), trust_remote_code=True, device="cpu")
    assert ran.exists()
