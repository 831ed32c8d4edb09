"""`init_from`: what a run takes over of a checkpoint, which keys it settles, what it says, and how it goes on."""

import csv
import importlib
import json
import re
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import soundfile
import tiny_models as tiny
import torch
import transformers as T
from messages import says
from PIL import Image
from safetensors.torch import load_file

import mm_hf.checkpoints as checkpoints
import mm_hf.states as states
from mm_hf import MMFusionConfig, MMFusionForCTC, MMFusionForMultiTask, MMFusionForQuestionAnswering, MMFusionProcessor
from mm_hf.adapters import merge_lora
from mm_hf.parts import class_of
from mm_hf.training import exits, start_parts
from mm_hf.training.data_arguments import DataArguments
from mm_hf.training.recipe import given_keys
from mm_hf.training.start import check_order
from mm_hf.training.start_parts import OF_BASE


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 180, 30), "grey": (128, 128, 128)}
THINGS = ["cup", "hat", "pen", "box"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "the", "of", *COLOURS, *THINGS]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Encoders that cost nothing."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    T.ViTModel(T.ViTConfig(**SMALL, image_size=16, patch_size=8)).save_pretrained(folder / "vit")
    T.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder / "vit")
    T.ViTModel(T.ViTConfig(**{**SMALL, "hidden_size": 24}, image_size=16, patch_size=8)).save_pretrained(
        folder / "wide"
    )
    T.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder / "wide")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    T.BertModel(T.BertConfig(**SMALL, vocab_size=len(WORDS), max_position_embeddings=16)).save_pretrained(
        folder / "bert"
    )
    T.BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=16).save_pretrained(folder / "bert")
    (folder / "turned.txt").write_text("\n".join(WORDS[:5] + WORDS[:4:-1]))
    shutil.copytree(folder / "bert", folder / "turned")
    T.BertTokenizerFast(vocab=str(folder / "turned.txt"), model_max_length=16).save_pretrained(folder / "turned")
    return folder


def write_shop(folder: Path, count: int = 48, seed: int = 0, things=THINGS, unit: float = 1.0) -> Path:
    """A table of pictures in one colour with a title, numbers and several labels."""
    draw = np.random.default_rng(seed)
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        colour, thing = list(COLOURS)[number % 4], things[number // 4 % len(things)]
        for side in ("front", "back"):
            Image.new("RGB", (20, 20), COLOURS[colour]).save(folder / f"photos/{side}{number}.png")
        weight = round(float(draw.uniform(1, 9)), 3)
        rows.append(
            {
                "photo": f"photos/front{number}.png",
                "back": f"photos/back{number}.png",
                "title": f"a {colour} {thing}",
                "weight": weight,
                "maker": f"maker {number % 3}",
                "height": number % 7 + 0.5,
                "colour": colour,
                "thing": thing,
                "price": unit * (20 + 3 * weight + number % 4),
            }
        )
    with open(folder / "shop.csv", "w", newline="") as table:
        writer = csv.DictWriter(table, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "shop.csv"


def words_of(dataset: Path, output_dir: Path, **keys) -> list[str]:
    """The command line behind the script's name; a key that is None is left out."""
    flags = {"max_steps": 4, "eval_steps": 2, "learning_rate": 1e-2, "per_device_train_batch_size": 8}
    flags |= {"floors": "false", "report_to": "none", "defaults_version": 2, **keys}
    words = ["--dataset", dataset, "--output_dir", output_dir]
    for key, value in flags.items():
        if value is not None:
            words += [f"--{key}", *(value if isinstance(value, list) else [value])]
    return list(map(str, words))


def run(script: str, dataset: Path, output_dir: Path, **keys):
    """Runs a script in this process; gives the job."""
    module, jobs = importlib.import_module(f"mm_hf.training.{script}"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script}.py", *words_of(dataset, output_dir, **keys)])
        open_run = module.open_run
        patch.setattr(module, "open_run", lambda *words: jobs.append(open_run(*words)) or jobs[-1])
        exits.run_script(module.main)
    return jobs[-1]


def prepared(dataset: Path, output_dir: Path, **keys):
    """The job as it is before it trains."""
    module = importlib.import_module("mm_hf.training.open_run")
    return module.open_run("", "train.py", words_of(dataset, output_dir, **keys))


def saved(job, folder: Path) -> Path:
    """A checkpoint of a job that did not train, with its recipe."""
    job.model.save_pretrained(folder)
    job.processor.save_pretrained(folder)
    return folder


BUILT = {"fusion": "concat", "fusion_hidden_size": 16, "fusion_layers": 1, "fusion_heads": 2}
PICTURES = {"image_column": "photo", "text_column": "title"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    return write_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def other_shop(tmp_path_factory) -> Path:
    """Other rows: one thing is new, one is gone, and prices are in cents."""
    return write_shop(tmp_path_factory.mktemp("other"), 40, 1, ["hat", "pen", "car", "cup", "cat"], unit=100.0)


@pytest.fixture(scope="module")
def things(small, shop, tmp_path_factory) -> Path:
    """A run that tells things in pictures with titles."""
    folder = tmp_path_factory.mktemp("runs") / "things"
    built = {**BUILT, "fusion": "cross_attention", "vision_encoder": small / "vit", "text_encoder": small / "bert"}
    run("train", shop, folder, **built, **PICTURES, label_column="thing", freeze_encoders="true")
    return folder


@pytest.fixture(scope="module")
def table(shop, tmp_path_factory) -> Path:
    """A run that tells a price from a table."""
    folder = tmp_path_factory.mktemp("runs") / "table"
    columns = {"table_columns": ["weight", "maker"], "label_column": "price"}
    run("train", shop, folder, **BUILT, **columns)
    return folder


def answers(model, job, split="test"):
    """The model's answers to the rows of a part, by the job's collator."""
    rows = job.all_rows(split, job.splits[split].column_names)
    batch = {key: value for key, value in job.collator(rows).items() if key not in ("row_ids", "labels", "bad_rows")}
    with torch.no_grad():
        return model.eval()(**batch).logits


# What is taken over


def test_other_labels(things, other_shop, tmp_path, capsys):
    """Nothing of the architecture is repeated; rows of the head go by the names of labels."""
    run("train", other_shop, tmp_path / "run", **PICTURES, label_column="thing", init_from=things)
    out = capsys.readouterr().out
    for line in (
        f"started from {things}:\n",
        "  vision encoder: from things\n",
        "  text encoder: from things\n",
        "  fusion: from things\n",
        "  head: 3 of 5 labels from things (cup, hat, pen); fresh: car, cat; of things not used: box\n",
    ):
        assert line in out
    config, old = MMFusionConfig.from_pretrained(tmp_path / "run"), MMFusionConfig.from_pretrained(things)
    assert config.fusion_module_config.to_dict() == old.fusion_module_config.to_dict()
    assert (config.freeze_encoders, old.freeze_encoders) == (False, True)
    assert list(config.id2label.values()) == ["car", "cat", "cup", "hat", "pen"]

    weights, start = load_file(things / "model.safetensors"), load_file(tmp_path / "run/start/model.safetensors")
    for name, value in start.items():
        if not name.startswith("classifier."):
            assert torch.equal(value, weights[name]), name
    place = {name: number for number, name in old.id2label.items()}
    for number, name in config.id2label.items():
        for part in ("weight", "bias"):
            new, before = start[f"classifier.{part}"][number], weights[f"classifier.{part}"]
            assert torch.equal(new, before[place[name]]) if name in place else not (new[None] == before).all(-1).any()

    recipe = json.loads((tmp_path / "run/recipe.json").read_text())
    kept = {
        key: recipe[key] for key in ("fusion", "fusion_hidden_size", "fusion_layers", "fusion_heads", "image_size")
    }
    assert list(kept.values()) == ["cross_attention", 16, 1, 2, 16]
    results, card = json.loads((tmp_path / "run/results.json").read_text()), (tmp_path / "run/README.md").read_text()
    assert results["started_from"]["name"] == "things"
    assert "Started from `things`" in card
    assert "- head: 3 of 5 labels from things" in card
    assert str(things) not in card
    assert "vision encoder `vit`" in card
    processor = MMFusionProcessor.from_pretrained(tmp_path / "run")
    assert processor.tokenizer.get_vocab() == MMFusionProcessor.from_pretrained(things).tokenizer.get_vocab()


def test_numbers_go_on_in_their_unit(table, other_shop, tmp_path):
    """The same column: the model starts with the answers of the one before, in the unit of the column, though the new
    rows have another mean. Another column of numbers starts fresh."""
    columns = {"table_columns": ["weight", "maker"], "init_from": table}
    job = prepared(other_shop, tmp_path / "same", **columns, label_column="price")
    assert "head: from table, in the unit of the label" in job.start.lines
    config = MMFusionConfig.from_pretrained(table)
    assert job.model.config.label_mean[0] > 50 * config.label_mean[0]
    old = class_of(config, table).from_pretrained(table)
    torch.testing.assert_close(answers(job.model, job), answers(old, job), rtol=1e-3, atol=1e-2)
    assert "table: means, standard deviations and categories from table" in job.start.lines
    assert job.processor.table_schema == MMFusionProcessor.from_pretrained(table).table_schema

    job = prepared(other_shop, tmp_path / "other", **columns, label_column="height")
    (line,) = [line for line in job.start.lines if line.startswith("head:")]
    assert line.startswith(f"head: fresh, fitted to {len(job.splits['train'])} training rows")
    assert job.model.classifier.weight.any()


def test_other_columns_of_a_table_start_fresh(table, other_shop, tmp_path):
    """As many columns of the same kinds, and an encoder of the same shape: what they mean is another thing."""
    columns = {"table_columns": ["height", "maker"], "label_column": "price", "init_from": table}
    job = prepared(other_shop, tmp_path / "run", **columns)
    lines = job.start.lines
    assert any("['weight'], not ['height']" in line for line in lines)
    assert "tabular encoder and projection: fresh" in lines
    weights = load_file(table / "model.safetensors")
    assert not torch.equal(job.model.model.encoders["tabular"].biases, weights["model.encoders.tabular.biases"])
    assert "height" in job.processor.table_schema.numerical


def test_another_unit_and_other_categories_are_said(table, tmp_path):
    """They are standardised and looked up as before, which may not be what is meant."""
    shop = write_shop(tmp_path / "mine", 40, 1)
    rows = shop.read_text().replace("maker 1", "maker one").splitlines()
    lines = [rows[0]]
    for row in rows[1:]:
        cells = row.split(",")
        cells[3] = str(1000 * float(cells[3]))
        lines.append(",".join(cells))
    shop.write_text("\n".join(lines))
    job = prepared(shop, tmp_path / "run", table_columns=["weight", "maker"], label_column="price", init_from=table)
    said = "\n".join(job.start.lines)
    assert "weight has mean" in said
    assert re.search(says("1 of 3", "maker", "table", "'maker one'"), said)


def test_several_tasks(things, other_shop, tmp_path):
    """The label that the checkpoint knows goes by its column; others are fresh. And back again."""
    keys = {**PICTURES, "label_column": ["thing", "price"], "init_from": things}
    job = prepared(other_shop, tmp_path / "two", **keys)
    assert isinstance(job.model, MMFusionForMultiTask)
    torch.nn.init.normal_(job.model.heads["for_price"].weight)
    two = saved(job, tmp_path / "two")
    rows = len(job.splits["train"])
    assert job.start.lines[-2:] == [
        f"head of price: fresh, fitted to {rows} training rows as a linear model before the training",
        "head of thing: 3 of 5 labels from things (cup, hat, pen); fresh: car, cat; of things not used: box",
    ]
    back = prepared(other_shop, tmp_path / "one", **PICTURES, label_column="price", init_from=two)
    assert "head: from two, in the unit of the label" in back.start.lines
    assert "head of two for 'thing': not used" in back.start.lines
    assert back.model.config.tasks is None
    old = MMFusionForMultiTask.from_pretrained(two)
    torch.testing.assert_close(answers(back.model, back), answers(old, back)["price"], rtol=1e-3, atol=1e-2)


def test_fewer_and_more_modalities(things, small, other_shop, tmp_path):
    """What is gone is named, what is new brings its own encoder; both were told apart before."""
    job = prepared(other_shop, tmp_path / "fewer", text_column="title", label_column="thing", init_from=things)
    assert job.model.config.modalities == ["text"]
    assert "vision encoder of things: not used" in job.start.lines
    weights = load_file(things / "model.safetensors")
    state = job.model.state_dict()
    name = "model.encoders.text.embeddings.word_embeddings.weight"
    assert torch.equal(state[name], weights[name])
    assert job.processor.present_parts == ["tokenizer"]

    more = {**PICTURES, "table_columns": ["weight"], "vision_encoder": small / "wide", "label_column": "thing"}
    fewer = saved(job, tmp_path / "fewer")
    job = prepared(other_shop, tmp_path / "more", **more, init_from=fewer, freeze_encoders="true")
    lines = job.start.lines
    assert "vision encoder: from wide; fewer has none; its projection is fresh" in lines
    assert "tabular encoder and projection: fresh, fewer has none" in lines
    wide = T.ViTModel.from_pretrained(small / "wide").state_dict()
    found = job.model.model.encoders["vision"].state_dict()
    assert all(torch.equal(value, wide[name]) for name, value in found.items())
    assert job.model.config.frozen_encoders == ["vision", "text"]
    assert not job.model.model.encoders["vision"].training
    assert job.model.config.fusion_module_config.query_modality == "text"
    assert job.collator.cache.modalities


def test_more_pictures_a_row(things, other_shop, tmp_path):
    keys = {"image_column": ["photo", "back"], "text_column": "title", "label_column": "thing"}
    job = prepared(other_shop, tmp_path / "two", **keys, init_from=things)
    two = saved(job, tmp_path / "two")
    assert "vision projection: from things, 0 of 2 places; the others are fresh" in job.start.lines
    assert job.model.config.num_images == 2
    back = prepared(other_shop, tmp_path / "one", **PICTURES, label_column="thing", init_from=two)
    assert "vision projection: from two; of two not used: 2 of 2 places" in back.start.lines


def test_search_then_classes(things, other_shop, tmp_path):
    """From one kind of head to another, and back to the kind of the checkpoint where the recipe says nothing."""
    keys = {**PICTURES, "task": "retrieval", "projection_dim": 8, "init_from": things}
    job = prepared(other_shop, tmp_path / "search", **keys)
    search = saved(job, tmp_path / "search")
    assert "logit_scale, embeddings.vision, embeddings.text, matching: fresh" in job.start.lines
    again = prepared(other_shop, tmp_path / "again", **PICTURES, init_from=search)
    assert again.model.config.projection_dim == 8
    assert "logit_scale, embeddings.vision, embeddings.text, matching: from search" in again.start.lines
    classes = prepared(other_shop, tmp_path / "classes", **PICTURES, label_column="thing", init_from=search)
    assert isinstance(classes.model, MMFusionForQuestionAnswering)
    assert any(line.startswith("head: fresh, fitted to") for line in classes.start.lines)


def test_a_head_without_a_known_label_is_fitted(things, other_shop, tmp_path):
    """Before the first step it knows more than a guess; all else is what the checkpoint has, and a second start gives
    the same numbers."""
    keys = {**PICTURES, "label_column": "colour", "init_from": things}
    job = prepared(other_shop, tmp_path / "run", **keys)
    labels = torch.tensor([job.label2id[row["colour"]] for row in job.splits["train"]])
    truth = labels.bincount().max() / len(labels)
    assert (answers(job.model, job, "train").argmax(-1) == labels).float().mean() > truth + 0.2
    weights, state = load_file(things / "model.safetensors"), job.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in weights.items() if name.startswith("model."))
    again = prepared(other_shop, tmp_path / "again", **keys).model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in again.items())


def test_writing(things, small, other_shop, tmp_path):
    """A decoder of the named kind beside the checkpoint's encoders; then all of it again."""
    keys = {**PICTURES, "label_column": "title", "task": "generation", "max_target_length": 6}
    job = prepared(other_shop, tmp_path / "writer", **keys, init_from=things, decoder=small / "bert")
    writer = saved(job, tmp_path / "writer")
    assert "decoder: pretrained, its cross-attention is fresh" in job.start.lines
    decoder = T.BertModel.from_pretrained(small / "bert").state_dict()["embeddings.word_embeddings.weight"]
    started = load_file(tmp_path / "writer/start/model.safetensors")
    assert torch.equal(started["decoder.bert.embeddings.word_embeddings.weight"], decoder)
    del keys["task"]
    again = prepared(other_shop, tmp_path / "again", **keys, init_from=writer)
    weights = load_file(writer / "model.safetensors")
    assert all(
        torch.equal(value, weights[name]) for name, value in again.model.state_dict().items() if name in weights
    )
    assert set(weights) <= set(again.model.state_dict())
    other = {**keys, "task": "generation", "init_from": things, "decoder": small / "turned"}
    with pytest.raises(ValueError, match=r"decoder .*turned .*\b16 tokens"):  # in another order
        prepared(other_shop, tmp_path / "turned", **other)


def test_adapters_on_top_and_before(things, other_shop, tmp_path):
    """A run with LoRA leaves an ordinary checkpoint, and starts from one."""
    keys = {**PICTURES, "label_column": "thing", "lora": "text", "lora_rank": 2}
    job = prepared(other_shop, tmp_path / "lora", **keys, init_from=things)
    trained = {name for name, parameter in job.model.named_parameters() if parameter.requires_grad}
    assert not any("encoders.text." in name and "lora_" not in name for name in trained)
    for name, parameter in job.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    merge_lora(job.model)
    lora = saved(job, tmp_path / "lora")
    weights, before = load_file(lora / "model.safetensors"), load_file(things / "model.safetensors")
    assert set(weights) == set(before)
    changed = "model.encoders.text.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(weights[changed], before[changed])
    again = prepared(other_shop, tmp_path / "again", **keys, init_from=lora)
    base = again.model.state_dict()[changed.replace("query.weight", "query.base_layer.weight")]
    assert torch.equal(base, weights[changed])
    assert "head: 5 of 5 labels from lora (car, cat, cup, hat, pen)" in again.start.lines


def write_sounds(folder: Path, texts: list[str], channels: int) -> Path:
    """A table of sounds and time series with texts."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    rows = []
    for number in range(40):
        soundfile.write(folder / f"{number}.wav", draw.normal(0, 0.1, 2000).astype("float32"), 4000)
        steps = draw.normal(0, 1, (5, channels)).tolist()
        rows.append({"sound": f"{number}.wav", "steps": steps, "text": texts[number % len(texts)]})
    (folder / "sounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "sounds.jsonl"


@pytest.fixture(scope="module")
def spoken(small, tmp_path_factory) -> Path:
    """A checkpoint that writes down sounds, beside time series of two channels."""
    folder = tmp_path_factory.mktemp("spoken")
    torch.manual_seed(0)
    T.Wav2Vec2Model(tiny.AUDIO_CONFIGS["wav2vec2"]()).save_pretrained(small / "sound")
    T.Wav2Vec2FeatureExtractor(sampling_rate=4000).save_pretrained(small / "sound")
    data = write_sounds(folder / "data", ["abba", "baca"], 2)
    keys = {"audio_column": "sound", "series_column": "steps", "label_column": "text", "task": "ctc"}
    job = prepared(
        data, folder / "run", **BUILT | {"fusion": "cross_attention"}, **keys, audio_encoder=small / "sound"
    )
    return saved(job, folder / "run")


@pytest.mark.parametrize("channels", [2, 3])
def test_letters_and_series(spoken, tmp_path, channels):
    """Letters go by name; series of as many channels keep their scale and encoder."""
    data = write_sounds(tmp_path / "data", ["dada", "cab"], channels)
    keys = {"audio_column": "sound", "series_column": "steps", "label_column": "text", "init_from": spoken}
    job = prepared(data, tmp_path / "run", **keys)
    assert isinstance(job.model, MMFusionForCTC)
    (head,) = [line for line in job.start.lines if line.startswith("head:")]
    letters = job.processor.tokenizer.convert_ids_to_tokens(range(len(job.processor.tokenizer)))
    old_processor = MMFusionProcessor.from_pretrained(spoken)
    old_letters = old_processor.tokenizer.convert_ids_to_tokens(range(len(old_processor.tokenizer)))
    assert head.endswith("fresh: d")
    weights = load_file(spoken / "model.safetensors")
    for number, letter in enumerate(letters):
        if letter in old_letters:
            expected = weights["ctc_head.weight"][old_letters.index(letter)]
            assert torch.equal(job.model.ctc_head.weight[number], expected)
    for modality, kept in (("series", channels == 2), ("audio", True)):
        name = f"model.projections.{modality}.absent_token"
        assert torch.equal(job.model.state_dict()[name], weights[name]) == kept
    assert (job.processor.series_scaler == old_processor.series_scaler) == (channels == 2)
    assert job.model.config.series_config.input_size == channels
    assert torch.equal(
        job.model.model.projections["audio"].absent_token, weights["model.projections.audio.absent_token"]
    )


# Keys of the recipe


@pytest.mark.parametrize(
    ("key", "value", "known"),
    [
        ("fusion", "concat", "cross_attention"),
        ("fusion_hidden_size", 32, 16),
        ("fusion_layers", 4, 1),  # the value that a recipe without the key has
        ("fusion_heads", 1, 2),
        ("memory_layers", 1, 0),
        ("image_size", 32, 16),
        ("vision_feature_layer", [0], None),
        ("vision_feature_join", "channels", "tokens"),
        ("text_pooling", "mean", "cls"),
        ("vision_encoder", "wide", "vit"),
        ("text_encoder", "vit", "bert"),
    ],
)
def test_keys_that_contradict_the_checkpoint_are_refused(things, small, other_shop, tmp_path, key, value, known):
    value = small / value if key.endswith("_encoder") else value
    with pytest.raises(ValueError, match=rf"\b{key}\b") as error:
        prepared(other_shop, tmp_path, **PICTURES, label_column="thing", init_from=things, **{key: value})
    assert str(known) in str(error.value)
    assert (str(value[0]) if isinstance(value, list) else str(value)) in str(error.value)
    assert not (tmp_path / "recipe.json").exists()


def test_keys_that_agree_or_are_free_are_taken(things, small, other_shop, tmp_path):
    given = {"fusion": "cross_attention", "fusion_layers": 1, "image_size": 16, "vision_encoder": small / "vit"}
    free = {"fusion_dropout": 0.3, "classifier_dropout": 0.2, "max_text_length": 4, "image_background": "black"}
    job = prepared(other_shop, tmp_path, **PICTURES, label_column="thing", init_from=things, **given, **free)
    assert job.model.config.fusion_module_config.hidden_dropout_prob == 0.3
    assert job.model.config.classifier_dropout == 0.2
    assert (job.processor.tokenizer.model_max_length, job.processor.image_background) == (4, "black")


def test_which_keys_are_given(tmp_path):
    """Of the recipe, of the one that it is based on, and of the command line, though the value be the default."""
    (tmp_path / "base.yaml").write_text("fusion_layers: 4\nfusion_hidden_size:\n")
    (tmp_path / "mine.yaml").write_text("base: base.yaml\nlearning_rate: 1e-3\n")
    words = [str(tmp_path / "mine.yaml"), "--seed", "0", "--no_floors", "--image_column", "a", "b"]
    assert given_keys(words) == {"fusion_layers", "learning_rate", "seed", "floors", "image_column"}
    assert given_keys(["--fusion=concat"]) == {"fusion"}


def test_every_key_of_the_config_belongs_to_somebody():
    """A new key of the config is either of the parts that are taken over, or of the head and the recipe."""
    of_head = {"class_weights", "class_priors", "focal_gamma", "label_smoothing", "label_mean", "label_scale", "tasks"}
    of_head |= {"confidence"}
    of_head |= {"task_weighting", "projection_dim", "matching_weight", "decoder_config", "decoder_start_token_id"}
    of_head |= {"eos_token_id", "pad_token_id", "freeze_decoder_embeddings", "vocab_size", "ctc_stride"}
    of_recipe = {"freeze_encoders", "trained_layers", "num_images", "num_frames", "places", "mixup_alpha"}
    of_modalities = {"vision_config", "text_config", "audio_config", "tabular_config", "series_config"}
    of_modalities |= {"extra_configs"}
    own = {key.name for key in fields(MMFusionConfig)} - {key.name for key in fields(T.PreTrainedConfig)}
    of_saving = {"versions"}  # those that write it
    assert own == {*OF_BASE, *of_head, *of_recipe, *of_modalities, *of_saving}


def test_columns_in_another_order():
    """Each place has learned its own column: the other way round it would look at the wrong one."""
    start = SimpleNamespace(name="runs/a", recipe={"text_column": ["title", "body"], "image_column": ["photo"]})
    check_order(start, DataArguments(text_column=["title", "body"]))
    check_order(start, DataArguments(text_column=["title", "other"]))
    with pytest.raises(ValueError, match=r"\['title', 'body'\].*\['body', 'title'\]"):
        check_order(start, DataArguments(text_column=["body", "title"]))


# What cannot be started from


def test_what_cannot_be_started_from(things, small, shop, tmp_path):
    keys = {**PICTURES, "label_column": "thing"}
    (tmp_path / "states/checkpoint-4").mkdir(parents=True)
    faults = {
        things: (things, "output_dir"),
        things / "start": (things, "output_dir"),
        tmp_path / "states": (tmp_path / "run", "checkpoint-4"),
        small / "vit": (tmp_path / "run", "'vit'"),
        tmp_path / "no where": (tmp_path / "run", "no where"),
        tmp_path / "model alone": (tmp_path / "run", "processor_config.json"),
    }
    shutil.copytree(things, tmp_path / "model alone").joinpath("processor_config.json").unlink()
    (things / "start").mkdir(exist_ok=True)
    for source, (output_dir, named) in faults.items():
        with pytest.raises((ValueError, OSError), match="init_from") as error:
            prepared(shop, output_dir, **keys, init_from=source)
        assert named in str(error.value)
    with pytest.raises(ValueError, match=r"\['vision', 'text'\].*\['tabular'\]"):
        prepared(shop, tmp_path / "run", table_columns=["weight"], label_column="price", init_from=things)


def test_rows_that_the_checkpoint_has_learned(things, shop, tmp_path):
    """The same data, cut otherwise: the test part may hold them."""
    keys = {**PICTURES, "label_column": "colour", "init_from": things}
    assert not any("warning" in line for line in prepared(shop, tmp_path / "same", **keys).start.lines)
    job = prepared(shop, tmp_path / "kept", **keys, seed=3)  # another seed takes the cut over
    assert not any("warning" in line for line in job.start.lines)
    assert (job.data_args.split_seed, job.train_args.seed) == (0, 3)
    lines = prepared(shop, tmp_path / "other", **keys, seed=3, split_seed=4).start.lines
    assert any(re.search(says("warning", "things", "split_seed", 0, 4), line) for line in lines)


# Going on


class KilledError(BaseException):
    """Of a process that is killed."""


@pytest.mark.parametrize("script", ["train", pytest.param("finetune", marks=pytest.mark.slow)])
def test_goes_on_without_the_checkpoint(things, other_shop, tmp_path, monkeypatch, script):
    """Killed behind its first training state; then the checkpoint that it started from is gone. It ends with the very
    weights and floors of a run that was left alone."""
    source = shutil.copytree(things, tmp_path / "gone")
    keys = {**PICTURES, "label_column": "thing", "init_from": source, "freeze_encoders": "true", "floors": "true"}
    keys |= {"floor_budget": 0.5, "lora": "fusion"}
    run(script, other_shop, tmp_path / "alone", **keys)

    def publish_and_die(folder):
        checkpoints.publish(folder)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(states, "publish", publish_and_die)
        with pytest.raises(KilledError):
            run(script, other_shop, tmp_path / "killed", **keys)
    assert (tmp_path / "killed/checkpoint-2").exists()
    shutil.rmtree(source)
    with monkeypatch.context() as patch:  # nothing is made again
        patch.setattr(start_parts, "make_model", None)
        run(script, other_shop, tmp_path / "killed", **keys)
    alone, killed = (load_file(tmp_path / name / "model.safetensors") for name in ("alone", "killed"))
    assert all(torch.equal(value, killed[name]) for name, value in alone.items())
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("alone", "killed")]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[0]["floors"] == results[1]["floors"]
    assert results[0]["started_from"] == results[1]["started_from"]
    assert {"text_only", "image_only"} <= set(results[0]["floors"])


def test_a_damaged_start_is_refused(things, other_shop, tmp_path):
    keys = {**PICTURES, "label_column": "thing", "init_from": things}
    prepared(other_shop, tmp_path / "run", **keys)
    (tmp_path / "run/checkpoint-2").mkdir()  # it has begun
    file = tmp_path / "run/start/model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"start, .*model\.safetensors.*--overwrite_output_dir"):
        prepared(other_shop, tmp_path / "run", **keys, num_train_epochs=3, allow_changes="true")
    with pytest.raises(ValueError, match="init_from"):
        prepared(other_shop, tmp_path / "run", **{**keys, "init_from": None}, vision_encoder="x/y", text_encoder="x/y")
    prepared(other_shop, tmp_path / "run", **keys, overwrite_output_dir="true")


def test_half_precision(things, other_shop, tmp_path):
    """A checkpoint in sixteen bits starts a run in thirty-two."""
    model = MMFusionForQuestionAnswering.from_pretrained(things, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    MMFusionProcessor.from_pretrained(things).save_pretrained(tmp_path / "half")
    keys = {**PICTURES, "label_column": "thing", "init_from": tmp_path / "half"}
    job = prepared(other_shop, tmp_path / "run", **keys)
    assert {value.dtype for value in job.model.parameters()} == {torch.float32}
    assert torch.equal(job.model.model.fusion.norm.bias, model.model.fusion.norm.bias.float())
    assert (job.model.config.dtype, job.model.config.text_config.dtype) == (torch.float32, torch.float32)


def test_words_that_were_added(things, other_shop, tmp_path):
    """Tokenizer and embeddings of a checkpoint belong together."""
    model, processor = MMFusionForQuestionAnswering.from_pretrained(things), MMFusionProcessor.from_pretrained(things)
    processor.tokenizer.add_tokens(["car"])
    model.resize_token_embeddings(len(processor.tokenizer))
    model.save_pretrained(tmp_path / "more")
    processor.save_pretrained(tmp_path / "more")
    job = prepared(other_shop, tmp_path / "run", **PICTURES, label_column="thing", init_from=tmp_path / "more")
    assert job.processor.tokenizer.convert_tokens_to_ids("car") == len(WORDS)
    words = job.model.get_input_embeddings().weight
    assert torch.equal(words, model.get_input_embeddings().weight)
    assert len(words) == len(WORDS) + 1


def test_floors_start_where_the_run_does(things, other_shop, tmp_path):
    job = prepared(other_shop, tmp_path / "run", **PICTURES, label_column="thing", init_from=things)
    weights = job.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in job.build().state_dict().items())
