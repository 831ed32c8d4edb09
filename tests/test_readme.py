"""The README's examples, run as they stand but for the encoders, which come from local folders here."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image

from mm_hf import MMFusionForClassification, pipeline


REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
# What a block is known by: the first that has it is run.
KNOWN_BY = ("MMFusionForQuestionAnswering", "MMFusionForMultiTask", "MMFusionForRetrieval")
KNOWN_BY += ("MMFusionForConditionalGeneration", "MMFusionForClassification", "MMFusionForCTC", "TableSchema")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_python_examples(encoders, tmp_path, monkeypatch):
    """The first, which trains, saves and pushes; and those of other classes, which go on from there."""
    block, *others = (next(b for b in BLOCKS if f"import {name}" in b) for name in KNOWN_BY)
    hub_ids = {
        "google/vit-base-patch16-224": "mobilenet-v2",
        "google-bert/bert-base-uncased": "minilm-l6",
        "openai/whisper-tiny.en": "whisper-tiny-en",
    }

    def local(text: str) -> str:
        for hub_id, folder in hub_ids.items():
            text = text.replace(hub_id, str(encoders / folder))
        return text

    assert all(hub_id in README for hub_id in hub_ids)
    block, *others = map(local, (block, *others))
    pushed = []
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **kwargs: type("Url", (), {"repo_id": repo_id}))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **kwargs: pushed.append(kwargs["repo_id"]))
    monkeypatch.chdir(tmp_path)
    names = {"image": Image.new("RGB", (64, 64), "red"), "labels": torch.tensor([1, 2])}
    names["wave"] = 0.1 * np.random.default_rng(0).normal(size=16000)
    exec(compile(block, "README.md", "exec"), names)
    assert names["loss"].isfinite()
    assert pushed == ["me/answers"]
    assert (tmp_path / "answers/processor_config.json").exists()
    for other in others:
        own = {**names, "torch": torch, "MMFusionForClassification": MMFusionForClassification}
        exec(compile(other, "README.md", "exec"), own)
        assert own["loss"].isfinite()


def test_the_answer_of_the_server_is_one():
    """What the README asks of the server and shows as its answer has the form that a model of its kind gives."""
    asked = re.search(r"curl http://127.0.0.1:8000/predict (.*)", README)[1]
    shown = json.loads(re.search(r'```json\n(\{"answers": .*)\n```', README)[1])["answers"]
    stored = REPOSITORY / "tests/data/checkpoints"
    answer = pipeline(model=str(stored / "heads/question_answering"))
    fields = dict(word.split("=", 1) for word in shlex.split(asked) if word != "-F")
    count = int(fields.pop("top_k"))
    row = {**fields, "image": str(stored / "rows/photos/0.png")}
    assert fields["image"].startswith("@")
    expected = answer(row, top_k=count)
    assert [[set(best) for best in one["answer"]] for one in shown] == [[set(best) for best in expected]]
    scores = [best["score"] for best in shown[0]["answer"]]
    assert len(scores) == count
    assert 1 >= scores[0] > scores[1] > 0


@pytest.mark.parametrize("command", sorted(set(re.findall(r"make ([a-z-]+)", README))))
def test_make_targets_exist(command):
    assert re.search(rf"^{command}:", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)


def test_flags_exist():
    from dataclasses import fields

    from mm_hf.commands.arguments import ChatArguments, ExportArguments, PredictArguments, RetrieveArguments
    from mm_hf.training.recipe import ALL_ARGUMENTS
    from mm_hf.training.reopen import EvaluateArguments

    groups = (*ALL_ARGUMENTS, EvaluateArguments, PredictArguments, RetrieveArguments, ChatArguments, ExportArguments)
    flags = [field for group in groups for field in fields(group)]
    known = {field.name for field in flags}
    known |= {alias.lstrip("-") for field in flags for alias in field.metadata.get("aliases", ())}
    others = {"multi_gpu", "num_processes", "cpu", "help", "word_vectors"}  # of accelerate and of training/prepare
    assert set(re.findall(r"--([a-z][a-z0-9_]*)", README)) <= known | others


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(path):
    assert (REPOSITORY / path).exists()
