"""Ranks and recalls of a search, beside torchmetrics."""

import pytest
import torch
from torchmetrics.functional.retrieval import retrieval_hit_rate

from mm_hf.evaluation import chance_mean_recall, chance_recall, ranking_metrics, ranks, retrieval_metrics


def test_recall_is_torchmetrics_hit_rate():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(40, 30, generator=generator)
    relevant = torch.rand(40, 30, generator=generator) < 0.08
    relevant[:, 0] |= ~relevant.any(-1)
    metrics = ranking_metrics(ranks(scores, relevant))
    for k in (1, 5, 10):
        expected = torch.stack([retrieval_hit_rate(s, r, top_k=k) for s, r in zip(scores, relevant)]).mean()
        assert metrics[f"recall_at_{k}"] == pytest.approx(expected.item())


def test_ranks_by_hand():
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.2, 0.2, 0.2]])
    relevant = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 1, 0]]).bool()
    assert ranks(scores, relevant).tolist() == [1, 3, 3]  # what tells nothing apart finds nothing
    assert ranking_metrics(torch.tensor([1, 3, 3, 20])) == {
        "recall_at_1": 0.25,
        "recall_at_5": 0.75,
        "recall_at_10": 0.75,
        "median_rank": 3.0,
    }


def test_several_captions_and_rows_without_a_part():
    """Image 7 has two captions, of which the better one counts; a text twice is one query; row 4 has no image."""
    images = torch.eye(3)[[0, 0, 1, 1, 2]]
    texts = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 0], [1, 0, 0]])
    ids = {"text": torch.tensor([1, 2, 3, 3, 9]), "image": torch.tensor([7, 7, 8, 8, -1])}
    report = retrieval_metrics({"text": texts, "image": images}, ids)
    assert report["rows"] == 4
    metrics = report["metrics"]
    assert next(iter(metrics)) == "mean_recall"
    assert metrics["image_to_text_recall_at_1"] == 1.0
    assert metrics["text_to_image_recall_at_1"] == pytest.approx(2 / 3)  # text 2 is unlike its image
    assert metrics["text_to_image_recall_at_5"] == 1.0
    assert chance_recall(ids) == {"chance_recall_at_1": 0.5, "chance_recall_at_5": 1.0, "chance_recall_at_10": 1.0}


@pytest.mark.parametrize("captions", [1, 3])
def test_chance_is_what_random_orders_find(captions):
    """12 pictures of one or three captions each, and two rows that lack a part: the mean of 300 random searches."""
    ids = {"text": torch.arange(12 * captions), "image": torch.arange(12).repeat_interleave(captions)}
    ids = {name: torch.cat([values, torch.tensor([-1, 99])]) for name, values in ids.items()}
    ids["image"][-1] = -1
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(300):
        embeddings = {name: torch.randn(len(values), 4, generator=generator) for name, values in ids.items()}
        embeddings["image"] = embeddings["image"][ids["image"]]  # equal pictures have equal embeddings
        found.append(retrieval_metrics(embeddings, ids)["metrics"]["mean_recall"])
    assert chance_mean_recall(ids) == pytest.approx(sum(found) / 300, abs=0.02)
    by_hand = {1: (1 + 5 + 10) / 12 / 3}  # one right one among twelve, in both directions
    assert captions != 1 or chance_mean_recall(ids) == pytest.approx(by_hand[1])


def test_nothing_to_measure():
    ids = {"text": torch.tensor([1, -1]), "image": torch.tensor([-1, 1])}
    with pytest.raises(ValueError, match=r"\b2\b.*\btext\b.*\bimage\b"):
        retrieval_metrics({"text": torch.eye(2), "image": torch.eye(2)}, ids)
