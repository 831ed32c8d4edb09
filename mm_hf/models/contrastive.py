# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""Training on pairs of two modalities: the contrastive loss over all processes, and hard negatives.

Notation used for tensor shapes: `R` pairs of this process; `G` pairs of all processes; `E` width of the embeddings.
"""

from dataclasses import dataclass, fields

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_gather


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@dataclass
class Pairs:
    """Pairs that belong together, one per row.

    Args:
        queries, items: `(R, E)`, embeddings of length 1: of the texts, and of the items that they are paired with.
        query_ids, item_ids: `(R,)` int64: equal numbers mean the same text or the same image, on every process.
        valid: `(R,)` bool, False for a row that only fills a place.
    """

    queries: torch.Tensor
    items: torch.Tensor
    query_ids: torch.Tensor
    item_ids: torch.Tensor
    valid: torch.Tensor

    def turned(self) -> "Pairs":
        """The same pairs, with the items as queries."""
        return Pairs(self.items, self.queries, self.item_ids, self.query_ids, self.valid)

    def of_all_processes(self) -> "Pairs":
        """The pairs of all processes, in the order of their ranks. Gradients flow back to the process of each pair."""
        if world_size() == 1:
            return self
        size = torch.tensor([len(self.valid)], device=self.valid.device)
        sizes = [torch.empty_like(size) for _ in range(world_size())]
        dist.all_gather(sizes, size)
        longest = max(int(other) for other in sizes)
        gathered = {}
        for field in fields(self):
            values = getattr(self, field.name)
            # Collectives need tensors of one shape; the rows added for this are not valid.
            padded = nn.functional.pad(values, (0, 0) * (values.ndim - 1) + (0, longest - len(values)))
            if values.is_floating_point():
                parts = list(all_gather(padded))
            else:
                padded = padded.long()
                parts = [torch.empty_like(padded) for _ in sizes]
                dist.all_gather(parts, padded)
            gathered[field.name] = torch.cat(parts).to(values.dtype)
        return Pairs(**gathered)

    def choices(self) -> torch.Tensor:
        """Which items are candidates, `(R,)` bool: each item once, even if several pairs contain it."""
        same = (self.item_ids[:, None] == self.item_ids) & self.valid & self.valid[:, None]
        return self.valid & ~same.tril(-1).any(1)

    def positives(self, others: "Pairs") -> torch.Tensor:
        """Whether the text of each pair belongs to the item of each other pair, `(R, G)` bool: if any pair, on any
        process, joins the two."""
        same_query = (self.query_ids[:, None] == others.query_ids) & others.valid  # (R, G)
        same_item = others.item_ids[:, None] == others.item_ids  # (G, G)
        return (same_query.float() @ same_item.float()) > 0


def contrastive_loss(
    pairs: Pairs, logit_scale: torch.Tensor, count: torch.Tensor | float, everything: Pairs | None = None
) -> torch.Tensor:
    """Image-text contrastive loss (InfoNCE in both directions: CLIP, Radford et al. 2021, figure 3), over the distinct
    items of all processes. All items that belong to a text share its target (as in BLIP's retrieval, Li et al. 2022):
    several captions of one image are not negatives of each other.

    Args:
        pairs: the pairs of this process.
        logit_scale: `()`, the factor of the similarities.
        count: the number of pairs of all processes (as `num_items_in_batch`); the sum over this process is divided by
            it.
        everything: the pairs of all processes, if they were gathered before.

    Returns:
        `()`.
    """
    everything = pairs.of_all_processes() if everything is None else everything
    total = torch.zeros((), device=pairs.queries.device)
    for local, others in ((pairs, everything), (pairs.turned(), everything.turned())):
        choices = others.choices()
        logits = logit_scale * local.queries.float() @ others.items.float().T  # (R, G)
        logits = logits.masked_fill(~choices, torch.finfo(logits.dtype).min)
        targets = (local.positives(others) & choices).float()
        losses = -(targets * logits.log_softmax(-1)).sum(-1) / targets.sum(-1).clamp(min=1)
        total = total + (losses * local.valid).sum() / 2
    return total / count


@torch.no_grad()
def hard_negatives(pairs: Pairs, logit_scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws, for each text, the row `(R,)` int64 of an item that does not belong to it, from the items of this
    process. The more similar an item is, the more often it is drawn (ALBEF, Li et al. 2021, section 3.2). Also returns
    `(R,)` bool: whether there was such an item."""
    candidates = pairs.choices() & ~pairs.positives(pairs)
    logits = logit_scale * pairs.queries.float() @ pairs.items.float().T
    weights = logits.masked_fill(~candidates, torch.finfo(logits.dtype).min).softmax(-1) * candidates
    has_candidate = candidates.any(-1) & pairs.valid
    # A similarity far below the best one has a weight of zero: if all are zero, all candidates get equal weights.
    weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, candidates.float())
    weights = torch.where(has_candidate[:, None], weights, torch.ones_like(weights))
    return weights.multinomial(1).squeeze(1), has_candidate
