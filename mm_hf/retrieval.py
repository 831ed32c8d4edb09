"""Search in two steps: the embeddings find the best items of a gallery, and the fusion looks at these again."""

from collections.abc import Sequence

import torch

from .data.collator import MultimodalCollator
from .data.rows import Rows
from .embedding import embed, encode
from .evaluation.ranking import RECALLS, ranking_metrics, ranks
from .gallery import Gallery, empty_index, fingerprint
from .models.retrieval_mm_fusion import MMFusionForRetrieval


def combine(similarities: torch.Tensor, matching: torch.Tensor, weight: float, logit_scale: float) -> torch.Tensor:
    """Scores of what the embeddings found, the fusion's word added, as BLIP (Li et al. 2022) does: the similarity, as
    training scales it, plus weight times the logit of matching."""
    return logit_scale * similarities + weight * matching


def rerank(
    similarities: torch.Tensor, matching: torch.Tensor, weight: float, logit_scale: float, top: int
) -> torch.Tensor:
    """Scores of all items where the fusion has looked at the best of each query: these come first, in the order of
    `combine`, then the others as they were.

    Args:
        similarities, matching: `(Q, N)`; of the latter the best `top` of each query are looked at.
        weight, logit_scale: see `combine`.

    Returns:
        `(Q, N)`, higher is better.
    """
    best = similarities.topk(min(top, similarities.shape[1]), dim=-1).indices
    combined = combine(similarities, matching, weight, logit_scale)
    ordered = torch.full_like(similarities, -torch.inf).scatter(1, best, combined.gather(1, best))
    # All that was looked at stays above all that was not.
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
    """The weight with the best mean recall at 1, 5 and 10, on rows that are not those it is tested on; of equal ones
    the smallest, and 0 is the plain search.

    Args:
        similarities, matching: `(Q, N)`.
        relevant: `(Q, N)` bool.
        logit_scale, top: see `rerank`.
        weights: to choose from, ascending.
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
    """The fusion's word on every text with every other item of a gallery, `(U_text, U_item)` logits; arguments as for
    `Gallery.build`."""
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
