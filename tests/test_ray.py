"""The examples with Ray, on a cluster of two nodes on this machine: their answers are those of one process.
`make test-ray` brings Ray."""

import base64
import csv
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest


# Before ray is imported: as the examples set them for a cluster of their own.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
os.environ |= {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60"}
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
pytest.importorskip("ray", reason="ray is not installed: make test-ray")

import psutil

import mm_hf


REPOSITORY = Path(__file__).parent.parent
STORED = REPOSITORY / "tests/data/checkpoints"
HEAD = STORED / "heads/classification"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of a core each, on loopback and without a dashboard."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "node_ip_address": "127.0.0.1", "object_store_memory": 80_000_000}
    head = {**node, "include_dashboard": False}
    started = Cluster(initialize_head=True, connect=False, head_node_args=head)
    started.add_node(**node)
    started.wait_for_nodes()
    yield started
    started.shutdown()


@pytest.fixture
def start(cluster):
    """A function that starts an example on the cluster."""
    started = []

    def start(name: str, *words: str) -> subprocess.Popen:
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(REPOSITORY / "examples" / name), *words, "--address", cluster.address]
        started.append(subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.wait()
        process.stdout.close()


def listening() -> dict[int, str]:
    """Ports that processes of this one listen at, and their addresses."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            sockets = process.net_connections("tcp")
        except psutil.Error:  # it has just ended
            continue
        found |= {one.laddr.port: one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
    return found


def close(found: list[dict], expected: list[dict]) -> bool:
    by_label = [{one["label"]: pytest.approx(one["score"], abs=1e-5) for one in answer} for answer in expected]
    return [{one["label"]: one["score"] for one in answer} for answer in found] == by_label


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    with open(STORED / "rows/rows.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def answers(rows) -> list[list[dict]]:
    """Of one process."""
    photos = [str(STORED / "rows" / row["photo"]) if row["photo"] else None for row in rows]
    asked = [{"image": photo, "text": row["text"] or None} for photo, row in zip(photos, rows)]
    return mm_hf.pipeline(model=str(HEAD))(asked)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_batch_job_gives_the_answers_of_one_process(kind, start, rows, answers, tmp_path):
    """In the order of the rows; one that cannot be read has none, nor one whose path leads out of the folder."""
    import pyarrow.parquet

    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes((STORED / "rows/photos/0.png").read_bytes())
    bad = {**dict.fromkeys(rows[0], ""), "text": "a small red house"}
    more = [{**bad, "photo": "photos/none.png"}, {**bad, "photo": "../secret.png"}, {**bad, "photo": "", "text": ""}]
    shutil.copytree(STORED / "rows/photos", folder / "photos")
    with open(folder / "rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows([*rows, *more])
    output = tmp_path / f"answers.{kind}"
    words = [str(HEAD), str(folder / "rows.csv"), str(output), "--keys", "image=photo", "text=text"]
    process = start("ray_batch.py", *words, "--workers", "2")
    said = process.communicate()[0]
    assert process.returncode == 0
    assert f"{len(rows) + 3} rows, of which {len(rows)} have an answer" in said
    if kind == "csv":
        with open(output, newline="") as file:
            written = list(csv.DictReader(file))
    else:
        written = pyarrow.parquet.read_table(output).to_pylist()
    assert [row["text"] for row in written] == [row["text"] for row in [*rows, *more]]
    assert [row["answer"] or None for row in written[-3:]] == [None] * 3
    assert close([json.loads(row["answer"]) for row in written[:-3]], answers)


def test_replicas_give_the_answers_of_one_process(start, rows, answers):
    """On both nodes; a path in a request is not opened, and a bad row has its sentence."""
    import grpc

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start("ray_serve.py", str(HEAD), "--replicas", "2", "--threads", "2", "--port", str(port))
    url = re.search(r"http://127\.0\.0\.1:\d+/predict", process.stdout.readline())[0]

    def ask(asked: list[dict]) -> list[dict]:
        body = json.dumps({"rows": asked}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)["answers"]

    def as_json(row: dict) -> dict:
        content = (STORED / "rows" / row["photo"]).read_bytes() if row["photo"] else None
        photo = None if content is None else {"base64": base64.b64encode(content).decode()}
        return {"image": photo, "text": row["text"] or None}

    found = []
    for start_of in range(0, len(rows), 8):
        found += ask([as_json(row) for row in rows[start_of : start_of + 8]])
    assert close([one["answer"] for one in found], answers)
    loopback = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    open_ports = [port for port, address in listening().items() if address not in loopback]
    assert len(open_ports) == 2  # each replica's own, which Ray cannot be told to keep to loopback
    for port in open_ports:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/ray.serve.ASGIService/HandleRequest")
            with pytest.raises(grpc.RpcError) as refused:
                call(b"")
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    good, bad = ask([{"text": "a small red house"}, {"image": "/etc/passwd"}])
    assert set(good) == {"answer"}
    assert "/etc/passwd" in bad["error"]["message"]
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url)
