"""What `runtime.py` makes of raw items is what the processor makes of them, and its answers are those of a task's
head."""

import importlib.util
import io
import json
import math
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from messages import says
from modality_cases import tokenizer, wave
from PIL import Image
from scipy.signal import resample_poly
from transformers import (
    ASTFeatureExtractor,
    PreTrainedTokenizerFast,
    Speech2TextFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import MobileNetV2ImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import mm_hf
from mm_hf import MMFusionProcessor, SeriesScaler, TableSchema
from mm_hf.data import letter_tokenizer
from mm_hf.export.answering import task_of
from mm_hf.export.preparation import made_up_items, preparation_of
from mm_hf.models.confidence import Confidence, conformal_thresholds
from mm_hf.models.modality import modality_of
from mm_hf.models.pipelines_mm_fusion import MMFusionClassificationPipeline
from mm_hf.models.tasks import TASK_HEADS


FILE = Path(mm_hf.__file__).parent / "export/runtime.py"


def load(path: Path = FILE):
    spec = importlib.util.spec_from_file_location("runtime", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


runtime = load()


def preparer_of(name: str, processor, folder: Path):
    """What prepares items of a modality, from the settings as they come back from JSON."""
    settings = json.loads(json.dumps(preparation_of(modality_of(name), processor, folder), allow_nan=False))
    return runtime.PREPARERS[settings["kind"]](settings, folder)


def check_same(name: str, processor, folder: Path, items: list, bound: float = 1e-5, **told):
    """The runtime and the processor make the same tensors of items."""
    modality = modality_of(name)
    preparer = preparer_of(name, processor, folder)
    made = preparer.inputs([preparer.load(item) for item in items])
    loaded = [modality.load_item(processor, item) for item in items] if name != "tabular" else items
    expected = processor(**{modality.argument: loaded}, **told)
    assert set(made) == {key for key in expected if not key.endswith("_index")}
    for key, value in made.items():
        wanted = expected[key].numpy()
        assert value.shape == wanted.shape, key
        np.testing.assert_allclose(value, wanted, rtol=bound, atol=bound, err_msg=key)


def saved(picture: Image.Image, form: str = "PNG", **options) -> bytes:
    picture.save(buffer := io.BytesIO(), form, **options)
    return buffer.getvalue()


def turned(orientation: int) -> bytes:
    """A photograph of a phone that was held otherwise."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(smooth((60, 40)), "JPEG", exif=exif)


def smooth(size: tuple[int, int], seed: int = 0, channels: int = 3) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, channels), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


PICTURES = {
    "path and bytes": lambda: [saved(smooth((50, 70))), saved(smooth((90, 30), 1), "JPEG")],
    "turned": lambda: [turned(orientation) for orientation in range(1, 9)],
    "broken EXIF": lambda: [saved(smooth((50, 70)), "JPEG", exif=b"Exif\0\0nothing")],
    "transparent": lambda: [saved(smooth((40, 40), channels=4)), saved(smooth((40, 30)).quantize(16))],
    "grey": lambda: [saved(smooth((40, 30)).convert("L")), saved(smooth((40, 30)).convert("1"))],
    "of print": lambda: [saved(smooth((40, 30)).convert("CMYK"), "JPEG")],
    "16 bits": lambda: [saved(Image.fromarray(np.linspace(0, 65535, 1200).reshape(30, 40).astype(np.uint16)))],
    "large": lambda: [saved(smooth((900, 700)), "JPEG")],  # decoded to a fraction
    "arrays": lambda: [np.asarray(smooth((40, 30))), np.asarray(smooth((40, 30)), np.float32) / 255],
    "PIL": lambda: [smooth((40, 30)), smooth((40, 30)).convert("P")],
}
IMAGE_PROCESSORS = {
    "square": lambda: ViTImageProcessorPil(size={"height": 32, "width": 24}),
    "edge and crop": lambda: CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
    "crop beyond": lambda: MobileNetV2ImageProcessorPil(
        size={"shortest_edge": 20}, crop_size={"height": 33, "width": 32}
    ),
    "plain": lambda: ViTImageProcessorPil(size={"height": 16, "width": 16}, do_normalize=False),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_are_opened_as_in_training(kind, tmp_path):
    for draft in (None, 2):
        processor = MMFusionProcessor(
            image_processor=IMAGE_PROCESSORS["square"](), image_background="#20c040", image_draft=draft
        )
        check_same("vision", processor, tmp_path, PICTURES[kind]())


@pytest.mark.parametrize("kind", IMAGE_PROCESSORS)
@pytest.mark.parametrize("channels", [3, 1])
def test_pictures_are_resized_as_the_image_processor_does(kind, channels, tmp_path):
    processor = MMFusionProcessor(image_processor=IMAGE_PROCESSORS[kind](), image_channels=channels)
    check_same("vision", processor, tmp_path, made_up_items(modality_of("vision"), processor, 4, 2))


def test_an_image_processor_that_does_more_is_refused(tmp_path):
    part = ViTImageProcessorPil(size={"height": 16, "width": 16})
    part.do_pad = True
    with pytest.raises(NotImplementedError, match=says("ViTImageProcessorPil", "do_pad")):
        preparation_of(modality_of("vision"), MMFusionProcessor(image_processor=part), tmp_path)


@pytest.mark.parametrize("source", [b"no picture", "nowhere.png", 7, saved(Image.new("RGB", (2000, 1)))])
def test_what_is_no_picture_is_refused(source, tmp_path):
    preparer = preparer_of("vision", MMFusionProcessor(image_processor=ViTImageProcessorPil()), tmp_path)
    with pytest.raises(runtime.RowError):
        preparer.load(source)


def test_texts(tmp_path):
    processor = MMFusionProcessor(tokenizer=tokenizer())
    check_same("text", processor, tmp_path, ["what is it", "no", "it is what it is", "nobody knows", "is " * 60])


def test_texts_without_a_known_word(tmp_path):
    letters = letter_tokenizer(["red green"])
    processor = MMFusionProcessor(tokenizer=letters)
    check_same("text", processor, tmp_path, ["red", "xyz", "a green r"])
    assert isinstance(letters, PreTrainedTokenizerFast)


def test_long_texts_become_the_same_windows(tmp_path):
    words = tokenizer()
    words.model_max_length = 8
    processor = MMFusionProcessor(tokenizer=words, text_windows=3)
    preparer = preparer_of("text", processor, tmp_path)
    text = "what is it no it is what no is it what it is no what is no it is it what is"
    windows = preparer.windows(text)
    expected = processor(text=[text])
    made = preparer.inputs(windows)
    assert expected["text_index"].tolist() == [list(range(len(windows)))]
    np.testing.assert_array_equal(made["input_ids"], expected["input_ids"].numpy())
    assert preparer.windows("it is") == ["it is"]


@pytest.mark.parametrize("text", ["", "  ", None, 3, "a \ud800 lone half"])
def test_what_is_no_text_is_refused(text, tmp_path):
    with pytest.raises(runtime.RowError):
        preparer_of("text", MMFusionProcessor(tokenizer=tokenizer()), tmp_path).load(text)


EXTRACTORS = {
    "wave": lambda: Wav2Vec2FeatureExtractor(return_attention_mask=True),
    "wave as it is": lambda: Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=False),
    "whisper": lambda: WhisperFeatureExtractor(chunk_length=2),
    "speech2text": lambda: Speech2TextFeatureExtractor(feature_size=12, num_mel_bins=12),
    "ast": lambda: ASTFeatureExtractor(num_mel_bins=16, max_length=64),
}


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_sounds(kind, tmp_path):
    extractor = EXTRACTORS[kind]()
    extractor.max_audio_seconds = 1
    processor = MMFusionProcessor(feature_extractor=extractor)
    soundfile.write(buffer := io.BytesIO(), wave(7000), 16000, "FLOAT", format="WAV")
    noise = np.random.default_rng(0).standard_normal(20000).astype(np.float32)
    items = [buffer.getvalue(), {"array": noise, "sampling_rate": 16000}, noise[:9000], noise[:300], noise[:0]]
    # Logarithms make much of the last digits of silence.
    check_same("audio", processor, tmp_path, items[:4], bound=2e-3 if kind != "wave" else 1e-4, sampling_rate=16000)
    with pytest.raises(runtime.RowError):
        preparer_of("audio", processor, tmp_path).load(items[4])


@pytest.mark.parametrize(("rate", "wanted"), [(8000, 16000), (44100, 16000), (22050, 16000), (48000, 16000)])
def test_sounds_of_other_rates(rate, wanted):
    samples = np.random.default_rng(1).standard_normal(3000).astype(np.float32)
    common = math.gcd(rate, wanted)
    expected = resample_poly(samples, wanted // common, rate // common)
    np.testing.assert_allclose(runtime.resampled(samples, rate, wanted), expected, atol=2e-6)


def test_an_unknown_feature_extractor_is_refused(tmp_path):
    class Other(Wav2Vec2FeatureExtractor):
        pass

    processor = MMFusionProcessor(feature_extractor=Other())
    with pytest.raises(NotImplementedError, match=says("Other", "Wav2Vec2", "Whisper")):
        preparation_of(modality_of("audio"), processor, tmp_path)


TABLE = {
    "beds": [2, 3.5, None, 4, 7, 1],
    "price": ["1.402,15", "72,5", "3.000", None, "12", "5,5"],
    "share": ["12 %", "3 %", "40 %", "7 %", None, "1 %"],
    "kind": ["new", "old", "new", None, "old", "new"],
    "code": ["007", "7", "007", "7", "012", "012"],
    "sold": ["2024-06-15", "2023-01-02", None, "2024-02-29", "2022-12-31", "2024-06-16"],
    "seen": ["15.06.2024 08:30", "02.01.2023 12:00", "29.02.2024 23:59", None, "31.12.2022 00:01", "16.06.2024 10:00"],
    "open": [True, False, True, None, False, True],
}


def test_tables(tmp_path):
    schema = TableSchema.fit(TABLE)
    assert schema.marks
    assert set(schema.dates) == {"sold", "seen"}
    processor = MMFusionProcessor(table_schema=schema)
    rows = [{name: values[row] for name, values in TABLE.items()} for row in range(6)]
    rows += [
        {"beds": 1e20, "kind": "never seen", "sold": datetime(2024, 5, 6, 7, 8, 9), "price": "1 402,5", "share": "5%"},
        {"beds": "3", "kind": " ", "sold": date(2024, 5, 6), "seen": "2024-06-15T08:30:00+02:00", "code": 7},
        {"beds": np.float32(2), "kind": np.str_("old"), "sold": np.datetime64("2021-01-01"), "open": np.True_},
        {"beds": math.nan, "seen": "2024-06-15 08:30:10.25", "code": 7.0, "price": 3},
    ]
    check_same("tabular", processor, tmp_path, rows)
    preparer = preparer_of("tabular", processor, tmp_path)
    assert preparer.load({"beds": None, "kind": "", "sold": math.nan}) is None
    for bad in ({"beds": "many"}, {"sold": "soon"}, {"rooms": 3}, {"beds": [1, 2]}, {"beds": math.inf}, "beds"):
        with pytest.raises(runtime.RowError):
            preparer.load(bad)


def test_tables_of_before(tmp_path):
    """Schemas that clip nothing, and look categories up by their number."""
    schema = TableSchema(numerical={"age": (40.0, 10.0)}, categorical={"town": ["7", "Oslo"], "zip": ["007", "8"]})
    rows = [{"age": 1e6, "town": "007"}, {"age": 3, "town": 7.0, "zip": "7"}, {"town": "", "zip": 8}, {"town": "x"}]
    check_same("tabular", MMFusionProcessor(table_schema=schema), tmp_path, rows)


def test_series(tmp_path):
    processor = MMFusionProcessor(series_scaler=SeriesScaler([0.0, 1.0, 5.0], [1.0, 2.0, 0.5], widths=[2, 1]))
    items = [[[1.0, 2.0], [math.nan, 4.0]], np.array([1.0, 2.0, 3.0]), [[9e9, 0.0]]]
    check_same("series", processor, tmp_path, items)
    preparer = preparer_of("series", processor, tmp_path)
    assert preparer.load([[math.nan, math.nan]]) is preparer.load([]) is None
    for bad in ([["a"]], np.ones((3, 3)), [[math.inf, 0.0]], [[1.0, 2.0], [1.0]]):
        with pytest.raises(runtime.RowError):
            preparer.load(bad)


KINDS = {
    "single_label_classification": {"temperature": 1.7},
    "multi_label_classification": {"temperature": 0.6},
    "regression": {},
}
ASKED = [{}, {"top_k": 1}, {"top_k": None}, {"coverage": 0.8}, {"abstain_below": 0.4}, {"coverage": 0.6, "top_k": 2}]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_the_pipelines(kind):
    draw = torch.Generator().manual_seed(3)
    thresholds = conformal_thresholds(torch.rand(200, generator=draw) * 2)
    sure = Confidence(200, KINDS[kind].get("temperature", 1.0), thresholds)
    scale = {"label_mean": (1.0,) * 4, "label_scale": (2.0, 1.0, 0.5, 3.0)} if kind == "regression" else {}
    head = TASK_HEADS[kind](4, confidence=sure, **scale)
    task = json.loads(json.dumps(task_of(None, "logits", head, "abcd")))
    pipeline = MMFusionClassificationPipeline.__new__(MMFusionClassificationPipeline)
    pipeline._labels = lambda *_: "abcd"
    for logits in torch.randn(20, 4, generator=draw) * 2:
        for asked in ASKED:
            top_k = asked.get("top_k", 5)
            rest = {key: value for key, value in asked.items() if key != "top_k"}
            expected = pipeline._best(logits, None, head, top_k, **rest)
            found = runtime.best_answers(
                logits.numpy(), task, "label", top_k, rest.get("coverage"), rest.get("abstain_below")
            )
            assert [answer["label"] for answer in found] == [answer["label"] for answer in expected]
            for one, other in zip(found, expected):
                assert set(one) == set(other)
                for key in set(one) - {"label"}:
                    assert one[key] == pytest.approx(other[key], rel=1e-5, abs=1e-6)


def test_a_coverage_beyond_the_rows_is_refused():
    task = task_of(None, "logits", TASK_HEADS["regression"](1), "a")
    with pytest.raises(ValueError, match=says(0.9)):
        runtime.best_answers(np.zeros(1, np.float32), task, "label", 5, 0.9, None)
