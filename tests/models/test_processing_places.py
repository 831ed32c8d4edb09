"""Several places of a row, parts from outside the package, and how often an item is converted: processor and
pipelines."""

import copy
import json
import pickle
from dataclasses import asdict, dataclass

import numpy as np
import pytest
import tiny_models as tiny
import torch
from transformers import AutoProcessor, BertTokenizer, Wav2Vec2FeatureExtractor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import mm_hf
from mm_hf import (
    MMFusionConfig,
    MMFusionForClassification,
    MMFusionProcessor,
    SeriesScaler,
    TableSchema,
)
from mm_hf.models.modality import MODALITIES, Modality, register_modality


NAN = float("nan")
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "what", "is", "it", "no"]
RATE = 16000
WAVES = [np.sin(np.arange(n) / 9).astype(np.float32) for n in (900, 700)]
STEPS = [[[1.0, 2.0], [NAN, 3.0]], [[0.5, 0.0]]]


def tokenizer() -> BertTokenizer:
    return BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)}, model_max_length=40)


@pytest.fixture(scope="module")
def processor() -> MMFusionProcessor:
    return MMFusionProcessor(
        ViTImageProcessorPil(size={"height": 32, "width": 32}),
        tokenizer(),
        Wav2Vec2FeatureExtractor(sampling_rate=RATE),
        TableSchema(numerical={"age": (40.0, 10.0)}),
        SeriesScaler([0.0, 1.0], [1.0, 2.0]),
    )


def same(one, other):
    assert list(one) == list(other)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_path_and_nothing_beside_it(processor, tmp_path):
    """As `frame[["left", "right"]].values.tolist()` gives them."""
    import soundfile

    path = str(tmp_path / "one.wav")
    soundfile.write(path, WAVES[0], RATE, subtype="FLOAT")
    batch = processor(audio=[[NAN, path], [path, path]], deduplicate=True)
    assert batch["audio_index"].tolist() == [[-1, 0], [0, 0]]
    assert processor(text=[[NAN, "no"], [NAN, NAN]])["text_index"].tolist() == [[-1, 0], [-1, -1]]


def test_what_was_one_thing_stays_one(processor):
    """How deep the numbers lie tells what they are."""
    for given in (STEPS[0], np.zeros((3, 2))):
        assert "series_index" not in processor(series=given)
        assert len(processor(series=given)["series_values"]) == 1
    narrow = MMFusionProcessor(series_scaler=SeriesScaler([0.0], [1.0]))
    assert narrow(series=[1.0, NAN, 2.0])["series_values"].shape == (1, 3, 1)
    assert narrow(series=[np.array([1.0, 2.0]), np.array([3.0])])["series_values"].shape == (2, 2, 1)
    assert narrow(series=[[np.ones((2, 1)), np.ones((3, 1))]])["series_index"].tolist() == [[0, 1]]
    assert len(processor(audio=WAVES[0].tolist())["input_values"]) == 1
    assert "audio_index" not in processor(audio=[wave.tolist() for wave in WAVES])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": ["no", ["no", ["who"]]]}, r"Row 1: .*\['who'\]"),
        ({"text": [["no", ""]]}, r"Row 0: .*''"),
        ({"text": ["no", []]}, r"Row 1: .*\[\]"),
        ({"audio": [WAVES[0], []]}, r"Row 1: .*empty"),
        ({"text": ["no", {"who"}]}, "Row 1: .*set.*{'who'}"),
        ({"audio": [WAVES[0], [WAVES[0], 5]]}, "Row 1: .*sound: 5"),
        ({"audio": [WAVES[0], [NAN, NAN]]}, r"Row 1: .*finite"),
        ({"series": [STEPS[1], [STEPS, STEPS]]}, r"Row 1: .*series: \[\[\["),
        ({"series": [STEPS[1], [STEPS[1], [[1.0]]]]}, r"Row 1: .*2 channels.*\(1, 1\)"),
        ({"table": [{"age": 1.0}, [{"age": 1.0}, {"age": 2.0}]]}, "Row 1: .*dict.*age"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_what_is_no_row_of_places_is_refused(processor, arguments, message):
    with pytest.raises(ValueError, match=message):
        processor(**arguments)


# --- Conversions


class Readings:
    """A series that counts how often it is made into an array."""

    ndim = 2

    def __init__(self):
        self.conversions = 0

    def __array__(self, dtype=None, copy=None):
        self.conversions += 1
        return np.array(STEPS[0], dtype=dtype)


@pytest.fixture
def standardised(monkeypatch) -> list:
    """The shapes of all series that are standardised."""
    calls: list = []
    check = SeriesScaler.check
    monkeypatch.setattr(
        SeriesScaler, "check", lambda self, values: calls.append(np.shape(values)) or check(self, values)
    )
    return calls


@pytest.mark.parametrize("places", [False, True])
def test_a_series_is_converted_and_standardised_once(processor, standardised, places):
    one, other = Readings(), Readings()
    batch = processor(series=[[one, other], [other, None]] if places else [one, other, other], deduplicate=True)
    assert (one.conversions, other.conversions) == (1, 1)
    assert len(standardised) == 2
    torch.testing.assert_close(batch["series_values"][0], processor(series=STEPS[0])["series_values"][0])


def test_a_pipeline_converts_a_series_once(processor, standardised):
    pipe, one = pipeline(processor), Readings()
    rows = [pipe.load_row({"series": one}), pipe.load_row({"series": STEPS[1]})]
    assert pipe._batch(rows)["series_values"].shape == (2, 2, 2)
    assert (one.conversions, len(standardised)) == (1, 2)


# --- Parts from outside


@dataclass
class Scale:
    """The part of a point on the map."""

    width: float

    model_input_names = ["point_values"]

    def __call__(self, items):
        return {"point_values": torch.tensor(items) / self.width}

    def to_dict(self):
        return asdict(self)

    @classmethod
    def from_dict(cls, values):
        return cls(**values)


class Point(Modality):
    """A place on the map."""

    name = "point"
    inputs = ("point_values",)
    argument = "point"
    part_class = Scale
    item = "point"
    row_keys = ("point", "where")
    extra = True

    def check(self, item, processor, settings):
        """See `Modality`."""
        if len(item) != 2 or abs(item[0]) > 90:
            raise ValueError(f"a point is a latitude and a longitude, got {item}.")
        return [float(number) for number in item]


class Plain(Point):
    """One that needs no part."""

    name = argument = "plain"
    row_keys = ("plain",)
    inputs = ("plain_values",)
    part_class = None

    def prepare(self, items, processor, settings):
        """See `Modality`."""
        return {"plain_values": torch.tensor(items)}


@pytest.fixture
def registered():
    register_modality(Point)
    register_modality(Plain)
    yield
    del MODALITIES["point"], MODALITIES["plain"]


def test_a_part_from_outside(registered, tmp_path):
    one = MMFusionProcessor(tokenizer=tokenizer(), extra_parts={"point": Scale(10.0), "plain": None})
    assert one.present_parts == ["tokenizer", "point", "plain"]
    assert one.model_input_names[-2:] == ["point_values", "plain_values"]
    rows = {"point": [[20.0, 5.0], None, (1.0, 2.0)], "text": "no", "plain": np.array([[1.0, 2.0]])}
    batch = one(**rows)
    assert batch["point_index"].tolist() == [0, -1, 1]
    assert batch["point_values"].tolist() == [[2.0, 0.5], pytest.approx([0.1, 0.2])]
    assert one(point=[[[20.0, 5.0], None], [1.0, 2.0]])["point_index"].tolist() == [[0, -1], [1, -1]]
    assert one(point=[20.0, 5.0])["point_values"].tolist() == [[2.0, 0.5]]
    one.save_pretrained(tmp_path)
    kept = json.loads((tmp_path / "processor_config.json").read_text())["extra_parts"]
    assert kept == {"point": {"width": 10.0}, "plain": None}
    loaded = [MMFusionProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)]
    for other in (*loaded, copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert other.extra_parts == one.extra_parts
        same(other(**rows), batch)
    with pytest.raises(ValueError, match=r"Row 1: .*\[200\.0, 5\.0\]"):
        one(point=[None, [200.0, 5.0]])
    with pytest.raises(ValueError, match=r"Row 0: .*point: \[\[1\.0\]\]"):
        one(point=[[[[1.0]]]])


def test_a_part_of_a_modality_that_nobody_registered(registered, processor, tmp_path):
    MMFusionProcessor(extra_parts={"point": Scale(10.0)}).save_pretrained(tmp_path)
    point = MODALITIES.pop("point")
    for load in (
        lambda: MMFusionProcessor.from_pretrained(tmp_path),
        lambda: MMFusionProcessor(extra_parts={"point": None}),
    ):
        with pytest.raises(ValueError, match=r"'point'.*--import"):
            load()
    with pytest.raises(ValueError, match="'point'"):
        processor(text="no", point=[[1.0, 2.0]])
    MODALITIES["point"] = point
    with pytest.raises(ValueError, match=r"point.*\['image_processor'"):
        processor(text="no", point=[[1.0, 2.0]])


def test_extra_parts_that_are_none(registered, processor, tmp_path):
    for parts, message in (
        ({"text": tokenizer()}, "'text'.*tokenizer"),
        ({"point": "a"}, r"'point'\].*'a'.*\['__call__'"),
        ({"plain": Scale(1.0)}, "Plain.*part_class"),
        ([Scale(1.0)], r"extra_parts.*\[Scale"),
        ({"point": {"width": 1.0, "height": 2}}, "height"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            MMFusionProcessor(extra_parts=parts)
    processor.save_pretrained(tmp_path)
    assert "extra_parts" not in json.loads((tmp_path / "processor_config.json").read_text())


# --- Pipelines


def pipeline(processor, **config):
    """Whose rows are read and prepared; its model has one place of each."""
    model = tiny.model(MMFusionForClassification, id2label={0: "no", 1: "yes"})
    for name, value in config.items():
        setattr(model.config, name, value)
    return mm_hf.pipeline("multimodal-classification", model=model, processor=processor)


def test_rows_of_several_sounds(processor, tmp_path):
    """Equal files are one sound; lists of samples are the channels of one, where a row has no other."""
    import soundfile

    path = str(tmp_path / "one.wav")
    soundfile.write(path, WAVES[0], RATE, subtype="FLOAT")
    pipe = pipeline(processor, places={"audio": 2})
    batch = pipe._batch([pipe.load_row({"audio": row}) for row in ([path, WAVES[1]], path, [None, path])])
    assert batch["audio_index"].tolist() == [[0, 1], [0, -1], [-1, 0]]
    assert len(batch["input_values"]) == 2
    stereo = [WAVES[0].tolist(), (-WAVES[0]).tolist()]
    assert pipe._batch([pipe.load_row({"audio": stereo})])["audio_index"].tolist() == [[0, 1]]
    alone = pipeline(processor).load_row({"audio": stereo})["items"]["audio"][0]
    assert alone.shape == (900,)
    assert not alone.any()
    with pytest.raises(ValueError, match=r"\b2 sounds.*\b1 "):
        pipeline(processor).load_row({"audio": [path, path]})


def test_rows_with_what_is_from_outside(registered, monkeypatch):
    pipe = pipeline(MMFusionProcessor(tokenizer=tokenizer(), extra_parts={"point": Scale(10.0)}))
    monkeypatch.setattr(MMFusionConfig, "modalities", property(lambda self: ["text", "point"]))
    rows = [pipe.preprocess(row) for row in ({"point": [20.0, 5.0]}, {"text": "no"}, {"where": (20.0, 5.0)})]
    batch = pipe._batch(rows)
    assert batch["point_index"].tolist() == [0, -1, 1]
    for row, message in (
        ({"point": [1.0, 2.0], "where": [1.0, 2.0]}, "'point' .*'where'"),
        ({"point": [[1.0, 2.0], [1.0, 2.0]]}, r"\b2 items.*\b1 "),
        ({"pointt": [1.0, 2.0]}, r"'point'\?"),
        ({"plain": [1.0, 2.0]}, r"\['text', 'point'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe.preprocess(row)
