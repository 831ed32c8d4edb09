"""What a model cannot take, and what its error says to do; checkpoints for other labels than their own."""

import numpy as np
import pytest
import tiny_models as tiny
import torch
from PIL import Image
from transformers import BatchFeature, BertConfig
from transformers.utils import logging

from mm_hf import (
    MMFusionConfig,
    MMFusionForClassification,
    MMFusionForConditionalGeneration,
    MMFusionForCTC,
    MMFusionForMultiTask,
    MMFusionForQuestionAnswering,
    MMFusionForRetrieval,
    MMFusionModel,
)
from mm_hf.data import Columns, load_splits
from mm_hf.data.labels import label_tensor
from mm_hf.data.rows import BadRowError
from mm_hf.models import other_labels
from mm_hf.models.names import did_you_mean
from mm_hf.training.recipe import parse_arguments


PICTURE = Image.new("RGB", (32, 32))
NONE = -100
TASKS = {"tone": {"problem_type": "single_label_classification", "labels": ["low", "high"]}}


def writer(**kwargs):
    ends = {"decoder_start_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return tiny.model(MMFusionForConditionalGeneration, decoder_config=BertConfig(**tiny.WORDS), **{**ends, **kwargs})


def letters(**kwargs):
    return tiny.model(MMFusionForCTC, vision=None, audio="lstm", vocab_size=9, pad_token_id=0, **kwargs)


MODELS = {
    "base": lambda: tiny.model(MMFusionModel),
    "classification": lambda: tiny.model(MMFusionForClassification),
    "answers": lambda: tiny.model(MMFusionForQuestionAnswering),
    "tasks": lambda: tiny.model(MMFusionForMultiTask, tasks=TASKS),
    "search": lambda: tiny.model(MMFusionForRetrieval, projection_dim=8),
    "writing": writer,
    "letters": letters,
}
PROCESSOR_FIRST = r"model\(\*\*processor\("
CALLS = {
    "a picture": (lambda model: model(PICTURE), PROCESSOR_FIRST),
    "pictures": (lambda model: model([PICTURE, PICTURE]), PROCESSOR_FIRST),
    "a text": (lambda model: model("what is it?"), PROCESSOR_FIRST),
    "texts": (lambda model: model(["what", "who"]), PROCESSOR_FIRST),
    "a row": (lambda model: model({"image": PICTURE}), r"dict with \['image'\].*model\(\*\*batch\)"),
    "a batch": (
        lambda model: model(BatchFeature(tiny.batch())),
        r"BatchFeature with \['input_ids'.*model\(\*\*batch\)",
    ),
    "numbers": (lambda model: model([[1, 2], [3, 4]]), r"input_ids must be a tensor, got list of int.*torch\.tensor"),
    "an array": (lambda model: model(np.zeros((1, 4))), r"input_ids must be a tensor, got ndarray.*torch\.tensor"),
    "images=": (lambda model: model(images=PICTURE), r"no input 'images'.*processor\(images="),
    "image=": (lambda model: model(image=[PICTURE]), r"no input 'image'.*processor\(images="),
    "text=": (lambda model: model(text=["what"]), r"no input 'text'.*processor\(text="),
    "audio=": (lambda model: model(audio=np.zeros(9)), r"no input 'audio'.*processor\(audio="),
    "table=": (lambda model: model(table={"age": 3}), r"no input 'table'.*processor\(table="),
    "pixels of PIL": (lambda model: model(pixel_values=PICTURE), r"pixel_values must be a tensor, got Image"),
    "pixels of an array": (lambda model: model(pixel_values=np.zeros((1, 3, 32, 32))), "got ndarray.*torch.tensor"),
    "a misspelt tensor": (
        lambda model: model(**tiny.texts((3,)), pixel_value=torch.zeros(1)),
        r"no input \['pixel_value'\].* Did you mean 'pixel_values'",
    ),
    "a misspelt flag": (
        lambda model: model(**tiny.texts((3,)), output_atentions=True),
        r"no input \['output_atentions'\].* Did you mean 'output_attentions'",
    ),
    "a misspelt label": (
        lambda model: model(**tiny.texts((3,)), label=[1]),
        r"no input \['label'\].* Did you mean 'labels'",
    ),
}


@pytest.fixture(scope="module")
def models() -> dict:
    return {name: make() for name, make in MODELS.items()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("call", CALLS)
def test_a_model_says_what_it_takes(models, name, call):
    action, message = CALLS[call]
    with pytest.raises(ValueError, match=message):
        action(models[name])


def test_what_is_no_input_still_goes_to_the_attention(models):
    models["classification"](**tiny.batch(), some_setting=3, use_cache=False)


def test_modalities_are_named(models):
    model = models["base"]
    with pytest.raises(ValueError, match=r"'txt'.*\['vision', 'text'\].*'text'\?"):
        model.encode({"txt": torch.zeros(1, dtype=torch.long)}, **tiny.texts((3,)))
    with pytest.raises(ValueError, match="'input_ids'"):
        models["search"].get_text_features(tiny.texts((3,)))


# --- Labels


LABELS = {
    "a list": ([0, 1, 2, 3], r"labels.* list: torch\.tensor"),
    "an array": (np.array([0, 1, 2, 3]), r"labels.* ndarray: torch\.tensor"),
    "names": (["cat", "dog"] * 2, r"labels.*'cat'.*label2id"),
    "an array of names": (np.array(["cat", "dog"] * 2), r"labels.*cat.*label2id"),
    "a name": ("cat", r"labels.*'cat'.*label2id"),
    "a number": (3, r"labels.* int\b"),
    "a dict": ({"tone": torch.zeros(4)}, r"labels.* dict\b"),
    "decimals": (torch.tensor([0.5, 1.5, 2.5, 3.0]), r"float32 .*shape \(4,\).*labels\.long\(\).*num_labels=1"),
    "whole decimals": (torch.tensor([0.0, 1.0, 2.0, 3.0]), r"float32 .*shape \(4,\).*labels\.long\(\)"),
    "several": (torch.ones(4, 5, dtype=torch.long), r"int64 .*shape \(4, 5\).*multi_label_classification"),
    "too few": (torch.tensor([0, 1]), r"shape \(4,\).*int64 .*shape \(2,\)"),
    "no class": (torch.tensor([0, 1, 2, 5]), r"\b0 to 4, .*-100 .*\[5\]"),
    "a negative class": (torch.tensor([0, -1, 2, NONE]), r"\b0 to 4, .*-100 .*\[-1\]"),
}


@pytest.mark.parametrize("problem_type", [None, "single_label_classification"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_are_none(models, kind, training, problem_type):
    """The config is not changed by a call that fails, and the next one is understood anew."""
    model = models["answers"].train(training)
    model.config.problem_type = problem_type
    labels, message = LABELS[kind]
    with pytest.raises(ValueError, match=message):
        model(**tiny.batch(), labels=labels)
    assert model.config.problem_type == problem_type
    model(**tiny.batch(), labels=torch.tensor([0, 1, 2, NONE])).loss.backward()
    assert model.config.problem_type == "single_label_classification"


@pytest.mark.parametrize(
    ("num_labels", "labels", "problem_type"),
    [
        (5, torch.tensor([0, 1, 4, NONE]), "single_label_classification"),
        (5, torch.ones(4, 5), "multi_label_classification"),
        (1, torch.tensor([0.5, 1.5, 2.5, float("nan")]), "regression"),
        (1, torch.tensor([3, 4, 5, 6]), "regression"),
    ],
)
def test_the_problem_is_read_off_good_labels(num_labels, labels, problem_type):
    model = tiny.model(num_labels=num_labels)
    assert model(**tiny.batch(), labels=labels).loss.isfinite()
    assert model.config.problem_type == problem_type


@pytest.mark.parametrize("kind", ["a list", "an array", "names", "a number"])
def test_labels_of_several_tasks(models, kind):
    labels, message = LABELS[kind]
    with pytest.raises(ValueError, match=message.replace("labels", r"labels\['tone'\]", 1)):
        models["tasks"](**tiny.batch(), labels={"tone": labels})
    with pytest.raises(ValueError, match=r"'tones'.*'tone'\?"):
        models["tasks"](**tiny.batch(), labels={"tones": torch.zeros(4)})


@pytest.mark.parametrize("name", ["writing", "letters"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a text", "another"], r"'a text'.*processor\.target_ids"),
        ([[1, 2], [3, 4]], r"\blist: torch\.tensor"),
        (torch.ones(2, 3), r"shape \(2, S\).*float32 .*shape \(2, 3\)"),
        (torch.ones(2, dtype=torch.long), r"shape \(2, S\).*int64 .*shape \(2,\)"),
        (torch.ones(3, 2, dtype=torch.long), r"shape \(2, S\).*int64 .*shape \(3, 2\)"),
        (torch.full((2, 2), 60), "60"),
    ],
)
def test_labels_of_texts(models, name, labels, message):
    inputs = tiny.texts((3, 4)) if name == "writing" else {**tiny.sounds("lstm", (20, 12)), **tiny.texts((3, 4))}
    with pytest.raises(ValueError, match=message):
        models[name](**inputs, labels=labels)


# --- Other labels


@pytest.fixture
def said(monkeypatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(other_labels.logger, "warning_once", found.append, raising=False)
    return found


WEIGHTS = [1.0, 2.0, 1.0, 1.0]
TRANSFERS = {
    # What the checkpoint has, what is asked for, what is left of it, what is said to be dropped.
    "weights": ({"class_weights": WEIGHTS}, {"num_labels": 2}, {"class_weights": None}, ["class_weights"]),
    "priors": ({"class_priors": WEIGHTS}, {"num_labels": 2}, {"class_priors": None}, ["class_priors"]),
    "both": (
        {"class_weights": WEIGHTS, "class_priors": WEIGHTS, "label_smoothing": 0.1},
        {"num_labels": 3},
        {"class_weights": None, "class_priors": None, "label_smoothing": 0.1},
        ["class_weights", "class_priors"],
    ),
    "names": (
        {"class_weights": WEIGHTS},
        {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}},
        {"class_weights": None, "label2id": {"no": 0, "yes": 1}},
        ["class_weights"],
    ),
    "none given": ({"class_weights": WEIGHTS}, {"num_labels": 2, "class_weights": None}, {"class_weights": None}, []),
    "others given": (
        {"class_weights": WEIGHTS},
        {"num_labels": 2, "class_weights": [1.0, 3.0]},
        {"class_weights": [1.0, 3.0]},
        [],
    ),
    "as many": ({"class_weights": WEIGHTS}, {"num_labels": 4}, {"class_weights": WEIGHTS}, []),
    "a number": (
        {"problem_type": "single_label_classification", "label_smoothing": 0.1, "class_weights": WEIGHTS},
        {"num_labels": 1},
        {"problem_type": None, "label_smoothing": 0.0, "class_weights": None},
        ["problem_type", "label_smoothing", "class_weights"],
    ),
    "the problem stays": (
        {"problem_type": "multi_label_classification", "class_weights": WEIGHTS},
        {"num_labels": 2},
        {"problem_type": "multi_label_classification", "class_weights": None},
        ["class_weights"],
    ),
}


@pytest.mark.parametrize("kind", TRANSFERS)
def test_a_checkpoint_is_the_start_for_other_labels(kind, said, tmp_path):
    own, asked, left, dropped = TRANSFERS[kind]
    trained = tiny.model(num_labels=4, **own)
    trained.save_pretrained(tmp_path)
    said.clear()
    logging.set_verbosity_error()
    model = MMFusionForClassification.from_pretrained(tmp_path, ignore_mismatched_sizes=True, **asked)
    logging.set_verbosity_warning()
    count = asked.get("num_labels", 2)
    assert model.classifier.weight.shape[0] == model.config.num_labels == count
    assert {name: getattr(model.config, name) for name in left} == left
    for name, tensor in model.model.state_dict().items():
        assert torch.equal(tensor, trained.model.state_dict()[name])
    assert [message for message in said if "is loaded with" in message] == said
    assert bool(said) == bool(dropped)
    for message in said:
        assert "4 labels" in message
        assert f"with {count}" in message
        assert all(name in message for name in dropped)
    model.save_pretrained(tmp_path / "again")
    again = MMFusionConfig.from_pretrained(tmp_path / "again")
    assert {name: getattr(again, name) for name in left} == left
    if own.get("problem_type") == "multi_label_classification":
        labels = torch.ones(4, count)
    else:
        labels = torch.tensor([0.5] * 4) if count == 1 else torch.tensor([0, 1, 0, 1])
    assert model.train()(**tiny.batch(), labels=labels).loss.isfinite()


def test_weights_of_another_number_that_were_asked_for_are_refused(tmp_path):
    tiny.model(num_labels=4).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"class_weights.*\b2 .*\b3\b"):
        MMFusionForClassification.from_pretrained(
            tmp_path, num_labels=2, class_weights=[1.0, 2.0, 3.0], ignore_mismatched_sizes=True
        )


# --- Names


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("pixel_value", ["pixel_values", "input_ids"], " Did you mean 'pixel_values'?"),
        ("TEXT", ["vision", "text"], " Did you mean 'text'?"),
        ("zebra", ["vision", "text"], ""),
        (5, ["vision", "text"], ""),
        ("x", [], ""),
    ],
)
def test_did_you_mean(name, known, expected):
    assert did_you_mean(name, known) == expected


@pytest.mark.parametrize(
    ("action", "meant"),
    [
        (lambda: tiny.model(fusion="cross_atention"), "cross_attention"),
        (lambda: tiny.config(freeze_encoders=["txt"]), "text"),
        (lambda: tiny.config(pooling={"vison": "mean"}), "vision"),
        (lambda: tiny.config(pooling={"vision": "mena"}), "mean"),
        (lambda: tiny.config(vision_feature_join="chanels"), "channels"),
        (lambda: tiny.config(settings={"query_modality": "texts"}), "text"),
        (lambda: tiny.config(tasks=TASKS, task_weighting="uncertanty"), "uncertainty"),
        (lambda: tiny.config(tasks={"a": {"problem_typ": "regression"}}), "problem_type"),
        (lambda: tiny.config(tasks={"a": {"problem_type": "regresion"}}), "regression"),
        (lambda: letters().generate(num_beam=2), "num_beams"),
    ],
)
def test_names_of_settings(action, meant):
    with pytest.raises(ValueError, match=rf"'{meant}'\?"):
        action()


def test_names_of_columns_and_recipes(tmp_path, capsys):
    (tmp_path / "rows.csv").write_text("question,answer\nwhat,yes\nwho,no\n" * 10)
    with pytest.raises(ValueError, match=r"'questoin'.*'question'\?"):
        load_splits(tmp_path / "rows.csv", Columns(text="questoin", label="answer"))
    with pytest.raises(ValueError, match=r"'answer'\?"):
        Columns(text="question", label=["answer", "size"], weight={"anser": "w"})
    with pytest.raises(BadRowError, match=r"'yess'.*'yes'\?"):
        label_tensor([{"answer": "yess", "row_id": 0, "split": "train"}], "answer", {"no": 0, "yes": 1})
    (tmp_path / "recipe.yaml").write_text("learning_rat: 1\n")
    for words, meant in (([str(tmp_path / "recipe.yaml")], "learning_rate"), (["--max_step", "3"], "max_steps")):
        with pytest.raises(SystemExit):
            parse_arguments("a script", words)
        assert f"Did you mean '{meant}'" in capsys.readouterr().err
