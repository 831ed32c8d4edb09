"""Rows of a plain data set in the collator, and under the library's own Trainer: train, evaluate, predict."""

import io

import datasets
import numpy as np
import pytest
import tiny_models as tiny
import torch
from PIL import Image
from transformers import BertTokenizer, Trainer, TrainingArguments, Wav2Vec2FeatureExtractor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from mm_hf import MMFusionForClassification, MMFusionForMultiTask, MMFusionProcessor, SeriesScaler, TableSchema
from mm_hf.data import Columns, ImageAugmentation, MultimodalCollator, plain_rows
from mm_hf.data.rows import BadRowError


NAN = float("nan")
RATE = 16000
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "it", "no", "who", "yes"]
SCHEMA = TableSchema(numerical={"age": (40.0, 10.0)}, categorical={"town": ["Bonn", "Ulm"]})


def picture(seed: int, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


WAVE = np.sin(np.arange(800) / 9).astype(np.float32)


@pytest.fixture(scope="module")
def processor() -> MMFusionProcessor:
    return MMFusionProcessor(
        ViTImageProcessorPil(size={"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE}),
        BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}, model_max_length=40),
        Wav2Vec2FeatureExtractor(sampling_rate=RATE),
        SCHEMA,
        SeriesScaler([0.0], [2.0]),
    )


def batches(processor, columns: Columns, plain: list[dict], known: list[dict], **settings):
    """Of plain rows, and of the same rows as `Rows` gives them."""
    collator = MultimodalCollator(processor, columns, **settings)
    numbered = [{**row, "row_id": number, "split": "train"} for number, row in enumerate(known)]
    return collator(plain), collator(numbered)


def same(one, other):
    other = {name: value for name, value in other.items() if name != "row_ids"}
    assert list(one) == list(other)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0, equal_nan=True, msg=name)


# --- The collator


PICTURES = {
    "PIL": lambda image, path: image,
    "path": lambda image, path: str(path),
    "Path": lambda image, path: path,
    "bytes": lambda image, path: path.read_bytes(),
    "struct of bytes": lambda image, path: {"bytes": path.read_bytes(), "path": None},
    "struct of a path": lambda image, path: {"bytes": None, "path": str(path)},
    "array": lambda image, path: np.array(image),
    "tensor": lambda image, path: torch.from_numpy(np.array(image)),
}


@pytest.mark.parametrize("form", PICTURES)
def test_pictures_of_every_form(processor, form, tmp_path):
    images = [picture(0), picture(1)]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.png")
    plain = [{"image": PICTURES[form](image, tmp_path / f"{n}.png")} for n, image in enumerate(images)]
    known = [{"image": {"bytes": png(image), "path": None}} for image in images]
    absent = {"image": NAN if form == "PIL" else None}
    plain, known = [*plain, absent, plain[0]], [*known, {"image": None}, known[0]]
    found, expected = batches(processor, Columns(image="image"), plain, known, root=str(tmp_path))
    assert found["vision_index"].tolist() == [0, 1, -1, 0]
    same(found, expected)


def test_pictures_that_look_alike_are_one_and_others_are_not(processor):
    collator = MultimodalCollator(processor, Columns(image="image"))
    palettes = [picture(0, "P"), picture(0, "P")]
    palettes[1].putpalette(bytes(255 - value for value in palettes[1].getpalette()))
    assert palettes[0].tobytes() == palettes[1].tobytes()
    grey = picture(0, "L")
    rows = [picture(0), picture(0).copy(), picture(1), grey, *palettes, grey.copy()]
    index = collator([{"image": image} for image in rows])["vision_index"].tolist()
    assert index == [0, 0, 1, 2, 3, 4, 2]


def test_several_pictures_and_videos(processor):
    a, b = picture(0), picture(1)
    files = [{"bytes": png(image), "path": None} for image in (a, b)]
    plain = [{"front": a, "back": None}, {"front": b, "back": a}]
    known = [{"front": files[0], "back": None}, {"front": files[1], "back": files[0]}]
    found, expected = batches(processor, Columns(image=["front", "back"]), plain, known)
    assert found["vision_index"].tolist() == [[0, -1], [1, 0]]
    same(found, expected)
    plain, known = [{"clip": [a, b]}, {"clip": None}], [{"clip": files}, {"clip": None}]
    found, expected = batches(processor, Columns(video="clip"), plain, known, num_frames=2)
    assert found["vision_index"].tolist() == [[0, 1], [-1, -1]]
    same(found, expected)


SOUNDS = {
    "samples": lambda path: {"array": WAVE, "sampling_rate": RATE},
    "samples, as a pipeline takes them": lambda path: {"raw": WAVE, "sampling_rate": RATE},
    "array": lambda path: WAVE,
    "path": lambda path: str(path),
    "bytes": lambda path: path.read_bytes(),
    "struct": lambda path: {"bytes": path.read_bytes(), "path": None},
}


@pytest.mark.parametrize("form", SOUNDS)
def test_sounds_of_every_form(processor, form, tmp_path):
    import soundfile

    path = tmp_path / "one.wav"
    soundfile.write(path, WAVE, RATE, subtype="FLOAT")
    plain = [{"sound": SOUNDS[form](path)}, {"sound": None}, {"sound": SOUNDS[form](path)}]
    known = [{"sound": {"bytes": path.read_bytes(), "path": None}}, {"sound": None}]
    found, expected = batches(processor, Columns(audio="sound"), plain, [*known, known[0]], root=str(tmp_path))
    assert found["audio_index"].tolist() == [0, -1, 0]
    same(found, expected)


ROWS = [
    {"text": "what is it", "age": 20, "town": "Ulm", "steps": [[1.0], [2.0]], "answer": "yes", "w": 1.0, "s": 0.5},
    {"text": None, "age": None, "town": None, "steps": None, "answer": None, "w": None, "s": None},
    {"text": "no", "age": 61.5, "town": None, "steps": [[NAN], [3.0]], "answer": "no", "w": 2.0, "s": 1.5},
]
FORMATS = {
    "values": lambda row: row,
    "numpy": lambda row: {name: np.array(value)[()] if value is not None else NAN for name, value in row.items()},
    "torch": lambda row: {
        name: torch.tensor(value) if isinstance(value, (int, float, list)) else value for name, value in row.items()
    },
    "with other columns": lambda row: {**row, "row_id": "b7", "split": 3, "epoch": 1, "position": 2, "kind": object()},
}


@pytest.mark.parametrize("form", FORMATS)
def test_other_columns_of_every_form(processor, form):
    columns = Columns(text="text", table=["age", "town"], series="steps", label="answer", weight="w")
    settings = {"label2id": {"no": 0, "yes": 1}, "problem_type": "single_label_classification"}
    found, expected = batches(processor, columns, [FORMATS[form](row) for row in ROWS], ROWS, **settings)
    assert found["labels"].tolist() == [1, -100, 0]
    assert found["sample_weight"].tolist() == [1.0, 0.0, 2.0]
    same(found, expected)
    numbers = Columns(text="text", label="s")
    found, expected = batches(
        processor, numbers, [FORMATS[form](row) for row in ROWS], ROWS, problem_type="regression"
    )
    same(found, expected)


def test_a_bad_row_is_named_by_its_place(processor):
    columns = Columns(image="image", text="text")
    rows = [{"image": None, "text": "no"}, {"image": {"bytes": b"x", "path": None}, "text": "a \ud800"}]
    with pytest.raises(BadRowError, match=r"row 1 .*'this batch'.*'image'"):
        MultimodalCollator(processor, columns)(rows)
    batch = MultimodalCollator(processor, columns, on_error="skip")(rows)
    assert [(entry["row"], entry["column"]) for entry in batch["bad_rows"]] == [(1, "image"), (1, "text")]
    assert "lone surrogate" in batch["bad_rows"][1]["reason"]
    assert batch["vision_index"].tolist() == [-1, -1]
    assert batch["text_index"].tolist() == [0, -1]


@pytest.mark.parametrize("plain", [True, False])
def test_lone_surrogates_to_write_are_bad_rows(processor, plain):
    collator = MultimodalCollator(processor, Columns(text="text", label="answer"), problem_type="generation")
    rows = [{"text": "no", "answer": "yes"}, {"text": "no", "answer": "\udc80"}]
    if not plain:
        rows = [{**row, "row_id": number, "split": "train"} for number, row in enumerate(rows)]
    with pytest.raises(BadRowError, match=r"row 1 .*'answer'.*surrogate"):
        collator(rows)


def test_columns_that_are_not_there(processor, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(plain_rows.logger, "warning_once", said.append, raising=False)
    collator = MultimodalCollator(processor, Columns(text="text", label="answer", weight="w"))
    for row, message in (
        ({"txt": "no", "answer": 1, "w": 1.0}, r"'text'.*'txt'.*'txt'\?.*remove_unused_columns"),
        ({}, r"'text'.*remove_unused_columns=False"),
        ({"text": "no", "answer": 1}, r"\['answer'\].*\['w'\]"),
        ("no", "dict.*'no'"),
    ):
        with pytest.raises(ValueError, match=message):
            collator([row])
    assert not said
    batch = collator([{"text": "no", "anser": 1}])
    assert "labels" not in batch
    assert len(said) == 1
    assert "['answer', 'w']" in said[0]
    assert "Did you mean 'anser'" in said[0]


def test_what_is_drawn_comes_from_torch(processor):
    """Rows that do not know their number are not all changed alike; with one seed they are the same again."""
    collator = MultimodalCollator(processor, Columns(image="image"), augment=ImageAugmentation(crop=True))
    rows = [{"image": picture(0)}]
    torch.manual_seed(0)
    first, second = collator(rows)["pixel_values"], collator(rows)["pixel_values"]
    torch.manual_seed(0)
    again = collator(rows)["pixel_values"]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    state = torch.random.get_rng_state()
    MultimodalCollator(processor, Columns(image="image"))(rows)
    assert torch.equal(torch.random.get_rng_state(), state)


# --- The library's Trainer


def data_set(decode: bool = True, **more) -> datasets.Dataset:
    rows = 12
    columns = {
        "image": [None if row % 4 == 3 else picture(row % 3) for row in range(rows)],
        "question": ["what is it" if row % 2 else "no" for row in range(rows)],
        "answer": ["yes" if row % 3 else "no" for row in range(rows)],
        "size": [row / 4 for row in range(rows)],
        "row_id": [f"id {row}" for row in range(rows)],
    }
    return datasets.Dataset.from_dict({**columns, **more}).cast_column("image", datasets.Image(decode=decode))


def trainer_of(processor, data, folder, model=None, columns=None, collator=None, **arguments):
    columns = columns or Columns(image="image", text="question", label="answer")
    model = model or tiny.model(MMFusionForClassification, num_labels=2, problem_type="single_label_classification")
    settings = {"label2id": {"no": 0, "yes": 1}, "problem_type": "single_label_classification", **(collator or {})}
    defaults = {"max_steps": 4, "use_cpu": True, "disable_tqdm": True, "report_to": [], "save_strategy": "no"}
    defaults |= {"remove_unused_columns": False, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 5}
    return Trainer(
        model,
        TrainingArguments(str(folder), **{**defaults, "learning_rate": 1e-2, "logging_steps": 1, **arguments}),
        MultimodalCollator(processor, columns, **settings),
        train_dataset=data,
        eval_dataset=data,
        compute_metrics=lambda p: (
            {"shape": str(np.shape(p.predictions))} if isinstance(p.predictions, np.ndarray) else {}
        ),
    )


@pytest.mark.parametrize("kind", ["decoded", "encoded", "transformed", "torch", "stream"])
def test_train_evaluate_predict(processor, kind, tmp_path):
    data = data_set(decode=kind == "decoded")
    if kind == "transformed":
        data = data_set().with_transform(lambda batch: batch)
    trainer = trainer_of(processor, data.to_iterable_dataset() if kind == "stream" else data, tmp_path)
    if kind == "torch":
        trainer.train_dataset = trainer.eval_dataset = data_set().with_format(
            "torch", columns=["size"], output_all_columns=True
        )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    metrics = trainer.evaluate()
    predicted = trainer.predict(trainer.eval_dataset)
    rows = list(data_set())
    labels = torch.tensor([row["answer"] == "yes" for row in rows]).long()
    with torch.no_grad():
        inputs = processor(images=[row["image"] for row in rows], text=[row["question"] for row in rows])
        expected = trainer.model.eval()(**inputs, labels=labels)
    np.testing.assert_allclose(predicted.predictions, expected.logits.numpy(), atol=1e-5)
    assert predicted.label_ids.tolist() == labels.tolist()
    assert metrics["eval_shape"] == "(12, 2)"
    batches_of = [slice(0, 5), slice(5, 10), slice(10, 12)]  # the library weighs batches, not rows
    each = torch.nn.functional.cross_entropy(expected.logits, labels, reduction="none")
    repeated = sum(each[part].mean().item() * len(each[part]) for part in batches_of) / 12
    assert metrics["eval_loss"] == pytest.approx(repeated, abs=1e-4)
    unlabelled = trainer.predict(data_set(decode=kind == "decoded").remove_columns("answer"))
    np.testing.assert_allclose(unlabelled.predictions, predicted.predictions, atol=1e-5)
    assert unlabelled.label_ids is None


def test_several_tasks_of_plain_rows(processor, tmp_path):
    tasks = {
        "answer": {"problem_type": "single_label_classification", "labels": ["no", "yes"]},
        "size": {"problem_type": "regression"},
    }
    model = tiny.model(MMFusionForMultiTask, tasks=tasks)
    collator = {
        "label2id": {"answer": {"no": 0, "yes": 1}},
        "problem_type": {name: task["problem_type"] for name, task in tasks.items()},
    }
    columns = Columns(image="image", text="question", label=["answer", "size"])
    trainer = trainer_of(processor, data_set(), tmp_path, model, columns, collator, learning_rate=3e-3)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 4
    assert all(np.isfinite(losses))
    assert np.isfinite(trainer.evaluate()["eval_loss"])


def test_columns_that_the_trainer_dropped(processor, tmp_path):
    data = data_set().rename_column("answer", "labels")
    columns = Columns(image="image", text="question", label="labels")
    trainer = trainer_of(processor, data, tmp_path, columns=columns, remove_unused_columns=True)
    with pytest.raises(ValueError, match="remove_unused_columns=False"):
        trainer.train()
