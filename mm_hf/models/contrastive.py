# Copyright 2026 The mm_hf authors.
# Licensed under the Apache License, Version 2.0: see the LICENSE file or http://www.apache.org/licenses/LICENSE-2.0
"""What pairs of two modalities are trained with: the contrastive loss over all processes, and hard negatives.

Notation used for tensor shapes: `R` pairs of this process; `G` pairs of all processes; `E` width of the embeddings.
"""

from dataclasses import dataclass, fields

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_gather


def world_size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@dataclass
class Pairs:
    """Pairs that belong together, one a row.

    Args:
        queries, items: `(R, E)`, embeddings of length 1, of the texts and of what they are paired with.
        query_ids, item_ids: `(R,)` int64: equal numbers are the same text, the same image, on whatever process.
        valid: `(R,)` bool, False for a row that only keeps a place.
    """

    queries: torch.Tensor
    items: torch.Tensor
    query_ids: torch.Tensor
    item_ids: torch.Tensor
    valid: torch.Tensor

    def turned(self) -> "Pairs":
        """The same with the items asking."""
        return Pairs(self.items, self.queries, self.item_ids, self.query_ids, self.valid)

    def of_all_processes(self) -> "Pairs":
        """The pairs of all processes, in the order of their ranks, with gradients to where they came from."""
        if world_size() == 1:
            return self
        size = torch.tensor([len(self.valid)], device=self.valid.device)
        sizes = [torch.empty_like(size) for _ in range(world_size())]
        dist.all_gather(sizes, size)
        longest = max(int(other) for other in sizes)
        gathered = {}
        for field in fields(self):
            values = getattr(self, field.name)
            # Collectives take tensors of one shape; places that are added are not valid.
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
        """Which items are to be chosen from, `(R,)` bool: each once, though several pairs have it."""
        same = (self.item_ids[:, None] == self.item_ids) & self.valid & self.valid[:, None]
        return self.valid & ~same.tril(-1).any(1)

    def positives(self, others: "Pairs") -> torch.Tensor:
        """Whether the text of each pair belongs to the item of each other pair, `(R, G)` bool: where some pair of all
        joins the two."""
        same_query = (self.query_ids[:, None] == others.query_ids) & others.valid  # (R, G)
        same_item = others.item_ids[:, None] == others.item_ids  # (G, G)
        return (same_query.float() @ same_item.float()) > 0


def contrastive_loss(
    pairs: Pairs, logit_scale: torch.Tensor, count: torch.Tensor | float, everything: Pairs | None = None
) -> torch.Tensor:
    """Image-text contrastive loss (InfoNCE in both directions: CLIP, Radford et al. 2021, figure 3), over the distinct
    items of all processes. All that belong to a text share its target (as in BLIP's retrieval, Li et al. 2022):
    several captions of one image are not negatives of each other.

    Args:
        pairs: of this process.
        logit_scale: `()`, by which similarities are multiplied.
        count: pairs of all processes (as `num_items_in_batch`), by which the sum over this process's is divided.
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
    """For each text the row, `(R,)` int64, of an item that it does not belong to, drawn among those of this process:
    the more similar, the more often (ALBEF, Li et al. 2021, section 3.2). And `(R,)` bool, whether there was one to
    take."""
    candidates = pairs.choices() & ~pairs.positives(pairs)
    logits = logit_scale * pairs.queries.float() @ pairs.items.float().T
    weights = logits.masked_fill(~candidates, torch.finfo(logits.dtype).min).softmax(-1) * candidates
    has_candidate = candidates.any(-1) & pairs.valid
    # A similarity that is far from the best one's has a weight of zero: then all candidates are alike.
    weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, candidates.float())
    weights = torch.where(has_candidate[:, None], weights, torch.ones_like(weights))
    return weights.multinomial(1).squeeze(1), has_candidate
