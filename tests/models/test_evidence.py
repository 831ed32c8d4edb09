"""What each modality gave: sums that have to come out, for every fusion and every head, and the kinds of attribution
where these are known."""

from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from safetensors.torch import load_file

import mm_hf
from mm_hf import FUSIONS, MMFusionForClassification, MMFusionForMultiTask, MMFusionModel
from mm_hf.models import coalitions
from mm_hf.models.coalitions import Pool, coalition_values, encode_batch
from mm_hf.models.evidence import evidence_of, kinds_of, moebius, warnings_of


STORED = Path(__file__).parents[1] / "data/checkpoints/heads"
HEADS = sorted(path.name for path in STORED.iterdir())
WITH_MEMORY_LAYERS = "cross_attention with memory_layers"
# Rows with both modalities, with the text alone and with the image alone; an image and a text asked twice.
MIXED = {"vision_index": torch.tensor([0, -1, 1, 1, 0, 2]), "text_index": torch.tensor([0, 1, -1, 2, 1, 1])}


def classifier(fusion, **kwargs):
    settings = {"memory_layers": 2} if fusion == WITH_MEMORY_LAYERS else {}
    return tiny.model(fusion=fusion.split(" ")[0], settings=settings, **kwargs)


def encoded(model, **batch):
    with torch.no_grad():
        return encode_batch(model, batch)


def background_of(model, lengths=(9, 3, 5), **kwargs) -> Pool:
    with torch.no_grad():
        states = encode_batch(model, {**tiny.texts(lengths, seed=5), **tiny.images(len(lengths), seed=6), **kwargs})
        return Pool.of(model.base_model, states, with_absent=False)


def completeness(evidence) -> float:
    """How far the Shapley values are from what all modalities together changed."""
    gap = evidence["value"] - evidence["base"] - sum(part["value"] for part in evidence["modalities"].values())
    return abs(gap) / max(1.0, abs(evidence["value"] - evidence["base"]))


@pytest.mark.parametrize("absence", ["other_rows", "token"])
@pytest.mark.parametrize("fusion", [*sorted(FUSIONS), WITH_MEMORY_LAYERS])
def test_every_fusion(fusion, absence):
    """Complete; with all there, what the model says; the same alone as in a batch; a coalition is a row that lacks
    what is not in it, or has it from another row."""
    model = classifier(fusion)
    states = encoded(model, **MIXED, **tiny.texts((6, 4, 7)), **tiny.images(3))
    background = background_of(model) if absence == "other_rows" else None
    values = [row[None] for row in coalition_values(model, states, background)]
    with torch.no_grad():
        logits = model(encoder_states=states).logits.double()
    assert [row.players for row in values] == [
        ["vision", "text"] if n not in (1, 2) else [["text"], ["vision"]][n - 1] for n in range(6)
    ]
    for row, (one, said) in enumerate(zip(values, logits)):
        evidence = one.evidence()
        assert completeness(evidence) <= 1e-5
        chance = said.softmax(-1).max()
        assert evidence["value"] == pytest.approx((chance / (1 - chance)).log().item(), abs=1e-4)
        alone = {
            name: mm_hf.EncoderStates(levels=s.levels, mask=s.mask, index=s.index[row : row + 1])
            for name, s in states.items()
        }
        (again,) = coalition_values(model, alone, background, rows_at_once=2)
        torch.testing.assert_close(again[None].values, one.values, atol=2e-5, rtol=0)
    # Row 0 without its picture (coalition 2: the text alone).
    index = torch.tensor([-1] if absence == "token" else [3, 4, 5])
    pictures = torch.cat([tiny.images(3)["pixel_values"], tiny.images(3, seed=6)["pixel_values"]])
    with torch.no_grad():
        texts = {"text_index": torch.zeros(len(index), dtype=torch.int64), **tiny.texts((6,))}
        without = model(vision_index=index, pixel_values=pictures, **texts).logits.double()
    expected = model.task_head.explained(without, values[0].said.expand(len(index), -1)).mean()
    assert values[0].values[2, 0].item() == pytest.approx(expected.item(), abs=2e-5)


def stored_batch(head):
    model = getattr(mm_hf, __import__("json").loads((STORED / head / "config.json").read_text())["architectures"][0])
    stored = load_file(STORED / head / "answers.safetensors")
    batch = {name.removeprefix("input "): value for name, value in stored.items() if name.startswith("input ")}
    batch.pop("labels", None)
    return model.from_pretrained(STORED / head).eval(), batch


@pytest.mark.parametrize("absence", ["other_rows", "token"])
@pytest.mark.parametrize("head", HEADS)
def test_every_head(head, absence):
    model, batch = stored_batch(head)
    states = encoded(model, **batch)
    with torch.no_grad():
        background = Pool.of(model.base_model, states, with_absent=False) if absence == "other_rows" else None
    settings = {"max_new_tokens": 6} if head == "generation" else {}
    rows = coalition_values(model, states, background, **settings)
    for row in rows:
        answers = evidence_of(model, row)
        assert [answer["task"] for answer in answers] == (
            ["colour", "price", "seen"] if head == "multi_task" else [None]
        )
        for answer in answers:
            assert completeness(answer) <= 1e-5
            assert sum(answer["shares"].values()) == pytest.approx(1) or not answer["amount"]
            for token in answer.get("tokens", []):
                assert token["value"] - token["base"] == pytest.approx(sum(token["modalities"].values()), abs=1e-5)
            if "tokens" in answer:
                assert sum(token["value"] for token in answer["tokens"]) == pytest.approx(answer["value"], abs=1e-4)
    explained = {
        "classification": "log odds of '",
        "question_answering": "log odds of '",
        "regression": "the number",
        "multi_task": "log odds of '",
        "retrieval": "log odds of a match",
        "generation": "log probability of the text",
        "ctc": "log probability of the text",
    }
    assert evidence_of(model, rows[0])[0]["explained"].startswith(explained[head])


def test_three_modalities_one_of_them_in_several_places():
    """Two pictures a row are one modality; a row that lacks one of both places still has it."""
    model = tiny.model(audio="lstm", num_images=2)
    inputs = {**tiny.texts((6, 4, 7)), **tiny.images(4), **tiny.sounds("lstm")}
    vision = torch.tensor([[0, 1], [2, -1], [-1, -1]])
    states = encoded(model, vision_index=vision, **inputs)
    with torch.no_grad():
        other = encode_batch(
            model,
            {
                "vision_index": torch.tensor([[3, -1], [0, 2]]),
                **tiny.images(4),
                **tiny.texts((9, 3)),
                **tiny.sounds("lstm", (20, 8)),
            },
        )
        background = Pool.of(model.base_model, other, with_absent=False)
    rows = [row[None] for row in coalition_values(model, states, background)]
    assert [len(row.values) for row in rows] == [8, 8, 4]
    assert rows[2].players == ["text", "audio"]
    for row in rows:
        evidence = row.evidence()
        assert completeness(evidence) <= 1e-5
        assert len(evidence["interactions"]) == len(row.players) * (len(row.players) - 1) // 2
    with torch.no_grad():
        logits = model(vision_index=vision, **inputs).logits
    chances = logits.double().softmax(-1).max(-1).values
    assert [row.shown[-1, 0].item() for row in rows] == pytest.approx(chances.tolist(), abs=1e-5)


def test_the_interaction_index_is_that_of_its_definition():
    """Grabisch and Roubens 1999: the mean of the second differences over all coalitions without the pair, weighted."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(8, 1, generator=generator, dtype=torch.float64)
    runs = values[:, None]
    evidence = coalitions.CoalitionValues(["a", "b", "c"], runs, runs, torch.zeros(1)).evidence()
    v = values[:, 0].tolist()
    expected = (v[3] - v[1] - v[2] + v[0]) / 2 + (v[7] - v[5] - v[6] + v[4]) / 2
    assert evidence["interactions"][0]["of"] == ["a", "b"]
    assert evidence["interactions"][0]["value"] == pytest.approx(expected)
    shapley = (v[1] - v[0]) / 3 + (v[3] - v[2]) / 6 + (v[5] - v[4]) / 6 + (v[7] - v[6]) / 3
    assert evidence["modalities"]["a"]["value"] == pytest.approx(shapley)


@pytest.mark.parametrize(
    ("values", "unique", "redundant", "synergistic"),
    [
        ([0, 0, 0, 1], [0, 0], 0, 1),  # both or nothing
        ([-1, 0, 0, -1], [0, 0], 1, 1),  # 1 for either, -1 for both: two more than one of them took back
        ([0, 1, 2, 3], [1, 2], 0, 0),  # a sum
        ([0, 1, 1, 1], [0, 0], 1, 0),  # each is enough
        ([0, 3, 1, 3], [2, 0], 1, 0),  # what the second says, the first says too
        ([0, 1, 0, 1], [1, 0], 0, 0),  # one alone
        ([0, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0], 1, 0),  # three, each enough
        ([0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0], 0, 1),  # all three or nothing
        ([0, 1, 1, 1, 2, 3, 3, 3], [0, 0, 2], 1, 0),  # two copies, and a third beside them
    ],
)
def test_kinds(values, unique, redundant, synergistic):
    kinds = kinds_of(moebius(torch.tensor(values, dtype=torch.float64)))
    assert kinds.unique == pytest.approx(unique)
    assert (kinds.redundant, kinds.synergistic) == pytest.approx((redundant, synergistic))


def test_what_cannot_be_explained(monkeypatch):
    model = tiny.model(MMFusionModel)
    with pytest.raises(ValueError, match="MMFusionModel"):
        coalition_values(model, encoded(model, **tiny.batch()))
    model = tiny.model(MMFusionForClassification)
    states = encoded(model, **tiny.batch())
    monkeypatch.setattr(coalitions, "MOST_MODALITIES", 1)
    with pytest.raises(ValueError, match=r"2 modalities.* 4 .*1"):
        coalition_values(model, states)
    with pytest.raises(ValueError, match="token"):
        coalition_values(model, states, Pool(0, {}))


def test_the_token_of_a_model_that_never_missed_anything():
    assert warnings_of(tiny.model(), "other_rows") == []
    (warning,) = warnings_of(tiny.model(), "token")
    assert "modality_dropout" in warning
    assert warnings_of(tiny.model(settings={"modality_dropout": 0.1}), "token") == []
    (warning,) = warnings_of(tiny.model(settings={"modality_dropout": {"vision": 0.1}}), "token")
    assert "text" in warning


def test_numbers_of_a_head_of_several():
    """Each output of numbers is explained; of several labels the likeliest."""
    tasks = {
        "size": {"problem_type": "regression", "num_labels": 2},
        "tags": {"problem_type": "multi_label_classification", "labels": ["x", "y"]},
    }
    model = tiny.model(MMFusionForMultiTask, tasks=tasks)
    for head in model.regression_heads():
        torch.nn.init.normal_(head.weight)
    (row, *_) = coalition_values(model, encoded(model, **tiny.batch()))
    answers = evidence_of(model, row)
    assert [(answer["task"], answer["explained"]) for answer in answers[:2]] == [
        ("size", "size 0"),
        ("size", "size 1"),
    ]
    with torch.no_grad():
        logits = {name: values[0] for name, values in model(**tiny.batch()).logits.items()}
    assert [answer["value"] for answer in answers[:2]] == pytest.approx(logits["size"].tolist(), abs=1e-4)
    assert answers[2]["value"] == pytest.approx(logits["tags"].max().item(), abs=1e-4)
    assert answers[2]["explained"] == f"log odds of {'xy'[logits['tags'].argmax()]!r}"


def rows_of_pipeline(head):
    items = pytest.importorskip("numpy")
    if head == "ctc":
        return [
            {"audio": {"array": items.sin(items.arange(n) * 0.03).astype("float32"), "sampling_rate": 16000}}
            for n in (16000, 9000)
        ]
    if head == "regression":
        return [{"table": {"beds": 3, "kind": "old"}, "series": [[1.0, 1.0], [2.0, 2.0]]}, {"series": [[3.0, 1.0]]}]
    from PIL import Image

    picture = Image.new("RGB", (20, 16), "red")
    return [{"image": picture, "text": "what colour is the big house ?"}, {"text": "the small house"}]


@pytest.mark.parametrize("head", HEADS)
def test_evidence_in_a_pipeline(head):
    pipe = mm_hf.pipeline(model=str(STORED / head))
    rows = rows_of_pipeline(head)
    plain = pipe(rows, batch_size=2)
    answered = pipe(rows, batch_size=2, evidence=True)
    assert [row["answer"] for row in answered] == plain
    for row, given in zip(answered, rows):
        evidence = row["evidence"]
        assert (evidence["absence"], evidence["background"]) == ("token", 0)
        assert bool(evidence["warnings"]) == (len(pipe.model.config.modalities) > 1)
        assert {len(answer["modalities"]) for answer in evidence["answers"]} == {len(given)}
    beside = pipe(rows[0], evidence=True, background=rows)
    assert (beside["evidence"]["absence"], beside["evidence"]["background"]) == ("other_rows", 2)
    assert beside["evidence"]["warnings"] == []
    assert beside["answer"] == pipe(rows[0])
    with pytest.raises(ValueError, match="background"):
        pipe(rows, background=rows, evidence=False)
    bad = (
        pipe([rows[0], {"text" if head != "ctc" else "audio": 3.5}], evidence=True, on_error="skip", batch_size=2)
        if head not in ("regression",)
        else [None, None]
    )
    assert bad[1] is None


def test_what_few_rows_cannot_tell_apart_from_nothing_is_no_share():
    """Of an exclusive or that two rows of three answer alike, each modality alone seems to do something."""
    signs = torch.tensor([1.0, 1.0, -1.0] * 4, dtype=torch.float64)
    runs = torch.zeros(4, 12, 1, dtype=torch.float64)
    runs[0, :, 0], runs[1, :, 0], runs[2, :, 0], runs[3] = signs.flip(0), signs, signs, 3.0
    evidence = coalitions.CoalitionValues(["a", "b"], runs, runs, torch.zeros(1)).evidence()
    assert evidence["shares"] == {"unique": 0, "redundant": 0, "synergistic": 1}
    assert evidence["interactions"][0]["kind"] == "synergistic"
    assert completeness(evidence) <= 1e-9
