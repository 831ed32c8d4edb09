"""What tests of the service share: a real server process, and services in this process."""

import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

import mm_hf
from mm_hf.serve.app import make_app
from mm_hf.serve.backend import PipelineBackend
from mm_hf.serve.limits import Limits
from mm_hf.serve.onnx_backend import OnnxBackend
from mm_hf.serve.service import Service, Settings


STORED = Path(__file__).parents[1] / "data/checkpoints"


class Running:
    """A server process of a stored checkpoint, which listens on a free port of this machine.

    Args:
        head: name of the checkpoint.
        flags: of the command.
        environment: variables beside those of this process.
    """

    def __init__(self, head: str, *flags: str, **environment: str):
        words = [sys.executable, "-m", "mm_hf", "serve", str(STORED / "heads" / head), "--port", "0", *flags]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment}
        self.process = subprocess.Popen(
            words, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self.url = re.search(r"http://[\d.:]+", self.process.stdout.readline())[0]
        self.ready = threading.Event()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        self.ready.wait()
        assert self.process.poll() is None, self.log

    def read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            if "ready:" in line:
                self.ready.set()
        self.ready.set()

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def end(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()
        self.reader.join()
        self.process.stdout.close()
        self.process.stderr.close()


@pytest.fixture(scope="session")
def stored() -> Path:
    """The folder of the stored checkpoints."""
    return STORED


@pytest.fixture(scope="session")
def start_server():
    """A function that starts a server, see `Running`; all are ended at the end."""
    with contextlib.ExitStack() as stack:

        def start(head: str, *flags: str, **environment: str) -> Running:
            running = Running(head, *flags, **environment)
            stack.callback(running.end)
            return running

        yield start


@pytest.fixture(scope="session")
def server(start_server) -> Running:
    """A server of the model that classifies pictures and texts."""
    return start_server("classification", "--max_pixels", "4000000", "--max_body_bytes", "3000000", "--max_rows", "8")


@pytest.fixture(scope="session")
def client(server):
    """Asks that server."""
    with httpx.Client(base_url=server.url, timeout=None) as asking:
        yield asking


@pytest.fixture(scope="session")
def pipe():
    """The pipeline whose answers the server has to give."""
    return mm_hf.pipeline(model=str(STORED / "heads/classification"))


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    return [file.read_bytes() for file in sorted((STORED / "rows/photos").glob("*.png"))]


@pytest.fixture(scope="session")
def encoded():
    """A function that writes a file as a request in JSON has it."""
    return lambda content: {"base64": base64.b64encode(content).decode()}


@pytest.fixture(scope="session")
def export_of(tmp_path_factory):
    """A function that gives the export of a stored checkpoint, made once."""
    pytest.importorskip("transformers.exporters", reason="transformers before 5.24 does not export")
    from mm_hf.export import export_model

    folders: dict[str, Path] = {}

    def folder_of(head: str) -> Path:
        if head not in folders:
            stored = STORED / "heads" / head
            architecture = json.loads((stored / "config.json").read_text())["architectures"][0]
            model = getattr(mm_hf, architecture).from_pretrained(stored).eval()
            folder = tmp_path_factory.mktemp(head) / "exported"
            folder.mkdir()
            export_model(model, mm_hf.MMFusionProcessor.from_pretrained(stored), folder)
            folders[head] = folder
        return folders[head]

    return folder_of


@pytest.fixture(scope="session")
def exported_client(export_of):
    """Asks a service, in this process, of the export of the model that `server` serves, with the same limits."""
    settings = Settings(Limits(pixels=4_000_000, body_bytes=3_000_000, rows=8))
    service = Service(settings)
    service.open(lambda: OnnxBackend.open(export_of("classification"), threads=1))
    with TestClient(make_app(service), raise_server_exceptions=False) as client:
        client.service = service
        yield client
    service.close()


class Gated(PipelineBackend):
    """A backend that waits, before each batch, until it may go on; it notes how many rows each had."""

    def __init__(self, pipe):
        super().__init__(pipe)
        self.gate, self.batches, self.fails = threading.Event(), [], lambda rows: False
        self.gate.set()

    def answer(self, rows, options, evidence=False):
        self.gate.wait()
        self.batches.append(len(rows))
        if self.fails(rows):
            raise RuntimeError("the secret of a row")
        return super().answer(rows, options, evidence)


@pytest.fixture
def open_service():
    """A function that opens a service of a stored checkpoint in this process; gives it and a client."""
    with contextlib.ExitStack() as stack:

        def start(head: str, settings: Settings | None = None, opened: bool = True) -> tuple[Service, TestClient]:
            service = Service(settings or Settings())
            if opened:
                service.open(lambda: Gated(mm_hf.pipeline(model=str(STORED / "heads" / head))))
                service.backend.batches.clear()
            stack.callback(service.close)
            return service, stack.enter_context(TestClient(make_app(service), raise_server_exceptions=False))

        yield start


@pytest.fixture(scope="session")
def close_to():
    """A function that tells whether two answers are the same but for rounding."""

    def close(one, other) -> bool:
        if isinstance(one, dict):
            return set(one) == set(other) and all(close(one[key], other[key]) for key in one)
        if isinstance(one, list):
            return len(one) == len(other) and all(map(close, one, other))
        return one == pytest.approx(other, abs=1e-5, rel=1e-4) if isinstance(one, float) else one == other

    return lambda one, other: close(json.loads(json.dumps(one)), json.loads(json.dumps(other)))
