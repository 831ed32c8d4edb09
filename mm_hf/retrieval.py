"""Search in two steps: the embeddings find the best items of a gallery, then the fusion ranks these again."""

from collections.abc import Sequence

import torch

from .data.collator import MultimodalCollator
from .data.rows import Rows
from .embedding import embed, encode
from .evaluation.ranking import RECALLS, ranking_metrics, ranks
from .gallery import Gallery, empty_index, fingerprint
from .models.retrieval_mm_fusion import MMFusionForRetrieval


def combine(similarities: torch.Tensor, matching: torch.Tensor, weight: float, logit_scale: float) -> torch.Tensor:
    """Adds the matching score of the fusion to the similarity of the embeddings, as BLIP (Li et al. 2022) does: the
    similarity, multiplied by the logit scale of training, plus weight times the matching logit."""
    return logit_scale * similarities + weight * matching


def rerank(
    similarities: torch.Tensor, matching: torch.Tensor, weight: float, logit_scale: float, top: int
) -> torch.Tensor:
    """Scores of all items after the fusion has scored the best items of each query. These items come first, ranked by
    `combine`, then all others in their old order.

    Args:
        similarities, matching: `(Q, N)`; of `matching`, only the best `top` items of each query are used.
        weight, logit_scale: see `combine`.

    Returns:
        `(Q, N)`, higher is better.
    """
    best = similarities.topk(min(top, similarities.shape[1]), dim=-1).indices
    combined = combine(similarities, matching, weight, logit_scale)
    ordered = torch.full_like(similarities, -torch.inf).scatter(1, best, combined.gather(1, best))
    # Every item that the fusion scored stays above every item that it did not score.
    lowest = ordered.masked_fill(ordered == -torch.inf, torch.inf).amin(-1, keepdim=True)
    others = logit_scale * similarities
    others = others - others.amax(-1, keepdim=True) + lowest - 1
    return torch.where(ordered == -torch.inf, others, ordered)


def choose_weight(
    similarities: torch.Tensor,
    matching: torch.Tensor,
    relevant: torch.Tensor,
    logit_scale: float,
    top: int,
    weights: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0),
) -> float:
    """The weight with the best mean recall at 1, 5 and 10. Choose it on validation rows, not on the test rows. Of
    equal weights the smallest is taken; 0 means the search without the fusion.

    Args:
        similarities, matching: `(Q, N)`.
        relevant: `(Q, N)` bool.
        logit_scale, top: see `rerank`.
        weights: the candidates, ascending.
    """

    def mean_recall(weight: float) -> float:
        metrics = ranking_metrics(ranks(rerank(similarities, matching, weight, logit_scale, top), relevant))
        return sum(metrics[f"recall_at_{k}"] for k in RECALLS) / len(RECALLS)

    return max(weights, key=lambda weight: (round(mean_recall(weight), 9), -weight))


def score_gallery(
    model: MMFusionForRetrieval,
    collator: MultimodalCollator,
    rows: Rows,
    gallery: Gallery,
    batch_size: int = 128,
    progress: bool = True,
) -> torch.Tensor:
    """The fusion's matching score of each text with each other item of a gallery, `(U_text, U_item)` logits. For the
    arguments see `Gallery.build`."""
    states = {
        modality: encode(model, collator, modality, rows, places, batch_size, progress)
        for modality, places in gallery.places.items()
    }
    return model.score_pairs(states).float().cpu()


__all__ = [
    "Gallery",
    "choose_weight",
    "combine",
    "embed",
    "empty_index",
    "encode",
    "fingerprint",
    "rerank",
    "score_gallery",
]
