"""A processor knows what it was when it was saved, and what the model beside it takes."""

import json
import logging
from pathlib import Path

import pytest
import tiny_models as tiny
from transformers import (
    AlbertTokenizer,
    AutoTokenizer,
    BertTokenizer,
    ByT5Tokenizer,
    CLIPTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    RobertaTokenizer,
    T5Tokenizer,
    Wav2Vec2CTCTokenizer,
    WhisperFeatureExtractor,
    XLMRobertaTokenizer,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from mm_hf import MMFusionConfig, MMFusionProcessor, TabularConfig
from mm_hf.data.tokenizers import letter_tokenizer, word_tokenizer
from mm_hf.models.processor_record import RECORD
from mm_hf.models.recurrent import RecurrentConfig
from mm_hf.models.series import SeriesScaler
from mm_hf.models.tabular import TableSchema


LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
MANY = [f"word{number}" for number in range(115)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def numbered(*words: str) -> dict[str, int]:
    return {word: number for number, word in enumerate(words)}


def scored(*words: str) -> list[tuple[str, float]]:
    return [(word, -float(number)) for number, word in enumerate(words)]


def of_letters(folder: Path) -> PreTrainedTokenizerBase:
    (folder / "vocab.json").write_text(json.dumps(numbered("<pad>", "<unk>", "|", *LETTERS)))
    return Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))


TOKENIZERS = {
    "bert": lambda _: BertTokenizer(vocab=numbered(*SPECIAL, *MANY)),
    "gpt2": lambda _: GPT2Tokenizer(vocab=numbered("<|endoftext|>", *LETTERS), merges=[]),
    "roberta": lambda _: RobertaTokenizer(
        vocab=numbered("<s>", "<pad>", "</s>", "<unk>", "<mask>", *LETTERS), merges=[]
    ),
    "t5": lambda _: T5Tokenizer(vocab=scored("<pad>", "</s>", "<unk>", *LETTERS), extra_ids=10),
    "xlm-roberta": lambda _: XLMRobertaTokenizer(vocab=scored("<s>", "<pad>", "</s>", "<unk>", *LETTERS, "<mask>")),
    "llama": lambda _: LlamaTokenizer(vocab=numbered("<unk>", "<s>", "</s>", *LETTERS), merges=[]),
    "albert": lambda _: AlbertTokenizer(vocab=scored("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]", *LETTERS)),
    "clip": lambda _: CLIPTokenizer(
        vocab=numbered(*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"),
        merges=[],
    ),
    "byt5, slow": lambda _: ByT5Tokenizer(),
    "wav2vec2, slow": of_letters,
    "words": lambda _: word_tokenizer(["what is there, and what is not?"]),
    "letters": lambda _: letter_tokenizer(["what is there"]),
}


def record_in(folder: Path) -> dict:
    return json.loads((folder / "processor_config.json").read_text())[RECORD]


def forget(folder: Path):
    """Makes a processor one of before."""
    found = json.loads((folder / "processor_config.json").read_text())
    del found[RECORD]
    (folder / "processor_config.json").write_text(json.dumps(found))
    (folder / "checksums.json").unlink(missing_ok=True)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_tokenizer_comes_back_as_it_was_saved(kind, added, tmp_path, caplog):
    tokenizer = TOKENIZERS[kind](tmp_path)
    if added:
        tokenizer.add_tokens(["a new token"])
        tokenizer.add_special_tokens({"pad_token": "<padding>"})
        tokenizer.model_max_length = 17
    folder = tmp_path / "processor"
    MMFusionProcessor(tokenizer=tokenizer).save_pretrained(folder)
    assert record_in(folder)["tokenizer"]["length"] == len(tokenizer)
    loaded = MMFusionProcessor.from_pretrained(folder)
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()
    loaded.save_pretrained(folder)
    assert record_in(folder)["tokenizer"]["length"] == len(tokenizer)
    forget(folder)
    MMFusionProcessor.from_pretrained(folder)
    assert not [record for record in caplog.records if str(folder) in record.getMessage()]


@pytest.mark.parametrize("beside", ["a record", "a model", "nothing"])
@pytest.mark.parametrize("kind", [kind for kind in TOKENIZERS if "slow" not in kind])
def test_a_vocabulary_that_is_gone(kind, beside, tmp_path):
    """The library makes a tokenizer of the special tokens alone, or stops."""
    folder = tmp_path / "processor"
    tokenizer = TOKENIZERS[kind](tmp_path)
    MMFusionProcessor(tokenizer=tokenizer).save_pretrained(folder)
    if beside != "a record":
        forget(folder)
    if beside == "a model":
        with_words(len(tokenizer)).save_pretrained(folder)
        MMFusionProcessor.from_pretrained(folder)
    (folder / "tokenizer.json").unlink()
    if kind in ("words", "letters"):  # of the library's general class, which makes nothing up
        with pytest.raises(ValueError, match="Couldn't instantiate"):
            MMFusionProcessor.from_pretrained(folder)
    elif (kind, beside) == ("t5", "nothing"):  # a hundred special tokens and the space could be what somebody has
        assert len(MMFusionProcessor.from_pretrained(folder).tokenizer) < len(tokenizer)
    else:
        told = {"a record": rf"\b{len(tokenizer)}\b", "a model": rf"\b{len(tokenizer)}\b", "nothing": "special"}
        with pytest.raises(ValueError, match=told[beside]):
            MMFusionProcessor.from_pretrained(folder)


def test_what_is_changed_in_memory_is_saved_as_it_is_then(tmp_path):
    images = ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.5, 0.4, 0.3])
    processor = MMFusionProcessor(images, BertTokenizer(vocab=numbered(*SPECIAL, *MANY)))
    processor.save_pretrained(tmp_path)
    processor.tokenizer.add_tokens(["zebra"])
    processor.tokenizer.model_max_length = 9
    processor.image_processor.size = {"height": 16, "width": 16}
    processor.image_processor.image_std = [0.1, 0.2, 0.3]
    processor.save_pretrained(tmp_path)
    loaded = MMFusionProcessor.from_pretrained(tmp_path)
    assert len(loaded.tokenizer) == 121
    assert loaded.tokenizer.model_max_length == 9
    assert dict(loaded.image_processor.size)["height"] == 16
    assert list(loaded.image_processor.image_std) == [0.1, 0.2, 0.3]


def test_what_a_call_asks_for_is_no_damage(tmp_path):
    images = ViTImageProcessorPil(size={"height": 32, "width": 32})
    MMFusionProcessor(images, BertTokenizer(vocab=numbered(*SPECIAL, *MANY))).save_pretrained(tmp_path)
    loaded = MMFusionProcessor.from_pretrained(
        tmp_path, size={"height": 8, "width": 8}, additional_special_tokens=["<a>"], model_max_length=5
    )
    assert dict(loaded.image_processor.size)["height"] == 8


SETTINGS = {
    "image_mean": ("image_processor", [0.5, 0.4, 0.9]),
    "image_std": ("image_processor", [0.5, 0.5, 0.25]),
    "size": ("image_processor", {"height": 32, "width": 64}),
    "rescale_factor": ("image_processor", 1.0),
    "do_normalize": ("image_processor", False),
    "sampling_rate": ("feature_extractor", 8000),
    "hop_length": ("feature_extractor", 320),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_that_are_not_those_that_were_saved(setting, tmp_path):
    images = ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.5, 0.4, 0.3])
    sounds = WhisperFeatureExtractor(feature_size=8, chunk_length=1)
    MMFusionProcessor(image_processor=images, feature_extractor=sounds).save_pretrained(tmp_path)
    part, value = SETTINGS[setting]
    found = json.loads((tmp_path / "processor_config.json").read_text())
    before = found[part][setting]
    assert before != value
    found[part][setting] = value
    (tmp_path / "processor_config.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=setting) as raised:
        MMFusionProcessor.from_pretrained(tmp_path)
    for told in (value, before):
        assert str(told).strip("{}[]") in str(raised.value)
    del found[RECORD]  # as the message says
    (tmp_path / "processor_config.json").write_text(json.dumps(found))
    MMFusionProcessor.from_pretrained(tmp_path)


# --- Of before, and beside a model


def config(**kwargs) -> MMFusionConfig:
    return tiny.config(vision=None, **{"text": None, **kwargs})


def with_words(count: int) -> MMFusionConfig:
    found = config(text="bert")
    found.text_config.vocab_size = count
    return found


BESIDE = {
    # tokens, embeddings, what is told; of a processor with a record and of one without
    "as many": (120, 120, None),
    "fewer, as Whisper has": (110, 200, None),
    "one more": (121, 120, "ids up to 120.*120"),
    "a few of letters": (40, 40, None),
    "a few of letters, padded": (40, 64, None),
    "of proteins, padded": (128, 128, None),
}


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("case", BESIDE)
def test_ids_and_embeddings(case, recorded, tmp_path):
    tokens, words, told = BESIDE[case]
    with_words(words).save_pretrained(tmp_path)
    vocabulary = numbered(*SPECIAL, *(f"word{number}" for number in range(tokens - len(SPECIAL))))
    MMFusionProcessor(tokenizer=BertTokenizer(vocab=vocabulary)).save_pretrained(tmp_path)
    if not recorded:
        forget(tmp_path)
    if told is None:
        assert len(MMFusionProcessor.from_pretrained(tmp_path).tokenizer) == tokens
    else:
        with pytest.raises(ValueError, match=told):
            MMFusionProcessor.from_pretrained(tmp_path)


def test_a_few_tokens_beside_many_embeddings_are_what_is_left(tmp_path):
    with_words(30522).save_pretrained(tmp_path)
    MMFusionProcessor(tokenizer=BertTokenizer(vocab=numbered(*SPECIAL, "left"))).save_pretrained(tmp_path)
    MMFusionProcessor.from_pretrained(tmp_path)  # it was saved so
    forget(tmp_path)
    with pytest.raises(ValueError, match=r"6 tokens.*30522"):
        MMFusionProcessor.from_pretrained(tmp_path)


def schema(columns=("beds",), kinds=("old", "new")) -> TableSchema:
    return TableSchema(dict.fromkeys(columns, (1.0, 2.0)), {"kind": list(kinds)})


TABLE, SERIES = TabularConfig(num_numerical=1, vocab_sizes=[4]), RecurrentConfig(input_size=2, hidden_size=32)
PAIRS = {
    "columns of numbers": ({"table_schema": schema(("beds", "rooms"))}, r"makes 2 .*takes 1"),
    "values of a category": ({"table_schema": schema(kinds=("old", "new", "ruin"))}, r"makes \[5\] .*takes \[4\]"),
    "channels of a series": ({"series_scaler": SeriesScaler([0.0], [1.0])}, r"makes 1 .*takes 2"),
}


@pytest.mark.parametrize("case", PAIRS)
def test_parts_of_another_checkpoint(case, tmp_path):
    config(tabular_config=TABLE, series_config=SERIES).save_pretrained(tmp_path)
    right = {"table_schema": schema(), "series_scaler": SeriesScaler([0.0, 1.0], [1.0, 1.0])}
    MMFusionProcessor(**right).save_pretrained(tmp_path)
    MMFusionProcessor.from_pretrained(tmp_path)
    parts, told = PAIRS[case]
    MMFusionProcessor(**{**right, **parts}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=told):
        MMFusionProcessor.from_pretrained(tmp_path)
    forget(tmp_path)
    with pytest.raises(ValueError, match=told):
        MMFusionProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize(("made", "taken"), [(1, 3), (3, 1), (3, 3), (None, 3)])
def test_channels_of_pictures(made, taken, tmp_path):
    found = tiny.config(text=None)
    found.vision_config.num_channels = taken
    found.save_pretrained(tmp_path)
    images = ViTImageProcessorPil(size={"height": 32, "width": 32})
    MMFusionProcessor(image_processor=images, image_channels=made).save_pretrained(tmp_path)
    if made in (None, taken):
        MMFusionProcessor.from_pretrained(tmp_path)
    else:
        with pytest.raises(ValueError, match=rf"\b{made} channels.*\b{taken}\b"):
            MMFusionProcessor.from_pretrained(tmp_path)


def test_a_config_that_nobody_can_read_is_left_to_the_model(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    MMFusionProcessor(table_schema=schema()).save_pretrained(tmp_path)
    for text in (
        "{",
        '{"model_type": "bert"}',
        '{"model_type": "mm_fusion", "text_config": {"model_type": "nobody"}}',
    ):
        (tmp_path / "config.json").write_text(text)
        MMFusionProcessor.from_pretrained(tmp_path)


def test_a_plain_tokenizer_loads_as_ever(tmp_path):
    """The library's own classes take no notice."""
    MMFusionProcessor(tokenizer=BertTokenizer(vocab=numbered(*SPECIAL, *MANY))).save_pretrained(tmp_path)
    assert len(AutoTokenizer.from_pretrained(tmp_path)) == 120
