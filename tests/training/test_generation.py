"""Free text through the scripts: answers to questions about pictures, and captions. Real encoders, real rows."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from datasets import DatasetDict, load_from_disk
from kill_and_resume import call, command, seeded_kills, survive
from messages import says
from PIL import Image
from safetensors.torch import load_file
from transformers import GenerationConfig, Seq2SeqTrainingArguments

from mm_hf import MMFusionForConditionalGeneration, MMFusionProcessor
from mm_hf.commands import evaluate
from mm_hf.data import Columns, MultimodalCollator
from mm_hf.evaluation import generation_metrics
from mm_hf.models.generation_mm_fusion import GENERATION
from mm_hf.trainer import MMTrainer
from mm_hf.training import finetune, loop, train


ROWS = {"train": 200, "validation": 40, "test": 41}


@pytest.fixture(scope="module")
def dataset(easy_vqa, tmp_path_factory) -> Path:
    """Questions and answers; the answers are classes, of which the names are written."""
    folder = tmp_path_factory.mktemp("answers") / "set"
    DatasetDict({name: easy_vqa[name].select(range(rows)) for name, rows in ROWS.items()}).save_to_disk(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(encoders, dataset, tmp_path_factory):
    """Writes a recipe of free answers, quick ones where nothing else is asked."""

    def write(output_dir, **keys) -> Path:
        values = {
            "vision_encoder": str(encoders / "mobilenet-v2"),
            "text_encoder": str(encoders / "minilm-l6"),
            "dataset": str(dataset),
            "output_dir": str(output_dir),
            "task": "generation",
            "decoder_layers": 1,
            "freeze_decoder_embeddings": True,
            "max_target_length": 6,
            "image_column": "image",
            "image_id_column": "image_id",
            "text_column": "question",
            "label_column": "answer",
            "kind_column": "kind",
            "fusion_hidden_size": 32,
            "fusion_layers": 1,
            "fusion_heads": 2,
            "image_size": 64,
            "freeze_encoders": True,
            "learning_rate": 5e-3,
            "decoder_learning_rate": 3e-3,
            "max_steps": 40,
            "eval_steps": 20,
            "per_device_train_batch_size": 20,
            "report_to": "none",
            "floor_budget": 0.1,
            **keys,
        }
        file = tmp_path_factory.mktemp("recipe") / "answers.yaml"
        file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
        return file

    return write


CAPTIONS = {
    "text_encoder": None,
    "image_id_column": None,
    "text_column": None,
    "kind_column": None,
    "label_column": "name",
    "image_size": 96,
}


@pytest.fixture(scope="module")
def captions(encoders, openmoji_folder, tmp_path_factory) -> dict:
    """What a recipe of captions has otherwise: emoji and their names."""
    folder = tmp_path_factory.mktemp("captions") / "set"
    full = load_from_disk(str(openmoji_folder))
    DatasetDict({name: full[name].select(range(rows)) for name, rows in ROWS.items()}).save_to_disk(folder)
    return {**CAPTIONS, "dataset": str(folder), "decoder": str(encoders / "minilm-l6")}


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "train"
    call(train.main, recipe(folder, num_beams=2))
    return folder


@pytest.fixture(scope="module")
def captioner(recipe, captions, tmp_path_factory) -> Path:
    """By the Trainer."""
    folder = tmp_path_factory.mktemp("runs") / "finetune"
    call(finetune.main, recipe(folder, **captions))
    return folder


def test_a_run(trained):
    results = json.loads((trained / "results.json").read_text())
    assert list(results["metrics"]) == ["chrf", "exact_match", "wer"]
    assert set(results["by_kind"]) == {"color", "shape", "yes/no"}
    assert set(results["floors"]) == {"majority", "text_only", "image_only", "shuffled_pairs", "linear"}
    for name in ("curves.png", "predictions.png"):
        with Image.open(trained / name) as plot:
            assert min(plot.size) > 300
    card = (trained / "README.md").read_text()
    assert "MMFusionForConditionalGeneration" in card
    assert "labels" not in card
    assert "pipeline_tag: visual-question-answering" in card
    model = MMFusionForConditionalGeneration.from_pretrained(trained)
    assert model.config.decoder_config.num_hidden_layers == 1
    own = GenerationConfig.from_pretrained(trained)
    tokenizer = MMFusionProcessor.from_pretrained(trained).tokenizer
    assert (own.decoder_start_token_id, own.eos_token_id) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert (own.max_new_tokens, own.num_beams) == (6, 2)


def test_it_learns_what_is_asked(trained):
    """The answer fits the question: more than one answer for all."""
    results = json.loads((trained / "results.json").read_text())
    assert results["metrics"]["chrf"] > results["floors"]["majority"]
    history = json.loads((trained / "checkpoint-40/progress.json").read_text())["history"]
    assert history["loss"][-1][1] < 0.5 * history["loss"][0][1]
    assert len(history["validation"]) == 2


@pytest.mark.slow  # the second way, see test_craft.py
def test_captions_by_the_trainer(captioner):
    results = json.loads((captioner / "results.json").read_text())
    assert list(results["metrics"]) == ["chrf", "exact_match", "wer"]
    assert set(results["floors"]) == {"majority", "linear"}
    assert results["linear"]["words"] == "the text of the nearest training row, by vision"
    state = json.loads((captioner / "checkpoint-40/trainer_state.json").read_text())
    scores = [entry["eval_chrf"] for entry in state["log_history"] if "eval_chrf" in entry]
    assert len(scores) == 2
    assert state["best_metric"] == max(scores)
    assert MMFusionForConditionalGeneration.from_pretrained(captioner).config.modalities == ["vision"]


@pytest.mark.parametrize(
    ("run", "floors"),
    [
        (
            "trained",
            {
                "majority",
                "linear",
                *(f"this_model_{what}" for what in ("vision_alone", "text_alone", "shuffled_pairs")),
            },
        ),
        ("captioner", {"majority", "linear", "nearest_picture"}),
    ],
)
@pytest.mark.slow
def test_evaluate_measures_it(run, floors, request):
    folder = request.getfixturevalue(run)
    call(evaluate.main, "--model", folder, "--bootstrap_samples", 50, "--missing")
    results = json.loads((folder / "results.json").read_text())
    report = json.loads((folder / "evaluation/evaluation.json").read_text())
    assert report["model_class"] == "MMFusionForConditionalGeneration"
    assert set(report["floors"]) == floors
    for name, values in report["metrics"].items():
        assert values["value"] == pytest.approx(results["metrics"][name], abs=1e-5)
        assert values["low"] <= values["value"] <= values["high"]
    assert report["floors"]["majority"]["value"] == pytest.approx(results["floors"]["majority"], abs=1e-5)
    assert {path.name for path in (folder / "evaluation").iterdir()} == {
        *("evaluation.json", "report.html", "missing.png", "mistakes.png"),
        *(["evidence.png"] if run != "captioner" else []),  # a picture alone is all that there is
    }


@pytest.mark.slow
def test_the_nearest_picture_is_one_that_was_learned_from(captioner, captions):
    """A part measured against itself finds each picture again."""
    output = captioner.parent / "itself"
    call(evaluate.main, "--model", captioner, "--split", "train", "--output_dir", output, "--bootstrap_samples", 5)
    assert "nearest_picture" not in json.loads((output / "evaluation.json").read_text())["floors"]
    twice = captioner.parent / "twice"
    full = load_from_disk(captions["dataset"])
    DatasetDict({"train": full["train"], "test": full["train"].select(range(30))}).save_to_disk(twice)
    call(evaluate.main, "--model", captioner, "--dataset", twice, "--output_dir", output, "--bootstrap_samples", 5)
    assert json.loads((output / "evaluation.json").read_text())["floors"]["nearest_picture"]["value"] == 1


@pytest.mark.slow  # the second way
def test_without_generation_the_next_token_counts(recipe, tmp_path):
    call(train.main, recipe(tmp_path / "run", predict_with_generate=False, floors=False, max_steps=20))
    history = json.loads((tmp_path / "run/checkpoint-20/progress.json").read_text())["history"]
    assert 0 < history["validation"][-1][1] <= 1
    assert list(json.loads((tmp_path / "run/results.json").read_text())["metrics"]) == ["chrf", "exact_match", "wer"]


def test_the_trainer_predicts_as_the_library_does(trained, dataset, tmp_path):
    """Tokens with predict_with_generate, and what it takes for likely without."""
    model, processor = (
        kind.from_pretrained(trained) for kind in (MMFusionForConditionalGeneration, MMFusionProcessor)
    )
    rows = load_from_disk(str(dataset))["test"]
    names = rows.features["answer"].names
    columns = Columns(image="image", text="question", label="answer")
    collator = MultimodalCollator(processor, columns, {name: i for i, name in enumerate(names)}, GENERATION)
    common = {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "per_device_eval_batch_size": 16}
    found = {}
    for writes in (True, False):
        args = Seq2SeqTrainingArguments(predict_with_generate=writes, generation_num_beams=1, **common)
        found[writes] = MMTrainer(model, args, collator).predict(rows)
    assert found[True].predictions.dtype.kind == found[False].predictions.dtype.kind == "i"
    assert found[False].predictions.shape == found[False].label_ids.shape
    texts = [text or "" for text in collator.texts_of(torch.from_numpy(found[True].predictions))]
    score = generation_metrics(texts, [names[number] for number in rows["answer"]])["metrics"]["exact_match"]
    assert score == pytest.approx(
        json.loads((trained / "results.json").read_text())["metrics"]["exact_match"], abs=0.1
    )
    assert found[True].metrics["test_loss"] == pytest.approx(found[False].metrics["test_loss"])


def test_targets(encoders):
    processor = MMFusionProcessor.from_encoders_pretrained(text=str(encoders / "minilm-l6"))
    collator = MultimodalCollator(
        processor, Columns(text="text", label="name"), problem_type=GENERATION, max_target_length=4
    )
    names = ["red heart", None, "a very long name of many words", "Café"]
    rows = [{"row_id": i, "split": "train", "text": "x", "name": name} for i, name in enumerate(names)]
    labels = collator(rows)["labels"]
    assert labels.shape == (4, 4)
    assert (labels[1] == -100).all()
    assert labels[0, 2] == labels[2, 3] == processor.tokenizer.sep_token_id
    assert collator.texts_of(labels) == ["red heart", None, "a very long", "cafe"]
    with pytest.raises(ValueError, match=r"row 0 .*'train'.*'name': .*text.*\(' '\)"):
        collator([{**rows[0], "name": " "}])
    with pytest.raises(ValueError, match=r"text.*\(3\)"):
        collator([{**rows[0], "name": 3}])


@pytest.mark.slow
def test_an_interrupted_run_ends_as_one_that_was_not(recipe, trained, tmp_path, monkeypatch):
    file = recipe(tmp_path / "run", num_beams=2, save_steps=5, floors=False)
    make_step = loop.Training.make_step

    def until_the_13th(training, window):
        if training.progress.step == 12:
            raise OSError("the machine went away")
        return make_step(training, window)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "make_step", until_the_13th)
        with pytest.raises(SystemExit, match="went away"):
            call(train.main, file)
    call(train.main, file)
    one, other = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", trained))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow  # part of `make reliability`
@pytest.mark.parametrize("script", ["train.py", "finetune.py"])
def test_killed_and_started_again(script, recipe, tmp_path):
    """Ends with the weights of a run that was left alone."""
    for name, kills in (("alone", []), ("killed", seeded_kills(17, 1, longest=0.2))):
        file = recipe(tmp_path / name, floors=False)
        met = survive(command(script, 1, [str(file)]), tmp_path / name, kills)
        assert all(what is not None for _, what in met)
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("alone", "killed"))
    assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("script", ["train.py", "finetune.py"])
def test_two_processes_learn_as_one(script, recipe, encoders, tmp_path):
    """The loss counts the tokens of both: five steps of SGD without dropout, half of the rows on each process."""
    calm = tmp_path / "minilm"
    shutil.copytree(encoders / "minilm-l6", calm)
    config = json.loads((calm / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (calm / "config.json").write_text(json.dumps(config))
    still = {"optim": "sgd", "fusion_dropout": 0.0, "max_steps": 5, "eval_steps": 5, "floors": False}
    still |= {"warmup_ratio": 0.0, "learning_rate": 0.05, "decoder_learning_rate": 0.05}
    still |= {"text_encoder": str(calm), "classifier_dropout": 0.0}
    ends, scores = {}, {}
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        file = recipe(folder, **still, per_device_train_batch_size=20 // processes, seed=3)
        survive(command(script, processes, [str(file)]), folder, [])
        results = json.loads((folder / "results.json").read_text())
        assert results["num_processes"] == processes
        ends[processes], scores[processes] = load_file(folder / "model.safetensors"), results["metrics"]
    assert max((ends[1][name] - ends[2][name]).abs().max().item() for name in ends[1]) < 1e-4
    assert scores[1] == pytest.approx(scores[2], abs=0.05)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"text_encoder": None, "text_column": None}, says("decoder", "text_encoder", "--decoder")),
        ({"imbalance": "class_weights"}, says("imbalance", "'class_weights'", "generation")),
        ({"mixup_alpha": 0.2}, says("mixup_alpha", "0.2", "generation")),
        ({"label_column": ["answer", "kind"]}, says("task", "generation", "label_column", "['answer', 'kind']")),
        ({"task": "classification"}, says("decoder_layers", 1, "generation")),
        ({"label_column": None}, says("label_column", "--label_column")),
    ],
)
def test_what_does_not_fit_is_one_line(keys, message, recipe, tmp_path):
    if keys.get("task"):
        keys = {**keys, "decoder_learning_rate": None}
    with pytest.raises(SystemExit) as stopped:
        call(train.main, recipe(tmp_path / "run", **keys))
    assert re.search(message, str(stopped.value))
    assert "\n" not in str(stopped.value)
