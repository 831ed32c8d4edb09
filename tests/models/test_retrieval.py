"""Search: the contrastive loss over pairs, hard negatives, and scores of pairs by the fusion."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models as tiny
import torch
from transformers import AutoModelForZeroShotImageClassification

from mm_hf import FUSIONS, MMFusionForRetrieval
from mm_hf.models.contrastive import Pairs, contrastive_loss, hard_negatives


E = 8


def build(**kwargs) -> MMFusionForRetrieval:
    return tiny.model(MMFusionForRetrieval, projection_dim=E, **kwargs)


def random_pairs(rows=6, seed=0, query_ids=None, item_ids=None, valid=None) -> Pairs:
    generator = torch.Generator().manual_seed(seed)
    queries, items = (torch.nn.functional.normalize(torch.randn(rows, E, generator=generator)) for _ in range(2))
    ids = torch.arange(rows)
    query_ids, item_ids = (ids if given is None else torch.tensor(given) for given in (query_ids, item_ids))
    valid = torch.ones(rows, dtype=torch.bool) if valid is None else torch.tensor(valid)
    # Equal ids are equal items.
    first = [item_ids.tolist().index(number) for number in item_ids.tolist()]
    asked = [query_ids.tolist().index(number) for number in query_ids.tolist()]
    return Pairs(queries[asked], items[first], query_ids, item_ids, valid)


SCALE = torch.tensor(5.0)


def test_distinct_pairs_are_clips_loss():
    pairs = random_pairs()
    logits = SCALE * pairs.queries @ pairs.items.T
    labels = torch.arange(6)
    expected = (
        torch.nn.functional.cross_entropy(logits, labels) + torch.nn.functional.cross_entropy(logits.T, labels)
    ) / 2
    torch.testing.assert_close(contrastive_loss(pairs, SCALE, 6), expected)


def test_captions_of_one_image_are_not_negatives_of_each_other():
    """Image 0 has three captions: it is one choice for a text, and its captions share the target of the image."""
    pairs = random_pairs(item_ids=[0, 0, 0, 3, 4, 5])
    assert pairs.choices().tolist() == [True, False, False, True, True, True]
    logits = SCALE * pairs.queries @ pairs.items.T
    to_image = logits[:, [0, 3, 4, 5]].log_softmax(-1)
    to_text = logits.T.log_softmax(-1)
    of_text = -to_image[torch.arange(6), torch.tensor([0, 0, 0, 1, 2, 3])]
    of_image = torch.stack([-to_text[0, :3].mean()] * 3 + [-to_text[row, row] for row in (3, 4, 5)])
    torch.testing.assert_close(contrastive_loss(pairs, SCALE, 6), (of_text + of_image).sum() / 12)


def test_rows_that_are_no_pairs_do_not_count():
    whole = random_pairs()
    some = Pairs(whole.queries, whole.items, whole.query_ids, whole.item_ids, torch.tensor([1, 1, 0, 1, 0, 1]).bool())
    kept = some.valid
    alone = Pairs(*(values[kept] for values in (whole.queries, whole.items, whole.query_ids, whole.item_ids, kept)))
    torch.testing.assert_close(contrastive_loss(some, SCALE, 4), contrastive_loss(alone, SCALE, 4))


def test_hard_negatives_are_wrong_and_near():
    pairs = random_pairs(rows=6, item_ids=[0, 0, 0, 3, 4, 5])
    torch.manual_seed(0)
    drawn = torch.stack([hard_negatives(pairs, torch.tensor(20.0))[0] for _ in range(300)])
    assert not (pairs.item_ids[drawn] == pairs.item_ids).any()
    similarity = pairs.queries @ pairs.items.T
    for row in range(6):
        wrong = [other for other in (0, 3, 4, 5) if pairs.item_ids[other] != pairs.item_ids[row]]
        counts = torch.tensor([(drawn[:, row] == other).sum() for other in wrong])
        assert wrong[counts.argmax()] == wrong[similarity[row, wrong].argmax()]
    # Nothing to take: one image alone, or nothing but pairs that do not count.
    assert not hard_negatives(random_pairs(rows=3, item_ids=[0, 0, 0]), SCALE)[1].any()
    assert not hard_negatives(random_pairs(rows=3, valid=[False] * 3), SCALE)[1].any()
    # A scale at which all weights but one are zero.
    assert hard_negatives(random_pairs(), torch.tensor(1e6))[1].all()


@pytest.mark.slow  # `make reliability` runs it
def test_two_processes_compute_the_loss_of_one(tmp_path):
    """An image is on both; one row is no pair. Gradients pass through what was gathered."""
    item_ids, sizes = [0, 1, 2, 0, 4, 1, 6, 7], [(4, 4), (2, 6), (0, 8)]
    whole = random_pairs(8, item_ids=item_ids, valid=[True] * 7 + [False])
    tensors = [whole.queries, whole.items, whole.query_ids, whole.item_ids, whole.valid]
    torch.save([{"sizes": each, "pairs": tensors, "scale": SCALE} for each in sizes], tmp_path / "cases.pt")
    worker = [sys.executable, str(Path(__file__).parent / "pairs_worker.py")]
    started = [subprocess.Popen([*worker, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait() for process in started] == [0, 0]

    queries, items, scale = (values.clone().requires_grad_() for values in (whole.queries, whole.items, SCALE))
    loss = contrastive_loss(replace(whole, queries=queries, items=items), scale, 7)
    loss.backward()
    results = [torch.load(tmp_path / f"result-{rank}.pt", weights_only=True) for rank in range(2)]
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close((first[0] + second[0]) / 2, loss.detach())  # DDP takes the mean of gradients
        torch.testing.assert_close(torch.cat([first[1], second[1]]) / 2, queries.grad)
        torch.testing.assert_close((first[3] + second[3]) / 2, scale.grad)
        found = torch.cat([first[2], second[2]]) / 2
        for number in set(item_ids):  # of equal images one stands for all, and which one may differ
            same = [row for row, other in enumerate(item_ids) if other == number]
            torch.testing.assert_close(found[same].sum(0), items.grad[same].sum(0))


# --- The model


def test_features_do_not_depend_on_the_company():
    model = build()
    with torch.no_grad():
        outputs = model(**tiny.batch(), vision_index=torch.tensor([1, 0, -1, 1]))
        texts, images = model.get_text_features(**tiny.texts((6, 4, 7, 5))), model.get_image_features(**tiny.images(4))
    torch.testing.assert_close(outputs.text_embeds, texts)
    torch.testing.assert_close(outputs.image_embeds[[0, 1, 3]], images[[1, 0, 1]])
    assert not outputs.image_embeds[2].any()
    torch.testing.assert_close(outputs.logits_per_text, model.logit_scale.exp() * texts @ images.T)
    torch.testing.assert_close(outputs.logits_per_image, outputs.logits_per_text.T)
    torch.testing.assert_close(texts.norm(dim=-1), torch.ones(4))
    alone = model.get_text_features(**tiny.texts((4,), seed=0))
    assert alone.shape == (1, E)


@pytest.mark.parametrize("matching_weight", [0.0, 1.0, 2.5])
def test_training_reaches_every_parameter(matching_weight):
    model = build(matching_weight=matching_weight).train()
    outputs = model(**tiny.batch(), vision_index=torch.tensor([1, 0, -1, 3]), text_ids=torch.tensor([5, 6, 7, 8]))
    assert set(outputs.task_losses) == ({"contrastive", "matching"} if matching_weight else {"contrastive"})
    torch.testing.assert_close(outputs.loss, sum(outputs.task_losses.values()))
    outputs.loss.backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trained
    assert any(name.startswith("model.fusion") for name in trained) == bool(matching_weight)


def test_a_batch_without_a_pair():
    model = build().train()
    for index in ({"vision_index": torch.full((4,), -1)}, {"text_index": torch.full((4,), -1)}):
        model.zero_grad()
        loss = model(**tiny.batch(), **index).loss
        assert loss == 0
        loss.backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None]
        assert not missing
        assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("fusion", "lengths"),
    [*((name, (6, 4, 7)) for name in sorted(FUSIONS)), ("cross_attention", (6, 4, 7) * 6)],  # few texts, and many
)
@torch.no_grad()
def test_scores_are_those_of_the_naive_loop(fusion, lengths):
    """One forward of the fusion a pair, encoders and all."""
    model = build(fusion=fusion)
    texts, images = tiny.texts(lengths, pad_to=9), tiny.images(4)
    scores = model.score_pairs(**texts, **images, batch_size=5)
    assert scores.shape == (len(lengths), 4)
    for row in range(len(lengths)):
        length = int(texts["attention_mask"][row].sum())
        for column in range(4):
            one = {name: values[row : row + 1, :length] for name, values in texts.items()}
            fused = model.model(**one, pixel_values=images["pixel_values"][column : column + 1], return_tokens=False)
            expected = model.matching(fused.pooler_output)[0, 0]
            torch.testing.assert_close(scores[row, column], expected, rtol=0, atol=1e-5)
    assert scores.std() > 1e-3
    pairs = {"text_index": torch.tensor([2, 0, 0]), "item_index": torch.tensor([1, 3, 1])}
    some = model.score_pairs(**texts, **images, **pairs, batch_size=2)
    torch.testing.assert_close(some, scores[pairs["text_index"], pairs["item_index"]], rtol=0, atol=1e-5)
    encoded = {
        "text": model.model.encode(**texts)["text"],
        "vision": model.model.encode(**images)["vision"],
    }
    torch.testing.assert_close(model.score_pairs(encoded), scores, rtol=0, atol=1e-5)
    if model.model.fusion.supports_memory_cache:
        memory = model.model.prepare({"vision": encoded["vision"]})
        torch.testing.assert_close(model.score_pairs(**texts, memory=memory), scores, rtol=0, atol=1e-5)


def test_save_and_load(tmp_path):
    model = build(logit_scale_init_value=1.5)
    model.logit_scale.data.fill_(2.0)
    model.save_pretrained(tmp_path)
    assert {"retrieval_mm_fusion.py", "contrastive.py"} <= {file.name for file in tmp_path.iterdir()}
    loaded = AutoModelForZeroShotImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is MMFusionForRetrieval
    with torch.no_grad():
        assert torch.equal(loaded(**tiny.batch()).logits_per_image, model(**tiny.batch()).logits_per_image)
    assert build(logit_scale_init_value=1.5).logit_scale == 1.5


def test_first_weights_go_by_the_width_of_the_encoder():
    model = build(settings={"hidden_size": 128, "initializer_range": 0.5})
    for name, embedding in model.embeddings.items():
        assert embedding.projection.weight.std().item() == pytest.approx(32**-0.5, rel=0.2), name


def test_wrong_use():
    with pytest.raises(ValueError, match=r"\['vision', 'audio'\].*\['text'\]"):
        build(vision=None)
    with pytest.raises(ValueError, match="num_images 2"):
        build(num_images=2)
    with pytest.raises(ValueError, match=r"matching_weight.*-1\.0"):
        tiny.config(matching_weight=-1.0)
    model = build()
    with pytest.raises(ValueError, match=r"'vision'.*input_ids"):
        model.get_image_features(**tiny.texts((3,)))
    with pytest.raises(ValueError, match=r"score_pairs.*'text' .*'vision'.*\['text'\]"):
        model.score_pairs(**tiny.texts((3,)))
    with pytest.raises(ValueError, match=r"text_index.*item_index"):
        model.score_pairs(**tiny.batch(), text_index=torch.tensor([0]))
    with pytest.raises(ValueError, match="'labels'"):
        model(**tiny.batch(), labels=torch.zeros(4))
