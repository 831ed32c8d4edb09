"""The objects that people hold: every argument of the processor and every pipeline, with whatever holds rows."""

import io
import re
import threading
from collections import deque, namedtuple

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tiny_models as tiny
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import BertConfig, BertTokenizer, Wav2Vec2FeatureExtractor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.pipelines.pt_utils import KeyDataset

import mm_hf
from mm_hf import (
    MMFusionForClassification,
    MMFusionForConditionalGeneration,
    MMFusionForCTC,
    MMFusionForMultiTask,
    MMFusionForQuestionAnswering,
    MMFusionForRetrieval,
    MMFusionProcessor,
    SeriesScaler,
    TableSchema,
)
from mm_hf.data import letter_tokenizer


NAN = float("nan")
WORDS = [
    "[PAD]",
    "[CLS]",
    "[SEP]",
    "[UNK]",
    "[MASK]",
    "what",
    "is",
    "it",
    "no",
    "who",
    "red",
    "blue",
    "a",
    "long",
    "one",
]
RATE = 16000
SCHEMA = TableSchema(numerical={"age": (40.0, 10.0)}, categorical={"town": ["Bonn", "Ulm"]})
WAVES = [np.sin(np.arange(n) / 9).astype(np.float32) for n in (900, 700, 800)]


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((40, 40), Image.Resampling.NEAREST)


PICTURES = [picture(seed) for seed in range(4)]


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def processor() -> MMFusionProcessor:
    """Of all modalities at once."""
    return MMFusionProcessor(
        ViTImageProcessorPil(size={"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE}),
        BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}, model_max_length=40),
        Wav2Vec2FeatureExtractor(sampling_rate=RATE),
        SCHEMA,
        SeriesScaler([0.0, 1.0], [1.0, 2.0]),
    )


class Listed(Dataset):
    """A data set of torch, which has no way to iterate but by number."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return self.rows[number]


def objects(rows: list) -> np.ndarray:
    """An array of one dimension, whatever the rows are."""
    found = np.empty(len(rows), dtype=object)
    found[:] = rows
    return found


HOLDERS = {
    "tuple": tuple,
    "generator": lambda rows: (row for row in rows),
    "iterator": iter,
    "deque": deque,
    "values of a dict": lambda rows: dict(enumerate(rows)).values(),
    "array of objects": objects,
    "series of pandas": lambda rows: pd.Series(objects(rows), index=range(5, 5 + len(rows))),
    "series with NaN": lambda rows: pd.Series(objects([NAN if row is None else row for row in rows])),
    "list with NA": lambda rows: [pd.NA if row is None else row for row in rows],
    "data set of torch": Listed,
    "KeyDataset": lambda rows: KeyDataset([{"x": row} for row in rows], "x"),
}
ROWS = {
    "images": [PICTURES[0], None, PICTURES[1]],
    "text": ["what is it", None, "no"],
    "audio": [WAVES[0], None, WAVES[1]],
    "table": [{"age": 20, "town": "Ulm"}, None, {"age": 61.5}],
    "series": [[[1.0, 2.0], [NAN, 3.0]], None, [[0.0, 0.0]]],
}


def same(one, other):
    assert list(one) == list(other)
    assert [key for key in one if not torch.equal(one[key].nan_to_num(7e7), other[key].nan_to_num(7e7))] == []


# --- The processor


@pytest.mark.parametrize("argument", ROWS)
@pytest.mark.parametrize("holder", HOLDERS)
def test_whatever_holds_rows_is_a_list(processor, argument, holder):
    rows = ROWS[argument]
    expected = processor(**{argument: rows})
    assert next(index for name, index in expected.items() if name.endswith("_index")).tolist() == [0, -1, 1]
    same(processor(**{argument: HOLDERS[holder](rows)}), expected)


def test_columns_of_data_sets(processor):
    features = datasets.Features(
        {
            "images": datasets.Image(),
            "text": datasets.Value("string"),
            "audio": datasets.List(datasets.Value("float32")),
            "table": {"age": datasets.Value("float64"), "town": datasets.Value("string")},
            "series": datasets.List(datasets.List(datasets.Value("float64"))),
        }
    )
    rows = {**ROWS, "table": [{"age": 20.0, "town": "Ulm"}, None, {"age": 61.5, "town": None}]}
    data = datasets.Dataset.from_dict(rows, features=features)
    for argument in ROWS:
        same(processor(**{argument: data[argument]}), processor(**{argument: ROWS[argument]}))
        same(processor(**{argument: KeyDataset(data, argument)}), processor(**{argument: ROWS[argument]}))
    same(processor(text=data.to_iterable_dataset()["text"]), processor(text=ROWS["text"]))


@pytest.mark.parametrize(
    ("argument", "given", "rows"),
    [
        ("text", np.array(["what is it", "no"]), ["what is it", "no"]),
        ("text", np.array("no"), ["no"]),
        ("text", np.str_("no"), ["no"]),
        ("text", pd.Series(["what", None], dtype="string"), ["what", None]),
        ("text", pd.Categorical(["no", "what", "no"]), ["no", "what", "no"]),
        ("text", pd.Index(["no", "who"]), ["no", "who"]),
        ("text", pa.array(["no", None]), ["no", None]),
        ("text", pa.chunked_array([["no"], [None]]), ["no", None]),
        ("text", NAN, [None]),
        ("images", PICTURES[0], [PICTURES[0]]),
        ("images", np.stack([np.array(one) for one in PICTURES[:2]]), PICTURES[:2]),
        ("images", np.stack([np.stack([np.array(one) for one in PICTURES[:2]])] * 2), [PICTURES[:2]] * 2),
        ("images", [tuple(PICTURES[:2]), [PICTURES[2], NAN]], [PICTURES[:2], [PICTURES[2], None]]),
        (
            "images",
            [objects(PICTURES[:2]), pd.Series(objects([None, PICTURES[3]]))],
            [PICTURES[:2], [None, PICTURES[3]]],
        ),
        ("images", [[PICTURES[0]], None], [[PICTURES[0]], None]),
        ("audio", WAVES[0], [WAVES[0]]),
        ("audio", WAVES[0].tolist(), [WAVES[0]]),
        ("audio", tuple(WAVES[0].tolist()), [WAVES[0]]),
        ("audio", pd.Series(WAVES[0]), [WAVES[0]]),
        ("audio", torch.from_numpy(WAVES[0]), [WAVES[0]]),
        ("audio", {"array": WAVES[0], "sampling_rate": RATE}, [WAVES[0]]),
        ("audio", [{"raw": WAVES[0].astype(float), "sampling_rate": RATE}, NAN], [WAVES[0], None]),
        ("audio", [NAN, NAN], [None, None]),
        ("table", pd.DataFrame(ROWS["table"][::2]), [{"age": 20, "town": "Ulm"}, {"age": 61.5}]),
        ("table", pd.DataFrame(ROWS["table"][::2]).iloc[1], [{"age": 61.5}]),
        ("table", [row for _, row in pd.DataFrame(ROWS["table"][::2]).iterrows()], ROWS["table"][::2]),
        ("table", pa.Table.from_pylist(ROWS["table"][::2]), ROWS["table"][::2]),
        ("table", datasets.Dataset.from_list(ROWS["table"][::2]), ROWS["table"][::2]),
        ("table", [namedtuple("Row", "age town")(20, "Ulm")], [{"age": 20, "town": "Ulm"}]),
        ("series", pd.DataFrame({"x": [1.0, NAN], "y": [2.0, 3.0]}), [[[1.0, 2.0], [NAN, 3.0]]]),
        ("series", np.array([[1.0, 2.0], [NAN, 3.0]]), [[[1.0, 2.0], [NAN, 3.0]]]),
        ("series", np.zeros((2, 3, 2)), [np.zeros((3, 2))] * 2),
        ("series", [pd.DataFrame({"x": [1.0], "y": [2.0]}).to_numpy(), NAN], [[[1.0, 2.0]], None]),
    ],
    ids=lambda value: f"{type(value).__name__}" if not isinstance(value, str) else value,
)
def test_objects_of_one_argument(processor, argument, given, rows):
    same(processor(**{argument: given}), processor(**{argument: rows}))


def test_sounds_from_files_are_resampled(processor, tmp_path):
    import soundfile

    soundfile.write(tmp_path / "one.wav", WAVES[0], RATE // 2, subtype="FLOAT")
    path = tmp_path / "one.wav"
    expected = processor(audio=[{"array": WAVES[0], "sampling_rate": RATE // 2}])
    assert expected["input_values"].shape == (1, 2 * len(WAVES[0]))
    for source in (path, str(path), path.read_bytes(), [path, None, str(path)]):
        found = processor(audio=source, deduplicate=True)["input_values"]
        torch.testing.assert_close(found[0], expected["input_values"][0], atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match=r"Row 1: .*nowhere\.wav"):
        processor(audio=[WAVES[0], "nowhere.wav"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": {"no", "who"}}, "set.*list.*{'"),
        ({"text": pd.DataFrame({"question": ["no"]})}, r"table.*\['question'\]"),
        ({"images": datasets.Dataset.from_dict({"image": [1]})}, r"table.*\['image'\]"),
        ({"text": ["no", b"who"]}, r"Row 1: .*b'who'"),
        ({"text": ["no", 5]}, r"Row 1: .*5"),
        ({"text": 5}, "list: 5"),
        ({"images": [PICTURES[0], 5]}, "Row 1: .*picture: 5"),
        ({"images": [[PICTURES[0], 5]]}, "Row 0: .*picture: 5"),
        ({"table": pd.DataFrame([[1, 2]], columns=["age", "age"])}, "columns 'age'"),
        ({"table": {"age": [1, 2]}}, r"Row 0: column 'age' .*\[1, 2\]"),
        ({"table": {"town": ["Ulm", "Bonn"]}}, r"Row 0: column 'town' .*\['Ulm', 'Bonn'\]"),
        ({"table": {"twon": "Ulm"}}, r"Row 0: .*'twon'.*'town'\?"),
        ({"text": ["no", "a \ud83d b"]}, r"Row 1: .*'\\ud83d'.* 2\b"),
        ({"image": PICTURES[0]}, r"'image'.*'images'\?"),
        ({"text": "no", "max_lenght": 4}, r"'max_lenght'.*'max_length'\?"),
        ({"text": "no", "text_kwargs": {"paddin": True}}, r"text_kwargs.*'paddin'.*'padding'\?"),
        ({"images": PICTURES[0], "images_kwargs": {"do_resise": 1}}, r"'do_resise'.*'do_resize'\?"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_is_refused_is_named(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(**arguments)


def test_a_misspelt_encoder_is_refused(tmp_path):
    for name, meant in (("vison", "vision"), ("texts", "text"), ("image", "vision"), ("decodr", "decoder")):
        with pytest.raises(ValueError, match=rf"{name!r}.*'{meant}'\?"):
            MMFusionProcessor.from_encoders_pretrained(**{name: str(tmp_path)}, audio=str(tmp_path))
    with pytest.raises(ValueError, match=r"'vison'.*'vision'\?"):
        mm_hf.MMFusionModel.from_encoders_pretrained(text="some/encoder", vison="other/encoder")


def test_targets_with_a_lone_surrogate(processor):
    with pytest.raises(ValueError, match=r"Row 2: .*'\\udc80'.* 0\b"):
        processor.target_ids(["no", None, "\udc80"])
    assert processor.target_ids(pd.Series(["no", None])).tolist() == processor.target_ids(["no", None]).tolist()


def test_threads_with_different_lengths_answer_as_alone(processor):
    """The library's tokenizers keep the length of a call in themselves."""
    texts = ["what is it " * n for n in (2, 6, 12)] * 8
    settings = [
        {"max_length": 4},
        {"max_length": 30, "padding": "max_length"},
        {"truncation": False, "padding": "longest"},
        {"max_length": 16, "text_kwargs": {"pad_to_multiple_of": 8}},
    ]
    expected = [processor(text=texts, **kwargs) for kwargs in settings]
    assert len({batch["input_ids"].shape for batch in expected}) == 4
    faults: list = []

    def work(number: int):
        for _ in range(60):
            try:
                same(processor(text=texts, **settings[number]), expected[number])
                assert processor.target_ids(["what is it no"]).shape == (1, 5)
            except Exception as error:
                faults.append((number, error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(settings))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


# --- Pipelines


def writer(**kwargs):
    decoder = BertConfig(**{**tiny.WORDS, "vocab_size": len(WORDS)}, bos_token_id=1, eos_token_id=2)
    ends = {"decoder_start_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = tiny.model(MMFusionForConditionalGeneration, decoder_config=decoder, **ends, **kwargs)
    model.generation_config.update(max_new_tokens=3, num_beams=1)
    return model


def with_labels(cls, **kwargs):
    return tiny.model(cls, id2label={n: f"answer {n}" for n in range(5)}, **kwargs)


TASKS = {
    "tone": {"problem_type": "single_label_classification", "labels": ["low", "high"]},
    "size": {"problem_type": "regression"},
}
# By pipeline the task, what makes its model, and the key of its texts.
PIPELINES = {
    "classification": ("multimodal-classification", lambda **k: with_labels(MMFusionForClassification, **k), "text"),
    "answers": ("visual-question-answering", lambda **k: with_labels(MMFusionForQuestionAnswering, **k), "question"),
    "tasks": ("multimodal-multi-task", lambda **k: tiny.model(MMFusionForMultiTask, tasks=TASKS, **k), "text"),
    "search": (
        "multimodal-feature-extraction",
        lambda **k: tiny.model(MMFusionForRetrieval, projection_dim=8),
        "text",
    ),
    "writing": ("image-to-text", writer, "text"),
    "free answers": ("visual-question-answering", writer, "question"),
    "letters": (
        "automatic-speech-recognition",
        lambda **k: tiny.model(
            MMFusionForCTC, vision=None, text=None, audio="wav2vec2", vocab_size=len(LETTERS), pad_token_id=0
        ),
        None,
    ),
    "speech": ("automatic-speech-recognition", lambda **k: writer(vision=None, text=None, audio="wav2vec2"), None),
}
LETTERS = letter_tokenizer(["what is it"])
OF_PICTURES = [name for name, (_, _, text) in PIPELINES.items() if text is not None]
OF_SEVERAL = [name for name in OF_PICTURES if name != "search"]


def build(name: str, **kwargs):
    """A pipeline, its gates open, its answers different for different rows."""
    task, make, text = PIPELINES[name]
    model = make(**kwargs)
    vision = ViTImageProcessorPil(size={"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE}) if text else None
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}, model_max_length=40)
    sounds = None if text else Wav2Vec2FeatureExtractor(sampling_rate=RATE)
    processor = MMFusionProcessor(vision, LETTERS if name == "letters" else tokenizer, sounds)
    return mm_hf.pipeline(task, model=model, processor=processor)


@pytest.fixture(scope="module")
def pipes() -> dict:
    return {name: build(name) for name in PIPELINES}


def rows_for(name: str) -> list[dict]:
    text = PIPELINES[name][2]
    if text is None:
        return [{"audio": {"array": wave, "sampling_rate": RATE}} for wave in WAVES]
    texts = ["what is it", "no", "what is it"]
    return [{"image": one, text: words} for one, words in zip([PICTURES[0], None, PICTURES[1]], texts, strict=True)]


def numbers(answer) -> list:
    """The scores, labels and texts of an answer, flat."""
    if isinstance(answer, dict):
        return [part for value in answer.values() for part in numbers(value)]
    return [part for value in answer for part in numbers(value)] if isinstance(answer, list) else [answer]


def same_answers(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        one, other = numbers(one), numbers(other)
        assert [value for value in one if isinstance(value, str)] == [v for v in other if isinstance(v, str)]
        floats = [[value for value in values if isinstance(value, float)] for values in (one, other)]
        assert floats[0] == pytest.approx(floats[1], abs=1e-5)


@pytest.mark.parametrize("name", PIPELINES)
def test_answers_differ_between_rows(pipes, name):
    """Else nothing below could fail."""
    answers = [numbers(pipes[name](row)) for row in rows_for(name)]
    assert answers[0] != answers[1] or name in ("letters", "speech", "writing", "free answers")
    assert all(answers)


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("holder", [key for key in HOLDERS if key not in ("series with NaN", "list with NA")])
def test_rows_of_whatever_holds_them(pipes, name, holder):
    rows = rows_for(name)
    expected = [pipes[name](row) for row in rows]
    same_answers(list(pipes[name](HOLDERS[holder](rows), batch_size=2)), expected)


@pytest.mark.parametrize("name", OF_PICTURES)
def test_rows_of_tables_and_data_sets(pipes, name):
    pipe, rows, text = pipes[name], rows_for(name), PIPELINES[name][2]
    expected = [pipe(row) for row in rows]
    frame = pd.DataFrame(rows)
    assert frame["image"].isna().tolist() == [False, True, False]
    frame.loc[1, "image"] = NAN
    same_answers(pipe(frame), expected)
    same_answers([pipe(frame.iloc[1])], expected[1:2])
    same_answers([pipe(row) for row in frame.itertuples(index=False)], expected)
    features = datasets.Features({"image": datasets.Image(), text: datasets.Value("string")})
    data = datasets.Dataset.from_list(rows, features=features)
    for decode in (True, False):
        source = data.cast_column("image", datasets.Image(decode=decode))
        same_answers(list(pipe(source, batch_size=2)), expected)
        same_answers(list(pipe(source.to_iterable_dataset(), batch_size=2)), expected)


@pytest.mark.parametrize("name", OF_PICTURES)
def test_pictures_in_every_form(pipes, name, tmp_path):
    pipe, path = pipes[name], tmp_path / "picture.png"
    path.write_bytes(png(PICTURES[0]))
    expected = [pipe({"image": PICTURES[0]})]
    forms = [path, str(path), path.read_bytes(), np.array(PICTURES[0]), {"bytes": path.read_bytes(), "path": None}]
    for form in [*forms, {"bytes": None, "path": str(path)}, [PICTURES[0]]]:
        same_answers([pipe({"image": form})], expected)
        if name == "writing":  # an image alone, too
            same_answers(pipe([form]), expected)


@pytest.mark.parametrize("name", ["letters", "speech"])
def test_sounds_in_every_form(pipes, name, tmp_path):
    import soundfile

    path = tmp_path / "sound.wav"
    soundfile.write(path, WAVES[0], RATE, subtype="FLOAT")
    expected = pipes[name]({"audio": WAVES[0]})
    for form in (path, str(path), path.read_bytes(), WAVES[0], {"raw": WAVES[0], "sampling_rate": RATE}):
        assert pipes[name](form) == pipes[name]({"audio": form}) == expected


@pytest.mark.parametrize("name", ["answers", "free answers"])
def test_image_and_question_of_their_own(pipes, name):
    """A list of images means many rows; a list in it, the images of one row."""
    ask, two, questions = pipes[name], PICTURES[:2], ["what is it", "no"]
    pairs = [ask({"image": one, "question": question}) for one in two for question in questions]
    data = datasets.Dataset.from_dict({"image": two, "question": questions}).cast_column("image", datasets.Image())
    for images in (two, tuple(two), pd.Series(objects(two)), objects(two), data["image"], KeyDataset(data, "image")):
        for asked in (questions, tuple(questions), np.array(questions), pd.Series(questions), data["question"]):
            same_answers(list(ask(image=images, question=asked, batch_size=3)), pairs)
        same_answers(list(ask(images, "no")), pairs[1::2])
    same_answers(ask(two[0], KeyDataset(data, "question")), pairs[:2])
    same_answers([ask(two[1], "no")], pairs[3:])
    same_answers([ask(question="no")], [ask({"question": "no"})])
    same_answers([ask(image=two[0])] if name == "free answers" else [], [ask({"image": two[0]})] * (name != "answers"))
    with pytest.raises(ValueError, match=r"question=.*'who'.*'image'"):
        ask({"image": two[0], "question": "no"}, question="who")
    with pytest.raises(ValueError, match=r"image=.*question="):
        ask()


@pytest.mark.parametrize("name", OF_SEVERAL)
@torch.no_grad()
def test_rows_of_several_pictures(name):
    pipe, text = build(name, num_images=4), PIPELINES[name][2]
    a, _, c, d = PICTURES
    row = {"image": [a, None, c, d], text: "what is it"}
    (alone, *_) = [pipe(row)]
    batch = pipe.processor(images=[[a, None, c, d]], text=["what is it"])
    assert batch["vision_index"].tolist() == [[0, -1, 1, 2]]
    if name in ("classification", "answers"):
        scores = pipe.model(**batch).logits.softmax(-1)[0].sort(descending=True).values
        assert [entry["score"] for entry in alone] == pytest.approx(scores.tolist(), abs=1e-6)
    if name == "tasks":
        assert alone["size"][0]["score"] == pytest.approx(pipe.model(**batch).logits["size"].item(), abs=1e-5)
    others = [{**row, "image": [a, b, c, d]} for b in (PICTURES[1], a)] + [{**row, "image": a}, {text: "no"}]
    together = pipe([row, *others], batch_size=5)
    same_answers(together, [alone, *(pipe(other) for other in others)])
    if name not in ("writing", "free answers"):
        assert len({str(numbers(answer)) for answer in together}) == 5
    for same_row in ((a, None, c, d), objects([a, NAN, c, d]), [a, None, png(c), {"bytes": png(d), "path": None}]):
        same_answers([pipe({**row, "image": same_row})], [alone])
    if name == "writing":
        same_answers(pipe([[a, None, c, d]]), [pipe({"image": [a, None, c, d]})])
    if text == "question":
        same_answers(pipe(image=[[a, None, c, d], a], question="what is it"), [alone, together[3]])
    with pytest.raises(ValueError, match=r"Row 1: .*\b5 images.*\b4\b"):
        pipe([row, {**row, "image": [a] * 5}])
    with pytest.raises(ValueError, match=r"Row 0: image 2 of 2: "):
        pipe({**row, "image": [a, b"no picture"]})


@pytest.mark.parametrize("name", OF_PICTURES)
def test_more_pictures_than_places(pipes, name):
    with pytest.raises(ValueError, match=r"\b2 images.*\b1\b"):
        pipes[name]({"image": PICTURES[:2]})


BAD = {
    "a broken picture": ({"image": b"\x89PNG no picture"}, ""),
    "no such file": ({"image": "no/such/picture.png"}, "picture.png"),
    "an empty text": ({"text": " "}, "empty"),
    "a number": ({"text": 5}, "5"),
    "a lone surrogate": ({"text": "a \ud800"}, "lone surrogate"),
    "many texts": ({"text": ["no", "who"]}, "2 texts, .* 1 per row"),
    "nothing": ({"text": None, "image": NAN}, "needs an image"),
    "no row": (17, "17"),
    "None": (None, "None"),
}


@pytest.mark.parametrize("name", OF_PICTURES)
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_named_or_skipped(pipes, name, kind):
    """Its answer is None, and the others are answered as without it."""
    pipe, text = pipes[name], PIPELINES[name][2]
    bad, message = BAD[kind]
    if isinstance(bad, dict):
        bad = {text if key == "text" else key: value for key, value in bad.items()}
    first, second, third = rows_for(name)
    with pytest.raises(ValueError, match=f"^Row 2: .*{message}"):
        list(pipe([first, second, bad, third], batch_size=2))
    expected = [pipe(first), pipe(second), None, pipe(third), None]
    for size in (1, 2, 3, 5) if name == "classification" else (2,):
        found = pipe([first, second, bad, third, bad], batch_size=size, on_error="skip")
        assert [place for place, answer in enumerate(found) if answer is None] == [2, 4]
        same_answers([a for a in found if a is not None], [a for a in expected if a is not None])
    assert list(pipe((one for one in [bad, bad]), on_error="skip", batch_size=2)) == [None, None]
    assert pipe(bad, on_error="skip") is None if isinstance(bad, dict) else True


@pytest.mark.parametrize("name", ["letters", "speech"])
def test_a_bad_sound_is_named_or_skipped(pipes, name):
    rows = [*rows_for(name)[:1], {"audio": np.array([0.5, NAN])}, *rows_for(name)[1:]]
    with pytest.raises(ValueError, match=r"Row 1: .*finite"):
        pipes[name](rows, batch_size=2)
    found = pipes[name](rows, batch_size=2, on_error="skip")
    same_answers([found[0], *found[2:]], pipes[name](rows_for(name)))
    assert found[1] is None


def test_rows_that_the_data_set_cannot_read(pipes):
    class Torn(Listed):
        def __getitem__(self, number):
            if number == 1:
                raise OSError("the disk is gone")
            return super().__getitem__(number)

    rows = rows_for("classification")
    with pytest.raises(ValueError, match=r"Row 1: OSError: .*disk"):
        list(pipes["classification"](Torn(rows)))
    found = list(pipes["classification"](Torn(rows), on_error="skip", batch_size=2))
    assert [answer is None for answer in found] == [False, True, False]


def test_what_the_processor_refuses_is_the_rows_fault():
    """Found out row by row, since it refuses a whole batch."""
    config = tiny.config(vision=None, tabular_config=mm_hf.TabularConfig.from_schema(SCHEMA))
    processor = MMFusionProcessor(
        tokenizer=BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}), table_schema=SCHEMA
    )
    pipe = mm_hf.pipeline(model=MMFusionForClassification(config).eval(), processor=processor)
    rows = [{"table": {"age": 3}}, {"table": {"age": "young"}}, {"table": {"twon": "Ulm"}}, {"text": "no"}]
    with pytest.raises(ValueError, match=r"Row 1: .*'age'.*'young'"):
        pipe(rows, batch_size=4)
    found = pipe(rows, batch_size=4, on_error="skip")
    assert [answer is None for answer in found] == [False, True, True, False]
    same_answers([found[0], found[3]], [pipe(rows[0]), pipe(rows[3])])
    frame = pd.DataFrame({"age": [3.0, 30.0], "town": ["Ulm", None]})
    same_answers(
        pipe([{"table": row} for _, row in frame.iterrows()]), pipe([{"table": r} for r in frame.to_dict("records")])
    )


@pytest.mark.parametrize("name", PIPELINES)
def test_scores_that_are_not_finite_are_no_answer(name):
    """Of one row in a batch, as an overflow leaves them."""
    pipe = build(name)
    rows = rows_for(name)
    expected = [pipe(row) for row in rows]
    spoilt = {"row": 1}

    def spoil(module, arguments, output):
        where = [output.last_hidden_state, output.pooler_output]
        if name in ("search",):
            return
        for values in where:
            if values is not None and len(values) > spoilt["row"]:
                values[spoilt["row"]] = NAN

    def spoil_embedding(module, arguments, output):
        if len(output) > spoilt["row"]:
            output[spoilt["row"]] = NAN

    if name == "search":
        hook = pipe.model.embeddings["text"].register_forward_hook(spoil_embedding)
    else:
        hook = pipe.model.base_model.register_forward_hook(spoil)
    with pytest.raises(ValueError, match=r"Row 1: .*model.*finite"):
        pipe(rows, batch_size=3)
    found = pipe(rows, batch_size=3, on_error="skip")
    hook.remove()
    # Equal texts are one item of a search.
    assert [answer is None for answer in found] == [False, True, False]
    same_answers([found[0], found[2]], [expected[0], expected[2]])


@pytest.mark.parametrize("name", PIPELINES)
def test_unknown_names_are_refused(pipes, name):
    pipe, row, text = pipes[name], rows_for(name)[0], PIPELINES[name][2]
    for arguments, meant in (({"on_eror": "skip"}, "on_error"), ({"batch_sise": 2}, "batch_size")):
        with pytest.raises(ValueError, match=rf"'{next(iter(arguments))}'.*'{meant}'\?"):
            pipe(row, **arguments)
    with pytest.raises(ValueError, match=r"on_error.*'ignore'"):
        pipe(row, on_error="ignore")
    task, _, _ = PIPELINES[name]
    with pytest.raises(ValueError, match="'topk'"):
        mm_hf.pipeline(task, model=pipe.model, processor=pipe.processor, topk=1)
    if text is None:
        return
    with pytest.raises(ValueError, match=r"Row 0: .*'imgae'.*'image'\?"):
        pipe({"imgae": PICTURES[0], text: "no"}, on_error="skip")
    with pytest.raises(ValueError, match=r"Row 0: .*'imgae'.*'image'\?"):
        pipe({"imgae": PICTURES[0]})
    with pytest.raises(ValueError, match=r"Row 1: .*'text' .*'question'"):
        pipe([row, {"text": "no", "question": "who"}])
    with pytest.raises(ValueError, match=r"Row 0: .*audio .*\['vision', 'text'\]"):
        pipe({"audio": "one.wav"})
    same_answers([pipe({"text": NAN, "question": "no"})], [pipe({"text": "no"})])


def test_settings_of_generate_have_their_place(pipes):
    with pytest.raises(ValueError, match=r"'length_penalty'.*generate_kwargs=\{'length_penalty'"):
        pipes["writing"](PICTURES[0], length_penalty=2.0)
    pipes["writing"](PICTURES[0], generate_kwargs={"length_penalty": 2.0}, num_beams=2)
    for top_k in (0, -1, "3", 2.5):
        with pytest.raises(ValueError, match=rf"top_k.*None.*{re.escape(repr(top_k))}"):
            pipes["classification"](rows_for("classification")[0], top_k=top_k)


def test_settings_of_a_pipeline_hold_for_its_calls():
    pipe = mm_hf.pipeline(
        "multimodal-classification",
        model=with_labels(MMFusionForClassification),
        processor=build("classification").processor,
        on_error="skip",
        top_k=1,
    )
    good, bad = {"text": "no"}, {"text": " "}
    assert [answer and len(answer) for answer in pipe([good, bad])] == [1, None]
    with pytest.raises(ValueError, match="Row 1: "):
        pipe([good, bad], on_error="raise")
    assert pipe([]) == []


def test_workers_read_every_row_once(pipes):
    rows = rows_for("classification")
    expected = [pipes["classification"](row) for row in rows]
    same_answers(list(pipes["classification"]((row for row in rows), num_workers=2)), expected)
    same_answers(list(pipes["classification"](rows, num_workers=2, batch_size=2)), expected)


def test_the_pipeline_itself_is_given_what_it_needs():
    for arguments, message in (
        ({"task": "visual-question-anwsering", "model": "x"}, r"'visual-question-answering'\?"),
        ({"task": "some/model"}, "'some/model'.*model="),
        ({"model": 5}, r"model .*\bint\b"),
        (
            {"model": with_labels(MMFusionForClassification), "processor": LETTERS},
            "processor .*MMFusionProcessor.*TokenizersBackend",
        ),
    ):
        if arguments.get("task") == "visual-question-anwsering":
            arguments["model"] = with_labels(MMFusionForClassification)
        with pytest.raises(ValueError, match=message):
            mm_hf.pipeline(**arguments)
