"""What encoders do and their configs do not say: causal or not, padding, draws, lengths, sizes of pictures."""

import numpy as np
import pytest
import tiny_models as tiny
import torch
import transformers as T
from PIL import Image
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from mm_hf import (
    MMFusionConfig,
    MMFusionForClassification,
    MMFusionForConditionalGeneration,
    MMFusionModel,
    MMFusionProcessor,
)
from mm_hf.models.encoders import construct_encoder
from mm_hf.models.encoding import encode_items, run_encoder, to_the_right
from mm_hf.models.image_processors import resize_to
from mm_hf.models.probing import longest_text, probe_encoder
from mm_hf.models.projection import pool_tokens


WORDS = tiny.WORDS
DECODER = {**WORDS, "num_key_value_heads": 2, "head_dim": 16, **tiny.SPECIAL_IDS}
GPT = {"vocab_size": tiny.VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40}
GPT |= {"initializer_range": 0.2}
BART = {"vocab_size": tiny.VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "init_std": 0.2}
BART |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
BART |= {"max_position_embeddings": 40, **tiny.SPECIAL_IDS, "decoder_start_token_id": 1}
OPT = {"vocab_size": tiny.VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
OPT |= {"ffn_dim": 48, "max_position_embeddings": 40, "word_embed_proj_dim": 32, "init_std": 0.2}
XLNET = {"vocab_size": tiny.VOCABULARY, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48}
XLM = {"vocab_size": tiny.VOCABULARY, "emb_dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 40}

# By name: the config; how its text is read; how long a text it can place.
ENCODERS = {
    "gpt2": (lambda: T.GPT2Config(**GPT), "last", 40),
    "gptj": (lambda: T.GPTJConfig(**GPT, rotary_dim=8), "last", 40),
    "llama": (lambda: T.LlamaConfig(**DECODER), "last", None),
    "qwen2": (lambda: T.Qwen2Config(**DECODER), "last", None),
    "gemma": (lambda: T.GemmaConfig(**DECODER), "last", None),
    "opt": (lambda: T.OPTConfig(**OPT), "last", 40),
    "bloom": (lambda: T.BloomConfig(vocab_size=60, hidden_size=32, n_layer=2, n_head=2), "last", None),
    "mamba": (lambda: T.MambaConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2, state_size=8), "last", None),
    "clip_text": (tiny.TEXT_CONFIGS["clip_text"], "last", 40),
    "bert": (tiny.TEXT_CONFIGS["bert"], "cls", 40),
    "roberta": (tiny.TEXT_CONFIGS["roberta"], "cls", 38),
    "xlm-roberta": (lambda: T.XLMRobertaConfig(**tiny.ROBERTA), "cls", 38),
    "camembert": (lambda: T.CamembertConfig(**tiny.ROBERTA), "cls", 38),
    "data2vec-text": (lambda: T.Data2VecTextConfig(**tiny.ROBERTA), "cls", 38),
    "mpnet": (lambda: T.MPNetConfig(**{**WORDS, "pad_token_id": 1}), "cls", 38),
    "longformer": (lambda: T.LongformerConfig(**tiny.ROBERTA, attention_window=4), "cls", 38),
    "esm": (lambda: T.EsmConfig(**WORDS, pad_token_id=1, mask_token_id=3, token_dropout=False), "cls", 38),
    "distilbert": (tiny.TEXT_CONFIGS["distilbert"], "cls", 40),
    "modernbert": (tiny.TEXT_CONFIGS["modernbert"], "cls", None),
    "deberta-v2": (
        lambda: T.DebertaV2Config(**WORDS, relative_attention=True, position_biased_input=False, pos_att_type=["p2c"]),
        "cls",
        None,
    ),
    "bart": (lambda: T.BartConfig(**BART), "cls", 40),
    "xlm": (lambda: T.XLMConfig(**XLM), "cls", 40),
    "xlnet": (lambda: T.XLNetConfig(**XLNET), "last", None),
    "t5": (tiny.TEXT_CONFIGS["t5"], "mean", None),
    "lstm": (tiny.TEXT_CONFIGS["lstm"], "mean", None),
}


def saved(folder, config, seed: int = 3):
    torch.manual_seed(seed)
    T.AutoModel.from_config(config).save_pretrained(folder)
    return folder


def fused(cls=MMFusionForClassification, **kwargs):
    torch.manual_seed(0)
    settings = tiny.fusion_settings(kwargs.pop("fusion", "concat"), num_hidden_layers=1)
    return cls.from_encoders_pretrained(fusion_module_config=settings, **kwargs).eval()


# --- Texts


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_texts_are_read_where_the_encoder_knows_most(name, tmp_path):
    make, pooling, _ = ENCODERS[name]
    model = fused(text=saved(tmp_path, make()))
    assert model.config.poolings["text"] == pooling
    assert model.model.projections["text"].pooling == pooling
    texts = tiny.texts((5, 5, 5))
    texts["input_ids"][:, 0] = texts["input_ids"][0, 0]  # all begin alike
    with torch.no_grad():
        assert model(**texts).logits.std(0).max() > 1e-3
    assert MMFusionConfig(**{**model.config.to_dict(), "pooling": {"text": "mean"}}).poolings["text"] == "mean"


def test_what_the_caller_says_counts(tmp_path):
    folder = saved(tmp_path, ENCODERS["gpt2"][0]())
    assert fused(text=folder, pooling={"text": "mean"}).config.poolings == {"text": "mean"}
    assert fused(text=folder, try_encoders=False).config.pooling is None
    fnet = saved(tmp_path, T.FNetConfig(**{k: v for k, v in WORDS.items() if k != "num_attention_heads"}))
    assert fused(text=fnet).config.encode_by_length == ["text"]
    assert fused(text=fnet, encode_by_length=[]).config.encode_by_length == []
    assert fused(text=fnet, try_encoders=False).config.encode_by_length is None


def test_a_config_without_the_keys_means_what_it_meant():
    config = MMFusionConfig(text_config=ENCODERS["gpt2"][0](), vision_config=tiny.VISION_CONFIGS["vit"]())
    assert config.poolings == {"vision": "mean", "text": "cls"}
    for name in config.modalities:
        assert config.encoding(name) == {"interpolate": False, "by_length": False, "seeded": False}


@pytest.mark.parametrize("key", ["encode_by_length", "seeded_encoders"])
def test_keys_that_name_what_is_not_there(key):
    with pytest.raises(ValueError, match=rf"{key} names \['audio'\].*\['vision', 'text'\]"):
        tiny.config(**{key: ["audio"]})
    if key == "encode_by_length":
        with pytest.raises(ValueError, match=r"text .*audio.*\['vision'\]"):
            tiny.config(**{key: ["vision"]})


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_the_longest_text_is_what_the_encoder_can_place(name):
    make, _, longest = ENCODERS[name]
    config = make()
    before = config.to_dict()
    assert longest_text(config) == longest
    assert config.to_dict() == before
    torch.manual_seed(0)
    encoder = construct_encoder(make(), "text").eval()

    def run(length):
        ids = torch.full((1, length), 7)
        with torch.no_grad():
            run_encoder(encoder, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, None)

    run(longest or 150)
    if longest is not None:
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            run(longest + 5)  # Longformer fills up whole windows


def bert_tokenizer(folder, length=10**30, **kwargs):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word", "what", "is", "it"]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = T.BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=length, **kwargs)
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize(
    ("name", "claimed", "expected"),
    [
        ("camembert", None, 38),
        ("mpnet", None, 38),
        ("mpnet", 512, 38),
        ("bert", 512, 40),
        ("bert", 12, 12),
        ("longformer", 4096, 38),
        ("bart", 1024, 40),
        ("llama", None, 40),  # no table, but what the config says that it was trained on
        ("llama", 64, 64),
        ("t5", None, 122),  # no end: nothing is cut
        ("t5", 100, 100),
        ("xlnet", None, 122),
    ],
)
def test_a_tokenizer_that_claims_more_is_not_believed(name, claimed, expected, tmp_path):
    ENCODERS[name][0]().save_pretrained(tmp_path)
    bert_tokenizer(tmp_path, claimed or 10**30)
    processor = MMFusionProcessor.from_encoders_pretrained(text=tmp_path)
    assert processor(text=["word " * 120])["input_ids"].shape == (1, expected)


@pytest.mark.parametrize(("tokens", "pad"), [({"eos_token": "it"}, "it"), ({}, "[SEP]")])
def test_a_tokenizer_without_padding_gets_one(tokens, pad, tmp_path):
    ENCODERS["gpt2"][0]().save_pretrained(tmp_path)
    tokenizer = bert_tokenizer(tmp_path)
    tokenizer.pad_token = None
    if tokens:
        tokenizer.sep_token = None
        tokenizer.add_special_tokens(tokens)
    tokenizer.save_pretrained(tmp_path)
    assert T.AutoTokenizer.from_pretrained(tmp_path).pad_token is None
    processor = MMFusionProcessor.from_encoders_pretrained(text=tmp_path)
    assert processor.tokenizer.pad_token == pad
    batch = processor(text=["word", "what is it word"])
    lengths = batch["attention_mask"].sum(1)
    assert lengths[0] < lengths[1] == batch["input_ids"].shape[1]


def test_a_tokenizer_without_an_encoder_is_believed(tmp_path):
    bert_tokenizer(tmp_path / "known", 16)
    processor = MMFusionProcessor.from_encoders_pretrained(text=tmp_path / "known")
    assert processor(text=["word " * 120])["input_ids"].shape == (1, 16)
    bert_tokenizer(tmp_path / "unknown")
    with pytest.raises((OSError, ValueError), match=r"config|model_type"):
        MMFusionProcessor.from_encoders_pretrained(text=tmp_path / "unknown")


def test_every_tokenizer_gives_a_mask(tmp_path):
    """SigLIP's names no mask among its inputs."""
    ENCODERS["bert"][0]().save_pretrained(tmp_path)
    bert_tokenizer(tmp_path, model_input_names=["input_ids"])
    processor = MMFusionProcessor.from_encoders_pretrained(text=tmp_path)
    batch = processor(text=["word", "what is it word"])
    assert batch["attention_mask"].sum(1).tolist() == [3, 6]
    assert processor.model_input_names == ["input_ids", "attention_mask"]
    assert "attention_mask" not in processor(text=["word"], text_kwargs={"return_attention_mask": False})


# --- Padding


def test_first_and_last_go_by_the_mask():
    tokens = torch.arange(10.0).reshape(2, 5, 1)
    mask = torch.tensor([[0, 0, 1, 1, 0], [1, 1, 1, 1, 1]])
    expected = {"cls": [2, 5], "last": [3, 9], "mean": [2.5, 7]}
    for pooling, values in expected.items():
        for kind in (mask, mask.bool()):
            assert pool_tokens(tokens, kind, pooling).flatten().tolist() == values
    places = torch.tensor([[True], [True]])
    assert pool_tokens(tokens, mask.bool(), "cls", places).flatten().tolist() == [2, 5]
    assert pool_tokens(tokens, None, "cls").flatten().tolist() == [0, 5]
    assert pool_tokens(tokens, None, "last").flatten().tolist() == [4, 9]


def test_padding_in_front_goes_behind():
    mask = torch.tensor([[0, 0, 1, 0, 1], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
    ids = torch.arange(15).reshape(3, 5)
    moved = to_the_right({"input_ids": ids, "attention_mask": mask, "pixel_values": torch.zeros(3, 3, 2, 2)})
    # What is hidden in the middle of a text stays where it is.
    assert moved["attention_mask"].tolist() == [[1, 0, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert moved["input_ids"].tolist() == [[2, 3, 4, 0, 1], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14]]
    vectors = to_the_right({"inputs_embeds": ids[..., None].float(), "attention_mask": mask})["inputs_embeds"]
    assert vectors[..., 0].tolist() == moved["input_ids"].tolist()
    assert moved["pixel_values"].shape == (3, 3, 2, 2)
    unpadded = {"input_ids": ids}
    assert to_the_right(unpadded) is unpadded


@pytest.mark.parametrize("fusion", ["cross_attention", "concat", "co_attention"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "opt", "roberta", "mpnet", "xlnet", "mamba", "llama"])
@torch.no_grad()
def test_padded_left_or_right_or_alone(name, fusion, tmp_path):
    model = fused(text=saved(tmp_path, ENCODERS[name][0]()), fusion=fusion)
    lengths = (4, 9, 6)
    right = tiny.texts(lengths, pad_token_id=1 if name in ("roberta", "mpnet") else 0)
    left = {key: value.clone() for key, value in right.items()}
    alone = []
    for row, length in enumerate(lengths):
        for value in left.values():
            value[row] = value[row].roll(9 - length)
        alone.append(model(**{key: value[row : row + 1, :length] for key, value in right.items()}).logits)
    for batch in (right, left):
        torch.testing.assert_close(model(**batch).logits, torch.cat(alone), rtol=0, atol=1e-5)


@torch.no_grad()
def test_items_of_one_length_go_together():
    """The states are those of each item without padding, zero behind it, whichever side was padded."""
    torch.manual_seed(0)
    settings = {k: v for k, v in WORDS.items() if k != "num_attention_heads"}
    encoder = construct_encoder(T.FNetConfig(**settings), "text").eval()
    texts = tiny.texts((4, 7, 4))
    for layers in (None, [0, -1]):
        states = encode_items(encoder, "text", dict(texts), layers, None, frozen=True, by_length=True)
        assert states.mask.tolist() == texts["attention_mask"].tolist()
        for row, length in enumerate((4, 7, 4)):
            own = run_encoder(encoder, {"input_ids": texts["input_ids"][row : row + 1, :length]}, layers)
            for level, expected in zip(states.levels, own, strict=True):
                torch.testing.assert_close(level[row, :length], expected[0], rtol=0, atol=1e-5)
                assert level[row, length:].abs().sum() == 0


@pytest.mark.parametrize(("norm", "by_length"), [("group", True), ("layer", False)])
def test_sounds_whose_norm_sees_the_padding(norm, by_length):
    torch.manual_seed(0)
    config = tiny.AUDIO_CONFIGS["wav2vec2"]()
    config.feat_extract_norm = norm
    assert probe_encoder(construct_encoder(config, "audio").eval(), "audio").by_length is by_length


# --- Draws


def test_a_masked_autoencoder_sees_the_whole_picture(tmp_path):
    settings = {**tiny.PATCHES, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1}
    settings |= {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 16}
    folder = saved(tmp_path, T.ViTMAEConfig(**settings, mask_ratio=0.75))
    model = fused(MMFusionModel, vision=folder)
    images = tiny.images(2)
    with torch.no_grad():
        (states,) = model.encode(**images)["vision"].levels
        (again,) = model.encode(**images)["vision"].levels
        assert torch.equal(states, again)
        assert states.shape == (2, 17, 32)
        # The patches stand in their order: a change of one is seen first at its own token.
        embeddings = model.encoders["vision"].embeddings
        kept, _, order = embeddings(images["pixel_values"], noise=torch.linspace(0, 1, 16).expand(2, -1))
        assert order.tolist() == [list(range(16))] * 2
        assert kept.shape == (2, 17, 32)
    assert model.config.vision_config.mask_ratio == 0
    model.save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(
            MMFusionModel.from_pretrained(tmp_path / "saved").encode(**images)["vision"].levels[0], states
        )
    # Checkpoints of before keep what they had.
    assert fused(MMFusionModel, vision=folder, try_encoders=False).config.vision_config.mask_ratio == 0.75


class Drawing(T.BertModel):
    """Adds noise in eval mode too."""

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        outputs = super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        outputs.last_hidden_state = outputs.last_hidden_state + torch.randn(32)
        return outputs


def test_an_encoder_that_draws_does_so_alike_in_every_call():
    torch.manual_seed(0)
    encoder = Drawing(tiny.TEXT_CONFIGS["bert"]()).eval()
    found = probe_encoder(encoder, "text")
    assert (found.random, found.causal, found.by_length) == (True, False, False)
    model = tiny.model(MMFusionModel, seeded_encoders=["text"])
    model.encoders["text"] = encoder
    state = torch.get_rng_state()
    with torch.no_grad():
        levels = [model.encode(**tiny.batch())["text"].levels[0] for _ in range(2)]
        assert torch.equal(*levels)
        assert torch.equal(torch.get_rng_state(), state)
        model.config.seeded_encoders = None
        assert not torch.equal(*[model.encode(**tiny.batch())["text"].levels[0] for _ in range(2)])


# --- Sizes of pictures


@pytest.mark.parametrize("name", [*tiny.VISION_CONFIGS, "beit"])
def test_pictures_of_another_size(name, tmp_path):
    make = tiny.VISION_CONFIGS.get(name, lambda: T.BeitConfig(**tiny.PATCHES, use_relative_position_bias=True))
    folder = saved(tmp_path, make())
    model = fused(vision=folder, image_size=48)
    stretched = {"vit": True, "deit": True, "clip": True, "siglip": True}.get(name, False)
    assert model.config.interpolate_pos_encoding is stretched
    pixel_values = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        expected = model(pixel_values=pixel_values).logits
        model.save_pretrained(tmp_path / "saved")
        loaded = MMFusionForClassification.from_pretrained(tmp_path / "saved")
        torch.testing.assert_close(loaded(pixel_values=pixel_values).logits, expected, rtol=0, atol=1e-5)
        if stretched:  # without the key as before
            plain = fused(vision=folder)
            assert plain.config.interpolate_pos_encoding is False
            with pytest.raises((ValueError, RuntimeError), match=r"48|\b36\b.*\b16\b"):
                plain(pixel_values=pixel_values)
            own = torch.randn(2, 3, 32, 32)
            assert torch.equal(plain(pixel_values=own).logits, model(pixel_values=own).logits)


@pytest.mark.parametrize(("size", "message"), [(0, r"\b1\b.*\b0\b"), ("64", "'64'"), (True, "True")])
def test_no_size_of_a_picture(size, message, tmp_path):
    folder = saved(tmp_path, tiny.VISION_CONFIGS["vit"]())
    T.ViTImageProcessor().save_pretrained(folder)
    for cls in (MMFusionModel, MMFusionProcessor):
        with pytest.raises(ValueError, match=f"image_size.*{message}"):
            cls.from_encoders_pretrained(vision=folder, image_size=size)
    text = saved(tmp_path / "text", tiny.TEXT_CONFIGS["bert"]())
    bert_tokenizer(text)
    for cls in (MMFusionModel, MMFusionProcessor):
        with pytest.raises(ValueError, match=r"image_size.*\b64, .*vision"):
            cls.from_encoders_pretrained(text=text, image_size=64)


def test_pictures_that_an_encoder_cannot_take(tmp_path):
    folder = saved(tmp_path, tiny.VISION_CONFIGS["vit"]())
    with pytest.raises(ValueError, match=r"image_size.*\b4, .*\(vit\).*\b32\b"):
        fused(vision=folder, image_size=4)


def image_processors() -> list[str]:
    """One of each kind that classifies pictures, as the library gives them where torchvision is not installed."""
    from transformers.models.auto import modeling_auto

    types = modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
    found = {IMAGE_PROCESSOR_MAPPING_NAMES.get(name, {}).get("pil") for name in types}
    return sorted(found - {None, "TimmWrapperImageProcessor"})  # timm is not installed


# These make no squares of any picture: they keep its shape, or give patches or clusters.
OTHER_INPUTS = {"DonutImageProcessorPil", "ImageGPTImageProcessorPil", "Siglip2ImageProcessorPil"}


@pytest.mark.parametrize("name", image_processors())
def test_the_whole_picture_without_a_border(name):
    processor = getattr(T, name)()
    if name in OTHER_INPUTS:
        with pytest.raises(ValueError, match=f"{name}.*48 x 48.*image_size"):
            resize_to(processor, 48)
        return
    resize_to(processor, 48)
    # A picture twice as wide as high: left half black, right half white.
    picture = np.zeros((60, 120, 3), dtype=np.uint8)
    picture[:, 60:] = 255
    found = processor([Image.fromarray(picture)], return_tensors="pt")["pixel_values"][0]
    assert found.shape[-2:] == (48, 48)
    dark, light = found[:, :, :20], found[:, :, -20:]
    assert (light.amin((1, 2)) > dark.amax((1, 2))).all()
    for half in (dark, light):  # no border above or below, left or right
        torch.testing.assert_close(half, half[:, :1, :1].expand_as(half), rtol=0, atol=2e-2)


def test_one_argument_for_model_and_processor(tmp_path):
    folder = saved(tmp_path, tiny.VISION_CONFIGS["clip"]())
    T.CLIPImageProcessor().save_pretrained(folder)
    processor = MMFusionProcessor.from_encoders_pretrained(vision=folder, image_size=48)
    batch = processor(images=[Image.new("RGB", (90, 30), "white")])
    assert batch["pixel_values"].shape == (1, 3, 48, 48)
    processor.save_pretrained(tmp_path / "processor")
    again = MMFusionProcessor.from_pretrained(tmp_path / "processor")(images=[Image.new("RGB", (90, 30), "white")])
    assert torch.equal(again["pixel_values"], batch["pixel_values"])
    with torch.no_grad():
        assert fused(vision=folder, image_size=48)(**batch).logits.isfinite().all()


def test_patches_of_their_own_shape_are_refused(tmp_path):
    parts = {**tiny.SMALL, "patch_size": 8, "num_patches": 16}
    parts.pop("initializer_range")
    folder = saved(tmp_path, T.Siglip2Config(vision_config=parts, text_config={**WORDS, **tiny.SPECIAL_IDS}))
    with pytest.raises(ValueError, match=r"siglip2_vision_model.*'pixel_attention_mask'.*NaFlex"):
        fused(vision=folder)


# --- New words


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "modernbert", "clip_text", "t5", "lstm", "gpt2"])
def test_new_words_for_a_text_encoder(name, tmp_path):
    model = fused(text=saved(tmp_path / "text", ENCODERS[name][0]()))
    old = model.get_input_embeddings().weight.clone()
    embeddings = model.resize_token_embeddings(tiny.VOCABULARY + 4)
    assert embeddings.weight.shape[0] == tiny.VOCABULARY + 4
    assert torch.equal(embeddings.weight[: len(old)], old)
    assert model.config.text_config.get_text_config().vocab_size == tiny.VOCABULARY + 4
    check_new_words(model, tmp_path, {})


DECODERS = {
    "bert": lambda: T.BertConfig(**WORDS, bos_token_id=1, eos_token_id=2, pad_token_id=0),
    "roberta": lambda: T.RobertaConfig(**{**tiny.ROBERTA, "max_position_embeddings": 42}),
    "gpt2": lambda: T.GPT2Config(**GPT, bos_token_id=1, eos_token_id=2),
    "bart": lambda: T.BartConfig(**BART),
}


@pytest.mark.parametrize("text", ["bert", None])
@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_new_words_for_a_model_that_writes(decoder, text, tmp_path):
    torch.manual_seed(0)
    config = tiny.config(text=text, decoder_config=DECODERS[decoder](), decoder_start_token_id=1, eos_token_id=2)
    model = MMFusionForConditionalGeneration(config).eval()
    labels = torch.tensor([[7, 2, -100], [8, 9, 2]])
    inputs = {**tiny.images(2), **(tiny.texts((3, 4)) if text else {})}
    with torch.no_grad():
        before = model(**inputs, labels=labels).logits
        model.resize_token_embeddings(tiny.VOCABULARY + 4)
        after = model(**inputs, labels=labels).logits
    assert after.shape[-1] == tiny.VOCABULARY + 4
    torch.testing.assert_close(after[..., : tiny.VOCABULARY], before, rtol=0, atol=1e-5)
    for part in (model.get_output_embeddings(), *([model.get_input_embeddings()] if text else [])):
        assert part.weight.shape[0] == tiny.VOCABULARY + 4
    labels[0, 0] = tiny.VOCABULARY + 1
    check_new_words(model, tmp_path, {**tiny.images(2), "labels": labels}, with_text=text is not None)


def check_new_words(model, tmp_path, inputs, with_text=True):
    texts = tiny.texts((3, 4)) if with_text else {}
    if with_text:
        texts["input_ids"][0, 1] = tiny.VOCABULARY + 3
    model.save_pretrained(tmp_path / "saved")
    loaded, info = type(model).from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        one, other = (part.eval()(**texts, **inputs) for part in (model, loaded))
    torch.testing.assert_close(one.logits, other.logits, rtol=0, atol=1e-6)


def test_new_words_for_a_model_without_any():
    with pytest.raises(NotImplementedError, match=r"text.*\['vision'\]"):
        tiny.model(text=None).resize_token_embeddings(70)
