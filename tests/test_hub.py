"""The checkpoint as one thing: what is in it, who can load it, what its pipelines answer. With the real encoders."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import skimage.data
import torch
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForVisualQuestionAnswering,
    AutoProcessor,
    BertConfig,
    Pipeline,
)

import mm_hf
from mm_hf import (
    MMFusionForClassification,
    MMFusionForConditionalGeneration,
    MMFusionForMultiTask,
    MMFusionForQuestionAnswering,
    MMFusionForRetrieval,
    MMFusionModel,
    MMFusionProcessor,
)


TESTS = Path(__file__).parent
TASKS = {
    "warm": {"problem_type": "single_label_classification", "labels": ["no", "yes"]},
    "seen": {"problem_type": "multi_label_classification", "labels": ["fur", "cup", "sky"]},
    "size": {"problem_type": "regression"},
}
ANSWERS = ["cat", "coffee", "rocket", "person", "nothing"]
SMALL_FUSION = {"hidden_size": 64, "num_hidden_layers": 2}
CODE = {
    "asking.py",
    "attention.py",
    "checkpoint_files.py",
    "checksums.py",
    "coalitions.py",
    "costs.py",
    "confidence.py",
    "how_sure.py",
    "config_checks.py",
    "config_rules.py",
    "configuration_mm_fusion.py",
    "dates.py",
    "dry_run.py",
    "encoders.py",
    "encoding.py",
    "evidence.py",
    "files.py",
    "finite.py",
    "freezing.py",
    "fusion.py",
    "head_table.py",
    "image.py",
    "image_processors.py",
    "inputs.py",
    "item_parts.py",
    "layers.py",
    "linear_fusion.py",
    "long_texts.py",
    "losses.py",
    "modality.py",
    "modeling_mm_fusion.py",
    "modeling_outputs.py",
    "names.py",
    "other_labels.py",
    "pipeline_base.py",
    "pipeline_rows.py",
    "pipelines_mm_fusion.py",
    "pooled_fusions.py",
    "pretrained_mm_fusion.py",
    "probing.py",
    "processing_mm_fusion.py",
    "processor_parts.py",
    "processor_record.py",
    "projection.py",
    "raw_rows.py",
    "recurrent.py",
    "series.py",
    "sound.py",
    "strict_loading.py",
    "table_schema.py",
    "tabular.py",
    "tasks.py",
    "text.py",
    "token_fusions.py",
    "video.py",
    "vision.py",
    "versions.py",
}
# Of classes in files of their own, in their checkpoints alone.
SEARCH_CODE = {"contrastive.py", "retrieval_mm_fusion.py", "similarity.py"}
OWN_CODE = {*SEARCH_CODE, "generation_mm_fusion.py", "ctc_mm_fusion.py"}


@pytest.fixture(scope="module")
def processor(encoders):
    return MMFusionProcessor.from_encoders_pretrained(vision=encoders / "mobilenet-v2", text=encoders / "minilm-l6")


def build(cls, encoders, **kwargs):
    torch.manual_seed(0)
    return cls.from_encoders_pretrained(
        vision=encoders / "mobilenet-v2",
        text=encoders / "minilm-l6",
        fusion_module_config=SMALL_FUSION,
        id2label=dict(enumerate(ANSWERS)),
        label2id={name: number for number, name in enumerate(ANSWERS)},
        **kwargs,
    ).eval()


@pytest.fixture(scope="module")
def model(encoders):
    model = build(MMFusionForQuestionAnswering, encoders)
    for name, parameter in model.named_parameters():
        if name.endswith("gates"):
            parameter.data.fill_(0.5)
        elif name.startswith("classifier"):
            parameter.data.mul_(20)  # answers that differ
    return model


@pytest.fixture(scope="module")
def checkpoint(model, processor, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "checkpoint"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    """Questions about photographs, one of them asked twice, and one row without an image."""
    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for name in ("chelsea", "coffee", "rocket"):
        paths.append(str(folder / f"{name}.png"))
        Image.fromarray(getattr(skimage.data, name)()).resize((96, 96)).save(paths[-1])
    questions = [
        "what is in the picture?",
        "is it warm?",
        "what is in the picture?",
        "what colour is it, roughly?",
        "who?",
    ]
    return [
        {"image": image, "question": question}
        for image, question in zip([*paths, paths[0], None], questions, strict=True)
    ]


@pytest.fixture(scope="module")
def batch(processor, rows):
    return processor(
        images=[row["image"] and Image.open(row["image"]) for row in rows], text=[row["question"] for row in rows]
    )


@pytest.fixture(scope="module")
def logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def same(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_the_answers_differ(logits):
    """Else nothing below could fail."""
    assert logits.std(0).min() > 1e-2
    assert logits.std(1).min() > 1e-2


# --- What is in the folder


def test_files(checkpoint):
    files = {file.name for file in checkpoint.iterdir()}
    assert files == CODE | {
        "README.md",
        "checksums.json",
        "config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    package = Path(mm_hf.__file__).parent / "models"
    assert all((checkpoint / name).read_text() == (package / name).read_text() for name in CODE)
    assert {file.name for file in package.glob("*.py")} - {"__init__.py"} == CODE | OWN_CODE


def test_weights_are_safetensors(checkpoint, model):
    weights = load_file(checkpoint / "model.safetensors")
    assert all(value.isfinite().all() for value in weights.values())
    assert sum(value.numel() for value in weights.values()) == sum(
        value.numel() for value in model.state_dict().values()
    )


def test_config_names_every_class(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["model_type"] == "mm_fusion"
    assert config["architectures"] == ["MMFusionForQuestionAnswering"]
    assert config["auto_map"] == {
        "AutoConfig": "configuration_mm_fusion.MMFusionConfig",
        "AutoModel": "modeling_mm_fusion.MMFusionModel",
        "AutoModelForSequenceClassification": "modeling_mm_fusion.MMFusionForClassification",
        "AutoModelForVisualQuestionAnswering": "modeling_mm_fusion.MMFusionForQuestionAnswering",
        "AutoProcessor": "processing_mm_fusion.MMFusionProcessor",
    }
    assert list(config["custom_pipelines"]) == ["visual-question-answering"]
    assert config["vision_config"]["model_type"] == "mobilenet_v2"
    assert config["text_config"]["model_type"] == "bert"
    assert str(checkpoint.parent) not in json.dumps(config)  # no path of the machine it was made on
    assert "encoders/" not in json.dumps(config)
    for reference in config["auto_map"].values():
        module, name = reference.split(".")
        assert f"class {name}(" in (checkpoint / f"{module}.py").read_text()


def test_model_card(checkpoint):
    card = ModelCard.load(checkpoint / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "visual-question-answering"
    assert card.data.base_model == ["sentence-transformers/all-MiniLM-L6-v2"]
    assert {"mm_hf", "vision", "text"} <= set(card.data.tags)
    assert "cross_attention" in card.text


def test_saving_again_keeps_the_card(model, tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nmine\n")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text().endswith("mine\n")


# --- Who can load it: with the package


@pytest.mark.parametrize(
    ("auto", "expected"),
    [
        (AutoModelForVisualQuestionAnswering, MMFusionForQuestionAnswering),
        (AutoModelForSequenceClassification, MMFusionForClassification),
    ],
)
def test_auto_classes_with_the_package(checkpoint, batch, logits, auto, expected):
    loaded, info = auto.from_pretrained(checkpoint, output_loading_info=True)
    assert type(loaded) is expected
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        same(loaded(**batch).logits, logits)


def test_auto_model_with_the_package(checkpoint, batch, model):
    loaded = AutoModel.from_pretrained(checkpoint)
    assert type(loaded) is MMFusionModel
    with torch.no_grad():
        same(loaded(**batch).pooler_output, model.model(**batch).pooler_output)


def test_auto_processor_with_the_package(checkpoint, batch, rows):
    loaded = AutoProcessor.from_pretrained(checkpoint)
    assert type(loaded) is MMFusionProcessor
    again = loaded(
        images=[row["image"] and Image.open(row["image"]) for row in rows], text=[row["question"] for row in rows]
    )
    assert again.keys() == batch.keys()
    assert all(torch.equal(again[key], batch[key]) for key in batch)


def test_labels_survive(checkpoint):
    config = AutoConfig.from_pretrained(checkpoint)
    assert config.num_labels == len(ANSWERS)
    assert list(config.id2label.values()) == ANSWERS


# --- Who can load it: without the package, offline


def as_a_stranger(task, checkpoint, rows, folder) -> dict:
    """Runs `stranger.py` in a fresh process, with caches of its own and nothing of this repository on its path."""
    rows_file, result = folder / "rows.json", folder / f"{task}.pt"
    rows_file.write_text(json.dumps(rows))
    environment = {
        **{name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS", "LD_LIBRARY_PATH") if name in os.environ},
        "HOME": str(folder),
        "HF_HOME": str(folder / "home"),
        "HF_MODULES_CACHE": str(folder / f"modules-{task}"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-I", str(TESTS / "stranger.py"), task, str(checkpoint), str(rows_file), str(result)]
    process = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return torch.load(result, weights_only=True)


@pytest.fixture(scope="module")
def fusions(encoders, batch, tmp_path_factory) -> tuple[Path, dict]:
    """A folder with a checkpoint of every fusion, and each one's class and logits. Early layers of the real CNN and a
    small text encoder: what travels is the fusion's code and weights."""
    folder = tmp_path_factory.mktemp("stranger")
    variants = {name: {"fusion_type": name} for name in mm_hf.FUSIONS}
    variants["memory_layers"] = {"memory_layers": 1, "distance_bias": True}
    expected = {}
    for name, settings in variants.items():
        torch.manual_seed(0)
        config = mm_hf.MMFusionConfig(
            vision_config=AutoConfig.from_pretrained(encoders / "mobilenet-v2"),
            text_config=BertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64),
            fusion_module_config={**SMALL_FUSION, "num_attention_heads": 2, **settings},
            vision_feature_layer=[2, 4],
            vision_feature_join="channels",
            num_labels=5,
        )
        model = MMFusionForQuestionAnswering(config).eval()
        for key, parameter in model.named_parameters():
            if key.endswith("gates"):
                parameter.data.fill_(0.5)
        model.save_pretrained(folder / "fusions" / name)
        with torch.no_grad():
            expected[name] = type(model.model.fusion).__name__, model(**batch).logits
    return folder, expected


@pytest.fixture(scope="module")
def tasks(encoders, processor, fusions) -> MMFusionForMultiTask:
    """A model of several tasks, and its checkpoint beside those of the fusions."""
    model = build(MMFusionForMultiTask, encoders, tasks=TASKS)
    torch.nn.init.normal_(model.heads["for_size"].weight, std=0.1)  # sums near 1: `same` is for these
    model.save_pretrained(fusions[0] / "tasks")
    processor.save_pretrained(fusions[0] / "tasks")
    return model


@pytest.fixture(scope="module")
def search(encoders, fusions) -> MMFusionForRetrieval:
    """A model for search, likewise."""
    model = build(MMFusionForRetrieval, encoders, projection_dim=32)
    model.save_pretrained(fusions[0] / "search")
    return model


@pytest.fixture(scope="module")
def writer(encoders, processor, fusions) -> MMFusionForConditionalGeneration:
    """A model that writes, likewise."""
    model = build(MMFusionForConditionalGeneration, encoders, decoder_layers=1)
    for name, parameter in model.decoder.named_parameters():
        if "crossattention" in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)  # so that it looks where it is shown something
    torch.nn.init.normal_(model.memory_projection.weight, std=0.5)
    model.generation_config.update(max_new_tokens=6, num_beams=2)
    model.save_pretrained(fusions[0] / "writer")
    processor.save_pretrained(fusions[0] / "writer")
    return model


@pytest.fixture(scope="module")
def used(checkpoint, fusions, tasks, search, writer, rows) -> dict:
    """What a stranger got from all these checkpoints: one process, whose imports take longest."""
    return as_a_stranger("use", checkpoint, rows, fusions[0])


def test_a_stranger_uses_it(used, batch, logits, model):
    result = used
    same(result["logits"], logits)
    name, classified = result["classifier"]
    assert name == "MMFusionForClassification"
    same(classified, logits)
    name, pooled = result["base"]
    assert name == "MMFusionModel"
    with torch.no_grad():
        same(pooled, model.model(**batch).pooler_output)
    best = logits.softmax(-1).topk(3)
    for key in ("pipeline", "pipeline without task"):
        task, answers, one = result[key]
        assert task == "visual-question-answering", key
        assert [[answer["answer"] for answer in row] for row in answers] == [
            [ANSWERS[label] for label in labels] for labels in best.indices.tolist()
        ]
        scores = torch.tensor([[answer["score"] for answer in row] for row in answers])
        torch.testing.assert_close(scores, best.values, rtol=0, atol=1e-5)
        assert len(one) == 1


def test_a_stranger_asks_what_an_answer_rests_on(used, rows):
    explained, plain = used["evidence"]
    assert explained["answer"] == plain
    evidence = explained["evidence"]
    assert (evidence["absence"], evidence["background"]) == ("other_rows", len(rows))
    (answer,) = evidence["answers"]
    assert answer["explained"] == f"log odds of {plain[0]['answer']!r}"
    assert set(answer["modalities"]) == {"vision", "text"}
    given = sum(part["value"] for part in answer["modalities"].values())
    assert given == pytest.approx(answer["value"] - answer["base"], abs=1e-5)
    assert answer["modalities"]["vision"]["with"] == pytest.approx(plain[0]["score"], abs=1e-5)


@pytest.mark.slow
def test_a_stranger_tunes_it_and_others_load_that(checkpoint, rows, batch, logits, tmp_path):
    result = as_a_stranger("tune", checkpoint, rows, tmp_path)
    losses = result["losses"]
    assert losses[-1] < 0.5 * losses[0], losses
    tuned = tmp_path / "tuned"
    assert (result["logits"] - logits).abs().max() > 0.1
    assert {file.name for file in tuned.iterdir()} == {file.name for file in checkpoint.iterdir()}
    # What the stranger saved belongs to the folder it is in, and not to the one it came from.
    assert str(checkpoint) not in (tuned / "config.json").read_text()
    assert (
        json.loads((tuned / "config.json").read_text())["auto_map"]
        == json.loads((checkpoint / "config.json").read_text())["auto_map"]
    )
    shutil.move(tuned, tmp_path / "moved")
    with torch.no_grad():
        loaded = AutoModelForVisualQuestionAnswering.from_pretrained(tmp_path / "moved")
        assert type(loaded) is MMFusionForQuestionAnswering
        same(loaded(**batch).logits, result["logits"])
    same(as_a_stranger("answer", tmp_path / "moved", rows, tmp_path)["logits"], result["logits"])


def test_a_stranger_loads_every_fusion(fusions, used):
    _, expected = fusions
    assert set(used["fusions"]) == {*mm_hf.FUSIONS, "memory_layers"}
    for name, (fusion, logits) in expected.items():
        assert used["fusions"][name][0] == fusion
        same(used["fusions"][name][1], logits)


def test_a_stranger_asks_for_all_tasks(tasks, used, batch):
    name, logits, task, answers = used["tasks"]
    assert name == "MMFusionForMultiTask"
    assert task == "multimodal-multi-task"
    with torch.no_grad():
        expected = tasks(**batch).logits
    for key in TASKS:
        same(logits[key], expected[key])
    with torch.no_grad():
        # The stranger's batches are others: in single precision both sides would have their own rounding.
        expected = copy.deepcopy(tasks).double()(**batch).logits
    scores = {
        "warm": expected["warm"].softmax(-1),
        "seen": expected["seen"].sigmoid(),
        "size": expected["size"],
    }
    for found in answers:
        assert len(found) == len(scores["warm"])
        for place, row in enumerate(found):
            assert set(row) == set(TASKS)
            for key, entries in row.items():
                labels = TASKS[key].get("labels", [key])
                assert [entry["label"] for entry in entries] == [
                    labels[i] for i in scores[key][place].argsort(descending=True)
                ]
                answered = torch.tensor([entry["score"] for entry in entries])
                torch.testing.assert_close(answered, scores[key][place].sort(descending=True).values.float())


def test_a_stranger_searches(search, used, batch, fusions):
    name, embeds, scores = used["search"]
    assert name == "MMFusionForRetrieval"
    assert {file.name for file in (fusions[0] / "search").iterdir()} >= SEARCH_CODE
    items = {key: values for key, values in batch.items() if not key.endswith("_index")}
    with torch.no_grad():
        outputs = search(**batch)
        same(embeds, outputs.text_embeds @ outputs.image_embeds.T)
        same(scores, search.score_pairs(**items))


def test_a_stranger_lets_it_write(writer, used, batch, rows, processor, fusions):
    found = used["writer"]
    assert found["class"] == "MMFusionForConditionalGeneration"
    assert "generation_mm_fusion.py" in {file.name for file in (fusions[0] / "writer").iterdir()}
    assert torch.equal(found["written"], writer.generate(**batch))
    with Image.open(rows[0]["image"]) as image:
        alone = processor(images=[image])
        both = processor(images=[image], text=[rows[0]["question"]])

    def spelled(tokens) -> list[str]:
        return processor.batch_decode(tokens, skip_special_tokens=True)

    assert [entry["generated_text"] for entry in found["image-to-text"]] == spelled(writer.generate(**alone))
    answers = [row[0]["answer"] for row in found["visual-question-answering"]]
    assert answers == spelled(writer.generate(**batch, num_beams=1))
    assert len(set(answers)) > 1
    (entry,) = found["image-text-to-text"]
    assert entry["input_text"] == rows[0]["question"]
    assert entry["generated_text"].endswith(spelled(writer.generate(**both))[0])


# --- Pipelines, with the package


@pytest.fixture(scope="module")
def answer(checkpoint) -> Pipeline:
    return mm_hf.pipeline("visual-question-answering", model=checkpoint)


def flat(answers) -> tuple[list[str], torch.Tensor]:
    answers = [entry for row in answers for entry in row]
    return [entry["answer"] for entry in answers], torch.tensor([entry["score"] for entry in answers])


def assert_same_answers(one, other, atol=1e-5):
    assert [len(row) for row in one] == [len(row) for row in other]
    (labels, scores), (other_labels, other_scores) = flat(one), flat(other)
    assert labels == other_labels
    torch.testing.assert_close(scores, other_scores, rtol=0, atol=atol)


@pytest.mark.parametrize("batch_size", [2, 5, 8])
def test_batches_answer_as_rows_do(answer, rows, batch_size):
    one_by_one = [answer(row) for row in rows]
    assert_same_answers(answer(rows), one_by_one)
    assert_same_answers(answer(rows, batch_size=batch_size), one_by_one)
    assert_same_answers(list(answer((row for row in rows), batch_size=batch_size)), one_by_one)


def test_answers_are_those_of_the_model(answer, rows, logits):
    labels, scores = flat(answer(rows, top_k=1))
    assert labels == [ANSWERS[label] for label in logits.argmax(-1)]
    torch.testing.assert_close(scores, logits.softmax(-1).max(-1).values, rtol=0, atol=1e-5)


def test_inputs_of_transformers_4(answer, rows):
    path, question = rows[0]["image"], rows[0]["question"]
    image, other = Image.open(path), Image.open(rows[1]["image"])
    row = {"image": image, "question": question}
    expected = answer(row)
    assert [set(entry) for entry in expected] == [{"score", "answer"}] * 5
    assert expected == sorted(expected, key=lambda entry: -entry["score"])
    assert isinstance(expected[0]["score"], float)
    for same_row in (
        answer(image, question),
        answer(image=path, question=question),
        answer({"image": path, "question": question}),
    ):
        assert_same_answers([same_row], [expected])
    questions = [question, "is it warm?"]
    both = [answer({"image": image, "question": q}) for q in questions]
    assert_same_answers(answer(image, questions), both)
    assert_same_answers(answer(image=path, question=questions), both)
    assert_same_answers(answer([image, other], question), [expected, answer(other, question)])
    # Lists of both ask every pair, images first.
    every_pair = answer([image, other], questions, top_k=2)
    assert_same_answers(every_pair, [answer(i, q, top_k=2) for i in (image, other) for q in questions])


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (3, 3), (5, 5), (100, 5), (None, 5)])
def test_top_k(answer, rows, top_k, count):
    assert len(answer(rows[0], top_k=top_k)) == count
    assert [len(row) for row in answer(rows, top_k=top_k, batch_size=2)] == [count] * len(rows)


def test_absent_image(answer, model, processor):
    with torch.no_grad():
        expected = model(**processor(text=["who?"])).logits.softmax(-1)[0]
    for row in (answer({"question": "who?"}), answer({"image": None, "question": "who?"}), answer(None, "who?")):
        assert row[0]["answer"] == ANSWERS[expected.argmax()]
        assert row[0]["score"] == pytest.approx(expected.max().item(), abs=1e-5)
    assert_same_answers(answer(None, ["who?", "what?"]), [answer(None, "who?"), answer(None, "what?")])


def test_absent_question(answer, model, processor, rows):
    with torch.no_grad():
        expected = model(**processor(images=Image.open(rows[0]["image"]))).logits.softmax(-1)[0]
    assert answer({"image": rows[0]["image"]})[0]["score"] == pytest.approx(expected.max().item(), abs=1e-5)


@pytest.mark.parametrize("row", [{}, {"picture": "x.png"}, {"image": None, "question": None}, "x.png", 3])
def test_bad_rows(answer, row):
    with pytest.raises(ValueError, match=r"row .*(keys.*'question'|image, .*question)"):
        answer(row)


def test_empty_question(answer, rows):
    with pytest.raises(ValueError, match=r"text.*\(''\)"):
        answer({"image": rows[0]["image"], "question": ""})


def test_missing_image_file(answer):
    with pytest.raises((ValueError, OSError), match=r"nowhere\.png"):
        answer({"image": "/nowhere.png", "question": "who?"})


def test_equal_images_and_texts_are_encoded_once(checkpoint, rows):
    answer = mm_hf.pipeline(model=checkpoint)
    seen = []
    encoders = answer.model.model.encoders
    encoders["vision"].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    encoders["text"].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    answer(Image.open(rows[0]["image"]), ["who?", "what?", "who?"], batch_size=3)
    assert sorted(seen) == [1, 2]


def test_pipeline_with_a_model_in_memory(model, processor, checkpoint, rows):
    expected = mm_hf.pipeline(model=checkpoint)(rows)
    assert_same_answers(mm_hf.pipeline(model=model, processor=processor)(rows), expected)
    with pytest.raises(ValueError, match=r"processor=…"):
        mm_hf.pipeline(model=model)


def test_arguments_of_calls_are_taken_when_a_pipeline_is_made(checkpoint, fusions, writer, processor, rows):
    answer = mm_hf.pipeline(model=checkpoint, top_k=2, dtype=torch.bfloat16)
    assert answer.model.dtype == torch.bfloat16
    assert [len(answer(rows[0])), len(answer(rows[0], top_k=1))] == [2, 1]
    write = mm_hf.pipeline("image-to-text", model=fusions[0] / "writer", num_return_sequences=2, max_new_tokens=1)
    (first, second) = write(rows[0]["image"])
    assert all(len(processor.tokenizer.tokenize(found["generated_text"])) <= 1 for found in (first, second))


def test_pipeline_says_what_it_lacks(checkpoint):
    with pytest.raises(ValueError, match=r"model=…"):
        mm_hf.pipeline("visual-question-answering")
    with pytest.raises(ValueError, match=r"Unknown task 'translation'.*multimodal-classification"):
        mm_hf.pipeline("translation", model=checkpoint)


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification", "regression"])
def test_classification_pipeline(encoders, processor, rows, tmp_path, problem_type):
    model = build(MMFusionForClassification, encoders, problem_type=problem_type)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert list(config["custom_pipelines"]) == ["multimodal-classification"]
    classify = mm_hf.pipeline(model=tmp_path)
    assert classify.task == "multimodal-classification"
    rows = [{"image": row["image"], "text": row["question"]} for row in rows[3:]]
    with torch.no_grad():
        logits = model(
            **processor(
                images=[row["image"] and Image.open(row["image"]) for row in rows], text=[row["text"] for row in rows]
            )
        ).logits
    expected = {
        "single_label_classification": logits.softmax(-1),
        "multi_label_classification": logits.sigmoid(),
        "regression": logits,
    }[problem_type]
    for results in (classify(rows, batch_size=2), [classify(row) for row in rows]):
        for row, scores in zip(results, expected, strict=True):
            assert row[0]["score"] >= row[-1]["score"]
            by_label = {entry["label"]: entry["score"] for entry in row}
            assert by_label == {name: pytest.approx(scores[i].item(), abs=1e-5) for i, name in enumerate(ANSWERS)}


# --- To the Hub, up to the two calls that reach it


def test_push_to_hub(model, processor, batch, logits, rows, tmp_path, monkeypatch):
    remote, calls = tmp_path / "remote", []

    def create_repo(self, repo_id, **kwargs):
        calls.append(("create", repo_id, kwargs))
        return type("RepoUrl", (str,), {"repo_id": repo_id})(f"https://hub/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, **kwargs):
        calls.append(("upload", repo_id, kwargs))
        shutil.copytree(folder_path, remote)
        return f"https://hub/{repo_id}/commit/1"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    url = model.push_to_hub("me/answers", processor=processor, private=True, commit_message="first")
    assert url == "https://hub/me/answers/commit/1"
    assert [call[:2] for call in calls] == [("create", "me/answers"), ("upload", "me/answers")]
    assert calls[0][2]["private"] is True
    assert calls[1][2] == {"commit_message": "first"}
    assert {file.name for file in remote.iterdir()} >= CODE | {
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
    }
    assert re.search(r"pipeline_tag: visual-question-answering", (remote / "README.md").read_text())
    with torch.no_grad():
        same(AutoModelForVisualQuestionAnswering.from_pretrained(remote)(**batch).logits, logits)
    assert len(mm_hf.pipeline(model=remote)(rows[0])) == 5


@torch.no_grad()
def test_pipelines_of_a_model_that_writes(writer, processor, fusions, rows):
    """The probability of what was written, one row at a time or in batches, for greedy search, beams and samples."""
    write = mm_hf.pipeline("image-to-text", model=fusions[0] / "writer")
    answer = mm_hf.pipeline(model=fusions[0] / "writer")  # it reads questions
    assert isinstance(answer, mm_hf.MMFusionFreeAnswerPipeline)
    image, compared = rows[0]["image"], 0
    for settings in ({"num_beams": 1}, {"num_beams": 3, "num_return_sequences": 2}, {"max_new_tokens": 2}):
        for entry in write(image, **settings):
            with Image.open(image) as picture:
                batch = processor(images=[picture])
            labels = processor.target_ids([entry["generated_text"]])
            limit = settings.get("max_new_tokens", 6)
            labels = labels[:, :limit]
            logits = writer(**batch, labels=labels).logits.log_softmax(-1)
            expected = logits[0].gather(1, labels[0, :, None]).sum().exp().item()
            # Of some token sequences the spelling has others; those cannot be looked up again.
            if processor.tokenizer.decode(labels[0], skip_special_tokens=True) == entry["generated_text"]:
                compared += 1
                assert entry["score"] == pytest.approx(expected, rel=1e-3)
    assert compared >= 2
    together = answer(rows, batch_size=4)
    apart = [answer(row) for row in rows]
    for one, other in zip(together, apart, strict=True):
        assert [entry["answer"] for entry in one] == [entry["answer"] for entry in other]
        assert [entry["score"] for entry in one] == pytest.approx([entry["score"] for entry in other], rel=1e-3)
    with Image.open(image) as picture:
        assert write([image, picture], num_beams=1)[1] == write(picture, num_beams=1)
    several = answer(
        image=image, question=["who?", "is it warm?"], do_sample=True, num_beams=1, num_return_sequences=3
    )
    assert [len(row) for row in several] == [3, 3]


def test_what_a_model_does_not_read_is_refused(encoders, tmp_path):
    """Silence would be an answer to another question."""
    captioner = MMFusionForConditionalGeneration.from_encoders_pretrained(
        vision=encoders / "mobilenet-v2", decoder=encoders / "minilm-l6", fusion_module_config=SMALL_FUSION
    )
    processor = MMFusionProcessor.from_encoders_pretrained(
        vision=encoders / "mobilenet-v2", decoder=encoders / "minilm-l6"
    )
    write = mm_hf.pipeline(model=captioner, processor=processor)
    assert write.task == "image-to-text"
    with pytest.raises(ValueError, match=r"'who\?'.*\['vision'\]"):
        write({"image": Image.new("RGB", (32, 32)), "text": "who?"})
