"""Search through the scripts: both train it, retrieve.py measures, embeds and asks. Real encoders, real emoji."""

import json
import re
from pathlib import Path

import pytest
import torch
from datasets import DatasetDict, load_from_disk
from kill_and_resume import call
from messages import says
from PIL import Image

from mm_hf import MMFusionForRetrieval
from mm_hf.commands import evaluate
from mm_hf.commands import search as retrieve
from mm_hf.retrieval import Gallery, choose_weight, rerank
from mm_hf.training import finetune, loop, train


ROWS = {"train": 120, "validation": 20, "test": 40}


@pytest.fixture(scope="module")
def dataset(openmoji_folder, tmp_path_factory) -> Path:
    """Some emoji of food and animals."""
    folder = tmp_path_factory.mktemp("retrieve") / "set"
    full = load_from_disk(str(openmoji_folder))
    parts = {}
    for name, rows in full.items():
        names = rows.features["category"].names
        chosen = [
            row for row, number in enumerate(rows["category"]) if names[number] in ("Food & Drink", "Animals & Nature")
        ]
        parts[name] = rows.select(chosen[: ROWS[name]])
    DatasetDict(parts).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(encoders, dataset, tmp_path_factory):
    """Writes a recipe of a search, quick ones where nothing else is asked."""

    def write(output_dir, **keys) -> Path:
        values = {
            "vision_encoder": str(encoders / "mobilenet-v2"),
            "text_encoder": str(encoders / "minilm-l6"),
            "dataset": str(dataset),
            "output_dir": str(output_dir),
            "task": "retrieval",
            "image_column": "image",
            "text_column": "text",
            "fusion_hidden_size": 64,
            "fusion_layers": 1,
            "fusion_heads": 2,
            "text_pooling": "mean",
            "projection_dim": 32,
            "matching_weight": 1.0,  # without a GPU it is off where nobody asks
            "image_size": 64,
            "freeze_encoders": True,
            "learning_rate": 3e-3,
            "max_steps": 40,
            "eval_steps": 10,
            "per_device_train_batch_size": 40,
            "report_to": "none",
            **keys,
        }
        file = tmp_path_factory.mktemp("recipe") / "search.yaml"
        file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
        return file

    return write


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "train"
    call(train.main, recipe(folder))
    return folder


@pytest.mark.slow  # the second way, see test_craft.py
def test_the_trainer(recipe, tmp_path):
    call(finetune.main, recipe(tmp_path / "run"))
    test_a_run(tmp_path / "run")


def test_a_run(trained):
    folder = trained
    results = json.loads((folder / "results.json").read_text())
    assert next(iter(results["metrics"])) == "mean_recall"
    assert results["floors"]["chance_mean_recall"] < results["metrics"]["mean_recall"]
    assert results["floors"]["chance_mean_recall"] < results["floors"]["linear"]
    assert results["linear"]["metrics"]["mean_recall"] == results["floors"]["linear"]
    assert results["verdict"].startswith("This model beats the constant guess: mean recall")
    assert results["metrics"]["text_to_image_recall_at_10"] > 2 * results["floors"]["chance_recall_at_10"]
    for name in ("curves.png", "predictions.png"):
        with Image.open(folder / name) as plot:
            assert min(plot.size) > 300
    card = (folder / "README.md").read_text()
    assert "MMFusionForRetrieval.from_pretrained" in card
    assert "labels" not in card
    recall = results["metrics"]["text_to_image_recall_at_1"]
    assert f"| text to image recall at 1 | {recall:.4f} |" in card
    model = MMFusionForRetrieval.from_pretrained(folder)
    assert model.config.projection_dim == 32
    assert model.logit_scale != model.config.logit_scale_init_value  # it has learned


def test_curves_of_both_losses(trained):
    history = json.loads((trained / "checkpoint-40/progress.json").read_text())["history"]
    for (_, total), (_, one), (_, other) in zip(*(history[n] for n in ("loss", "loss contrastive", "loss matching"))):
        assert total == pytest.approx(one + other, rel=1e-5)


@pytest.mark.slow  # part of `make reliability`
def test_an_interrupted_run_ends_as_one_that_was_not(recipe, trained, tmp_path, monkeypatch):
    """Hard negatives are drawn at random, and drawn again."""
    file, make_step = recipe(tmp_path / "run", save_steps=5, floors=False), loop.Training.make_step

    def until_the_18th(training, window):
        if training.progress.step == 17:
            raise OSError("the machine went away")
        return make_step(training, window)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "make_step", until_the_18th)
        with pytest.raises(SystemExit, match="went away"):
            call(train.main, file)
    call(train.main, file)
    one, other = ((folder / "model.safetensors").read_bytes() for folder in (tmp_path / "run", trained))
    assert one == other


def test_evaluate(trained, capsys):
    call(retrieve.main, "evaluate", "--model", trained, "--bootstrap_samples", 30)
    report = json.loads((trained / "evaluation/retrieval.json").read_text())
    results = json.loads((trained / "results.json").read_text())["metrics"]
    for direction in ("text_to_image", "image_to_text"):
        for name, values in report["metrics"][f"{direction}, plain"].items():
            assert values["value"] == pytest.approx(results[f"{direction}_{name}"])
            assert values["low"] <= values["value"] <= values["high"]
    assert set(report["rerank"]["weights"]) == {"text_to_image", "image_to_text"}
    assert capsys.readouterr().out.strip().splitlines()[-1] == report["verdict"]
    assert {found["metric"] for found in report["comparisons"]} == {
        f"{name}, recall_at_1" for name in report["metrics"]
    }
    for found in report["comparisons"]:
        assert 1 / report["texts"] <= found["value"] <= 10 / report["items"]  # of some texts there are several
        assert found["beaten"] == (found["score"] > found["value"])
    with Image.open(trained / "evaluation/retrieval.png") as sheet:
        assert min(sheet.size) > 500


def test_the_other_evaluation_knows_better(trained):
    with pytest.raises(SystemExit, match=r"`mm_hf search evaluate --model .*`"):
        call(evaluate.main, "--model", trained)


@pytest.fixture(scope="module")
def gallery(trained) -> Path:
    call(retrieve.main, "build", "--model", trained, "--gallery", trained.parent / "gallery", "--split", "test")
    return trained.parent / "gallery"


def test_query(trained, gallery, dataset, capsys):
    built = Gallery.load(gallery)
    words = built.keys["text"][3]
    common = ("query", "--model", trained, "--gallery", gallery, "--top_k", 3)
    call(retrieve.main, *common, "--text", words, "--rerank_top", 0)
    lines = capsys.readouterr().out.splitlines()
    scores = built.embeddings["text"][3] @ built.embeddings["vision"].T
    best = [built.places["vision"][place] for place in scores.topk(3).indices.tolist()]
    assert [int(line.split()[2]) for line in lines[:3]] == best
    assert (gallery / "query.png").exists()
    picture = load_from_disk(str(dataset))["test"][best[0]]["image"]
    picture.save(gallery / "asked.png")
    sheet = gallery / "other.png"
    call(retrieve.main, *common, "--image", gallery / "asked.png", "--rerank_weight", 0.5, "--output", sheet)
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert sheet.exists()


def test_gallery_is_exact(gallery):
    built = Gallery.load(gallery)
    scores, places = built.search(built.embeddings["text"], "vision", 5)
    expected = (built.embeddings["text"] @ built.embeddings["vision"].T).topk(5)
    torch.testing.assert_close(scores, expected.values, rtol=0, atol=1e-5)
    assert torch.equal(places, expected.indices)
    assert built.relevant().any(0).all()
    assert built.search(built.embeddings["text"][:1], "vision", 10_000)[0].shape[1] == len(built.keys["vision"])
    with pytest.raises(ValueError, match=r"\['text', 'vision'\].*'audio'"):
        built.search(built.embeddings["text"], "audio", 1)
    built.factory, built._indexes = "Flatt", {}
    with pytest.raises(ValueError, match=r"faiss.*'Flatt'.*'Flat'"):
        built.search(built.embeddings["text"], "vision", 1)


def test_rerank_changes_the_best_alone():
    generator = torch.Generator().manual_seed(0)
    similarities, matching = torch.randn(5, 20, generator=generator), torch.randn(5, 20, generator=generator)
    again = rerank(similarities, matching, weight=1000.0, logit_scale=3.0, top=6)
    before, after = (scores.argsort(-1, descending=True) for scores in (similarities, again))
    assert torch.equal(before[:, :6].sort().values, after[:, :6].sort().values)
    assert torch.equal(before[:, 6:], after[:, 6:])
    assert torch.equal(
        after[:, :6], before[:, :6].gather(1, matching.gather(1, before[:, :6]).argsort(-1, descending=True))
    )
    same = rerank(similarities, matching, weight=0.0, logit_scale=3.0, top=6)
    assert torch.equal(same.argsort(-1, descending=True), before)
    # A matching that knows the answer gets a weight, one that knows nothing gets none.
    relevant = torch.eye(20, dtype=torch.bool)[:5]
    assert choose_weight(similarities, relevant.float() * 9, relevant, 1.0, 20) > 0
    assert choose_weight(relevant.float(), matching, relevant, 1.0, 20) == 0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"text_column": None, "text_encoder": None, "text_pooling": None}, says("text_column", "--text_column")),
        ({"label_column": "category"}, says("label_column", "'category'", "retrieval")),
        ({"image_column": ["image", "image"]}, says("retrieval", "image_column", "['image', 'image']")),
        ({"imbalance": "focal_loss"}, says("imbalance", "'focal_loss'", "retrieval")),
        ({"matching_weight": -1}, says("matching_weight", 0, "-1.0")),
    ],
)
def test_what_does_not_fit_a_run(keys, message, recipe, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        call(train.main, recipe(tmp_path / "run", **keys))
    assert re.search(message, str(stopped.value))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("query", "--gallery", "nowhere"), says("--text, --image", "--audio")),
        (("query", "--gallery", "nowhere", "--text", "a"), says("nowhere", "gallery.json")),
        (("build",), says("--gallery")),
        (("evaluate", "--split", "validation"), says("--rerank_weight")),
        (("evaluate", "--split", "valid"), None),
        (("evaluate", "--split", "tset"), says("'tset'", "--split")),
        (("evaluate", "--top_k", "0"), None),
        (("find",), None),
    ],
)
def test_wrong_searches_are_one_line(words, message, trained, capsys):
    if message is None:
        message = {"valid": says("--rerank_weight"), "0": says("top_k", 1, 0)}.get(words[-1], says("'find'", "query"))
    with pytest.raises(SystemExit) as stopped:
        call(retrieve.main, words[0], "--model", trained, *words[1:])
    assert re.search(message, f"{stopped.value} {capsys.readouterr().err}")
