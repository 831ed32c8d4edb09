"""Free text: the decoder over fused tokens, what it is trained with, and how it writes."""

import pytest
import tiny_models as tiny
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    BartConfig,
    BertConfig,
    BertModel,
    BertTokenizer,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
)
from transformers.modeling_outputs import BaseModelOutput

from mm_hf import FUSIONS, MMFusionForConditionalGeneration, MMFusionModel, MMFusionProcessor


START, END, PAD = 1, 2, 0
DECODERS = {
    "bert": lambda: BertConfig(**tiny.WORDS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
    "gpt2": lambda: GPT2Config(
        vocab_size=tiny.VOCABULARY,
        n_positions=40,
        n_embd=24,
        n_layer=2,
        n_head=2,
        initializer_range=0.2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    ),
    "bart": lambda: BartConfig(
        vocab_size=tiny.VOCABULARY,
        max_position_embeddings=40,
        d_model=24,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        init_std=0.2,
        dropout=0.0,
        is_encoder_decoder=False,
        pad_token_id=PAD,
        forced_eos_token_id=None,  # else it ends at the longest length, which no single pass knows
    ),
}
ENDS = {"decoder_start_token_id": START, "eos_token_id": END, "pad_token_id": PAD}


def build(decoder: str = "bert", **kwargs) -> MMFusionForConditionalGeneration:
    return tiny.model(MMFusionForConditionalGeneration, decoder_config=DECODERS[decoder](), **{**ENDS, **kwargs})


def targets() -> torch.Tensor:
    return torch.tensor([[7, 8, 9, END], [10, END, -100, -100], [11, 12, END, -100], [-100] * 4])


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
def test_training_reaches_every_parameter(fusion):
    model = build(fusion=fusion).train()
    indices = {"vision_index": torch.tensor([0, -1, 2, 3]), "text_index": torch.tensor([0, 1, -1, 3])}
    loss = model(**tiny.batch(), **indices, labels=targets()).loss
    loss.backward()
    untouched = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not untouched
    zero = [name for name, p in model.named_parameters() if p.requires_grad and not p.grad.any()]
    # The decoder's keys have a bias that no softmax can see.
    assert not [name for name in zero if not name.endswith("bias")]


@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_the_loss_is_that_of_the_next_token(decoder):
    model = build(decoder)
    labels = targets()
    outputs = model(**tiny.batch(), labels=labels)
    written = torch.tensor([[START, 7, 8, 9], [START, 10, END, PAD], [START, 11, 12, END], [START, PAD, PAD, PAD]])
    assert torch.equal(model.prepare_decoder_input_ids_from_labels(labels), written)
    again = model(**tiny.batch(), decoder_input_ids=written)
    torch.testing.assert_close(again.logits, outputs.logits)
    expected = torch.nn.functional.cross_entropy(outputs.logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    torch.testing.assert_close(outputs.loss, expected)
    of_more = model(**tiny.batch(), labels=labels, num_items_in_batch=torch.tensor(18.0)).loss
    torch.testing.assert_close(of_more, expected / 2)
    # What comes later is not seen.
    other = written.clone()
    other[:, 2:] = 30
    changed = model(**tiny.batch(), decoder_input_ids=other).logits
    torch.testing.assert_close(changed[:, :2], outputs.logits[:, :2])
    assert not torch.allclose(changed[:, 2], outputs.logits[:, 2])


def test_weights_of_rows_and_smoothing_are_for_training_alone():
    model = build(label_smoothing=0.2)
    labels, weights = targets(), torch.tensor([2.0, 0.0, 1.0, 1.0])
    plain = model(**tiny.batch(), labels=labels).loss
    assert torch.equal(model(**tiny.batch(), labels=labels, sample_weight=weights).loss, plain)
    model.train()
    logits = model(**tiny.batch(), labels=labels).logits
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), labels, ignore_index=-100, label_smoothing=0.2, reduction="none"
    )
    torch.testing.assert_close(model(**tiny.batch(), labels=labels).loss, losses.sum() / 9)
    weighted = model(**tiny.batch(), labels=labels, sample_weight=weights).loss
    torch.testing.assert_close(weighted, (losses * weights[:, None]).sum() / 9)


def test_a_batch_without_a_text_to_learn():
    model = build().train()
    loss = model(**tiny.batch(), labels=torch.full((4, 3), -100)).loss
    assert loss == 0
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def written(model, **kwargs) -> torch.Tensor:
    return model.generate(**{"max_new_tokens": 8, **kwargs})


@pytest.mark.parametrize("decoder", sorted(DECODERS))
@pytest.mark.parametrize("how", ["greedy", "beam", "sampling"])
def test_a_cache_changes_nothing(decoder, how):
    settings = {"greedy": {}, "beam": {"num_beams": 3}, "sampling": {"do_sample": True, "top_k": 0}}[how]
    model, found, scores = build(decoder), [], []
    for use_cache in (True, False):
        torch.manual_seed(0)
        outputs = written(
            model, **tiny.batch(), **settings, use_cache=use_cache, return_dict_in_generate=True, output_logits=True
        )
        found.append(outputs.sequences)
        scores.append(torch.stack(outputs.logits))
    assert torch.equal(*found)
    torch.testing.assert_close(*scores)
    assert found[0].shape[1] > 3
    assert (found[0][:, 0] == START).all()
    # Step by step it is what one pass over the whole says.
    if how == "greedy":
        logits = model(**tiny.batch(), decoder_input_ids=found[0][:, :-1]).logits
        expected = logits.argmax(-1)
        for row, text in enumerate(found[0][:, 1:]):
            length = text.tolist().index(END) + 1 if END in text else len(text)
            assert torch.equal(text[:length], expected[row, :length])


def test_what_is_written_depends_on_what_is_shown():
    """A decoder that looks nowhere would say the same of everything."""
    model = build()
    logits = model(**tiny.batch(), labels=targets()).logits[:, 0]
    assert (logits.std(0) > 1e-2).any()
    other_image = model(**tiny.texts((6, 4, 7, 5)), **tiny.images(4, seed=5), labels=targets()).logits[:, 0]
    assert (logits - other_image).abs().max() > 1e-2


def test_beams_and_several_texts_a_row():
    model = build()
    beams = written(model, **tiny.batch(), num_beams=3, num_return_sequences=2)
    assert len(beams) == 8
    torch.manual_seed(0)
    sampled = written(model, **tiny.batch(), do_sample=True, num_return_sequences=3, top_k=0)
    assert len(sampled) == 12
    assert len({tuple(text) for text in sampled[:3].tolist()}) > 1


def test_rows_do_not_depend_on_padding_and_company():
    model = build()
    together = written(model, **tiny.texts((6, 4, 7, 5), pad_to=12), **tiny.images(4))
    assert torch.equal(together, written(model, **tiny.batch()))
    for row in range(4):
        texts, images = tiny.batch(), tiny.images(4)["pixel_values"]
        length = int(texts["attention_mask"][row].sum())
        one = {name: texts[name][row : row + 1, :length] for name in ("input_ids", "attention_mask")}
        alone = written(model, **one, pixel_values=images[row : row + 1])[0]
        assert torch.equal(alone, together[row, : len(alone)])
        assert (together[row, len(alone) :] == PAD).all()


def test_what_rows_share_is_encoded_once():
    model = build()
    texts, images = tiny.texts((6, 4, 7, 5)), tiny.images(4)["pixel_values"]
    index = torch.tensor([1, 0, 1, -1])
    shared = written(model, **texts, pixel_values=images[:2], vision_index=index, num_beams=2)
    repeated = torch.tensor([0, 1, 2, -1])
    apart = written(model, **texts, pixel_values=images[[1, 0, 1]], vision_index=repeated, num_beams=2)
    assert torch.equal(shared, apart)
    states = model.model.encode({"vision": index}, pixel_values=images[:2], **texts)
    assert torch.equal(written(model, encoder_states=states, num_beams=2), shared)


def test_one_modality_alone():
    model = build()
    image_only, text_only = written(model, **tiny.images(3)), written(model, **tiny.texts((5, 6)))
    assert (len(image_only), len(text_only)) == (3, 2)
    for only in ({"text": None}, {"vision": None}):
        model = build(**only)
        inputs = tiny.images(2) if "text" in only else tiny.texts((5, 6))
        assert len(written(model, **inputs)) == 2
        assert model(**inputs, labels=targets()[:2]).loss.isfinite()


@torch.no_grad()
def test_encoder_outputs_stand_for_the_inputs():
    model = build()
    expected = written(model, **tiny.batch())
    encoded = model.get_encoder()(**tiny.batch())
    assert torch.equal(written(model, encoder_outputs=encoded), expected)
    assert torch.equal(written(model, encoder_outputs=encoded.to_tuple(), num_beams=1), expected)
    from_inputs = model(**tiny.batch(), labels=targets()).logits
    for outputs in (encoded, encoded.to_tuple()):
        assert torch.equal(model(encoder_outputs=outputs, labels=targets()).logits, from_inputs)
    # Of foreign ones, states are enough.
    assert written(model, encoder_outputs=BaseModelOutput(last_hidden_state=torch.randn(2, 5, 32))).shape[0] == 2


def test_it_goes_on_from_what_was_written():
    model = build()
    whole = written(model, **tiny.batch())
    begun = written(model, **tiny.batch(), decoder_input_ids=whole[:, :3], max_new_tokens=6)
    assert torch.equal(begun[:, : whole.shape[1]], whole[:, : begun.shape[1]])


def test_states_and_attentions():
    model = build(implementation="eager")
    model.set_attn_implementation("eager")
    outputs = model(**tiny.batch(), labels=targets(), output_attentions=True, output_hidden_states=True)
    assert len(outputs.decoder_hidden_states) == len(outputs.encoder_hidden_states) == 3
    tokens = outputs.encoder_last_hidden_state.shape[1]
    assert outputs.cross_attentions[0].shape == (4, 2, 4, tokens)
    assert outputs.decoder_attentions[0].shape == (4, 2, 4, 4)
    assert outputs.encoder_attentions[0].shape == (4, 2, 7, 7)
    assert model(**tiny.batch(), labels=targets(), return_dict=False)[1].shape == (4, 4, tiny.VOCABULARY)


def test_save_and_load(tmp_path):
    model = build("gpt2", seed=3)
    model.generation_config.update(max_new_tokens=5, num_beams=2)
    model.save_pretrained(tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    assert {"generation_mm_fusion.py", "generation_config.json", "modeling_mm_fusion.py"} <= names
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(loaded) is MMFusionForConditionalGeneration
    own = loaded.generation_config
    assert (own.decoder_start_token_id, own.eos_token_id, own.pad_token_id) == (START, END, PAD)
    assert own.max_new_tokens == 5
    assert GenerationConfig.from_pretrained(tmp_path).num_beams == 2
    assert torch.equal(loaded.generate(**tiny.batch()), model.generate(**tiny.batch()))
    assert loaded.config.is_encoder_decoder
    assert loaded.decoder.lm_head.weight is loaded.decoder.transformer.wte.weight
    # Its encoders and fusion are a model of their own.
    base = MMFusionModel.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(base(**tiny.batch()).last_hidden_state, model.get_encoder()(**tiny.batch())[0])


def test_the_decoder_starts_from_the_text_encoder(encoders):
    """Real weights: what a text encoder has, the decoder has too; what it lacks is new, its end is known."""
    text = str(encoders / "minilm-l6")
    source = BertModel.from_pretrained(text)
    both = MMFusionForConditionalGeneration.from_encoders_pretrained(
        vision=str(encoders / "mobilenet-v2"), text=text, decoder_layers=2, freeze_encoders=True
    )
    alone = MMFusionForConditionalGeneration.from_encoders_pretrained(
        vision=str(encoders / "mobilenet-v2"), decoder=text, attn_implementation="eager"
    )
    assert (both.config.modalities, alone.config.modalities) == (["vision", "text"], ["vision"])
    assert alone.decoder.config._attn_implementation == "eager"
    for model, layers in ((both, 2), (alone, 6)):
        own = model.decoder.bert.state_dict()
        assert len(model.decoder.bert.encoder.layer) == layers
        shared = {name: values for name, values in source.state_dict().items() if name in own}
        assert all(torch.equal(own[name], values) for name, values in shared.items())
        assert {name.split(".")[3] for name in set(own) - set(shared) if name.startswith("encoder")} == {
            "crossattention"
        }
        assert model.decoder.get_output_embeddings().weight is model.decoder.get_input_embeddings().weight
        new = model.decoder.bert.encoder.layer[0].crossattention.self.query.weight
        assert new.std().item() == pytest.approx(384**-0.5, rel=0.05)
        assert model.generation_config.decoder_start_token_id == 101
        assert (model.config.eos_token_id, model.config.pad_token_id) == (102, 0)
        assert all(p.requires_grad for p in model.decoder.parameters())
    processor = MMFusionProcessor.from_encoders_pretrained(vision=str(encoders / "mobilenet-v2"), decoder=text)
    labels = processor.target_ids(["a red heart", None], max_length=3)
    assert labels.tolist() == [[1037, 2417, 102], [-100] * 3]
    image = Image.new("RGB", (64, 64), "red")
    written = alone.generate(**processor(images=[image, image]), max_new_tokens=3)
    assert len(processor.batch_decode(written, skip_special_tokens=True)) == 2


def test_a_decoder_with_other_words_is_refused(encoders, tmp_path):
    other = BertTokenizer(
        vocab={word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"])}
    )
    other.save_pretrained(tmp_path)
    BertConfig(**tiny.WORDS).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"decoder.*text.*tokenizer"):
        MMFusionForConditionalGeneration.from_encoders_pretrained(
            text=str(encoders / "minilm-l6"), decoder=str(tmp_path)
        )


def test_frozen_words(tmp_path):
    """They stay so in a checkpoint, and what follows from the config alone can be changed."""
    model = build(freeze_decoder_embeddings=True)
    words = model.decoder.get_input_embeddings().weight
    assert [p is words for p in model.parameters() if not p.requires_grad] == [True]
    model.train()(**tiny.batch(), labels=targets()).loss.backward()
    assert words.grad is None
    model.save_pretrained(tmp_path)
    loaded = MMFusionForConditionalGeneration.from_pretrained(tmp_path)
    assert not loaded.decoder.get_output_embeddings().weight.requires_grad
    loaded.config.freeze_decoder_embeddings = False
    loaded.apply_freezing()
    assert all(p.requires_grad for p in loaded.parameters())


def test_the_configs_given_stay_as_they_were():
    given = DECODERS["bert"]()
    model = tiny.model(MMFusionForConditionalGeneration, decoder_config=given, **ENDS)
    assert not given.is_decoder
    assert model.decoder.config is model.config.decoder_config
    assert model.config.get_text_config(decoder=True) is model.config.decoder_config
    assert model.config.get_text_config(encoder=True) is not model.config.decoder_config


def test_wrong_use():
    with pytest.raises(ValueError, match=r"config\.decoder_config"):
        tiny.model(MMFusionForConditionalGeneration)
    with pytest.raises(ValueError, match=r"decoder_start_token_id.*eos_token_id.*None.*None"):
        tiny.model(MMFusionForConditionalGeneration, decoder_config=DECODERS["bert"]())
    llama = LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2
    )
    with pytest.raises(ValueError, match=r"cross-attention.*'llama'"):
        tiny.model(MMFusionForConditionalGeneration, decoder_config=llama, **ENDS)
    model = build()
    with pytest.raises(ValueError, match=r"labels.*decoder_input_ids"):
        model(**tiny.batch())
    with pytest.raises(ValueError, match=r"\['vision', 'text'\]"):
        model.generate()
    with pytest.raises(ValueError, match=r"\['beams'\]"):
        model.generate(**tiny.batch(), beams=3)
    with pytest.raises(ValueError, match=r"from_encoders_pretrained.*decoder"):
        MMFusionForConditionalGeneration.from_encoders_pretrained(vision="nowhere")
