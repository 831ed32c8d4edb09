"""CTC: its loss against all ways to say a text, the search among texts, and what does not belong to it."""

import itertools
import json
import math

import pytest
import tiny_models as tiny
import torch
from transformers import AutoModelForCTC, Wav2Vec2CTCTokenizer

from mm_hf import FUSIONS, MMFusionForCTC, MMFusionProcessor
from mm_hf.data import Columns, MultimodalCollator, letter_tokenizer
from mm_hf.models import ctc_mm_fusion
from mm_hf.models.ctc_mm_fusion import beam_search, ctc_loss
from mm_hf.models.generation_mm_fusion import GENERATION


BLANK = 0
NONE = -100
LABELS = torch.tensor([[3, 4, 4], [5, NONE, NONE], [6, 7, NONE]])


def build(audio: str = "lstm", **kwargs) -> MMFusionForCTC:
    settings = {"vision": None, "text": None, "vocab_size": 9, "pad_token_id": BLANK, **kwargs}
    return tiny.model(MMFusionForCTC, audio=audio, **settings)


def collapse(way) -> tuple[int, ...]:
    """The text that a way to say it stands for."""
    return tuple(token for token, _ in itertools.groupby(way) if token != BLANK)


def probabilities(scores: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Of every text, summed over all of its ways."""
    found: dict[tuple[int, ...], float] = {}
    for way in itertools.product(range(scores.shape[1]), repeat=len(scores)):
        score = sum(scores[place, token].item() for place, token in enumerate(way))
        found[collapse(way)] = found.get(collapse(way), 0.0) + math.exp(score)
    return found


def random_scores(moments: int, tokens: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(moments, tokens, generator=generator)).log_softmax(-1)


@pytest.mark.parametrize("text", [(1,), (1, 2), (2, 2), (1, 2, 1)])
def test_the_loss_sums_over_all_ways(text):
    logits = torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[True] * 4 + [False]])
    loss = ctc_loss(logits, mask, torch.tensor([[*text, NONE]]), BLANK)
    expected = -math.log(probabilities(logits[0, :4].log_softmax(-1))[text]) / len(text)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_without_tokens_nothing_is_heard():
    model = build().eval()
    with pytest.raises(ValueError, match="return_tokens"):
        model(input_features=torch.randn(1, 4, model.config.audio_config.input_size), return_tokens=False)


@pytest.mark.parametrize("seed", range(5))
def test_the_search_finds_the_likeliest_text(seed):
    scores = random_scores(5, 4, seed)
    expected = probabilities(scores)
    found = beam_search(scores, 1000, BLANK)
    assert len(found) == len(expected)
    for text, score in found:
        assert score == pytest.approx(math.log(expected[tuple(text)]), abs=1e-4)
    best = max(expected, key=lambda text: expected[text])
    assert tuple(found[0][0]) == tuple(beam_search(scores, 4, BLANK)[0][0]) == best


def test_a_text_of_many_ways_beats_the_likeliest_way():
    """Graves et al. 2006, figure 2: blank is the likeliest at both moments, and the letter the likeliest text."""
    model, scores = build(vocab_size=2), torch.tensor([[0.6, 0.4], [0.6, 0.4]]).log()
    logits = scores[None].clone()
    model.forward = lambda **inputs: ctc_mm_fusion.MMFusionCTCOutput(
        logits=logits, attention_mask=torch.ones(1, 2, dtype=torch.bool)
    )
    assert model.generate().tolist() == [[]]
    assert model.generate(num_beams=2).tolist() == [[1]]


def test_repeats_and_blanks_are_taken_out():
    model = build(vocab_size=3)
    ways = torch.tensor([[0, 1, 1, 0, 1, 2], [2, 2, 0, 0, 1, 1]])
    mask = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    model.forward = lambda **inputs: ctc_mm_fusion.MMFusionCTCOutput(
        logits=torch.nn.functional.one_hot(ways, 3) * 20.0, attention_mask=mask
    )
    for beams in (1, 3):
        assert model.generate(num_beams=beams).tolist() == [[1, 1, 2], [2, BLANK, BLANK]]
    assert model.generate(max_new_tokens=1).tolist() == [[1], [2]]


@pytest.mark.parametrize("fusion", sorted(FUSIONS))
@pytest.mark.parametrize("text", [None, "bert"], ids=["sound alone", "beside a text"])
def test_every_parameter_trains_and_is_saved(fusion, text, tmp_path):
    model = build(fusion=fusion, text=text).train()
    inputs = {**tiny.sounds("lstm"), **(tiny.texts((6, 4, 7)) if text else {})}
    model(**inputs, labels=LABELS).loss.backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []
    model.eval().save_pretrained(tmp_path)
    loaded, info = AutoModelForCTC.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(loaded) is MMFusionForCTC
    assert (tmp_path / "ctc_mm_fusion.py").exists()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model(**inputs).logits, rtol=0, atol=1e-6)


@torch.no_grad()
def test_what_is_read_beside_the_sound_counts():
    model, sounds = build(text="bert"), tiny.sounds("lstm")
    one, other = (model(**sounds, **tiny.texts((6, 4, 7), seed=seed)).logits for seed in (0, 1))
    assert (one - other).abs().amax((1, 2)).min() > 1e-3
    assert model.config.fusion_module_config.query_modality == "text"  # of a config that says nothing


@pytest.mark.parametrize("audio", ["lstm", "wav2vec2"])
@torch.no_grad()
def test_padding_changes_nothing(audio):
    model = build(audio)
    short, long = (model(**tiny.sounds(audio, pad_to=length), labels=LABELS) for length in (20, 34))
    torch.testing.assert_close(short.loss, long.loss)
    there = short.attention_mask
    torch.testing.assert_close(short.logits[there], long.logits[:, : there.shape[1]][there], rtol=0, atol=1e-5)
    assert torch.equal(long.attention_mask.sum(1), there.sum(1))
    assert torch.equal(model.generate(**tiny.sounds(audio)), model.generate(**tiny.sounds(audio, pad_to=34)))


@torch.no_grad()
def test_neighbours_are_averaged():
    tokens = torch.arange(14.0).reshape(1, 7, 2)
    mask = torch.tensor([[True] * 5 + [False] * 2])
    means, there = ctc_mm_fusion.average(tokens, mask, 3)
    assert means.tolist() == [[[2.0, 3.0], [7.0, 8.0], [0.0, 0.0]]]
    assert there.tolist() == [[True, True, False]]
    model = build(ctc_stride=4)
    short, long = (model(**tiny.sounds("lstm", pad_to=length), labels=LABELS) for length in (20, 34))
    assert short.logits.shape == (3, 5, 9)
    assert short.attention_mask.sum(1).tolist() == [5, 3, 4]
    torch.testing.assert_close(short.loss, long.loss)
    with pytest.raises(ValueError, match=r"ctc_stride.*\b1, .*\b0\b"):
        build(ctc_stride=0)


def test_a_batch_in_parts_adds_up():
    model, sounds = build().train(), tiny.sounds("lstm")

    def gradients(parts) -> torch.Tensor:
        model.zero_grad()
        for rows in parts:
            own = {name: values[rows] for name, values in sounds.items()}
            model(**own, labels=LABELS[rows], num_items_in_batch=torch.tensor(6)).loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    whole = gradients([[0, 1, 2]])
    torch.testing.assert_close(gradients([[0], [1, 2]]), whole, rtol=1e-3, atol=1e-5)
    model.zero_grad()
    model(**sounds, labels=LABELS).loss.backward()
    default = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(default, whole, rtol=1e-3, atol=1e-5)


def test_rows_without_a_text_and_rows_that_weigh_nothing_teach_nothing():
    model, sounds = build().train(), tiny.sounds("lstm")

    def gradient(labels, **more) -> torch.Tensor:
        model.zero_grad()
        model(**sounds, labels=labels, num_items_in_batch=3, **more).loss.backward()
        return model.ctc_head.weight.grad.clone()

    first_alone = LABELS.clone()
    first_alone[1:] = NONE
    expected = gradient(first_alone)
    assert expected.abs().max() > 0
    torch.testing.assert_close(gradient(LABELS, sample_weight=torch.tensor([1.0, 0, 0])), expected)
    assert gradient(torch.full_like(LABELS, NONE)).abs().max() == 0


def test_a_text_that_does_not_fit_into_its_sound_is_told(caplog, monkeypatch):
    monkeypatch.setattr(ctc_mm_fusion.logger, "warning_once", ctc_mm_fusion.logger.warning)
    monkeypatch.setattr(ctc_mm_fusion.logger, "propagate", True)
    logits = torch.randn(2, 3, 4, requires_grad=True)
    mask = torch.ones(2, 3, dtype=torch.bool)
    ctc_loss(logits, mask, torch.tensor([[1, 2, 3], [1, 2, NONE]]), BLANK)
    assert "more tokens than their sound" not in caplog.text
    loss = ctc_loss(logits, mask, torch.tensor([[1, 1, 2], [1, 2, NONE]]), BLANK)  # a blank is needed between the ones
    loss.backward()
    assert "more tokens than their sound" in caplog.text
    assert logits.grad[0].abs().max() == 0 < logits.grad[1].abs().max()
    assert loss.isfinite()


def test_what_does_not_belong():
    with pytest.raises(ValueError, match=r"MMFusionForCTC.*\['text'\]"):
        build(audio=None, text="bert")
    for size, blank in ((None, 0), (9, None), (9, 9)):
        with pytest.raises(ValueError, match=rf"config\.vocab_size.*\b{size} .*\b{blank}\b"):
            build(vocab_size=size, pad_token_id=blank)
    model, sounds = build(), tiny.sounds("lstm")
    for wrong in (BLANK, 9, -1):
        with pytest.raises(ValueError, match=rf"\b0 to 8 .*\b0\b.*\[.*{wrong}"):
            model(**sounds, labels=torch.tensor([[wrong], [1], [2]]))
    with pytest.raises(ValueError, match=r"num_beams.*\b1, .*\b0\b"):
        model.generate(**sounds, num_beams=0)
    with pytest.raises(ValueError, match="'temperature'"):
        model.generate(**sounds, temperature=2.0)


def test_double_letters_of_a_tokenizer_of_ctc_stay(tmp_path):
    """Wav2Vec2's own decodes what a model gives each moment, and joins what is equal; here that is done already."""
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "L": 3, "O": 4}))
    tokenizer = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), bos_token="<pad>", eos_token="<pad>")
    processor = MMFusionProcessor(tokenizer=tokenizer)
    columns = Columns(text="heard", label="said")
    collator = MultimodalCollator(processor, columns, problem_type=GENERATION, target_end=False)
    labels = processor.target_ids(["LOLL", None], end=False)
    assert collator.texts_of(labels) == ["LOLL", None]
    assert collator.texts_of(torch.zeros(2, 0, dtype=torch.int64)) == ["", ""]


def test_letters_there_and_back(tmp_path):
    tokenizer = letter_tokenizer(["Three  seven", "eight\n", "çé"])
    processor = MMFusionProcessor(tokenizer=tokenizer)
    processor.save_pretrained(tmp_path)
    loaded = MMFusionProcessor.from_pretrained(tmp_path)
    for own in (processor, loaded):
        labels = own.target_ids(["Seven  three", None, "çx"], end=False)
        assert labels.shape == (3, 11)
        assert (labels[1] == NONE).all()
        assert own.tokenizer.decode(labels[0]) == "seven three"
        assert labels[2, 1] == own.tokenizer.unk_token_id != own.tokenizer.pad_token_id == BLANK
    assert "c" not in tokenizer.get_vocab()  # accents are kept
    with pytest.raises(ValueError, match="letter_tokenizer"):
        letter_tokenizer([" "])
