"""The folder for Hugging Face's inference endpoints works where it is copied to, without mm_hf, on many threads."""

import json
import shutil
import subprocess
import sys

import pytest
from messages import says

import mm_hf
from mm_hf.serve.endpoint import write_handler


STRANGER = """
import sys
sys.modules["mm_hf"] = None
import importlib.util, json
from concurrent.futures import ThreadPoolExecutor
spec = importlib.util.spec_from_file_location("handler", sys.argv[1] + "/handler.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handler = module.EndpointHandler(sys.argv[1])
with ThreadPoolExecutor(8) as pool:
    print(json.dumps(list(pool.map(handler, json.load(sys.stdin)))))
path = {"inputs": {"image": "/etc/passwd"}}
for bad in ({}, path, {"inputs": {"text": ""}}, {"inputs": {}, "parameters": {"x": 1}}):
    try:
        handler(bad)
    except ValueError as error:
        print(json.dumps(str(error)))
"""


def test_a_stranger_calls_it_from_many_threads(stored, tmp_path, pipe, pictures, encoded, close_to):
    write_handler(str(stored / "heads/classification"), tmp_path / "written")
    shutil.copytree(tmp_path / "written", tmp_path / "elsewhere/deep")
    shutil.rmtree(tmp_path / "written")
    rows = [{"text": "a small red house"}, {"image": pictures[0]}, {"image": pictures[1], "text": "blue"}]
    asked = [{key: encoded(item) if isinstance(item, bytes) else item for key, item in row.items()} for row in rows]
    calls = [{"inputs": row, "parameters": {"top_k": 2}} for row in asked] * 4
    calls.append({"inputs": [asked[0], {"image": "/etc/passwd"}, {"image": {"base64": "AAAA"}}, asked[2]]})
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER, str(tmp_path / "elsewhere/deep")],
        input=json.dumps(calls),
        env={"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answers, *refused = map(json.loads, done.stdout.splitlines())
    expected = pipe(rows, top_k=2)
    assert close_to(answers[:12], expected * 4)
    first, path, broken, last = answers[12]
    assert close_to([first, last], [pipe(rows[0]), pipe(rows[2])])
    assert set(path) == set(broken) == {"error"}
    assert len(refused) == 4
    assert "/etc/passwd" in refused[1]


def test_what_is_written(stored, tmp_path):
    handler = write_handler(str(stored / "heads/ctc"), tmp_path / "folder")
    assert handler == tmp_path / "folder/handler.py"
    assert 'FILES = ("audio",)' in handler.read_text()
    needed = (tmp_path / "folder/requirements.txt").read_text().split()
    assert {"soundfile", "scipy", "pillow"} <= set(needed)
    assert not any(line.startswith("mm_hf") for line in needed)
    assert type(mm_hf.pipeline(model=str(tmp_path / "folder"))).__name__ == "MMFusionSpeechRecognitionPipeline"
    write_handler(str(stored / "heads/ctc"), tmp_path / "folder")  # again


def test_folders_that_are_refused(stored, tmp_path):
    run = shutil.copytree(stored / "heads/classification", tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/letter.txt").write_text("dear")
    for folder in (run, tmp_path / "other", tmp_path / "other/letter.txt"):
        with pytest.raises(ValueError, match=says(folder)):
            write_handler(str(run), folder)
    assert not (run / "handler.py").exists()
